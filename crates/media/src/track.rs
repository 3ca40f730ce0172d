//! Tracks and what a decoder must know before the first access unit.

use bytes::Bytes;

use crate::{FrameRate, Timescale};

/// The two kinds of track a program has; at most one of each until renditions arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrackKind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
}

impl TrackKind {
    /// The word used in logs, metrics and file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Audio => "audio",
        }
    }
}

/// Codec configuration of a track. Equal values mean that a decoder needs no new initialization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodecConfig {
    /// Of a video track.
    Video(VideoConfig),
    /// Of an audio track.
    Audio(AudioConfig),
}

impl CodecConfig {
    /// The scale of the track's ticks: [`Timescale::VIDEO`], or the sample rate of the sound.
    pub fn timescale(&self) -> Timescale {
        match self {
            Self::Video(_) => Timescale::VIDEO,
            Self::Audio(audio) => audio.timescale,
        }
    }

    /// Video or audio.
    pub fn kind(&self) -> TrackKind {
        match self {
            Self::Video(_) => TrackKind::Video,
            Self::Audio(_) => TrackKind::Audio,
        }
    }

    /// The RFC 6381 codec string.
    pub fn codec_string(&self) -> &str {
        match self {
            Self::Video(video) => &video.codec_string,
            Self::Audio(audio) => &audio.codec_string,
        }
    }
}

/// Video codecs that are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VideoCodec {
    /// H.264, ISO/IEC 14496-10.
    Avc,
    /// H.265, ISO/IEC 23008-2.
    Hevc,
    /// AV1.
    Av1,
    /// VP9.
    Vp9,
}

impl VideoCodec {
    /// Name for people: `H.264`, `H.265`, `AV1`, `VP9`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Avc => "H.264",
            Self::Hevc => "H.265",
            Self::Av1 => "AV1",
            Self::Vp9 => "VP9",
        }
    }
}

/// Audio codecs that are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AudioCodec {
    /// AAC, ISO/IEC 14496-3.
    Aac,
    /// Opus, RFC 6716.
    Opus,
}

impl AudioCodec {
    /// Name for people: `AAC`, `Opus`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aac => "AAC",
            Self::Opus => "Opus",
        }
    }
}

/// Configuration of a video track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoConfig {
    /// The codec.
    pub codec: VideoCodec,
    /// Payload of the `avcC`, `hvcC`, `av1C` or `vpcC` box, in one canonical form per set of parameters.
    pub record: Bytes,
    /// Coded width in pixels, after cropping.
    pub width: u32,
    /// Coded height in pixels, after cropping.
    pub height: u32,
    /// The frame rate the bitstream declares; a hint, not a promise.
    pub frame_rate: Option<FrameRate>,
    /// RFC 6381 string, for example `avc1.64001f`.
    pub codec_string: String,
    /// Frames the decoder may have to hold back (B-frames), where the bitstream says.
    pub reorder_frames: Option<u32>,
    /// How sample values become light, where the bitstream says.
    pub colour: Option<Colour>,
}

/// Colour description in the code points of ITU-T H.273, which all codecs share; 2 is "unspecified".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour {
    /// Colour primaries. spec: H.273 §8.1
    pub primaries: u8,
    /// Transfer characteristics. spec: H.273 §8.2
    pub transfer: u8,
    /// Matrix coefficients. spec: H.273 §8.3
    pub matrix: u8,
    /// Samples use all values, not the narrow range of television.
    pub is_full_range: bool,
}

impl Colour {
    /// Dynamic range as players choose by it.
    pub fn dynamic_range(self) -> DynamicRange {
        match self.transfer {
            16 => DynamicRange::Pq,
            18 => DynamicRange::Hlg,
            _ => DynamicRange::Sdr,
        }
    }
}

/// Dynamic range of a picture, in the terms of `VIDEO-RANGE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DynamicRange {
    /// Standard.
    #[default]
    Sdr,
    /// Hybrid log-gamma, ITU-R BT.2100.
    Hlg,
    /// Perceptual quantizer, ITU-R BT.2100 (HDR10).
    Pq,
}

/// Configuration of an audio track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioConfig {
    /// The codec.
    pub codec: AudioCodec,
    /// `AudioSpecificConfig` (ISO/IEC 14496-3 §1.6.2.1), or the payload of the `dOps` box.
    pub record: Bytes,
    /// Ticks per second: the sampling rate of the core codec.
    pub timescale: Timescale,
    /// Channels that come out.
    pub channels: u8,
    /// Samples in one access unit: 1024 or 960 for AAC; the usual 960 for Opus, whose packets say themselves.
    pub samples_per_unit: u32,
    /// RFC 6381 string, for example `mp4a.40.2`.
    pub codec_string: String,
}
