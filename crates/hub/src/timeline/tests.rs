//! What encoders do, and what comes out.

use super::*;

const MILLI: i64 = 1_000_000;

fn audio_48() -> AudioConfig {
    codec::aac::lc_config(48_000, 2).expect("in the tables")
}

fn picture(is_random_access: bool) -> VideoUnit {
    VideoUnit { payload: Bytes::from_static(b"picture").into(), is_random_access, new_config: None }
}

fn units(timeline: &mut Timeline, track: TrackKind) -> Vec<AccessUnit> {
    std::iter::from_fn(|| timeline.poll())
        .filter_map(|item| match item {
            Repaired::Unit(unit) | Repaired::StandIn(unit) if unit.track == track => Some(unit),
            Repaired::Unit(_) | Repaired::StandIn(_) | Repaired::Config(_) => None,
        })
        .collect()
}

fn dts(units: &[AccessUnit]) -> Vec<i64> {
    units.iter().map(|unit| unit.dts.0).collect()
}

#[test]
fn b_frames_keep_their_order_on_the_grid() {
    let mut timeline = Timeline::new();
    timeline.hint_frame_rate(FrameRate::new(30_000, 1001).expect("not zero"));
    let now = Instant::now();
    // IBBP at 29.97: composition offsets 2, 4, 1, 0 ... frames, as rounded milliseconds
    for (frame, offset) in [(0, 67), (1, 133), (2, 33), (3, 0), (4, 67)] {
        timeline.video(now, frame * 1001 / 30 * MILLI, offset * MILLI, picture(frame == 0));
    }

    let units = units(&mut timeline, TrackKind::Video);
    assert_eq!(dts(&units), [0, 12_012, 24_024, 36_036, 48_048]);
    let offsets: Vec<i64> = units.iter().map(|unit| unit.composition_offset().0 / 12_012).collect();
    assert_eq!(offsets, [2, 4, 1, 0, 2]);
}

#[test]
fn disorder_and_impossible_offsets_are_repaired_and_counted() {
    let mut timeline = Timeline::new();
    let now = Instant::now();
    for (time, offset) in [(0, 0), (40, -5), (40, 0), (20, 0), (80, 60_000_000)] {
        timeline.video(now, time * MILLI, offset * MILLI, picture(false));
    }

    let units = units(&mut timeline, TrackKind::Video);
    assert!(dts(&units).windows(2).all(|pair| pair[0] < pair[1]));
    assert!(units.iter().all(|unit| unit.pts.0 >= unit.dts.0));
    let repairs = timeline.repairs();
    assert_eq!((repairs.disorder, repairs.composition), (2, 2));
}

#[test]
fn announced_sound_that_never_comes_is_silence_and_makes_room_when_it_does() {
    let mut timeline = Timeline::new();
    timeline.audio_config(audio_48());
    let start = Instant::now();
    for frame in 0..60 {
        timeline.video(start, frame * 40 * MILLI, 0, picture(frame == 0));
    }
    let silence = units(&mut timeline, TrackKind::Audio);
    assert!(silence.len() > 100, "2.4 s at 47 frames/s, less what may be late: {}", silence.len());
    assert!(silence.windows(2).all(|pair| pair[1].dts - pair[0].dts == 1024));

    for frame in 0..20 {
        timeline.audio(start, (2200 + frame * 64 / 3) * MILLI, Bytes::from_static(b"sound"));
    }
    let real = units(&mut timeline, TrackKind::Audio);
    assert!(real.len() >= 10, "what lies ahead of the silence is played");
    assert_eq!(real[0].dts.0, silence.last().expect("some").dts.0 + 1024, "without a hole");
    assert_eq!(timeline.repairs().silence, silence.len() as u64);
}

#[test]
fn sound_and_picture_keep_their_distance_over_a_jump() {
    let mut timeline = Timeline::new();
    timeline.audio_config(audio_48());
    let mut now = Instant::now();
    for frame in 0..200i64 {
        let jump = if frame < 100 { 0 } else { 5_000_000 };
        now += Duration::from_millis(20);
        timeline.video(now, (frame * 20 + jump) * MILLI, 0, picture(frame % 50 == 0));
        timeline.audio(now, (frame * 20 + jump) * MILLI, Bytes::from_static(b"sound"));
    }
    let mut last = (0, 0);
    while let Some(item) = timeline.poll() {
        if let Repaired::Unit(unit) | Repaired::StandIn(unit) = item {
            match unit.track {
                TrackKind::Video => last.0 = unit.dts.0 / 360,
                TrackKind::Audio => last.1 = unit.dts.0 / 48,
            }
        }
    }
    assert!((last.0 - last.1).abs() < 40, "{last:?}");
    assert!((last.0 - 199 * 20).abs() < 40, "no time was lost: {last:?}");
    assert_eq!(timeline.repairs().jumps, 1);
}

#[test]
fn a_source_faster_than_real_time_is_told_how_far_it_is_ahead() {
    let mut timeline = Timeline::new();
    let mut now = Instant::now();
    for frame in 0..100i64 {
        now += Duration::from_millis(4);
        timeline.video(now, frame * 40 * MILLI, 0, picture(false));
    }
    let ahead = timeline.ahead();
    assert!((Duration::from_millis(3500)..Duration::from_millis(3600)).contains(&ahead), "{ahead:?}");
    timeline.video(now + Duration::from_secs(8), 4000 * MILLI, 0, picture(false));
    assert_eq!(timeline.ahead(), Duration::ZERO);
    for frame in 0..100i64 {
        timeline.video(now + Duration::from_secs(8), (4040 + frame * 40) * MILLI, 0, picture(false));
    }
    assert!(
        timeline.ahead() < Duration::from_millis(200),
        "a backlog after a stall is not ahead: {:?}",
        timeline.ahead()
    );
}

#[test]
fn a_clock_that_is_a_little_fast_is_never_called_ahead() {
    let mut timeline = Timeline::new();
    let start = Instant::now();
    for second in 0..86_400i64 {
        let now = start + Duration::from_micros(1_000_000 - 100) * u32::try_from(second).expect("small");
        timeline.video(now, second * 1_000_000_000, 0, picture(true));
        timeline.poll();
    }
    assert!(timeline.ahead() < Duration::from_millis(100), "{:?}", timeline.ahead());
}
