//! The vocabulary of media: time, access units, tracks, names.
//!
//! Everything above speaks in these words; this crate knows no protocol, no container and no clock.
//! The words are those of the glossary (`docs/glossary.md`), one per thing.
//!
//! | Subject | Specification |
//! | --- | --- |
//! | timescale, decode and presentation time | ISO/IEC 14496-12 §8.4.2, §8.6 |
//! | access unit | ISO/IEC 14496-10 §3, ISO/IEC 14496-3 |
//!
//! Invariants: media time is integer ticks of the owning track's [`Timescale`]; a payload is immutable and
//! shared; a secret prints nothing.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod access;
mod name;
mod time;
mod track;
mod unit;

pub use access::{AuthorizePlay, InvalidPlayback, PlayRefusal, Playback};
pub use name::{InvalidName, StreamKey, StreamName};
pub use time::{CompositionOffset, Dts, FrameRate, Pts, Timescale};
pub use track::{AudioCodec, AudioConfig, CodecConfig, Colour, DynamicRange, TrackKind, VideoCodec, VideoConfig};
pub use unit::{AccessUnit, Payload};
