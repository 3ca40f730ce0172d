//! Figures over many measurements.

use serde::Serialize;

/// Measurements in milliseconds, or any other whole unit. Past its limit every second one is dropped, evenly over time.
#[derive(Clone, Debug)]
pub struct Samples {
    values: Vec<u32>,
    limit: usize,
    /// One of so many is kept.
    every: u32,
    since: u32,
    max: u32,
    count: u64,
}

/// What is reported of many measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many there were.
    pub count: u64,
    /// Half are at most this.
    pub p50: u32,
    /// 95 of 100 are at most this.
    pub p95: u32,
    /// 99 of 100 are at most this.
    pub p99: u32,
    /// The largest.
    pub max: u32,
}

impl Samples {
    /// Keeps at most `limit` of them, at least two.
    pub fn new(limit: usize) -> Self {
        Self { values: Vec::new(), limit: limit.max(2), every: 1, since: 0, max: 0, count: 0 }
    }

    /// Adds one; negative ones count as 0.
    pub fn add(&mut self, value: i64) {
        let value = u32::try_from(value.max(0)).unwrap_or(u32::MAX);
        (self.max, self.count) = (self.max.max(value), self.count + 1);
        self.since += 1;
        if self.since < self.every {
            return;
        }
        self.since = 0;
        if self.values.len() == self.limit {
            let mut index = 0;
            self.values.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.every = self.every.saturating_mul(2);
        }
        self.values.push(value);
    }

    /// Takes over those of another.
    pub fn merge(&mut self, other: &Self) {
        (self.max, self.count) = (self.max.max(other.max), self.count + other.count);
        self.values.extend_from_slice(&other.values);
    }

    /// The value that `per_mille` of 1,000 do not exceed; 0 without any.
    pub fn percentile(&self, per_mille: usize) -> u32 {
        let mut sorted = self.values.clone();
        sorted.sort_unstable();
        percentile(&sorted, per_mille)
    }

    /// What is reported.
    pub fn summary(&self) -> Summary {
        let mut sorted = self.values.clone();
        sorted.sort_unstable();
        let [p50, p95, p99] = [500, 950, 990].map(|per_mille| percentile(&sorted, per_mille));
        Summary { count: self.count, p50, p95, p99, max: self.max }
    }
}

fn percentile(sorted: &[u32], per_mille: usize) -> u32 {
    let rank = (sorted.len() * per_mille).div_ceil(1000).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or(0)
}

/// A line through measurements over time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slope {
    count: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Slope {
    /// Adds a measurement at a time in seconds.
    pub fn add(&mut self, seconds: f64, value: f64) {
        self.count += 1.0;
        self.x += seconds;
        self.y += value;
        self.xx += seconds * seconds;
        self.xy += seconds * value;
    }

    /// Takes over those of another, which began at a time of its own.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.x += other.x;
        self.y += other.y;
        self.xx += other.xx;
        self.xy += other.xy;
    }

    /// By how much the value grows in a minute, rounded; 0 with fewer than ten measurements.
    #[expect(clippy::cast_possible_truncation, reason = "it is rounded and held within bounds before")]
    pub fn per_minute(&self) -> i64 {
        let spread = self.count * self.xx - self.x * self.x;
        if self.count < 10.0 || spread <= 0.0 {
            return 0;
        }
        let slope = 60.0 * (self.count * self.xy - self.x * self.y) / spread;
        slope.round().clamp(-1e9, 1e9) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut samples = Samples::new(1000);
        (1..=100).for_each(|value| samples.add(value));
        let summary = samples.summary();
        assert_eq!((summary.p50, summary.p95, summary.p99, summary.max, summary.count), (50, 95, 99, 100, 100));
        assert_eq!(Samples::new(10).summary(), Summary::default());
    }

    #[test]
    fn past_the_limit_they_are_thinned_out_evenly() {
        let mut samples = Samples::new(100);
        (0..10_000).for_each(|value| samples.add(value));
        assert!(samples.values.len() <= 100);
        let summary = samples.summary();
        assert!(summary.p50.abs_diff(5000) < 300 && summary.p95.abs_diff(9500) < 300, "{summary:?}");
        assert_eq!((summary.max, summary.count), (9999, 10_000));
    }

    #[test]
    fn a_slope_is_told_per_minute() {
        let mut slope = Slope::default();
        (0..60).for_each(|second| slope.add(f64::from(second), 1000.0 + 5.0 * f64::from(second)));
        assert_eq!((slope.per_minute(), Slope::default().per_minute()), (300, 0));
    }
}
