//! Audio and video message bodies: never a panic, and no slice that lies outside.
#![no_main]
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    let _ = container::flv::parse_video(&body, |_| {});
    let _ = container::flv::parse_audio(&body, |_| {});
});
