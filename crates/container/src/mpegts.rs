//! MPEG transport streams: what is in them, and how they are.
//!
//! | Subject | Specification |
//! | --- | --- |
//! | packets, PAT, PMT, PES, clock references | ISO/IEC 13818-1 |
//! | counters of an input's health | ETSI TR 101 290 §5.2.1, §5.2.2 |

mod demux;
mod health;
mod mux;
mod psi;

pub use demux::{Demuxer, DemuxerConfig, Event, PesUnit};
pub use health::Health;
pub use mux::Muxer;

/// Bytes of a packet. spec: ISO/IEC 13818-1 §2.4.3.2
pub const PACKET_BYTES: usize = 188;
pub(crate) const SYNC_BYTE: u8 = 0x47;
pub(crate) const PID_PAT: u16 = 0;
pub(crate) const PID_NULL: u16 = 0x1fff;

/// An elementary stream of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementaryStream {
    /// Where its packets are.
    pub pid: u16,
    /// As the PMT numbers it. spec: ISO/IEC 13818-1 table 2-34
    pub stream_type: u8,
    /// What it is.
    pub kind: StreamKind,
    /// ISO 639-2 code, where it says.
    pub language: Option<[u8; 3]>,
}

/// What an elementary stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// H.264, Annex B.
    H264,
    /// H.265, Annex B.
    H265,
    /// AAC in ADTS.
    AacAdts,
    /// AAC in LOAS/LATM.
    AacLatm,
    /// Opus; its channel configuration.
    Opus {
        /// `channel_config_code`.
        channel_config: u8,
    },
    /// AC-3.
    Ac3,
    /// E-AC-3.
    Eac3,
    /// MPEG-1 or MPEG-2 audio: layers I to III.
    MpegAudio,
    /// MPEG-2 video.
    Mpeg2Video,
    /// SCTE 35 splice information.
    SpliceInfo,
    /// KLV metadata.
    Klv,
    /// Anything else.
    Other,
}

impl StreamKind {
    /// Pictures.
    pub fn is_video(self) -> bool {
        matches!(self, Self::H264 | Self::H265 | Self::Mpeg2Video)
    }

    /// Sound.
    pub fn is_audio(self) -> bool {
        matches!(self, Self::AacAdts | Self::AacLatm | Self::Opus { .. } | Self::Ac3 | Self::Eac3 | Self::MpegAudio)
    }

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
            Self::SpliceInfo => "SCTE 35",
            Self::Klv => "KLV",
            Self::Other => "data",
        }
    }
}

#[cfg(test)]
mod tests;
