//! Puts millisecond stamps of a constant frame rate back on their exact grid.

use std::collections::VecDeque;

use media::{FrameRate, Timescale};

/// Farthest a stamp may lie from its place: half a millisecond of rounding at either end, and a little.
const TOLERANCE: i64 = 540; // 1.5 ms
/// Stamps in a row that may miss before the rate is given up.
const MISSES_MAX: u32 = 3;
/// Stamps from which a rate is found: 60 and 59.94 Hz are then more than 2 ms apart.
const HISTORY: usize = 128;
/// Spread of the errors that rounding to milliseconds explains.
const SPREAD_MAX: i64 = 400; // 1.1 ms
/// Finds and keeps the grid of one video track, in ticks of [`Timescale::VIDEO`].
#[derive(Debug, Default)]
pub(super) struct VideoGrid {
    lock: Option<Lock>,
    history: VecDeque<i64>,
    misses: u32,
}

#[derive(Clone, Copy, Debug)]
struct Lock {
    frame: i64,
    /// The place of frame 0.
    origin: i64,
    last: i64,
}

impl VideoGrid {
    /// Ticks of one frame, while the rate is constant.
    pub(super) fn frame(&self) -> Option<i64> {
        self.lock.map(|lock| lock.frame)
    }

    /// Takes what the bitstream declares; the first stamps confirm or refute it.
    pub(super) fn hint(&mut self, rate: FrameRate) {
        let frame = rate.frame_duration(Timescale::VIDEO);
        if self.history.is_empty() && (1500..=Timescale::VIDEO.ticks_from_nanos(1_000_000_000)).contains(&frame) {
            self.lock = Some(Lock { frame, origin: i64::MIN, last: -1 });
        }
    }

    /// Forgets everything, after a jump of the timestamps; the rate stays as a hint.
    pub(super) fn restart(&mut self) {
        self.history.clear();
        self.misses = 0;
        if let Some(lock) = &mut self.lock {
            (lock.origin, lock.last) = (i64::MIN, -1);
        }
    }

    /// The place of a stamp on the grid, or the stamp itself while there is no constant rate.
    pub(super) fn place(&mut self, stamp: i64) -> i64 {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(stamp);
        if self.lock.is_none() {
            self.lock = find(&self.history);
        }
        let Some(lock) = &mut self.lock else { return stamp };
        if lock.origin == i64::MIN {
            lock.origin = stamp;
        }
        let index = div_round(stamp.saturating_sub(lock.origin), lock.frame);
        let place = lock.origin.saturating_add(index.saturating_mul(lock.frame));
        if place.abs_diff(stamp) > TOLERANCE.unsigned_abs() {
            self.misses += 1;
            if self.misses == MISSES_MAX {
                (self.lock, self.misses) = (None, 0);
                return stamp;
            }
        } else {
            self.misses = 0;
        }
        // Two stamps at one place: the later one moves on, where it does not fall behind for good.
        let index = if index <= lock.last && lock.last - index < 2 { lock.last + 1 } else { index };
        lock.last = index;
        lock.origin.saturating_add(index.saturating_mul(lock.frame))
    }
}

/// The rate whose grid explains the whole history, with the phase in the middle of the errors.
fn find(history: &VecDeque<i64>) -> Option<Lock> {
    let (first, last) = (*history.front()?, *history.back()?);
    if history.len() < HISTORY {
        return None;
    }
    let mut best: Option<(i64, Lock)> = None;
    for rate in FrameRate::COMMON {
        let frame = rate.frame_duration(Timescale::VIDEO);
        // Almost every rate is refuted by a few stamps.
        let errors = history.iter().try_fold((i64::MAX, i64::MIN), |(low, high), stamp| {
            let offset = stamp - first;
            let error = offset - div_round(offset, frame) * frame;
            let (low, high) = (low.min(error), high.max(error));
            (high - low <= SPREAD_MAX).then_some((low, high))
        });
        let Some((low, high)) = errors else { continue };
        let frames = div_round(last - first, frame);
        let enough = frames >= i64::try_from(HISTORY).unwrap_or(i64::MAX) - 8; // not a multiple of the true rate
        if enough && best.as_ref().is_none_or(|(spread, _)| high - low < *spread) {
            let origin = first + i64::midpoint(low, high);
            best = Some((high - low, Lock { frame, origin, last: frames - 1 }));
        }
    }
    best.map(|(_, lock)| lock)
}

/// Division rounded to the nearest, for a positive divisor.
pub(super) fn div_round(value: i64, divisor: i64) -> i64 {
    value.saturating_add(divisor / 2).div_euclid(divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stamps of `rate` as RTMP carries them: whole milliseconds, rounded down.
    fn stamps(numerator: u32, denominator: u32, count: i64) -> Vec<i64> {
        let millis = |frame: i64| frame * i64::from(denominator) * 1000 / i64::from(numerator);
        (0..count).map(|frame| millis(frame) * 360).collect()
    }

    fn steps(places: &[i64]) -> Vec<i64> {
        places.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[test]
    fn every_common_rate_is_found_and_exact() {
        for rate in FrameRate::COMMON {
            let mut grid = VideoGrid::default();
            let frame = rate.frame_duration(Timescale::VIDEO);
            let places: Vec<i64> = (0..2000).map(|index| grid.place(index * frame / 360 * 360)).collect();
            assert!(steps(&places[HISTORY + 200..]).iter().all(|step| *step == frame), "{rate}");
        }
    }

    #[test]
    fn a_true_hint_locks_at_the_first_frame() {
        let mut grid = VideoGrid::default();
        grid.hint(FrameRate::new(30_000, 1001).expect("not zero"));
        let places: Vec<i64> = stamps(30_000, 1001, 10_000).into_iter().map(|stamp| grid.place(stamp)).collect();
        assert!(steps(&places).iter().all(|step| *step == 12_012));
    }

    #[test]
    fn a_false_hint_is_refuted_and_the_true_rate_found() {
        let mut grid = VideoGrid::default();
        grid.hint(FrameRate::new(60, 1).expect("not zero"));
        let places: Vec<i64> = stamps(60_000, 1001, 3000).into_iter().map(|stamp| grid.place(stamp)).collect();
        assert!(steps(&places[1000..]).iter().all(|step| *step == 6006), "{:?}", grid.frame());
    }

    #[test]
    fn a_lost_frame_leaves_its_place_empty() {
        let mut grid = VideoGrid::default();
        grid.hint(FrameRate::new(25, 1).expect("not zero"));
        let places: Vec<i64> = [0, 40, 120, 160].into_iter().map(|millis| grid.place(millis * 360)).collect();
        assert_eq!(steps(&places), [14_400, 28_800, 14_400]);
    }

    #[test]
    fn variable_rate_passes_as_it_is() {
        let mut grid = VideoGrid::default();
        grid.hint(FrameRate::new(30, 1).expect("not zero"));
        let stamps: Vec<i64> = (0..400i64)
            .scan(0, |time, frame| {
                *time += 20 + frame * 7 % 31;
                Some(*time * 360)
            })
            .collect();
        let places: Vec<i64> = stamps.iter().map(|stamp| grid.place(*stamp)).collect();
        assert_eq!(places[10..], stamps[10..]);
    }
}
