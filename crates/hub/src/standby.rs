//! What a leg has brought while it does not feed the program: whole GOPs, ready to go on with.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use media::{AccessUnit, CodecConfig, TrackKind};

use crate::program::{Announced, Arrival};
use crate::ring::Tracks;

/// GOPs that began within this time are all kept: a switch looks for a random access point in the gap, and a copy that is ahead has
/// what the other one did not bring.
const KEEP: Duration = Duration::from_secs(4);
/// Most units kept: the longest GOP (10 s) of 240 pictures and 400 frames of sound a second.
const UNITS_MAX: usize = 6400;
/// Most bytes kept: 8 s at 60 Mbit/s.
const BYTES_MAX: usize = 64 << 20;
/// For so long a leg that comes back is looked at: what was held up comes at once, and what is live does not.
const SETTLE: Duration = Duration::from_millis(300);
/// How long the tracks that were announced are waited for.
const CENSUS_TIME: Duration = Duration::from_secs(1);

/// One unit in leg time.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) unit: AccessUnit,
    /// What it is known by, where there is more than one leg.
    pub(crate) hash: Option<u64>,
    /// Silence in place of sound that did not come.
    pub(crate) is_stand_in: bool,
}

/// Keeps the newest GOPs of a leg.
#[derive(Debug)]
pub(crate) struct Standby {
    since: Instant,
    pub(crate) announced: Announced,
    pub(crate) tracks: Tracks,
    pub(crate) units: VecDeque<(Arrival, Incoming)>,
    /// UTC of capture less leg time, in nanoseconds, where the encoder tells.
    pub(crate) capture: Option<i64>,
    /// It fed the program before: what it brings now may have been held up on its way.
    pub(crate) has_fed: bool,
    bytes: usize,
}

impl Standby {
    pub(crate) fn new(since: Instant) -> Self {
        let (announced, tracks, units) = (Announced::default(), Tracks::default(), VecDeque::new());
        Self { since, announced, tracks, units, capture: None, has_fed: false, bytes: 0 }
    }

    /// From here on the configuration is this one; what came before it is of no use.
    pub(crate) fn config(&mut self, config: CodecConfig) {
        let is_other = self.tracks.config(config.kind()).is_some_and(|known| known != config);
        if is_other {
            self.clear();
        }
        self.tracks.set(config);
    }

    pub(crate) fn clear(&mut self) {
        self.units.clear();
        self.bytes = 0;
    }

    pub(crate) fn push(&mut self, at: Arrival, incoming: Incoming) {
        if incoming.unit.is_random_access && self.is_anchor(&incoming.unit) {
            self.trim(at.now);
        }
        self.bytes += incoming.unit.payload.len();
        self.units.push_back((at, incoming));
        while self.units.len() > UNITS_MAX || self.bytes > BYTES_MAX {
            self.drop_front();
        }
    }

    /// Whether the program can begin with it.
    pub(crate) fn is_anchor(&self, unit: &AccessUnit) -> bool {
        let track = if self.tracks.video.is_some() { TrackKind::Video } else { TrackKind::Audio };
        unit.track == track && unit.is_random_access
    }

    /// A new GOP begins: those that ended long ago go.
    fn trim(&mut self, now: Instant) {
        let is_recent = |at: &Arrival| now.saturating_duration_since(at.now) <= KEEP;
        let anchors = self.units.iter().enumerate().filter(|(_, (_, incoming))| self.is_anchor(&incoming.unit));
        let old = anchors.filter(|(_, (at, _))| !is_recent(at)).map(|(index, _)| index);
        // The newest of the old ones stays, until one that is recent has come: then it is out of reach.
        for _ in 0..old.last().unwrap_or(0) {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        let Some((_, incoming)) = self.units.pop_front() else { return };
        self.bytes -= incoming.unit.payload.len();
    }

    /// Whether all tracks that were announced are known, or were waited for long enough.
    pub(crate) fn is_complete(&self, now: Instant) -> bool {
        let Announced { video, audio } = self.announced;
        let knows_all = (self.tracks.video.is_some() || !video) && (self.tracks.audio.is_some() || !audio);
        let has_both = self.tracks.video.is_some() && self.tracks.audio.is_some();
        has_both || self.has_waited(now) || knows_all && (video || audio)
    }

    /// Whether it can be told where its units lie in time. A backlog that has only begun to come looks live.
    pub(crate) fn is_settled(&self) -> bool {
        let ends = self.units.front().zip(self.units.back());
        let span = ends.map_or(Duration::ZERO, |((first, _), (last, _))| last.now.saturating_duration_since(first.now));
        !self.has_fed || span >= SETTLE
    }

    /// Whether nothing that was announced is waited for any more, whatever it costs.
    pub(crate) fn has_waited_long(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= 5 * CENSUS_TIME
    }

    /// Whether the wait for tracks is over.
    pub(crate) fn has_waited(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= CENSUS_TIME
    }
}
