//! One stream: its legs, its program, its subscribers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::{AudioCodec, AudioConfig, CodecConfig, FrameRate, StreamName, TrackKind, VideoCodec};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::observe::{Advice, Observed, Observer, lint};
use crate::program::{Announced, Arrival, Program, ProgramStats};
use crate::ring::{Entry, Found, Item};
use crate::timeline::{Repaired, Repairs, Timeline};

/// How often a leg copies its figures to where others can read them.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// How long an announced sound is waited for before silence stands in.
const AUDIO_CENSUS_TIME: Duration = Duration::from_millis(800);

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
}

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
const MARKERS_MAX: usize = 16;
/// Bytes of a marker that are kept.
const MARKER_BYTES_MAX: usize = 4096;

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// A leg is there and has not delivered yet.
    Starting,
    /// Media flows.
    Live,
    /// A leg is connected and silent, or gone; the playlist stays.
    Lost,
    /// Over.
    Ended,
}

impl StreamState {
    /// The word for it in the API and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Lost => "lost",
            Self::Ended => "ended",
        }
    }
}

/// A stream as the API shows it.
#[derive(Clone, Debug)]
pub struct StreamStatus {
    /// Its name.
    pub name: StreamName,
    /// Where it stands.
    pub state: StreamState,
    /// Configuration of its tracks.
    pub tracks: Vec<CodecConfig>,
    /// Who publishes now.
    pub publisher: Option<Publisher>,
    /// What the leg really sends.
    pub observed: Observed,
    /// What is wrong with the encoder's settings.
    pub advice: Vec<Advice>,
    /// What the network did, where the protocol tells.
    pub transport: Option<Transport>,
    /// The ways over which the leg comes, where its protocol knows several.
    pub links: Vec<Link>,
    /// The last markers of each kind, the newest last.
    pub markers: Vec<Marker>,
    /// What was wrong with its transport stream, by name, as ETSI TR 101 290 counts it.
    pub ts_errors: Vec<(&'static str, u64)>,
    /// Repairs of the leg's timeline.
    pub repairs: Repairs,
    /// Counters of the program.
    pub program: ProgramStats,
    /// Since when media has flowed without loss of the source.
    pub live_for: Option<Duration>,
}

/// Why a publish is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Somebody else publishes and is healthy.
    #[error("stream '{0}' is already being published; stop the other encoder first")]
    Busy(StreamName),
    /// The stream is ending at this very moment.
    #[error("stream '{0}' is just ending; connect again")]
    Ending(StreamName),
    /// The server takes no more streams.
    #[error("the server carries {0} streams, which is its limit")]
    TooManyStreams(usize),
}

#[derive(Debug)]
struct LegRecord {
    id: u64,
    publisher: Publisher,
    last_media: Option<Instant>,
    /// The peer has closed its side, and what it sent before is still being taken in.
    has_hung_up: bool,
    began: Instant,
    observed: Observed,
    repairs: Repairs,
    transport: Option<Transport>,
    links: Vec<Link>,
    markers: VecDeque<Marker>,
    ts_errors: Vec<(&'static str, u64)>,
    problems: Vec<Advice>,
    /// Ends the session, with a reason.
    kick: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct Shared {
    program: Program,
    leg: Option<LegRecord>,
    next_leg_id: u64,
    state: StreamState,
    live_since: Option<Instant>,
    lost_since: Option<Instant>,
}

/// A stream. Everybody holds it by `Arc`; its lock guards O(1) work only.
#[derive(Debug)]
pub struct Stream {
    name: StreamName,
    shared: Mutex<Shared>,
    /// The number the next ring entry will have.
    head: watch::Sender<u64>,
}

/// What [`crate::Hub::tick`] saw happen to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// The source is silent.
    Silent,
    /// The stream is over.
    Ended,
}

impl Stream {
    pub(crate) fn new(name: StreamName) -> Self {
        let shared = Shared {
            program: Program::new(),
            leg: None,
            next_leg_id: 0,
            state: StreamState::Starting,
            live_since: None,
            lost_since: None,
        };
        Self { name, shared: Mutex::new(shared), head: watch::Sender::new(0) }
    }

    /// The stream's name.
    pub fn name(&self) -> &StreamName {
        &self.name
    }

    /// Where it stands.
    pub fn state(&self) -> StreamState {
        self.shared.lock().state
    }

    /// Everything the API shows.
    pub fn status(&self, now: Instant) -> StreamStatus {
        let shared = self.shared.lock();
        let tracks: Vec<CodecConfig> = [TrackKind::Video, TrackKind::Audio]
            .into_iter()
            .filter_map(|track| shared.program.tracks.config(track))
            .collect();
        let (observed, repairs, publisher) = match &shared.leg {
            Some(leg) => (leg.observed.clone(), leg.repairs, Some(leg.publisher.clone())),
            None => Default::default(),
        };
        let mut advice = lint(&tracks, &observed);
        advice.extend(shared.leg.iter().flat_map(|leg| leg.problems.clone()));
        StreamStatus {
            name: self.name.clone(),
            state: shared.state,
            advice,
            transport: shared.leg.as_ref().and_then(|leg| leg.transport),
            links: shared.leg.as_ref().map(|leg| leg.links.clone()).unwrap_or_default(),
            markers: shared.leg.iter().flat_map(|leg| leg.markers.iter().cloned()).collect(),
            ts_errors: shared.leg.as_ref().map(|leg| leg.ts_errors.clone()).unwrap_or_default(),
            tracks,
            publisher,
            observed,
            repairs,
            program: shared.program.stats,
            live_for: shared.live_since.map(|since| now.saturating_duration_since(since)),
        }
    }

    /// A cursor that starts at the newest random access point.
    pub fn subscribe(self: &Arc<Self>) -> Subscriber {
        let next = self.shared.lock().program.ring.latest_start();
        Subscriber { stream: Arc::clone(self), changed: self.head.subscribe(), next, skipped: 0 }
    }

    /// A cursor that starts with the oldest entry there is.
    pub fn subscribe_from_oldest(self: &Arc<Self>) -> Subscriber {
        let next = self.shared.lock().program.ring.oldest();
        Subscriber { stream: Arc::clone(self), changed: self.head.subscribe(), next, skipped: 0 }
    }

    /// Ends the session of the leg, if it was let in with this key.
    pub fn kick_key(&self, key_id: &str, reason: &str) -> bool {
        let shared = self.shared.lock();
        let Some(leg) = shared.leg.as_ref().filter(|leg| leg.publisher.key_id == key_id) else { return false };
        leg.kick.send_replace(Some(reason.to_owned()));
        true
    }

    /// Adds a leg. One whose current leg is silent for `takeover_after` is replaced.
    pub(crate) fn add_leg(
        self: &Arc<Self>,
        now: Instant,
        publisher: Publisher,
        takeover_after: Duration,
    ) -> Result<Leg, PublishError> {
        let mut shared = self.shared.lock();
        if shared.state == StreamState::Ended {
            return Err(PublishError::Ending(self.name.clone()));
        }
        if let Some(old) = &shared.leg {
            let silence = now.saturating_duration_since(old.last_media.unwrap_or(old.began));
            if silence < takeover_after && !old.has_hung_up {
                return Err(PublishError::Busy(self.name.clone()));
            }
            old.kick.send_replace(Some("another encoder took over while this one was silent".into()));
        }
        let (kick, kicked) = watch::channel(None);
        let id = shared.next_leg_id;
        shared.next_leg_id += 1;
        let (observed, repairs) = (Observed::default(), Repairs::default());
        let (last_media, has_hung_up) = (None, false);
        shared.leg = Some(LegRecord {
            id,
            publisher,
            last_media,
            has_hung_up,
            began: now,
            observed,
            repairs,
            transport: None,
            links: Vec::new(),
            markers: VecDeque::new(),
            ts_errors: Vec::new(),
            problems: Vec::new(),
            kick,
        });
        shared.program.begin_leg(now);
        drop(shared);
        Ok(Leg {
            stream: Arc::clone(self),
            id,
            timeline: Timeline::new(),
            video: None,
            audio_scale: None,
            observer: Observer::default(),
            expects_audio: None,
            kicked,
            budget: Budget::new(now),
            last_report: now,
        })
    }

    /// Looks at the clocks: a silent source, a hold time that is over. Called a few times a second.
    pub(crate) fn tick(&self, at: Arrival, silent_after: Duration, hold: Duration) -> Option<StreamEvent> {
        let mut shared = self.shared.lock();
        let silence =
            shared.leg.as_ref().map(|leg| at.now.saturating_duration_since(leg.last_media.unwrap_or(leg.began)));
        match shared.state {
            StreamState::Live if silence.is_some_and(|silence| silence >= silent_after) => {
                self.lose(&mut shared, at);
                Some(StreamEvent::Silent)
            }
            StreamState::Lost | StreamState::Starting
                if shared.leg.is_none()
                    && shared.lost_since.is_some_and(|since| at.now.saturating_duration_since(since) >= hold) =>
            {
                self.finish(&mut shared, at);
                Some(StreamEvent::Ended)
            }
            _ => None,
        }
    }

    /// The operator ends the stream.
    pub(crate) fn end(&self, at: Arrival) {
        let mut shared = self.shared.lock();
        if let Some(leg) = &shared.leg {
            leg.kick.send_replace(Some("the operator ended the stream".into()));
        }
        self.finish(&mut shared, at);
    }

    fn finish(&self, shared: &mut Shared, at: Arrival) {
        shared.state = StreamState::Ended;
        shared.program.mark(at.utc_nanos, Item::End);
        self.head.send_replace(shared.program.ring.head());
    }

    fn lose(&self, shared: &mut Shared, at: Arrival) {
        (shared.state, shared.live_since) = (StreamState::Lost, None);
        shared.lost_since.get_or_insert(at.now);
        shared.program.mark(at.utc_nanos, Item::Lost);
        self.head.send_replace(shared.program.ring.head());
    }

    fn remove_leg(&self, id: u64, at: Arrival) {
        let mut shared = self.shared.lock();
        if shared.leg.as_ref().is_none_or(|leg| leg.id != id) {
            return; // replaced before it closed
        }
        shared.leg = None;
        shared.program.end_leg();
        shared.lost_since = Some(at.now);
        if shared.state == StreamState::Live {
            self.lose(&mut shared, at);
        }
    }
}

/// One source of a stream. Dropping it is the end of the source.
#[derive(Debug)]
pub struct Leg {
    stream: Arc<Stream>,
    id: u64,
    timeline: Timeline,
    video: Option<(VideoCodec, codec::VideoStream)>,
    audio_scale: Option<media::Timescale>,
    observer: Observer,
    /// Sound was announced, so silence stands in from this moment.
    expects_audio: Option<(Instant, u32, u8)>,
    kicked: watch::Receiver<Option<String>>,
    budget: Budget,
    last_report: Instant,
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
    /// The stream it belongs to.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// A receiver that tells when the session must end, and why.
    pub fn kicked(&self) -> watch::Receiver<Option<String>> {
        self.kicked.clone()
    }

    /// The peer has closed its side; what it sent is still good, and whoever comes next takes over at once.
    pub fn hang_up(&self) {
        let mut shared = self.stream.shared.lock();
        if let Some(leg) = shared.leg.as_mut().filter(|leg| leg.id == self.id) {
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
        let mut shared = self.stream.shared.lock();
        if let Some(leg) = shared.leg.as_mut().filter(|leg| leg.id == self.id) {
            leg.publisher.encoder = announcement.encoder.or(leg.publisher.encoder.take());
            shared.program.announce(Announced { video: announcement.video, audio: announcement.audio });
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
        let mut shared = self.stream.shared.lock();
        if let Some(leg) = shared.leg.as_mut().filter(|leg| leg.id == self.id) {
            (leg.transport, leg.links, leg.problems) = (Some(transport), links, problems);
        }
    }

    /// What was wrong with its transport stream so far.
    pub fn report_ts_errors(&self, ts_errors: Vec<(&'static str, u64)>) {
        let mut shared = self.stream.shared.lock();
        if let Some(leg) = shared.leg.as_mut().filter(|leg| leg.id == self.id) {
            leg.ts_errors = ts_errors;
        }
    }

    /// Something beside picture and sound: kept for whoever asks, the last of each kind.
    pub fn mark(&self, mut marker: Marker) {
        marker.bytes = Bytes::copy_from_slice(marker.bytes.get(..MARKER_BYTES_MAX).unwrap_or(&marker.bytes));
        let mut shared = self.stream.shared.lock();
        let Some(leg) = shared.leg.as_mut().filter(|leg| leg.id == self.id) else { return };
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

    /// Hands what the timeline has to the program.
    fn forward(&mut self, at: Arrival) {
        let stream = Arc::clone(&self.stream);
        let mut shared = stream.shared.lock();
        let is_current = shared.leg.as_ref().is_some_and(|leg| leg.id == self.id) && shared.state != StreamState::Ended;
        let before = shared.program.stats.units;
        let mut has_media = false;
        while let Some(repaired) = self.timeline.poll() {
            match &repaired {
                Repaired::Config(config) if config.kind() == TrackKind::Audio => {
                    self.audio_scale = Some(config.timescale());
                }
                Repaired::Config(_) => {}
                Repaired::Unit(unit) => {
                    has_media = true;
                    let audio_scale = self.audio_scale.unwrap_or(media::Timescale::VIDEO);
                    let scale = if unit.track == TrackKind::Audio { audio_scale } else { media::Timescale::VIDEO };
                    self.observer.observe(unit, scale);
                }
            }
            if is_current {
                shared.program.handle(at, repaired);
            }
        }
        if !is_current {
            return;
        }
        if let Some(leg) = &mut shared.leg {
            if has_media {
                // A source that is paced has delivered until the time it is ahead to.
                leg.last_media = Some(at.now + self.timeline.ahead());
                if self.budget.is_overdrawn() {
                    leg.kick.send_replace(Some("more than 200 Mbit/s is not taken".into()));
                }
            }
            if at.now.saturating_duration_since(self.last_report) >= REPORT_INTERVAL {
                self.last_report = at.now;
                leg.observed = self.observer.snapshot();
                leg.repairs = self.timeline.repairs();
            }
        }
        if shared.program.stats.units > before {
            if shared.state != StreamState::Live {
                (shared.state, shared.live_since, shared.lost_since) = (StreamState::Live, Some(at.now), None);
            }
            stream.head.send_replace(shared.program.ring.head());
        }
    }

    /// Ends the leg at a known time.
    pub fn close(self, at: Arrival) {
        self.stream.remove_leg(self.id, at);
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        // Without a clock here, the moment of the last media is the best there is; `close` tells it exactly.
        let last = {
            let shared = self.stream.shared.lock();
            shared.leg.as_ref().filter(|leg| leg.id == self.id).map(|leg| leg.last_media.unwrap_or(leg.began))
        };
        if let Some(now) = last {
            self.stream.remove_leg(self.id, Arrival { now, utc_nanos: 0 });
        }
    }
}

/// A cursor into a stream's ring. A slow one loses whole GOPs; it never blocks anybody and never grows.
#[derive(Debug)]
pub struct Subscriber {
    stream: Arc<Stream>,
    changed: watch::Receiver<u64>,
    next: u64,
    skipped: u64,
}

impl Subscriber {
    /// The stream it reads.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Times it was too slow and went on at a later random access point.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next entry, if there is one.
    pub fn try_next(&mut self) -> Option<Arc<Entry>> {
        let shared = self.stream.shared.lock();
        loop {
            match shared.program.ring.get(self.next) {
                Found::Entry(entry) => {
                    self.next += 1;
                    return Some(entry);
                }
                Found::Nothing => return None,
                Found::Behind(next) => {
                    self.next = next;
                    self.skipped += 1;
                }
            }
        }
    }

    /// The next entry, when there is one. Cancel-safe.
    pub async fn next(&mut self) -> Arc<Entry> {
        loop {
            self.changed.borrow_and_update();
            if let Some(entry) = self.try_next() {
                return entry;
            }
            // The stream holds the sender and we hold the stream: it cannot close.
            let _ = self.changed.changed().await;
        }
    }
}
