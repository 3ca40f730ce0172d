//! MPEG transport streams: packets, tables and PES in both directions, and the health of what comes in.
//!
//! [`Demuxer`] is told bytes and gives events; [`Muxer`] is told access units and appends packets. Neither knows codecs:
//! a unit is the payload of one PES packet, and what lies in it is for the caller (Annex B, ADTS, LATM, Opus).
//!
//! Bounds: a PES packet has at most [`PES_BYTES_MAX`] bytes, all open ones together [`OPEN_BYTES_MAX`], and what waits
//! to be polled [`QUEUE_EVENTS_MAX`] events or [`QUEUE_BYTES_MAX`]. Buffers grow with what arrives, never by a length
//! that was announced. Payload is copied once, from the input into the buffer of its PES packet; a transport packet
//! that is cut by the input's pieces is joined first and so copied twice.

mod continuity;
mod demux;
mod framing;
mod health;
mod mux;

mod packet;
mod pes;
mod psi;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use demux::{Demuxer, DemuxerConfig};
pub use health::Health;
pub use mux::Muxer;

/// Longest PES packet that is put together: a picture of 16 MiB is 1 Gbit/s at 8 pictures a second.
pub const PES_BYTES_MAX: usize = 16 << 20;
/// Most bytes in unfinished PES packets of all streams together.
pub const OPEN_BYTES_MAX: usize = 64 << 20;
/// Most events that wait to be polled; later ones are left out and counted.
pub const QUEUE_EVENTS_MAX: usize = 16_384;
/// Most payload bytes that wait to be polled; later events are left out and counted.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Bytes of a packet. spec: ISO/IEC 13818-1 §2.4.3.2
pub const PACKET_BYTES: usize = 188;
const SYNC_BYTE: u8 = 0x47;
/// spec: ISO/IEC 13818-1 table 2-3
const PID_PAT: u16 = 0;
const PID_CAT: u16 = 1;
const PID_NULL: u16 = 0x1fff;

/// What a transport stream says, in the order in which it becomes known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The program map came or changed (version or content).
    Program {
        /// `program_number`.
        number: u16,
        /// The streams in the order of the map; none when the program left the stream.
        streams: Vec<ElementaryStream>,
    },
    /// One PES packet of sound or pictures.
    Unit(PesUnit),
    /// A `splice_info_section`, its CRC checked. spec: SCTE 35 §9.6
    Scte35 {
        /// The stream it came on.
        pid: u16,
        /// The whole section, from `table_id` to CRC.
        section: Bytes,
    },
    /// Metadata as MISB ST 1402 carries it. spec: MISB ST 1402 §9
    Klv {
        /// The stream it came on.
        pid: u16,
        /// Presentation time, 90 kHz, unwrapped; none for the asynchronous form.
        pts: Option<i64>,
        /// The PES payload; the synchronous form (stream type 0x15) keeps its metadata cell headers.
        payload: Bytes,
    },
    /// A stream of the program began to be scrambled; its units are lost until it is clear again.
    Scrambled {
        /// The stream.
        pid: u16,
    },
}

/// The payload of one PES packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PesUnit {
    /// The stream it came on.
    pub pid: u16,
    /// Presentation time in ticks of 90 kHz; the 33 bits are unwrapped against what came before.
    pub pts: Option<i64>,
    /// Decode time in ticks of 90 kHz, unwrapped; the presentation time where the packet has only that.
    pub dts: Option<i64>,
    /// `random_access_indicator` of the adaptation field it began with.
    pub is_random_access: bool,
    /// Packets were lost, or a discontinuity was signalled, since the last unit of this stream.
    pub after_loss: bool,
    /// Bytes are missing inside.
    pub is_damaged: bool,
    /// The bytes behind the PES header.
    pub payload: Bytes,
}

/// A stream of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementaryStream {
    /// Its packets carry this.
    pub pid: u16,
    /// As the program map says it. spec: ISO/IEC 13818-1 table 2-34
    pub stream_type: u8,
    /// What stream type and descriptors mean together.
    pub kind: StreamKind,
    /// ISO 639-2 code of three letters.
    pub language: Option<[u8; 3]>,
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamKind {
    /// H.264 in Annex B form.
    H264,
    /// H.265 in Annex B form.
    H265,
    /// AAC with ADTS headers.
    AacAdts,
    /// AAC in LOAS and LATM.
    AacLatm,
    /// Opus with control headers.
    Opus {
        /// 1–8, by `channel_config_code`; dual mono counts as 2. spec: Opus in MPEG-TS §4.2
        channels: u8,
    },
    /// Dolby Digital.
    Ac3,
    /// Dolby Digital Plus.
    Eac3,
    /// MPEG-1 or MPEG-2 audio, any layer.
    MpegAudio,
    /// MPEG-1 or MPEG-2 video.
    Mpeg2Video,
    /// Splice information sections.
    Scte35,
    /// KLV metadata.
    Klv,
    /// Anything else: listed, but its packets are not read.
    Other,
}

impl StreamKind {
    /// The field's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "H.264",
            Self::H265 => "H.265",
            Self::AacAdts | Self::AacLatm => "AAC",
            Self::Opus { .. } => "Opus",
            Self::Ac3 => "AC-3",
            Self::Eac3 => "E-AC-3",
            Self::MpegAudio => "MPEG audio (MP2, MP3)",
            Self::Mpeg2Video => "MPEG-2 video",
            Self::Scte35 => "SCTE 35",
            Self::Klv => "KLV",
            Self::Other => "data",
        }
    }

    /// Pictures in any coding.
    pub fn is_video(self) -> bool {
        matches!(self, Self::H264 | Self::H265 | Self::Mpeg2Video)
    }

    /// Sound in any coding.
    pub fn is_audio(self) -> bool {
        match self {
            Self::AacAdts | Self::AacLatm | Self::Opus { .. } | Self::Ac3 | Self::Eac3 | Self::MpegAudio => true,
            Self::H264 | Self::H265 | Self::Mpeg2Video | Self::Scte35 | Self::Klv | Self::Other => false,
        }
    }

    /// The codec crate can read it: H.264, H.265, AAC and Opus.
    pub fn is_carried(self) -> bool {
        matches!(self, Self::H264 | Self::H265 | Self::AacAdts | Self::AacLatm | Self::Opus { .. })
    }
}
