//! Rules of the standards list that need more than one look at a playlist. The others are checked at every version of every
//! playlist, by `testkit::playlist`.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use hls::{Continuation, Decision, Directives, Packager, PackagerConfig, Resource};
use media::{AccessUnit, Dts, Pts, TrackKind};
use testkit::playlist::Playlist;

use crate::world::{START_UTC_NANOS, World, fragment};

const TRACKS: [TrackKind; 2] = [TrackKind::Video, TrackKind::Audio];

fn world() -> World {
    let mut world = World::new(PackagerConfig::default());
    world.connect(Some("ffmpeg-5.1-avcc-30.bin"), Some(48_000));
    world
}

fn resource(world: &World, name: &str) -> Option<Vec<u8>> {
    let track = if name.starts_with('v') { TrackKind::Video } else { TrackKind::Audio };
    match world.packager.playlist(track).expect("there").resource(name) {
        Resource::Ready(slices) => Some(slices.concat()),
        _ => None,
    }
}

#[test]
fn ll_02_a_part_comes_no_later_than_its_length_after_the_one_before() {
    let mut world = world();
    world.run(0, 4);
    let (mut parts, mut last) = (world.packager.playlist(TrackKind::Video).expect("there").parts(), world.passed);
    for frame in 120..600 {
        let at = Duration::from_millis(frame * 1000 / 30);
        world.pass(at.saturating_sub(world.passed));
        let millis = i64::try_from(frame * 1000 / 30).expect("short");
        world.video(millis, 0, frame % 30 == 0);
        let now = world.packager.playlist(TrackKind::Video).expect("there").parts();
        if now > parts {
            // The clock of the test has a grain of a millisecond.
            let limit = Duration::from_millis(201);
            assert!(world.passed - last <= limit || parts == 0, "{:?} without a part", world.passed - last);
            (parts, last) = (now, world.passed);
        }
    }
    assert!(world.passed - last < Duration::from_millis(200), "parts came to the end");
}

#[test]
fn ll_05_and_06_what_is_not_listed_any_more_can_still_be_fetched_for_as_long_as_it_must() {
    let mut world = world();
    world.run(0, 10);
    let early = world.playlist(TrackKind::Video).expect("there").segments[1].clone();
    let part = early.uri.replace(".m4s", ".3.m4s");
    let known = [resource(&world, &early.uri), resource(&world, &part)];
    assert!(known.iter().all(Option::is_some));
    // The window is 32 s; the list that held it last was about as long, and the segment lasts 2 s.
    let mut removed_at = None;
    for second in 10..120 {
        world.run(second * 30, 1);
        let is_listed =
            world.playlist(TrackKind::Video).expect("there").segments.iter().any(|one| one.uri == early.uri);
        if !is_listed && removed_at.is_none() {
            removed_at = Some(second);
        }
        let since = removed_at.map_or(0, |removed| second - removed);
        let now = [resource(&world, &early.uri), resource(&world, &part)];
        if since <= 34 {
            assert!(now == known, "{second} s: it is there, and never changes");
        } else if since > 40 {
            assert!(now.iter().all(Option::is_none), "{second} s: it is not kept for ever");
            return;
        }
    }
    panic!("it was never removed");
}

#[test]
fn ll_10_independent_is_on_every_part_with_a_random_access_point_and_no_other() {
    let mut world = world();
    world.run(0, 9);
    let (mut with, mut without) = (0, 0);
    for segment in world.playlist(TrackKind::Video).expect("there").segments {
        for part in segment.parts {
            let bytes = resource(&world, &part.uri).expect("listed");
            let has_key = bytes.windows(6).any(|window| window == [0, 0, 0, 2, 0x65, 1]);
            assert_eq!(part.independent, has_key, "{}", part.uri);
            if has_key { with += 1 } else { without += 1 }
        }
    }
    assert!(with > 2 && without > 10, "{with} and {without}");
}

#[test]
fn ll_16_directives_mean_nothing_after_the_end() {
    let mut world = world();
    world.run(0, 6);
    let directives = Directives { msn: Some(u64::MAX), part: Some(77), skip: true };
    let decide = |world: &World| world.packager.playlist(TrackKind::Video).expect("there").decide(directives);
    assert!(matches!(decide(&world), Decision::Refuse(_)), "LL-14 before it");
    world.packager.handle_end();
    assert_eq!(decide(&world), Decision::Reply);
    let text = world.packager.render_media(TrackKind::Video, true).expect("there");
    assert!(text.ends_with("#EXT-X-ENDLIST\n") && !text.contains("EXT-X-SKIP") && !text.contains("PRELOAD-HINT"));
}

#[test]
fn ll_20_and_24_renditions_report_each_other_and_share_their_clock_and_numbers() {
    let mut world = world();
    world.run(0, 50);
    let lists = TRACKS.map(|track| world.playlist(track).expect("there"));
    for (list, other) in lists.iter().zip([TrackKind::Audio, TrackKind::Video]) {
        let position = world.packager.playlist(other).and_then(hls::MediaPlaylist::position).expect("has media");
        assert_eq!(list.report, Some((position.msn, position.part)), "where the other one stands");
    }
    let [video, audio] = &lists;
    assert_eq!(video.media_sequence, audio.media_sequence, "AUTH-07: the same span");
    assert!(video.complete().count() >= 6, "AUTH-06");
    let mut offset = 0.0;
    for (picture, sound) in video.complete().zip(audio.complete()) {
        // Sound begins with the first frame at or after the cut, and its date says so.
        let apart = sound.date_ms.expect("dated") - picture.date_ms.expect("dated");
        assert!((0..=23).contains(&apart), "{apart} ms between {} and {}", picture.uri, sound.uri);
        offset += sound.duration - picture.duration;
        assert!(offset.abs() < 0.0214, "AUTH-03, AUTH-07: {offset} s apart");
    }
}

#[test]
fn auth_08_a_break_is_a_discontinuity_at_the_same_number_in_all_renditions() {
    let mut world = world();
    world.run(0, 6);
    world.disconnect();
    world.pass(Duration::from_millis(500));
    world.connect(Some("ffmpeg-5.1-avcc-25.bin"), Some(48_000));
    world.run(7 * 30, 6);
    let numbers = TRACKS.map(|track| {
        let list = world.playlist(track).expect("there");
        list.segments.iter().filter(|segment| segment.discontinuity).map(|segment| segment.number).collect::<Vec<_>>()
    });
    assert_eq!(numbers[0], numbers[1]);
    assert_eq!(numbers[0].len(), 1, "once, for the change of the picture's configuration");
    assert_eq!(world.broken, Vec::<String>::new());
}

/// Encoders send sound later than the picture, or earlier. Where only the picture becomes another, all of it is heard.
#[test]
fn auth_08_sound_that_stays_as_it_is_has_no_hole_where_the_picture_becomes_another() {
    let codecs = ["ffmpeg-5.1-avcc-30.bin", "ffmpeg-5.1-avcc-25.bin"].map(|fixture| {
        let mut world = World::new(PackagerConfig::default());
        world.connect(Some(fixture), Some(48_000));
        world.run(0, 3);
        TRACKS.map(|track| world.packager.codec(track).cloned())
    });
    let [[one, sound], [other, _]] = codecs;
    // Where the change is, by how much sound is behind, and where there is none. At 61 a segment has just begun, which the sound has not reached.
    for (change, behind, missing) in
        [(90, -2000, 0..0), (90, 0, 0..0), (90, 6400, 0..0), (90, 12_800, 0..0), (61, 6400, 0..0), (90, 0, 62..149)]
    {
        let case = format!("{behind} behind at {change}, none in {missing:?}");
        let mut packager = Packager::new(
            PackagerConfig::default(),
            Continuation { first_number: 7, discontinuities: 0, is_resumed: false },
        );
        packager.set_tracks(one.clone(), sound.clone());
        let mut heard = 0;
        for frame in 0..200_i64 {
            if frame == change {
                packager.set_tracks(other.clone(), sound.clone());
            }
            let later = if frame < change { 0 } else { 600_000_000 };
            let arrival = START_UTC_NANOS + frame * 1_000_000_000 / 30 + later;
            packager.handle_unit(unit(TrackKind::Video, frame * 12_000, frame % 30 == 0 || frame == change), arrival);
            while heard < frame * 1600 - behind {
                if !missing.contains(&frame) {
                    packager.handle_unit(unit(TrackKind::Audio, heard, true), arrival);
                }
                heard += 1024;
            }
        }
        let breaks = TRACKS.map(|track| {
            let list = Playlist::parse(&packager.render_media(track, false).expect("a playlist"));
            let mut end = None;
            for part in list.segments.iter().flat_map(|segment| &segment.parts) {
                let Resource::Ready(slices) = packager.playlist(track).expect("there").resource(&part.uri) else {
                    panic!("{} is listed and not there", part.uri);
                };
                let (start, length, _) = fragment(&slices[0], track);
                let is_next = end.is_none_or(|end| end == start) || !missing.is_empty();
                assert!(is_next, "{case}: {} begins at {start}, not {end:?}", part.uri);
                end = Some(start + length);
                if track == TrackKind::Audio {
                    // None of it stands for what is missing behind it.
                    let frames = u32::from_be_bytes(slices[0][80..84].try_into().expect("four bytes"));
                    assert_eq!(length, 1024 * u64::from(frames), "{case}: {}", part.uri);
                }
            }
            let numbers = list.segments.iter().filter(|segment| segment.discontinuity).map(|segment| segment.number);
            let dates = list.segments.iter().map(|segment| (segment.number, segment.date_ms.expect("dated")));
            (numbers.collect::<Vec<_>>(), dates.collect::<HashMap<_, _>>())
        });
        let [(of_pictures, shown), (of_sound, heard)] = breaks;
        assert_eq!((of_pictures.len(), &of_pictures), (1, &of_sound), "{case}");
        for (number, date) in heard.iter().filter(|_| missing.is_empty()) {
            // What was there of the sound when the picture changed is heard before the change.
            let (apart, ahead) = (date - shown[number], (-behind).max(0) / 48);
            assert!((0..=23 + ahead).contains(&apart), "{case}: {apart} ms between picture and sound of {number}");
        }
    }
}

fn unit(track: TrackKind, dts: i64, is_random_access: bool) -> AccessUnit {
    let duration = Some(1024).filter(|_| track == TrackKind::Audio);
    AccessUnit {
        track,
        dts: Dts(dts),
        pts: Pts(dts),
        duration,
        is_random_access,
        payload: Bytes::from_static(b"unit").into(),
    }
}

#[test]
fn ll_07_a_list_of_nothing_but_gaps_is_still_answered_at_once() {
    let mut world = world();
    world.run(0, 6);
    world.disconnect();
    world.pass(Duration::from_secs(50)); // the window is 32 s, the hold time 60
    for track in TRACKS {
        let list = world.packager.playlist(track).expect("there");
        assert!(list.segments().all(|segment| segment.is_gap), "the source is long gone");
        assert_eq!(list.decide(Directives::default()), Decision::Reply, "it lives for the hold time");
    }
    assert!(world.packager.render_multivariant("b").is_some());
}
