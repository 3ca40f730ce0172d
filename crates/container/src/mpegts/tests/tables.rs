//! Tables that change, move, vanish or come in parts, and sections that are events.

use super::*;

/// A section with its CRC. `numbers` is `section_number` and `last_section_number`.
pub(super) fn section(id: u8, extension: u16, version: u8, numbers: (u8, u8), body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(5 + body.len() + 4).expect("short");
    let [high, low] = (0xb000 | length).to_be_bytes();
    let [e1, e0] = extension.to_be_bytes();
    let mut section = vec![id, high, low, e1, e0, 0xc1 | version << 1, numbers.0, numbers.1];
    section.extend_from_slice(body);
    section.extend_from_slice(&psi::crc(&section).to_be_bytes());
    section
}

/// One packet that carries these bytes as sections from its start.
pub(super) fn packet(pid: u16, counter: u8, sections: &[u8]) -> [u8; 188] {
    let mut packet = [0xff; 188];
    let [high, low] = pid.to_be_bytes();
    packet[..5].copy_from_slice(&[0x47, 0x40 | high, low, 0x10 | counter, 0]);
    packet[5..5 + sections.len()].copy_from_slice(sections);
    packet
}

fn pat(counter: u8, version: u8, programs: &[(u16, u16)]) -> [u8; 188] {
    let body: Vec<u8> =
        programs.iter().flat_map(|(number, pid)| [*number, 0xe000 | pid]).flat_map(u16::to_be_bytes).collect();
    packet(0, counter, &section(0, 1, version, (0, 0), &body))
}

fn map_section(number: u16, version: u8, streams: &[(u8, u16)]) -> Vec<u8> {
    let mut body = vec![0xff, 0xff, 0xf0, 0];
    for (stream_type, pid) in streams {
        let [high, low] = pid.to_be_bytes();
        body.extend_from_slice(&[*stream_type, 0xe0 | high, low, 0xf0, 0]);
    }
    section(2, number, version, (0, 0), &body)
}

fn map(pid: u16, counter: u8, number: u16, version: u8, streams: &[(u8, u16)]) -> [u8; 188] {
    packet(pid, counter, &map_section(number, version, streams))
}

fn programs(packets: &[[u8; 188]]) -> Vec<(u16, Vec<(u16, StreamKind)>)> {
    kinds(&demux(packets.as_flattened()).0)
}

const VIDEO: (u8, u16) = (0x1b, 0x100);
const SOUND: (u8, u16) = (0x0f, 0x101);
const MPEG2: (u8, u16) = (0x02, 0x102);

#[test]
fn a_map_is_told_when_it_comes_and_when_it_changes() {
    let video = vec![(0x100, StreamKind::H264)];
    let both = vec![(0x100, StreamKind::H264), (0x101, StreamKind::AacAdts)];
    let packets = [
        pat(0, 0, &[(1, 0x50)]),
        map(0x50, 0, 1, 0, &[VIDEO]),
        map(0x50, 1, 1, 0, &[VIDEO]),
        map(0x50, 2, 1, 1, &[VIDEO, SOUND]),
        map(0x50, 3, 1, 1, &[VIDEO]), // without a new version
        map(0x50, 4, 1, 2, &[VIDEO]), // a new version alone
    ];
    assert_eq!(programs(&packets), [(1, video.clone()), (1, both), (1, video.clone()), (1, video)]);
}

#[test]
fn a_map_that_is_not_current_yet_is_passed_over() {
    let mut next = map_section(1, 1, &[SOUND]);
    next[5] &= 0xfe;
    let end = next.len() - 4;
    let crc = psi::crc(&next[..end]).to_be_bytes();
    next[end..].copy_from_slice(&crc);
    let packets = [pat(0, 0, &[(1, 0x50)]), map(0x50, 0, 1, 0, &[VIDEO]), packet(0x50, 1, &next)];
    assert_eq!(programs(&packets).len(), 1);
}

#[test]
fn a_map_may_move_to_another_pid() {
    let packets = [
        pat(0, 0, &[(1, 0x50)]),
        map(0x50, 0, 1, 0, &[VIDEO]),
        pat(1, 1, &[(1, 0x60)]),
        map(0x50, 1, 1, 1, &[SOUND]), // no longer valid
        map(0x60, 0, 1, 1, &[VIDEO, SOUND]),
    ];
    let streams = [vec![(0x100, StreamKind::H264)], vec![(0x100, StreamKind::H264), (0x101, StreamKind::AacAdts)]];
    assert_eq!(programs(&packets), streams.map(|streams| (1, streams)));
}

#[test]
fn a_program_that_vanishes_is_told_and_another_is_taken() {
    let packets = [
        pat(0, 0, &[(1, 0x50), (2, 0x60)]),
        map(0x50, 0, 1, 0, &[VIDEO]),
        pat(1, 1, &[(2, 0x60)]),
        map(0x60, 0, 2, 0, &[SOUND]),
    ];
    let expected = [(1, vec![(0x100, StreamKind::H264)]), (1, vec![]), (2, vec![(0x101, StreamKind::AacAdts)])];
    assert_eq!(programs(&packets), expected);
}

#[test]
fn the_order_of_the_pat_decides_not_the_order_of_the_maps() {
    let two = [(1, 0x50), (2, 0x60)];
    let (first, second) = (map(0x50, 0, 1, 0, &[VIDEO]), map(0x60, 0, 2, 0, &[SOUND]));
    assert_eq!(programs(&[pat(0, 0, &two), second, first])[0].0, 1);
    let again = map(0x60, 1, 2, 0, &[SOUND]);
    assert_eq!(programs(&[pat(0, 0, &two), second])[..], []);
    assert_eq!(
        programs(&[pat(0, 0, &two), second, again, first])[0].0,
        2,
        "one whose map does not come is passed over"
    );
    let not_carried = map(0x50, 0, 1, 0, &[MPEG2]);
    assert_eq!(programs(&[pat(0, 0, &two), not_carried, second])[0].0, 2);
    let neither = map(0x60, 0, 2, 0, &[MPEG2]);
    assert_eq!(programs(&[pat(0, 0, &two), not_carried, neither])[0], (1, vec![(0x102, StreamKind::Mpeg2Video)]));
}

#[test]
fn a_pat_in_two_sections_counts_when_both_are_there() {
    let part = |number: u8, program: u8, pid: u8| section(0, 1, 0, (number, 1), &[0, program, 0xe0, pid]);
    let first = packet(0, 0, &part(0, 1, 0x50));
    let second = packet(0, 1, &part(1, 2, 0x60));
    let maps = [map(0x50, 0, 1, 0, &[MPEG2]), map(0x60, 0, 2, 0, &[VIDEO])];
    assert_eq!(programs(&[first, maps[0], maps[1]]), []);
    assert_eq!(programs(&[first, second, maps[0], maps[1]])[0].0, 2);
}

#[test]
fn two_maps_may_share_a_pid_and_a_packet() {
    let both = [map_section(1, 0, &[MPEG2]), map_section(2, 0, &[VIDEO])].concat();
    assert_eq!(programs(&[pat(0, 0, &[(1, 0x50), (2, 0x50)]), packet(0x50, 0, &both)])[0].0, 2);
}

#[test]
fn a_section_may_lie_across_packets() {
    let streams: Vec<_> = (0x100..0x150).map(|pid| (0x1b, pid)).collect();
    let section = map_section(1, 0, &streams);
    let mut packets = vec![pat(0, 0, &[(1, 0x50)])];
    for (index, part) in [&[0][..], &section].concat().chunks(184).enumerate() {
        let mut packet = [0xff; 188];
        let counter = 0x10 | u8::try_from(index).expect("few");
        packet[..4].copy_from_slice(&[0x47, if index == 0 { 0x40 } else { 0 }, 0x50, counter]);
        packet[4..4 + part.len()].copy_from_slice(part);
        packets.push(packet);
    }
    assert_eq!(programs(&packets)[0].1.len(), 80);
    packets.remove(2);
    assert_eq!(programs(&packets), [], "a part is missing");
}

#[test]
fn splice_information_is_handed_out_when_its_crc_is_right() {
    let splice = section(0xfc, 0, 0, (0, 0), b"splice");
    let mut damaged = splice.clone();
    damaged[10] ^= 1;
    let packets = [
        pat(0, 0, &[(1, 0x50)]),
        map(0x50, 0, 1, 0, &[VIDEO, (0x86, 0x105)]),
        packet(0x105, 0, &splice),
        packet(0x105, 1, &damaged),
    ];
    let (events, health) = demux(packets.as_flattened());
    assert_eq!(events[1..], [Event::Scte35 { pid: 0x105, section: splice.into() }]);
    assert_eq!(health.crc_error, 1);
}

#[test]
fn descriptors_say_what_private_data_is() {
    let kind_of = |stream_type: u8, info: &[u8]| {
        let mut body = vec![0xff, 0xff, 0xf0, 0, stream_type, 0xe1, 0, 0xf0, u8::try_from(info.len()).expect("short")];
        body.extend_from_slice(info);
        let section = section(2, 1, 0, (0, 0), &body);
        programs(&[pat(0, 0, &[(1, 0x50)]), packet(0x50, 0, &section)])[0].1[0].1
    };
    assert_eq!(kind_of(6, b"\x05\x04Opus\x7f\x02\x80\x06"), StreamKind::Opus { channels: 6 });
    assert_eq!(kind_of(6, b"\x05\x04Opus\x7f\x02\x80\x00"), StreamKind::Opus { channels: 2 });
    assert_eq!(kind_of(6, b"\x05\x04Opus\x7f\x02\x80\x81"), StreamKind::Other);
    assert_eq!(kind_of(6, b"\x05\x04KLVA"), StreamKind::Klv);
    assert_eq!(kind_of(6, b"\x0a\x04eng\x00\x6a\x01\x00"), StreamKind::Ac3);
    assert_eq!(kind_of(6, b"\x7a\x01\x00"), StreamKind::Eac3);
    assert_eq!(kind_of(6, b"\x05\x20cut"), StreamKind::Other);
    assert_eq!(kind_of(0x15, b""), StreamKind::Klv);
    assert_eq!(kind_of(0x15, b"\x26\x06\xff\xffID3 "), StreamKind::Other);
    assert_eq!(kind_of(0x42, b""), StreamKind::Other);
}
