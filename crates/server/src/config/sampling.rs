//! `[sampling]`: whether the legs are looked at and listened to.

use std::time::Duration;

use gateway::SamplingSettings;
use serde::{Deserialize, Serialize};

use super::{ConfigError, SlateTable, range};

/// `[sampling]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingTable {
    /// Whether FFmpeg decodes a keyframe and the sound of each leg now and then.
    pub enabled: bool,
    /// Between two looks at a leg, 1–60.
    pub interval_seconds: u64,
    /// So long a picture may be black, 0–3,600; 0 does not look for it.
    pub black_seconds: u64,
    /// So long a picture may stand still, likewise.
    pub frozen_seconds: u64,
    /// So long the sound may be silent, likewise.
    pub silent_seconds: u64,
}

impl Default for SamplingTable {
    fn default() -> Self {
        Self { enabled: false, interval_seconds: 2, black_seconds: 4, frozen_seconds: 20, silent_seconds: 10 }
    }
}

impl SamplingTable {
    /// What the gateway needs; nothing where nobody looks. FFmpeg is the one that makes slates.
    pub(super) fn settings(&self, slate: &SlateTable) -> Result<Option<SamplingSettings>, ConfigError> {
        let limit = |key, seconds| {
            let seconds = range(key, seconds, 0, 3600)?;
            Ok(Some(Duration::from_secs(seconds)).filter(|limit| !limit.is_zero()))
        };
        let settings = SamplingSettings {
            ffmpeg: slate.ffmpeg.clone(),
            interval: Duration::from_secs(range("sampling.interval_seconds", self.interval_seconds, 1, 60)?),
            black: limit("sampling.black_seconds", self.black_seconds)?,
            frozen: limit("sampling.frozen_seconds", self.frozen_seconds)?,
            silent: limit("sampling.silent_seconds", self.silent_seconds)?,
        };
        Ok(Some(settings).filter(|_| self.enabled))
    }
}
