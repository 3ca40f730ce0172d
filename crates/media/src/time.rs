//! Media time: integer ticks of a track's timescale, never a float.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Ticks per second of one track: `timescale` in ISO/IEC 14496-12 §8.4.2, clock rate in RTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timescale(NonZeroU32);

impl Timescale {
    /// The scale of every video track: the smallest one in which a frame of 23.976, 24, 25, 29.97, 30, 48, 50,
    /// 59.94, 60, 119.88, 120, 144 and 240 Hz, a millisecond and a tick of the 90 kHz clock are all whole.
    pub const VIDEO: Self = Self(NonZeroU32::new(360_000).expect("not zero"));

    /// A timescale of `hz` ticks per second; `None` for 0.
    pub fn new(hz: u32) -> Option<Self> {
        NonZeroU32::new(hz).map(Self)
    }

    /// Ticks per second.
    pub fn hz(self) -> u32 {
        self.0.get()
    }

    /// The wall duration of `ticks`, to the nanosecond below; negative spans count as zero.
    pub fn duration(self, ticks: i64) -> Duration {
        let nanos = i128::from(ticks.max(0)) * 1_000_000_000 / i128::from(self.hz());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The whole number of ticks in `duration`, rounded to the nearest.
    pub fn ticks(self, duration: Duration) -> i64 {
        self.ticks_from_nanos(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }

    /// Ticks for a signed number of nanoseconds, rounded to the nearest.
    pub fn ticks_from_nanos(self, nanos: i64) -> i64 {
        narrow((i128::from(nanos) * i128::from(self.hz()) + 500_000_000).div_euclid(1_000_000_000))
    }

    /// Nanoseconds for a signed number of ticks, rounded down.
    pub fn nanos(self, ticks: i64) -> i64 {
        narrow((i128::from(ticks) * 1_000_000_000).div_euclid(i128::from(self.hz())))
    }

    /// Converts `ticks` of this scale into ticks of `to`, rounded to the nearest.
    pub fn rescale(self, ticks: i64, to: Self) -> i64 {
        if self == to {
            return ticks;
        }
        let scaled = i128::from(ticks) * i128::from(to.hz());
        narrow((scaled + i128::from(self.hz() / 2)).div_euclid(i128::from(self.hz())))
    }
}

fn narrow(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Decode time in ticks of the owning track's [`Timescale`]; orders access units in a track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dts(pub i64);

/// Presentation time in ticks of the owning track's [`Timescale`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pts(pub i64);

/// PTS − DTS in ticks of the owning track's [`Timescale`]: ISO/IEC 14496-12 §8.6.1.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CompositionOffset(pub i64);

impl Add<i64> for Dts {
    type Output = Self;
    fn add(self, ticks: i64) -> Self {
        Self(self.0.saturating_add(ticks))
    }
}

impl Add<i64> for Pts {
    type Output = Self;
    fn add(self, ticks: i64) -> Self {
        Self(self.0.saturating_add(ticks))
    }
}

impl Add<CompositionOffset> for Dts {
    type Output = Pts;
    fn add(self, offset: CompositionOffset) -> Pts {
        Pts(self.0.saturating_add(offset.0))
    }
}

impl Sub for Dts {
    type Output = i64;
    fn sub(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Sub for Pts {
    type Output = i64;
    fn sub(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Sub<Dts> for Pts {
    type Output = CompositionOffset;
    fn sub(self, dts: Dts) -> CompositionOffset {
        CompositionOffset(self.0.saturating_sub(dts.0))
    }
}

/// Frames per second as a fraction, for example 30000/1001.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameRate {
    numerator: NonZeroU32,
    denominator: NonZeroU32,
}

const fn rate(numerator: u32, denominator: u32) -> FrameRate {
    let (Some(numerator), Some(denominator)) = (NonZeroU32::new(numerator), NonZeroU32::new(denominator)) else {
        panic!("not zero")
    };
    FrameRate { numerator, denominator }
}

impl FrameRate {
    /// The rates that cameras and encoders use.
    pub const COMMON: [Self; 18] = [
        rate(24_000, 1001),
        rate(24, 1),
        rate(25, 1),
        rate(30_000, 1001),
        rate(30, 1),
        rate(50, 1),
        rate(60_000, 1001),
        rate(60, 1),
        rate(48, 1),
        rate(120_000, 1001),
        rate(120, 1),
        rate(100, 1),
        rate(15, 1),
        rate(15_000, 1001),
        rate(20, 1),
        rate(12, 1),
        rate(10, 1),
        rate(5, 1),
    ];

    /// `numerator / denominator` frames per second; `None` if either is 0.
    pub fn new(numerator: u32, denominator: u32) -> Option<Self> {
        Some(Self { numerator: NonZeroU32::new(numerator)?, denominator: NonZeroU32::new(denominator)? })
    }

    /// Pictures in [`FrameRate::denominator`] seconds.
    pub fn numerator(self) -> u32 {
        self.numerator.get()
    }

    /// Seconds in which there are [`FrameRate::numerator`] pictures.
    pub fn denominator(self) -> u32 {
        self.denominator.get()
    }

    /// The rate whose frame lasts `ticks` of `scale`; `None` unless positive and in range.
    pub fn from_frame_duration(ticks: i64, scale: Timescale) -> Option<Self> {
        Self::new(scale.hz(), u32::try_from(ticks).ok()?)
    }

    /// Length of one frame in ticks of `scale`, rounded to the nearest, at least 1.
    pub fn frame_duration(self, scale: Timescale) -> i64 {
        let numerator = u64::from(self.numerator.get());
        let ticks = (u64::from(scale.hz()) * u64::from(self.denominator.get()) + numerator / 2) / numerator;
        i64::try_from(ticks).unwrap_or(i64::MAX).max(1)
    }

    /// Frames per 1,000 seconds, rounded to the nearest: 29,970 for 30000/1001.
    pub fn millihertz(self) -> u64 {
        let denominator = u64::from(self.denominator.get());
        (u64::from(self.numerator.get()) * 1000 + denominator / 2) / denominator
    }
}

impl fmt::Display for FrameRate {
    /// Three decimals, as `FRAME-RATE` in rfc8216bis §4.4.6.2 wants it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millihertz = self.millihertz();
        write!(f, "{}.{:03}", millihertz / 1000, millihertz % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_frame_rates_are_whole_in_the_video_timescale() {
        for (numerator, denominator, ticks) in [
            (24_000, 1001, 15_015),
            (24, 1, 15_000),
            (25, 1, 14_400),
            (30_000, 1001, 12_012),
            (60_000, 1001, 6006),
            (240, 1, 1500),
        ] {
            let rate = FrameRate::new(numerator, denominator).expect("not zero");
            assert_eq!(rate.frame_duration(Timescale::VIDEO), ticks);
            assert_eq!(ticks * i64::from(numerator), i64::from(denominator) * 360_000, "exact, not rounded");
        }
    }

    #[test]
    fn frame_rate_prints_three_decimals() {
        assert_eq!(FrameRate::new(30_000, 1001).expect("not zero").to_string(), "29.970");
        assert_eq!(FrameRate::new(60, 1).expect("not zero").to_string(), "60.000");
    }

    #[test]
    fn rescale_rounds_to_the_nearest_also_below_zero() {
        let audio = Timescale::new(44_100).expect("not zero");
        assert_eq!(Timescale::VIDEO.rescale(360_000, audio), 44_100);
        assert_eq!(Timescale::VIDEO.rescale(-360_000, audio), -44_100);
        assert_eq!(audio.rescale(1024, Timescale::VIDEO), 8359);
        assert_eq!(audio.duration(44_100), Duration::from_secs(1));
        assert_eq!(Timescale::VIDEO.ticks(Duration::from_millis(1)), 360);
    }
}
