//! One clock for the tracks of a leg: takes out jumps, keeps holes.

use std::time::{Duration, Instant};

/// A step back of more than this is a restart of the timestamps, not disorder.
const BACKWARD_NANOS_MAX: i64 = 500_000_000;
/// A step forward of more than this beyond what really passed is a jump, not a hole.
const FORWARD_NANOS_MAX: i64 = 2_000_000_000;
/// What a track that jumps may differ from another that already did, to count as the same jump.
const SAME_JUMP_NANOS: i64 = 2_000_000_000;
/// Where a jump lands behind the last unit if no time passed.
const STEP_NANOS: i64 = 20_000_000;

/// Maps a peer's timestamps to leg time, in nanoseconds, the same way for all tracks.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Leg time = peer's time + this, for a track that jumps now.
    offset: Option<i64>,
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
    /// Leg time of a unit that arrived at `now` with the peer's time `peer`; true if the timestamps jumped.
    pub(super) fn map(&mut self, track: &mut TrackClock, now: Instant, peer: i64) -> (i64, bool) {
        let (offset, jumped) = match (track.last, self.offset) {
            (Some(last), shared) => {
                let elapsed = nanos(now.saturating_duration_since(last.arrival));
                let step = peer.saturating_sub(last.peer);
                if (-BACKWARD_NANOS_MAX..=elapsed.saturating_add(FORWARD_NANOS_MAX)).contains(&step) {
                    (last.offset, false)
                } else {
                    let expected = last.leg.saturating_add(elapsed.max(STEP_NANOS));
                    let fits =
                        |offset: &i64| peer.saturating_add(*offset).abs_diff(expected) < SAME_JUMP_NANOS.unsigned_abs();
                    (shared.filter(fits).unwrap_or(expected.saturating_sub(peer)), true)
                }
            }
            (None, Some(shared)) => (shared, false),
            (None, None) => (peer.saturating_neg(), false),
        };
        self.offset = Some(offset);
        let leg = peer.saturating_add(offset);
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
        assert_eq!(clock.map(&mut video, later, 7 * SECOND), (40_000_000, true), "restarted: joined at what passed");
        assert_eq!(clock.map(&mut audio, later, 7 * SECOND + 5), (40_000_005, true), "the same offset");
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
