//! One stream: its legs, its program, its subscribers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use media::{CodecConfig, StreamName, TrackKind};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::HubConfig;
use crate::copies::CopyStats;
use crate::event::{Draft, EventKind, EventLog, SwitchReason, Told};
use crate::leg::{Captured, Leg, Ready};
use crate::legs::{LegRecord, LegState, LegStatus};
use crate::observe::{Advice, Observed, lint};
use crate::program::{Arrival, Holes, Program, ProgramStats};
use crate::report::{Link, Marker, Publisher, SLATE_RANK, Transport};
use crate::ring::{Entry, Found, Item, Tracks};
use crate::sample::Sample;
use crate::switch::Cause;
use crate::timeline::Repairs;

/// Most legs of a stream.
const LEGS_MAX: usize = 8;
/// Most live legs with one key.
const LEGS_OF_A_KEY_MAX: usize = 2;
/// Between two refusals that are told of.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);
/// How long units are still hashed when only one leg is left: what was emitted last is compared with what it brings.
const HASH_ON: Duration = Duration::from_secs(10);

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
    /// Its legs, the one that leads first.
    pub legs: Vec<LegStatus>,
    /// What became of copies, where several legs carry the same encode.
    pub copies: CopyStats,
    /// An operator holds the stream on this leg.
    pub pinned: Option<u64>,
    /// Who publishes now: the leg that leads.
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
    /// Somebody else publishes and is healthy, and the policy is to refuse.
    #[error("stream '{0}' is already being published; stop the other encoder first")]
    Busy(StreamName),
    /// Two legs with this key are healthy.
    #[error("stream '{0}' has two healthy publishers with this key already; stop one of them, or create another key")]
    Full(StreamName),
    /// It has as many legs as a stream can have.
    #[error("stream '{0}' has {max} legs already, which is the most; stop one of them", max = LEGS_MAX)]
    TooManyLegs(StreamName),
    /// The stream is ending at this very moment.
    #[error("stream '{0}' is just ending; connect again")]
    Ending(StreamName),
    /// The server takes no more streams.
    #[error("the server carries {0} streams, which is its limit")]
    TooManyStreams(usize),
}

impl PublishError {
    /// Whether others are in the way, who may leave.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Full(_) | Self::TooManyLegs(_))
    }
}

/// What a second publisher with the same key is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecondPublisher {
    /// Another leg, which takes over when the first one fails.
    #[default]
    Backup,
    /// The one that counts from now on; the first one is disconnected.
    TakeOver,
    /// Refused, while the first one delivers.
    Refuse,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) program: Program,
    pub(crate) legs: Vec<LegRecord>,
    next_leg_id: u64,
    state: StreamState,
    live_since: Option<Instant>,
    lost_since: Option<Instant>,
    /// The server before this one had it until then, in nanoseconds of UTC.
    away_since: Option<i64>,
    /// Since when there is no source; a slate is none.
    sourceless_since: Option<Instant>,
    /// It stays without a source.
    is_kept: bool,
    told_holes: Told<Holes>,
    told_filled: Told<u64>,
    /// When a refused publisher was told of.
    refused_at: Option<Instant>,
    /// Since when there is a single leg.
    alone_since: Option<Instant>,
    /// An operator holds the stream on this leg.
    pub(crate) pinned: Option<u64>,
    /// An operator wants the stream on this leg, once.
    pub(crate) forced: Option<u64>,
    /// The leg that leads because an operator said so.
    pub(crate) chosen: Option<u64>,
    /// How the last leg that led was lost.
    pub(crate) cause: Cause,
    /// When the program went back to a preferred leg, lately.
    pub(crate) returns: VecDeque<Instant>,
}

impl Shared {
    pub(crate) fn has_leg(&self, id: u64) -> bool {
        self.legs.iter().any(|leg| leg.id == id)
    }

    pub(crate) fn leg(&self, id: u64) -> Option<&LegRecord> {
        self.legs.iter().find(|leg| leg.id == id)
    }

    pub(crate) fn leg_mut(&mut self, id: u64) -> Option<&mut LegRecord> {
        self.legs.iter_mut().find(|leg| leg.id == id)
    }

    /// Whether it has been without a source for as long as it is held.
    fn is_over(&self, now: Instant, hold: Duration) -> bool {
        let is_past = |since: Instant| now.saturating_duration_since(since) >= hold;
        !self.is_kept && self.sourceless_since.is_some_and(is_past)
    }

    /// How long the program has got nothing. A source that is paced has delivered until the time it is ahead to.
    fn silence(&self, now: Instant) -> Duration {
        let leader = self.program.leader().and_then(|id| self.leg(id)).and_then(|leg| leg.last_media);
        let last = leader.max(self.program.last_arrival());
        last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    /// The leg that leads, or any.
    fn leading(&self) -> Option<&LegRecord> {
        self.program.leader().and_then(|id| self.leg(id)).or_else(|| self.legs.first())
    }
}

/// A stream. Everybody holds it by `Arc`; its lock guards O(1) work only.
#[derive(Debug)]
pub struct Stream {
    name: StreamName,
    pub(crate) config: HubConfig,
    pub(crate) events: Arc<EventLog>,
    shared: Mutex<Shared>,
    /// The number the next ring entry will have.
    head: watch::Sender<u64>,
    /// Units are hashed, to see which legs carry the same.
    pub(crate) has_several_legs: AtomicBool,
}

impl Stream {
    pub(crate) fn new(name: StreamName, config: HubConfig, events: Arc<EventLog>, away_since: Option<i64>) -> Self {
        let shared = Shared {
            program: Program::new(config.merge_window, config.merge_mode),
            legs: Vec::new(),
            next_leg_id: 0,
            state: StreamState::Starting,
            live_since: None,
            lost_since: None,
            away_since,
            sourceless_since: None,
            is_kept: false,
            told_holes: Told::default(),
            told_filled: Told::default(),
            refused_at: None,
            alone_since: None,
            pinned: None,
            forced: None,
            chosen: None,
            cause: Cause::Nobody,
            returns: VecDeque::new(),
        };
        let (shared, head, has_several_legs) = (Mutex::new(shared), watch::Sender::new(0), AtomicBool::new(false));
        Self { name, config, events, shared, head, has_several_legs }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }

    pub(crate) fn tell(&self, at: Arrival, draft: Draft) {
        self.events.add(at.utc_nanos, &self.name, draft);
    }

    /// No slate can stand in for a source, for this reason.
    pub fn slate_is_missing(&self, at: Arrival, why: &str) {
        self.tell(
            at,
            Draft::new(EventKind::SlateMissing, None, format!("there is no slate, viewers see a gap: {why}")),
        );
    }

    /// It is not ended for want of a source.
    pub(crate) fn keep(&self) {
        self.shared.lock().is_kept = true;
    }

    /// What is sent instead of a source must fit: the tracks of the program, and the measured frames per 1,000 seconds.
    pub fn format(&self) -> (Arc<Tracks>, u64) {
        let shared = self.shared.lock();
        let rate = shared.leading().map_or(0, |leg| leg.observed.frame_rate_millihertz);
        (Arc::clone(&shared.program.tracks), rate)
    }

    /// When the last unit came of the track that tells where the program is.
    pub fn last_arrival(&self) -> Option<Instant> {
        self.shared.lock().program.last_arrival()
    }

    /// Whether somebody publishes it who could be asked to leave: no slate, and nothing that this server fetches.
    pub fn has_publisher(&self) -> bool {
        let shared = self.shared.lock();
        shared.legs.iter().any(|leg| !leg.is_slate() && !leg.is_gone && !leg.publisher.is_fetched)
    }

    /// Whether a source (no slate) feeds the program, and is not silent.
    pub fn has_source(&self, now: Instant) -> bool {
        let shared = self.shared.lock();
        let leading = shared.program.leader().and_then(|id| shared.leg(id));
        let suspect_after = self.suspect_after();
        leading.is_some_and(|leg| !leg.is_slate() && leg.delivers(now, suspect_after))
    }

    /// Whether no source delivers, and the one that feeds the program is dead: its sound may go on without a picture.
    pub fn is_dark(&self, now: Instant) -> bool {
        let shared = self.shared.lock();
        let suspect_after = self.suspect_after();
        let leading = shared.program.leader().and_then(|id| shared.leg(id));
        leading.is_none_or(|leg| leg.health(now, suspect_after) == LegState::Dead)
            && !shared.legs.iter().any(|leg| leg.delivers(now, suspect_after))
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
        let leg = shared.leading();
        let (observed, repairs, publisher) = match leg {
            Some(leg) => (leg.observed.clone(), leg.repairs, Some(leg.publisher.clone())),
            None => Default::default(),
        };
        let mut advice = lint(&tracks, &observed);
        advice.extend(leg.iter().flat_map(|leg| leg.problems.clone()));
        let mut legs: Vec<_> = shared.legs.iter().map(|leg| leg.status(now, &shared.program)).collect();
        legs.sort_by_key(|leg| (Some(leg.id) != shared.program.leader(), leg.publisher.rank, leg.id));
        StreamStatus {
            name: self.name.clone(),
            state: shared.state,
            advice,
            transport: leg.and_then(|leg| leg.transport),
            links: leg.map(|leg| leg.links.clone()).unwrap_or_default(),
            markers: leg.iter().flat_map(|leg| leg.markers.iter().cloned()).collect(),
            ts_errors: leg.map(|leg| leg.ts_errors.clone()).unwrap_or_default(),
            tracks,
            legs,
            copies: shared.program.copy_stats(),
            pinned: shared.pinned,
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

    /// Ends the sessions of the legs that were let in with this key; whether there were any.
    pub fn kick_key(&self, key_id: &str, reason: &str) -> bool {
        let shared = self.shared.lock();
        let legs = || shared.legs.iter().filter(|leg| leg.publisher.key_id == key_id);
        legs().for_each(|leg| drop(leg.kick.send_replace(Some(reason.to_owned()))));
        legs().next().is_some()
    }

    /// Adds a leg. What it is beside others with the same key is a matter of policy.
    pub(crate) fn add_leg(self: &Arc<Self>, at: Arrival, publisher: Publisher) -> Result<Leg, PublishError> {
        let mut shared = self.shared.lock();
        if shared.state == StreamState::Ended {
            return Err(PublishError::Ending(self.name.clone()));
        }
        let mut room = Ok(());
        self.emitting(&mut shared, at, |shared| room = self.make_room(shared, at, &publisher));
        if let Err(error) = room {
            let is_news =
                shared.refused_at.is_none_or(|last| at.now.saturating_duration_since(last) >= REFUSAL_INTERVAL);
            if is_news {
                shared.refused_at = Some(at.now);
                let text = format!("{} from {}: {error}", publisher.protocol, publisher.peer);
                self.tell(at, Draft::new(EventKind::LegRefused, None, text));
            }
            return Err(error);
        }
        let (kick, kicked) = watch::channel(None);
        let id = shared.next_leg_id;
        shared.next_leg_id += 1;
        let leg = LegRecord::new(id, publisher, at.now, kick);
        self.tell(at, Draft::new(EventKind::LegJoined, Some(id), format!("{} connected", leg.describe())));
        if !leg.is_slate() {
            shared.sourceless_since = None;
        }
        shared.legs.push(leg);
        shared.program.add_candidate(id);
        shared.alone_since = Some(at.now).filter(|_| shared.legs.len() < 2);
        self.has_several_legs.fetch_or(shared.legs.len() > 1, Ordering::Relaxed);
        drop(shared);
        Ok(Leg::new(Arc::clone(self), id, at.now, kicked))
    }

    /// Room for another publisher, by what the policy says of those that are there.
    fn make_room(&self, shared: &mut Shared, at: Arrival, publisher: &Publisher) -> Result<(), PublishError> {
        if publisher.rank == SLATE_RANK {
            return Ok(()); // what is shown without a source takes no source's place
        }
        let sources = shared.legs.iter().filter(|leg| !leg.is_slate()).count();
        let silent = |leg: &LegRecord| {
            leg.has_hung_up || leg.silence(at.now) >= self.config.takeover_after.max(leg.usual_silence())
        };
        let same = |leg: &&LegRecord| leg.publisher.key_id == publisher.key_id;
        let with_key: Vec<u64> = shared.legs.iter().filter(same).map(|leg| leg.id).collect();
        let longest_silent = |shared: &Shared| {
            let legs = shared.legs.iter().filter(|leg| with_key.contains(&leg.id) && silent(leg));
            legs.max_by_key(|leg| (leg.has_hung_up, leg.silence(at.now))).map(|leg| leg.id)
        };
        let full = |name: &StreamName| {
            let is_key_full = with_key.len() >= LEGS_OF_A_KEY_MAX;
            if is_key_full { PublishError::Full(name.clone()) } else { PublishError::TooManyLegs(name.clone()) }
        };
        let replaced = match self.config.second_publisher {
            SecondPublisher::Backup if with_key.len() < LEGS_OF_A_KEY_MAX && sources < LEGS_MAX => {
                return Ok(());
            }
            SecondPublisher::Backup => {
                vec![longest_silent(shared).ok_or_else(|| full(&self.name))?]
            }
            SecondPublisher::TakeOver => with_key,
            SecondPublisher::Refuse if with_key.is_empty() => Vec::new(),
            SecondPublisher::Refuse => {
                vec![longest_silent(shared).ok_or_else(|| PublishError::Busy(self.name.clone()))?]
            }
        };
        if sources >= LEGS_MAX + replaced.len() {
            return Err(PublishError::TooManyLegs(self.name.clone()));
        }
        for id in replaced {
            if let Some(leg) = shared.leg(id) {
                let reason = if silent(leg) { "while this one was silent" } else { "as the configuration says" };
                leg.kick.send_replace(Some(format!("another encoder took over, {reason}")));
            }
            self.drop_leg(shared, at, id, "another publisher with its key took its place");
        }
        Ok(())
    }

    /// What a leg brings, which counts as having come at `came`: to the program, or to what is kept in case it is needed.
    pub(crate) fn take_in(
        &self,
        shared: &mut Shared,
        at: Arrival,
        came: Arrival,
        id: u64,
        ready: impl Iterator<Item = Ready>,
    ) {
        if shared.state == StreamState::Ended {
            return;
        }
        self.emitting(shared, at, |shared| {
            self.keep_or_show(shared, came, id, ready);
            if !shared.program.is_fed_by(id) {
                self.look_for_copies(shared, at, id);
            } else if shared.program.feeds().count() > 1 {
                self.look_for_strangers(shared, at);
            }
            if shared.program.leader() != Some(id) || shared.forced.is_some() {
                self.consider(shared, at);
            }
        });
    }

    /// What each source has brought since this was asked last; empty unless [`crate::HubConfig::keeps_samples`].
    pub fn samples(&self, now: Instant) -> Vec<Sample> {
        let mut shared = self.shared.lock();
        let suspect_after = self.suspect_after();
        let keeps = self.config.keeps_samples && shared.state != StreamState::Ended;
        let legs = shared.legs.iter_mut().filter(|leg| keeps && !leg.is_slate());
        legs.map(|leg| {
            let delivers = leg.delivers(now, suspect_after);
            leg.newest.take(leg.id, delivers, &leg.standby.tracks)
        })
        .collect()
    }

    /// What whoever decodes the samples found wrong with a leg, in words, or that nothing is; all legs at once, so that one does not give
    /// way to another that does no better.
    pub fn set_seen(&self, at: Arrival, seen: &[(u64, Option<String>)]) {
        let mut shared = self.shared.lock();
        if shared.state == StreamState::Ended {
            return;
        }
        for (id, seen) in seen {
            let Some(leg) = shared.leg_mut(*id) else { continue };
            if seen.is_some() || leg.weakness == leg.seen {
                leg.weakness.clone_from(seen);
            }
            leg.seen.clone_from(seen);
        }
        self.emitting(&mut shared, at, |shared| self.consider(shared, at));
    }

    fn keep_or_show(&self, shared: &mut Shared, at: Arrival, id: u64, ready: impl Iterator<Item = Ready>) {
        let Shared { program, legs, .. } = shared;
        let Some(leg) = legs.iter_mut().find(|leg| leg.id == id) else { return };
        let feeds = program.feeds().count();
        for item in ready {
            let incoming = match item {
                Ready::Config(config) => {
                    leg.newest.clear(config.kind());
                    program.config(id, config.clone());
                    leg.standby.config(config);
                    continue;
                }
                Ready::Unit(incoming) => incoming,
            };
            if self.config.keeps_samples && !leg.is_slate() && !leg.is_disabled {
                leg.newest.keep(&incoming);
            }
            if program.is_fed_by(id) {
                program.unit(at, id, incoming);
                continue;
            }
            if !leg.is_disabled {
                program.observe(at, id, &leg.standby.tracks, &incoming);
            }
            leg.standby.push(at, incoming);
        }
        if program.feeds().count() < feeds {
            let text = format!("{} has other sound now: copies of it are looked for anew", leg.describe());
            self.tell(at, Draft::new(EventKind::Parted, Some(id), text));
        }
    }

    /// When a leg's pictures were captured, as far as is known.
    pub(crate) fn set_capture(shared: &mut Shared, id: u64, capture: Option<Captured>) {
        let Shared { program, legs, .. } = shared;
        let offset = capture.map(|capture| capture.offset);
        program.set_capture(id, offset);
        if let Some(leg) = legs.iter_mut().find(|leg| leg.id == id) {
            leg.standby.capture = offset;
            leg.capture_delay_nanos = capture.map(|capture| capture.delay);
        }
    }

    /// Does something that may bring the program on, and wakes those who read it.
    pub(crate) fn emitting(&self, shared: &mut Shared, at: Arrival, work: impl FnOnce(&mut Shared)) {
        let before = shared.program.stats.units;
        work(shared);
        if shared.program.stats.units > before {
            self.on_emitted(shared, at);
        }
    }

    /// Something reached the ring.
    fn on_emitted(&self, shared: &mut Shared, at: Arrival) {
        if shared.state != StreamState::Live {
            let lost = shared.lost_since.filter(|_| shared.state == StreamState::Lost);
            let lost = lost.map(|since| at.now.saturating_duration_since(since));
            let away = shared.away_since.take().map(|since| at.utc_nanos.saturating_sub(since));
            let away = away.and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos);
            let text = match (lost, away) {
                (Some(gap), _) => format!("media flows again after {} ms", gap.as_millis()),
                (None, Some(gap)) => format!("media flows again after {} ms: the server was away", gap.as_millis()),
                (None, None) => "media flows".into(),
            };
            let draft = Draft::new(EventKind::Live, shared.program.leader(), text);
            self.tell(at, Draft { gap: lost.or(away), ..draft });
            (shared.state, shared.live_since, shared.lost_since) = (StreamState::Live, Some(at.now), None);
        }
        self.head.send_replace(shared.program.ring.head());
    }

    /// Looks at the clocks: silent sources, units that were held long enough, a hold time that is over; whether the stream has
    /// just ended. Called a few times a second.
    pub(crate) fn tick(&self, at: Arrival) -> bool {
        let mut shared = self.shared.lock();
        if shared.state == StreamState::Ended {
            return false;
        }
        let gone: Vec<u64> = shared.legs.iter().filter(|leg| leg.is_gone).map(|leg| leg.id).collect();
        for id in gone {
            self.take_out(&mut shared, at, id, "its session failed");
        }
        self.emitting(&mut shared, at, |shared| {
            self.note_health(shared, at);
            self.look_for_weak_copies(shared, at);
            self.look_for_late_copies(shared, at);
            self.consider(shared, at);
            shared.program.release_all(at);
        });
        self.tell_holes(&mut shared, at);
        self.tell_filled(&mut shared, at);
        if shared.alone_since.is_some_and(|since| at.now.saturating_duration_since(since) >= HASH_ON) {
            self.has_several_legs.store(false, Ordering::Relaxed);
        }
        let leading = shared.program.leader().and_then(|id| shared.leg(id));
        let silent_after = self.config.silent_after.max(leading.map_or(Duration::ZERO, LegRecord::patience));
        if shared.state == StreamState::Live && shared.silence(at.now) >= silent_after {
            self.lose(&mut shared, at, "no leg delivers");
        }
        let is_over = shared.is_over(at.now, self.config.hold);
        if is_over {
            self.finish(&mut shared, at, "no source came back");
        }
        is_over
    }

    fn tell_holes(&self, shared: &mut Shared, at: Arrival) {
        let holes = shared.program.stats.holes;
        let Some(before) = shared.told_holes.news(at.now, holes) else { return };
        let (pictures, gap) = (holes.pictures - before.pictures, holes.time.saturating_sub(before.time));
        let text = format!("no leg brought {pictures} pictures, {} ms", gap.as_millis());
        let draft = Draft::new(EventKind::Hole, shared.program.leader(), text);
        self.tell(at, Draft { gap: Some(gap), units_lost: Some(pictures), ..draft });
    }

    fn tell_filled(&self, shared: &mut Shared, at: Arrival) {
        let filled = shared.program.copy_stats().repaired;
        let Some(before) = shared.told_filled.news(at.now, filled) else { return };
        let text = format!("{} pictures that one leg lacked came from another one", filled - before);
        self.tell(at, Draft { units_lost: Some(0), ..Draft::new(EventKind::Filled, shared.program.leader(), text) });
    }

    /// The operator ends the stream.
    pub(crate) fn end(&self, at: Arrival) {
        let mut shared = self.shared.lock();
        self.finish(&mut shared, at, "the operator ended it");
    }

    fn finish(&self, shared: &mut Shared, at: Arrival, why: &str) {
        for leg in &shared.legs {
            leg.kick.send_replace(Some(format!("the stream ended: {why}")));
        }
        shared.state = StreamState::Ended;
        shared.program.mark(at.utc_nanos, Item::End);
        self.head.send_replace(shared.program.ring.head());
        self.tell(at, Draft::new(EventKind::Ended, None, why));
    }

    fn lose(&self, shared: &mut Shared, at: Arrival, why: &str) {
        (shared.state, shared.live_since) = (StreamState::Lost, None);
        shared.lost_since.get_or_insert(at.now);
        shared.program.mark(at.utc_nanos, Item::Lost);
        self.head.send_replace(shared.program.ring.head());
        self.tell(at, Draft::new(EventKind::Lost, None, why));
    }

    pub(crate) fn remove_leg(&self, id: u64, at: Arrival) {
        let mut shared = self.shared.lock();
        if shared.has_leg(id) {
            self.take_out(&mut shared, at, id, "it closed its connection");
        }
    }

    fn take_out(&self, shared: &mut Shared, at: Arrival, id: u64, why: &str) {
        if shared.state == StreamState::Ended {
            shared.legs.retain(|leg| leg.id != id);
            return;
        }
        self.emitting(shared, at, |shared| self.drop_leg(shared, at, id, why));
        if shared.state == StreamState::Live && shared.program.leader().is_none() && !self.may_go_on(shared, at.now) {
            self.lose(shared, at, "the last leg that delivered is gone");
        }
    }

    /// Whether a leg delivers that may feed the program soon.
    fn may_go_on(&self, shared: &Shared, now: Instant) -> bool {
        shared.legs.iter().any(|leg| leg.delivers(now, self.suspect_after()))
    }

    /// Silence after which a leg is suspect, unless more is usual for it.
    pub(crate) fn suspect_after(&self) -> Duration {
        self.config.takeover_after
    }

    fn drop_leg(&self, shared: &mut Shared, at: Arrival, id: u64, why: &str) {
        let Some(index) = shared.legs.iter().position(|leg| leg.id == id) else { return };
        let leg = shared.legs.remove(index);
        let led = (shared.program.leader() == Some(id)).then_some(SwitchReason::Closed);
        self.tell(at, Draft::new(EventKind::LegLeft, Some(id), format!("{} left: {why}", leg.describe())));
        shared.program.forget(at, id);
        if led.is_some() {
            shared.cause = Cause::Closed { leg: id, since: leg.last_media.unwrap_or(leg.began) };
        }
        shared.pinned = shared.pinned.filter(|pinned| *pinned != id);
        shared.forced = shared.forced.filter(|forced| *forced != id);
        shared.alone_since = Some(at.now).filter(|_| shared.legs.len() < 2);
        if shared.legs.iter().all(LegRecord::is_slate) {
            shared.sourceless_since.get_or_insert(at.now);
        }
        self.after_change(shared, at, led);
        self.consider(shared, at);
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
