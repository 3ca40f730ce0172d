//! Access units and their payload.

use bytes::Bytes;

use crate::{CompositionOffset, Dts, Pts, TrackKind};

/// One coded picture or audio frame: what a decoder takes at once (ISO/IEC 14496-10 §3, 14496-3).
///
/// After the timeline, `dts` strictly increases within a track and `pts >= dts`. Video payloads are
/// length-prefixed (4 bytes) NAL units without access unit delimiters, parameter sets and filler, or AV1
/// low-overhead OBUs without temporal delimiters, or a VP9 frame; audio payloads are raw frames.
#[derive(Clone, Debug)]
pub struct AccessUnit {
    /// Which track it belongs to.
    pub track: TrackKind,
    /// Decode time.
    pub dts: Dts,
    /// Presentation time.
    pub pts: Pts,
    /// Ticks it lasts where the codec says so (audio); `None` where only the next unit tells (video).
    pub duration: Option<u32>,
    /// A decoder can start here.
    pub is_random_access: bool,
    /// The coded bytes.
    pub payload: Payload,
}

impl AccessUnit {
    /// PTS − DTS.
    pub fn composition_offset(&self) -> CompositionOffset {
        self.pts - self.dts
    }
}

/// Immutable coded bytes, shared by reference: usually one slice, several where something was cut out.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    first: Bytes,
    rest: Vec<Bytes>,
}

impl Payload {
    /// Appends a slice; empty ones are left out.
    pub fn push(&mut self, slice: Bytes) {
        if slice.is_empty() {
        } else if self.first.is_empty() {
            self.first = slice;
        } else {
            self.rest.push(slice);
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.slices().map(Bytes::len).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// The slices in order; none is empty.
    pub fn slices(&self) -> impl Iterator<Item = &Bytes> {
        (!self.first.is_empty()).then_some(&self.first).into_iter().chain(&self.rest)
    }

    /// All bytes in one piece; copies only where there are several slices.
    pub fn to_bytes(&self) -> Bytes {
        if self.rest.is_empty() {
            return self.first.clone();
        }
        self.slices()
            .fold(Vec::with_capacity(self.len()), |mut joined, slice| {
                joined.extend_from_slice(slice);
                joined
            })
            .into()
    }
}

impl From<Bytes> for Payload {
    fn from(first: Bytes) -> Self {
        Self { first, rest: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_keeps_order_and_length_over_several_slices() {
        let mut payload = Payload::default();
        for slice in [&b"ab"[..], b"", b"c", b"def"] {
            payload.push(Bytes::copy_from_slice(slice));
        }

        assert_eq!(payload.len(), 6);
        assert_eq!(payload.slices().count(), 3);
        assert_eq!(payload.to_bytes(), "abcdef");
    }
}
