//! One planted fault per counter of health, and what a loss does to units.

use super::*;

/// Packets of 25 pictures a second with sound, for as long as asked.
fn packets_of(seconds: u64) -> Vec<[u8; 188]> {
    let mut muxer = Muxer::new(&[StreamKind::H264, StreamKind::AacAdts]);
    let mut out = BytesMut::new();
    for index in 0..seconds * 25 {
        let dts = 90_000 + index * 3600;
        muxer.write(0, dts, dts, index % 10 == 0, [&[1; 500][..]], &mut out);
        muxer.write(1, dts, dts, false, [&[2; 300][..]], &mut out);
    }
    out.as_chunks().0.to_vec()
}

fn pid(packet: &[u8; 188]) -> u16 {
    u16::from_be_bytes([packet[1] & 0x1f, packet[2]])
}

fn health(packets: &[[u8; 188]]) -> Health {
    demux(packets.as_flattened()).1
}

/// What differs from a sound stream.
fn errors(packets: &[[u8; 188]]) -> Health {
    Health { packets: 0, ..health(packets) }
}

#[test]
fn a_sound_stream_has_no_errors() {
    assert_eq!(errors(&packets_of(10)), Health::default());
}

#[test]
fn wrong_sync_bytes_are_counted_and_two_in_a_row_lose_the_lock() {
    let mut packets = packets_of(1);
    packets[20][0] = 0;
    let found = errors(&packets);
    assert_eq!((found.sync_byte_error, found.sync_loss, found.continuity_count_error), (1, 0, 1));

    packets[21][0] = 0;
    let found = errors(&packets);
    assert_eq!((found.sync_byte_error, found.sync_loss), (2, 1));

    let packets = packets_of(1);
    let (before, after) = packets.as_flattened().split_at(188 * 20);
    let (events, found) = demux(&[before, b"fifty bytes that were never sent", after].concat());
    assert_eq!((found.sync_byte_error, found.sync_loss, found.continuity_count_error), (2, 1, 0));
    assert_eq!(units(&events, 0x100).len(), 25, "no packet is lost to the search");
}

#[test]
fn a_missing_pat_is_counted_every_500_ms() {
    let mut packets = packets_of(2);
    let mut seen = 0;
    packets.retain(|packet| pid(packet) != 0 || (seen += 1, seen == 1).1);
    let found = errors(&packets);
    assert_eq!(found, Health { pat_error: 3, ..Health::default() });
}

#[test]
fn a_missing_map_is_counted_every_500_ms() {
    let mut packets = packets_of(2);
    let mut seen = 0;
    packets.retain(|packet| pid(packet) != 0x1000 || (seen += 1, seen == 1).1);
    let found = errors(&packets);
    assert_eq!(found, Health { pmt_error: 3, ..Health::default() });
}

#[test]
fn another_table_on_the_pid_of_the_pat_is_an_error() {
    let mut packets = packets_of(1);
    let mut map = *packets.iter().find(|packet| pid(packet) == 0x1000).expect("a map");
    (map[1], map[2]) = (0x40, 0);
    let last = packets.iter().rfind(|packet| pid(packet) == 0).expect("a PAT")[3];
    map[3] = 0x10 | (last + 1) & 15;
    packets.push(map);
    assert_eq!(errors(&packets), Health { pat_error: 1, ..Health::default() });
}

#[test]
fn a_lost_packet_breaks_continuity_and_damages_its_unit_only() {
    let mut packets = packets_of(1);
    let starts = |packet: &[u8; 188]| packet[1] & 0x40 != 0;
    let inside = packets.iter().position(|it| pid(it) == 0x100 && !starts(it)).expect("units of three packets");
    packets.remove(inside);
    let (events, found) = demux(packets.as_flattened());
    assert_eq!(found.continuity_count_error, 1);
    let units = units(&events, 0x100);
    let marks: Vec<_> = units.iter().map(|unit| (unit.after_loss, unit.is_damaged)).take(3).collect();
    assert_eq!(marks, [(true, true), (false, false), (false, false)]);
}

#[test]
fn a_lost_unit_marks_the_next() {
    let mut packets = packets_of(1);
    let starts: Vec<_> =
        (0..packets.len()).filter(|at| pid(&packets[*at]) == 0x101 && packets[*at][1] & 0x40 != 0).collect();
    let mut at = 0;
    packets.retain(|packet| (at += 1, pid(packet) != 0x101 || !(starts[1] + 1..=starts[2]).contains(&at)).1);
    let units = units(&demux(packets.as_flattened()).0, 0x101);
    let marks: Vec<_> = units.iter().map(|unit| (unit.after_loss, unit.is_damaged)).take(3).collect();
    assert_eq!((marks, units.len()), (vec![(false, false), (true, false), (false, false)], 24));
}

#[test]
fn a_signalled_discontinuity_marks_the_unit_without_an_error() {
    let mut muxer = Muxer::new(&[StreamKind::H264]);
    let mut out = BytesMut::new();
    for dts in [0, 3600, 90_000_000, 90_003_600] {
        muxer.write(0, dts, dts, true, [&b"picture"[..]], &mut out);
    }
    let (events, found) = demux(&out);
    let marks: Vec<_> = units(&events, 0x100).iter().map(|unit| (unit.after_loss, unit.is_damaged)).collect();
    assert_eq!(marks, [(false, false), (false, false), (true, false), (false, false)]);
    assert_eq!(found.pcr_discontinuity_indicator_error, 0);
}

#[test]
fn a_silent_pid_is_counted_after_five_seconds() {
    let mut packets = packets_of(7);
    packets.retain(|packet| pid(packet) != 0x101);
    let found = errors(&packets);
    assert_eq!((found.pid_error, found.pts_error), (1, 9));
}

#[test]
fn marked_packets_are_dropped_and_counted() {
    let mut packets = packets_of(1);
    packets[20][1] |= 0x80;
    let found = errors(&packets);
    assert_eq!((found.transport_error, found.continuity_count_error), (1, 1));
}

#[test]
fn damaged_sections_are_dropped_and_counted() {
    let mut packets = packets_of(1);
    let maps = packets.iter_mut().filter(|packet| pid(packet) == 0x1000).map(|packet| packet[12] ^= 1).count();
    let (events, found) = demux(packets.as_flattened());
    assert!(events.is_empty());
    assert_eq!(found.crc_error, maps as u64);
}

#[test]
fn late_clock_references_are_counted() {
    let mut muxer = Muxer::new(&[StreamKind::H264]);
    let mut out = BytesMut::new();
    for index in 0..5 {
        muxer.write(0, index * 18_000, index * 18_000, true, [&b"picture"[..]], &mut out);
    }
    let mut packets = out.as_chunks().0.to_vec();
    assert_eq!(errors(&packets), Health::default());
    packets.retain(|packet: &[u8; 188]| packet[3] & 0x30 != 0x20);
    let found = errors(&packets);
    let expected = Health { pcr_repetition_error: 4, pcr_discontinuity_indicator_error: 4, ..Health::default() };
    assert_eq!(found, expected);
}

#[test]
fn a_jump_of_the_clock_that_is_not_signalled_is_counted() {
    let mut muxer = Muxer::new(&[StreamKind::H264]);
    let mut out = BytesMut::new();
    for dts in [900_000_000, 900_003_600, 3600, 7200] {
        muxer.write(0, dts, dts, true, [&b"picture"[..]], &mut out);
    }
    let mut packets = out.as_chunks().0.to_vec();
    packets.iter_mut().filter(|packet: &&mut [u8; 188]| packet[3] & 0x20 != 0).for_each(|packet| packet[5] &= 0x7f);
    assert_eq!(errors(&packets), Health { pcr_discontinuity_indicator_error: 1, ..Health::default() });
}

#[test]
fn rare_presentation_times_are_counted() {
    let mut muxer = Muxer::new(&[StreamKind::H264]);
    let mut out = BytesMut::new();
    for index in 0..4 {
        muxer.write(0, index * 72_000, index * 72_000, true, [&b"picture"[..]], &mut out);
    }
    let found = errors(out.as_chunks().0);
    assert_eq!(found, Health { pts_error: 3, pat_error: 3, pmt_error: 3, ..Health::default() });
}

#[test]
fn scrambled_packets_are_told_once_and_want_a_cat() {
    let mut packets = packets_of(1);
    let count = packets.len();
    packets[count / 2..].iter_mut().filter(|it| pid(it) == 0x100).for_each(|packet| packet[3] |= 0x80);
    let (events, found) = demux(packets.as_flattened());
    assert_eq!(events.iter().filter(|event| **event == Event::Scrambled { pid: 0x100 }).count(), 1);
    assert_eq!((found.cat_error, found.scrambled_packets > 10), (1, true));

    let cat = tables::packet(1, 0, &tables::section(1, 0xffff, 0, (0, 0), &[]));
    packets.insert(4, cat);
    let found = health(&packets);
    assert_eq!(found.cat_error, 0);
    packets.insert(5, tables::packet(1, 1, &tables::section(2, 0xffff, 0, (0, 0), &[])));
    assert_eq!(health(&packets).cat_error, 1, "another table on its PID");
}

#[test]
fn stuffing_packets_are_counted_and_nothing_else() {
    let mut packets = packets_of(1);
    let mut null = [0xff; 188];
    null[..4].copy_from_slice(&[0x47, 0x1f, 0xff, 0x10]);
    packets.insert(7, null);
    assert_eq!(errors(&packets), Health { null_packets: 1, ..Health::default() });
}

#[test]
fn a_packet_that_comes_twice_is_used_once() {
    let packets = packets_of(1);
    let twice: Vec<_> = packets.iter().flat_map(|packet| [*packet; 2]).collect();
    let (events, found) = demux(twice.as_flattened());
    assert_eq!(events, demux(packets.as_flattened()).0);
    assert_eq!(found.continuity_count_error, 0);
}

#[test]
fn nobody_polls_and_nothing_grows_without_end() {
    let packets = packets_of(1);
    let mut demuxer = Demuxer::new(DemuxerConfig::default());
    for _ in 0..500 {
        demuxer.push(packets.as_flattened());
    }
    assert!(demuxer.health().events_left_out > 0);
    assert_eq!(std::iter::from_fn(|| demuxer.poll()).count(), QUEUE_EVENTS_MAX);
}
