//! VP9: `vpcC` records and key frames.

use bytes::{BufMut, Bytes, BytesMut};
use media::{Colour, VideoCodec, VideoConfig};

use crate::Error;
use crate::bits::BitReader;

const UNSPECIFIED: Colour = Colour { primaries: 2, transfer: 2, matrix: 2, is_full_range: false };

/// What an uncompressed header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) is_key: bool,
    profile: u8,
    bit_depth: u8,
    subsampling: u8,
    full_range: bool,
    size: Option<(u32, u32)>,
}

/// spec: VP9 §6.2
pub(crate) fn parse_frame(frame: &[u8]) -> Result<FrameHeader, Error> {
    let mut bits = BitReader::new(frame, "VP9 frame header");
    if bits.bits(2)? != 2 {
        return Err(Error::Invalid("VP9 frame marker"));
    }
    let profile = u8::from(bits.bit()?) | u8::from(bits.bit()?) << 1;
    if profile == 3 {
        bits.skip(1)?;
    }
    let mut header =
        FrameHeader { is_key: false, profile, bit_depth: 8, subsampling: 1, full_range: false, size: None };
    if bits.bit()? {
        return Ok(header); // show_existing_frame
    }
    header.is_key = !bits.bit()?;
    bits.skip(2)?; // show_frame, error_resilient_mode
    if !header.is_key {
        return Ok(header);
    }
    if bits.bits(24)? != 0x49_83_42 {
        return Err(Error::Invalid("VP9 sync code"));
    }
    if profile >= 2 {
        header.bit_depth = if bits.bit()? { 12 } else { 10 };
    }
    if bits.bits(3)? == 7 {
        header.subsampling = 3; // RGB is 4:4:4
        header.full_range = true;
        if profile & 1 == 1 {
            bits.skip(1)?;
        }
    } else {
        header.full_range = bits.bit()?;
        if profile & 1 == 1 {
            header.subsampling = if bits.bit()? { 2 } else { 3 };
            bits.skip(2)?;
        }
    }
    header.size = Some((bits.bits(16)? + 1, bits.bits(16)? + 1));
    Ok(header)
}

/// The configuration a key frame gives; `None` for others.
pub(crate) fn config(header: FrameHeader, colour: Option<Colour>) -> Option<VideoConfig> {
    let (width, height) = header.size?;
    let level = level(width, height);
    let mut record = BytesMut::new();
    record.put_u32(0x0100_0000); // FullBox, version 1
    record.put_u8(header.profile);
    record.put_u8(level);
    record.put_u8(header.bit_depth << 4 | header.subsampling << 1 | u8::from(header.full_range));
    let Colour { primaries, transfer, matrix, .. } = colour.unwrap_or(UNSPECIFIED);
    record.put_slice(&[primaries, transfer, matrix, 0, 0]); // no initialization data
    Some(VideoConfig {
        codec: VideoCodec::Vp9,
        record: record.freeze(),
        width,
        height,
        frame_rate: None,
        codec_string: format!("vp09.{:02}.{level:02}.{:02}", header.profile, header.bit_depth),
        reorder_frames: Some(0),
        colour: colour.map(|colour| Colour { is_full_range: header.full_range, ..colour }),
    })
}

/// The lowest level whose picture size fits at 60 frames/s; the bitstream carries none. spec: VP9 levels, annex A
fn level(width: u32, height: u32) -> u8 {
    match u64::from(width) * u64::from(height) {
        0..=122_880 => 21,
        122_881..=552_960 => 31,
        552_961..=2_228_224 => 41,
        2_228_225..=8_912_896 => 51,
        _ => 61,
    }
}

/// Reads a `VPCodecConfigurationRecord` for its colour, which no frame tells: size and depth come with the first key
/// frame. Without primaries, transfer and matrix there is no colour.
pub(crate) fn parse_record(record: &Bytes) -> Result<Option<Colour>, Error> {
    let &[_, _, _, _, _, _, depth, primaries, transfer, matrix, ..] = record.as_ref() else {
        return if record.len() < 8 { Err(Error::Truncated("vpcC record")) } else { Ok(None) };
    };
    let colour = Colour { primaries, transfer, matrix, is_full_range: depth & 1 == 1 };
    Ok(Some(colour).filter(|_| (primaries, transfer, matrix) != (2, 2, 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_frame_tells_its_size() {
        // profile 0 key frame: marker 10, profile 00, no existing frame 0, key 0, show 1, resilient 0; sync; cs 2, range 0; 640x360
        let frame = [0b1000_0010, 0x49, 0x83, 0x42, 0b0100_0000, 0b0010_0111, 0b1111_0000, 0b0001_0110, 0b0111_0000];
        let header = parse_frame(&frame).expect("valid");
        assert!(header.is_key);
        let config = config(header, None).expect("key frame");
        assert_eq!((config.width, config.height), (640, 360));
        assert_eq!(config.codec_string, "vp09.00.31.08");
    }
}
