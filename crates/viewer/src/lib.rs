//! The synthetic viewer: watches a stream as a player does and says what it felt, checks a server against the rules, and
//! does both many times at once. Works with any server.
//!
//! | Module | What it is |
//! | --- | --- |
//! | [`follower`] | the player without a picture: sans-IO |
//! | [`direct`] | the same over RTMP and SRT, which have no playlists |
//! | [`quality`] | what a viewer felt, in figures |
//! | [`probe`], [`load`] | one viewer watched closely; many, and many publishers |
//! | [`check`] | conformance: every rule that a client can observe |
//! | [`client`] | HTTP/1.1 and HTTP/2, with the time that each step takes |
//!
//! Invariants: the follower is told the time and does no I/O; bodies of media are counted and thrown away; whatever a server
//! sends leads to a figure or a message, never to a panic.

mod bandwidth;
pub mod check;
pub mod client;
pub mod direct;
pub mod follower;
pub mod load;
mod playback;
pub mod probe;
pub mod publisher;
pub mod quality;
pub mod samples;
mod srt_link;
pub mod srt_publisher;
pub mod url;
pub mod watch;

pub use client::{HttpVersion, tls_connector};
pub use playback::{Moment, nanos};
pub use url::Url;
