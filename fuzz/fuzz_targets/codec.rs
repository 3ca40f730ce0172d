//! Configuration records and access units of every codec: never a panic; what is accepted makes an initialization segment.
#![no_main]
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use media::{CodecConfig, VideoCodec};

fuzz_target!(|data: &[u8]| {
    let Some((split, rest)) = data.split_first() else { return };
    let at = usize::from(*split).min(rest.len());
    let (record, unit) = (Bytes::copy_from_slice(&rest[..at]), Bytes::copy_from_slice(&rest[at..]));
    for codec in [VideoCodec::Avc, VideoCodec::Hevc, VideoCodec::Av1, VideoCodec::Vp9] {
        if let Ok(mut stream) = codec::VideoStream::new(codec, &record) {
            let read = stream.unit(&unit, true);
            if let Some(config) = stream.config() {
                if let Some(captured) = read.ok().and_then(|unit| codec::CaptureReader::new(config).read(&unit.payload)) {
                    let _ = captured.utc_nanos(1 << 60);
                }
                container::fmp4::init_segment(&CodecConfig::Video(config.clone()));
            }
        }
    }
    if let Ok(config) = codec::aac::parse_config(&record) {
        codec::aac::silent_frame(&config);
        container::fmp4::init_segment(&CodecConfig::Audio(config));
    }
    if let Ok(config) = codec::opus::parse_head(&record) {
        container::fmp4::init_segment(&CodecConfig::Audio(config));
    }
    let _ = codec::opus::packet_samples(&unit);
});
