//! What a player has and where it plays: buffers, a clock that stalls and catches up. Sans-IO.
//!
//! Positions are media time as the playlists date it, in nanoseconds of UTC.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Ranges this close are one: dates in playlists are rounded to milliseconds.
const JOIN_NANOS: i64 = 60_000_000;
/// A player begins with so much ahead of it.
const START_NANOS: i64 = 100_000_000;
/// Faster by so many thousandths while too far behind, as players do it.
const CATCH_UP_PER_MILLE: i64 = 50;
/// Catching up begins so far behind the target, and ends at it.
const CATCH_UP_FROM_NANOS: i64 = 150_000_000;
/// While less is ahead, nothing is caught up.
const CATCH_UP_BUFFER_NANOS: i64 = 300_000_000;
/// Ranges that are remembered: holes in what was fetched.
const RANGES_MAX: usize = 64;

/// A moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// For durations.
    pub now: Instant,
    /// Nanoseconds since 1970.
    pub utc_nanos: i64,
}

/// What one track has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffer {
    ranges: VecDeque<(i64, i64)>,
}

impl Buffer {
    pub(crate) fn add(&mut self, start: i64, end: i64) {
        match self.ranges.back_mut() {
            Some((_, last)) if start <= last.saturating_add(JOIN_NANOS) => *last = end.max(*last),
            _ => self.ranges.push_back((start, end)),
        }
        if self.ranges.len() > RANGES_MAX {
            self.ranges.pop_front();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
    }

    /// The end of what is there from `position` on without a hole; `None` if nothing is.
    fn end_from(&self, position: i64) -> Option<i64> {
        let found = self.ranges.iter().find(|(start, end)| start - JOIN_NANOS <= position && position < *end);
        found.map(|(_, end)| *end)
    }

    fn forget_before(&mut self, position: i64) {
        while self.ranges.front().is_some_and(|(_, end)| *end < position) && self.ranges.len() > 1 {
            self.ranges.pop_front();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    Playing { since: Instant, from: i64, per_mille: i64 },
    Stalled { since: Instant, at: i64 },
}

/// What the clock saw happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The first picture.
    Began,
    /// It ran dry.
    Stalled,
    /// It goes on after so long.
    Resumed(Duration),
    /// It went over a hole of so many nanoseconds.
    Jumped(i64),
}

/// A playback clock over the buffers of all tracks.
#[derive(Clone, Debug)]
pub(crate) struct Playback {
    state: State,
    /// Where playback begins.
    start: Option<i64>,
    /// Distance to the live edge that is kept.
    target: Option<i64>,
    /// The stream is over: what is there is played to its end.
    is_over: bool,
    played: Duration,
}

impl Playback {
    pub(crate) fn new() -> Self {
        Self { state: State::Idle, start: None, target: None, is_over: false, played: Duration::ZERO }
    }

    /// It begins there, when enough is buffered; `target` is the distance to the live edge that is kept.
    pub(crate) fn begin_at(&mut self, position: i64, target: Option<i64>) {
        (self.start, self.target) = (Some(position), target);
    }

    /// Goes elsewhere: to live, after too long a delay.
    pub(crate) fn seek(&mut self, now: Instant, position: i64) {
        self.start = Some(position);
        self.state = match self.state {
            State::Idle => State::Idle,
            State::Playing { .. } => State::Stalled { since: now, at: position },
            State::Stalled { since, .. } => State::Stalled { since, at: position },
        };
    }

    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    pub(crate) fn is_stalled(&self) -> bool {
        matches!(self.state, State::Stalled { .. })
    }

    pub(crate) fn no_more_comes(&mut self, is_over: bool) {
        self.is_over = is_over;
    }

    /// How long it has stood still, if it does.
    pub(crate) fn stalled_for(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Stalled { since, .. } => Some(now.saturating_duration_since(since)),
            State::Idle | State::Playing { .. } => None,
        }
    }

    /// Time that was played.
    pub(crate) fn played(&self) -> Duration {
        self.played
    }

    pub(crate) fn position(&self, now: Instant) -> Option<i64> {
        match self.state {
            State::Idle => self.start,
            State::Playing { since, from, per_mille } => {
                Some(from + nanos(now.saturating_duration_since(since)) * per_mille / 1000)
            }
            State::Stalled { at, .. } => Some(at),
        }
    }

    /// When it runs dry if nothing comes.
    pub(crate) fn deadline(&self, buffers: &[&Buffer]) -> Option<Instant> {
        let State::Playing { since, from, per_mille } = self.state else { return None };
        let until = playable_until(buffers, from).unwrap_or(from);
        let wait = u64::try_from((until - from).max(0) * 1000 / per_mille).unwrap_or(0);
        Some(since + Duration::from_nanos(wait))
    }

    /// Brings the clock to `at`; `edge` is where the newest media ends. Call it until it returns nothing.
    pub(crate) fn advance(&mut self, at: Moment, edge: Option<i64>, buffers: &mut [&mut Buffer]) -> Option<Change> {
        let known: Vec<&Buffer> = buffers.iter().map(|buffer| &**buffer).collect();
        match self.state {
            State::Idle => {
                let start = self.start?;
                let start = if playable_until(&known, start).is_some() { start } else { common_start(&known, start)? };
                let until = playable_until(&known, start)?;
                if until - start < START_NANOS {
                    return None;
                }
                self.state = State::Playing { since: at.now, from: start, per_mille: 1000 };
                Some(Change::Began)
            }
            State::Playing { since, from, per_mille } => {
                let position = from + nanos(at.now.saturating_duration_since(since)) * per_mille / 1000;
                let until = playable_until(&known, from).unwrap_or(from);
                if position >= until {
                    let dry = self.deadline(&known).unwrap_or(at.now).min(at.now);
                    self.played += dry.saturating_duration_since(since);
                    self.state = State::Stalled { since: dry, at: until };
                    return Some(Change::Stalled);
                }
                self.played += at.now.saturating_duration_since(since);
                let per_mille = self.pace(edge, position, until, per_mille);
                self.state = State::Playing { since: at.now, from: position, per_mille };
                buffers.iter_mut().for_each(|buffer| buffer.forget_before(position));
                None
            }
            State::Stalled { since, at: position } => {
                let needed = self.resume_nanos();
                if playable_until(&known, position).is_some_and(|until| until - position >= needed) {
                    self.state = State::Playing { since: at.now, from: position, per_mille: 1000 };
                    return Some(Change::Resumed(at.now.saturating_duration_since(since)));
                }
                // A short piece between two holes is passed over with them.
                let starts =
                    std::iter::successors(common_start(&known, position), |start| common_start(&known, *start));
                let is_enough =
                    |start: &i64| playable_until(&known, *start).is_some_and(|until| until - start >= needed);
                let next = starts.take(RANGES_MAX).find(is_enough)?;
                self.state = State::Stalled { since, at: next };
                Some(Change::Jumped(next - position))
            }
        }
    }

    /// What a player that ran dry waits for: half its distance to live. With less it would run dry with every part.
    fn resume_nanos(&self) -> i64 {
        if self.is_over {
            return 1;
        }
        (self.target.unwrap_or(0) / 2).max(START_NANOS)
    }

    /// The speed that brings it to its distance to live.
    fn pace(&self, edge: Option<i64>, position: i64, until: i64, per_mille: i64) -> i64 {
        let Some((target, edge)) = self.target.zip(edge) else { return 1000 };
        let behind = edge - position - target;
        let wanted = if per_mille > 1000 { behind > 0 } else { behind > CATCH_UP_FROM_NANOS };
        if wanted && until - position > CATCH_UP_BUFFER_NANOS { 1000 + CATCH_UP_PER_MILLE } else { 1000 }
    }
}

/// The end of what all tracks have from `position` on.
fn playable_until(buffers: &[&Buffer], position: i64) -> Option<i64> {
    buffers.iter().map(|buffer| buffer.end_from(position)).try_fold(i64::MAX, |until, end| Some(until.min(end?)))
}

/// The first position after `position` at which a piece begins that all tracks have.
fn common_start(buffers: &[&Buffer], position: i64) -> Option<i64> {
    let mut starts: Vec<i64> =
        buffers.iter().flat_map(|buffer| buffer.ranges.iter().map(|(start, _)| *start)).collect();
    starts.sort_unstable();
    starts.into_iter().find(|start| *start > position && playable_until(buffers, *start).is_some())
}

/// Nanoseconds, at most `i64::MAX`.
pub fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    struct World {
        began: Instant,
        playback: Playback,
        video: Buffer,
        audio: Buffer,
    }

    impl World {
        fn new(start: i64, target: Option<i64>) -> Self {
            let mut playback = Playback::new();
            playback.begin_at(start, target);
            Self { began: Instant::now(), playback, video: Buffer::default(), audio: Buffer::default() }
        }

        /// `millis` after the beginning, when UTC is 100 s and that.
        fn at(&mut self, millis: u64) -> Vec<Change> {
            let passed = Duration::from_millis(millis);
            let at = Moment { now: self.began + passed, utc_nanos: 100 * SECOND + nanos(passed) };
            let mut buffers = [&mut self.video, &mut self.audio];
            std::iter::from_fn(|| self.playback.advance(at, Some(at.utc_nanos), &mut buffers)).collect()
        }

        fn fill(&mut self, from_millis: i64, to_millis: i64) {
            self.video.add(100 * SECOND + from_millis * 1_000_000, 100 * SECOND + to_millis * 1_000_000);
            self.audio.add(100 * SECOND + from_millis * 1_000_000 + 5, 100 * SECOND + to_millis * 1_000_000 + 5);
        }

        fn position_millis(&self, millis: u64) -> i64 {
            let now = self.began + Duration::from_millis(millis);
            (self.playback.position(now).expect("known") - 100 * SECOND) / 1_000_000
        }
    }

    #[test]
    fn it_begins_with_both_tracks_stalls_to_the_millisecond_and_goes_on() {
        let mut world = World::new(99 * SECOND, None);
        world.video.add(98 * SECOND, 100 * SECOND);
        assert_eq!(world.at(0), [], "no sound yet");
        world.audio.add(98 * SECOND, 99 * SECOND + SECOND / 2);
        assert_eq!(world.at(100), [Change::Began]);
        assert_eq!(world.at(500), []);
        assert_eq!(world.at(700), [Change::Stalled]);
        assert_eq!(world.playback.played(), Duration::from_millis(500), "it ran dry at 600 ms");
        world.audio.add(99 * SECOND + SECOND / 2, 100 * SECOND);
        assert_eq!(world.at(850), [Change::Resumed(Duration::from_millis(250))]);
    }

    #[test]
    fn it_goes_over_a_hole_when_all_tracks_have_what_comes_after_it() {
        let mut world = World::new(99 * SECOND, None);
        world.fill(-1000, 0);
        assert_eq!(world.at(0), [Change::Began]);
        world.video.add(104 * SECOND, 106 * SECOND);
        assert_eq!(world.at(1500), [Change::Stalled], "only the picture is there");
        world.audio.add(104 * SECOND + 20_000_000, 106 * SECOND);
        let changes = world.at(2000);
        assert!(matches!(changes[..], [Change::Jumped(_), Change::Resumed(_)]), "{changes:?}");
        assert!((4000..4050).contains(&world.position_millis(2000)));
    }

    #[test]
    fn a_short_piece_between_two_holes_is_passed_over() {
        let mut world = World::new(99 * SECOND, None);
        world.fill(-1000, 0);
        assert_eq!(world.at(0), [Change::Began]);
        world.fill(2000, 2090);
        assert_eq!(world.at(1500), [Change::Stalled]);
        assert_eq!(world.at(3000), [], "a tenth of a second is not enough to go on with");
        world.fill(3000, 4000);
        let changes = world.at(4000);
        assert!(matches!(changes[..], [Change::Jumped(_), Change::Resumed(_)]), "{changes:?}");
        assert!((3000..3050).contains(&world.position_millis(4000)));
    }

    #[test]
    fn it_catches_up_to_its_distance_and_then_keeps_it() {
        let mut world = World::new(98 * SECOND, Some(SECOND));
        world.fill(-2000, 0);
        assert_eq!(world.at(0), [Change::Began], "two seconds behind, and one is wanted");
        for millis in (100..60_000).step_by(100) {
            world.fill(i64::try_from(millis).expect("small") - 100, i64::try_from(millis).expect("small"));
            assert_eq!(world.at(millis), []);
        }
        let behind = 59_900 - world.position_millis(59_900);
        assert!((995..1160).contains(&behind), "{behind} ms behind");
    }
}
