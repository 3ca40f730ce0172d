//! Recordings of ffmpeg against what ffprobe says of them, planted faults, and the way through both directions.

mod expected;
mod faults;
mod pes;
mod tables;

use bytes::{Bytes, BytesMut};
use codec::{VideoStream, adts::AdtsReader, annexb, latm::LatmReader, opus, parameter_sets};
use media::VideoCodec;

use super::*;

const H264_AAC: &[u8] = include_bytes!("data/h264_aac.ts");
const H265_OPUS: &[u8] = include_bytes!("data/h265_opus.ts");
const LATM: &[u8] = include_bytes!("data/latm.ts");
const WRAP: &[u8] = include_bytes!("data/wrap.ts");
const PROGRAMS: &[u8] = include_bytes!("data/programs.ts");
const M2TS: &[u8] = include_bytes!("data/m2ts.m2ts");
const ALL: [&[u8]; 6] = [H264_AAC, H265_OPUS, LATM, WRAP, PROGRAMS, M2TS];

fn demux_in_pieces(config: DemuxerConfig, stream: &[u8], size: usize) -> (Vec<Event>, Health) {
    let mut demuxer = Demuxer::new(config);
    let mut events = Vec::new();
    for piece in stream.chunks(size) {
        demuxer.push(piece);
        events.extend(std::iter::from_fn(|| demuxer.poll()));
    }
    demuxer.finish();
    events.extend(std::iter::from_fn(|| demuxer.poll()));
    (events, *demuxer.health())
}

fn demux(stream: &[u8]) -> (Vec<Event>, Health) {
    demux_in_pieces(DemuxerConfig::default(), stream, stream.len().max(1))
}

fn units(events: &[Event], pid: u16) -> Vec<PesUnit> {
    let of_pid = |event: &Event| match event {
        Event::Unit(unit) if unit.pid == pid => Some(unit.clone()),
        _ => None,
    };
    events.iter().filter_map(of_pid).collect()
}

fn kinds(events: &[Event]) -> Vec<(u16, Vec<(u16, StreamKind)>)> {
    let of_program = |event: &Event| match event {
        Event::Program { number, streams } => {
            Some((*number, streams.iter().map(|stream| (stream.pid, stream.kind)).collect()))
        }
        _ => None,
    };
    events.iter().filter_map(of_program).collect()
}

/// Times and sizes as ffprobe gives them: one unit is one packet.
fn packets(events: &[Event], pid: u16) -> Vec<(i64, i64, usize)> {
    let row = |unit: PesUnit| (unit.pts.expect("has one"), unit.dts.expect("has one"), unit.payload.len());
    units(events, pid).into_iter().map(row).collect()
}

/// Sizes of the frames in the units, and the time of the first frame of each unit in its place.
fn frame_rows(
    units: &[PesUnit],
    overhead: usize,
    mut read: impl FnMut(&PesUnit) -> (bool, Vec<Bytes>),
) -> Vec<(Option<i64>, usize)> {
    let mut rows = Vec::new();
    for unit in units {
        let (is_continued, frames) = read(unit);
        for (index, frame) in frames.iter().enumerate() {
            rows.push((unit.pts.filter(|_| index == 0 && !is_continued), frame.len() + overhead));
        }
    }
    rows
}

fn assert_frames(rows: &[(Option<i64>, usize)], expected: &[(i64, i64, usize)]) {
    assert_eq!(rows.iter().map(|row| row.1).collect::<Vec<_>>(), expected.iter().map(|row| row.2).collect::<Vec<_>>());
    for (row, expected) in rows.iter().zip(expected) {
        assert!(row.0.is_none_or(|pts| pts == expected.0), "{row:?} {expected:?}");
    }
    assert!(rows.iter().any(|row| row.0.is_some()));
}

#[test]
fn h264_and_aac_are_what_ffprobe_says() {
    let (events, health) = demux(H264_AAC);

    assert_eq!(kinds(&events), [(1, vec![(0x100, StreamKind::H264), (0x101, StreamKind::AacAdts)])]);
    let Event::Program { streams, .. } = &events[0] else { panic!("the map comes first") };
    assert_eq!(streams[1].language, Some(*b"deu"));
    assert_eq!(packets(&events, 0x100), expected::H264);
    let random_access = units(&events, 0x100).iter().map(|unit| unit.is_random_access).collect::<Vec<_>>();
    assert_eq!(random_access, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|index| index % 5 == 0));
    let mut reader = AdtsReader::default();
    let rows = frame_rows(&units(&events, 0x101), 7, |unit| {
        let is_continued = reader.is_mid_frame();
        reader.push(&unit.payload);
        let frames = std::iter::from_fn(|| reader.next().expect("carried"));
        let frames = frames.map(|(config, raw)| (assert_eq!(config.timescale.hz(), 48_000), raw).1);
        (is_continued, frames.collect())
    });
    assert_frames(&rows, &expected::AAC);
    let counted = Health { packets: health.packets, ..Health::default() };
    assert_eq!(health, counted, "nothing is wrong with it");
    assert_eq!(health.packets, 45);
}

#[test]
fn h265_and_opus_are_what_ffprobe_says() {
    let (events, _) = demux(H265_OPUS);

    let streams = vec![(0x100, StreamKind::H265), (0x101, StreamKind::Opus { channels: 1 })];
    assert_eq!(kinds(&events), [(1, streams)]);
    // ffprobe's parser leaves the zero before a start code with the picture before it, at both ends of the recording.
    let mut packets = packets(&events, 0x100);
    packets[0].2 += 1;
    packets[11].2 -= 1;
    assert_eq!(packets, expected::H265);
    let rows =
        frame_rows(&units(&events, 0x101), 0, |unit| (false, opus::ts_packets(&unit.payload).expect("valid headers")));
    assert_frames(&rows, &expected::OPUS);
}

#[test]
fn latm_is_what_ffprobe_says() {
    let (events, _) = demux(LATM);

    assert_eq!(kinds(&events), [(1, vec![(0x100, StreamKind::AacLatm)])]);
    let mut reader = LatmReader::default();
    let frames: Vec<_> = units(&events, 0x100)
        .iter()
        .flat_map(|unit| {
            reader.push(&unit.payload);
            std::iter::from_fn(|| reader.next().expect("carried")).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(frames.len(), expected::LATM.len());
    assert!(frames.iter().all(|(config, _)| (config.timescale.hz(), config.channels) == (48_000, 1)));
    // LOAS header, mux bits and payload length stand before each frame; the configuration before some.
    let overhead = frames.iter().zip(&expected::LATM).map(|((_, raw), row)| row.2 - raw.len()).collect::<Vec<_>>();
    assert!(overhead.iter().all(|bytes| (5..16).contains(bytes)), "{overhead:?}");
}

#[test]
fn the_same_sound_comes_out_of_latm_and_adts() {
    let mut adts = AdtsReader::default();
    let mut latm = LatmReader::default();
    units(&demux(H264_AAC).0, 0x101).iter().for_each(|unit| adts.push(&unit.payload));
    units(&demux(LATM).0, 0x100).iter().for_each(|unit| latm.push(&unit.payload));
    while let Some((config, frame)) = latm.next().expect("carried") {
        let (other_config, other) = adts.next().expect("carried").expect("as many");
        assert_eq!((config.codec_string, frame), (other_config.codec_string, other));
    }
}

#[test]
fn timestamps_go_on_where_33_bits_end() {
    let (events, _) = demux(WRAP);

    assert_eq!(packets(&events, 0x100), expected::WRAP_VIDEO);
    let starts: Vec<_> = units(&events, 0x101).iter().map(|unit| unit.pts.expect("has one")).collect();
    assert!(starts.iter().all(|pts| expected::WRAP_AUDIO.iter().any(|row| row.0 == *pts)), "{starts:?}");
    assert!(expected::WRAP_VIDEO[0].0 < 1 << 33 && expected::WRAP_VIDEO[9].0 > 1 << 33, "the recording wraps");
}

#[test]
fn the_first_program_that_can_be_carried_is_taken_or_the_one_that_is_named() {
    let taken = |program| {
        let (events, _) = demux_in_pieces(DemuxerConfig { program }, PROGRAMS, 1316);
        (kinds(&events), packets(&events, 0x100), packets(&events, 0x101))
    };
    let nine = vec![(9, vec![(0x100, StreamKind::H264), (0x102, StreamKind::AacAdts)])];
    assert_eq!(taken(None), (nine.clone(), expected::PROGRAM_9_VIDEO.to_vec(), vec![]));
    assert_eq!(taken(Some(9)).0, nine);
    let (programs, _, sound) = taken(Some(7));
    assert_eq!(programs, [(7, vec![(0x101, StreamKind::Ac3)])]);
    assert_eq!(sound.iter().map(|row| row.2).sum::<usize>(), expected::PROGRAM_7_AC3.iter().map(|row| row.2).sum());
    assert_eq!(taken(Some(8)), (vec![], vec![], vec![]));
}

#[test]
fn packets_of_192_and_204_bytes_are_found() {
    let (events, health) = demux(M2TS);
    assert_eq!(kinds(&events), [(1, vec![(0x1011, StreamKind::H264), (0x1100, StreamKind::Ac3)])]);
    assert_eq!(packets(&events, 0x1011), expected::M2TS_VIDEO);
    assert!(units(&events, 0x1100).iter().all(|unit| expected::M2TS_AUDIO.iter().any(|row| Some(row.0) == unit.pts)));
    assert_eq!((health.sync_loss, health.packets), (0, M2TS.len() as u64 / 192));

    let with_parity: Vec<u8> = H264_AAC.chunks(188).flat_map(|packet| [packet, &[0x47; 16]].concat()).collect();
    assert_eq!(demux(&with_parity), demux(H264_AAC));
}

#[test]
fn any_split_gives_the_same_events() {
    for stream in ALL {
        // Garbage in front and inside, so that the search is split too.
        let stream = [&b"\x47garbage"[..], &stream[..1880], b"\x47noise", &stream[1880..]].concat();
        let whole = demux(&stream);
        for size in 1..400 {
            assert!(demux_in_pieces(DemuxerConfig::default(), &stream, size) == whole, "pieces of {size}");
        }
    }
}

/// A linear congruential generator: the same faults each time.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).expect("31 bits")
}

#[test]
fn damaged_streams_never_panic_and_split_alike() {
    let mut state = 1;
    for round in 0..600 {
        let mut stream = ALL[round % ALL.len()].to_vec();
        for _ in 0..=random(&mut state) % 40 {
            let at = random(&mut state) % stream.len();
            stream[at] = u8::try_from(random(&mut state) & 0xff).expect("masked");
        }
        stream.truncate(random(&mut state) % stream.len());
        let whole = demux(&stream);
        let pieces = demux_in_pieces(DemuxerConfig::default(), &stream, 1 + random(&mut state) % 1000);
        assert!(whole == pieces, "round {round}");
        for event in whole.0 {
            if let Event::Unit(unit) = event {
                annexb::access_units(&unit.payload, VideoCodec::Avc);
                let _ = opus::ts_packets(&unit.payload);
            }
        }
    }
}

/// Stream, presentation and decode time, payload.
type Written = (usize, u64, u64, Vec<u8>);

/// Video of 25 pictures a second with a random access point each 10, and two Opus packets in each interval.
fn muxed(pictures: u64) -> (BytesMut, Vec<Written>) {
    let mut muxer = Muxer::new(&[StreamKind::H264, StreamKind::Opus { channels: 2 }]);
    let (mut out, mut written) = (BytesMut::new(), Vec::new());
    let base = (1 << 33) - 30_000;
    for index in 0..pictures {
        let dts = base + index * 3600;
        let size = if index % 10 == 0 { 70_000 } else { usize::try_from(index * 37 % 801 + 1).expect("small") };
        let mut sizes = vec![(0, dts + 7200, dts, size)];
        sizes.extend((0..2).map(|half| (1, dts + half * 1800, dts + half * 1800, 150 + size % 300)));
        for (stream, pts, dts, size) in sizes {
            let payload: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).expect("below")).collect();
            let slices = [&payload[..size / 3], &[], &payload[size / 3..]];
            muxer.write(stream, pts, dts, stream == 0 && index % 10 == 0, slices, &mut out);
            written.push((stream, pts, dts, payload));
        }
    }
    (out, written)
}

#[test]
fn what_is_muxed_comes_back() {
    let (stream, written) = muxed(60);
    let (events, health) = demux(&stream);

    let streams = vec![(0x100, StreamKind::H264), (0x101, StreamKind::Opus { channels: 2 })];
    assert_eq!(kinds(&events), [(1, streams)]);
    for (index, pid) in [0x100, 0x101].into_iter().enumerate() {
        let expected: Vec<_> = written.iter().filter(|unit| unit.0 == index).collect();
        let units = units(&events, pid);
        assert_eq!(units.len(), expected.len());
        for (place, (unit, expected)) in units.iter().zip(expected).enumerate() {
            let times = [expected.1, expected.2].map(|time| Some(time.cast_signed()));
            assert_eq!([unit.pts, unit.dts], times);
            assert!(unit.payload == expected.3 && !unit.after_loss && !unit.is_damaged);
            assert_eq!(unit.is_random_access, index == 0 && place % 10 == 0);
        }
    }
    let counted = Health { packets: health.packets, ..Health::default() };
    assert_eq!(health, counted, "tables and clock references come often enough");
}

/// Through the codec crate into the canonical form and back into a transport stream.
fn remux(stream: &[u8], codec: VideoCodec, kind: StreamKind) -> (BytesMut, Vec<(i64, i64, Vec<Bytes>)>) {
    let mut muxer = Muxer::new(&[kind]);
    let mut video = VideoStream::in_band(codec);
    let (mut out, mut units) = (BytesMut::new(), Vec::new());
    for unit in self::units(&demux(stream).0, 0x100) {
        let lengths = annexb::access_units(&unit.payload, codec);
        let [lengths] = lengths.as_slice() else { panic!("one access unit a packet") };
        let canonical = video.unit(lengths, unit.is_random_access).expect("valid");
        let config = video.config().expect("the first unit has the parameter sets");
        let sets = if canonical.is_random_access { parameter_sets(config).expect("valid") } else { vec![] };
        let mut bytes = BytesMut::new();
        annexb::write(codec, &sets, &canonical.payload, &mut bytes).expect("canonical");
        let (pts, dts) = (unit.pts.expect("has one"), unit.dts.expect("has one"));
        let is_random_access = canonical.is_random_access;
        muxer.write(0, pts.cast_unsigned(), dts.cast_unsigned(), is_random_access, [&bytes[..]], &mut out);
        // Without delimiters, which may say another picture type.
        let nals = annexb::nal_units(&unit.payload).skip(1).map(Bytes::copy_from_slice).collect();
        units.push((pts, dts, nals));
    }
    (out, units)
}

#[test]
fn recordings_come_back_from_the_canonical_form() {
    for (stream, codec, kind) in
        [(H264_AAC, VideoCodec::Avc, StreamKind::H264), (WRAP, VideoCodec::Avc, StreamKind::H264)]
    {
        let (stream, expected) = remux(stream, codec, kind);
        let units: Vec<_> = units(&demux(&stream).0, 0x100)
            .into_iter()
            .map(|unit| {
                let nals: Vec<_> = annexb::nal_units(&unit.payload).skip(1).map(Bytes::copy_from_slice).collect();
                (unit.pts.expect("has one"), unit.dts.expect("has one"), nals)
            })
            .collect();
        assert!(units == expected);
    }
    let (stream, expected) = remux(H265_OPUS, VideoCodec::Hevc, StreamKind::H265);
    assert_eq!(units(&demux(&stream).0, 0x100).len(), expected.len());
}

#[test]
fn a_slow_stream_has_clock_references_between_its_units() {
    let mut muxer = Muxer::new(&[StreamKind::AacAdts]);
    let mut out = BytesMut::new();
    for index in 0..10 {
        muxer.write(0, index * 27_000, index * 27_000, true, [&b"frame"[..]], &mut out);
    }
    let (events, health) = demux(&out);
    assert_eq!(units(&events, 0x100).len(), 10);
    assert_eq!(health, Health { packets: health.packets, ..Health::default() });
}

#[test]
fn a_unit_with_a_length_comes_out_with_its_last_packet() {
    let mut muxer = Muxer::new(&[StreamKind::H264]);
    let mut out = BytesMut::new();
    let mut demuxer = Demuxer::new(DemuxerConfig::default());
    for index in 0..3 {
        muxer.write(0, index * 3600, index * 3600, true, [&[7; 1000][..]], &mut out);
        demuxer.push(&out.split());
        let count = std::iter::from_fn(|| demuxer.poll()).filter(|event| matches!(event, Event::Unit(_))).count();
        assert_eq!(count, 1);
    }
}

#[test]
fn klv_comes_with_its_own_event() {
    let mut muxer = Muxer::new(&[StreamKind::AacAdts, StreamKind::Klv]);
    let mut out = BytesMut::new();
    muxer.write(0, 0, 0, true, [&b"frame"[..]], &mut out);
    muxer.write(1, 900, 900, true, [&b"\x06\x0e\x2b\x34"[..]], &mut out);
    let (events, _) = demux(&out);
    let payload = Bytes::from_static(b"\x06\x0e\x2b\x34");
    assert!(events.contains(&Event::Klv { pid: 0x101, pts: Some(900), payload }));
}

#[test]
fn a_unit_beyond_its_bound_is_dropped_and_counted() {
    let mut muxer = Muxer::new(&[StreamKind::H264]);
    let mut out = BytesMut::new();
    let huge = vec![1; PES_BYTES_MAX + 1];
    muxer.write(0, 0, 0, true, [&huge[..]], &mut out);
    muxer.write(0, 3600, 3600, true, [&huge[1..]], &mut out);
    muxer.write(0, 7200, 7200, true, [&b"small"[..]], &mut out);
    let (events, health) = demux(&out);
    let sizes: Vec<_> = units(&events, 0x100).iter().map(|unit| (unit.payload.len(), unit.after_loss)).collect();
    assert_eq!(sizes, [(PES_BYTES_MAX, true), (5, false)]);
    assert_eq!(health.oversized_units, 1);
}

#[test]
fn open_units_of_all_streams_together_are_bounded() {
    let kinds = [StreamKind::H264; 5];
    let mut muxer = Muxer::new(&kinds);
    let mut out = BytesMut::new();
    let mut demuxer = Demuxer::new(DemuxerConfig::default());
    let large = vec![1; OPEN_BYTES_MAX / 5 + 10_000];
    for stream in 0..kinds.len() {
        muxer.write(stream, 0, 0, true, [&large[..]], &mut out);
        demuxer.push(&out.split());
    }
    demuxer.finish();
    assert_eq!(demuxer.health().oversized_units, 1);
    assert_eq!(std::iter::from_fn(|| demuxer.poll()).filter(|event| matches!(event, Event::Unit(_))).count(), 4);
}
