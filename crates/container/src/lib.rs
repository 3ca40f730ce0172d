//! Containers: FLV tag bodies (as RTMP messages carry them) and fragmented MP4, payload by reference.
//!
//! | Module | Specification |
//! | --- | --- |
//! | [`flv`] | Adobe FLV 10.1 annex E; Enhanced RTMP v2 |
//! | [`fmp4`] | ISO/IEC 14496-12; CMAF, ISO/IEC 23000-19 |
//! | [`mpegts`] | ISO/IEC 13818-1; ETSI TR 101 290 |
//!
//! Invariants: parsers borrow or slice, they never copy payload, but for [`mpegts`], whose packets cut it
//! into pieces; writers of the others emit headers only and leave the payload to whoever owns it; bytes from outside lead to `Err`.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

pub mod flv;
pub mod fmp4;
pub mod mpegts;
