//! Regular sources, long runs.

use std::time::Duration;

use hls::PackagerConfig;
use media::TrackKind;

use crate::world::{START_UTC_NANOS, World};

/// A source of `frames` pictures at a rate, a key frame every `gop`, with sound; the encoder's clock runs at `ppm`.
struct Source {
    numerator: i64,
    denominator: i64,
    gop: i64,
    ppm: i64,
    b_frames: bool,
}

fn run(world: &mut World, source: &Source, from: i64, frames: i64, audio_rate: i64) {
    let mut sound = from * source.denominator * audio_rate / source.numerator / 1024;
    for frame in from..from + frames {
        let millis = frame * 1000 * source.denominator / source.numerator;
        let wall = i128::from(frame) * 1_000_000_000 * i128::from(source.denominator) / i128::from(source.numerator);
        let wall = wall * 1_000_000 / i128::from(1_000_000 + source.ppm);
        let wall = Duration::from_nanos(u64::try_from(wall).expect("positive"));
        world.pass(wall.saturating_sub(world.passed));
        let (numerator, denominator) = (source.numerator, source.denominator);
        let shown = |position: i64| position * 1000 * denominator / numerator;
        // I P B B order: DTS two frames ahead of what is shown
        let offset = match (source.b_frames, frame % 3) {
            (true, 0) => shown(frame + 2) - shown(frame),
            (true, 1) => shown(frame + 1) - shown(frame),
            _ => 0,
        };
        world.video(
            millis,
            if frame % source.gop == 0 && source.b_frames { shown(frame + 2) - shown(frame) } else { offset },
            frame % source.gop == 0,
        );
        while sound * 1024 * 1000 / audio_rate <= millis {
            world.audio(sound * 1024 * 1000 / audio_rate);
            sound += 1;
        }
    }
}

fn fixture(numerator: i64, denominator: i64) -> String {
    if denominator == 1 {
        format!("ffmpeg-5.1-avcc-{numerator}.bin")
    } else {
        format!("ffmpeg-5.1-avcc-{numerator}_{denominator}.bin")
    }
}

#[test]
fn every_common_rate_keeps_the_rules_with_and_without_b_frames() {
    for (numerator, denominator) in
        [(24_000, 1001), (24, 1), (25, 1), (30_000, 1001), (30, 1), (50, 1), (60_000, 1001), (60, 1)]
    {
        for (b_frames, audio_rate) in [(false, 48_000), (true, 44_100)] {
            let gop = 2 * numerator / denominator + i64::from(denominator == 1001);
            let source = Source { numerator, denominator, gop, ppm: 0, b_frames };
            let mut world = World::new(PackagerConfig::default());
            world.connect(Some(&fixture(numerator, denominator)), Some(u32::try_from(audio_rate).expect("small")));
            run(&mut world, &source, 0, 40 * numerator / denominator, audio_rate);

            assert!(
                world.broken.is_empty(),
                "{numerator}/{denominator}: {:#?}",
                &world.broken[..world.broken.len().min(5)]
            );
            let video = world.playlist(TrackKind::Video).expect("published");
            let audio = world.playlist(TrackKind::Audio).expect("published");
            assert!(video.segments.len() >= 8, "{} segments", video.segments.len());
            assert_eq!(world.packager.eras(), 0, "{numerator}/{denominator}");
            let numbers =
                |playlist: &testkit::playlist::Playlist| (playlist.media_sequence, playlist.complete().count());
            assert_eq!(numbers(&video).0, numbers(&audio).0, "AUTH-07");
            let expected = f64::from(u32::try_from(gop * denominator).expect("small"))
                / f64::from(u32::try_from(numerator).expect("small"));
            assert!(video.complete().all(|segment| (segment.duration - expected).abs() < 0.001), "{expected}");
        }
    }
}

#[test]
fn obs_automatic_keyframes_are_cut_at_parts_and_keep_the_target_duration() {
    let mut world = World::new(PackagerConfig::default());
    world.connect(Some(&fixture(30, 1)), Some(48_000));
    run(&mut world, &Source { numerator: 30, denominator: 1, gop: 250, ppm: 0, b_frames: false }, 0, 3000, 48_000);

    assert!(world.broken.is_empty(), "{:#?}", world.broken);
    let video = world.playlist(TrackKind::Video).expect("published");
    assert!(video.complete().any(|segment| segment.parts.is_empty() || !segment.parts[0].independent));
    assert!(video.segments.iter().flat_map(|segment| &segment.parts).any(|part| part.independent), "LL-10");
}

#[test]
fn a_day_of_60_frame_gops_at_29_97_and_100_ppm_stays_on_the_clock() {
    let mut world = World::new(PackagerConfig::default());
    world.checks_all = false;
    world.connect(Some(&fixture(30_000, 1001)), Some(48_000));
    let source = Source { numerator: 30_000, denominator: 1001, gop: 60, ppm: 100, b_frames: false };
    let first = world.packager.next_number();
    let gops_an_hour = 3600 * 30_000 / 1001 / 60;
    let frames = 24 * gops_an_hour * 60;
    for hour in 0..24 {
        run(&mut world, &source, hour * gops_an_hour * 60, gops_an_hour * 60, 48_000);
        let video = world.playlist(TrackKind::Video).expect("published");
        let last = video.complete().last().expect("some");
        // Its first picture left the encoder then, by the true clock.
        let picture = i128::from(last.number - first) * 60 * 1001 * 1_000_000_000 / 30_000;
        let left = picture * 1_000_000 / 1_000_100;
        let left_ms = i64::try_from((i128::from(START_UTC_NANOS) + left) / 1_000_000).expect("small");
        let off = last.date_ms.expect("dated") - left_ms;
        assert!(off.abs() <= 50, "hour {hour}: PROGRAM-DATE-TIME is {off} ms off");
    }

    world.check();
    assert!(world.broken.is_empty(), "{:#?}", &world.broken[..world.broken.len().min(5)]);
    let (video, audio) = (world.playlist(TrackKind::Video).expect("is"), world.playlist(TrackKind::Audio).expect("is"));
    let gops = u64::try_from(frames / 60).expect("small");
    assert!(world.packager.next_number().abs_diff(first + gops) <= 1, "one number for each GOP, in one era");
    assert_eq!(world.packager.eras(), 0);
    let last = |playlist: &testkit::playlist::Playlist| playlist.segments.last().cloned().expect("some");
    let (video, audio) = (last(&video), last(&audio));
    assert!(audio.number.abs_diff(video.number) <= 1);
    let now_ms = world.at().utc_nanos / 1_000_000;
    let end = |segment: &testkit::playlist::Segment| {
        let length: f64 = segment.length();
        segment.date_ms.expect("a date") + i64::try_from(Duration::from_secs_f64(length).as_millis()).expect("short")
    };
    // The newest part is not listed yet, and the one unit that is held back: up to 0.25 s.
    assert!((0..300).contains(&(now_ms - end(&video))), "video is {} ms off", now_ms - end(&video));
    assert!((end(&video) - end(&audio)).abs() < 300, "sound is {} ms off", end(&video) - end(&audio));
}

#[test]
fn a_source_that_returns_after_seconds_finds_gaps_that_end_where_it_begins() {
    for away in [2500, 4200, 7100] {
        let mut world = World::new(PackagerConfig::default());
        let source = Source { numerator: 30, denominator: 1, gop: 30, ppm: 0, b_frames: false };
        world.connect(Some(&fixture(30, 1)), Some(48_000));
        run(&mut world, &source, 0, 150, 48_000);
        world.disconnect();
        world.pass(Duration::from_millis(away));
        world.connect(Some(&fixture(30, 1)), Some(48_000));
        for frame in 0..90 {
            world.video(frame * 33, 0, frame % 30 == 0);
            world.audio(frame * 33);
            world.pass(Duration::from_millis(33));
        }

        assert!(world.broken.is_empty(), "{away}: {:#?}", world.broken);
        for track in [TrackKind::Video, TrackKind::Audio] {
            let playlist = world.playlist(track).expect("published");
            assert!(playlist.segments.iter().any(|segment| segment.gap), "{away}: gaps");
            for pair in playlist.segments.windows(2) {
                assert!(!pair[1].discontinuity, "{away}: {pair:#?}");
                let length = i64::try_from(Duration::from_secs_f64(pair[0].length()).as_millis()).expect("short");
                let (start, next) = (pair[0].date_ms.expect("dated"), pair[1].date_ms.expect("dated"));
                assert!((start + length - next).abs() < 50, "{away}: {pair:#?}");
            }
        }
    }
}

/// What was held up on its way comes at once: what lies in the gap that was told meanwhile is passed over, or it would be latency for
/// good, with dates that run ahead.
#[test]
fn what_was_held_up_while_a_gap_was_told_does_not_become_latency() {
    let mut world = World::new(PackagerConfig::default());
    world.connect(Some(&fixture(30, 1)), Some(48_000));
    world.run(0, 5);
    world.pass(Duration::from_millis(3500));
    world.run(150, 10); // three and a half seconds of it at once, and then what is live

    assert!(world.broken.is_empty(), "{:#?}", world.broken);
    for track in [TrackKind::Video, TrackKind::Audio] {
        let playlist = world.playlist(track).expect("published");
        assert!(playlist.segments.iter().any(|segment| segment.gap), "a gap was told");
        assert!(!playlist.segments.iter().any(|segment| segment.discontinuity), "{playlist:#?}");
        let last = playlist.segments.last().expect("there");
        let end = last.date_ms.expect("dated")
            + i64::try_from(Duration::from_secs_f64(last.length()).as_millis()).expect("short");
        let behind = world.at().utc_nanos / 1_000_000 - end;
        assert!((0..300).contains(&behind), "{track:?} ends {behind} ms before now");
    }
}

/// With keyframes far apart the next one would be seconds away: what was held up is shown at once.
#[test]
fn what_was_held_up_is_shown_where_the_next_keyframe_is_far() {
    let mut world = World::new(PackagerConfig::default());
    world.connect(Some(&fixture(30, 1)), Some(48_000));
    let units = |world: &mut World, frames: std::ops::Range<i64>| {
        for frame in frames {
            let wall = Duration::from_millis(u64::try_from(frame * 100 / 3).expect("positive"));
            world.pass(wall.saturating_sub(world.passed));
            world.video(frame * 100 / 3, 0, frame % 250 == 0);
            world.audio(frame * 100 / 3);
        }
    };
    units(&mut world, 0..480);
    world.pass(Duration::from_millis(3500));
    units(&mut world, 480..600); // until half a second after it came back; the next keyframe is five seconds away

    assert!(world.broken.is_empty(), "{:#?}", world.broken);
    let playlist = world.playlist(TrackKind::Video).expect("published");
    let gap = playlist.segments.iter().position(|segment| segment.gap).expect("a gap was told");
    let mut after = playlist.segments[gap..].iter().flat_map(|segment| &segment.parts);
    assert!(after.any(|part| part.independent), "a picture that can be decoded: {playlist:#?}");
}

/// Slides, or a camera that saves: each picture stands until the next one, and none of it is a gap. PART-TARGET is what its parts last, and
/// players keep three of them behind the edge, although the sound's first part comes before the picture's.
#[test]
fn ll_09_an_encoder_whose_pictures_are_rare_makes_no_gaps_and_says_how_long_its_parts_are() {
    for (frames_apart, rate, silence) in [(141, (1, 3), 0), (141, (1, 3), 8), (141, (30, 1), 8), (47, (1, 1), 0)] {
        let mut world = World::new(PackagerConfig::default());
        world.connect(Some(&fixture(rate.0, rate.1)), Some(48_000));
        for tick in 0..3000i64 {
            let millis = tick * 64 / 3;
            let wall = Duration::from_millis(u64::try_from(millis).expect("positive"));
            world.pass(wall.saturating_sub(world.passed));
            if (3000..3000 + silence * 1000).contains(&millis) {
                continue; // and once nothing at all for long
            }
            if tick % frames_apart == 0 {
                world.video(millis, 0, true);
            }
            world.audio(millis);
        }
        let case = format!("every {frames_apart} frames of sound, declared {rate:?}, {silence} s of silence");
        let playlist = world.playlist(TrackKind::Video).expect("published");
        let gaps: f64 =
            playlist.segments.iter().filter(|segment| segment.gap).map(testkit::playlist::Segment::length).sum();
        assert!(gaps == 0.0, "{case}: {playlist:#?}");
        assert!(playlist.segments.iter().all(|segment| !segment.discontinuity), "{case}");
        if rate.0 == 30 {
            continue; // it sends more rarely than it declares, as if what came after its first picture were lost
        }
        assert!(world.broken.is_empty(), "{case}: {:#?}", world.broken);
        let multivariant = world.packager.render_multivariant("x").expect("a player can start");
        let rate = if rate.1 == 3 { ",FRAME-RATE=0.333" } else { ",FRAME-RATE=1.000" };
        assert!(multivariant.contains(rate) || silence > 0, "AUTH-11, {case}: {multivariant}");
        let sound = world.playlist(TrackKind::Audio).expect("published");
        let apart = f64::from(u32::try_from(frames_apart).expect("small")) * 64.0 / 3000.0;
        for list in [&playlist, &sound] {
            assert!((3.0 * apart..3.5 * apart).contains(&list.part_hold_back), "{case}: {list:#?}");
        }
        assert!(sound.part_target < 0.25, "{case}: {sound:#?}");
    }
}
