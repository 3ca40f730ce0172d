//! Transport streams and what is in them: never a panic, and the same events however the bytes are cut.
#![no_main]
use bytes::Bytes;
use codec::adts::AdtsReader;
use codec::latm::LatmReader;
use container::mpegts::{Demuxer, DemuxerConfig, Event};
use libfuzzer_sys::fuzz_target;
use media::VideoCodec;

fn events(data: &[u8], step: usize) -> Vec<Event> {
    let mut demuxer = Demuxer::new(DemuxerConfig::default());
    let mut events = Vec::new();
    for piece in data.chunks(step.max(1)) {
        demuxer.push(piece);
        events.extend(std::iter::from_fn(|| demuxer.poll()));
    }
    demuxer.finish();
    events.extend(std::iter::from_fn(|| demuxer.poll()));
    events
}

fuzz_target!(|data: &[u8]| {
    let Some((step, data)) = data.split_first() else { return };
    let step = usize::from(*step);
    let whole = events(data, data.len());
    assert_eq!(whole, events(data, step));
    let payloads = whole.iter().filter_map(|event| if let Event::Unit(unit) = event { Some(&unit.payload) } else { None });
    let (mut adts, mut latm) = (AdtsReader::default(), LatmReader::default());
    for payload in payloads.cloned().chain([Bytes::copy_from_slice(data)]) {
        adts.push(&payload);
        while let Ok(Some(_)) = adts.next() {}
        latm.push(&payload);
        while let Ok(Some(_)) = latm.next() {}
        let _ = codec::opus::ts_packets(&payload);
        for codec in [VideoCodec::Avc, VideoCodec::Hevc] {
            let is_key = codec::annexb::has_parameter_sets(codec, &payload);
            let lengths = codec::annexb::to_lengths(&payload);
            let mut stream = codec::VideoStream::in_band(codec);
            if let Ok(unit) = stream.unit(&lengths, is_key)
                && let Some(config) = stream.config()
            {
                let _ = codec::annexb::to_start_codes(config, &unit.payload, unit.is_random_access);
            }
        }
    }
});
