//! Puts millisecond stamps of sound back on the sample grid.

/// Farthest stamp and grid may be apart for long, in milliseconds: with what stamps are rounded by, A/V skew stays below 40.
const SKEW_MS_MAX: i64 = 36;
/// How long they may be apart by more than a frame before the grid moves, in milliseconds.
const PATIENCE_MS: i64 = 500;
/// How exact stamps are that are called steady, in milliseconds: rounding at either end, and a little.
const STEADY_MS: i64 = 3;
/// Frames in a row with exact stamps, after which a step of whole frames is a hole and not wobble.
const STEADY_FRAMES: u32 = 8;
/// Longest hole that is filled with silence, in milliseconds; beyond it nothing can be said to be continuous.
const FILL_MS_MAX: i64 = 3000;

/// What to do with one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// Emit `silent` frames of silence at `silence_at` and after, then the frame at `dts`.
    Emit { silence_at: i64, silent: u32, dts: i64 },
    /// It lies before what was already emitted.
    Drop,
}

/// The grid of one audio track, in samples.
#[derive(Debug)]
pub(super) struct AudioGrid {
    rate: i64,
    next: Option<i64>,
    /// Samples for which stamp and grid have been apart by more than a frame, the same way.
    apart: i64,
    /// By how much the last stamp was after the place of its frame: stamps that are as far from the grid as those before are exact.
    residual: i64,
    /// Frames in a row with exact stamps.
    steady: u32,
}

impl AudioGrid {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate: i64::from(rate), next: None, apart: 0, residual: 0, steady: 0 }
    }

    /// Where the next frame belongs.
    pub(super) fn head(&self) -> Option<i64> {
        self.next
    }

    /// Begins (or goes on) at `dts`.
    pub(super) fn set_head(&mut self, dts: i64) {
        self.next = Some(dts);
        self.apart = 0;
    }

    fn samples(&self, millis: i64) -> i64 {
        millis * self.rate / 1000
    }

    /// Decides about a frame of `length` samples whose stamp says `stamp`.
    pub(super) fn place(&mut self, stamp: i64, length: i64) -> Placement {
        let next = *self.next.get_or_insert(stamp);
        let difference = stamp.saturating_sub(next);
        let change = difference.saturating_sub(self.residual);
        let whole = super::video_grid::div_round(change, length);
        let off = change.saturating_sub(whole.saturating_mul(length)).saturating_abs();
        let is_exact = off <= self.samples(STEADY_MS);
        let is_hole = is_exact && whole > 0 && difference > -length && self.steady >= STEADY_FRAMES;
        self.steady = if is_exact && (whole == 0 || is_hole) { self.steady.saturating_add(1) } else { 0 };
        let at_once = is_hole || difference.saturating_abs() > self.samples(SKEW_MS_MAX).max(length);
        let away = difference.saturating_abs() > length;
        self.apart = if away { self.apart + length } else { 0 };
        if !at_once && self.apart < self.samples(PATIENCE_MS) {
            (self.next, self.residual) = (Some(next + length), difference);
            return Placement::Emit { silence_at: next, silent: 0, dts: next };
        }
        let whole = if is_hole { whole } else { super::video_grid::div_round(difference, length) };
        if difference < 0 && !is_hole {
            self.residual = difference.saturating_add(length); // the next one lies that much later beside a head that stays
            return Placement::Drop;
        }
        (self.apart, self.residual) = (0, difference.saturating_sub(whole.saturating_mul(length)));
        let dts = next.saturating_add(whole.saturating_mul(length));
        self.next = Some(dts.saturating_add(length));
        let fill = difference <= self.samples(FILL_MS_MAX);
        Placement::Emit { silence_at: next, silent: if fill { u32::try_from(whole).unwrap_or(0) } else { 0 }, dts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn millisecond_stamps_give_whole_frames_at_both_rates() {
        for rate in [44_100u32, 48_000] {
            let mut grid = AudioGrid::new(rate);
            for frame in 0..100_000i64 {
                let millis = frame * 1024 * 1000 / i64::from(rate);
                let stamp = millis * i64::from(rate) / 1000;
                let expected = Placement::Emit { silence_at: frame * 1024, silent: 0, dts: frame * 1024 };
                assert_eq!(grid.place(stamp, 1024), expected);
            }
        }
    }

    #[test]
    fn a_hole_is_filled_at_once() {
        let mut grid = AudioGrid::new(48_000);
        grid.place(0, 1024);
        assert_eq!(grid.place(1024 * 6, 1024), Placement::Emit { silence_at: 1024, silent: 5, dts: 6144 });
    }

    #[test]
    fn a_single_missing_frame_is_a_hole_where_stamps_are_exact() {
        let mut grid = AudioGrid::new(48_000);
        for frame in 0..20 {
            grid.place(frame * 1024 / 48 * 48, 1024); // whole milliseconds
        }
        let after = grid.place(21 * 1024 / 48 * 48, 1024);
        assert_eq!(after, Placement::Emit { silence_at: 20 * 1024, silent: 1, dts: 21 * 1024 });
    }

    #[test]
    fn a_single_missing_frame_is_a_hole_also_beside_the_grid() {
        for shift in [-400, 200, 500] {
            let mut grid = AudioGrid::new(48_000);
            let stamp = |frame: i64| (frame * 1024 + if frame > 0 { 17 * 1024 + shift } else { 0 }) / 48 * 48;
            for frame in 0..20 {
                grid.place(stamp(frame), 1024);
            }
            let after = grid.place(stamp(21), 1024);
            assert!(matches!(after, Placement::Emit { silent: 1, .. }), "{shift}: {after:?}");
            let after = grid.place(stamp(22), 1024);
            assert!(matches!(after, Placement::Emit { silent: 0, .. }), "{shift}: {after:?}");
        }
    }

    #[test]
    fn a_small_shift_moves_the_grid_only_after_half_a_second() {
        let mut grid = AudioGrid::new(48_000);
        let shift = 1500; // 31 ms: more than a frame, less than what is heard
        let moved = (0..100).position(|frame| {
            matches!(
                grid.place(frame * 1024 + if frame > 0 { shift } else { 0 }, 1024),
                Placement::Emit { silent: 1, .. }
            )
        });
        assert_eq!(moved, Some(24), "500 ms are 23.4 frames");
    }

    #[test]
    fn frames_that_come_twice_are_dropped() {
        let mut grid = AudioGrid::new(48_000);
        for frame in 0..10 {
            grid.place(frame * 1024, 1024);
        }
        assert_eq!(grid.place(1024, 1024), Placement::Drop);
        assert!(matches!(grid.place(10 * 1024, 1024), Placement::Emit { dts: 10_240, .. }));
    }
}
