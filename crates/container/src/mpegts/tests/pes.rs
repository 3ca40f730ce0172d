//! PES packets that are cut in odd places, short, scrambled, or none of ours.

use super::*;

/// A stream of one program with H.264 on PID 0x100, whose packets carry these payloads; `true` begins a PES packet.
fn stream(payloads: &[(bool, &[u8])]) -> (Vec<PesUnit>, Vec<Event>) {
    let map = tables::section(2, 1, 0, (0, 0), &[0xe1, 0, 0xf0, 0, 0x1b, 0xe1, 0, 0xf0, 0]);
    let pat = tables::section(0, 1, 0, (0, 0), &[0, 1, 0xe0, 0x50]);
    let mut packets = vec![tables::packet(0, 0, &pat), tables::packet(0x50, 0, &map)];
    for (index, (starts, payload)) in payloads.iter().enumerate() {
        let stuffing = 184 - payload.len();
        let mut packet = [0xff; 188];
        let counter = u8::try_from(index % 16).expect("masked");
        let adaptation = if stuffing > 0 { 0x30 } else { 0x10 };
        packet[..4].copy_from_slice(&[0x47, if *starts { 0x41 } else { 1 }, 0, adaptation | counter]);
        if stuffing > 0 {
            packet[4] = u8::try_from(stuffing - 1).expect("below");
        }
        if stuffing > 1 {
            packet[5] = 0;
        }
        packet[188 - payload.len()..].copy_from_slice(payload);
        packets.push(packet);
    }
    let (events, _) = demux(packets.as_flattened());
    (units(&events, 0x100), events)
}

/// With PTS 1 and this payload length, 0 for none.
fn header(payload_bytes: u8) -> [u8; 14] {
    let length = if payload_bytes == 0 { 0 } else { 8 + payload_bytes };
    [0, 0, 1, 0xe0, 0, length, 0x80, 0x80, 5, 0x21, 0, 1, 0, 3]
}

#[test]
fn a_header_may_be_cut_anywhere() {
    let header = header(7);
    for cut in 1..header.len() {
        let rest = [&header[cut..], b"picture"].concat();
        let (units, _) = stream(&[(true, &header[..cut]), (false, &rest)]);
        assert_eq!(units.len(), 1, "cut at {cut}");
        assert_eq!((units[0].pts, units[0].dts, &units[0].payload[..]), (Some(1), Some(1), &b"picture"[..]));
        assert!(!units[0].is_damaged);
    }
}

#[test]
fn a_unit_that_is_shorter_than_it_says_is_damaged() {
    let short = [&header(9)[..], b"picture"].concat();
    let (units, _) = stream(&[(true, &short), (true, &[&header(0)[..], b"next"].concat())]);
    let found: Vec<_> = units.iter().map(|unit| (&unit.payload[..], unit.is_damaged)).collect();
    assert_eq!(found, [(&b"picture"[..], true), (b"next", false)]);
}

#[test]
fn what_follows_a_complete_unit_is_left_out() {
    let long = [&header(4)[..], b"pictURE"].concat();
    let (units, _) = stream(&[(true, &long), (false, b"more")]);
    assert_eq!(units.iter().map(|unit| &unit.payload[..]).collect::<Vec<_>>(), [b"pict"]);
}

#[test]
fn a_unit_without_length_ends_where_the_next_begins() {
    let first = [&header(0)[..], b"pic"].concat();
    let (units, _) = stream(&[(true, &first), (false, b"ture"), (true, &first)]);
    assert_eq!(units.iter().map(|unit| &unit.payload[..]).collect::<Vec<_>>(), [&b"picture"[..], b"pic"]);
}

#[test]
fn a_scrambled_unit_is_told_and_passed_over() {
    let mut scrambled = [&header(0)[..], b"xxx"].concat();
    scrambled[6] |= 0x20;
    let clear = [&header(0)[..], b"picture"].concat();
    let (units, events) = stream(&[(true, &scrambled), (true, &scrambled), (true, &clear)]);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Scrambled { pid: 0x100 })).count(), 1);
    assert_eq!(units.iter().map(|unit| (unit.payload.len(), unit.after_loss)).collect::<Vec<_>>(), [(7, true)]);
}

#[test]
fn padding_and_nonsense_are_passed_over() {
    let mut padding = header(0);
    padding[3] = 0xbe;
    let mut nonsense = header(0);
    nonsense[2] = 2;
    let clear = [&header(0)[..], b"picture"].concat();
    let (units, _) = stream(&[(true, &padding), (true, &nonsense), (true, &clear)]);
    assert_eq!(units.iter().map(|unit| unit.payload.len()).collect::<Vec<_>>(), [7]);
}

#[test]
fn a_timestamp_without_its_markers_is_none() {
    let mut unmarked = [&header(0)[..], b"picture"].concat();
    unmarked[11] = 0;
    let (units, _) = stream(&[(true, &unmarked)]);
    assert_eq!((units[0].pts, units[0].dts), (None, None));
}
