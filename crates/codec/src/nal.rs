//! NAL units with length prefixes, as ISO/IEC 14496-15 stores them.

use bytes::{BufMut, Bytes, BytesMut};
use media::Payload;

use crate::Error;

/// Bytes a NAL length is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LengthSize(usize);

impl LengthSize {
    /// Of the canonical form.
    pub(crate) const FOUR: Self = Self(4);

    /// From `lengthSizeMinusOne`: 0, 1 or 3. spec: ISO/IEC 14496-15 §5.3.3.1.2
    pub(crate) fn from_minus_one(value: u8) -> Result<Self, Error> {
        match value & 3 {
            2 => Err(Error::Invalid("NAL length size")),
            other => Ok(Self(usize::from(other) + 1)),
        }
    }
}

/// Calls `visit` with each NAL unit of `unit` (without its length) and joins those for which it says `true` into a
/// payload with four-byte lengths. Empty NAL units are left out.
pub(crate) fn filter(
    unit: &Bytes,
    size: LengthSize,
    mut visit: impl FnMut(&Bytes) -> Result<bool, Error>,
) -> Result<Payload, Error> {
    let mut payload = Payload::default();
    let mut rest = unit.clone();
    let mut kept = 0; // bytes at the front of `run` that are kept, prefixes included
    let mut run = unit.clone();
    while !rest.is_empty() {
        let prefix = rest.get(..size.0).ok_or(Error::Truncated("NAL length"))?;
        let length = prefix.iter().fold(0usize, |value, byte| value << 8 | usize::from(*byte));
        if rest.len() - size.0 < length {
            return Err(Error::Truncated("NAL unit"));
        }
        let nal = rest.slice(size.0..size.0 + length);
        let whole = size.0 + length;
        let keep = length > 0 && visit(&nal)?;
        rest = rest.slice(whole..);
        if keep && size.0 == 4 {
            kept += whole;
            continue;
        }
        payload.push(run.slice(..kept));
        kept = 0;
        run = rest.clone();
        if keep {
            payload.push(prefixed(&nal)); // shorter lengths are rewritten: rare, so copied
        }
    }
    payload.push(run.slice(..kept));
    Ok(payload)
}

fn prefixed(nal: &Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + nal.len());
    out.put_u32(u32::try_from(nal.len()).unwrap_or(u32::MAX));
    out.put_slice(nal);
    out.freeze()
}

/// Removes emulation prevention bytes. spec: H.264 §7.4.1, H.265 §7.4.2
pub(crate) fn rbsp(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len());
    let mut zeros = 0;
    for &byte in nal {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(nals: &[&[u8]]) -> Bytes {
        let mut out = BytesMut::new();
        for nal in nals {
            out.put_u32(u32::try_from(nal.len()).expect("small"));
            out.put_slice(nal);
        }
        out.freeze()
    }

    #[test]
    fn kept_neighbours_stay_one_slice() {
        let unit = unit(&[b"\x09x", b"\x06sei", b"\x65picture", b"\x0cfill", b"\x65more"]);

        let payload = filter(&unit, LengthSize(4), |nal| Ok(!matches!(nal.first(), Some(9 | 12)))).expect("valid");

        assert_eq!(payload.slices().count(), 2, "one cut in the middle, the front is trimmed");
        assert_eq!(payload.to_bytes(), self::unit(&[b"\x06sei", b"\x65picture", b"\x65more"]));
    }

    #[test]
    fn short_lengths_are_rewritten_to_four_bytes() {
        let payload = filter(&Bytes::from_static(b"\x00\x02ab\x00\x01c"), LengthSize(2), |_| Ok(true)).expect("valid");
        assert_eq!(payload.to_bytes(), unit(&[b"ab", b"c"]));
    }

    #[test]
    fn a_length_beyond_the_end_is_an_error() {
        for bad in [&b"\xff\xff\xff\xff"[..], b"\x00\x00\x00\x02a", b"\x00\x00"] {
            assert!(filter(&Bytes::from_static(bad), LengthSize(4), |_| Ok(true)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn emulation_prevention_bytes_are_removed() {
        assert_eq!(rbsp(&[0, 0, 3, 1, 0, 0, 3, 0, 0, 3]), [0, 0, 1, 0, 0, 0, 0]);
    }
}
