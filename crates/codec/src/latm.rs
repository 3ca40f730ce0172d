//! AAC in LOAS and LATM: audio sync streams with their configuration in band.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use media::AudioConfig;

use crate::Error;
use crate::aac;
use crate::bits::{BitReader, BitWriter};

/// Most bytes that wait to be read: some seconds of any rate.
const BUFFER_BYTES_MAX: usize = 1 << 20;
const WHAT: &str = "LATM";

/// Reads the audio mux elements of an `AudioSyncStream` that lie across the pieces they come in.
#[derive(Debug, Default)]
pub struct LatmReader {
    buffer: BytesMut,
    /// The last element ended where the buffer begins.
    is_synchronized: bool,
    /// Bytes are missing in what was pushed last.
    is_damaged: bool,
    mux: Option<Mux>,
    frames: VecDeque<Bytes>,
}

/// What of a `StreamMuxConfig` matters for the frames behind it.
#[derive(Debug)]
struct Mux {
    config: AudioConfig,
    sub_frames: u32,
}

impl LatmReader {
    /// Whether bytes wait that began before what is pushed next: the first frame then has no timestamp of the new piece.
    pub fn is_mid_frame(&self) -> bool {
        !self.buffer.is_empty() || !self.frames.is_empty()
    }

    /// Appends the payload of a PES packet. Read to `None` after each; what waits beyond 1 MiB is lost.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES_MAX {
            self.reset();
        }
        self.buffer.extend_from_slice(bytes.get(..BUFFER_BYTES_MAX).unwrap_or(bytes));
    }

    /// Appends the payload of a PES packet in which bytes are missing somewhere. What is in progress is lost; elements can be read as long
    /// as each is followed by another, and what comes behind the hole, whose time is not known, is lost.
    pub fn push_damaged(&mut self, bytes: &[u8]) {
        self.reset();
        self.push(bytes);
        self.is_damaged = true;
    }

    /// Forgets the element in progress, after a loss; the configuration stays.
    pub fn reset(&mut self) {
        self.buffer.clear();
        self.frames.clear();
        (self.is_synchronized, self.is_damaged) = (false, false);
    }

    /// The next raw frame with its configuration. Bytes that are no element, and elements before the first
    /// configuration, are passed over. spec: ISO/IEC 14496-3 §1.7.2, table 1.36
    ///
    /// # Errors
    /// The element is damaged, or within the standard but not carried: several programs or layers, frames of constant
    /// length, other codecs than AAC. Reading can go on.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at the first `None`; this goes on")]
    pub fn next(&mut self) -> Result<Option<(AudioConfig, Bytes)>, Error> {
        let found = self.read();
        if self.is_damaged && matches!(found, Ok(None)) {
            self.reset();
        }
        found
    }

    fn read(&mut self) -> Result<Option<(AudioConfig, Bytes)>, Error> {
        loop {
            if let (Some(frame), Some(mux)) = (self.frames.pop_front(), &self.mux) {
                return Ok(Some((mux.config.clone(), frame)));
            }
            let is_sync = |pair: &[u8]| matches!(pair, [0x56, second] if second & 0xe0 == 0xe0);
            let garbage = self.buffer.windows(2).position(is_sync);
            // The last byte may be the first half of a sync word.
            let half = usize::from(self.buffer.last() == Some(&0x56));
            let garbage = garbage.unwrap_or(self.buffer.len() - half);
            if self.is_damaged && garbage > 0 {
                return Ok(None);
            }
            self.is_synchronized &= garbage == 0;
            self.buffer.advance(garbage);
            let &[_, high, low, ..] = self.buffer.as_ref() else { return Ok(None) };
            let end = 3 + (usize::from(high & 0x1f) << 8 | usize::from(low));
            // A sync word inside other data: no element follows it.
            let is_sure = self.is_synchronized && !self.is_damaged;
            if !is_sure && self.buffer.get(end..end + 2).is_some_and(|pair| !is_sync(pair)) {
                if self.is_damaged {
                    return Ok(None);
                }
                self.buffer.advance(1);
                continue;
            }
            if self.buffer.len() < end {
                return Ok(None);
            }
            self.is_synchronized = true;
            let element = self.buffer.split_to(end).freeze();
            self.element(element.get(3..).unwrap_or_default())?;
        }
    }

    /// An `AudioMuxElement` with `muxConfigPresent`. spec: ISO/IEC 14496-3 table 1.41
    fn element(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut bits = BitReader::new(bytes, WHAT);
        if !bits.bit()? {
            self.mux = None; // one that cannot be read must not leave the old one in force
            self.mux = Some(Mux::parse(&mut bits, bytes)?);
        }
        let Some(mux) = &self.mux else { return Ok(()) };
        for _ in 0..=mux.sub_frames {
            // spec: ISO/IEC 14496-3 table 1.44 PayloadLengthInfo, frameLengthType 0
            let mut length = 0;
            loop {
                let part = bits.byte()?;
                length += usize::from(part);
                if part != 255 {
                    break;
                }
            }
            let frame = bits.bytes(length)?;
            if !frame.is_empty() {
                self.frames.push_back(frame.into());
            }
        }
        Ok(())
    }
}

impl Mux {
    /// Reads a `StreamMuxConfig`. spec: ISO/IEC 14496-3 table 1.42
    fn parse(bits: &mut BitReader<'_>, bytes: &[u8]) -> Result<Self, Error> {
        let version = bits.bit()?;
        if version && bits.bit()? {
            return Err(Error::Unsupported("LATM version other than 0 and 1"));
        }
        if version {
            value(bits)?; // taraBufferFullness
        }
        if !bits.bit()? {
            return Err(Error::Unsupported("LATM with streams of different framing"));
        }
        let sub_frames = bits.bits(6)?;
        if bits.bits(4)? > 0 {
            return Err(Error::Unsupported("LATM with several programs"));
        }
        if bits.bits(3)? > 0 {
            return Err(Error::Unsupported("LATM with several layers"));
        }
        let config_bits = if version { Some(value(bits)?) } else { None };
        let start = bits.position();
        aac::skip_config(bits)?;
        let mut end = bits.position();
        if let Some(length) = config_bits {
            // What lies behind the part that is known, such as a backward compatible extension, belongs to it.
            let rest = u32::try_from(end - start).ok().and_then(|used| length.checked_sub(used));
            bits.skip(rest.ok_or(Error::Invalid("LATM configuration length"))?)?;
            end = bits.position();
        }
        let config = aac::parse_config(&copy_bits(bytes, start, end)?)?;
        if bits.bits(3)? != 0 {
            return Err(Error::Unsupported("LATM with frames of constant length"));
        }
        bits.skip(8)?; // latmBufferFullness
        if bits.bit()? {
            // otherDataPresent: its length; the data lie behind the frames
            if version {
                value(bits)?;
            } else {
                while bits.bit()? {
                    bits.skip(8)?;
                }
                bits.skip(8)?;
            }
        }
        if bits.bit()? {
            bits.skip(8)?; // crcCheckSum
        }
        Ok(Self { config, sub_frames })
    }
}

/// `LatmGetValue`. spec: ISO/IEC 14496-3 table 1.43
fn value(bits: &mut BitReader<'_>) -> Result<u32, Error> {
    let bytes = bits.bits(2)? + 1;
    bits.bits(bytes * 8)
}

fn copy_bits(bytes: &[u8], start: usize, end: usize) -> Result<Bytes, Error> {
    let mut from = BitReader::new(bytes, WHAT);
    let mut to = BitWriter::default();
    from.skip(u32::try_from(start).map_err(|_| Error::Invalid(WHAT))?)?;
    for _ in start..end {
        to.put(u32::from(from.bit()?), 1);
    }
    Ok(to.finish().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An element with configuration (48 kHz stereo, `config` bits in front of it) and these frames.
    fn element(head: &[(u32, u32)], frames: &[&[u8]]) -> Vec<u8> {
        let mut bits = BitWriter::default();
        for (value, count) in head {
            bits.put(*value, *count);
        }
        for frame in frames {
            bits.put(u32::try_from(frame.len()).expect("short"), 8);
            frame.iter().for_each(|byte| bits.put(u32::from(*byte), 8));
        }
        let body = bits.finish();
        [&[0x56, 0xe0, u8::try_from(body.len()).expect("short")], body.as_slice()].concat()
    }

    const ASC: (u32, u32) = (0x1190, 16);
    /// New configuration, version 0, same framing, one frame, one program, one layer; type 0, no other data, no CRC.
    fn head() -> Vec<(u32, u32)> {
        vec![(0, 1), (0, 1), (1, 1), (0, 6), (0, 4), (0, 3), ASC, (0, 3), (0xff, 8), (0, 1), (0, 1)]
    }

    #[test]
    fn frames_read_back_across_any_split() {
        let first = element(&head(), &[b"one"]);
        let stream = [first.clone(), first, b"noise".to_vec(), element(&[(1, 1)], &[b"second"])].concat();
        for size in 1..stream.len() {
            let mut reader = LatmReader::default();
            let mut frames = Vec::new();
            for piece in stream.chunks(size) {
                reader.push(piece);
                while let Ok(Some((config, raw))) = reader.next() {
                    assert_eq!((config.timescale.hz(), config.channels), (48_000, 2));
                    assert_eq!(config.record.as_ref(), [0x11, 0x90]);
                    frames.push(raw);
                }
            }
            assert_eq!(frames, ["one", "one", "second"], "pieces of {size}");
        }
    }

    #[test]
    fn what_comes_behind_a_hole_is_lost_and_what_comes_before_is_not() {
        let bodies: Vec<Vec<u8>> = (1..=4).map(|number| vec![number; 200]).collect();
        let stream = [element(&head(), &[&bodies[0]]), element(&[(1, 1)], &[&bodies[1]])];
        let stream =
            [&stream.concat()[..], &element(&[(1, 1)], &[&bodies[2]]), &element(&[(1, 1)], &[&bodies[3]])].concat();
        for from in 0..stream.len() {
            let mut reader = LatmReader::default();
            reader.push_damaged(&[&stream[..from], stream.get(from + 184..).unwrap_or_default()].concat());
            let found: Vec<_> =
                std::iter::from_fn(|| reader.next().ok().flatten()).map(|(_, raw)| raw.to_vec()).collect();
            assert!(
                bodies.starts_with(&found) && found.len() <= from / 203,
                "{} frames of a hole at {from}",
                found.len()
            );
            assert!(!reader.is_mid_frame());
        }
    }

    #[test]
    fn version_1_and_sub_frames_are_read() {
        let mut head = vec![(0, 1), (1, 1), (0, 1), (0, 2), (9, 8), (1, 1), (1, 6), (0, 4), (0, 3), (0, 2), (16, 8)];
        head.extend([ASC, (0, 3), (0xff, 8), (1, 1), (0, 2), (8, 8), (1, 1), (0x55, 8)]);
        let mut reader = LatmReader::default();
        reader.push(&element(&head, &[b"one", b"two"]));
        let frames: Vec<_> = std::iter::from_fn(|| reader.next().expect("carried")).map(|(_, raw)| raw).collect();
        assert_eq!(frames, ["one", "two"]);
    }

    #[test]
    fn what_is_not_carried_is_named() {
        for (index, value, name) in [
            (2, 0, "LATM with streams of different framing"),
            (4, 1, "LATM with several programs"),
            (5, 1, "LATM with several layers"),
            (7, 1, "LATM with frames of constant length"),
        ] {
            let mut head = head();
            head[index].0 = value;
            let mut reader = LatmReader::default();
            reader.push(&element(&head, &[b"one"]));
            assert_eq!(reader.next(), Err(Error::Unsupported(name)));
            assert_eq!(reader.next(), Ok(None));
        }
    }

    #[test]
    fn frames_before_a_configuration_are_passed_over() {
        let mut reader = LatmReader::default();
        reader.push(&element(&[(1, 1)], &[b"one"]));
        assert_eq!(reader.next(), Ok(None));
    }
}
