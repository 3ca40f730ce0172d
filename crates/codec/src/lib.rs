//! Codec headers: parameter sets and configuration records in, [`media::CodecConfig`] and canonical access units out.
//!
//! | Module | Specification |
//! | --- | --- |
//! | [`h264`] | ISO/IEC 14496-10 (ITU-T H.264) §7.3; `avcC`: ISO/IEC 14496-15 §5.3.3 |
//! | [`h265`] | ISO/IEC 23008-2 (ITU-T H.265) §7.3; `hvcC`: ISO/IEC 14496-15 §8.3.3 |
//! | [`av1`] | AV1 Bitstream §5; `av1C`: AV1-ISOBMFF §2.3 |
//! | [`vp9`] | VP9 Bitstream §6.2; `vpcC`: VP Codec ISO Media File Format Binding |
//! | [`annexb`] | ITU-T H.264 and H.265, annex B |
//! | [`aac`] | ISO/IEC 14496-3 §1.6, §4.4 |
//! | [`adts`] | ISO/IEC 13818-7 §6.2 |
//! | [`latm`] | ISO/IEC 14496-3 §1.7 |
//! | [`CaptureReader`] | times in SEI: H.264 §D.2.3, H.265 §D.3.27, MISB ST 0604 |
//! | [`opus`] | RFC 6716 §3.1, RFC 7845 §5.1; `dOps`: Opus in ISOBMFF §4.3.2; Opus in MPEG-TS §4 |
//!
//! Invariants: bytes from outside lead to `Err`, never to a panic; nothing is allocated by a number a peer sent;
//! an access unit is cut by reference, not copied, where its NAL units already have four-byte lengths.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

pub mod aac;
pub mod adts;
pub mod annexb;
pub mod av1;
mod bits;
mod capture;
pub mod h264;
pub mod h265;
pub mod latm;
mod nal;
pub mod opus;
mod video;
pub mod vp9;

pub use capture::{Capture, CaptureReader};
pub use video::{VideoStream, VideoUnit, parameter_sets, picture_data};

/// Widest and highest picture that is carried: 16K, more than any level allows.
const SIZE_MAX: u32 = 16_384;

/// What is wrong with a header or an access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes end inside a field.
    #[error("{0} ends too early")]
    Truncated(&'static str),
    /// A field has a value the specification forbids.
    #[error("{0} is invalid")]
    Invalid(&'static str),
    /// Within the specification, but not carried by this server.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}
