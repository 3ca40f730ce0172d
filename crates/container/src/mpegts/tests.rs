//! What the muxer writes, and what happens to it on the way.

use bytes::BytesMut;

use super::*;

/// Units of a picture and a sound, as the muxer gets them: stream, PTS, DTS, whether a decoder can start, bytes.
fn units() -> Vec<(usize, i64, i64, bool, Vec<u8>)> {
    let mut units = Vec::new();
    for frame in 0..90i64 {
        let size = if frame % 30 == 0 { 70_000 } else { usize::try_from(frame).expect("small") * 13 + 1 };
        let fill = frame.to_le_bytes()[0];
        units.push((0, frame * 3000 + 3000, frame * 3000, frame % 30 == 0, vec![fill; size]));
        units.push((1, frame * 3000, frame * 3000, true, vec![fill ^ 0x55; 150 + usize::from(fill)]));
    }
    units
}

fn muxed(units: &[(usize, i64, i64, bool, Vec<u8>)]) -> Vec<u8> {
    let mut muxer = Muxer::new(&[StreamKind::H264, StreamKind::AacAdts]);
    let mut out = BytesMut::new();
    for (stream, pts, dts, is_random_access, payload) in units {
        muxer.write(*stream, *pts, *dts, *is_random_access, payload, &mut out);
    }
    assert_eq!(out.len() % PACKET_BYTES, 0);
    out.to_vec()
}

fn events(pieces: impl Iterator<Item = Vec<u8>>, config: DemuxerConfig) -> (Vec<Event>, Health) {
    let mut demuxer = Demuxer::new(config);
    let mut events = Vec::new();
    for piece in pieces {
        demuxer.push(&piece);
        events.extend(std::iter::from_fn(|| demuxer.poll()));
    }
    demuxer.finish();
    events.extend(std::iter::from_fn(|| demuxer.poll()));
    (events, *demuxer.health())
}

fn whole(bytes: &[u8]) -> (Vec<Event>, Health) {
    events(std::iter::once(bytes.to_vec()), DemuxerConfig::default())
}

fn pes(events: &[Event]) -> Vec<&PesUnit> {
    events.iter().filter_map(|event| if let Event::Unit(unit) = event { Some(unit) } else { None }).collect()
}

/// Packets of a stream, to be changed.
fn packets(stream: &[u8]) -> Vec<[u8; PACKET_BYTES]> {
    stream.chunks_exact(PACKET_BYTES).map(|packet| packet.try_into().expect("whole")).collect()
}

fn pid(packet: &[u8; PACKET_BYTES]) -> u16 {
    u16::from_be_bytes([packet[1] & 0x1f, packet[2]])
}

#[test]
fn what_is_muxed_comes_out_again() {
    let units = units();
    let (events, health) = whole(&muxed(&units));
    let Some(Event::Program { number: 1, streams }) = events.first() else { panic!("{:?}", events.first()) };
    assert_eq!(streams.iter().map(|stream| stream.kind).collect::<Vec<_>>(), [StreamKind::H264, StreamKind::AacAdts]);
    for (index, stream) in streams.iter().enumerate() {
        let sent: Vec<_> = units.iter().filter(|unit| unit.0 == index).collect();
        let came: Vec<_> = pes(&events).into_iter().filter(|unit| unit.pid == stream.pid).collect();
        assert_eq!(sent.len(), came.len());
        let shift = came[0].dts.expect("stamped");
        for (sent, came) in sent.into_iter().zip(came) {
            assert_eq!(came.payload, sent.4);
            assert_eq!(came.dts, Some(sent.2 + shift));
            assert_eq!(came.pts, Some(sent.1 + shift));
            assert_eq!(came.is_random_access, sent.3 && index == 0);
            assert!(!came.after_loss);
        }
    }
    let errors = Health { packets: 0, null_packets: 0, ..health };
    assert_eq!(errors, Health::default());
}

#[test]
fn any_cut_of_the_bytes_gives_the_same() {
    let stream = [b"noise before G".to_vec(), muxed(&units()[..24])].concat();
    let expected = whole(&stream);
    assert!(expected.0.len() > 20);
    for step in (1..420).chain([1316, 4096]) {
        let pieces = stream.chunks(step).map(<[u8]>::to_vec);
        assert_eq!(events(pieces, DemuxerConfig::default()), expected, "pieces of {step}");
    }
}

#[test]
fn packets_of_192_and_204_bytes_are_read() {
    let stream = muxed(&units());
    let (expected, _) = whole(&stream);
    let m2ts: Vec<u8> = packets(&stream).iter().flat_map(|packet| [&[1, 2, 3, 4], &packet[..]].concat()).collect();
    let coded: Vec<u8> = packets(&stream).iter().flat_map(|packet| [&packet[..], &[9; 16]].concat()).collect();
    assert_eq!(whole(&m2ts).0, expected);
    assert_eq!(whole(&coded).0, expected);
}

#[test]
fn times_go_on_over_the_wrap() {
    let wrap = 1i64 << 33;
    let units: Vec<_> = units()
        .into_iter()
        .map(|(s, pts, dts, key, bytes)| (s, pts + wrap - 150_000, dts + wrap - 150_000, key, bytes))
        .collect();
    let (events, health) = whole(&muxed(&units));
    let times: Vec<i64> = pes(&events).iter().filter(|unit| unit.pid == 0x100).filter_map(|unit| unit.dts).collect();
    assert_eq!(times.len(), 90);
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 3000), "no jump at the wrap");
    assert_eq!(health.pcr_discontinuity_indicator_error, 0);
}

#[test]
fn a_missing_packet_marks_the_units_it_touches_and_no_other() {
    let stream = muxed(&units());
    let mut packets = packets(&stream);
    let victim = packets.iter().position(|packet| pid(packet) == 0x100 && packet[1] & 0x40 == 0).expect("one");
    packets.remove(victim);
    let (events, health) = whole(&packets.concat());
    assert_eq!(health.continuity_count_error, 1);
    let marked: Vec<_> = pes(&events).into_iter().filter(|unit| unit.after_loss).collect();
    assert_eq!(marked.len(), 1);
    assert_eq!(marked[0].pid, 0x100);
}

#[test]
fn a_packet_that_comes_twice_counts_once() {
    let stream = muxed(&units());
    let doubled: Vec<u8> = packets(&stream).iter().flat_map(|packet| [*packet, *packet].concat()).collect();
    let (events, health) = whole(&doubled);
    assert_eq!(pes(&events).len(), units().len());
    assert_eq!(health.continuity_count_error, 0);
}

#[test]
fn each_counter_counts_its_fault() {
    let stream = muxed(&units());
    let clean = packets(&stream);
    let changed = |change: &dyn Fn(usize, &mut [u8; PACKET_BYTES])| {
        let mut packets = clean.clone();
        packets.iter_mut().enumerate().for_each(|(index, packet)| change(index, packet));
        whole(&packets.concat()).1
    };
    let without = |unwanted: &dyn Fn(&[u8; PACKET_BYTES]) -> bool| {
        let mut kept = clean.clone();
        let first = kept.drain(..2).collect::<Vec<_>>();
        kept.retain(|packet| !unwanted(packet));
        whole(&[first, kept].concat().concat()).1
    };
    assert_eq!(
        changed(&|index, packet| if index == 9 {
            packet[0] = 0;
        })
        .sync_byte_error,
        1
    );
    assert_eq!(
        changed(&|index, packet| if matches!(index, 9 | 10) {
            packet[0] = 0;
        })
        .sync_loss,
        1
    );
    assert_eq!(
        changed(&|index, packet| if index == 9 {
            packet[1] |= 0x80;
        })
        .transport_error,
        1
    );
    assert_eq!(
        changed(&|index, packet| if index == 0 {
            packet[9] ^= 1;
        })
        .crc_error,
        1
    );
    assert!(without(&|packet| pid(packet) == 0).pat_error >= 4);
    assert!(without(&|packet| pid(packet) == 0x1000).pmt_error >= 4);
    let scrambled = changed(&|index, packet| {
        if index > 9 && pid(packet) == 0x101 {
            packet[3] |= 0x80;
        }
    });
    assert!(scrambled.scrambled_packets > 50 && scrambled.cat_error == scrambled.scrambled_packets);
    let is_late = |packet: &[u8; PACKET_BYTES]| pid(packet) == 0x100 && packet[1] & 0x40 != 0 && packet[3] & 0x0f > 3;
    assert!(without(&is_late).pcr_repetition_error > 0);
    let no_sound = without(&|packet| pid(packet) == 0x101);
    assert_eq!((no_sound.pts_error, no_sound.pid_error), (0, 0), "three seconds without any: too short to tell");

    let mut long = Muxer::new(&[StreamKind::H264, StreamKind::AacAdts]);
    let mut out = BytesMut::new();
    for frame in 0..400i64 {
        long.write(0, frame * 3000, frame * 3000, frame % 30 == 0, b"picture", &mut out);
        if frame < 10 {
            long.write(1, frame * 3000, frame * 3000, true, b"sound", &mut out);
        }
        if frame == 300 {
            // The clock jumps two seconds and does not say so.
            long.write(0, frame * 3000 + 180_000, frame * 3000 + 180_000, false, b"picture", &mut out);
        }
    }
    let (_, health) = whole(&out);
    assert_eq!((health.pid_error, health.pts_error > 5), (2, true));
    assert_eq!(health.pcr_discontinuity_indicator_error, 2, "there and back");
}

#[test]
fn noise_and_damage_never_end_it() {
    let stream = muxed(&units());
    let mut random = 1u32;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::try_from(random >> 8).expect("small")
    };
    for _ in 0..200 {
        let mut damaged = stream.clone();
        for _ in 0..next() % 200 {
            let at = next() % damaged.len();
            damaged[at] = next().to_le_bytes()[0];
        }
        damaged.truncate(next() % stream.len());
        whole(&damaged);
    }
}

#[test]
fn the_wanted_program_is_taken() {
    let section = |table: u8, id: u16, body: &[u8]| {
        let mut section = vec![0, table, 0xb0, u8::try_from(body.len() + 9).expect("short")];
        section.extend_from_slice(&id.to_be_bytes());
        section.extend_from_slice(&[0xc1, 0, 0]);
        section.extend_from_slice(body);
        section.extend_from_slice(&psi::crc(&section[1..]).to_be_bytes());
        section
    };
    let packet = |pid: u16, counter: u8, section: &[u8]| {
        let mut packet = vec![0x47, 0x40 | pid.to_be_bytes()[0], pid.to_be_bytes()[1], 0x10 | counter];
        packet.extend_from_slice(section);
        packet.resize(PACKET_BYTES, 0xff);
        packet
    };
    let pat = section(0, 1, &[0, 0, 0xe0, 0x10, 0, 7, 0xe1, 0x07, 0, 8, 0xe1, 0x08]);
    let pmt = |program: u16, stream_type: u8| section(2, program, &[0xe2, 0, 0xf0, 0, stream_type, 0xe2, 0, 0xf0, 0]);
    let stream =
        [packet(0, 0, &pat), packet(0x107, 0, &pmt(7, 0x1b)), packet(0x108, 0, &pmt(8, 0x24)), packet(0x1fff, 0, b"")];
    for (wanted, number, kind) in
        [(None, 7, StreamKind::H264), (Some(7), 7, StreamKind::H264), (Some(8), 8, StreamKind::H265)]
    {
        let (events, health) = events(std::iter::once(stream.concat()), DemuxerConfig { program: wanted });
        let [Event::Program { number: got, streams }] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((*got, streams[0].kind), (number, kind));
        assert_eq!((health.packets, health.null_packets), (4, 1));
    }
}
