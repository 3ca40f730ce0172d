//! HLS and Low-Latency HLS: the packager, its playlists, and when a blocked request is answered; and a reader of playlists
//! ([`read`]). Sans-IO.
//!
//! | Subject | Specification |
//! | --- | --- |
//! | playlists, parts, blocking reload, delta updates | draft-pantos-hls-rfc8216bis-22 |
//! | what Apple's players want of a live stream | HLS Authoring Specification (rules AUTH-*) |
//! | segments | CMAF, ISO/IEC 23000-19 |
//!
//! Invariants: a published part never changes; PART-TARGET and TARGETDURATION never change in a playlist's life; media
//! sequence numbers never skip, repeat or go back; a name is used once.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod assembler;
mod era;
mod hash;
mod multivariant;
mod packager;
mod playlist;
pub mod read;
mod utc;

pub use hash::content_hash;
pub use packager::{Continuation, Packager, PackagerConfig};
pub use playlist::{Decision, Directives, InitSegment, MediaPlaylist, Part, Position, Resource, Segment, Targets};
pub use utc::format_utc;
