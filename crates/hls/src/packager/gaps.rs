//! Gaps: time that passed without media, told as segments that are not there.

use media::{AccessUnit, Timescale};

use super::{Packager, SECOND, SegmentStart};

/// Most gaps that fill one hole in the stamps; a longer one is a discontinuity.
const GAPS_IN_A_HOLE_MAX: i64 = 40;

impl Packager {
    /// When a unit at `position` (video ticks) would arrive, going by the last one: what is published as missing must not
    /// run ahead of a source that was late all the time.
    pub(super) fn expected_utc(&self, position: i64) -> i64 {
        self.last_arrival_utc.saturating_add(Timescale::VIDEO.nanos(position.saturating_sub(self.last_position)))
    }

    /// Whether a random access point lies inside what was called a gap and is left out. What was held up on its way comes at once;
    /// shown now, it would be latency for good. Where the next one is far more than a segment away, or nothing else comes for as long, it is
    /// taken as it is: a picture that stands still is worse.
    pub(super) fn is_passed(&mut self, at: i64) -> bool {
        if at >= self.latest_end() || self.gop > Timescale::VIDEO.ticks(self.config.segment_target) * 3 / 2 {
            return false;
        }
        let since = *self.passed_since.get_or_insert(self.last_arrival_utc);
        let patience = i64::try_from(self.config.segment_target.as_nanos()).unwrap_or(2 * SECOND);
        self.last_arrival_utc - since < patience
    }

    /// The end of a gap that begins at `from`: a segment's length, and past every track, lest one of them go back.
    pub(super) fn gap_end(&self, from: i64) -> i64 {
        let cell = Timescale::VIDEO.ticks(self.config.segment_target);
        (from + cell).max(self.latest_end().saturating_add(cell / 8))
    }

    /// One gap segment in every rendition, from `start` to `until` on the video scale.
    pub(super) fn add_gap(&mut self, start: i64, until: i64) {
        let number = self.segmenter.take_number();
        let begin = SegmentStart { number, is_discontinuity: false, discontinuities: self.discontinuities };
        for track in [&mut self.video, &mut self.audio].into_iter().flatten() {
            let scale = track.assembler.config().timescale();
            let from = track.end.unwrap_or_else(|| Timescale::VIDEO.rescale(start, scale));
            track.begin_segment(begin, from, self.utc.utc(scale.nanos(from)));
            track.finish_segment(Timescale::VIDEO.rescale(until, scale), &mut self.shared);
        }
    }

    /// Media is back: the rest of the hole is gaps, each no longer than a segment.
    pub(super) fn resume_after_gap(&mut self, mut from: i64, unit: &AccessUnit) {
        let Some(track) = self.track(unit.track) else { return };
        let scale = track.assembler.config().timescale();
        let until = scale.rescale(unit.pts.0, Timescale::VIDEO);
        let cell = Timescale::VIDEO.ticks(self.config.segment_target);
        if until < from.max(self.latest_end()) || (until - from) / cell > GAPS_IN_A_HOLE_MAX {
            // It lies inside what was called a gap, or far away: where it lies in time is found anew.
            self.next_is_discontinuity = true;
            self.utc.restart();
            self.utc.observe(scale.nanos(unit.dts.0), self.last_arrival_utc);
            return;
        }
        while from < until {
            let next = if until - from < 2 * cell { until } else { self.gap_end(from).min(until) };
            self.add_gap(from, next);
            from = next;
        }
    }
}
