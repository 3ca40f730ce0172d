//! Transport streams between datagrams and the hub: what SRT and plain UDP have in common.

use bytes::{Bytes, BytesMut};
use codec::adts::{self, AdtsReader};
use codec::latm::LatmReader;
use codec::{annexb, opus, parameter_sets};
use container::mpegts::{Demuxer, DemuxerConfig, ElementaryStream, Event, Health, Muxer, PesUnit, StreamKind};
use hub::{Advice, Announcement, Arrival, Entry, Item, Leg, Marker, MarkerKind, Repairs, Tracks, Transport};
use media::{AudioCodec, AudioConfig, CodecConfig, TrackKind, VideoCodec};
use std::sync::Arc;
use std::time::Duration;
use telemetry::{Metrics, TsError, TsMarker};
use tracing::{info, warn};

use crate::count_repairs;

/// A source that is so far ahead of its clock is closed: its socket cannot be left unread like that of TCP.
pub(crate) const AHEAD_MAX: Duration = Duration::from_secs(5);
pub(crate) const TOO_FAST: &str = "the media's timestamps run ahead of real time: send in real time (ffmpeg: -re)";

/// A transport stream that feeds a leg.
pub(crate) struct TsSource {
    leg: Leg,
    demuxer: Demuxer,
    video: Option<VideoTrack>,
    audio: Option<AudioTrack>,
    problems: Vec<Advice>,
    health: Health,
    repairs: Repairs,
    /// SCTE 35 sections and KLV units that were not counted in the metrics yet.
    markers: [u64; 2],
}

struct VideoTrack {
    pid: u16,
    codec: VideoCodec,
    /// Decode time of the last packet, and how many access units it had.
    last: Option<(i64, i64)>,
}

/// 90 kHz: distance of pictures where nothing tells it, and the largest that is believed.
const USUAL_STEP_TICKS: i64 = 3003;
const MAX_STEP_TICKS: i64 = 90_000;

struct AudioTrack {
    pid: u16,
    reader: AudioReader,
    config: Option<AudioConfig>,
    /// When the next frame begins, in nanoseconds, where its unit does not say.
    next_nanos: Option<i64>,
}

enum AudioReader {
    Adts(AdtsReader),
    Latm(LatmReader),
    Opus(u8),
}

/// 1/90,000 s in nanoseconds.
fn nanos(ticks: i64) -> i64 {
    ticks.saturating_mul(100_000) / 9
}

impl TsSource {
    /// `program`: the number of the one that is taken.
    pub(crate) fn new(leg: Leg, program: Option<u16>) -> Self {
        Self {
            leg,
            demuxer: Demuxer::new(DemuxerConfig { program }),
            video: None,
            audio: None,
            problems: Vec::new(),
            health: Health::default(),
            repairs: Repairs::default(),
            markers: [0; 2],
        }
    }

    /// How far the source is ahead of real time.
    pub(crate) fn ahead(&self) -> Duration {
        self.leg.ahead()
    }

    /// Why the leg is to end, where somebody wants it to.
    pub(crate) fn is_kicked(&self) -> Option<String> {
        self.leg.kicked().borrow().clone()
    }

    /// Ends the leg.
    pub(crate) fn close(mut self, at: Arrival) {
        self.demuxer.finish();
        let _ = self.take(at);
        self.leg.close(at);
    }

    /// Takes bytes of the stream.
    ///
    /// # Errors
    /// In words, for the encoder's user: nothing of it can be carried.
    pub(crate) fn push(&mut self, at: Arrival, bytes: &[u8]) -> Result<(), String> {
        self.demuxer.push(bytes);
        self.take(at)
    }

    fn take(&mut self, at: Arrival) -> Result<(), String> {
        while let Some(event) = self.demuxer.poll() {
            match event {
                Event::Program { streams, .. } => self.on_program(at, &streams)?,
                Event::Unit(unit) => self.on_unit(at, &unit),
                Event::Scrambled { pid } => {
                    warn!(pid, "the stream is scrambled and cannot be read");
                    self.problems.push(Advice {
                        code: "scrambled",
                        text: format!("the stream of PID {pid} is scrambled and cannot be read"),
                        fix: "send it in the clear; SRT encrypts on the way",
                    });
                }
                Event::Scte35 { pid, section } => {
                    info!(pid, bytes = section.len(), "SCTE 35 section");
                    self.mark(at, MarkerKind::Scte35, pid, section);
                }
                Event::Klv { pid, payload, .. } => self.mark(at, MarkerKind::Klv, pid, payload),
                _ => {}
            }
        }
        Ok(())
    }

    fn mark(&mut self, at: Arrival, kind: MarkerKind, pid: u16, bytes: Bytes) {
        let place = usize::from(kind == MarkerKind::Klv);
        self.markers.get_mut(place).into_iter().for_each(|count| *count += 1);
        self.leg.mark(Marker { kind, pid, utc_nanos: at.utc_nanos, bytes });
    }

    fn on_program(&mut self, at: Arrival, streams: &[ElementaryStream]) -> Result<(), String> {
        let video = streams.iter().find_map(|stream| match stream.kind {
            StreamKind::H264 => Some((stream.pid, VideoCodec::Avc)),
            StreamKind::H265 => Some((stream.pid, VideoCodec::Hevc)),
            _ => None,
        });
        let audio = streams.iter().find_map(|stream| {
            let reader = match stream.kind {
                StreamKind::AacAdts => AudioReader::Adts(AdtsReader::default()),
                StreamKind::AacLatm => AudioReader::Latm(LatmReader::default()),
                StreamKind::Opus { channels } => AudioReader::Opus(channels),
                _ => return None,
            };
            Some(AudioTrack { pid: stream.pid, reader, config: None, next_nanos: None })
        });
        self.problems.clear();
        let carries = |kind: StreamKind| if kind.is_video() { video.is_some() } else { audio.is_some() };
        for stream in streams.iter().filter(|stream| stream.kind.is_video() || stream.kind.is_audio()) {
            if !carries(stream.kind) {
                let name = stream.kind.name();
                warn!(pid = stream.pid, codec = name, "not carried");
                self.problems.push(Advice {
                    code: "unsupported_codec",
                    text: format!("{name} is not carried: browsers do not play it"),
                    fix: "set the encoder to H.264 or H.265, and to AAC or Opus",
                });
            }
        }
        if streams.is_empty() {
            return Ok(()); // the program is gone, and may come back
        }
        if video.is_none() && audio.is_none() {
            let names: Vec<&str> = streams.iter().map(|stream| stream.kind.name()).collect();
            return Err(format!(
                "nothing of it can be carried ({}): set the encoder to H.264 or H.265, and to AAC or Opus",
                names.join(", ")
            ));
        }
        if self.video.as_ref().map(|track| (track.pid, track.codec)) != video {
            self.video = video.map(|(pid, codec)| VideoTrack { pid, codec, last: None });
            if let Some((_, codec)) = video {
                self.leg.video_in_band(codec);
            }
        }
        let same = |track: &AudioTrack| (track.pid, std::mem::discriminant(&track.reader));
        if self.audio.as_ref().map(same) != audio.as_ref().map(same) {
            self.audio = audio;
        }
        self.leg.announce(
            at.now,
            Announcement { video: self.video.is_some(), audio: self.audio.is_some(), ..Announcement::default() },
        );
        Ok(())
    }

    fn on_unit(&mut self, at: Arrival, unit: &PesUnit) {
        if self.video.as_ref().is_some_and(|track| track.pid == unit.pid) {
            if unit.is_damaged {
                // Half a picture ends some decoders, Chromium's among them; without it, it is a moment of smear (docs/drills.md).
                return self.leg.count_damaged();
            }
            return self.on_video(at, unit);
        }
        if self.audio.as_ref().is_some_and(|track| track.pid == unit.pid) {
            self.on_audio(at, unit);
        }
    }

    /// Several access units in one packet have the time of the first, and lie apart like those before.
    fn on_video(&mut self, at: Arrival, unit: &PesUnit) {
        let (Some(dts), Some(track)) = (unit.dts, &mut self.video) else { return };
        let offset = nanos(unit.pts.map_or(0, |pts| pts - dts));
        let units = annexb::access_units(&unit.payload, track.codec);
        let count = i64::try_from(units.len()).unwrap_or(1);
        let step = track.last.map(|(before, count)| (dts - before) / count);
        let step = step.filter(|step| (1..=MAX_STEP_TICKS).contains(step)).unwrap_or(USUAL_STEP_TICKS);
        track.last = Some((dts, count));
        for (index, payload) in (0..).zip(units) {
            let is_random_access = unit.is_random_access && index == 0;
            self.leg.video_unit(at, nanos(dts + index * step), offset, is_random_access, &payload);
        }
    }

    fn on_audio(&mut self, at: Arrival, unit: &PesUnit) {
        let Some(track) = &mut self.audio else { return };
        if unit.after_loss {
            track.reset();
        }
        // spec: ISO/IEC 13818-1 §2.4.3.7: the time is that of the first frame that begins in the unit
        let mut stamped = unit.pts.map(nanos);
        let carries_over = track.is_mid_frame() && !unit.is_damaged;
        let frames = track.frames(&unit.payload, unit.is_damaged);
        if unit.is_damaged {
            self.leg.count_damaged();
        }
        for (index, frame) in frames.into_iter().enumerate() {
            let Ok((config, payload)) = frame else {
                self.leg.count_damaged();
                continue;
            };
            let is_of_before = index == 0 && carries_over;
            let time = if is_of_before { track.next_nanos } else { stamped.take().or(track.next_nanos) };
            let Some(time) = time else { continue };
            if track.config.as_ref() != Some(&config) {
                track.config = Some(config.clone());
                self.leg.audio_known(at, config.clone());
            }
            track.next_nanos = Some(time + length_nanos(&config, &payload));
            self.leg.audio_unit(at, config.codec, time, payload);
        }
        // A frame that began in this unit and is not whole yet has the unit's time.
        if let Some(stamped) = stamped.filter(|_| track.is_mid_frame()) {
            track.next_nanos = Some(stamped);
        }
    }

    /// Hands on what the network did.
    pub(crate) fn report(&mut self, transport: Transport, links: Vec<hub::Link>) {
        let continuity_errors = self.demuxer.health().continuity_count_error;
        self.leg.report(Transport { continuity_errors, ..transport }, links, self.problems.clone());
    }

    /// Adds what was repaired and what was wrong since the last time to the metrics.
    pub(crate) fn count(&mut self, metrics: &Metrics) {
        count_repairs(metrics, &self.leg, &mut self.repairs);
        let [scte_35, klv] = std::mem::take(&mut self.markers);
        metrics.ts_markers(TsMarker::scte35, scte_35);
        metrics.ts_markers(TsMarker::klv, klv);
        let now = *self.demuxer.health();
        let before = std::mem::replace(&mut self.health, now);
        let counts = errors(&now).into_iter().zip(errors(&before));
        let all: Vec<_> = errors(&now).into_iter().map(|(kind, count)| (kind.as_str(), count)).collect();
        self.leg.report_ts_errors(all.into_iter().filter(|(_, count)| *count > 0).collect());
        for ((kind, now), (_, before)) in counts {
            metrics.ts_error(kind, now - before);
        }
    }
}

impl AudioTrack {
    fn is_mid_frame(&self) -> bool {
        match &self.reader {
            AudioReader::Adts(reader) => reader.is_mid_frame(),
            AudioReader::Latm(reader) => reader.is_mid_frame(),
            AudioReader::Opus(_) => false,
        }
    }

    fn reset(&mut self) {
        match &mut self.reader {
            AudioReader::Adts(reader) => reader.reset(),
            AudioReader::Latm(reader) => reader.reset(),
            AudioReader::Opus(_) => {}
        }
    }

    fn frames(&mut self, payload: &Bytes, is_damaged: bool) -> Vec<Result<(AudioConfig, Bytes), codec::Error>> {
        match &mut self.reader {
            AudioReader::Adts(reader) => {
                if is_damaged {
                    reader.push_damaged(payload);
                } else {
                    reader.push(payload);
                }
                std::iter::from_fn(|| reader.next().transpose()).collect()
            }
            AudioReader::Latm(reader) => {
                if is_damaged {
                    reader.push_damaged(payload);
                } else {
                    reader.push(payload);
                }
                std::iter::from_fn(|| reader.next().transpose()).collect()
            }
            AudioReader::Opus(channel_config) => {
                match opus::ts_config(*channel_config).and_then(|config| Ok((config, opus::ts_packets(payload)?))) {
                    Ok((config, packets)) => packets.into_iter().map(|packet| Ok((config.clone(), packet))).collect(),
                    Err(error) => vec![Err(error)],
                }
            }
        }
    }
}

/// What was wrong, in the order of ETSI TR 101 290.
fn errors(health: &Health) -> [(TsError, u64); 13] {
    [
        (TsError::sync_loss, health.sync_loss),
        (TsError::sync_byte, health.sync_byte_error),
        (TsError::pat, health.pat_error),
        (TsError::continuity_count, health.continuity_count_error),
        (TsError::pmt, health.pmt_error),
        (TsError::pid, health.pid_error),
        (TsError::transport, health.transport_error),
        (TsError::crc, health.crc_error),
        (TsError::pcr_repetition, health.pcr_repetition_error),
        (TsError::pcr_discontinuity, health.pcr_discontinuity_indicator_error),
        (TsError::pts, health.pts_error),
        (TsError::cat, health.cat_error),
        (TsError::oversized_unit, health.oversized_units),
    ]
}

fn length_nanos(config: &AudioConfig, frame: &[u8]) -> i64 {
    let samples = match config.codec {
        AudioCodec::Aac => config.samples_per_unit,
        AudioCodec::Opus => opus::packet_samples(frame).unwrap_or(config.samples_per_unit),
    };
    config.timescale.nanos(i64::from(samples))
}

/// The program as a transport stream, from a random access point on.
#[derive(Default)]
pub(crate) struct TsSink {
    tracks: Option<Arc<Tracks>>,
    muxer: Option<Muxer>,
    /// The index of each track's stream: video, audio.
    streams: [Option<usize>; 2],
    waits_for_video: bool,
}

impl TsSink {
    /// The packets of an entry; none before the first random access point, and for codecs that transport streams do not carry.
    pub(crate) fn packets(&mut self, entry: &Entry) -> Bytes {
        let Item::Unit(unit) = &entry.item else { return Bytes::new() };
        if self.tracks.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &entry.tracks)) {
            self.begin(entry);
        }
        if self.waits_for_video && !(unit.track == TrackKind::Video && unit.is_random_access) {
            return Bytes::new();
        }
        self.waits_for_video = false;
        let index = usize::from(unit.track == TrackKind::Audio);
        let (Some(Some(stream)), Some(muxer)) = (self.streams.get(index), &mut self.muxer) else {
            return Bytes::new();
        };
        let Some(config) = entry.tracks.config(unit.track) else { return Bytes::new() };
        let (mut payload, raw) = (BytesMut::new(), unit.payload.to_bytes());
        let is_written = match &config {
            CodecConfig::Video(config) => {
                let sets = if unit.is_random_access { parameter_sets(config) } else { Ok(Vec::new()) };
                sets.is_ok_and(|sets| annexb::write(config.codec, &sets, &unit.payload, &mut payload).is_ok())
            }
            CodecConfig::Audio(config) => header(config, raw.len()).is_some_and(|header| {
                payload.extend_from_slice(&header);
                payload.extend_from_slice(&raw);
                true
            }),
        };
        if !is_written {
            return Bytes::new();
        }
        let ticks = |time: i64| {
            let scaled = i128::from(time) * 90_000 / i128::from(config.timescale().hz());
            u64::try_from(scaled).unwrap_or(0)
        };
        let mut out = BytesMut::with_capacity(payload.len() + payload.len() / 40 + 1024);
        let whole = [&payload[..]];
        muxer.write(*stream, ticks(unit.pts.0), ticks(unit.dts.0), unit.is_random_access, whole, &mut out);
        out.freeze()
    }

    fn begin(&mut self, entry: &Entry) {
        self.tracks = Some(Arc::clone(&entry.tracks));
        let kind = |track| match entry.tracks.config(track)? {
            CodecConfig::Video(config) => match config.codec {
                VideoCodec::Avc => Some(StreamKind::H264),
                VideoCodec::Hevc => Some(StreamKind::H265),
                VideoCodec::Av1 | VideoCodec::Vp9 => None,
            },
            CodecConfig::Audio(config) => match config.codec {
                AudioCodec::Aac => Some(StreamKind::AacAdts),
                AudioCodec::Opus => Some(StreamKind::Opus { channels: config.channels }),
            },
        };
        let mut kinds = Vec::new();
        self.streams = [TrackKind::Video, TrackKind::Audio].map(|track| {
            kinds.push(kind(track)?);
            Some(kinds.len() - 1)
        });
        self.waits_for_video = self.streams.first().is_some_and(Option::is_some);
        match &mut self.muxer {
            Some(muxer) if !kinds.is_empty() => muxer.set_streams(&kinds),
            muxer => *muxer = (!kinds.is_empty()).then(|| Muxer::new(&kinds)),
        }
    }
}

/// What stands before a frame in a transport stream.
fn header(config: &AudioConfig, frame_bytes: usize) -> Option<Bytes> {
    match config.codec {
        AudioCodec::Aac => adts::header(config, frame_bytes).map(|header| Bytes::copy_from_slice(&header)),
        AudioCodec::Opus => Some(opus::ts_header(frame_bytes)),
    }
}
