//! When media that is fetched in pieces is handed on: in real time, as an encoder would have sent it.

use std::time::{Duration, Instant};

use viewer::nanos;

use super::TRACKS;

/// Media that lies further than this from where it is expected begins anew.
const FAR_NANOS: i64 = 60_000_000_000;
/// Over so long the least reserve counts.
const WINDOW: Duration = Duration::from_secs(30);
/// Most that is moved in a window: nobody notices.
const STEP_NANOS: i64 = 200_000_000;
/// A reserve that has grown by less is left alone.
const GROWTH_NANOS: i64 = 500_000_000;

/// Ties the time of media to the clock. The reserve (how long media is here before it is due) is what a player holds back; clocks that
/// differ would use it up, or make it grow, and are followed.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// Media of this time is due then.
    zero: Option<(Instant, i64)>,
    /// Least reserve of this window, and since when it is measured.
    window: Option<(i64, Instant)>,
    /// What the reserve is to be: none in the first window, which begins with media from before.
    wanted: Option<i64>,
    windows: u32,
    /// When what came last of each track is due: nothing overtakes it.
    last: [Option<Instant>; TRACKS],
}

impl Pacer {
    /// Media that begins at `start` (nanoseconds) has come. `begin` is where playback is to begin: what lies before it is due at once.
    pub(super) fn on_media(&mut self, now: Instant, start: i64, begin: Option<i64>) {
        if self.reserve(now, start).is_none_or(|reserve| reserve.saturating_abs() > FAR_NANOS) {
            let near = begin.filter(|begin| (start..start.saturating_add(FAR_NANOS)).contains(begin));
            *self = Self { zero: Some((now, near.unwrap_or(start))), last: self.last, ..Self::default() };
        }
        let reserve = self.reserve(now, start).unwrap_or(0);
        let (least, since) = *self.window.get_or_insert((reserve, now));
        self.window = Some((least.min(reserve), since));
        if now.saturating_duration_since(since) >= WINDOW {
            self.close_window(least.min(reserve));
        }
    }

    /// When media of this time and track is due, not before what came before it; the past is now.
    pub(super) fn due(&mut self, now: Instant, track: usize, time: i64) -> Instant {
        let reserve = u64::try_from(self.reserve(now, time).unwrap_or(0)).unwrap_or(0);
        let mut due = now + Duration::from_nanos(reserve);
        if let Some(last) = self.last.get_mut(track) {
            due = last.map_or(due, |last| due.max(last));
            *last = Some(due);
        }
        due
    }

    fn reserve(&self, now: Instant, start: i64) -> Option<i64> {
        let (at, media) = self.zero?;
        Some(start.saturating_sub(media).saturating_sub(nanos(now.saturating_duration_since(at))))
    }

    fn close_window(&mut self, least: i64) {
        self.window = None;
        self.windows += 1;
        let Some(wanted) = self.wanted else {
            self.wanted = (self.windows > 1).then_some(least.max(0));
            return;
        };
        // Playlists whose durations are rounded up make it grow fast: half of it at a time.
        let grown = (least - wanted - GROWTH_NANOS.max(wanted / 2)).max(0);
        let lacking = (wanted / 2 - least).clamp(0, STEP_NANOS);
        if let Some((_, media)) = &mut self.zero {
            *media += grown.min(STEP_NANOS).max(grown / 2) - lacking;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn after(start: Instant, since: i64) -> Instant {
        start + Duration::from_nanos(u64::try_from(since).expect("later"))
    }

    #[test]
    fn what_came_at_once_is_handed_on_in_real_time() {
        let (mut pacer, now) = (Pacer::default(), Instant::now());
        for number in 0..3 {
            pacer.on_media(now, (50 + 6 * number) * SECOND, Some(51 * SECOND));
            let due = pacer.due(now, 0, (50 + 6 * number) * SECOND);
            assert_eq!(
                due,
                after(now, (6 * number - 1).max(0) * SECOND),
                "what lies before the beginning is due at once"
            );
        }
    }

    #[test]
    fn what_is_late_comes_at_once_and_in_order() {
        let (mut pacer, now) = (Pacer::default(), Instant::now());
        pacer.on_media(now, 0, None);
        assert_eq!(pacer.due(now, 0, 5 * SECOND), after(now, 5 * SECOND));
        let later = after(now, 20 * SECOND);
        for start in [6, 12, 18] {
            pacer.on_media(later, start * SECOND, None);
            for time in start..start + 6 {
                assert_eq!(pacer.due(later, 0, time * SECOND), after(later, (time - 20).max(0) * SECOND));
            }
        }
        assert_eq!(pacer.due(later, 0, 21 * SECOND), after(later, 3 * SECOND), "not before what came before it");
        assert_eq!(pacer.due(later, 1, 21 * SECOND), after(later, SECOND), "which is another track");
        pacer.on_media(later, 9000 * SECOND, None);
        assert_eq!(pacer.due(later, 1, 9000 * SECOND), after(later, SECOND), "begins anew, behind what waits");
        assert_eq!(pacer.due(later, 1, 9004 * SECOND), after(later, 4 * SECOND));
    }

    /// Segments of two seconds whose clock is off by so many millionths, begun six behind the edge; the least and the most reserve of the
    /// last hour of a day.
    fn a_day(parts_per_million: i64) -> (i64, i64) {
        let (mut pacer, start) = (Pacer::default(), Instant::now());
        for number in 0..3 {
            pacer.on_media(start, number * 2 * SECOND, None);
        }
        let (mut least, mut most) = (i64::MAX, 0);
        for number in 1..43_200 {
            let now = after(start, number * 2 * (SECOND - parts_per_million * 1000));
            pacer.on_media(now, (number + 2) * 2 * SECOND, None);
            let due = pacer.due(now, 0, (number + 2) * 2 * SECOND);
            if number > 41_400 {
                let reserve = nanos(due.saturating_duration_since(now));
                (least, most) = (least.min(reserve), most.max(reserve));
            }
        }
        (least, most)
    }

    #[test]
    fn clocks_that_differ_are_followed() {
        for parts_per_million in [-200, -20, 0, 20, 200, 40_000] {
            let (least, most) = a_day(parts_per_million);
            assert!(
                least >= 19 * SECOND / 10 && most <= if parts_per_million < 1000 { 7 } else { 12 } * SECOND,
                "{parts_per_million}: {least} to {most}"
            );
        }
    }
}
