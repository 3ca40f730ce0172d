//! AAC with ADTS headers: the frames of a byte stream, and headers for others to read.

use bytes::{Buf, Bytes, BytesMut};
use media::AudioConfig;

use crate::Error;
use crate::aac;
use crate::bits::{BitReader, BitWriter};

/// Bytes of a header without CRC. spec: ISO/IEC 13818-7 §6.2
const HEADER_BYTES: usize = 7;
/// Most bytes that wait to be read: some seconds of any rate.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// Reads ADTS frames that lie across the pieces they come in.
#[derive(Debug, Default)]
pub struct AdtsReader {
    buffer: BytesMut,
    /// The last frame ended where the buffer begins.
    is_synchronized: bool,
    /// Bytes are missing in what was pushed last.
    is_damaged: bool,
    /// The bits of the header that make the configuration, and the configuration.
    config: Option<([u32; 3], AudioConfig)>,
}

impl AdtsReader {
    /// Whether bytes wait that began before what is pushed next: the first frame then has no timestamp of the new piece.
    pub fn is_mid_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Appends the payload of a PES packet. Read to `None` after each; what waits beyond 1 MiB is lost.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES_MAX {
            self.reset();
        }
        self.buffer.extend_from_slice(bytes.get(..BUFFER_BYTES_MAX).unwrap_or(bytes));
    }

    /// Appends the payload of a PES packet in which bytes are missing somewhere. What is in progress is lost; frames can be read as long
    /// as each is followed by another, and what comes behind the hole, whose time is not known, is lost.
    pub fn push_damaged(&mut self, bytes: &[u8]) {
        self.reset();
        self.push(bytes);
        self.is_damaged = true;
    }

    /// Forgets the frame in progress, after a loss.
    pub fn reset(&mut self) {
        self.buffer.clear();
        (self.is_synchronized, self.is_damaged) = (false, false);
    }

    /// The next raw frame with its configuration; bytes that are no frame are passed over.
    /// spec: ISO/IEC 13818-7 §6.2, ISO/IEC 14496-3 §1.A.2.2
    ///
    /// # Errors
    /// The frame is not carried: several raw data blocks, or channels that are not in the table. Reading can go on.
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
            let garbage = self.buffer.iter().position(|byte| *byte == 0xff).unwrap_or(self.buffer.len());
            if self.is_damaged && garbage > 0 {
                return Ok(None);
            }
            self.is_synchronized &= garbage == 0;
            self.buffer.advance(garbage);
            let Some(head) = self.buffer.get(..HEADER_BYTES) else { return Ok(None) };
            let header = Header::parse(head)?;
            let is_sure = self.is_synchronized && !self.is_damaged;
            let Some(header) = header.filter(|header| is_sure || self.is_followed(header)) else {
                if self.is_damaged {
                    return Ok(None);
                }
                self.is_synchronized = false;
                self.buffer.advance(1);
                continue;
            };
            if self.buffer.len() < header.frame_bytes {
                return Ok(None);
            }
            self.is_synchronized = true;
            let mut frame = self.buffer.split_to(header.frame_bytes).freeze();
            frame.advance(header.own_bytes);
            if header.blocks > 1 {
                return Err(Error::Unsupported("ADTS with several raw data blocks"));
            }
            return Ok(Some((self.config(header.config)?, frame)));
        }
    }

    /// A sync word comes behind the frame, or nothing yet.
    fn is_followed(&self, header: &Header) -> bool {
        match self.buffer.get(header.frame_bytes..) {
            Some([0xff, second, ..]) => second & 0xf6 == 0xf0,
            Some([first]) => *first == 0xff,
            Some([_, _, ..]) => false,
            Some([]) | None => true,
        }
    }

    fn config(&mut self, bits: [u32; 3]) -> Result<AudioConfig, Error> {
        if let Some((known, config)) = &self.config
            && *known == bits
        {
            return Ok(config.clone());
        }
        let [profile, rate, channels] = bits;
        let mut record = BitWriter::default();
        record.put(profile + 1, 5);
        record.put(rate, 4);
        record.put(channels, 4);
        record.put(0, 3);
        let config = aac::parse_config(&Bytes::from(record.finish()))?;
        self.config = Some((bits, config.clone()));
        Ok(config)
    }
}

/// The fields of a header that are used.
struct Header {
    /// Profile, index of the sampling rate, channel configuration.
    config: [u32; 3],
    /// Bytes of the header, CRC included.
    own_bytes: usize,
    frame_bytes: usize,
    blocks: u32,
}

impl Header {
    /// `None` for what is no header. spec: ISO/IEC 13818-7 §6.2.1, §6.2.2
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Error> {
        let mut bits = BitReader::new(bytes, "ADTS header");
        let (sync, _version, layer) = (bits.bits(12)?, bits.bit()?, bits.bits(2)?);
        let own_bytes = if bits.bit()? { HEADER_BYTES } else { HEADER_BYTES + 2 };
        let (profile, rate) = (bits.bits(2)?, bits.bits(4)?);
        bits.skip(1)?;
        let channels = bits.bits(3)?;
        bits.skip(4)?;
        let frame_bytes = usize::try_from(bits.bits(13)?).unwrap_or_default();
        bits.skip(11)?;
        let blocks = bits.bits(2)? + 1;
        let is_header = sync == 0xfff && layer == 0 && rate < 13 && frame_bytes > own_bytes;
        Ok(is_header.then_some(Self { config: [profile, rate, channels], own_bytes, frame_bytes, blocks }))
    }
}

/// The header of a frame of `frame_len` raw bytes, without CRC.
///
/// `None` where ADTS cannot say it: a rate or channels outside the tables, a frame of more than 8,184 bytes. Explicit
/// SBR and PS are left to the decoder to find. spec: ISO/IEC 13818-7 §6.2
pub fn header(config: &AudioConfig, frame_len: usize) -> Option<[u8; 7]> {
    let [profile, rate, channels] = aac::adts_fields(&config.record)?;
    let length = u32::try_from(frame_len + HEADER_BYTES).ok().filter(|length| *length < 1 << 13)?;
    let mut bits = BitWriter::default();
    bits.put(0xfff1, 16); // MPEG-4, layer 0, no CRC
    bits.put(profile, 2);
    bits.put(rate, 4);
    bits.put(0, 1);
    bits.put(channels, 3);
    bits.put(0, 4);
    bits.put(length, 13);
    bits.put(0x7ff, 11); // variable rate
    bits.put(0, 2); // one raw data block
    bits.finish().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(config: &AudioConfig, raw: &[u8]) -> Vec<u8> {
        [&header(config, raw.len()).expect("in the tables")[..], raw].concat()
    }

    fn read_all(reader: &mut AdtsReader) -> Vec<Bytes> {
        std::iter::from_fn(|| reader.next().expect("carried")).map(|(_, raw)| raw).collect()
    }

    #[test]
    fn frames_read_back_across_any_split() {
        let config = aac::lc_config(44_100, 2).expect("in the tables");
        let stream = [frame(&config, b"one"), frame(&config, &[0xff; 300]), frame(&config, b"three")].concat();
        for size in 1..stream.len() {
            let mut reader = AdtsReader::default();
            let mut frames = Vec::new();
            for piece in stream.chunks(size) {
                reader.push(piece);
                while let Some((found, raw)) = reader.next().expect("carried") {
                    assert_eq!(found, config);
                    frames.push(raw);
                }
            }
            assert_eq!(frames, [&b"one"[..], &[0xff; 300], b"three"], "pieces of {size}");
            assert!(!reader.is_mid_frame());
        }
    }

    #[test]
    fn what_comes_behind_a_hole_is_lost_and_what_comes_before_is_not() {
        let config = aac::lc_config(48_000, 2).expect("in the tables");
        let frames: Vec<Vec<u8>> = (1..=5).map(|number| frame(&config, &[number; 300])).collect();
        let stream = frames.concat();
        for from in 0..stream.len() {
            let mut reader = AdtsReader::default();
            let rest = stream.get(from + 184..).unwrap_or_default();
            reader.push_damaged(&[&stream[..from], rest].concat());
            let found = read_all(&mut reader);
            let whole = found.iter().zip(1..).all(|(raw, number)| raw.as_ref() == [number; 300]);
            assert!(whole && found.len() <= from / frames[0].len(), "{} frames of a hole at {from}", found.len());
            assert!(found.len() + 1 >= from / frames[0].len(), "{} frames of a hole at {from}", found.len());
            assert!(!reader.is_mid_frame());
            reader.push(&stream);
            assert_eq!(read_all(&mut reader).len(), 5, "the next is whole");
        }
    }

    #[test]
    fn garbage_between_frames_is_passed_over() {
        let config = aac::lc_config(48_000, 1).expect("in the tables");
        let mut reader = AdtsReader::default();
        reader.push(
            &[b"garbage\xff\xf1\x4c\x80\x01\x1f\xfc".to_vec(), frame(&config, b"one"), b"\xff\xf0".to_vec()].concat(),
        );
        reader.push(&[frame(&config, b"two"), frame(&config, b"three")].concat());
        assert_eq!(read_all(&mut reader), [&b"one"[..], b"two", b"three"]);
    }

    #[test]
    fn several_raw_data_blocks_are_refused_and_reading_goes_on() {
        let config = aac::lc_config(48_000, 2).expect("in the tables");
        let mut several = frame(&config, b"one");
        several[6] |= 1;
        let mut reader = AdtsReader::default();
        reader.push(&[several, frame(&config, b"two")].concat());
        assert_eq!(reader.next(), Err(Error::Unsupported("ADTS with several raw data blocks")));
        assert_eq!(read_all(&mut reader), [&b"two"[..]]);
    }

    #[test]
    fn a_crc_is_no_part_of_the_frame() {
        let config = aac::lc_config(48_000, 2).expect("in the tables");
        let mut with_crc = frame(&config, b"..one");
        with_crc[1] &= 0xfe;
        let mut reader = AdtsReader::default();
        reader.push(&with_crc);
        assert_eq!(read_all(&mut reader), [&b"one"[..]]);
    }

    #[test]
    fn a_frame_too_long_for_the_header_has_none() {
        let config = aac::lc_config(48_000, 2).expect("in the tables");
        assert!(header(&config, 8184).is_some() && header(&config, 8185).is_none());
    }
}
