//! NAL units behind start codes, as transport streams carry them. spec: H.264 annex B, H.265 annex B

use bytes::{BufMut, Bytes, BytesMut};
use media::{Payload, VideoCodec, VideoConfig};

use crate::{h264, h265};

/// The NAL units of a byte stream, without start codes and the zeros around them. What stands before the first start code
/// is left out.
pub(crate) fn units(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(bytes);
    std::iter::from_fn(move || {
        loop {
            let current = rest?;
            let end = find_start_code(current);
            let unit = current.get(..end.unwrap_or(current.len())).unwrap_or_default();
            rest = end.and_then(|end| after_start_code(current.get(end..)?));
            let length = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if length > 0 {
                return unit.get(..length);
            }
        }
    })
}

/// Where the next three bytes 0, 0, 1 begin.
fn find_start_code(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    // Every third byte: 1 is the end of a start code, 0 may be inside one, anything else is far from one.
    while let Some(&[a, b, c]) = bytes.get(at..at + 3).and_then(|three| three.first_chunk::<3>()) {
        match (a, b, c) {
            (0, 0, 1) => return Some(at),
            (_, _, 2..) => at += 3,
            (_, 1.., _) => at += 2,
            _ => at += 1,
        }
    }
    None
}

fn after_start_code(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(find_start_code(bytes)? + 3..)
}

/// The same access unit with four-byte lengths instead of start codes; in one copy.
pub fn to_lengths(bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(bytes.len() + 16);
    for unit in units(bytes) {
        out.put_u32(u32::try_from(unit.len()).unwrap_or(u32::MAX));
        out.put_slice(unit);
    }
    out.freeze()
}

/// Whether a unit of this codec carries parameter sets: then a decoder can start here, or nearly.
pub fn has_parameter_sets(codec: VideoCodec, bytes: &[u8]) -> bool {
    units(bytes).any(|unit| match codec {
        VideoCodec::Avc => h264::nal_kind(unit) == h264::NalKind::Sps,
        VideoCodec::Hevc => h265::nal_kind(unit) == h265::NalKind::Sps,
        VideoCodec::Av1 | VideoCodec::Vp9 => false,
    })
}

/// An access unit of the canonical form with start codes: a delimiter, the parameter sets where a decoder can start, and its
/// NAL units. `None` for codecs that have no such form.
pub fn to_start_codes(config: &VideoConfig, payload: &Payload, is_random_access: bool) -> Option<Bytes> {
    const START_CODE: [u8; 4] = [0, 0, 0, 1];
    let (delimiter, sets): (&[u8], Vec<Bytes>) = match config.codec {
        VideoCodec::Avc => {
            let (_, sets) = h264::parse_record(&config.record).ok()?;
            (&[9, 0xf0], [sets.sps, sets.pps].concat())
        }
        VideoCodec::Hevc => {
            let (_, sets) = h265::parse_record(&config.record).ok()?;
            (&[0x46, 1, 0x50], [sets.vps, sets.sps, sets.pps].concat())
        }
        VideoCodec::Av1 | VideoCodec::Vp9 => return None,
    };
    let mut out = BytesMut::with_capacity(payload.len() + 256);
    let mut put = |unit: &[u8]| {
        out.put_slice(&START_CODE);
        out.put_slice(unit);
    };
    put(delimiter);
    if is_random_access {
        sets.iter().for_each(|set| put(set));
    }
    let whole = payload.to_bytes();
    let mut rest = &whole[..];
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (unit, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        put(unit);
        rest = after;
    }
    Some(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_behind_start_codes_of_any_length() {
        let stream = b"\0\0\0\x01\x09\xf0\0\0\x01\x67abc\0\0\0\x01\x68d\0\0\x01\0\0\0\x01\x65\0\x01\0\0\x02z\0\0\0";
        let found: Vec<&[u8]> = units(stream).collect();
        assert_eq!(found, [&b"\x09\xf0"[..], b"\x67abc", b"\x68d", b"\x65\0\x01\0\0\x02z"]);
        assert_eq!(units(b"no start code").count(), 0);
        assert_eq!(units(b"\0\0\x01").count(), 0);
        assert_eq!(to_lengths(b"\0\0\x01ab\0\0\x01c"), &b"\0\0\0\x02ab\0\0\0\x01c"[..]);
    }

    #[test]
    fn start_codes_are_found_wherever_they_stand() {
        for before in 0..20 {
            for fill in [0u8, 1, 2, 0xff] {
                let mut bytes = vec![fill; before];
                bytes.extend_from_slice(&[7, 0, 0, 1, 5]);
                assert_eq!(units(&bytes).last(), Some(&[5u8][..]), "{before} of {fill}");
            }
        }
    }
}
