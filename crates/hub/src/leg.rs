//! One source of a stream, as the session that feeds it holds it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use codec::{Capture, CaptureReader};
use media::{AccessUnit, AudioCodec, AudioConfig, CodecConfig, FrameRate, TrackKind, VideoCodec};
use tokio::sync::watch;

use crate::copies;
use crate::event::{Draft, EventKind, Told};
use crate::legs::LegRecord;
use crate::observe::{Advice, Observer};
use crate::program::{Announced, Arrival};
use crate::report::{Link, MARKER_BYTES_MAX, MARKERS_MAX, Marker, Transport};
use crate::standby::Incoming;
use crate::stream::{Shared, Stream};
use crate::timeline::{Repaired, Repairs, Timeline};
use crate::vitals::{Shown, Vitals};

/// How far a source may be ahead of real time before its session leaves its socket alone.
pub const AHEAD_MAX: Duration = Duration::from_secs(2);
/// How often a leg copies its figures to where others can read them.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// How long an announced sound is waited for before silence stands in.
const AUDIO_CENSUS_TIME: Duration = Duration::from_millis(800);

/// One source of a stream. Dropping it is the end of the source.
#[derive(Debug)]
pub struct Leg {
    stream: Arc<Stream>,
    id: u64,
    timeline: Timeline,
    video: Option<(VideoCodec, codec::VideoStream)>,
    audio_scale: Option<media::Timescale>,
    observer: Observer,
    vitals: Vitals,
    told: Told<Repairs>,
    /// Sound was announced, so silence stands in from this moment.
    expects_audio: Option<(Instant, u32, u8)>,
    kicked: watch::Receiver<Option<String>>,
    budget: Budget,
    last_report: Instant,
    /// The codec of the picture that was forwarded last: units are hashed by it.
    hashed_as: VideoCodec,
    /// Times that its stamps came apart from those before, which the stream knows of.
    breaks: u64,
    /// Empty between calls: kept for its memory.
    ready: Vec<Ready>,
    /// How long ago what it brings now was due.
    late: Duration,
    /// Reads when pictures were captured.
    reader: Option<CaptureReader>,
    /// When pictures were captured, as told last.
    capture: Option<Captured>,
    cadence: Cadence,
}

/// How far apart pictures lie: the least of the last few intervals.
#[derive(Debug, Default)]
struct Cadence {
    last: Option<i64>,
    steps: [Option<i64>; 3],
}

impl Cadence {
    fn on_picture(&mut self, dts: i64) {
        if let Some(last) = self.last.replace(dts) {
            self.steps.rotate_right(1);
            self.steps[0] = Some(dts - last);
        }
    }

    fn interval(&self) -> Option<Duration> {
        let least = self.steps.into_iter().flatten().min()?;
        Some(media::Timescale::VIDEO.duration(least))
    }
}

/// When pictures were captured, by their encoder's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Captured {
    /// UTC of capture less leg time, in nanoseconds.
    pub(crate) offset: i64,
    /// UTC of arrival less that of capture, in nanoseconds.
    pub(crate) delay: i64,
}

impl Captured {
    fn new(at: Arrival, utc: i64, leg: i64) -> Self {
        Self { offset: utc.saturating_sub(leg), delay: at.utc_nanos.saturating_sub(utc) }
    }
}

/// Bytes per second of media that a leg may bring, over any longer time: 200 Mbit/s.
const BYTES_PER_SECOND_MAX: u64 = 25_000_000;
/// Bytes it may bring beyond that at once.
const BURST_BYTES_MAX: u64 = 64 << 20;

/// Counts bytes against time, so that what is held for delivery stays bounded whatever the timestamps say.
#[derive(Debug)]
struct Budget {
    spent: u64,
    since: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { spent: 0, since: now }
    }

    fn spend(&mut self, now: Instant, bytes: usize) {
        let millis = u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        let earned = millis.saturating_mul(BYTES_PER_SECOND_MAX / 1000);
        if millis > 0 {
            self.since = now;
        }
        self.spent = self.spent.saturating_sub(earned).saturating_add(bytes as u64);
    }

    fn is_overdrawn(&self) -> bool {
        self.spent > BURST_BYTES_MAX
    }
}

/// What an encoder announces before it sends media.
#[derive(Clone, Debug, Default)]
pub struct Announcement {
    /// Pictures will come.
    pub video: bool,
    /// Sound will come.
    pub audio: bool,
    /// Declared frame rate.
    pub frame_rate: Option<FrameRate>,
    /// Declared sampling rate.
    pub audio_sample_rate: Option<u32>,
    /// Declared channels.
    pub audio_channels: Option<u8>,
    /// Name of the encoder.
    pub encoder: Option<String>,
}

impl Leg {
    pub(crate) fn new(stream: Arc<Stream>, id: u64, now: Instant, kicked: watch::Receiver<Option<String>>) -> Self {
        Self {
            stream,
            id,
            timeline: Timeline::new(),
            video: None,
            audio_scale: None,
            observer: Observer::default(),
            vitals: Vitals::new(now),
            told: Told::default(),
            expects_audio: None,
            kicked,
            budget: Budget::new(now),
            last_report: now,
            hashed_as: VideoCodec::Avc,
            breaks: 0,
            ready: Vec::new(),
            late: Duration::ZERO,
            reader: None,
            capture: None,
            cadence: Cadence::default(),
        }
    }

    /// The stream it belongs to.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// What it brings from here on was due so long ago: it lies where it would lie if it had come then.
    pub fn set_late(&mut self, late: Duration) {
        self.late = late;
    }

    /// What has this time of the peer's clock (nanoseconds) was captured at this time of the peer's day (nanoseconds since midnight), and so
    /// many pictures later.
    pub fn captured(&mut self, at: Arrival, time_nanos: i64, day_nanos: i64, frames: u32) {
        let frame = |rate: FrameRate| media::Timescale::VIDEO.nanos(rate.frame_duration(media::Timescale::VIDEO));
        let Some(frame) = self.timeline.frame_rate().map(frame).or((frames == 0).then_some(0)) else { return };
        let utc = Capture::TimeOfDay(day_nanos + i64::from(frames) * frame).utc_nanos(at.utc_nanos);
        self.capture = utc.zip(self.timeline.leg_nanos(time_nanos)).map(|(utc, leg)| Captured::new(at, utc, leg));
    }

    /// A receiver that tells when the session must end, and why.
    pub fn kicked(&self) -> watch::Receiver<Option<String>> {
        self.kicked.clone()
    }

    /// The peer has closed its side; what it sent is still good, and whoever comes next takes over at once.
    pub fn hang_up(&self) {
        let mut shared = self.stream.lock();
        if let Some(leg) = shared.leg_mut(self.id) {
            leg.has_hung_up = true;
        }
    }

    /// Counts a message that could not be read.
    pub fn count_damaged(&mut self) {
        self.timeline.count_damaged();
    }

    /// How far it is ahead of real time; above its limit the owner stops reading.
    pub fn ahead(&self) -> Duration {
        self.timeline.ahead()
    }

    /// Repairs of its timeline so far.
    pub fn repairs(&self) -> Repairs {
        self.timeline.repairs()
    }

    /// What the encoder says of itself.
    pub fn announce(&mut self, now: Instant, announcement: Announcement) {
        if let Some(rate) = announcement.frame_rate {
            self.timeline.hint_frame_rate(rate);
        }
        if announcement.audio && !self.timeline.has_audio() {
            let rate = announcement.audio_sample_rate.filter(|rate| matches!(rate, 44_100 | 48_000)).unwrap_or(48_000);
            let channels = announcement.audio_channels.filter(|channels| matches!(channels, 1 | 2)).unwrap_or(2);
            self.expects_audio = Some((now + AUDIO_CENSUS_TIME, rate, channels));
        }
        let mut shared = self.stream.lock();
        if let Some(leg) = shared.leg_mut(self.id) {
            leg.publisher.encoder = announcement.encoder.or(leg.publisher.encoder.take());
            leg.standby.announced = Announced { video: announcement.video, audio: announcement.audio };
        }
    }

    /// A configuration record of the video track.
    ///
    /// # Errors
    /// The record is damaged or not carried.
    pub fn video_config(&mut self, at: Arrival, codec: VideoCodec, record: &Bytes) -> Result<(), codec::Error> {
        let stream = codec::VideoStream::new(codec, record)?;
        let known = self.video.as_ref().and_then(|(_, stream)| stream.config());
        if let Some(config) = stream.config()
            && known != Some(config)
        {
            self.timeline.video_config(config.clone());
        }
        self.video = Some((codec, stream));
        self.forward(at);
        Ok(())
    }

    /// The codec of a video track whose parameter sets come in band.
    pub fn video_in_band(&mut self, codec: VideoCodec) {
        self.video = Some((codec, codec::VideoStream::in_band(codec)));
    }

    /// One video unit: decode time and composition offset in nanoseconds of the peer's clock.
    pub fn video_unit(&mut self, at: Arrival, time_nanos: i64, offset_nanos: i64, is_key: bool, data: &Bytes) {
        if let Some((_, rate, channels)) = self.expects_audio.take_if(|(deadline, ..)| *deadline <= at.now)
            && let Ok(config) = codec::aac::lc_config(rate, channels)
        {
            self.timeline.audio_config(config);
        }
        let Some((_, stream)) = &mut self.video else { return };
        match stream.unit(data, is_key) {
            Ok(unit) if unit.payload.is_empty() => {
                if let Some(config) = unit.new_config {
                    self.timeline.video_config(config);
                }
            }
            Ok(unit) => self.timeline.video(at.now, time_nanos, offset_nanos, unit),
            Err(_) => self.timeline.count_damaged(),
        }
        self.budget.spend(at.now, data.len());
        self.forward(at);
    }

    /// A configuration of the audio track: `AudioSpecificConfig`, or `OpusHead`.
    ///
    /// # Errors
    /// It is damaged or not carried.
    pub fn audio_config(&mut self, at: Arrival, codec: AudioCodec, record: &Bytes) -> Result<(), codec::Error> {
        let config = match codec {
            AudioCodec::Aac => codec::aac::parse_config(record)?,
            AudioCodec::Opus => codec::opus::parse_head(record)?,
        };
        self.audio_known(at, config);
        Ok(())
    }

    /// The configuration of the audio track, read by the caller.
    pub fn audio_known(&mut self, at: Arrival, config: AudioConfig) {
        self.expects_audio = None;
        self.timeline.audio_config(config);
        self.forward(at);
    }

    /// What the network did, and what cannot be carried of what the encoder sends; for people.
    pub fn report(&self, transport: Transport, links: Vec<Link>, problems: Vec<Advice>) {
        let mut shared = self.stream.lock();
        if let Some(leg) = shared.leg_mut(self.id) {
            (leg.transport, leg.links, leg.problems) = (Some(transport), links, problems);
        }
    }

    /// What was wrong with its transport stream so far.
    pub fn report_ts_errors(&self, ts_errors: Vec<(&'static str, u64)>) {
        let mut shared = self.stream.lock();
        if let Some(leg) = shared.leg_mut(self.id) {
            leg.ts_errors = ts_errors;
        }
    }

    /// Something beside picture and sound: kept for whoever asks, the last of each kind.
    pub fn mark(&self, mut marker: Marker) {
        marker.bytes = Bytes::copy_from_slice(marker.bytes.get(..MARKER_BYTES_MAX).unwrap_or(&marker.bytes));
        let mut shared = self.stream.lock();
        let Some(leg) = shared.leg_mut(self.id) else { return };
        let of_kind = leg.markers.iter().filter(|known| known.kind == marker.kind).count();
        let oldest = leg.markers.iter().position(|known| known.kind == marker.kind);
        if let Some(oldest) = oldest.filter(|_| of_kind >= MARKERS_MAX) {
            leg.markers.remove(oldest);
        }
        leg.markers.push_back(marker);
    }

    /// One audio unit at the peer's time in nanoseconds.
    pub fn audio_unit(&mut self, at: Arrival, codec: AudioCodec, time_nanos: i64, data: Bytes) {
        if codec == AudioCodec::Opus && !self.timeline.has_audio() {
            self.timeline.audio_config(codec::opus::default_config()); // Enhanced RTMP lets Opus come without a header
        }
        self.budget.spend(at.now, data.len());
        self.timeline.audio(at.now, time_nanos, data);
        self.forward(at);
    }

    /// What a picture tells beside what it shows: how the leg does, and when it was captured.
    fn on_picture(&mut self, at: Arrival, unit: &AccessUnit) {
        self.vitals.on_picture(unit.payload.len());
        self.cadence.on_picture(unit.dts.0);
        if let Some(captured) = self.reader.as_ref().and_then(|reader| reader.read(&unit.payload)) {
            let leg = media::Timescale::VIDEO.nanos(unit.pts.0);
            self.capture = captured.utc_nanos(at.utc_nanos).map(|utc| Captured::new(at, utc, leg));
        }
    }

    /// Hands what the timeline has to the stream.
    fn forward(&mut self, at: Arrival) {
        let stream = Arc::clone(&self.stream);
        let has_others = stream.has_several_legs.load(Ordering::Relaxed);
        let mut ready = std::mem::take(&mut self.ready);
        let (mut has_media, mut has_picture) = (false, false);
        while let Some(repaired) = self.timeline.poll() {
            let (unit, is_stand_in) = match repaired {
                Repaired::Config(config) => {
                    match &config {
                        CodecConfig::Audio(audio) => {
                            self.audio_scale = Some(audio.timescale);
                            self.vitals.restart_sound();
                        }
                        CodecConfig::Video(video) => {
                            self.hashed_as = video.codec;
                            self.reader = Some(CaptureReader::new(video));
                            self.vitals.restart();
                        }
                    }
                    ready.push(Ready::Config(config));
                    continue;
                }
                Repaired::Unit(unit) => (unit, false),
                Repaired::StandIn(unit) => (unit, true),
            };
            has_media = true;
            if unit.track == TrackKind::Video {
                has_picture = true;
                self.on_picture(at, &unit);
            } else if !is_stand_in {
                self.vitals.on_sound();
            }
            let audio_scale = self.audio_scale.unwrap_or(media::Timescale::VIDEO);
            let scale = if unit.track == TrackKind::Audio { audio_scale } else { media::Timescale::VIDEO };
            self.observer.observe(&unit, scale);
            let hash = has_others.then(|| copies::hash(&unit, self.hashed_as));
            ready.push(Ready::Unit(Incoming { unit, hash, is_stand_in }));
        }
        let breaks = self.timeline.breaks();
        let mut shared = stream.lock();
        if !shared.has_leg(self.id) {
            return;
        }
        if breaks != self.breaks {
            self.capture = None; // told of the stamps before
        }
        if has_picture {
            Stream::set_capture(&mut shared, self.id, self.capture);
        }
        if std::mem::replace(&mut self.breaks, breaks) != breaks {
            stream.emitting(&mut shared, at, |shared| stream.on_jump(shared, at, self.id));
        }
        if has_media {
            // A source that is paced has delivered until it is read again.
            let delivered = at.now + self.timeline.ahead().saturating_sub(AHEAD_MAX);
            if let Some(leg) = shared.leg_mut(self.id) {
                leg.on_media(at.now, delivered, has_picture, self.cadence.interval());
                if self.budget.is_overdrawn() {
                    leg.kick.send_replace(Some("more than 200 Mbit/s is not taken".into()));
                }
            }
        }
        let late = i64::try_from(self.late.as_nanos()).unwrap_or(i64::MAX);
        let came = at.now.checked_sub(self.late).map(|now| Arrival { now, utc_nanos: at.utc_nanos - late });
        stream.take_in(&mut shared, at, came.unwrap_or(at), self.id, ready.drain(..));
        if at.now.saturating_duration_since(self.last_report) >= REPORT_INTERVAL {
            self.report_to(&mut shared, at);
        }
        drop(shared);
        self.ready = ready;
    }

    /// What was measured since the last time.
    fn report_to(&mut self, shared: &mut Shared, at: Arrival) {
        let suspect_after = self.stream.suspect_after();
        let is_other = |leg: &&LegRecord| leg.id != self.id && !leg.is_slate() && leg.delivers(at.now, suspect_after);
        let others = shared.legs.iter().filter(is_other).map(|leg| leg.shown).reduce(Shown::and);
        let Some(leg) = shared.leg_mut(self.id) else { return };
        self.last_report = at.now;
        leg.observed = self.observer.snapshot();
        leg.repairs = self.timeline.repairs();
        let measured = self.vitals.look(at.now, leg.repairs, leg.transport.unwrap_or_default(), others);
        leg.shown = self.vitals.shown();
        // What is seen says more than what it does to the bit rate.
        leg.weakness = leg.seen.clone().or(measured.map(|(_, evidence)| evidence));
        if let Some(before) = self.told.news(at.now, leg.repairs) {
            let text = format!("{}: {} repaired", leg.describe(), leg.repairs.since(before));
            self.stream.tell(at, Draft::new(EventKind::LegRepaired, Some(self.id), text));
        }
    }

    /// Ends the leg at a known time.
    pub fn close(self, at: Arrival) {
        self.stream.remove_leg(self.id, at);
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        // Without a clock here: the next look at the clocks removes it. `close` does so at once.
        if let Some(leg) = self.stream.lock().leg_mut(self.id) {
            leg.is_gone = true;
        }
    }
}

/// What the timeline made, on its way to the stream.
#[derive(Debug)]
pub(crate) enum Ready {
    Config(CodecConfig),
    Unit(Incoming),
}
