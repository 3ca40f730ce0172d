//! H.265: `hvcC` records, parameter sets, the kinds of picture.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use media::{Colour, VideoCodec, VideoConfig};

use crate::bits::BitReader;
use crate::nal::{LengthSize, rbsp};
use crate::{Error, SIZE_MAX};

const PARAMETER_SETS_MAX: usize = 32;

/// What a NAL unit is to us. spec: H.265 table 7-1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NalKind {
    /// BLA, IDR or CRA.
    Irap,
    OtherSlice,
    Vps,
    Sps,
    Pps,
    /// Access unit delimiter, filler: not carried.
    Dropped,
    Other,
}

pub(crate) fn nal_kind(nal: &[u8]) -> NalKind {
    match nal.first().map(|header| header >> 1 & 0x3f) {
        Some(16..=23) => NalKind::Irap,
        Some(0..=15) => NalKind::OtherSlice,
        Some(32) => NalKind::Vps,
        Some(33) => NalKind::Sps,
        Some(34) => NalKind::Pps,
        Some(35 | 38) => NalKind::Dropped,
        _ => NalKind::Other,
    }
}

/// VPS, SPS and PPS of a stream, each with its NAL header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ParameterSets {
    pub(crate) vps: Vec<Bytes>,
    pub(crate) sps: Vec<Bytes>,
    pub(crate) pps: Vec<Bytes>,
}

/// Reads an `HEVCDecoderConfigurationRecord`. spec: ISO/IEC 14496-15 §8.3.3.1
pub(crate) fn parse_record(record: &Bytes) -> Result<(LengthSize, ParameterSets), Error> {
    const WHAT: &str = "hvcC record";
    if record.first() != Some(&1) {
        return Err(if record.is_empty() { Error::Truncated(WHAT) } else { Error::Invalid("hvcC version") });
    }
    let (Some(length_size), Some(array_count)) = (record.get(21), record.get(22)) else {
        return Err(Error::Truncated(WHAT));
    };
    let mut sets = ParameterSets::default();
    let mut rest = record.slice(23..);
    for _ in 0..*array_count {
        let &[_, count_high, count_low, ..] = rest.as_ref() else { return Err(Error::Truncated(WHAT)) };
        rest = rest.slice(3..);
        for _ in 0..u16::from_be_bytes([count_high, count_low]) {
            let &[high, low, ..] = rest.as_ref() else { return Err(Error::Truncated(WHAT)) };
            let end = 2 + usize::from(u16::from_be_bytes([high, low]));
            if rest.len() < end {
                return Err(Error::Truncated(WHAT));
            }
            sets.push(rest.split_to(end).slice(2..));
        }
    }
    if sets.sps.is_empty() || sets.pps.is_empty() {
        return Err(Error::Invalid("hvcC without parameter sets"));
    }
    Ok((LengthSize::from_minus_one(*length_size)?, sets))
}

impl ParameterSets {
    /// Files a parameter set by its type; other NAL units are left out.
    pub(crate) fn push(&mut self, nal: Bytes) {
        let list = match nal_kind(&nal) {
            NalKind::Vps => &mut self.vps,
            NalKind::Sps => &mut self.sps,
            NalKind::Pps => &mut self.pps,
            NalKind::Irap | NalKind::OtherSlice | NalKind::Dropped | NalKind::Other => return,
        };
        if list.len() < PARAMETER_SETS_MAX {
            list.push(nal);
        }
    }
}

/// The fields of a sequence parameter set that matter outside a decoder.
#[derive(Debug)]
struct Sps {
    profile_tier_level: [u8; 12],
    max_sub_layers: u32,
    temporal_id_nested: bool,
    chroma_format: u32,
    width: u32,
    height: u32,
    bit_depth_luma_minus8: u32,
    bit_depth_chroma_minus8: u32,
    reorder_pictures: u32,
    /// From the VUI, where it has them and could be read.
    colour: Option<Colour>,
}

/// spec: H.265 §7.3.2.2.1
fn parse_sps(nal: &[u8]) -> Result<Sps, Error> {
    const INVALID: Error = Error::Invalid("H.265 SPS");
    let rbsp = rbsp(nal.get(2..).unwrap_or_default());
    let mut bits = BitReader::new(&rbsp, "H.265 SPS");
    bits.skip(4)?;
    let max_sub_layers_minus1 = bits.bits(3)?;
    let temporal_id_nested = bits.bit()?;
    let profile_tier_level = profile_tier_level(&mut bits, max_sub_layers_minus1)?;
    bits.ue()?; // sps_seq_parameter_set_id
    let chroma_format = bits.ue()?;
    if chroma_format > 3 {
        return Err(INVALID);
    }
    let separate_planes = chroma_format == 3 && bits.bit()?;
    let (mut width, mut height) = (bits.ue()?, bits.ue()?);
    if bits.bit()? {
        let (unit_x, unit_y) = match chroma_format {
            1 if !separate_planes => (2, 2),
            2 if !separate_planes => (2, 1),
            _ => (1, 1),
        };
        let mut window = [0u32; 4];
        for edge in &mut window {
            *edge = bits.ue()?;
        }
        let [left, right, top, bottom] = window;
        let cut = |size: u32, a: u32, b: u32, unit: u32| size.checked_sub(a.checked_add(b)?.checked_mul(unit)?);
        width = cut(width, left, right, unit_x).ok_or(INVALID)?;
        height = cut(height, top, bottom, unit_y).ok_or(INVALID)?;
    }
    let (bit_depth_luma_minus8, bit_depth_chroma_minus8) = (bits.ue()?, bits.ue()?);
    if width == 0
        || height == 0
        || width > SIZE_MAX
        || height > SIZE_MAX
        || bit_depth_luma_minus8 > 8
        || bit_depth_chroma_minus8 > 8
    {
        return Err(INVALID);
    }
    let order_count_bits = bits.ue()?.min(12) + 4;
    let all_layers = bits.bit()?;
    let mut reorder_pictures = 0;
    for _ in 0..=(if all_layers { max_sub_layers_minus1 } else { 0 }) {
        bits.ue()?;
        reorder_pictures = bits.ue()?;
        bits.ue()?;
    }
    let colour = vui_colour(&mut bits, chroma_format, order_count_bits).unwrap_or_default();
    Ok(Sps {
        profile_tier_level,
        max_sub_layers: max_sub_layers_minus1 + 1,
        temporal_id_nested,
        chroma_format,
        width,
        height,
        bit_depth_luma_minus8,
        bit_depth_chroma_minus8,
        reorder_pictures,
        colour,
    })
}

/// Reads on from the coding block sizes to the colour description of the VUI; what cannot be read is left out, since a
/// picture plays without it. spec: H.265 §7.3.2.2.1, §E.2.1
fn vui_colour(bits: &mut BitReader<'_>, chroma_format: u32, order_count_bits: u32) -> Result<Option<Colour>, Error> {
    for _ in 0..6 {
        bits.ue()?; // sizes of coding and transform blocks, depths of the transform hierarchy
    }
    if bits.bit()? && bits.bit()? {
        skip_scaling_lists(bits, chroma_format)?;
    }
    bits.skip(2)?; // asymmetric partitions, sample adaptive offset
    if bits.bit()? {
        bits.skip(8)?; // PCM depths
        bits.ue()?;
        bits.ue()?;
        bits.skip(1)?;
    }
    skip_short_term_sets(bits)?;
    if bits.bit()? {
        for _ in 0..bits.ue()?.min(32) {
            bits.skip(order_count_bits + 1)?; // a long-term picture, whether it is used
        }
    }
    bits.skip(2)?; // temporal motion vectors, strong intra smoothing
    if !bits.bit()? {
        return Ok(None);
    }
    if bits.bit()? && bits.byte()? == 255 {
        bits.skip(32)?; // sample aspect ratio
    }
    if bits.bit()? {
        bits.skip(1)?; // overscan
    }
    if !bits.bit()? {
        return Ok(None);
    }
    bits.skip(3)?; // video_format
    let is_full_range = bits.bit()?;
    if !bits.bit()? {
        return Ok(None);
    }
    Ok(Some(Colour { primaries: bits.byte()?, transfer: bits.byte()?, matrix: bits.byte()?, is_full_range }))
}

/// spec: H.265 §7.3.4
fn skip_scaling_lists(bits: &mut BitReader<'_>, chroma_format: u32) -> Result<(), Error> {
    for size in 0..4u32 {
        let matrices = if size == 3 && chroma_format != 3 { 2 } else { 6 };
        for _ in 0..matrices {
            if !bits.bit()? {
                bits.ue()?; // as a list before
                continue;
            }
            let coefficients = (1u32 << (4 + 2 * size)).min(64) + u32::from(size > 1);
            for _ in 0..coefficients {
                bits.ue()?; // se(v) has the length of ue(v)
            }
        }
    }
    Ok(())
}

/// spec: H.265 §7.3.7
fn skip_short_term_sets(bits: &mut BitReader<'_>) -> Result<(), Error> {
    let mut pictures_before = 0u32;
    for index in 0..bits.ue()?.min(64) {
        if index > 0 && bits.bit()? {
            bits.skip(1)?;
            bits.ue()?;
            let mut pictures = 0;
            for _ in 0..=pictures_before {
                // used_by_curr_pic_flag; where it is 0, use_delta_flag tells whether the picture stays
                pictures += u32::from(bits.bit()? || bits.bit()?);
            }
            pictures_before = pictures;
        } else {
            pictures_before = bits.ue()?.saturating_add(bits.ue()?);
            if pictures_before > 16 {
                return Err(Error::Invalid("H.265 reference picture set"));
            }
            for _ in 0..pictures_before {
                bits.ue()?;
                bits.skip(1)?;
            }
        }
    }
    Ok(())
}

/// The twelve bytes that `hvcC` repeats, skipping what sub-layers add. spec: H.265 §7.3.3
fn profile_tier_level(bits: &mut BitReader<'_>, max_sub_layers_minus1: u32) -> Result<[u8; 12], Error> {
    let mut general = [0; 12];
    for byte in &mut general {
        *byte = bits.byte()?;
    }
    let mut skipped = 0;
    for _ in 0..max_sub_layers_minus1 {
        let (profile, level) = (bits.bit()?, bits.bit()?);
        skipped += u32::from(profile) * 88 + u32::from(level) * 8;
    }
    if max_sub_layers_minus1 > 0 {
        bits.skip(2 * (8 - max_sub_layers_minus1) + skipped)?;
    }
    Ok(general)
}

/// The configuration that follows from parameter sets; its record is the same for the same sets.
pub(crate) fn config(sets: &ParameterSets) -> Result<VideoConfig, Error> {
    let sps = parse_sps(sets.sps.first().ok_or(Error::Invalid("H.265 without SPS"))?)?;
    Ok(VideoConfig {
        codec: VideoCodec::Hevc,
        record: record(sets, &sps)?,
        width: sps.width,
        height: sps.height,
        frame_rate: None,
        codec_string: codec_string(sps.profile_tier_level),
        reorder_frames: Some(sps.reorder_pictures),
        colour: sps.colour,
    })
}

/// spec: ISO/IEC 14496-15 annex E.3
fn codec_string([first, c0, c1, c2, c3, constraints @ .., level]: [u8; 12]) -> String {
    let space = match first >> 6 {
        1 => "A",
        2 => "B",
        3 => "C",
        _ => "",
    };
    let compatibility = u32::from_be_bytes([c0, c1, c2, c3]).reverse_bits();
    let tier = if first & 0x20 == 0 { 'L' } else { 'H' };
    let mut text = format!("hvc1.{space}{}.{compatibility:X}.{tier}{level}", first & 0x1f);
    let used = constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for byte in constraints.iter().take(used) {
        let _ = write!(text, ".{byte:X}");
    }
    text
}

fn record(sets: &ParameterSets, sps: &Sps) -> Result<Bytes, Error> {
    let narrow = |value: u32| u8::try_from(value).unwrap_or(u8::MAX);
    let mut out = BytesMut::new();
    out.put_u8(1);
    out.put_slice(&sps.profile_tier_level);
    out.put_u16(0xf000); // min_spatial_segmentation_idc: unknown
    out.put_u8(0xfc); // parallelismType: unknown
    out.put_u8(0xfc | narrow(sps.chroma_format));
    out.put_u8(0xf8 | narrow(sps.bit_depth_luma_minus8));
    out.put_u8(0xf8 | narrow(sps.bit_depth_chroma_minus8));
    out.put_u16(0); // avgFrameRate: unspecified
    out.put_u8(narrow(sps.max_sub_layers) << 3 | u8::from(sps.temporal_id_nested) << 2 | 3);
    let arrays = [(32, &sets.vps), (33, &sets.sps), (34, &sets.pps)];
    out.put_u8(narrow(u32::try_from(arrays.iter().filter(|(_, list)| !list.is_empty()).count()).unwrap_or(3)));
    for (nal_type, list) in arrays.into_iter().filter(|(_, list)| !list.is_empty()) {
        out.put_u8(0x80 | nal_type); // array_completeness: none is in the samples
        out.put_u16(u16::try_from(list.len()).unwrap_or(u16::MAX));
        for nal in list {
            out.put_u16(u16::try_from(nal.len()).map_err(|_| Error::Invalid("parameter set length"))?);
            out.put_slice(nal);
        }
    }
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codec_string_follows_the_examples_of_the_specification() {
        // Main profile, level 3.1, progressive: the string that ffmpeg and shaka-packager give.
        let main = [0x01, 0x60, 0, 0, 0, 0x90, 0, 0, 0, 0, 0, 93];
        assert_eq!(codec_string(main), "hvc1.1.6.L93.90");
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(parse_record(&Bytes::from_static(&[1; 30])).is_err());
        assert!(parse_sps(&[0x42, 1, 0xff, 0xff, 0xff]).is_err());
    }
}
