//! Containers: FLV tag bodies (as RTMP messages carry them), fragmented MP4 and MPEG transport streams.
//!
//! | Module | Specification |
//! | --- | --- |
//! | [`flv`] | Adobe FLV 10.1 annex E; Enhanced RTMP v2 |
//! | [`fmp4`] | ISO/IEC 14496-12; CMAF, ISO/IEC 23000-19 |
//! | [`mpegts`] | ISO/IEC 13818-1; ETSI TR 101 290 |
//!
//! Invariants: parsers borrow or slice, they never copy payload; writers emit headers only and leave the payload to
//! whoever owns it; bytes from outside lead to `Err`. Transport streams, which cut payload into 184 bytes, are the
//! exception: one copy each way, and what is damaged is counted, not refused.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

pub mod flv;
pub mod fmp4;
pub mod mpegts;
