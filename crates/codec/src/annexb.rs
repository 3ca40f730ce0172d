//! The byte stream form of NAL units (annex B), as MPEG transport streams carry it, and the way to lengths and back.

use bytes::{BufMut, Bytes, BytesMut};
use media::{Payload, VideoCodec};
use memchr::memmem::Finder;

use crate::Error;

/// Most access units that one PES packet is split into; what follows stays with the last.
const ACCESS_UNITS_MAX: usize = 64;

/// The NAL units of a byte stream, without start codes and zeros around them; what lies before the first start code is
/// left out. spec: H.264 annex B, H.265 annex B
pub fn nal_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let finder = Finder::new(b"\0\0\x01");
    let mut rest = finder.find(stream).and_then(|at| stream.get(at + 3..));
    std::iter::from_fn(move || {
        loop {
            let stream = rest?;
            let end = finder.find(stream);
            rest = end.and_then(|at| stream.get(at + 3..));
            let nal = trim(stream.get(..end.unwrap_or(stream.len())).unwrap_or_default());
            if !nal.is_empty() {
                return Some(nal);
            }
        }
    })
}

/// A NAL unit never ends with a zero byte: those are `trailing_zero_8bits` or part of the next start code.
fn trim(nal: &[u8]) -> &[u8] {
    let zeros = nal.iter().rev().take_while(|byte| **byte == 0).count();
    nal.get(..nal.len() - zeros).unwrap_or_default()
}

/// The access units of a byte stream, with four-byte lengths in place of start codes, in one copy. It is cut at delimiters that
/// follow a picture: OBS has a message before its first delimiter. Nothing else is changed: delimiters and parameter sets
/// stay, for [`crate::VideoStream`] to take.
///
/// Only the first unit has the timestamps of its PES packet; the others have none of their own.
/// spec: ISO/IEC 13818-1 §2.14.1: each access unit begins with a delimiter
pub fn access_units(stream: &[u8], codec: VideoCodec) -> Vec<Bytes> {
    split(stream, codec, ACCESS_UNITS_MAX)
}

/// The access units of a whole file, likewise, however many there are: for files of our own.
pub fn file_units(stream: &[u8], codec: VideoCodec) -> Vec<Bytes> {
    split(stream, codec, usize::MAX)
}

fn split(stream: &[u8], codec: VideoCodec, most: usize) -> Vec<Bytes> {
    let mut units = Vec::with_capacity(1);
    // A start code of three bytes becomes a length of four.
    let mut out = BytesMut::with_capacity(stream.len() + 16);
    let mut has_picture = false;
    for nal in nal_units(stream) {
        if has_picture && units.len() + 1 < most && is_delimiter(nal, codec) {
            units.push(out.split().freeze());
            has_picture = false;
        }
        has_picture |= is_picture(nal, codec);
        out.put_u32(u32::try_from(nal.len()).unwrap_or(u32::MAX));
        out.put_slice(nal);
    }
    units.push(out.freeze());
    units
}

/// spec: H.264 table 7-1, H.265 table 7-1
fn is_picture(nal: &[u8], codec: VideoCodec) -> bool {
    match (codec, nal.first()) {
        (VideoCodec::Avc, Some(header)) => matches!(header & 0x1f, 1..=5),
        (VideoCodec::Hevc, Some(header)) => header >> 1 & 0x3f < 32,
        _ => false,
    }
}

/// spec: H.264 table 7-1, H.265 table 7-1
fn is_delimiter(nal: &[u8], codec: VideoCodec) -> bool {
    match (codec, nal.first()) {
        (VideoCodec::Avc, Some(header)) => header & 0x1f == 9,
        (VideoCodec::Hevc, Some(header)) => header >> 1 & 0x3f == 35,
        _ => false,
    }
}

/// Appends an access unit as byte stream: a delimiter, `parameter_sets` (see [`crate::parameter_sets`]; for random
/// access points), the NAL units of `payload`. spec: ISO/IEC 13818-1 §2.14.1, §2.17.1
///
/// # Errors
/// The payload does not consist of NAL units with four-byte lengths, or the codec has no byte stream form. What was
/// appended is then to be thrown away.
pub fn write(codec: VideoCodec, parameter_sets: &[Bytes], payload: &Payload, out: &mut BytesMut) -> Result<(), Error> {
    const START_CODE: &[u8] = &[0, 0, 0, 1];
    let delimiter: &[u8] = match codec {
        VideoCodec::Avc => &[0, 0, 0, 1, 0x09, 0xf0],
        VideoCodec::Hevc => &[0, 0, 0, 1, 0x46, 0x01, 0x50],
        VideoCodec::Av1 | VideoCodec::Vp9 => return Err(Error::Unsupported("byte stream of AV1 or VP9")),
    };
    let sets: usize = parameter_sets.iter().map(|set| 4 + set.len()).sum();
    out.reserve(delimiter.len() + sets + payload.len());
    out.put_slice(delimiter);
    for set in parameter_sets {
        out.put_slice(START_CODE);
        out.put_slice(set);
    }
    let (mut length, mut length_bytes, mut left) = (0usize, 0, 0);
    for slice in payload.slices() {
        let mut rest = slice.as_ref();
        while let Some((first, after)) = rest.split_first() {
            if left > 0 {
                let (now, later) = rest.split_at(left.min(rest.len()));
                out.put_slice(now);
                left -= now.len();
                rest = later;
                continue;
            }
            length = length << 8 | usize::from(*first);
            length_bytes += 1;
            rest = after;
            if length_bytes == 4 {
                out.put_slice(START_CODE);
                left = std::mem::take(&mut length);
                length_bytes = 0;
            }
        }
    }
    if left > 0 || length_bytes > 0 { Err(Error::Truncated("NAL unit")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(stream: &[u8]) -> Vec<&[u8]> {
        nal_units(stream).collect()
    }

    #[test]
    fn start_codes_of_three_and_four_bytes_and_trailing_zeros_are_no_part_of_a_nal_unit() {
        let stream = b"\0\0\0\x01\x09\xf0\0\0\x01\x67ab\0\0\0\0\0\x01\x65\0\0\x03\0\x01x\0\0\0";
        assert_eq!(units(stream), [&b"\x09\xf0"[..], b"\x67ab", b"\x65\0\0\x03\0\x01x"]);
        assert_eq!(units(b"garbage\0\0\x01\x65"), [b"\x65"]);
        assert_eq!(units(b"\0\0\x01\0\0\x01"), [b""; 0]);
        assert_eq!(units(b"no start code"), [b""; 0]);
    }

    #[test]
    fn every_position_of_a_start_code_is_found() {
        for before in 0..12 {
            for fill in [0, 1, 2, 0xff] {
                let mut stream = vec![fill; before];
                stream.extend_from_slice(&[2, 0, 0, 1, 0x65]);
                assert_eq!(units(&stream).last(), Some(&&[0x65][..]), "{before} bytes of {fill}");
            }
        }
    }

    #[test]
    fn a_byte_stream_comes_back_from_lengths() {
        let stream = b"\0\0\0\x01\x09\xf0\0\0\0\x01\x67sps\0\0\0\x01\x65picture";
        let units = access_units(stream, VideoCodec::Avc);
        let [lengths] = units.as_slice() else { panic!("one unit") };
        assert_eq!(lengths.as_ref(), b"\0\0\0\x02\x09\xf0\0\0\0\x04\x67sps\0\0\0\x08\x65picture");
        let mut payload = Payload::default();
        payload.push(lengths.slice(6..9)); // a cut inside a length
        payload.push(lengths.slice(9..));
        let mut out = BytesMut::new();
        write(VideoCodec::Avc, &[], &payload, &mut out).expect("whole NAL units");
        assert_eq!(out.as_ref(), stream);
        assert!(write(VideoCodec::Avc, &[], &lengths.slice(..9).into(), &mut out).is_err());
    }

    #[test]
    fn several_access_units_are_cut_at_delimiters() {
        let stream = Bytes::from_static(
            b"\0\0\0\x01\x09\xf0\0\0\x01\x65a\0\0\0\x01\x09\xf0\0\0\x01\x41b\0\0\x01\x09\xf0\0\0\x01\x41c",
        );
        let units = access_units(&stream, VideoCodec::Avc);
        assert_eq!(units.iter().map(Bytes::len).collect::<Vec<_>>(), [12, 12, 12]);
        assert_eq!(units.concat(), access_units(&stream, VideoCodec::Hevc).concat(), "which has other delimiters");
        assert_eq!(access_units(&stream, VideoCodec::Hevc).len(), 1);
        let of_obs = b"\0\0\x01\x06sei\0\0\0\x01\x09\xf0\0\0\x01\x67sps\0\0\x01\x65a";
        assert_eq!(
            access_units(of_obs, VideoCodec::Avc).len(),
            1,
            "what stands before the first delimiter belongs to it"
        );
    }
}
