//! The map from media time to UTC behind EXT-X-PROGRAM-DATE-TIME.
//!
//! Media time is never slewed; this map is, at segment boundaries only. It follows the smallest delay between media time
//! and arrival, since everything else delays.

use std::collections::VecDeque;

/// Segments over which the smallest delay is looked for.
const WINDOW_SEGMENTS: usize = 8;
/// Most the map moves at one segment boundary: 2 ms, ten times what a bad encoder clock (100 ppm) needs. Players align sound
/// with picture by it, and some stumble over larger steps.
const STEP_NANOS_MAX: i64 = 2_000_000;
/// Beyond this the map is wrong, not drifting: it is set anew.
const WRONG_NANOS: i64 = 2_000_000_000;

/// UTC = media time + offset, both in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct UtcMap {
    offset: Option<i64>,
    minima: VecDeque<i64>,
    current: Option<i64>,
}

impl UtcMap {
    /// A unit of media time `media_nanos` arrived at `utc_nanos`.
    pub(crate) fn observe(&mut self, media_nanos: i64, utc_nanos: i64) {
        let delay = utc_nanos.saturating_sub(media_nanos);
        self.current = Some(self.current.map_or(delay, |current| current.min(delay)));
    }

    /// Nothing was shown so far: the smallest delay is taken at once, whatever the step. Returns by how much the times given
    /// so far were wrong.
    pub(crate) fn settle(&mut self) -> i64 {
        let smallest = self.minima.iter().copied().chain(self.current).min();
        let (Some(smallest), Some(offset)) = (smallest, self.offset) else { return 0 };
        self.offset = Some(smallest);
        smallest - offset
    }

    /// A segment begins: adjusts the map and gives the UTC time of `media_nanos`.
    pub(crate) fn begin_segment(&mut self, media_nanos: i64) -> i64 {
        if let Some(current) = self.current.take() {
            if self.minima.len() == WINDOW_SEGMENTS {
                self.minima.pop_front();
            }
            self.minima.push_back(current);
        }
        if let Some(smallest) = self.minima.iter().min().copied() {
            self.offset = Some(match self.offset {
                Some(offset) if smallest.abs_diff(offset) < WRONG_NANOS.unsigned_abs() => {
                    offset + (smallest - offset).clamp(-STEP_NANOS_MAX, STEP_NANOS_MAX)
                }
                _ => smallest,
            });
        }
        self.utc(media_nanos)
    }

    /// The UTC time of `media_nanos` under the map in force.
    pub(crate) fn utc(&self, media_nanos: i64) -> i64 {
        media_nanos.saturating_add(self.offset.or(self.current).unwrap_or(0))
    }

    /// Media time goes on elsewhere: the map is set anew by what comes.
    pub(crate) fn restart(&mut self) {
        *self = Self::default();
    }
}

/// `2026-11-23T12:30:10.123Z` from nanoseconds since 1970. spec: rfc8216bis §4.4.4.6
pub fn format_utc(utc_nanos: i64) -> String {
    let millis = utc_nanos.div_euclid(1_000_000);
    let (seconds, millis) = (millis.div_euclid(1000), millis.rem_euclid(1000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The proleptic Gregorian date of a day counted from 1970-01-01 (Howard Hinnant's algorithm).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The day counted from 1970-01-01 of a proleptic Gregorian date (Howard Hinnant's algorithm).
pub(crate) fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(format_utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_utc(1_709_164_799_999_000_000), "2024-02-28T23:59:59.999Z");
        assert_eq!(format_utc(1_709_164_800_000_000_000), "2024-02-29T00:00:00.000Z");
        assert_eq!(format_utc(1_795_438_810_123_456_789), "2026-11-23T13:00:10.123Z");
    }

    #[test]
    fn a_late_first_unit_is_corrected_before_anything_is_shown() {
        let mut map = UtcMap::default();
        map.observe(0, 5_300_000_000);
        assert_eq!(map.begin_segment(0), 5_300_000_000);
        map.observe(1_000_000_000, 6_000_000_000);
        assert_eq!(map.settle(), -300_000_000);
        assert_eq!(map.begin_segment(2_000_000_000), 7_000_000_000);
        map.observe(3_000_000_000, 7_900_000_000);
        assert_eq!(map.begin_segment(4_000_000_000), 9_000_000_000 - STEP_NANOS_MAX, "later it moves by steps");
    }

    #[test]
    fn an_encoder_100_ppm_fast_stays_within_50_ms_for_a_day() {
        let mut map = UtcMap::default();
        for segment in 0..43_200i64 {
            let wall = segment * 2_000_000_000;
            let media = wall + wall / 10_000;
            let jitter = segment * 7_919 % 30_000_000;
            map.observe(media, wall + jitter);
            let error = map.begin_segment(media) - wall;
            assert!(error.abs() < 50_000_000, "{} ms off at segment {segment}", error / 1_000_000);
        }
    }
}
