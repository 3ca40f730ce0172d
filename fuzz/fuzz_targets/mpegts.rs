//! A transport stream in two splits gives the same events; what lies in its units is read or refused; nothing panics.
#![no_main]
use bytes::{Bytes, BytesMut};
use codec::{VideoStream, adts::AdtsReader, annexb, latm::LatmReader, opus};
use container::mpegts::{Demuxer, DemuxerConfig, Event, Health, Muxer, StreamKind};
use libfuzzer_sys::fuzz_target;
use media::VideoCodec;

fn demux(data: &[u8], piece: usize) -> (Vec<Event>, Health) {
    let mut demuxer = Demuxer::new(DemuxerConfig::default());
    let mut events = Vec::new();
    for piece in data.chunks(piece) {
        demuxer.push(piece);
        events.extend(std::iter::from_fn(|| demuxer.poll()));
    }
    demuxer.finish();
    events.extend(std::iter::from_fn(|| demuxer.poll()));
    (events, *demuxer.health())
}

fn video(codec: VideoCodec, payload: &Bytes) {
    let mut stream = VideoStream::in_band(codec);
    let units = annexb::access_units(payload, codec);
    let content: usize = units.iter().map(Bytes::len).sum();
    let nals = annexb::nal_units(payload).map(|nal| 4 + nal.len()).sum::<usize>();
    assert_eq!(content, nals, "splitting loses nothing");
    for lengths in units {
        let mut bytes = BytesMut::new();
        annexb::write(codec, &[], &lengths.clone().into(), &mut bytes).expect("made of whole NAL units");
        let back = annexb::nal_units(&bytes).skip(1).map(|nal| 4 + nal.len()).sum::<usize>();
        assert!(back <= lengths.len(), "nothing is added");
        let _ = stream.unit(&lengths, false);
        if let Some(config) = stream.config() {
            codec::parameter_sets(config).expect("a record of our own");
        }
    }
}

fn audio(payload: &Bytes) {
    let (mut adts, mut latm) = (AdtsReader::default(), LatmReader::default());
    for piece in payload.chunks(payload.len() / 3 + 1) {
        adts.push(piece);
        while !matches!(adts.next(), Ok(None)) {}
        latm.push(piece);
        while !matches!(latm.next(), Ok(None)) {}
    }
    for packet in opus::ts_packets(payload).into_iter().flatten() {
        let framed = Bytes::from([opus::ts_header(packet.len()), packet.clone()].concat());
        assert_eq!(opus::ts_packets(&framed), Ok(vec![packet]));
    }
}

fuzz_target!(|data: &[u8]| {
    let piece = data.first().map_or(1, |byte| usize::from(*byte) + 1);
    let (events, health) = demux(data, 1316);
    assert!((events.as_slice(), health) == (&demux(data, piece).0, demux(data, data.len().max(1)).1));
    let mut muxer = Muxer::new(&[StreamKind::H264]);
    let mut muxed = BytesMut::new();
    let payloads: Vec<Bytes> = events.into_iter().filter_map(|event| match event {
        Event::Unit(unit) => Some(unit.payload),
        _ => None,
    }).collect();
    for (payload, index) in payloads.iter().chain([&Bytes::copy_from_slice(data)]).zip(0..) {
        video(VideoCodec::Avc, payload);
        video(VideoCodec::Hevc, payload);
        audio(payload);
        muxer.write(0, index * 3600, index * 3600, true, [payload.as_ref()], &mut muxed);
    }
    let (again, _) = demux(&muxed, piece);
    assert!(again.iter().filter(|event| matches!(event, Event::Unit(_))).count() >= payloads.len());
});
