//! Durations that go into every playlist.

use std::time::Duration;

use media::Timescale;

use super::{PackagerConfig, SECOND};
use crate::assembler::PART_TARGET_PERCENT;
use crate::playlist::Targets;

/// Durations that all playlists share, before PART-TARGET is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct SharedTargets {
    pub(super) part_target: Duration,
    part_hold_back: Duration,
    pub(super) target_duration: i64,
    window_nanos: i64,
    is_fixed: bool,
}

impl SharedTargets {
    pub(super) fn new(config: &PackagerConfig) -> Self {
        let target_duration = config.target_duration();
        let window = i64::try_from(config.window.as_nanos()).unwrap_or(i64::MAX);
        Self {
            part_target: config.part_target,
            part_hold_back: config.part_hold_back.max(config.part_target * 345 / 100),
            target_duration,
            window_nanos: window.max(8 * target_duration * SECOND),
            is_fixed: false,
        }
    }

    /// Pictures are declared to be so far apart. Where that is more than a part, sound comes before the first of their parts, and
    /// must not decide for both.
    pub(super) fn expect(&mut self, frame: Duration) {
        if !self.is_fixed && frame > self.part_target {
            let part =
                (frame * PART_TARGET_PERCENT / 100).min(Duration::from_secs(self.target_duration.unsigned_abs()));
            self.hold_back(part);
        }
    }

    /// spec: rfc8216bis §4.4.3.8 (LL-11)
    fn hold_back(&mut self, part_target: Duration) {
        self.part_hold_back = self.part_hold_back.max(3 * part_target + Duration::from_micros(20));
    }

    /// The durations of a playlist whose PART-TARGET has become known. The first playlist fixes PART-HOLD-BACK for all:
    /// at least three times its PART-TARGET. Later ones keep theirs below a third of it.
    /// spec: rfc8216bis §4.4.3.7 (LL-09), §4.4.3.8 (LL-11)
    pub(super) fn fix(&mut self, part_target: i64, scale: Timescale) -> Targets {
        let mut part_target = scale.duration(part_target).min(Duration::from_secs(self.target_duration.unsigned_abs()));
        if self.is_fixed {
            part_target = part_target.min(self.part_hold_back / 3);
        } else {
            self.hold_back(part_target);
            self.is_fixed = true;
        }
        Targets {
            target_duration: self.target_duration,
            part_target: i64::try_from(part_target.as_nanos()).unwrap_or(i64::MAX),
            part_hold_back_nanos: i64::try_from(self.part_hold_back.as_nanos()).unwrap_or(i64::MAX),
            window_nanos: self.window_nanos,
        }
    }
}
