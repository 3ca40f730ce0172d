//! Playlists of ours and of others, and ones that are broken.

use super::*;

fn media(text: &str) -> MediaPlaylist {
    match Playlist::parse(text.as_bytes()) {
        Ok(Playlist::Media(playlist)) => playlist,
        other => panic!("{other:?}"),
    }
}

fn multivariant(text: &str) -> MultivariantPlaylist {
    match Playlist::parse(text.as_bytes()) {
        Ok(Playlist::Multivariant(playlist)) => playlist,
        other => panic!("{other:?}"),
    }
}

const LIVE: &str = include_str!("../../tests/golden/live.video.m3u8");
const DELTA: &str = include_str!("../../tests/golden/delta.video.m3u8");

#[test]
fn our_own_playlist_is_read_without_a_fault() {
    let playlist = media(LIVE);
    assert_eq!(playlist.faults, []);
    assert_eq!((playlist.version, playlist.target_duration, playlist.media_sequence), (9, 4, 1000));
    assert_eq!((playlist.part_target, playlist.control.part_hold_back), (Some(216_000_000), Some(1_000_000_000)));
    assert!(playlist.control.can_block_reload);
    assert_eq!(playlist.next_position(), (1003, 4));
    let first = &playlist.segments[0];
    assert_eq!((first.uri.as_deref(), first.duration, first.parts.len()), (Some("v1000.m4s"), 2_000_000_000, 0));
    assert_eq!(first.date, Some(1_795_438_799_999_000_000));
    let open = playlist.segment(1003).expect("listed");
    assert!(open.uri.is_none() && open.length() == 800_000_000 && open.parts[0].is_independent);
    assert_eq!(open.map.as_deref().map(|map| &*map.uri), Some("v-504b3bb966b7f9a8.mp4"), "the map stays in force");
    assert_eq!(playlist.part_hint().map(|hint| &*hint.uri), Some("v1003.4.m4s"));
    assert_eq!((playlist.reports[0].msn, playlist.reports[0].part), (Some(1003), Some(3)));
}

#[test]
fn a_delta_update_is_completed_by_the_playlist_before() {
    let delta = media(DELTA);
    assert_eq!((delta.skipped, delta.segments[0].number), (Some(5), 1005));
    let mut earlier = media(LIVE);
    assert_eq!(delta.completed_by(&earlier), None, "it ends before the skipped segments do");
    let listed = |number| Segment { number, uri: Some("v.m4s".into()), ..Segment::default() };
    earlier.segments.extend([listed(1003), listed(1004)]);
    earlier.segments.remove(3);
    let whole = delta.completed_by(&earlier).expect("it reaches back");
    assert_eq!((whole.segments[0].number, whole.skipped), (1000, None));
    assert_eq!(whole.segment(1004).map(|one| one.number), Some(1004));
    assert!(whole.segment(1001).is_some_and(|one| one.parts.is_empty()), "old parts are not listed any more");
}

#[test]
fn ranges_follow_one_another() {
    let playlist = media(
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MAP:URI=\"all.mp4\",BYTERANGE=\"600@0\"\n\
         #EXT-X-PART:DURATION=1,URI=\"all.mp4\",BYTERANGE=\"100@600\"\n#EXT-X-PART:DURATION=1,URI=\"all.mp4\",BYTERANGE=\"50\"\n\
         #EXTINF:2,title, with a comma\n#EXT-X-BYTERANGE:150@600\nall.mp4\n#EXT-X-BYTERANGE:10\n#EXTINF:1\nall.mp4\n\
         #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"all.mp4\",BYTERANGE-START=760\n",
    );
    assert_eq!(playlist.faults, []);
    let range = |start, length| Some(ByteRange { start, length: Some(length) });
    let [first, second] = &playlist.segments[..] else { panic!("two segments") };
    assert_eq!(first.map.as_ref().expect("a map").range, range(0, 600));
    assert_eq!((first.parts[0].range, first.parts[1].range), (range(600, 100), range(700, 50)));
    assert_eq!((first.range, second.range), (range(600, 150), range(750, 10)));
    assert_eq!(playlist.part_hint().expect("a hint").range, Some(ByteRange { start: 760, length: None }));
}

#[test]
fn variants_and_their_sound_are_read() {
    let playlist = multivariant(
        "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"German, dubbed\",URI=\"de.m3u8\"\n\
         #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"English\",DEFAULT=YES,URI=\"en.m3u8\"\n\
         #EXT-X-STREAM-INF:BANDWIDTH=2000000,AVERAGE-BANDWIDTH=1500000,CODECS=\"avc1.64001f,mp4a.40.2\",RESOLUTION=1280x720,\
         FRAME-RATE=29.970,AUDIO=\"a\"\nhd.m3u8\n#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"i.m3u8\"\n",
    );
    assert_eq!(playlist.faults, []);
    let variant = &playlist.variants[0];
    assert_eq!((variant.bandwidth, variant.resolution), (Some(2_000_000), Some((1280, 720))));
    assert_eq!(variant.codecs.as_deref(), Some("avc1.64001f,mp4a.40.2"), "a comma within quotes");
    assert_eq!(playlist.audio_of(variant).and_then(|one| one.uri.as_deref()), Some("en.m3u8"), "the default one");
    assert_eq!(playlist.i_frame_uris, ["i.m3u8".into()]);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let cases = [
        ("#EXT-X-TARGETDURATION:4.5", "no whole number"),
        ("#EXT-X-PART:DURATION=x,URI=\"a\"", "are no seconds"),
        ("#EXT-X-PART:URI=\"a\"", "without DURATION"),
        ("#EXT-X-PART:DURATION=1,URI=\"a", "no closing quote"),
        ("#EXT-X-PART:DURATION=1,DURATION=2,URI=\"a\"", "twice"),
        ("#EXT-X-MAP:BYTERANGE=\"1\"", "without URI"),
        ("#EXTINF:two,\nx.ts", "without seconds"),
        ("x.ts", "without EXTINF"),
        ("#EXTINF:2,", "without a URI"),
        ("#EXT-X-PROGRAM-DATE-TIME:yesterday", "ISO 8601"),
        ("#EXT-X-SKIP:A=1", "without SKIPPED-SEGMENTS"),
        ("#EXT-X-PRELOAD-HINT:TYPE=PART", "without URI"),
        ("#EXT-X-DEFINE:NAME=\"a\"", "without VALUE"),
        ("#EXT-X-DEFINE:NAME=\"a\",QUERYPARAM=\"a\",VALUE=\"b\"", "one of NAME"),
        ("#EXT-X-DEFINE:IMPORT=\"a\"", "that a multivariant playlist names"),
        ("#EXT-X-DEFINE:QUERYPARAM=\"a\"", "no such parameter"),
        ("#EXTINF:1,\n{$a}.ts\n#EXT-X-DEFINE:NAME=\"a\",VALUE=\"b\"", "not defined before"),
        ("#EXT-X-DEFINE:NAME=\"a\",VALUE=\"b\"\n#EXT-X-DEFINE:NAME=\"a\",VALUE=\"c\"", "twice"),
    ];
    for (line, what) in cases {
        let playlist = media(&format!("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:1,\na.ts\n{line}\n"));
        let told = playlist.faults.iter().any(|fault| fault.line >= 5 && fault.what.contains(what));
        assert!(told, "{line}: {:?}", playlist.faults);
    }
}

#[test]
fn what_is_no_playlist_is_an_error() {
    for (text, error) in [
        (&b"<html>"[..], ReadError::NoPlaylist),
        (b"", ReadError::NoPlaylist),
        (b"#EXTM3U\n#EXT-X-VERSION:3\n", ReadError::NeitherKind),
        (b"#EXTM3U\n#EXTINF:1,\na\n#EXT-X-STREAM-INF:BANDWIDTH=1\nb\n", ReadError::NeitherKind),
        (b"#EXTM3U\n\xff\n", ReadError::NotUtf8),
    ] {
        assert_eq!(Playlist::parse(text), Err(error));
    }
    let long = vec![b'#'; PLAYLIST_BYTES_MAX + 1];
    assert_eq!(Playlist::parse(&long), Err(ReadError::TooLong(PLAYLIST_BYTES_MAX + 1)));
}

#[test]
fn tags_after_the_first_part_are_noticed() {
    let playlist = media(
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-PART:DURATION=1,URI=\"a\"\n#EXT-X-DISCONTINUITY\n#EXTINF:1,\nx\n",
    );
    assert_eq!(playlist.segments[0].tag_after_part, Some(4));
}

#[test]
fn seconds_are_read_without_rounding() {
    assert_eq!(seconds("2.00267"), Some(2_002_670_000));
    assert_eq!(seconds("10"), Some(10_000_000_000));
    assert_eq!(seconds("0.1234567891"), Some(123_456_789));
    for bad in ["", ".", "-1", "1e3", "1.2.3", "99999999999999999999", "+1"] {
        assert_eq!(seconds(bad), None, "{bad}");
    }
}

#[test]
fn dates_are_read_in_every_form() {
    assert_eq!(date("1970-01-01T00:00:00.000Z"), Some(0));
    assert_eq!(date("2024-02-29T01:30:00.5+01:30"), Some(1_709_164_800_500_000_000));
    assert_eq!(date("2024-02-28T19:00:00-0500"), Some(1_709_164_800_000_000_000));
    assert_eq!(date("2026-11-23T13:00:10.123Z"), Some(1_795_438_810_123_000_000));
    for bad in
        ["2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01", "2026-01-01T25:00:00Z", "T", "é-é-éTé:é:é+é"]
    {
        assert_eq!(date(bad), None, "{bad}");
    }
}

#[test]
fn numbers_that_nobody_means_are_faults_and_sums_of_them_stay_in_bounds() {
    for line in [
        "#EXT-X-MEDIA-SEQUENCE:18446744073709551615",
        "#EXT-X-DISCONTINUITY-SEQUENCE:18446744073709551615",
        "#EXT-X-TARGETDURATION:9999999999999",
        "#EXTINF:9223372036,\nb.ts",
        "#EXT-X-PART:DURATION=9223372036,URI=\"p\"",
        "#EXT-X-SERVER-CONTROL:CAN-SKIP-UNTIL=9223372036",
        "#EXT-X-SKIP:SKIPPED-SEGMENTS=18446744073709551615",
        "#EXT-X-PROGRAM-DATE-TIME:2261-01-01T00:00:00Z",
        "#EXT-X-BYTERANGE:10@18446744073709551615",
    ] {
        let playlist = media(&format!("#EXTM3U\n{line}\n#EXTINF:86400,\na.ts\n#EXTINF:86400,\nb.ts\n"));
        assert!(!playlist.faults.is_empty(), "{line}");
        let _ = (playlist.length(), playlist.next_position(), playlist.target_nanos());
    }
    let list = multivariant("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=18446744073709551615\na.m3u8\n");
    assert!(list.variants[0].bandwidth.is_none() && !list.faults.is_empty());
}

#[test]
fn variables_are_put_where_they_stand() {
    let multivariant = "#EXTM3U\n#EXT-X-DEFINE:NAME=\"host\",VALUE=\"cdn.example\"\n\
        #EXT-X-DEFINE:QUERYPARAM=\"token\"\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttps://{$host}/a.m3u8?token={$token}\n";
    let outside = Outside { query: "x=1&token=a%2Fb%24%7Bx", imports: None };
    let Ok(Playlist::Multivariant(multivariant)) = Playlist::parse_with(multivariant.as_bytes(), outside) else {
        panic!("a multivariant playlist");
    };
    assert_eq!(multivariant.faults, []);
    // What is put there is not looked through again.
    assert_eq!(&*multivariant.variants[0].uri, "https://cdn.example/a.m3u8?token=a/b${x");
    let media = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-DEFINE:IMPORT=\"host\"\n#EXT-X-MAP:URI=\"//{$host}/i.mp4\"\n\
        #EXTINF:4,\n//{$host}/{$host}.mp4\n#EXT-X-DEFINE:IMPORT=\"other\"\n";
    let outside = Outside { query: "", imports: Some(&multivariant.variables) };
    let Ok(Playlist::Media(media)) = Playlist::parse_with(media.as_bytes(), outside) else {
        panic!("a media playlist")
    };
    assert_eq!(media.segments[0].uri.as_deref(), Some("//cdn.example/cdn.example.mp4"));
    assert_eq!(media.segments[0].map.as_ref().map(|map| &*map.uri), Some("//cdn.example/i.mp4"));
    assert_eq!(media.faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [7], "{:?}", media.faults);
}

#[test]
fn values_that_grow_without_end_are_refused() {
    let long = "x".repeat(1 << 20);
    let text = format!("#EXTM3U\n#EXT-X-DEFINE:NAME=\"a\",VALUE=\"{long}\"\n{}\n", "{$a}".repeat(100));
    assert!(matches!(Playlist::parse(text.as_bytes()), Err(ReadError::TooLong(_))));
}
