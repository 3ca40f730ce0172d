//! When requests are answered, and what names stand for.

use super::*;

fn playlist(parts_of_last: usize) -> MediaPlaylist {
    let targets = Targets {
        target_duration: 4,
        part_target: SECOND / 2,
        part_hold_back_nanos: SECOND,
        window_nanos: 32 * SECOND,
    };
    let mut playlist = MediaPlaylist::new(TrackKind::Video, targets, 0);
    let init = Arc::new(InitSegment { name: "v-1.mp4".into(), data: Bytes::from_static(b"init") });
    let part = |is_independent| Part { duration: SECOND / 2, is_independent, data: Bytes::from_static(b"part") };
    for number in 10..=12 {
        playlist.begin(Segment {
            number,
            is_discontinuity: false,
            is_gap: false,
            is_complete: false,
            utc_nanos: 0,
            duration: 0,
            init: Arc::clone(&init),
            parts: Vec::new(),
            whole: Vec::new(),
        });
        for index in 0..if number == 12 { parts_of_last } else { 4 } {
            playlist.add_part(part(index == 0));
        }
        if number < 12 {
            playlist.complete(0);
        }
    }
    playlist
}

#[test]
fn ll_07_what_follows_a_gap_is_waited_for_and_what_is_in_it_is_answered() {
    let mut open = playlist(3);
    open.complete(0);
    let begins = |number| Segment {
        number,
        parts: Vec::new(),
        whole: Vec::new(),
        is_complete: false,
        duration: 0,
        ..open.segments[0].clone()
    };
    let (gap, next) = (begins(13), begins(14));
    open.begin(gap);
    open.complete(1_200_000_000); // two parts and a piece
    for (msn, part, expected) in [
        (12, 2, "reply"),
        (12, 3, "reply"), // past the end: part 0 of the gap, which is listed
        (13, 2, "reply"),
        (13, 3, "block"),
        (14, 0, "block"),
    ] {
        assert_eq!(decide(&open, Some(msn), Some(part)), expected, "{msn} {part}");
    }
    assert_eq!(open.position(), Some(Position { msn: 13, part: Some(2) }));
    let text = open.render(false, None);
    let gaps: Vec<_> = text.lines().filter(|line| line.contains("GAP=YES")).collect();
    let parts = [0, 1, 2].map(|index| format!("#EXT-X-PART:DURATION=0.40000,URI=\"v13.{index}.m4s\",GAP=YES"));
    assert_eq!(gaps, parts);
    assert!(matches!(open.resource("v13.0.m4s"), Resource::NotFound));
    open.begin(next);
    assert_eq!(decide(&open, Some(13), Some(3)), "block", "part 0 of 14 is not there yet");
    open.add_part(open.segments[0].parts[0].clone());
    assert_eq!(decide(&open, Some(13), Some(3)), "reply");
}

fn decide(playlist: &MediaPlaylist, msn: Option<u64>, part: Option<u64>) -> &'static str {
    match playlist.decide(Directives { msn, part, skip: false }) {
        Decision::Reply => "reply",
        Decision::Block => "block",
        Decision::Refuse(_) => "refuse",
    }
}

#[test]
fn ll_12_to_14_what_is_there_is_answered_what_comes_is_waited_for_and_what_is_far_is_refused() {
    let open = playlist(2); // 10 and 11 are complete, of 12 there are parts 0 and 1
    for (msn, part, expected) in [
        (None, None, "reply"),
        (None, Some(0), "refuse"), // LL-13
        (Some(0), None, "reply"),
        (Some(11), None, "reply"),
        (Some(12), None, "block"),
        (Some(13), None, "block"),
        (Some(14), None, "refuse"), // LL-14
        (Some(11), Some(3), "reply"),
        (Some(11), Some(4), "reply"), // past the end: part 0 of 12, which is there
        (Some(11), Some(99), "reply"),
        (Some(12), Some(0), "reply"),
        (Some(12), Some(1), "reply"),
        (Some(12), Some(2), "block"),
        (Some(12), Some(8), "block"), // three seconds ahead are six parts
        (Some(12), Some(9), "refuse"),
        (Some(13), Some(0), "block"),
        (Some(13), Some(6), "block"),
        (Some(13), Some(7), "refuse"),
        (Some(u64::MAX), Some(u64::MAX), "refuse"),
    ] {
        assert_eq!(decide(&open, msn, part), expected, "msn {msn:?}, part {part:?}");
    }
    let empty = playlist(0);
    for (msn, part, expected) in
        [(11, None, "reply"), (11, Some(4), "block"), (12, Some(0), "block"), (12, None, "block"), (14, None, "refuse")]
    {
        assert_eq!(decide(&empty, Some(msn), part), expected, "nothing of 12: msn {msn}, part {part:?}");
    }
}

#[test]
fn ll_16_an_ended_playlist_answers_everything() {
    let mut ended = playlist(2);
    ended.complete(0);
    ended.end();
    for (msn, part) in [(None, Some(0)), (Some(99), None), (Some(13), Some(99))] {
        assert_eq!(decide(&ended, msn, part), "reply");
    }
    assert!(matches!(ended.resource("v13.0.m4s"), Resource::NotFound), "nothing comes any more");
}

#[test]
fn ll_18_only_what_is_listed_or_hinted_has_a_name() {
    let open = playlist(2);
    for (name, expected) in [
        ("v10.m4s", "ready"),
        ("v10.3.m4s", "ready"),
        ("v12.1.m4s", "ready"),
        ("v-1.mp4", "ready"),
        ("v12.2.m4s", "hinted"),
        ("v12.m4s", "nothing"),
        ("v12.3.m4s", "nothing"),
        ("v13.0.m4s", "nothing"),
        ("v10.4.m4s", "nothing"),
        ("v9.m4s", "nothing"),
        ("a10.m4s", "nothing"),
        ("v010.m4s", "nothing"),
        ("v+10.m4s", "nothing"),
        ("v10", "nothing"),
        ("v-2.mp4", "nothing"),
        ("v99999999999999999999.m4s", "nothing"),
        ("", "nothing"),
    ] {
        let found = match open.resource(name) {
            Resource::Ready(slices) if slices.iter().all(|slice| !slice.is_empty()) => "ready",
            Resource::Ready(_) => "ready, but empty",
            Resource::Hinted => "hinted",
            Resource::NotFound => "nothing",
        };
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_complete_segment_is_its_parts_in_few_pieces() {
    let mut playlist = playlist(0);
    let part =
        |fill: u8, size: usize| Part { duration: SECOND / 2, is_independent: true, data: vec![fill; size].into() };
    let sizes = [600_000, 700_000, 400_000, 3_000_000, 100_000, 100_000];
    for (fill, size) in (1..).zip(sizes) {
        playlist.add_part(part(fill, size));
    }
    playlist.complete(0);
    let segment = playlist.segments().next_back().expect("one");
    let pieces: Vec<usize> = segment.whole.iter().map(Bytes::len).collect();
    assert_eq!(pieces, [1_300_000, 400_000, 3_000_000, 200_000]);
    let joined: Vec<u8> = segment.parts.iter().flat_map(|part| part.data.to_vec()).collect();
    assert!(joined == segment.whole.concat() && joined.len() == sizes.iter().sum::<usize>());
}
