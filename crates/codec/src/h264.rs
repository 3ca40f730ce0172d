//! H.264: `avcC` records, parameter sets, the random access points of an access unit.

use bytes::{BufMut, Bytes, BytesMut};
use h264_reader::nal::sps::{SeqParameterSet, VideoSignalType};
use h264_reader::rbsp::{BitReader, decode_nal};
use media::{Colour, FrameRate, VideoCodec, VideoConfig};

use crate::nal::LengthSize;
use crate::{Error, SIZE_MAX};

/// Most parameter sets of one type that are kept. spec: H.264 §7.4.1.2.1 allows 32 SPS and 256 PPS
const PARAMETER_SETS_MAX: usize = 32;

/// What a NAL unit is to us. spec: H.264 table 7-1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NalKind {
    Idr,
    OtherSlice,
    Sei,
    Sps,
    Pps,
    /// Access unit delimiter, filler, SPS extension: not carried.
    Dropped,
    Other,
}

pub(crate) fn nal_kind(nal: &[u8]) -> NalKind {
    match nal.first().map(|header| header & 0x1f) {
        Some(5) => NalKind::Idr,
        Some(1..=4) => NalKind::OtherSlice,
        Some(6) => NalKind::Sei,
        Some(7) => NalKind::Sps,
        Some(8) => NalKind::Pps,
        Some(9 | 12 | 13) => NalKind::Dropped,
        _ => NalKind::Other,
    }
}

/// Whether the SEI NAL unit holds a recovery point with `recovery_frame_cnt` 0: an open GOP's random access point.
/// spec: H.264 §D.1.8
pub(crate) fn is_recovery_point(nal: &[u8]) -> bool {
    let mut rest = nal.get(1..).unwrap_or_default();
    while rest.len() > 2 {
        let Some((kind, after_kind)) = sei_number(rest) else { return false };
        let Some((size, body)) = sei_number(after_kind) else { return false };
        if kind == 6 {
            return body.first().is_some_and(|byte| byte & 0x80 != 0); // ue(0) is a single 1
        }
        rest = body.get(size..).unwrap_or_default();
    }
    false
}

pub(crate) fn sei_number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let ff = bytes.iter().take_while(|byte| **byte == 0xff).count();
    let (last, rest) = bytes.get(ff..)?.split_first()?;
    Some((ff * 255 + usize::from(*last), rest))
}

/// SPS and PPS of a stream, each with its NAL header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ParameterSets {
    pub(crate) sps: Vec<Bytes>,
    pub(crate) pps: Vec<Bytes>,
}

/// Reads an `AVCDecoderConfigurationRecord`. spec: ISO/IEC 14496-15 §5.3.3.1
pub(crate) fn parse_record(record: &Bytes) -> Result<(LengthSize, ParameterSets), Error> {
    const WHAT: &str = "avcC record";
    let &[version, _, _, _, length_size, sps_count, ..] = record.as_ref() else {
        return Err(Error::Truncated(WHAT));
    };
    if version != 1 {
        return Err(Error::Invalid("avcC version"));
    }
    let mut rest = record.slice(6..);
    let sps = take_sets(&mut rest, usize::from(sps_count & 0x1f))?;
    let pps_count = *rest.first().ok_or(Error::Truncated(WHAT))?;
    rest = rest.slice(1..);
    let pps = take_sets(&mut rest, usize::from(pps_count))?;
    if sps.is_empty() || pps.is_empty() {
        return Err(Error::Invalid("avcC without parameter sets"));
    }
    Ok((LengthSize::from_minus_one(length_size)?, ParameterSets { sps, pps }))
}

fn take_sets(rest: &mut Bytes, count: usize) -> Result<Vec<Bytes>, Error> {
    let mut sets = Vec::new();
    for _ in 0..count {
        let &[high, low, ..] = rest.as_ref() else { return Err(Error::Truncated("avcC parameter set")) };
        let end = 2 + usize::from(u16::from_be_bytes([high, low]));
        if rest.len() < end {
            return Err(Error::Truncated("avcC parameter set"));
        }
        let set = rest.split_to(end).slice(2..);
        if !set.is_empty() && sets.len() < PARAMETER_SETS_MAX {
            sets.push(set);
        }
    }
    Ok(sets)
}

/// The configuration that follows from parameter sets; its record is the same for the same sets.
pub(crate) fn config(sets: &ParameterSets) -> Result<VideoConfig, Error> {
    let first = sets.sps.first().ok_or(Error::Invalid("H.264 without SPS"))?;
    let &[_, profile, constraints, level, ..] = first.as_ref() else { return Err(Error::Truncated("H.264 SPS")) };
    let rbsp = decode_nal(first).map_err(|_| Error::Invalid("H.264 SPS"))?;
    let sps = SeqParameterSet::from_bits(BitReader::new(rbsp.as_ref())).map_err(|_| Error::Invalid("H.264 SPS"))?;
    let (width, height) = sps.pixel_dimensions().map_err(|_| Error::Invalid("H.264 picture size"))?;
    if width == 0 || height == 0 || width > SIZE_MAX || height > SIZE_MAX {
        return Err(Error::Unsupported("H.264 picture size"));
    }
    let vui = sps.vui_parameters.as_ref();
    // spec: H.264 §E.2.1: a tick is a field, two make a frame
    let frame_rate = vui
        .and_then(|vui| vui.timing_info.as_ref())
        .and_then(|timing| FrameRate::new(timing.time_scale, timing.num_units_in_tick.checked_mul(2)?));
    let reorder_frames = match vui.and_then(|vui| vui.bitstream_restrictions.as_ref()) {
        Some(restrictions) => Some(restrictions.max_num_reorder_frames),
        None => (profile == 66).then_some(0), // Baseline has no B slices
    };
    Ok(VideoConfig {
        codec: VideoCodec::Avc,
        record: record(sets, &sps, [profile, constraints, level])?,
        width,
        height,
        frame_rate,
        codec_string: format!("avc1.{profile:02x}{constraints:02x}{level:02x}"),
        reorder_frames,
        colour: vui.and_then(|vui| colour(vui.video_signal_type.as_ref()?)),
    })
}

/// spec: H.264 §E.2.1
fn colour(signal: &VideoSignalType) -> Option<Colour> {
    let description = signal.colour_description.as_ref()?;
    Some(Colour {
        primaries: description.colour_primaries,
        transfer: description.transfer_characteristics,
        matrix: description.matrix_coefficients,
        is_full_range: signal.video_full_range_flag,
    })
}

fn record(sets: &ParameterSets, sps: &SeqParameterSet, profile: [u8; 3]) -> Result<Bytes, Error> {
    let mut out = BytesMut::new();
    out.put_u8(1);
    out.put_slice(&profile);
    out.put_u8(0xff); // four-byte lengths
    out.put_u8(0xe0 | u8::try_from(sets.sps.len()).unwrap_or(u8::MAX).min(31));
    put_sets(&mut out, &sets.sps)?;
    out.put_u8(u8::try_from(sets.pps.len()).unwrap_or(u8::MAX));
    put_sets(&mut out, &sets.pps)?;
    // spec: ISO/IEC 14496-15 §5.3.3.1.2: the High profiles say chroma format and bit depth
    if matches!(profile[0], 100 | 110 | 122 | 144) {
        let chroma = &sps.chroma_info;
        out.put_u8(0xfc | u8::try_from(chroma.chroma_format.to_u32() & 3).unwrap_or(1));
        out.put_u8(0xf8 | (chroma.bit_depth_luma_minus8 & 7));
        out.put_u8(0xf8 | (chroma.bit_depth_chroma_minus8 & 7));
        out.put_u8(0);
    }
    Ok(out.freeze())
}

fn put_sets(out: &mut BytesMut, sets: &[Bytes]) -> Result<(), Error> {
    for set in sets {
        out.put_u16(u16::try_from(set.len()).map_err(|_| Error::Invalid("parameter set length"))?);
        out.put_slice(set);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From ffmpeg 5.1 `-c:v libx264 -profile:v high -s 1280x720 -r 30`.
    const X264: &[u8] = &[
        0x01, 0x64, 0x00, 0x1f, 0xff, 0xe1, 0x00, 0x1a, 0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50, 0x05, 0xbb,
        0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0xc0, 0xf1, 0x83, 0x19, 0x60, 0x01, 0x00,
        0x06, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0, 0xfd, 0xf8, 0xf8, 0x00,
    ];

    #[test]
    fn reads_size_rate_and_codec_string() {
        let (_, sets) = parse_record(&Bytes::from_static(X264)).expect("valid");
        let config = config(&sets).expect("valid");

        assert_eq!((config.width, config.height), (1280, 720));
        assert_eq!(config.frame_rate.expect("in VUI").to_string(), "30.000");
        assert_eq!(config.codec_string, "avc1.64001f");
        assert_eq!(config.record, X264, "x264's record is already canonical");
    }

    #[test]
    fn every_truncation_of_a_record_is_an_error() {
        for end in 0..X264.len() - 4 {
            assert!(parse_record(&Bytes::from_static(&X264[..end])).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn recovery_point_is_found_behind_other_messages() {
        assert!(is_recovery_point(&[6, 5, 2, 0xaa, 0xbb, 6, 1, 0xc0, 0x80]));
        assert!(!is_recovery_point(&[6, 5, 2, 0xaa, 0xbb, 0x80]));
        assert!(!is_recovery_point(&[6, 6, 1, 0x40, 0x80]), "recovery only after some frames");
        assert!(!is_recovery_point(&[6, 0xff, 0xff]));
    }
}
