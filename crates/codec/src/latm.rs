//! AAC frames in LOAS and LATM. spec: ISO/IEC 14496-3 §1.7

use bytes::{Buf as _, Bytes, BytesMut};
use media::AudioConfig;

use crate::adts::AudioFrame;
use crate::bits::{BitReader, BitWriter};
use crate::{Error, aac};

const WHAT: &str = "LATM";
/// What waits for its end, at most.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// Takes frames out of bytes that come cut anywhere.
#[derive(Debug, Default)]
pub struct LatmReader {
    waiting: BytesMut,
    config: Option<AudioConfig>,
}

impl LatmReader {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.waiting.len() + bytes.len() > WAITING_BYTES_MAX {
            self.waiting.clear();
        }
        self.waiting.extend_from_slice(bytes);
    }

    /// Part of a frame waits for the rest of it.
    pub fn is_within_a_frame(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Something is missing: what waits will not become whole.
    pub fn reset(&mut self) {
        self.waiting.clear();
    }

    /// The next whole frame; frames before the first configuration are left out.
    ///
    /// # Errors
    /// A frame of a form that is not carried, or bytes that are none; the reader goes on behind them.
    #[expect(clippy::should_implement_trait, reason = "more may come after None")]
    pub fn next(&mut self) -> Result<Option<AudioFrame>, Error> {
        loop {
            let &[first, second, third, ..] = self.waiting.as_ref() else { return Ok(None) };
            // spec: ISO/IEC 14496-3 §1.7.2 AudioSyncStream
            if first != 0x56 || second & 0xe0 != 0xe0 {
                let next = self.waiting.iter().skip(1).position(|byte| *byte == 0x56).map(|at| at + 1);
                self.waiting.advance(next.unwrap_or(self.waiting.len()));
                return Err(Error::Invalid("LOAS sync word"));
            }
            let length = 3 + (usize::from(second & 0x1f) << 8 | usize::from(third));
            if self.waiting.len() < length {
                return Ok(None);
            }
            let element = self.waiting.split_to(length).freeze().slice(3..);
            if let Some(payload) = self.element(&element)?
                && let Some(config) = &self.config
            {
                return Ok(Some(AudioFrame { config: config.clone(), payload }));
            }
        }
    }

    /// spec: ISO/IEC 14496-3 §1.7.3 AudioMuxElement
    fn element(&mut self, element: &[u8]) -> Result<Option<Bytes>, Error> {
        let mut bits = BitReader::new(element, WHAT);
        if !bits.bit()? {
            self.config = Some(stream_mux_config(&mut bits)?);
        }
        if self.config.is_none() {
            return Ok(None);
        }
        let mut length = 0usize;
        loop {
            let byte = bits.byte()?;
            length += usize::from(byte);
            if byte < 255 {
                break;
            }
        }
        if length > element.len() {
            return Err(Error::Truncated(WHAT));
        }
        // The payload begins at any bit.
        (0..length).map(|_| bits.byte()).collect::<Result<Vec<u8>, _>>().map(|payload| Some(payload.into()))
    }
}

/// spec: ISO/IEC 14496-3 §1.7.3 StreamMuxConfig
fn stream_mux_config(bits: &mut BitReader<'_>) -> Result<AudioConfig, Error> {
    let version = bits.bit()?;
    if version && bits.bit()? {
        return Err(Error::Unsupported("LATM of version 1A"));
    }
    if version {
        skip_value(bits)?; // taraBufferFullness
    }
    if !bits.bit()? {
        return Err(Error::Unsupported("LATM with layers of different timing"));
    }
    if bits.bits(6)? != 0 || bits.bits(4)? != 0 || bits.bits(3)? != 0 {
        return Err(Error::Unsupported("LATM with several frames, programs or layers"));
    }
    let config = if version {
        let length = value(bits)?;
        specific_config(bits, Some(length))?
    } else {
        specific_config(bits, None)?
    };
    if bits.bits(3)? != 0 {
        return Err(Error::Unsupported("LATM frames of fixed length"));
    }
    bits.skip(8)?; // latmBufferFullness
    if bits.bit()? {
        // otherDataPresent
        if version {
            skip_value(bits)?;
        } else {
            while bits.bit()? {
                bits.skip(8)?;
            }
            bits.skip(8)?;
        }
    }
    if bits.bit()? {
        bits.skip(8)?; // checksum
    }
    Ok(config)
}

/// spec: ISO/IEC 14496-3 §1.7.3 LatmGetValue
fn value(bits: &mut BitReader<'_>) -> Result<u32, Error> {
    let bytes = bits.bits(2)? + 1;
    bits.bits(8 * bytes)
}

fn skip_value(bits: &mut BitReader<'_>) -> Result<(), Error> {
    value(bits).map(drop)
}

/// An `AudioSpecificConfig` of known length, or of plain AAC, which tells its own.
fn specific_config(bits: &mut BitReader<'_>, length: Option<u32>) -> Result<AudioConfig, Error> {
    let mut copy = BitWriter::default();
    let length = match length {
        Some(length) if length <= 1024 => length,
        Some(_) => return Err(Error::Invalid("AudioSpecificConfig length")),
        None => own_length(bits)?,
    };
    for _ in 0..length {
        copy.put(u32::from(bits.bit()?), 1);
    }
    aac::parse_config(&copy.finish().into())
}

/// Bits of the configuration that comes next, without moving: object type, rate, channels, and the three flags of AAC.
fn own_length(bits: &BitReader<'_>) -> Result<u32, Error> {
    let mut ahead = bits.clone();
    let object_type = ahead.bits(5)?;
    let rate = ahead.bits(4)?;
    let mut length = 5 + 4 + 4;
    if rate == 15 {
        ahead.skip(24)?;
        length += 24;
    }
    ahead.skip(4)?;
    match object_type {
        1..=4 => {}
        5 | 29 => {
            let extension = ahead.bits(4)?;
            length += 4 + 5 + if extension == 15 { 24 } else { 0 };
        }
        _ => return Err(Error::Unsupported("audio object type other than AAC")),
    }
    Ok(length + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes an element that begins with a configuration of AAC-LC at 48 kHz, stereo.
    fn loas(frame: &[u8]) -> Vec<u8> {
        let mut bits = BitWriter::default();
        bits.put(0, 1); // useSameStreamMux
        bits.put(0, 1); // version
        bits.put(1, 1); // all streams the same timing
        bits.put(0, 6 + 4 + 3);
        bits.put(0x1190, 16); // AAC-LC, 48 kHz, stereo
        bits.put(0, 3); // frame length type
        bits.put(0xff, 8);
        bits.put(0, 2); // no other data, no checksum
        bits.put(u32::try_from(frame.len()).expect("small"), 8);
        frame.iter().for_each(|byte| bits.put(u32::from(*byte), 8));
        let element = bits.finish();
        let length = u16::try_from(element.len()).expect("small");
        [&[0x56, 0xe0 | length.to_be_bytes()[0], length.to_be_bytes()[1]], &element[..]].concat()
    }

    #[test]
    fn a_frame_at_any_bit_comes_out_whole_however_it_is_cut() {
        let stream = [b"xx".to_vec(), loas(b"a frame"), loas(b"another")].concat();
        for step in 1..stream.len() {
            let mut reader = LatmReader::default();
            let mut found = Vec::new();
            for piece in stream.chunks(step) {
                reader.push(piece);
                found.extend(std::iter::from_fn(|| reader.next().transpose()).filter_map(Result::ok));
            }
            let payloads: Vec<_> = found.iter().map(|frame| frame.payload.clone()).collect();
            assert_eq!(payloads, [&b"a frame"[..], b"another"], "pieces of {step}");
            assert_eq!(found[0].config, aac::lc_config(48_000, 2).expect("in the tables"));
        }
    }
}
