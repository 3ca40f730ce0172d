//! Which segment a random access point begins: eras, cells and numbers.
//!
//! An *era* is a stretch with one numbering rule. Where GOPs are regular it is a grid in media time, so that two
//! packagers which see the same stamps give the same numbers; elsewhere it counts.

/// How numbers follow from time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// `number = first + floor((pts − origin) / cell)`. The origin lies half a GOP before the random access point that
    /// began the era, so the one expected to begin a cell lies as far as can be from every edge.
    Grid { first: u64, origin: i64, cell: i64 },
    /// One more for each segment.
    Count,
}

/// What a random access point does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It begins the segment with this number.
    Begin(u64),
    /// It lies inside the segment that is open.
    Inside,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    number: u64,
    start: i64,
    is_independent: bool,
}

/// Cuts a track into segments. Times are in ticks of one scale.
#[derive(Debug)]
pub(crate) struct Segmenter {
    target: i64,
    /// Longest segment: the target duration.
    limit: i64,
    rule: Rule,
    open: Option<Open>,
    next: u64,
    last_random_access: Option<i64>,
    last_gop: Option<i64>,
    /// Eras that ended because something did not fit.
    eras: u64,
}

impl Segmenter {
    /// Segments of about `target`, never above `limit`, numbered from `first`.
    pub(crate) fn new(target: i64, limit: i64, first: u64) -> Self {
        Self {
            target,
            limit,
            rule: Rule::Count,
            open: None,
            next: first,
            last_random_access: None,
            last_gop: None,
            eras: 0,
        }
    }

    /// The number the next segment will have, if nothing is skipped: numbers never are.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }

    /// Eras that ended so far.
    pub(crate) fn eras(&self) -> u64 {
        self.eras
    }

    /// A random access point at `pts`.
    pub(crate) fn random_access(&mut self, pts: i64) -> Cut {
        let gop = self.last_random_access.map(|last| pts - last);
        let is_regular = gop.is_some() && gop == self.last_gop;
        (self.last_random_access, self.last_gop) = (Some(pts), gop);
        let Some(open) = self.open else { return Cut::Begin(self.begin(pts, true)) };
        if let Rule::Grid { first, origin, cell } = self.rule {
            let number = u64::try_from((pts - origin).div_euclid(cell)).map_or(first, |cells| first + cells);
            match number.checked_sub(open.number) {
                Some(0) => return Cut::Inside,
                Some(1) => {}
                _ => self.end_era(), // it does not fit: numbers never skip and never repeat
            }
        } else {
            let elapsed = pts - open.start;
            let is_due = elapsed >= self.target - self.target / 4 || !open.is_independent;
            if !is_due {
                return Cut::Inside;
            }
        }
        let number = self.begin(pts, true);
        if self.rule == Rule::Count
            && is_regular
            && let Some(gop) = gop.filter(|gop| (1..=self.limit).contains(gop))
        {
            let gops = ((self.target + gop / 2) / gop).clamp(1, (self.limit / gop).max(1));
            self.rule = Rule::Grid { first: number, origin: pts - gop / 2, cell: gops * gop };
        }
        Cut::Begin(number)
    }

    /// A frame of sound without a picture: a random access point like every other. The first past the line begins.
    pub(crate) fn sound(&mut self, pts: i64) -> Cut {
        if let (Some(open), Rule::Grid { first, origin, cell }) = (self.open, self.rule) {
            let number = u64::try_from((pts - origin).div_euclid(cell)).map_or(first, |cells| first + cells);
            if number <= open.number {
                return Cut::Inside;
            }
            if number == open.number + 1 {
                return Cut::Begin(self.begin(pts, true));
            }
            self.end_era();
        }
        let number = self.begin(pts, true);
        self.rule = Rule::Grid { first: number, origin: pts, cell: self.target };
        Cut::Begin(number)
    }

    /// The segment must end at `pts` without a random access point: the era ends with it.
    pub(crate) fn force(&mut self, pts: i64) -> u64 {
        self.end_era();
        self.begin(pts, false)
    }

    /// What is open ends, and what comes next is no continuation: a hole, other parameters.
    pub(crate) fn close(&mut self) {
        self.end_era();
        self.open = None;
        (self.last_random_access, self.last_gop) = (None, None);
    }

    /// A number for a segment that is made without media.
    pub(crate) fn take_number(&mut self) -> u64 {
        self.open = None;
        let number = self.next;
        self.next += 1;
        number
    }

    /// Whether another `more` ticks would make the open segment, now `pts` long, too long.
    pub(crate) fn is_full(&self, pts: i64, more: i64) -> bool {
        self.open.is_some_and(|open| pts + more - open.start > self.limit)
    }

    /// Ticks from the start of the open segment to `pts`; `None` if no segment is open.
    pub(crate) fn elapsed(&self, pts: i64) -> Option<i64> {
        self.open.map(|open| pts - open.start)
    }

    fn end_era(&mut self) {
        if self.rule != Rule::Count {
            self.eras += 1;
            self.rule = Rule::Count;
            self.last_gop = None;
        }
    }

    fn begin(&mut self, start: i64, is_independent: bool) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open = Some(Open { number, start, is_independent });
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 360_000;

    fn segmenter() -> Segmenter {
        Segmenter::new(2 * SECOND, 4 * SECOND, 100)
    }

    /// Durations of the segments that random access points at these times make, and the last number.
    fn cuts(segmenter: &mut Segmenter, times: impl IntoIterator<Item = i64>) -> (Vec<i64>, u64) {
        let (mut starts, mut last) = (Vec::new(), 0);
        for time in times {
            if let Cut::Begin(number) = segmenter.random_access(time) {
                assert!(starts.is_empty() || number == last + 1, "numbers never skip or repeat");
                last = number;
                starts.push(time);
            }
        }
        (starts.windows(2).map(|pair| pair[1] - pair[0]).collect(), last)
    }

    #[test]
    fn sixty_frames_at_29_97_for_a_day_give_one_number_each_and_one_era() {
        let mut segmenter = segmenter();
        let gop = 60 * 12_012;
        let (durations, last) = cuts(&mut segmenter, (0..43_156).map(|index| index * gop));
        assert!(durations.iter().all(|duration| *duration == gop));
        assert_eq!((last, segmenter.eras()), (100 + 43_155, 0));
    }

    #[test]
    fn short_gops_fill_a_cell_and_jitter_moves_no_number() {
        for (gop, expected) in [(SECOND, 2 * SECOND), (SECOND / 2, 2 * SECOND), (SECOND * 3 / 2, 3 * SECOND / 2)] {
            let mut segmenter = segmenter();
            let (durations, _) = cuts(&mut segmenter, (0..200).map(|index| index * gop));
            assert!(durations[3..].iter().all(|duration| *duration == expected), "{gop}: {durations:?}");
            assert_eq!(segmenter.eras(), 0);
        }
        let mut segmenter = segmenter();
        let late = |index: i64| index * SECOND + if index > 10 && index % 7 == 0 { SECOND / 3 } else { 0 };
        let (durations, _) = cuts(&mut segmenter, (0..200).map(late));
        assert!(durations.iter().all(|duration| *duration <= 3 * SECOND), "{durations:?}");
        assert_eq!(segmenter.eras(), 0, "a late random access point stays in its cell");
    }

    #[test]
    fn a_segment_that_did_not_begin_independent_ends_at_the_next_random_access_point() {
        let mut segmenter = segmenter();
        segmenter.random_access(0);
        assert_eq!(segmenter.force(4 * SECOND), 101);
        assert_eq!(segmenter.force(8 * SECOND), 102);
        assert_eq!(segmenter.random_access(8 * SECOND + SECOND / 3), Cut::Begin(103), "OBS auto: 8.33 s");
    }

    #[test]
    fn what_does_not_fit_the_grid_ends_the_era() {
        let mut segmenter = segmenter();
        cuts(&mut segmenter, (0..10).map(|index| index * 2 * SECOND));
        assert_eq!(segmenter.random_access(30 * SECOND), Cut::Begin(110));
        assert_eq!(segmenter.eras(), 1);
    }
}
