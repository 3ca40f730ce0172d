//! How much goes through, as hls.js estimates it: two averages over download time, and the lower counts. A slow body weighs as
//! long as it took, so that a line that gets narrow is seen with the first of them.

use std::time::Duration;

/// Half of what is remembered is from the last so many seconds of downloading.
const HALF_LIVES: [f64; 2] = [3.0, 9.0];
/// A body that took less weighs like this: it came from a buffer.
const WEIGHT_MIN: Duration = Duration::from_millis(50);

/// The estimate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bandwidth {
    /// Until something is measured.
    default: u64,
    averages: [f64; 2],
    seconds: f64,
}

impl Bandwidth {
    pub(crate) fn new(default: u64) -> Self {
        Self { default, averages: [0.0; 2], seconds: 0.0 }
    }

    /// A body came in this time.
    pub(crate) fn add(&mut self, bytes: u64, took: Duration) {
        let seconds = took.max(WEIGHT_MIN).as_secs_f64();
        let bits_per_second = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) * 8.0 / seconds;
        for (average, half_life) in self.averages.iter_mut().zip(HALF_LIVES) {
            let kept = 0.5_f64.powf(seconds / half_life);
            *average = bits_per_second * (1.0 - kept) + kept * *average;
        }
        self.seconds += seconds;
    }

    /// Bits per second.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is positive, and a cast saturates")]
    pub(crate) fn estimate(&self) -> u64 {
        if self.seconds == 0.0 {
            return self.default;
        }
        // The averages began at 0: what is missing for that is added.
        let estimates = self.averages.iter().zip(HALF_LIVES);
        let estimates = estimates.map(|(average, half_life)| average / (1.0 - 0.5_f64.powf(self.seconds / half_life)));
        estimates.fold(f64::MAX, f64::min) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_what_is_set_and_takes_the_first_body_for_true() {
        let mut bandwidth = Bandwidth::new(1_500_000);
        assert_eq!(bandwidth.estimate(), 1_500_000);
        bandwidth.add(125_000, Duration::from_secs(1));
        assert!(bandwidth.estimate().abs_diff(1_000_000) < 10, "{}", bandwidth.estimate());
    }

    #[test]
    fn one_slow_body_tells_of_a_narrow_line_and_a_fast_one_of_nothing() {
        let mut bandwidth = Bandwidth::new(1_500_000);
        for _ in 0..100 {
            bandwidth.add(250_000, Duration::from_millis(2));
        }
        assert!(bandwidth.estimate() > 30_000_000, "{}", bandwidth.estimate());
        bandwidth.add(250_000, Duration::from_secs(4));
        let narrow = bandwidth.estimate();
        assert!(narrow < 20_000_000, "{narrow}");
        bandwidth.add(250_000, Duration::from_secs(4));
        bandwidth.add(250_000, Duration::from_millis(2));
        assert!(bandwidth.estimate() < narrow, "{} after {narrow}", bandwidth.estimate());
    }
}
