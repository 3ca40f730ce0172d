//! The program: one continuous timeline that outlives every leg.
//!
//! One leg feeds it, or several that carry the same encode. A leg joins at a random access point; its time is shifted once, by a
//! whole number of ticks, so that nothing accumulates. Sound joins on the program's own grid. Copies of one unit are emitted
//! once; a unit waits only behind evidence of a hole that another copy may fill.

mod join;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use media::{AccessUnit, CodecConfig, Dts, Pts, Timescale, TrackKind};

use crate::MergeMode;
use crate::copies::{Copies, CopyStats, Held, Lateness, Learner, Print, Run, Shifts, place};
pub(crate) use join::Joined;

use crate::ring::{Entry, Item, Ring, Tracks};
use crate::standby::{Incoming, Standby};
use crate::timeline::silent_unit;

/// Where program time begins: room below for a decode time that precedes the first picture.
const PROGRAM_START: i64 = 10 * 360_000;
/// Longest hole in the sound that is filled with silence, in milliseconds.
const FILL_MS_MAX: i64 = 3000;
/// Intervals between pictures from which the usual one is taken: the smallest of them.
const STEPS: usize = 16;
/// How far apart copies of a unit may lie where the interval is not known, or very short: rounding to milliseconds, twice.
const TOLERANCE: i64 = 720;
/// Pictures in a row at whose place something else stands before a leg is no longer called a copy.
const CONFLICTS_MAX: u32 = 8;
/// Pictures in a row that a copy must be the first to bring before it is no longer called late.
const FIRSTS: u32 = 8;
/// Units in a row that must be found as far from where a copy puts them before it is moved.
const DRIFT_RUN: u32 = 3;
/// Farthest that a grid moves.
const DRIFT_NANOS_MAX: i64 = 100_000_000;
/// Furthest that a copy may be ahead of the program: what it has kept is used when it is needed.
const AHEAD_NANOS_MAX: i64 = 4_000_000_000;
/// Furthest that it may be behind, unless the window of the merge is wider. Carrying on with one that is further behind is a hole that players cannot bridge; it joins as another
/// encode would, and shows some pictures again. Content that repeats looks like a copy that is late, too.
const BEHIND_NANOS_MAX: i64 = 1_000_000_000;
/// Units of which it is remembered when they came.
const LEADS: usize = 128;
/// Shortest interval between pictures that is remembered: shorter ones are made by squeezing.
const STEP_MIN: i64 = 720;

/// When something reached us, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Monotonic.
    pub now: Instant,
    /// Nanoseconds since 1970, UTC.
    pub utc_nanos: i64,
}

/// What the encoder announced before it sent anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) video: bool,
    pub(crate) audio: bool,
}

/// Counters of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramStats {
    /// Units that reached the ring.
    pub units: u64,
    /// Bytes that reached the ring.
    pub bytes: u64,
    /// Times a leg joined.
    pub joins: u64,
    /// Times the decoder configuration changed on the way.
    pub discontinuities: u64,
    /// Units dropped because they came before a random access point or behind the head.
    pub dropped_units: u64,
    /// What no leg brought, but for what is told of a switch.
    pub holes: Holes,
}

/// Pictures that are missing between others, by the usual interval. A source without a usual one has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holes {
    /// How many.
    pub pictures: u64,
    /// Program time without them.
    pub time: Duration,
}

/// How a leg that feeds the program is tied to it.
#[derive(Debug)]
struct Feed {
    leg: u64,
    /// From leg time to program time.
    video_shift: i64,
    audio_shift: i64,
    /// PTS, in leg time, of the random access point it joined at.
    anchor: i64,
    /// The configurations it has now.
    known: Tracks,
    /// It brings no sound to a program that has it.
    is_silent: bool,
    /// It brings pictures of its own.
    has_pictures: bool,
    /// The furthest it has come on each track, in program time.
    reached: [i64; 2],
    /// It is a copy of another one, or was.
    is_copy: bool,
    conflicts: u32,
    /// Pictures in a row that it was the first to bring.
    firsts: u32,
    /// Where its units are found, beside where it puts them.
    drift: [Run; 2],
    last: Instant,
    figures: CopyFigures,
    lateness: Lateness,
}

/// How one copy compares to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyFigures {
    /// How much later than the first copy its last unit came.
    pub late: Duration,
    /// The most since it joined.
    pub late_max: Duration,
    /// Pictures that it did not bring.
    pub missing: u64,
}

/// A leg that does not feed the program, and what is known of its likeness.
#[derive(Debug)]
struct Candidate {
    leg: u64,
    learner: Learner,
}

/// The program's state; the stream's lock guards it.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) ring: Ring,
    pub(crate) tracks: Arc<Tracks>,
    pub(crate) stats: ProgramStats,
    /// Those that feed it; the first leads.
    feeds: Vec<Feed>,
    candidates: Vec<Candidate>,
    copies: Copies,
    /// Longest wait for a copy that may fill a hole.
    window: Duration,
    mode: MergeMode,
    /// How long what comes first waits for the copy that is slowest: as long as that was late.
    lag: Duration,
    /// Last decode time and highest presentation time of the picture.
    video: Option<(i64, i64)>,
    /// The last intervals between pictures.
    steps: VecDeque<i64>,
    /// Where the next sound belongs, on the sound's own scale.
    audio_head: Option<i64>,
    /// The next picture is the first after a change of legs: what is missing before it, the switch tells.
    is_joined: bool,
    /// Intervals between pictures since another encode joined.
    since_join: usize,
    last_arrival: Option<Instant>,
    line: Line,
    /// How far it was pushed ahead of the line, because what was to be joined began a little before its end.
    ahead: i64,
    /// UTC of capture less program time, in nanoseconds, where the encoder tells.
    capture: Option<i64>,
}

/// Where program time lies on the clock, by what came with the least delay of the last units. A source that joins is placed by its own
/// least delay of as many: going by one unit of the program, it would fall behind with every switch, and by more than are known of the
/// source, run ahead.
#[derive(Debug, Default)]
struct Line {
    epoch: Option<Instant>,
    /// Decode time less time since the epoch.
    leads: VecDeque<i64>,
}

impl Line {
    fn observe(&mut self, now: Instant, dts: i64) {
        let epoch = *self.epoch.get_or_insert(now);
        if self.leads.len() == LEADS {
            self.leads.pop_front();
        }
        self.leads.push_back(dts - Timescale::VIDEO.ticks(now.saturating_duration_since(epoch)));
    }

    /// The decode time, in program time, of what arrives at `now`, by so many units; none where nothing was emitted yet.
    fn at(&self, now: Instant, units: usize) -> Option<i64> {
        let lead = self.leads.iter().rev().take(units.max(1)).max()?;
        Some(lead + Timescale::VIDEO.ticks(now.saturating_duration_since(self.epoch?)))
    }
}

impl Program {
    pub(crate) fn new(window: Duration, mode: MergeMode) -> Self {
        Self {
            ring: Ring::default(),
            tracks: Arc::default(),
            stats: ProgramStats::default(),
            feeds: Vec::new(),
            candidates: Vec::new(),
            copies: Copies::default(),
            window,
            mode,
            lag: Duration::ZERO,
            video: None,
            steps: VecDeque::new(),
            audio_head: None,
            is_joined: false,
            since_join: 0,
            last_arrival: None,
            line: Line::default(),
            ahead: 0,
            capture: None,
        }
    }

    /// How long units wait for a copy that is slower.
    pub(crate) fn lag(&self) -> Duration {
        self.lag
    }

    /// Whether anything was ever emitted.
    fn has_begun(&self) -> bool {
        self.last_arrival.is_some()
    }

    /// The leg that leads.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.feeds.first().map(|feed| feed.leg)
    }

    /// Whether the leg feeds the program.
    pub(crate) fn is_fed_by(&self, leg: u64) -> bool {
        self.feeds.iter().any(|feed| feed.leg == leg)
    }

    /// The legs that feed it.
    pub(crate) fn feeds(&self) -> impl Iterator<Item = u64> {
        self.feeds.iter().map(|feed| feed.leg)
    }

    /// Makes one of the copies that feed the program the one that leads.
    pub(crate) fn lead(&mut self, leg: u64) {
        if let Some(index) = self.feeds.iter().position(|feed| feed.leg == leg) {
            self.feeds.swap(0, index);
        }
    }

    /// How a copy compares to the others.
    pub(crate) fn copy_figures(&self, leg: u64) -> Option<CopyFigures> {
        let feed = self.feeds.iter().find(|feed| feed.leg == leg)?;
        (self.feeds.len() > 1).then_some(feed.figures)
    }

    pub(crate) fn copy_stats(&self) -> CopyStats {
        self.copies.stats
    }

    /// The leg is gone, or its stamps are no longer what they were.
    pub(crate) fn forget(&mut self, at: Arrival, leg: u64) {
        self.feeds.retain(|feed| feed.leg != leg);
        self.candidates.retain(|candidate| candidate.leg != leg);
        self.release_all(at);
    }

    /// Appends something that is no unit.
    pub(crate) fn mark(&mut self, arrival_utc_nanos: i64, item: Item) {
        self.ring.push(Entry { arrival_utc_nanos, tracks: Arc::clone(&self.tracks), item });
    }

    /// UTC of capture less leg time, in nanoseconds, of a leg that may feed the program.
    pub(crate) fn set_capture(&mut self, leg: u64, capture: Option<i64>) {
        if let Some(feed) = self.feeds.first().filter(|feed| feed.leg == leg) {
            self.capture = capture.map(|capture| capture.saturating_sub(Timescale::VIDEO.nanos(feed.video_shift)));
        }
    }

    /// A configuration of a leg that feeds the program: in force from its next random access point on.
    pub(crate) fn config(&mut self, leg: u64, config: CodecConfig) {
        if let Some(feed) = self.feeds.iter_mut().find(|feed| feed.leg == leg) {
            feed.is_silent &= config.kind() == TrackKind::Video;
            feed.known.set(config);
        }
    }

    /// The scale of a track's stamps.
    fn scale(&self, track: TrackKind) -> Timescale {
        self.tracks.config(track).map_or(Timescale::VIDEO, |config| config.timescale())
    }

    /// The usual distance of units, in ticks; 0 where it is not known.
    fn interval(&self, track: TrackKind) -> i64 {
        match track {
            TrackKind::Video => self.steps.iter().copied().min().unwrap_or(0),
            TrackKind::Audio => self.tracks.audio.as_ref().map_or(0, |audio| i64::from(audio.samples_per_unit)),
        }
    }

    /// How far apart copies of a unit may lie, on the track's own scale.
    fn tolerance(&self, track: TrackKind) -> i64 {
        let rounding = Timescale::VIDEO.rescale(TOLERANCE, self.scale(track));
        (self.interval(track) / 2).max(rounding)
    }

    /// When the last unit was emitted of the track that tells where the program is.
    pub(crate) fn last_arrival(&self) -> Option<Instant> {
        self.last_arrival
    }

    // ---- units of legs that feed the program

    /// A unit of a leg that feeds the program, in leg time.
    pub(crate) fn unit(&mut self, at: Arrival, leg: u64, incoming: Incoming) {
        let Some(index) = self.feeds.iter().position(|feed| feed.leg == leg) else { return };
        let is_alone = self.feeds.len() == 1 && self.copies.is_idle();
        let Some(feed) = self.feeds.get_mut(index) else { return };
        let Incoming { mut unit, hash, is_stand_in } = incoming;
        feed.last = at.now;
        let begins = unit.is_random_access && (unit.track == TrackKind::Video || !feed.has_pictures);
        feed.has_pictures |= unit.track == TrackKind::Video;
        if feed.anchor == i64::MAX && begins && unit.track == TrackKind::Video {
            feed.anchor = unit.pts.0;
        }
        let changed = (begins && feed.known != *self.tracks).then(|| feed.known.clone());
        if let Some(scale) = changed.as_ref().and_then(|tracks| tracks.audio.as_ref()).map(|audio| audio.timescale)
            && self.tracks.audio.as_ref().is_none_or(|audio| audio.timescale != scale)
        {
            feed.audio_shift = Timescale::VIDEO.rescale(feed.video_shift, scale);
        }
        let is_old = match unit.track {
            TrackKind::Video => unit.pts.0 < feed.anchor, // leading pictures of an open GOP
            // Waits for the random access point.
            TrackKind::Audio => changed.is_none() && feed.known.audio != self.tracks.audio,
        };
        let shift = if unit.track == TrackKind::Video { feed.video_shift } else { feed.audio_shift };
        let (is_copy, late) = (feed.is_copy, feed.figures.late);
        let waits = is_old && unit.track == TrackKind::Audio;
        if is_old {
            self.stats.dropped_units += 1;
        } else {
            unit.dts = unit.dts + shift;
            unit.pts = unit.pts + shift;
            let deadline = at.now + self.window;
            let held = Held { at, leg, unit, hash, is_stand_in, changed, deadline, late };
            if is_alone && !is_copy && self.lag.is_zero() { self.emit(held) } else { self.merge(index, held) }
        }
        if waits || self.feeds.get(index).is_some_and(|feed| feed.is_silent) {
            self.stand_in(at);
        }
    }

    /// What is to be added to the shift of a copy whose grid has moved: its units are found elsewhere than where it puts them, three in
    /// a row by as much. Rounding is left alone, so that nothing accumulates.
    fn drift(&mut self, index: usize, held: &Held, tolerance: i64) -> Option<i64> {
        let (track, hash) = (held.unit.track, held.hash.filter(|_| !held.is_stand_in)?);
        let reach = self.scale(track).ticks_from_nanos(DRIFT_NANOS_MAX);
        // What was shown before is no drift, and most are new or where they belong, which is seen without the index.
        let off = self.copies.prints(track).find(hash, held.unit.dts.0, reach)? - held.unit.dts.0;
        if off.saturating_abs() <= tolerance / 2 && self.feeds.get(index)?.drift.get(place(track))?.is_empty() {
            return None;
        }
        self.copies.prints(track).unique(hash)?; // what repeats teaches nothing
        let feed = self.feeds.get_mut(index)?;
        let run = feed.drift.get_mut(place(track))?;
        if off.saturating_abs() <= tolerance / 2 {
            run.restart();
            return None;
        }
        if run.observe(off, tolerance / 4) < DRIFT_RUN {
            return None;
        }
        run.restart();
        let shift = if track == TrackKind::Video { &mut feed.video_shift } else { &mut feed.audio_shift };
        *shift += off;
        Some(off)
    }

    /// One of several copies: emitted at once where it is next, kept where something is missing before it, dropped where it
    /// was there already.
    fn merge(&mut self, index: usize, mut held: Held) {
        let (track, at) = (held.unit.track, held.at);
        let (tolerance, interval) = (self.tolerance(track), self.interval(track));
        if let Some(off) = self.drift(index, &held, tolerance) {
            held.unit.dts = held.unit.dts + off;
            held.unit.pts = held.unit.pts + off;
        }
        let dts = held.unit.dts.0;
        let near = self.copies.prints(track).near(dts, tolerance).copied();
        let passed = match track {
            TrackKind::Video => self.video.is_some_and(|(last, _)| dts <= last),
            TrackKind::Audio => self.audio_head.is_some_and(|head| dts < head - tolerance),
        };
        let Some(feed) = self.feeds.get_mut(index) else { return };
        if let Some(reached) = feed.reached.get_mut(place(track)) {
            let step = dts.saturating_sub(*reached);
            if track == TrackKind::Video && interval > 0 && *reached > i64::MIN && step > interval + tolerance {
                feed.figures.missing += u64::try_from(step / interval - 1).unwrap_or(0).min(1000);
            }
            *reached = dts.max(*reached);
        }
        let is_twin = near.is_some_and(|twin| held.hash.is_some_and(|hash| hash == twin.hash));
        if passed || is_twin {
            self.on_passed(index, &held, near);
        } else {
            let waiting = self.copies.held(track);
            let mut near = waiting.range(dts - tolerance..=dts + tolerance);
            // The same unit, or something in its place where nothing better is known.
            let twin = near.find(|(place, known)| {
                held.hash.is_some() && known.hash == held.hash
                    || known.is_stand_in
                    || held.is_stand_in
                    || **place == dts
            });
            match twin.map(|(place, known)| (*place, known.is_stand_in)) {
                Some((place, true)) if !held.is_stand_in => {
                    waiting.remove(&place);
                    waiting.insert(dts, held);
                }
                Some((place, _)) => {
                    let came = waiting.get(&place).filter(|known| known.leg != held.leg).map(|known| known.at.now);
                    self.copies.stats.duplicates += 1;
                    came.into_iter()
                        .for_each(|came| self.on_late(index, at.now, at.now.saturating_duration_since(came)));
                }
                None => {
                    let mut behind = waiting.range(dts + tolerance + 1..);
                    let fills = track == TrackKind::Video && behind.any(|(_, other)| other.leg != held.leg);
                    self.copies.stats.repaired += u64::from(fills);
                    self.copies.held(track).insert(dts, held);
                    self.on_first(index, track);
                }
            }
        }
        if self.lag.is_zero() { self.release(at, track) } else { self.release_all(at) }
    }

    /// A copy came before any other.
    fn on_first(&mut self, index: usize, track: TrackKind) {
        let tells = track == TrackKind::Video || self.tracks.video.is_none();
        if let Some(feed) = self.feeds.get_mut(index).filter(|_| tells) {
            feed.firsts = feed.firsts.saturating_add(1);
        }
    }

    /// A copy came so much later than the first one.
    fn on_late(&mut self, index: usize, now: Instant, late: Duration) {
        let Some(feed) = self.feeds.get_mut(index) else { return };
        feed.firsts = 0;
        feed.figures.late = late;
        feed.figures.late_max = feed.figures.late_max.max(late);
        if self.mode == MergeMode::Steady
            && let Some(usual) = feed.lateness.observe(now, late)
        {
            self.lag = self.lag.max(usual).min(self.window);
        }
    }

    /// A unit whose place the program has passed: a copy, or late, or something else.
    fn on_passed(&mut self, index: usize, held: &Held, twin: Option<Print>) {
        let track = held.unit.track;
        let (Some(feed), stats) = (self.feeds.get_mut(index), &mut self.copies.stats) else { return };
        let Some(twin) = twin else {
            stats.late += 1;
            return;
        };
        if Some(twin.hash) == held.hash {
            stats.duplicates += 1;
            if track == TrackKind::Video {
                feed.conflicts = 0; // sound that agrees says nothing of the pictures
            }
            self.on_late(index, held.at.now, held.at.now.saturating_duration_since(twin.came));
        } else if !held.is_stand_in && !twin.is_stand_in {
            stats.conflicts += 1;
            feed.conflicts += u32::from(track == TrackKind::Video);
        } else {
            stats.duplicates += 1;
        }
    }

    /// A leg that feeds the program beside others and brings something else: it is no copy any more.
    pub(crate) fn parted(&self) -> Option<u64> {
        let others = self.feeds.iter().skip(1);
        others
            .chain(self.feeds.first())
            .find(|feed| self.feeds.len() > 1 && feed.conflicts >= CONFLICTS_MAX)
            .map(|feed| feed.leg)
    }

    /// The legs that feed the program and come too late to fill what the others lack.
    pub(crate) fn laggards(&self) -> impl Iterator<Item = u64> {
        let is_late = |feed: &&Feed| feed.figures.late > self.window && feed.firsts < FIRSTS;
        self.feeds.iter().filter(is_late).map(|feed| feed.leg)
    }

    /// Where the next unit of a track is expected; none before the first.
    fn expected(&self, track: TrackKind) -> Option<i64> {
        match track {
            TrackKind::Video => self.video.map(|(dts, _)| dts + self.interval(track).max(1)),
            TrackKind::Audio => self.audio_head,
        }
    }

    /// Emits what waits no longer.
    pub(crate) fn release_all(&mut self, at: Arrival) {
        self.release(at, TrackKind::Video);
        self.release(at, TrackKind::Audio);
    }

    fn release(&mut self, at: Arrival, track: TrackKind) {
        while let Some((&dts, held)) = self.copies.held(track).first_key_value() {
            let (leg, deadline, is_stand_in) = (held.leg, held.deadline, held.is_stand_in);
            if !self.feeds.is_empty() && held.at.now + self.lag.saturating_sub(held.late) > at.now {
                break;
            }
            let (tolerance, interval) = (self.tolerance(track), self.interval(track));
            let follows = interval == 0 || self.expected(track).is_none_or(|expected| dts <= expected + tolerance);
            let may_come = self.feeds.iter().any(|feed| {
                let reached = feed.reached.get(place(track)).copied().unwrap_or(i64::MAX);
                feed.leg != leg
                    && reached < dts - tolerance
                    && at.now.saturating_duration_since(feed.last) < Duration::from_millis(500).max(self.window)
            });
            let is_over = deadline <= at.now || !may_come;
            if !(is_over || follows && !is_stand_in) {
                break;
            }
            let Some(mut held) = self.copies.held(track).remove(&dts) else { break };
            if let Some(head) = self.audio_head.filter(|_| track == TrackKind::Audio && follows) {
                (held.unit.dts, held.unit.pts) = (Dts(head), Pts(head)); // the sound's grid is the program's
            }
            self.copies.stats.unrepaired += u64::from(!follows);
            self.emit(held);
        }
    }

    // ---- everything that is emitted

    /// Puts a unit in program time into the ring, unless it is behind.
    fn emit(&mut self, held: Held) {
        let Held { at, leg, unit, hash, is_stand_in, changed, .. } = held;
        if let Some(tracks) = changed.filter(|tracks| *tracks != *self.tracks) {
            let scale = |tracks: &Tracks| tracks.audio.as_ref().map(|audio| audio.timescale);
            if scale(&tracks) != scale(&self.tracks) {
                self.audio_head = None;
                // Copies are looked for anew.
                for feed in self.feeds.extract_if(.., |feed| feed.leg != leg) {
                    self.candidates.push(Candidate { leg: feed.leg, learner: Learner::default() });
                }
                self.copies.prints(TrackKind::Audio).clear();
                self.copies.held(TrackKind::Audio).clear();
            }
            self.set_tracks(tracks);
        }
        let behind = match unit.track {
            TrackKind::Video => self.tracks.video.is_none() || self.video.is_some_and(|(dts, _)| unit.dts.0 <= dts),
            TrackKind::Audio => self.tracks.audio.is_none() || self.audio_head.is_some_and(|head| unit.dts.0 < head),
        };
        if behind {
            self.stats.dropped_units += 1;
            return;
        }
        match unit.track {
            TrackKind::Video => {
                self.note_hole(unit.dts.0);
                if let Some((dts, _)) = self.video.filter(|(dts, _)| unit.dts.0 - dts >= STEP_MIN) {
                    if self.steps.len() == STEPS {
                        self.steps.pop_front();
                    }
                    self.steps.push_back(unit.dts.0 - dts);
                    self.since_join = self.since_join.saturating_add(1);
                }
                let highest = self.video.map_or(unit.pts.0, |(_, pts)| pts.max(unit.pts.0));
                self.video = Some((unit.dts.0, highest));
            }
            TrackKind::Audio => self.audio_head = Some(unit.dts.0 + i64::from(unit.duration.unwrap_or(0))),
        }
        if unit.track == TrackKind::Video || self.tracks.video.is_none() {
            self.last_arrival = Some(at.now); // of the track whose head tells where the program is
            if let Some(dts) = self.head().zip(self.reorder_lead()).map(|(head, lead)| head - lead) {
                self.line.observe(at.now, dts - self.ahead);
            }
        }
        if let Some(feed) = self.feeds.iter_mut().find(|feed| feed.leg == leg)
            && let Some(reached) = feed.reached.get_mut(place(unit.track))
        {
            *reached = unit.dts.0.max(*reached);
        }
        if let Some(hash) = hash {
            self.remember(unit.track, Print { dts: unit.dts.0, hash, came: at.now, is_stand_in });
        }
        self.push(at, unit);
    }

    /// Counts what is missing before a picture that is emitted now, by the middle of the last intervals: those of one leg, and of one that
    /// sends pictures steadily enough to have a usual one.
    fn note_hole(&mut self, dts: i64) {
        let Some(step) = self.video.map(|(last, _)| dts - last) else { return };
        if std::mem::take(&mut self.is_joined)
            || self.since_join < STEPS
            || step <= self.interval(TrackKind::Video) * 3 / 2
        {
            return;
        }
        let mut steps: Vec<i64> = self.steps.iter().copied().collect();
        steps.sort_unstable();
        let usual = steps.get(STEPS / 2).copied().unwrap_or(i64::MAX);
        let missing = step - usual;
        if missing <= usual / 2 {
            return;
        }
        let holes = &mut self.stats.holes;
        holes.pictures += u64::try_from((missing + usual / 2) / usual).unwrap_or(0);
        holes.time += Duration::from_nanos(u64::try_from(Timescale::VIDEO.nanos(missing)).unwrap_or(0));
    }

    fn push(&mut self, at: Arrival, unit: AccessUnit) {
        self.stats.units += 1;
        self.stats.bytes += unit.payload.len() as u64;
        let tracks = Arc::clone(&self.tracks);
        self.ring.push(Entry { arrival_utc_nanos: at.utc_nanos, tracks, item: Item::Unit(unit) });
    }

    fn set_tracks(&mut self, tracks: Tracks) {
        if *self.tracks != tracks {
            self.stats.discontinuities += u64::from(self.has_begun());
            self.tracks = Arc::new(tracks);
        }
    }

    /// Silence for a leg that brings no sound to a program that has it.
    fn stand_in(&mut self, at: Arrival) {
        let (Some((video, _)), Some(audio), Some(mut head)) = (self.video, &self.tracks.audio, self.audio_head) else {
            return;
        };
        let audio = audio.clone();
        let until = Timescale::VIDEO.rescale(video, audio.timescale);
        let length = i64::from(audio.samples_per_unit);
        if (until - head) / i64::from(audio.timescale.hz()) > FILL_MS_MAX / 1000 {
            head += (until - head) / length * length; // too long a hole to fill: it is a gap
        }
        while head + length <= until {
            let Some(unit) = silent_unit(&audio, head) else { break };
            self.push(at, unit);
            head += length;
        }
        self.audio_head = Some(head);
    }

    // ---- likeness

    /// A leg that may turn out to be a copy, unless it is one.
    pub(crate) fn add_candidate(&mut self, leg: u64) {
        if self.is_fed_by(leg) || self.candidates.iter().any(|candidate| candidate.leg == leg) {
            return;
        }
        self.candidates.push(Candidate { leg, learner: Learner::default() });
    }

    /// Forgets what was learned of a leg: its stamps jumped.
    pub(crate) fn unlearn(&mut self, leg: u64) {
        let found = self.candidates.iter_mut().find(|candidate| candidate.leg == leg);
        found.into_iter().for_each(|candidate| candidate.learner.restart());
    }

    /// A unit, in leg time, of a leg that does not feed the program.
    pub(crate) fn observe(&mut self, at: Arrival, leg: u64, tracks: &Tracks, incoming: &Incoming) {
        let track = incoming.unit.track;
        let Some(hash) =
            incoming.hash.filter(|_| !incoming.is_stand_in && tracks.config(track) == self.tracks.config(track))
        else {
            return;
        };
        let (hz, tolerance) = (self.scale(track).hz(), self.tolerance(track));
        let print = Print { dts: incoming.unit.dts.0, hash, came: at.now, is_stand_in: false };
        let found = self.candidates.iter_mut().find(|candidate| candidate.leg == leg);
        let emitted = self.copies.prints(track);
        found.into_iter().for_each(|candidate| candidate.learner.on_own(track, print, emitted, hz, tolerance));
    }

    fn remember(&mut self, track: TrackKind, print: Print) {
        let (hz, tolerance) = (self.scale(track).hz(), self.tolerance(track));
        self.copies.prints(track).push(print, hz);
        let emitted = self.copies.prints(track);
        for candidate in self.candidates.iter_mut().filter(|_| !print.is_stand_in) {
            candidate.learner.on_emitted(track, &print, emitted, tolerance);
        }
    }

    /// Where a leg lies that carries what the program carries; none for one that does not.
    pub(crate) fn likeness(&self, leg: u64, standby: &Standby) -> Option<Shifts> {
        let candidate = self.candidates.iter().find(|candidate| candidate.leg == leg)?;
        let shifts = candidate.learner.shifts(&self.tracks).filter(|_| standby.tracks == *self.tracks)?;
        let window = i64::try_from(self.window.as_nanos()).unwrap_or(i64::MAX) / 4 * 5;
        let allowed = -BEHIND_NANOS_MAX.max(window)..=AHEAD_NANOS_MAX.max(window);
        allowed.contains(&self.lead_nanos(shifts, standby)).then_some(shifts)
    }

    /// How far a leg that is a copy is ahead of the program.
    pub(crate) fn lead_of(&self, shifts: Shifts, standby: &Standby) -> Duration {
        Duration::from_nanos(u64::try_from(self.lead_nanos(shifts, standby)).unwrap_or(0))
    }

    /// How far ahead a copy may be where holes wait for so long. Where a picture is the newest of what it has, the program has only not come
    /// to it: that picture is up to an interval further.
    pub(crate) fn reach(&self, window: Duration, standby: &Standby) -> Duration {
        let is_picture = |(_, incoming): &(Arrival, Incoming)| incoming.unit.track == TrackKind::Video;
        let interval = if standby.units.back().is_some_and(is_picture) { self.interval(TrackKind::Video) } else { 0 };
        window.max(Duration::from_nanos(u64::try_from(Timescale::VIDEO.nanos(interval)).unwrap_or(0)) * 5 / 4)
    }

    fn lead_nanos(&self, shifts: Shifts, standby: &Standby) -> i64 {
        let track = if self.tracks.video.is_some() { TrackKind::Video } else { TrackKind::Audio };
        let (head, shift) = match track {
            TrackKind::Video => (self.video.map(|(dts, _)| dts), shifts.video),
            TrackKind::Audio => (self.audio_head, shifts.audio.unwrap_or(0)),
        };
        let units = standby.units.iter().rev().map(|(_, incoming)| &incoming.unit);
        let newest = units.into_iter().find(|unit| unit.track == track).map(|unit| unit.dts.0 + shift);
        let ahead = newest.zip(head).map_or(0, |(newest, head)| newest - head);
        self.scale(track).nanos(ahead)
    }
}

#[cfg(test)]
mod tests;
