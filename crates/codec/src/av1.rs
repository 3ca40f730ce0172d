//! AV1: `av1C` records, sequence headers, the OBUs of a temporal unit.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use media::{Colour, DynamicRange, Payload, VideoCodec, VideoConfig};

use crate::Error;
use crate::bits::BitReader;

const WHAT: &str = "AV1 OBU";
const SEQUENCE_HEADER: u8 = 1;
const TEMPORAL_DELIMITER: u8 = 2;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;
const TILE_LIST: u8 = 8;
const PADDING: u8 = 15;

/// One OBU: its type, all its bytes, and where its payload begins.
#[derive(Debug)]
struct Obu {
    kind: u8,
    whole: Bytes,
    payload: Bytes,
}

/// Splits off the first OBU. spec: AV1 §5.3; without a size it reaches to the end (Annex B form is not carried)
fn split_obu(rest: &mut Bytes) -> Result<Obu, Error> {
    let header = *rest.first().ok_or(Error::Truncated(WHAT))?;
    if header & 0x80 != 0 {
        return Err(Error::Invalid("AV1 OBU header"));
    }
    let mut start = if header & 4 == 0 { 1 } else { 2 };
    let length = if header & 2 == 0 {
        rest.len().checked_sub(start).ok_or(Error::Truncated(WHAT))?
    } else {
        let (value, bytes) = leb128(rest.get(start..).unwrap_or_default())?;
        start += bytes;
        value
    };
    if rest.len() - start < length {
        return Err(Error::Truncated(WHAT));
    }
    let whole = rest.split_to(start + length);
    Ok(Obu { kind: header >> 3 & 15, payload: whole.slice(start..), whole })
}

/// spec: AV1 §4.10.5
fn leb128(bytes: &[u8]) -> Result<(usize, usize), Error> {
    let mut value = 0usize;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    Err(Error::Invalid("AV1 OBU size"))
}

#[derive(Debug, PartialEq, Eq)]
struct SequenceHeader {
    profile: u32,
    level: u32,
    high_tier: bool,
    width: u32,
    height: u32,
    color: ColorConfig,
}

#[derive(Debug, PartialEq, Eq)]
struct ColorConfig {
    bit_depth: u32,
    monochrome: bool,
    subsampling_x: bool,
    subsampling_y: bool,
    chroma_position: u32,
    description: Option<Colour>,
}

/// spec: AV1 §5.5.1
fn parse_sequence_header(payload: &[u8]) -> Result<SequenceHeader, Error> {
    let mut bits = BitReader::new(payload, "AV1 sequence header");
    let profile = bits.bits(3)?;
    bits.skip(1)?; // still_picture
    let reduced = bits.bit()?;
    let (level, high_tier) = if reduced { (bits.bits(5)?, false) } else { operating_points(&mut bits)? };
    let (width_bits, height_bits) = (bits.bits(4)? + 1, bits.bits(4)? + 1);
    let (width, height) = (bits.bits(width_bits)? + 1, bits.bits(height_bits)? + 1);
    if !reduced && bits.bit()? {
        bits.skip(4 + 3)?; // frame ids
    }
    bits.skip(3)?; // 128x128 superblocks, filter intra, intra edge filter
    if !reduced {
        bits.skip(4)?; // interintra, masked, warped, dual filter
        let order_hint = bits.bit()?;
        if order_hint {
            bits.skip(2)?;
        }
        let force_screen_content = if bits.bit()? { 2 } else { bits.bits(1)? };
        if force_screen_content > 0 && !bits.bit()? {
            bits.skip(1)?;
        }
        if order_hint {
            bits.skip(3)?;
        }
    }
    bits.skip(3)?; // superres, cdef, restoration
    Ok(SequenceHeader { profile, level, high_tier, width, height, color: color_config(&mut bits, profile)? })
}

/// Level and tier of the first operating point; reads up to the frame size.
fn operating_points(bits: &mut BitReader<'_>) -> Result<(u32, bool), Error> {
    let mut decoder_model = None;
    if bits.bit()? {
        bits.skip(64)?; // num_units_in_display_tick, time_scale
        if bits.bit()? {
            bits.ue()?; // uvlc has the form of ue(v)
        }
        if bits.bit()? {
            let delay_bits = bits.bits(5)? + 1;
            bits.skip(32 + 5 + 5)?;
            decoder_model = Some(delay_bits);
        }
    }
    let display_delay = bits.bit()?;
    let mut first = None;
    for _ in 0..=bits.bits(5)? {
        bits.skip(12)?;
        let level = bits.bits(5)?;
        let high_tier = level > 7 && bits.bit()?;
        if let Some(delay_bits) = decoder_model
            && bits.bit()?
        {
            bits.skip(2 * delay_bits + 1)?;
        }
        if display_delay && bits.bit()? {
            bits.skip(4)?;
        }
        first.get_or_insert((level, high_tier));
    }
    first.ok_or(Error::Invalid("AV1 operating points"))
}

/// spec: AV1 §5.5.2
fn color_config(bits: &mut BitReader<'_>, profile: u32) -> Result<ColorConfig, Error> {
    let high = bits.bit()?;
    let bit_depth = match (high, profile) {
        (true, 2) => 10 + 2 * bits.bits(1)?,
        (true, _) => 10,
        (false, _) => 8,
    };
    let monochrome = profile != 1 && bits.bit()?;
    let code_points = if bits.bit()? { Some([bits.byte()?, bits.byte()?, bits.byte()?]) } else { None };
    let is_srgb = !monochrome && code_points == Some([1, 13, 0]);
    let is_full_range = is_srgb || bits.bit()?;
    let description =
        code_points.map(|[primaries, transfer, matrix]| Colour { primaries, transfer, matrix, is_full_range });
    let mut color = ColorConfig {
        bit_depth,
        monochrome,
        subsampling_x: !is_srgb,
        subsampling_y: !is_srgb,
        chroma_position: 0,
        description,
    };
    if monochrome || is_srgb {
        return Ok(color);
    }
    (color.subsampling_x, color.subsampling_y) = match profile {
        0 => (true, true),
        1 => (false, false),
        _ if bit_depth == 12 => {
            let x = bits.bit()?;
            (x, x && bits.bit()?)
        }
        _ => (true, false),
    };
    if color.subsampling_x && color.subsampling_y {
        color.chroma_position = bits.bits(2)?;
    }
    Ok(color)
}

/// The configuration that a sequence header OBU gives. spec: AV1-ISOBMFF §2.3.3
fn config(obu: &Obu) -> Result<VideoConfig, Error> {
    let header = parse_sequence_header(&obu.payload)?;
    let color = &header.color;
    let narrow = |value: u32| u8::try_from(value).unwrap_or(u8::MAX);
    let mut record = BytesMut::new();
    record.put_u8(0x81);
    record.put_u8(narrow(header.profile) << 5 | narrow(header.level));
    record.put_u8(
        u8::from(header.high_tier) << 7
            | u8::from(color.bit_depth > 8) << 6
            | u8::from(color.bit_depth == 12) << 5
            | u8::from(color.monochrome) << 4
            | u8::from(color.subsampling_x) << 3
            | u8::from(color.subsampling_y) << 2
            | narrow(color.chroma_position),
    );
    record.put_u8(0);
    record.put_slice(&obu.whole);
    let tier = if header.high_tier { 'H' } else { 'M' };
    let mut codec_string = format!("av01.{}.{:02}{tier}.{:02}", header.profile, header.level, color.bit_depth);
    // spec: AV1-ISOBMFF §5: what is left out means BT.709
    if let Some(colour) = color.description.filter(|colour| colour.dynamic_range() != DynamicRange::Sdr) {
        let Colour { primaries, transfer, matrix, is_full_range } = colour;
        let (monochrome, x, y) = (color.monochrome, color.subsampling_x, color.subsampling_y);
        let chroma = format!("{}{}{}", u8::from(x), u8::from(y), if x && y { color.chroma_position } else { 0 });
        let (monochrome, full) = (u8::from(monochrome), u8::from(is_full_range));
        let _ = write!(codec_string, ".{monochrome}.{chroma}.{primaries:02}.{transfer:02}.{matrix:02}.{full}");
    }
    Ok(VideoConfig {
        codec: VideoCodec::Av1,
        record: record.freeze(),
        width: header.width,
        height: header.height,
        frame_rate: None,
        codec_string,
        colour: color.description,
        reorder_frames: Some(0), // a temporal unit shows one frame: PTS equals DTS
    })
}

/// Reads an `AV1CodecConfigurationRecord`; `None` where it carries no sequence header (the first unit will).
pub(crate) fn parse_record(record: &Bytes) -> Result<Option<VideoConfig>, Error> {
    if record.first() != Some(&0x81) || record.len() < 4 {
        return Err(Error::Invalid("av1C record"));
    }
    let mut rest = record.slice(4..);
    while !rest.is_empty() {
        let obu = split_obu(&mut rest)?;
        if obu.kind == SEQUENCE_HEADER {
            return config(&obu).map(Some);
        }
    }
    Ok(None)
}

/// Takes the OBUs that are carried; says whether a decoder can start here, and a configuration found inside.
pub(crate) fn parse_unit(unit: &Bytes) -> Result<(Payload, bool, Option<VideoConfig>), Error> {
    let mut payload = Payload::default();
    let (mut is_key, mut found) = (false, None);
    let (mut rest, mut run, mut kept) = (unit.clone(), unit.clone(), 0);
    while !rest.is_empty() {
        let obu = split_obu(&mut rest)?;
        // spec: AV1-ISOBMFF §2.4: no delimiters, padding or tile lists in a sample
        if matches!(obu.kind, TEMPORAL_DELIMITER | TILE_LIST | PADDING) {
            payload.push(run.slice(..kept));
            (run, kept) = (rest.clone(), 0);
            continue;
        }
        kept += obu.whole.len();
        match obu.kind {
            SEQUENCE_HEADER => found = Some(config(&obu)?),
            // spec: AV1 §5.9.2: show_existing_frame 0, frame_type 0 (key), show_frame 1
            FRAME_HEADER | FRAME => is_key |= obu.payload.first().is_some_and(|byte| byte & 0xf0 == 0x10),
            _ => {}
        }
    }
    payload.push(run.slice(..kept));
    Ok((payload, is_key, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_obu_longer_than_its_unit_is_an_error() {
        assert!(parse_unit(&Bytes::from_static(&[0x32, 0x7f, 0])).is_err());
        assert!(parse_unit(&Bytes::from_static(&[0x32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])).is_err());
        assert!(parse_unit(&Bytes::from_static(&[0x80])).is_err());
    }

    #[test]
    fn delimiters_are_cut_and_key_frames_found() {
        let unit = Bytes::from_static(&[0x12, 0, 0x32, 2, 0x10, 0xaa, 0x7a, 1, 0]);
        let (payload, is_key, config) = parse_unit(&unit).expect("valid");
        assert_eq!(payload.to_bytes(), &[0x32, 2, 0x10, 0xaa][..]);
        assert!(is_key && config.is_none());
    }
}
