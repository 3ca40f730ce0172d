//! SRT in live mode: sans-IO sessions that are told datagrams and time and asked what to send.
//!
//! | Subject | Specification |
//! | --- | --- |
//! | packets, handshake, timing, loss, encryption | draft-sharabayko-srt-01 |
//! | stream identifier | SRT access control guideline |
//! | key wrapping | RFC 3394 |
//!
//! A [`Listener`] keeps no state for a peer before its cookie has come back; what it lets in becomes a [`Connection`].
//! A [`Caller`] becomes one too, and a [`Rendezvous`]. A [`Group`] is one or several of them that carry the same.
//!
//! Invariants: no I/O, no clock, no task; a peer's bytes lead to a counter or to `Err`, never to a panic; what a peer can
//! fill has a limit with a name; what is sent before a cookie has come back is no longer than what came.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod caller;
mod connection;
mod crypto;
mod group;
mod handshake;
mod listener;
mod packet;
mod receive;
mod rendezvous;
mod send;
mod stream_id;
#[cfg(test)]
mod tests;

pub use caller::{Caller, CallerConfig, Progress};
pub use connection::{CloseReason, Connection, Event, Output, Settings, Stats};
pub use crypto::{Cipher, KeyLength, Passphrase, PassphraseError};
pub use group::{GROUP_BIT, Group, GroupKind, GroupOutput};
pub use handshake::Membership;
pub use listener::{Incoming, Listener, Request};
pub use packet::destination;
pub use rendezvous::Rendezvous;
pub use stream_id::{Mode, StreamId};

/// Why a connection is refused, as the number that goes over the wire. spec: SRT access control §3
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectCode(pub u32);

impl RejectCode {
    /// The peer's handshake is damaged or impossible.
    pub const ROGUE: Self = Self(4);
    /// A resource is used up.
    pub const RESOURCE: Self = Self(3);
    /// The peer's version is too old.
    pub const VERSION: Self = Self(8);
    /// Wrong passphrase.
    pub const BAD_SECRET: Self = Self(10);
    /// One side wants encryption and the other does not.
    pub const UNSECURE: Self = Self(11);
    /// A packet filter was asked for that is not there.
    pub const FILTER: Self = Self(14);
    /// The cipher is not possible here.
    pub const CRYPTO: Self = Self(17);
    /// The group cannot be joined: it does not fit, or has too many links.
    pub const GROUP: Self = Self(15);
    /// The stream identifier cannot be understood.
    pub const BAD_REQUEST: Self = Self(1400);
    /// No key, or a wrong one.
    pub const UNAUTHORIZED: Self = Self(1401);
    /// The server is full.
    pub const OVERLOAD: Self = Self(1402);
    /// Not allowed.
    pub const FORBIDDEN: Self = Self(1403);
    /// No such stream.
    pub const NOT_FOUND: Self = Self(1404);
    /// The mode is not possible here.
    pub const BAD_MODE: Self = Self(1405);
    /// Somebody else publishes.
    pub const CONFLICT: Self = Self(1409);
    /// The server stops.
    pub const UNAVAILABLE: Self = Self(1503);
}

impl std::fmt::Display for RejectCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match *self {
            Self::ROGUE => "the handshake is damaged",
            Self::RESOURCE => "resources are used up",
            Self::VERSION => "the version is too old",
            Self::BAD_SECRET => "the passphrase is wrong",
            Self::UNSECURE => "one side wants encryption and the other does not",
            Self::FILTER => "packet filters are not supported",
            Self::CRYPTO => "the cipher does not fit: AES-GCM takes libsrt 1.5.4 or newer on both sides",
            Self::GROUP => "the group cannot be joined",
            Self::BAD_REQUEST => "the stream identifier cannot be understood",
            Self::UNAUTHORIZED => "the key is missing or wrong",
            Self::OVERLOAD => "the server is full",
            Self::FORBIDDEN => "not allowed",
            Self::NOT_FOUND => "there is no such stream",
            Self::BAD_MODE => "this mode is not possible here",
            Self::CONFLICT => "somebody else publishes",
            Self::UNAVAILABLE => "the server stops",
            Self(code) => return write!(f, "refused with code {code}"),
        };
        write!(f, "{text} ({})", self.0)
    }
}

/// What is wrong with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It ends inside a field.
    #[error("the packet ends too early")]
    Truncated,
    /// A field has a value the protocol forbids.
    #[error("{0} is invalid")]
    Invalid(&'static str),
}
