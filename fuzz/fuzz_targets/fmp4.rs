//! Whatever a server sends as fragmented MP4 is read or refused; nothing panics.
#![no_main]
use container::fmp4::read::{read_fragments, read_init};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let tracks = read_init(data).unwrap_or_default();
    if let Ok(runs) = read_fragments(&tracks, data) {
        assert!(!runs.is_empty());
        for run in &runs {
            let _ = run.duration();
            assert_eq!(run.samples.len(), run.places.len());
        }
    }
});
