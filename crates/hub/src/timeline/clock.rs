//! One clock for the tracks of a leg: takes out jumps, keeps holes.

use std::time::{Duration, Instant};

/// A step back of more than this is a restart of the timestamps, not disorder.
const BACKWARD_NANOS_MAX: i64 = 500_000_000;
/// A step forward of more than this beyond what really passed is a jump, not a hole.
const FORWARD_NANOS_MAX: i64 = 2_000_000_000;
/// A track that goes back by more than this is not where its copies are.
const BACK_NANOS: i64 = 5_000_000;
/// How far a unit may lie from the newest one of another track and still belong beside it.
const SAME_JUMP_NANOS: i64 = 2_000_000_000;
/// Where a jump lands behind the last unit if no time passed.
const STEP_NANOS: i64 = 20_000_000;

/// Maps a peer's timestamps to leg time, in nanoseconds, the same way for all tracks.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Leg time = peer's time + this, for a track that jumps now.
    offset: Option<i64>,
    /// Where the newest unit of any track lies.
    newest: Option<(i64, Instant)>,
    breaks: u64,
}

/// What the clock remembers of one track.
#[derive(Debug, Default)]
pub(super) struct TrackClock {
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    peer: i64,
    leg: i64,
    offset: i64,
    arrival: Instant,
}

impl Clock {
    /// Leg time of a time of the peer; none before the first unit.
    pub(super) fn leg_time(&self, peer: i64) -> Option<i64> {
        self.offset.map(|offset| peer.saturating_add(offset))
    }

    /// Times that a track jumped, or went back by less than a jump.
    pub(super) fn breaks(&self) -> u64 {
        self.breaks
    }

    /// Leg time of a unit that arrived at `now` with the peer's time `peer`; true if the timestamps jumped.
    pub(super) fn map(&mut self, track: &mut TrackClock, now: Instant, peer: i64) -> (i64, bool) {
        let (newest, seen) = self.newest.unwrap_or((0, now));
        let since = nanos(now.saturating_duration_since(seen));
        // Where a unit belongs that does not continue its own track: beside the newest of any track.
        let beside = |offset: &i64, at: i64| peer.saturating_add(*offset).abs_diff(at) < SAME_JUMP_NANOS.unsigned_abs();
        let (offset, jumped) = match (track.last, self.offset) {
            (Some(last), shared) => {
                let elapsed = nanos(now.saturating_duration_since(last.arrival));
                let step = peer.saturating_sub(last.peer);
                if (-BACKWARD_NANOS_MAX..=elapsed.saturating_add(FORWARD_NANOS_MAX)).contains(&step) {
                    (last.offset, false)
                } else {
                    let expected =
                        newest.saturating_add(since.max(STEP_NANOS)).max(last.leg.saturating_add(STEP_NANOS));
                    // Where another track has jumped already. Its own offset is what it has jumped from.
                    let fits =
                        |offset: &i64| *offset != last.offset && (beside(offset, newest) || beside(offset, expected));
                    (shared.filter(fits).unwrap_or(expected.saturating_sub(peer)), true)
                }
            }
            (None, Some(shared)) => {
                let expected = newest.saturating_add(since);
                if beside(&shared, expected) { (shared, false) } else { (expected.saturating_sub(peer), true) }
            }
            (None, None) => (peer.saturating_neg(), false),
        };
        if !(jumped && track.last.is_none()) {
            self.offset = Some(offset);
        }
        let goes_back = track.last.is_some_and(|last| peer.saturating_sub(last.peer) < -BACK_NANOS);
        self.breaks += u64::from(jumped || goes_back);
        let leg = peer.saturating_add(offset);
        if self.newest.is_none_or(|(newest, _)| leg > newest) || jumped {
            self.newest = Some((leg, now));
        }
        track.last = Some(Last { peer, leg, offset, arrival: now });
        (leg, jumped)
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn both_tracks_follow_one_jump_and_stay_together() {
        let start = Instant::now();
        let (mut clock, mut video, mut audio) = (Clock::default(), TrackClock::default(), TrackClock::default());
        assert_eq!(clock.map(&mut video, start, 50 * SECOND), (0, false));
        assert_eq!(clock.map(&mut audio, start, 50 * SECOND + 5), (5, false));

        let later = start + Duration::from_millis(40);
        assert_eq!(clock.map(&mut video, later, 7 * SECOND), (40_000_005, true), "restarted: joined at what passed");
        assert_eq!(clock.map(&mut audio, later, 7 * SECOND + 5), (40_000_010, true), "the same offset");
    }

    #[test]
    fn a_restart_a_second_ago_takes_no_time() {
        let start = Instant::now();
        let (mut clock, mut video, mut audio) = (Clock::default(), TrackClock::default(), TrackClock::default());
        clock.map(&mut video, start, 10 * SECOND);
        clock.map(&mut audio, start, 10 * SECOND);
        let later = start + Duration::from_millis(40);
        assert_eq!(clock.map(&mut audio, later, 9 * SECOND), (40_000_000, true));
        assert_eq!(clock.map(&mut video, later, 9 * SECOND), (40_000_000, true), "the same offset");
    }

    #[test]
    fn a_second_track_with_strange_stamps_is_put_beside_the_first() {
        let start = Instant::now();
        let (mut clock, mut video, mut audio) = (Clock::default(), TrackClock::default(), TrackClock::default());
        clock.map(&mut video, start, 0);
        assert_eq!(clock.map(&mut audio, start, 3600 * SECOND), (0, true), "an hour ahead");
        assert_eq!(clock.map(&mut audio, start, 3600 * SECOND + 20), (20, false));
        assert_eq!(clock.map(&mut video, start, 40), (40, false), "the first track is not touched");
    }

    #[test]
    fn a_track_that_jumped_unseen_comes_back_beside_the_other() {
        let start = Instant::now();
        let (mut clock, mut video, mut audio) = (Clock::default(), TrackClock::default(), TrackClock::default());
        clock.map(&mut video, start, 10 * SECOND);
        clock.map(&mut audio, start, 10 * SECOND);
        clock.map(&mut video, start + Duration::from_millis(40), 3 * SECOND);
        let later = start + Duration::from_secs(6);
        clock.map(&mut video, later, 3 * SECOND + SECOND / 25); // it stood still for six seconds
        let (leg, jumped) = clock.map(&mut audio, later, 3 * SECOND + SECOND / 25);
        assert_eq!((leg, jumped), (80_000_000, true));
    }

    #[test]
    fn a_hole_as_long_as_the_silence_is_kept() {
        let start = Instant::now();
        let (mut clock, mut video) = (Clock::default(), TrackClock::default());
        clock.map(&mut video, start, 0);
        let after = start + Duration::from_secs(30);
        assert_eq!(clock.map(&mut video, after, 30 * SECOND), (30 * SECOND, false));
        assert_eq!(
            clock.map(&mut video, after, 29 * SECOND + SECOND / 2),
            (29 * SECOND + SECOND / 2, false),
            "disorder"
        );
    }

    #[test]
    fn timestamps_from_hell_do_not_overflow() {
        let now = Instant::now();
        let (mut clock, mut video) = (Clock::default(), TrackClock::default());
        for peer in [i64::MIN, i64::MAX, 0, i64::MIN, i64::MAX] {
            clock.map(&mut video, now, peer);
        }
    }
}
