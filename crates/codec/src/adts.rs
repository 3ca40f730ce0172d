//! AAC frames behind ADTS headers. spec: ISO/IEC 13818-7 §6.2, ISO/IEC 14496-3 §1.A.2.2

use bytes::{Buf as _, Bytes, BytesMut};
use media::{AudioCodec, AudioConfig};

use crate::bits::BitWriter;
use crate::{Error, aac};

/// Longest frame with its header: thirteen bits.
const FRAME_BYTES_MAX: usize = 8191;
/// What waits for its end, at most: frames are taken out as they become whole.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// Takes frames out of bytes that come cut anywhere.
#[derive(Debug, Default)]
pub struct AdtsReader {
    waiting: BytesMut,
    /// The last header's fields that make the configuration, and it.
    known: Option<([u8; 3], AudioConfig)>,
}

/// A frame and what decodes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioFrame {
    /// The configuration.
    pub config: AudioConfig,
    /// The raw frame.
    pub payload: Bytes,
}

impl AdtsReader {
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

    /// The next whole frame.
    ///
    /// # Errors
    /// A frame of a form that is not carried, or bytes that are none; the reader goes on behind them.
    #[expect(clippy::should_implement_trait, reason = "more may come after None")]
    pub fn next(&mut self) -> Result<Option<AudioFrame>, Error> {
        let &[0xff, second, third, fourth, fifth, sixth, seventh, ..] = self.waiting.as_ref() else {
            if self.waiting.len() < 7 && self.waiting.first().is_none_or(|byte| *byte == 0xff) {
                return Ok(None);
            }
            return self.resync();
        };
        let length = usize::from(fourth & 3) << 11 | usize::from(fifth) << 3 | usize::from(sixth >> 5);
        let header = if second & 1 == 1 { 7 } else { 9 };
        if second & 0xf6 != 0xf0 || length <= header || length > FRAME_BYTES_MAX {
            return self.resync();
        }
        if self.waiting.len() < length {
            return Ok(None);
        }
        let mut frame = self.waiting.split_to(length).freeze();
        if seventh & 3 != 0 {
            return Err(Error::Unsupported("several AAC frames behind one ADTS header"));
        }
        frame.advance(header);
        let fields = [second & 8, third, fourth & 0xc0];
        let config = match &self.known {
            Some((known, config)) if *known == fields => config.clone(),
            _ => {
                let config = config(third, fourth)?;
                self.known = Some((fields, config.clone()));
                config
            }
        };
        Ok(Some(AudioFrame { config, payload: frame }))
    }

    /// Goes on at the next byte that can begin a header.
    fn resync(&mut self) -> Result<Option<AudioFrame>, Error> {
        let next = self.waiting.iter().skip(1).position(|byte| *byte == 0xff).map(|at| at + 1);
        self.waiting.advance(next.unwrap_or(self.waiting.len()));
        Err(Error::Invalid("ADTS header"))
    }
}

fn config(third: u8, fourth: u8) -> Result<AudioConfig, Error> {
    let mut bits = BitWriter::default();
    bits.put(u32::from(third >> 6) + 1, 5); // profile: the object type less 1
    bits.put(u32::from(third >> 2 & 0x0f), 4);
    bits.put(u32::from(third & 1) << 2 | u32::from(fourth >> 6), 4);
    bits.put(0, 3);
    aac::parse_config(&bits.finish().into())
}

/// The header of a raw frame of so many bytes; `None` for what ADTS cannot carry.
pub fn header(config: &AudioConfig, frame_bytes: usize) -> Option<[u8; 7]> {
    let &[first, second, ..] = config.record.as_ref() else { return None };
    let (object_type, rate, channels) = (first >> 3, (first & 7) << 1 | second >> 7, second >> 3 & 0x0f);
    let length = frame_bytes + 7;
    if config.codec != AudioCodec::Aac || !(1..=4).contains(&object_type) || rate > 12 || length > FRAME_BYTES_MAX {
        return None;
    }
    let byte = |value: usize| u8::try_from(value & 0xff).unwrap_or(0);
    Some([
        0xff,
        0xf1, // MPEG-4, no checksum
        (object_type - 1) << 6 | rate << 2 | channels >> 2,
        (channels & 3) << 6 | byte(length >> 11),
        byte(length >> 3),
        byte(length << 5) | 0x1f,
        0xfc,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(reader: &mut AdtsReader) -> Vec<Bytes> {
        std::iter::from_fn(|| reader.next().transpose()).filter_map(|frame| Some(frame.ok()?.payload)).collect()
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let config = aac::lc_config(44_100, 2).expect("in the tables");
        let mut stream = b"noise".to_vec();
        for frame in [&b"one"[..], b"second frame", b"3"] {
            stream.extend_from_slice(&header(&config, frame.len()).expect("small"));
            stream.extend_from_slice(frame);
        }
        for step in 1..stream.len() {
            let mut reader = AdtsReader::default();
            let mut found = Vec::new();
            for piece in stream.chunks(step) {
                reader.push(piece);
                found.extend(frames(&mut reader));
            }
            assert_eq!(found, [&b"one"[..], b"second frame", b"3"], "pieces of {step}");
            assert!(!reader.is_within_a_frame());
        }
    }

    #[test]
    fn the_configuration_is_that_of_the_header() {
        let config = aac::lc_config(48_000, 6).expect("in the tables");
        let mut reader = AdtsReader::default();
        reader.push(&header(&config, 2).expect("small"));
        reader.push(b"xy");
        let frame = reader.next().expect("valid").expect("whole");
        assert_eq!(frame.config, config);
    }
}
