//! Why a session ended, and which rule was broken.

use container::flv;

/// Why a session ended. One variant per kind of reaction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer broke the protocol; the payload names the rule.
    #[error("peer violated RTMP: {0}")]
    PeerMisbehaved(#[from] Violation),
    /// The peer is within the protocol but sends what is not carried.
    #[error("{0}")]
    Unsupported(#[from] flv::Error),
    /// Connects to an application that is not ours.
    #[error("there is no application '{got}' here: use rtmp://SERVER/{ours}")]
    UnknownApp {
        /// What it asked for.
        got: String,
        /// What there is.
        ours: Box<str>,
    },
    /// RTMP 1.0 §5.2 was not finished in time.
    #[error("handshake not finished in time")]
    HandshakeTimeout,
    /// Connected, but neither published nor played in time.
    #[error("nothing published or played in time")]
    CommandTimeout,
    /// Published, but no audio or video came in time.
    #[error("no audio or video within {0} s of the publish")]
    FirstMediaTimeout(u64),
    /// No audio or video for a while in the middle of the stream.
    #[error("no audio or video for {0} s")]
    MediaTimeout(u64),
    /// The other side refused, with its words (client role).
    #[error("refused by the server: {0}")]
    Refused(String),
}

/// Which rule a peer broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// RTMP 1.0 §5.2.2: C0 carries version 3.
    #[error("C0 version {got}, expected 3: this is not RTMP")]
    HandshakeVersion {
        /// What came instead.
        got: u8,
    },
    /// RTMP 1.0 §5.4.1: 1 to 2^31 − 1.
    #[error("chunk size {got}")]
    ChunkSize {
        /// The size asked for.
        got: u32,
    },
    /// A chunk of type 1–3 on a chunk stream that never had a type 0: RTMP 1.0 §5.3.1.2.
    #[error("chunk stream {chunk_stream} continues a message that never began")]
    NoPreviousChunk {
        /// The chunk stream id.
        chunk_stream: u32,
    },
    /// Our limit, not the protocol's.
    #[error("message of {length} bytes, at most {limit} are taken")]
    MessageTooLong {
        /// Announced length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Our limit on messages that have begun and not ended.
    #[error("more than {limit} bytes in unfinished messages")]
    TooMuchUnfinished {
        /// The limit.
        limit: usize,
    },
    /// Our limit on chunk streams.
    #[error("more than {limit} chunk streams")]
    TooManyChunkStreams {
        /// The limit.
        limit: usize,
    },
    /// A control message that is too short: RTMP 1.0 §5.4.
    #[error("control message of type {type_id} ends too early")]
    ShortControl {
        /// RTMP message type.
        type_id: u8,
    },
    /// AMF 0.
    #[error("AMF value: {0}")]
    Amf(&'static str),
    /// RTMP 1.0 §7.2: a command out of order or without its arguments.
    #[error("command {0}")]
    Command(&'static str),
    /// The peer closed in the middle of the handshake.
    #[error("connection closed during the handshake")]
    HandshakeEof,
}
