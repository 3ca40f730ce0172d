//! Messages with a meaning: commands, metadata, media.

use bytes::{Bytes, BytesMut};
use container::flv;
use media::{AudioCodec, CodecConfig, VideoCodec};

use crate::amf0::{self, Value, object};
use crate::chunk::Message;
use crate::{Error, Violation};

/// Message types. spec: RTMP 1.0 §5.4, §6.2, §7.1
pub(crate) mod type_id {
    pub(crate) const SET_CHUNK_SIZE: u8 = 1;
    pub(crate) const ABORT: u8 = 2;
    pub(crate) const ACKNOWLEDGEMENT: u8 = 3;
    pub(crate) const USER_CONTROL: u8 = 4;
    pub(crate) const WINDOW_ACK_SIZE: u8 = 5;
    pub(crate) const SET_PEER_BANDWIDTH: u8 = 6;
    pub(crate) const AUDIO: u8 = 8;
    pub(crate) const VIDEO: u8 = 9;
    pub(crate) const DATA_AMF3: u8 = 15;
    pub(crate) const COMMAND_AMF3: u8 = 17;
    pub(crate) const DATA_AMF0: u8 = 18;
    pub(crate) const COMMAND_AMF0: u8 = 20;
    pub(crate) const AGGREGATE: u8 = 22;
}

/// A command message: RTMP 1.0 §7.1.1.
#[derive(Clone, Debug)]
pub(crate) struct CommandMessage {
    pub(crate) name: String,
    pub(crate) transaction: f64,
    /// The command object and what follows it.
    pub(crate) arguments: Vec<Value>,
}

impl CommandMessage {
    /// Reads type 20, or type 17, which wraps the same values behind one byte.
    pub(crate) fn parse(message: &Message) -> Result<Self, Violation> {
        let mut values = decode_wrapped(message, type_id::COMMAND_AMF3)?.into_iter();
        let Some(Value::String(name)) = values.next() else { return Err(Violation::Command("without a name")) };
        let transaction = values.next().and_then(|value| value.as_f64()).unwrap_or(0.0);
        Ok(Self { name, transaction, arguments: values.collect() })
    }

    /// The text of argument `index`, the command object being 0.
    pub(crate) fn text(&self, index: usize) -> Option<&str> {
        self.arguments.get(index)?.as_str()
    }

    pub(crate) fn encode(name: &str, transaction: f64, arguments: &[Value]) -> BytesMut {
        let mut out = BytesMut::new();
        amf0::encode(&mut out, &name.into());
        amf0::encode(&mut out, &transaction.into());
        arguments.iter().for_each(|argument| amf0::encode(&mut out, argument));
        out
    }
}

/// The values of a data message (types 18 and 15).
pub(crate) fn decode_data(message: &Message) -> Result<Vec<Value>, Violation> {
    decode_wrapped(message, type_id::DATA_AMF3)
}

fn decode_wrapped(message: &Message, amf3_type: u8) -> Result<Vec<Value>, Violation> {
    let wrapped = message.type_id == amf3_type && message.payload.first() == Some(&0);
    amf0::decode_all(message.payload.get(usize::from(wrapped)..).unwrap_or_default())
}

/// spec: FLV 10.1 §E.4.3.1, §E.4.2.1
const AVC_ID: u32 = 7;
const AAC_ID: u32 = 10;

/// The number of a codec in `onMetaData`: its old one, or its FourCC. spec: Enhanced RTMP v2, metadata
pub fn codec_id(config: &CodecConfig) -> u32 {
    u32::from_be_bytes(*match config {
        CodecConfig::Video(video) => match video.codec {
            VideoCodec::Avc => return AVC_ID,
            VideoCodec::Hevc => b"hvc1",
            VideoCodec::Av1 => b"av01",
            VideoCodec::Vp9 => b"vp09",
        },
        CodecConfig::Audio(audio) => match audio.codec {
            AudioCodec::Aac => return AAC_ID,
            AudioCodec::Opus => b"Opus",
        },
    })
}

/// What an encoder says of itself in `onMetaData`; all of it is a hint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// Name of the encoder.
    pub encoder: Option<String>,
    /// Frames per second.
    pub frame_rate: Option<f64>,
    /// Declared video bit rate.
    pub video_bits_per_second: Option<u64>,
    /// Declared audio bit rate.
    pub audio_bits_per_second: Option<u64>,
    /// A video track was announced.
    pub has_video: bool,
    /// An audio track was announced.
    pub has_audio: bool,
    /// Which video codec, as [`codec_id`] has it. Written only; what a peer says is not needed.
    pub video_codec_id: Option<u32>,
    /// Which audio codec, as [`codec_id`] has it. Written only.
    pub audio_codec_id: Option<u32>,
    /// Declared sampling rate of the sound.
    pub audio_sample_rate: Option<u32>,
    /// Declared number of channels.
    pub audio_channels: Option<u8>,
}

/// When a picture was captured by the encoder's clock, as `onFI` (frame information) tells it: a data message that Flash Media Live
/// Encoder and those after it send with pictures. `st` in it is the time of the system, `tc` a time code. Its date and zone are left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// Nanoseconds since midnight, without `frames`.
    pub day_nanos: i64,
    /// Pictures since the second began, where it is a time code.
    pub frames: u32,
}

impl FrameInfo {
    /// From the values of a data message; `None` unless it is `onFI` with a time in it.
    pub(crate) fn from_values(values: &[Value]) -> Option<Self> {
        let (name, rest) = values.split_first()?;
        let (name, rest) = if name.as_str() == Some("@setDataFrame") { rest.split_first()? } else { (name, rest) };
        let info = rest.first().filter(|_| name.as_str() == Some("onFI"))?;
        let text = |key: &str| info.get(key).and_then(Value::as_str);
        text("st").and_then(system_time).or_else(|| text("tc").and_then(time_code))
    }

    /// From the values of a data message that came beside media, and where it lies: nanoseconds on the scale of that media.
    pub(crate) fn beside(values: &[Value], clock: &Unroller, timestamp: u32) -> Option<(i64, Self)> {
        let info = Self::from_values(values)?;
        Some((clock.beside(timestamp)?.saturating_mul(1_000_000), info))
    }

    /// The values of a data message, in milliseconds; `frames` is not told.
    pub(crate) fn to_values(self) -> Vec<Value> {
        let [hours, minutes, seconds, millis] =
            [3_600_000, 60_000, 1000, 1].map(|unit| self.day_nanos / 1_000_000 / unit);
        let text = format!("{:02}:{:02}:{:02}.{:03}", hours % 24, minutes % 60, seconds % 60, millis % 1000);
        vec!["onFI".into(), object([("st", Value::String(text))])]
    }
}

/// Hours, minutes and seconds as seconds since midnight.
fn day_seconds(hours: &str, minutes: &str, seconds: &str) -> Option<i64> {
    let [hours, minutes, seconds] = [(hours, 23), (minutes, 59), (seconds, 59)]
        .map(|(text, max)| text.parse::<i64>().ok().filter(|number| (0..=max).contains(number)));
    Some(hours? * 3600 + minutes? * 60 + seconds?)
}

/// `HH:MM:SS.mmm`
fn system_time(text: &str) -> Option<FrameInfo> {
    let mut fields = text.splitn(3, ':');
    let (hours, minutes, rest) = (fields.next()?, fields.next()?, fields.next()?);
    let (seconds, fraction) = rest.split_once(['.', ':', ',']).unwrap_or((rest, "0"));
    let digits =
        fraction.get(..fraction.len().min(9)).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    let fraction: i64 = format!("{digits:0<9}").parse().ok()?;
    Some(FrameInfo { day_nanos: day_seconds(hours, minutes, seconds)? * 1_000_000_000 + fraction, frames: 0 })
}

/// `HH:MM:SS:FF`; with `;` where numbers are dropped. spec: SMPTE ST 12-1
fn time_code(text: &str) -> Option<FrameInfo> {
    let mut fields = text.split([':', ';', '.']);
    let (hours, minutes, seconds) = (fields.next()?, fields.next()?, fields.next()?);
    let frames = fields.next()?.parse().ok().filter(|frames| *frames < 240)?;
    Some(FrameInfo { day_nanos: day_seconds(hours, minutes, seconds)? * 1_000_000_000, frames })
}

impl Metadata {
    /// From the values of a data message; `None` unless it is `onMetaData`, with or without `@setDataFrame`.
    pub(crate) fn from_values(values: &[Value]) -> Option<Self> {
        let mut values = values.iter();
        let mut name = values.next()?.as_str()?;
        if name == "@setDataFrame" {
            name = values.next()?.as_str()?;
        }
        let properties = values.next().filter(|_| name == "onMetaData")?;
        let number = |name: &str| properties.get(name).and_then(Value::as_f64).filter(|number| *number > 0.0);
        let bits = |name: &str| properties.get(name).and_then(Value::as_u32).map(|kilo| u64::from(kilo) * 1000);
        let is_set = |name: &str| !matches!(properties.get(name), None | Some(Value::Null | Value::Boolean(false)));
        let stereo = match properties.get("stereo") {
            Some(Value::Boolean(stereo)) => Some(1 + u8::from(*stereo)),
            _ => None,
        };
        Some(Self {
            encoder: properties.get("encoder").and_then(Value::as_str).map(|name| name.chars().take(80).collect()),
            frame_rate: number("framerate").or_else(|| number("videoframerate")).or_else(|| number("fps")),
            video_bits_per_second: bits("videodatarate"),
            audio_bits_per_second: bits("audiodatarate"),
            has_video: is_set("videocodecid") || is_set("width"),
            has_audio: is_set("audiocodecid") || is_set("audiosamplerate"),
            audio_sample_rate: properties.get("audiosamplerate").and_then(Value::as_u32),
            audio_channels: properties
                .get("audiochannels")
                .and_then(Value::as_u32)
                .and_then(|count| u8::try_from(count).ok())
                .or(stereo),
            video_codec_id: None,
            audio_codec_id: None,
        })
    }

    /// The values of an `onMetaData` message that says the same.
    pub(crate) fn to_values(&self) -> Vec<Value> {
        let mut properties = Vec::new();
        let mut number = |name: &str, value: Option<f64>| {
            if let Some(value) = value {
                properties.push((name.to_owned(), Value::Number(value)));
            }
        };
        let kilo = |bits: Option<u64>| bits.and_then(|bits| u32::try_from(bits / 1000).ok()).map(f64::from);
        number("framerate", self.frame_rate);
        number("videodatarate", kilo(self.video_bits_per_second));
        number("audiodatarate", kilo(self.audio_bits_per_second));
        number("audiosamplerate", self.audio_sample_rate.map(f64::from));
        number("audiochannels", self.audio_channels.map(f64::from));
        number("videocodecid", self.has_video.then(|| self.video_codec_id.unwrap_or(AVC_ID).into()));
        number("audiocodecid", self.has_audio.then(|| self.audio_codec_id.unwrap_or(AAC_ID).into()));
        properties.push(("encoder".into(), self.encoder.as_deref().unwrap_or("Throughline").into()));
        vec!["onMetaData".into(), Value::Object(properties)]
    }
}

/// One track's part of an audio or video message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    /// From a video message.
    Video(flv::Packet<VideoCodec>),
    /// From an audio message.
    Audio(flv::Packet<AudioCodec>),
}

impl Media {
    /// Nanoseconds to add to the message's timestamp. spec: Enhanced RTMP v2, ModEx TimestampOffsetNano
    pub(crate) fn nano_offset(&self) -> i64 {
        i64::from(match self {
            Self::Video(packet) => packet.nano_offset,
            Self::Audio(packet) => packet.nano_offset,
        })
    }
}

/// Most tracks of one message that are handed on.
const TRACKS_MAX: usize = 32;
/// Most parts of an aggregate message that are handed on: 1 s of pictures and sound.
const AGGREGATE_PARTS_MAX: usize = 640;

/// Reads an audio or video message; `on_media` is called for each track in it.
pub(crate) fn parse_media(type_id: u8, body: &Bytes, mut on_media: impl FnMut(Media)) -> Result<(), Error> {
    if body.is_empty() {
        return Ok(()); // an empty message: some encoders send one to say that a track is silent
    }
    let mut tracks = 0;
    let mut on_media = |media| {
        tracks += 1;
        if tracks <= TRACKS_MAX {
            on_media(media);
        }
    };
    let result = if type_id == type_id::VIDEO {
        flv::parse_video(body, |packet| on_media(Media::Video(packet)))
    } else {
        flv::parse_audio(body, |packet| on_media(Media::Audio(packet)))
    };
    Ok(result?)
}

/// Takes an aggregate message apart: FLV tags, whose times are relative to the first. spec: RTMP 1.0 §7.1.6
pub(crate) fn split_aggregate(message: &Message) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut rest = message.payload.clone();
    let mut first = None;
    while let &[type_id, l2, l1, l0, t2, t1, t0, t3, _, _, _, ..] = rest.as_ref() {
        let length = usize::from(l2) << 16 | usize::from(l1) << 8 | usize::from(l0);
        if rest.len() < 11 + length || messages.len() == AGGREGATE_PARTS_MAX {
            break;
        }
        let time = u32::from_be_bytes([t3, t2, t1, t0]);
        let offset = time.wrapping_sub(*first.get_or_insert(time));
        messages.push(Message {
            type_id,
            stream_id: message.stream_id,
            timestamp: message.timestamp.wrapping_add(offset),
            payload: rest.slice(11..11 + length),
        });
        rest = rest.slice((11 + length + 4).min(rest.len())..);
    }
    messages
}

/// Unrolls 32-bit milliseconds into 64 bits: steps of less than 2³¹ either way are taken as they are.
#[derive(Debug, Default)]
pub(crate) struct Unroller {
    last: Option<i64>,
}

impl Unroller {
    pub(crate) fn unroll(&mut self, timestamp: u32) -> i64 {
        let unrolled = match self.last {
            None => i64::from(timestamp),
            Some(last) => {
                let low = u32::try_from(last & 0xffff_ffff).unwrap_or(0);
                last.saturating_add(i64::from(timestamp.wrapping_sub(low).cast_signed()))
            }
        };
        self.last = Some(unrolled);
        unrolled
    }

    /// What a timestamp beside media means; 0, which some send with everything that is no media, is the media before. None before the first
    /// media, and far from it.
    pub(crate) fn beside(&self, timestamp: u32) -> Option<i64> {
        let last = self.last?;
        let unrolled = if timestamp == 0 { last } else { Self { last: Some(last) }.unroll(timestamp) };
        (unrolled.abs_diff(last) <= BESIDE_MS_MAX).then_some(unrolled)
    }
}

/// Furthest that what is told of a picture lies from media.
const BESIDE_MS_MAX: u64 = 5000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_information_is_a_time_of_day() {
        let info = |key: &str, text: &str| {
            FrameInfo::from_values(&[
                "onFI".into(),
                Value::Object(vec![("sd".into(), "29-11-2026".into()), (key.into(), text.into())]),
            ])
        };
        let at = |seconds: i64, nanos, frames| Some(FrameInfo { day_nanos: seconds * 1_000_000_000 + nanos, frames });
        assert_eq!(info("st", "11:12:13.5"), at(40_333, 500_000_000, 0));
        assert_eq!(info("st", "11:12:13.045"), at(40_333, 45_000_000, 0));
        assert_eq!(info("st", "11:12:13"), at(40_333, 0, 0));
        assert_eq!(info("tc", "11:12:13;24"), at(40_333, 0, 24));
        for wrong in ["", "11:12", "25:00:00", "a:b:c", "11:12:13.x", "-1:00:00", "11:12:13.é"] {
            assert_eq!((info("st", wrong), info("tc", wrong)), (None, None), "{wrong}");
        }
        assert_eq!(FrameInfo::from_values(&["onFI".into()]), None);
        let told = FrameInfo { day_nanos: 40_333_045_000_000, frames: 0 };
        assert_eq!(FrameInfo::from_values(&told.to_values()), Some(told));
    }

    #[test]
    fn what_is_beside_media_has_its_time_and_does_not_move_it() {
        let mut unroller = Unroller::default();
        assert_eq!(unroller.beside(40), None);
        unroller.unroll(10_000);
        assert_eq!(
            (unroller.beside(10_040), unroller.beside(0), unroller.beside(90_000)),
            (Some(10_040), Some(10_000), None)
        );
        assert_eq!(unroller.unroll(10_020), 10_020);
    }

    #[test]
    fn timestamps_unroll_over_the_wrap_and_back() {
        let mut unroller = Unroller::default();
        let stamps = [u32::MAX - 20, 20, u32::MAX - 10, 40];
        let unrolled: Vec<i64> = stamps.into_iter().map(|stamp| unroller.unroll(stamp)).collect();
        let wrap = 1i64 << 32;
        assert_eq!(unrolled, [wrap - 21, wrap + 20, wrap - 11, wrap + 40]);
    }

    #[test]
    fn metadata_says_the_same_after_a_round_trip() {
        let metadata = Metadata {
            encoder: Some("obs-output module (libobs version 29.0.2)".into()),
            frame_rate: Some(30.0),
            video_bits_per_second: Some(2_500_000),
            has_video: true,
            has_audio: true,
            audio_channels: Some(2),
            ..Metadata::default()
        };
        assert_eq!(Metadata::from_values(&metadata.to_values()), Some(metadata));
        assert_eq!(Metadata::from_values(&["onCuePoint".into(), Value::Null]), None);
    }

    #[test]
    fn aggregates_come_apart_with_relative_times() {
        let tag = |type_id: u8, time: u8| [type_id, 0, 0, 1, 0, 0, time, 0, 0, 0, 0, 7, 0, 0, 0, 12];
        let payload = [tag(9, 40), tag(8, 50)].concat().into();
        let parts = split_aggregate(&Message { type_id: 22, stream_id: 1, timestamp: 1000, payload });
        assert_eq!(parts.iter().map(|part| (part.type_id, part.timestamp)).collect::<Vec<_>>(), [(9, 1000), (8, 1010)]);
    }
}
