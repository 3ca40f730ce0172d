//! FLV tag bodies: what RTMP carries in its audio and video messages, in the legacy and the enhanced form.

use bytes::{BufMut, Bytes, BytesMut};
use media::{AudioCodec, AudioConfig, CodecConfig, VideoCodec};

/// What is wrong with a tag body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The body ends inside a field.
    #[error("media message ends too early")]
    Truncated,
    /// A codec this server does not carry.
    #[error("codec {0} is not supported; use H.264, H.265, AV1 or VP9 with AAC or Opus")]
    UnsupportedCodec(String),
}

/// One track's part of an audio or video message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<C> {
    /// The codec.
    pub codec: C,
    /// Multitrack id; 0 outside multitrack messages. spec: Enhanced RTMP v2, trackId
    pub track_id: u8,
    /// Nanoseconds to add to the message's timestamp. spec: Enhanced RTMP v2, ModEx TimestampOffsetNano
    pub nano_offset: u32,
    /// What it carries.
    pub content: Content,
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A codec configuration record.
    Config(Bytes),
    /// One access unit.
    Unit {
        /// The container calls it a key frame; always true for audio.
        is_key: bool,
        /// PTS − DTS in milliseconds.
        composition_offset_ms: i32,
        /// The coded bytes.
        data: Bytes,
    },
    /// The sequence ended, or metadata that is not used.
    Ignored,
}

/// Consumes a body from the front.
#[derive(Debug)]
struct Reader(Bytes);

impl Reader {
    fn u8(&mut self) -> Result<u8, Error> {
        let byte = *self.0.first().ok_or(Error::Truncated)?;
        self.0 = self.0.slice(1..);
        Ok(byte)
    }

    fn take(&mut self, count: usize) -> Result<Bytes, Error> {
        if self.0.len() < count {
            return Err(Error::Truncated);
        }
        Ok(self.0.split_to(count))
    }

    fn u24(&mut self) -> Result<u32, Error> {
        Ok(self.take(3)?.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    fn i24(&mut self) -> Result<i32, Error> {
        Ok((self.u24()? << 8).cast_signed() >> 8)
    }

    fn four_cc(&mut self) -> Result<[u8; 4], Error> {
        self.take(4)?.as_ref().try_into().map_err(|_| Error::Truncated)
    }
}

fn unsupported(four_cc: [u8; 4]) -> Error {
    Error::UnsupportedCodec(four_cc.escape_ascii().to_string())
}

// spec: Enhanced RTMP v2, VideoPacketType and AudioPacketType share these numbers where they overlap
const SEQUENCE_START: u8 = 0;
const CODED_FRAMES: u8 = 1;
const CODED_FRAMES_X: u8 = 3;
const VIDEO_METADATA: u8 = 4;
const AUDIO_MULTITRACK: u8 = 5;
const VIDEO_MULTITRACK: u8 = 6;
const MOD_EX: u8 = 7;

/// Reads the body of a video message and calls `on_packet` for each track in it.
///
/// # Errors
/// Truncated bodies and codecs that are not carried. Packets seen before the error have been handed out.
pub fn parse_video(body: &Bytes, mut on_packet: impl FnMut(Packet<VideoCodec>)) -> Result<(), Error> {
    let mut reader = Reader(body.clone());
    let first = reader.u8()?;
    let is_key = first >> 4 & 7 == 1;
    let is_command = first >> 4 & 7 == 5;
    if first & 0x80 == 0 {
        if is_command {
            return Ok(());
        }
        return legacy_video(first & 15, is_key, reader).map(on_packet);
    }
    let (mut packet_type, nano_offset) = mod_ex(&mut reader, first & 15)?;
    if is_command && packet_type != VIDEO_METADATA {
        return Ok(());
    }
    let multitrack = Multitrack::read(&mut reader, &mut packet_type, VIDEO_MULTITRACK)?;
    multitrack.each(reader, |four_cc, track_id, mut body| {
        let codec = match &four_cc {
            b"avc1" => VideoCodec::Avc,
            b"hvc1" => VideoCodec::Hevc,
            b"av01" => VideoCodec::Av1,
            b"vp09" => VideoCodec::Vp9,
            _ => return Err(unsupported(four_cc)),
        };
        let content = match packet_type {
            SEQUENCE_START => Content::Config(body.0),
            CODED_FRAMES | CODED_FRAMES_X => {
                // spec: Enhanced RTMP v2: only avc1 and hvc1 carry a composition time, and CodedFramesX leaves it out
                let has_offset = packet_type == CODED_FRAMES && matches!(codec, VideoCodec::Avc | VideoCodec::Hevc);
                let composition_offset_ms = if has_offset { body.i24()? } else { 0 };
                Content::Unit { is_key, composition_offset_ms, data: body.0 }
            }
            _ => Content::Ignored,
        };
        on_packet(Packet { codec, track_id, nano_offset, content });
        Ok(())
    })
}

/// spec: FLV 10.1 §E.4.3; codec 12 is what encoders used for H.265 before Enhanced RTMP
fn legacy_video(codec_id: u8, is_key: bool, mut reader: Reader) -> Result<Packet<VideoCodec>, Error> {
    let codec = match codec_id {
        7 => VideoCodec::Avc,
        12 => VideoCodec::Hevc,
        other => return Err(Error::UnsupportedCodec(format!("video id {other}"))),
    };
    let packet_type = reader.u8()?;
    let composition_offset_ms = reader.i24()?;
    let content = match packet_type {
        0 => Content::Config(reader.0),
        1 => Content::Unit { is_key, composition_offset_ms, data: reader.0 },
        _ => Content::Ignored,
    };
    Ok(Packet { codec, track_id: 0, nano_offset: 0, content })
}

/// Reads the body of an audio message and calls `on_packet` for each track in it.
///
/// # Errors
/// As [`parse_video`].
pub fn parse_audio(body: &Bytes, mut on_packet: impl FnMut(Packet<AudioCodec>)) -> Result<(), Error> {
    let mut reader = Reader(body.clone());
    let first = reader.u8()?;
    match first >> 4 {
        9 => {}
        10 => {
            // spec: FLV 10.1 §E.4.2.1
            let content = match reader.u8()? {
                0 => config(reader.0),
                _ => Content::Unit { is_key: true, composition_offset_ms: 0, data: reader.0 },
            };
            on_packet(Packet { codec: AudioCodec::Aac, track_id: 0, nano_offset: 0, content });
            return Ok(());
        }
        other => return Err(Error::UnsupportedCodec(legacy_sound_name(other))),
    }
    let (mut packet_type, nano_offset) = mod_ex(&mut reader, first & 15)?;
    let multitrack = Multitrack::read(&mut reader, &mut packet_type, AUDIO_MULTITRACK)?;
    multitrack.each(reader, |four_cc, track_id, body| {
        let codec = match &four_cc {
            b"mp4a" => AudioCodec::Aac,
            b"Opus" => AudioCodec::Opus,
            _ => return Err(unsupported(four_cc)),
        };
        let content = match packet_type {
            SEQUENCE_START => config(body.0),
            CODED_FRAMES => Content::Unit { is_key: true, composition_offset_ms: 0, data: body.0 },
            _ => Content::Ignored,
        };
        on_packet(Packet { codec, track_id, nano_offset, content });
        Ok(())
    })
}

/// FFmpeg announces sound that it copies from a transport stream with an empty record; the true one follows before the first unit.
fn config(record: Bytes) -> Content {
    if record.is_empty() { Content::Ignored } else { Content::Config(record) }
}

/// spec: FLV 10.1 §E.4.2.1, `SoundFormat`
fn legacy_sound_name(format: u8) -> String {
    match format {
        0 | 3 => "PCM".into(),
        1 => "ADPCM".into(),
        2 | 14 => "MP3".into(),
        4..=6 => "Nellymoser".into(),
        7 | 8 => "G.711".into(),
        11 => "Speex".into(),
        other => format!("audio id {other}"),
    }
}

/// Reads modifier packets; returns the packet type behind them and the nanosecond offset. spec: Enhanced RTMP v2, ModEx
fn mod_ex(reader: &mut Reader, mut packet_type: u8) -> Result<(u8, u32), Error> {
    let mut nano_offset = 0;
    while packet_type == MOD_EX {
        let mut size = usize::from(reader.u8()?) + 1;
        if size == 256 {
            size = usize::from(reader.u8()?) << 8 | usize::from(reader.u8()?);
            size += 1;
        }
        let mut data = Reader(reader.take(size)?);
        let next = reader.u8()?;
        if next >> 4 == 0 && size >= 3 {
            nano_offset = data.u24()?.min(999_999);
        }
        packet_type = next & 15;
    }
    Ok((packet_type, nano_offset))
}

/// How the tracks lie in the rest of a message. spec: Enhanced RTMP v2, AvMultitrackType
enum Multitrack {
    /// Not multitrack: one body of this codec.
    Plain([u8; 4]),
    /// One track, an id before it.
    One([u8; 4]),
    /// Several tracks of one codec, each with id and size.
    Many([u8; 4]),
    /// Several tracks, each with codec, id and size.
    ManyCodecs,
}

impl Multitrack {
    fn read(reader: &mut Reader, packet_type: &mut u8, multitrack_type: u8) -> Result<Self, Error> {
        if *packet_type != multitrack_type {
            return reader.four_cc().map(Self::Plain);
        }
        let types = reader.u8()?;
        *packet_type = types & 15;
        match types >> 4 {
            0 => reader.four_cc().map(Self::One),
            1 => reader.four_cc().map(Self::Many),
            2 => Ok(Self::ManyCodecs),
            other => Err(Error::UnsupportedCodec(format!("multitrack type {other}"))),
        }
    }

    fn each(
        self,
        mut reader: Reader,
        mut on_track: impl FnMut([u8; 4], u8, Reader) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self {
            Self::Plain(four_cc) => on_track(four_cc, 0, reader),
            Self::One(four_cc) => {
                let id = reader.u8()?;
                match on_track(four_cc, id, reader) {
                    // The first track is the stream; what else there is may be what it likes. ERTMP-05
                    Err(Error::UnsupportedCodec(_)) if id > 0 => Ok(()),
                    outcome => outcome,
                }
            }
            Self::Many(_) | Self::ManyCodecs => {
                let (mut is_carried, mut unsupported) = (false, None);
                while !reader.0.is_empty() {
                    let four_cc = if let Self::Many(shared) = self { shared } else { reader.four_cc()? };
                    let id = reader.u8()?;
                    let size = usize::try_from(reader.u24()?).map_err(|_| Error::Truncated)?;
                    let body = reader.take(size)?;
                    match on_track(four_cc, id, Reader(body)) {
                        Ok(()) => is_carried = true,
                        Err(Error::UnsupportedCodec(what)) => unsupported = Some(what),
                        Err(error) => return Err(error),
                    }
                }
                unsupported.filter(|_| !is_carried).map_or(Ok(()), |what| Err(Error::UnsupportedCodec(what)))
            }
        }
    }
}

/// The message body that carries a configuration: legacy for H.264 and AAC, enhanced for the rest.
pub fn config_body(config: &CodecConfig) -> Bytes {
    let mut out = BytesMut::new();
    match config {
        CodecConfig::Video(video) if video.codec == VideoCodec::Avc => out.put_slice(&[0x17, 0, 0, 0, 0]),
        CodecConfig::Video(video) => {
            out.put_u8(0x90 | SEQUENCE_START);
            out.put_slice(video_four_cc(video.codec));
        }
        CodecConfig::Audio(audio) if audio.codec == AudioCodec::Aac => out.put_slice(&[0xaf, 0]),
        CodecConfig::Audio(audio) => {
            out.put_u8(0x90 | SEQUENCE_START);
            out.put_slice(b"Opus");
            out.put_slice(&opus_head(audio));
            return out.freeze();
        }
    }
    match config {
        CodecConfig::Video(video) => out.put_slice(&video.record),
        CodecConfig::Audio(audio) => out.put_slice(&audio.record),
    }
    out.freeze()
}

/// `OpusHead` from a `dOps` payload: the same fields, little endian. spec: RFC 7845 §5.1
fn opus_head(audio: &AudioConfig) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(b"OpusHead");
    if let [_, channels, s1, s0, r3, r2, r1, r0, g1, g0, rest @ ..] = audio.record.as_ref() {
        out.put_slice(&[1, *channels, *s0, *s1, *r0, *r1, *r2, *r3, *g0, *g1]);
        out.put_slice(rest);
    }
    out.freeze()
}

/// The bytes that come before the payload of an access unit; same forms as [`config_body`].
pub fn unit_header(config: &CodecConfig, is_key: bool, composition_offset_ms: i32) -> Bytes {
    let frame_type: u8 = if is_key { 0x10 } else { 0x20 };
    let [_, offset @ ..] = composition_offset_ms.to_be_bytes();
    let mut out = BytesMut::with_capacity(8);
    match config {
        CodecConfig::Video(video) => match video.codec {
            VideoCodec::Avc => {
                out.put_slice(&[frame_type | 7, 1]);
                out.put_slice(&offset);
            }
            VideoCodec::Hevc => {
                out.put_u8(0x80 | frame_type | CODED_FRAMES);
                out.put_slice(b"hvc1");
                out.put_slice(&offset);
            }
            VideoCodec::Av1 | VideoCodec::Vp9 => {
                out.put_u8(0x80 | frame_type | CODED_FRAMES);
                out.put_slice(video_four_cc(video.codec));
            }
        },
        CodecConfig::Audio(audio) => match audio.codec {
            AudioCodec::Aac => out.put_slice(&[0xaf, 1]),
            AudioCodec::Opus => {
                out.put_u8(0x90 | CODED_FRAMES);
                out.put_slice(b"Opus");
            }
        },
    }
    out.freeze()
}

fn video_four_cc(codec: VideoCodec) -> &'static [u8; 4] {
    match codec {
        VideoCodec::Avc => b"avc1",
        VideoCodec::Hevc => b"hvc1",
        VideoCodec::Av1 => b"av01",
        VideoCodec::Vp9 => b"vp09",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(body: &'static [u8]) -> Result<Vec<Packet<VideoCodec>>, Error> {
        let mut packets = Vec::new();
        parse_video(&Bytes::from_static(body), |packet| packets.push(packet)).map(|()| packets)
    }

    #[test]
    fn legacy_h264_with_a_negative_composition_time() {
        let packets = video(&[0x27, 1, 0xff, 0xff, 0xfe, 7, 7]).expect("valid");
        let data = Bytes::from_static(&[7, 7]);
        assert_eq!(packets[0].content, Content::Unit { is_key: false, composition_offset_ms: -2, data });
    }

    #[test]
    fn ertmp_01_four_cc_codecs_are_read() {
        assert_eq!(video(b"\x90hvc1cfg").expect("valid")[0].content, Content::Config("cfg".into()));
        assert_eq!(video(b"\x91av01xyz").expect("valid")[0].codec, VideoCodec::Av1);
        let hevc = video(b"\x91hvc1\x00\x00\x21xyz").expect("valid");
        assert!(
            matches!(&hevc[0].content, Content::Unit { is_key: true, composition_offset_ms: 33, data } if data == "xyz")
        );
        assert_eq!(video(b"\x90vvc1cfg"), Err(Error::UnsupportedCodec("vvc1".into())));
    }

    #[test]
    fn ertmp_04_every_multitrack_layout_is_read() {
        let one = video(b"\x96\x01avc1\x05\x00\x00\x00x").expect("valid");
        assert_eq!((one[0].track_id, one.len()), (5, 1));
        let many = video(b"\x96\x10hvc1\x00\x00\x00\x01a\x01\x00\x00\x02bc").expect("valid");
        assert_eq!(many.iter().map(|packet| packet.track_id).collect::<Vec<_>>(), [0, 1]);
        let codecs = video(b"\x96\x20avc1\x00\x00\x00\x01aav01\x01\x00\x00\x01b").expect("valid");
        assert_eq!(codecs.iter().map(|packet| packet.codec).collect::<Vec<_>>(), [VideoCodec::Avc, VideoCodec::Av1]);
        assert_eq!(video(b"\x96\x10hvc1\x00\x00\x00\x09a"), Err(Error::Truncated));
    }

    #[test]
    fn mod_ex_carries_nanoseconds() {
        let packets = video(b"\x97\x02\x01\x02\x03\x01av01xyz").expect("valid");
        assert_eq!(packets[0].nano_offset, 0x01_02_03);
        assert!(matches!(packets[0].content, Content::Unit { .. }));
    }

    #[test]
    fn command_frames_are_ignored_and_truncation_is_an_error() {
        assert_eq!(video(&[0x57, 0]), Ok(vec![]));
        for end in 0..5 {
            assert!(parse_video(&Bytes::copy_from_slice(&b"\x91hvc1"[..end]), |_| {}).is_err());
        }
    }

    #[test]
    fn an_empty_record_is_not_the_configuration_of_the_sound_yet() {
        let mut sound = Vec::new();
        parse_audio(&Bytes::from_static(&[0xaf, 0]), |packet| sound.push(packet.content)).expect("valid");
        assert_eq!(sound, [Content::Ignored]);
    }

    #[test]
    fn old_sound_formats_are_refused_by_name() {
        let body = Bytes::from_static(&[0x2f, 1, 2]);
        assert_eq!(parse_audio(&body, |_| {}), Err(Error::UnsupportedCodec("MP3".into())));
    }
}
