//! What is told of a leg and of a stream: for people, never for decisions.

use std::time::Duration;

use bytes::Bytes;

/// Who publishes: for people, never for decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publisher {
    /// `rtmp`, `rtmps`, ….
    pub protocol: &'static str,
    /// Network address.
    pub peer: String,
    /// What the encoder calls itself.
    pub encoder: Option<String>,
    /// Identifier of the key that was used; not the key.
    pub key_id: String,
    /// 0 is preferred; a leg with a higher rank feeds the program only while no better one is healthy.
    pub rank: u8,
    /// This server goes for it by itself: nobody is there who could be asked to leave.
    pub is_fetched: bool,
}

/// The rank of a slate: it feeds the program only while nothing else can, and gives way at once.
pub const SLATE_RANK: u8 = u8::MAX;

/// What the network did to a leg, since it connected; where the protocol tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// Round trip time.
    pub rtt: Duration,
    /// Time that lost packets have to come again.
    pub latency: Duration,
    /// Media time that waits to be due.
    pub buffer: Duration,
    /// Packets that came.
    pub packets: u64,
    /// Packets that were missing at first.
    pub lost: u64,
    /// Packets that came again.
    pub retransmitted: u64,
    /// Packets that came too late.
    pub belated: u64,
    /// Packets that never came: what is missing in the media.
    pub dropped: u64,
    /// Packets that could not be decrypted.
    pub undecryptable: u64,
    /// Bytes of the last second.
    pub bytes_per_second: u64,
    /// What the line could carry, in bits per second; 0 where it is not known.
    pub capacity_bits_per_second: u64,
    /// Packets of the transport stream that were missing or out of order.
    pub continuity_errors: u64,
}

/// One of several ways over which a leg comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its other end.
    pub peer: String,
    /// What the network did to it.
    pub transport: Transport,
}

/// What stands beside picture and sound in a transport stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Which kind.
    pub kind: MarkerKind,
    /// The PID it came on.
    pub pid: u16,
    /// When it came, in nanoseconds of UTC.
    pub utc_nanos: i64,
    /// As it came: a splice information section, or a KLV unit.
    pub bytes: Bytes,
}

/// A kind of [`Marker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkerKind {
    /// SCTE 35: a splice, an advertisement.
    Scte35,
    /// Metadata as key, length, value (SMPTE ST 336).
    Klv,
}

/// Markers of each kind that are kept.
pub(crate) const MARKERS_MAX: usize = 16;
/// Bytes of a marker that are kept.
pub(crate) const MARKER_BYTES_MAX: usize = 4096;
