//! An SRT publisher over our own session: replays a clip as a transport stream.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use codec::{VideoStream, adts, annexb, parameter_sets};
use container::flv::{Content, parse_audio, parse_video};
use container::mpegts::{Muxer, StreamKind};
use media::{AudioCodec, AudioConfig, TrackKind, VideoCodec};
use srt::{CallerConfig, Event};

use crate::publisher::Tag;
use crate::srt_link::SrtLink;

/// Seven packets of a transport stream.
const PAYLOAD_BYTES: usize = 7 * 188;
/// Between the last unit of a clip and its first one when it is sent again.
const FRAME_MS: u32 = 33;

/// A clip as a transport stream carries it: made once, sent by many.
#[derive(Debug)]
pub struct TsClip {
    kinds: Vec<StreamKind>,
    units: Vec<TsUnit>,
    length_ms: u32,
}

#[derive(Debug)]
struct TsUnit {
    at_ms: u32,
    stream: usize,
    pts_offset: i64,
    is_random_access: bool,
    payload: Bytes,
}

impl TsClip {
    /// From the tags of an FLV file with H.264 or H.265, and AAC.
    ///
    /// # Errors
    /// In words: what in it cannot be carried.
    pub fn new(tags: &[Tag]) -> Result<Self, String> {
        let mut clip = Self { kinds: Vec::new(), units: Vec::new(), length_ms: 0 };
        let mut video: Option<(VideoStream, usize)> = None;
        let mut audio: Option<(AudioConfig, usize)> = None;
        for tag in tags {
            let mut found = Ok(());
            let parsed = match tag.track {
                TrackKind::Video => parse_video(&tag.body, |packet| {
                    found = clip.video(tag.timestamp_ms, packet.codec, packet.content, &mut video);
                }),
                TrackKind::Audio => parse_audio(&tag.body, |packet| {
                    found = clip.audio(tag.timestamp_ms, packet.codec, packet.content, &mut audio);
                }),
            };
            parsed.map_err(|error| error.to_string())?;
            found?;
        }
        clip.length_ms = clip.units.last().map_or(0, |unit| unit.at_ms + FRAME_MS);
        if clip.units.is_empty() { Err("the clip has no media".into()) } else { Ok(clip) }
    }

    fn video(
        &mut self,
        at_ms: u32,
        codec: VideoCodec,
        content: Content,
        known: &mut Option<(VideoStream, usize)>,
    ) -> Result<(), String> {
        match content {
            Content::Config(record) => {
                let kind = match codec {
                    VideoCodec::Avc => StreamKind::H264,
                    VideoCodec::Hevc => StreamKind::H265,
                    other => return Err(format!("a transport stream carries no {}", other.as_str())),
                };
                let stream = VideoStream::new(codec, &record).map_err(|error| error.to_string())?;
                let index = known.as_ref().map_or(self.kinds.len(), |(_, index)| *index);
                if index == self.kinds.len() {
                    self.kinds.push(kind);
                }
                *known = Some((stream, index));
            }
            Content::Unit { is_key, composition_offset_ms, data } => {
                let Some((stream, index)) = known else { return Ok(()) };
                let unit = stream.unit(&data, is_key).map_err(|error| error.to_string())?;
                let Some(config) = stream.config() else { return Ok(()) };
                let mut payload = BytesMut::new();
                let sets = if unit.is_random_access { parameter_sets(config) } else { Ok(Vec::new()) };
                sets.and_then(|sets| annexb::write(config.codec, &sets, &unit.payload, &mut payload))
                    .map_err(|error| error.to_string())?;
                let payload = payload.freeze();
                let pts_offset = i64::from(composition_offset_ms) * 90;
                let is_random_access = unit.is_random_access;
                self.units.push(TsUnit { at_ms, stream: *index, pts_offset, is_random_access, payload });
            }
            Content::Ignored => {}
        }
        Ok(())
    }

    fn audio(
        &mut self,
        at_ms: u32,
        codec: AudioCodec,
        content: Content,
        known: &mut Option<(AudioConfig, usize)>,
    ) -> Result<(), String> {
        match content {
            Content::Config(record) if codec == AudioCodec::Aac => {
                let config = codec::aac::parse_config(&record).map_err(|error| error.to_string())?;
                let index = known.as_ref().map_or(self.kinds.len(), |(_, index)| *index);
                if index == self.kinds.len() {
                    self.kinds.push(StreamKind::AacAdts);
                }
                *known = Some((config, index));
            }
            Content::Unit { data, .. } => {
                let Some((config, stream)) = known else { return Ok(()) };
                let header = adts::header(config, data.len()).ok_or("the clip's sound has no form for ADTS")?;
                let payload = [&header[..], &data].concat().into();
                self.units.push(TsUnit { at_ms, stream: *stream, pts_offset: 0, is_random_access: true, payload });
            }
            Content::Config(_) | Content::Ignored => {}
        }
        Ok(())
    }
}

/// A connection that was let in.
pub struct SrtPublisher(SrtLink);

impl std::fmt::Debug for SrtPublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SrtPublisher").finish_non_exhaustive()
    }
}

impl SrtPublisher {
    /// Connects.
    ///
    /// # Errors
    /// In words: refused, or no answer.
    pub async fn connect(server: SocketAddr, config: CallerConfig) -> Result<Self, String> {
        SrtLink::connect(server, config).await.map(Self)
    }

    /// Sends a clip over and over in real time for `duration`. Returns how far it fell behind its clock.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn replay(mut self, clip: &TsClip, duration: Duration) -> Result<Duration, String> {
        let mut muxer = Muxer::new(&clip.kinds);
        let mut behind = Duration::ZERO;
        let began = Instant::now();
        let mut out = BytesMut::new();
        for round in 0u32.. {
            for unit in &clip.units {
                let at_ms = round * clip.length_ms + unit.at_ms;
                let at = began + Duration::from_millis(at_ms.into());
                self.serve(at).await?;
                if began.elapsed() >= duration {
                    self.0.close();
                    return Ok(behind);
                }
                behind = behind.max(at.elapsed());
                let dts = u64::from(at_ms) * 90;
                let pts = dts.saturating_add_signed(unit.pts_offset);
                muxer.write(unit.stream, pts, dts, unit.is_random_access, [&unit.payload[..]], &mut out);
                while out.len() >= PAYLOAD_BYTES {
                    self.0.connection.send(Instant::now(), out.split_to(PAYLOAD_BYTES).freeze());
                }
                self.flush()?;
            }
        }
        Ok(behind)
    }

    /// Answers the server until then.
    async fn serve(&mut self, until: Instant) -> Result<(), String> {
        loop {
            let deadline = self.flush()?.min(until);
            if until <= Instant::now() {
                return Ok(());
            }
            self.0.receive(deadline).await?;
        }
    }

    /// Sends what is to be sent; when to look again.
    fn flush(&mut self) -> Result<Instant, String> {
        let mut closed = None;
        let deadline = self.0.flush(|event| {
            if let Event::Closed(reason) = event {
                closed = Some(reason);
            }
        });
        match closed {
            Some(reason) => Err(format!("the connection ended: {reason:?}")),
            None => Ok(deadline.unwrap_or_else(Instant::now)),
        }
    }
}
