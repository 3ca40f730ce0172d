//! The timeline under any stamps: DTS strictly increases, PTS is never below DTS, nothing panics.
#![no_main]
use std::time::{Duration, Instant};

use bytes::Bytes;
use codec::VideoUnit;
use hub::{Repaired, Timeline};
use libfuzzer_sys::fuzz_target;
use media::TrackKind;

fuzz_target!(|data: &[u8]| {
    let (start, mut passed) = (Instant::now(), Duration::ZERO);
    let mut timeline = Timeline::new();
    timeline.audio_config(codec::aac::lc_config(48_000, 2).expect("in the tables"));
    let mut last = [i64::MIN; 2];
    for step in data.chunks_exact(12) {
        let stamp = i64::from_be_bytes(step[..8].try_into().expect("eight"));
        let stamp = if step[8] & 1 == 0 { stamp } else { stamp % 100_000_000_000 };
        passed += Duration::from_millis(step[9].into());
        let offset = i64::from(i16::from_be_bytes([step[10], step[11]])) * 1_000_000;
        if step[8] & 2 == 0 {
            let payload = Bytes::from_static(b"x").into();
            let unit = VideoUnit { payload, is_random_access: step[8] & 4 == 0, new_config: None };
            timeline.video(start + passed, stamp, offset, unit);
        } else {
            timeline.audio(start + passed, stamp, Bytes::from_static(b"x"));
        }
        while let Some(item) = timeline.poll() {
            if let Repaired::Unit(unit) = item {
                let track = usize::from(unit.track == TrackKind::Audio);
                assert!(unit.dts.0 > last[track] && unit.pts.0 >= unit.dts.0);
                last[track] = unit.dts.0;
            }
        }
    }
});
