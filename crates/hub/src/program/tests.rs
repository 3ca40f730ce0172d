//! Legs that come and go, and the timeline that stays.

use bytes::Bytes;
use media::{Dts, Pts};

use super::*;
use crate::ring::Found;

struct Rig {
    program: Program,
    now: Instant,
    leg: u64,
    standby: Standby,
}

fn video_config(name: &str) -> CodecConfig {
    CodecConfig::Video(media::VideoConfig {
        codec: media::VideoCodec::Avc,
        record: Bytes::copy_from_slice(name.as_bytes()),
        width: 640,
        height: 360,
        frame_rate: None,
        codec_string: "avc1.64001f".into(),
        reorder_frames: None,
        colour: None,
    })
}

fn audio_config() -> CodecConfig {
    CodecConfig::Audio(codec::aac::lc_config(48_000, 2).expect("in the tables"))
}

impl Rig {
    fn new() -> Self {
        let (program, now) = (Program::new(Duration::from_millis(200), MergeMode::Swift), Instant::now());
        Self { program, now, leg: 0, standby: Standby::new(now) }
    }

    fn at(&self) -> Arrival {
        Arrival { now: self.now, utc_nanos: 0 }
    }

    /// Another leg connects.
    fn connect(&mut self, announced: Announced) {
        self.leg += 1;
        self.standby = Standby::new(self.now);
        self.standby.announced = announced;
    }

    fn leave(&mut self) {
        self.program.forget(self.at(), self.leg);
    }

    fn config(&mut self, config: CodecConfig) {
        self.program.config(self.leg, config.clone());
        self.standby.config(config);
    }

    fn begin(&mut self, video: &str) {
        self.connect(Announced { video: true, audio: true });
        self.config(video_config(video));
        self.config(audio_config());
    }

    fn unit(&mut self, track: TrackKind, dts: i64, is_random_access: bool) {
        let (duration, payload) = (Some(1024).filter(|_| track == TrackKind::Audio), Bytes::from_static(b"x").into());
        let (dts, pts) = (Dts(dts), Pts(dts));
        let unit = AccessUnit { track, dts, pts, duration, is_random_access, payload };
        let (at, incoming) = (self.at(), Incoming { unit, hash: None, is_stand_in: false });
        if self.program.is_fed_by(self.leg) {
            return self.program.unit(at, self.leg, incoming);
        }
        self.standby.push(at, incoming);
        if self.program.leader().is_none() {
            self.program.join(at, self.leg, &mut self.standby, None);
        }
    }

    /// A second of 25 frames/s and 47 frames of sound, both in leg time.
    fn second(&mut self, index: i64) {
        for frame in 0..25 {
            self.unit(TrackKind::Video, index * 360_000 + frame * 14_400, frame == 0);
            self.now += Duration::from_millis(40);
        }
        for frame in (index * 48_000 / 1024)..((index + 1) * 48_000 / 1024) {
            self.unit(TrackKind::Audio, frame * 1024, true);
        }
    }

    fn emitted(&self, track: TrackKind) -> Vec<i64> {
        (self.program.ring.oldest()..self.program.ring.head())
            .filter_map(|number| match self.program.ring.get(number) {
                Found::Entry(entry) => match &entry.item {
                    Item::Unit(unit) if unit.track == track => Some(unit.dts.0),
                    _ => None,
                },
                _ => None,
            })
            .collect()
    }
}

#[test]
fn units_before_the_first_random_access_point_are_dropped() {
    let mut rig = Rig::new();
    rig.begin("a");
    rig.unit(TrackKind::Video, 0, false);
    rig.unit(TrackKind::Audio, 0, true);
    rig.unit(TrackKind::Video, 14_400, true);
    rig.unit(TrackKind::Audio, 1024, true);
    rig.unit(TrackKind::Audio, 2048, true);

    assert_eq!(rig.emitted(TrackKind::Video), [PROGRAM_START]);
    assert_eq!(rig.emitted(TrackKind::Audio).len(), 1, "only sound from the picture on");
    assert_eq!(rig.program.stats.dropped_units, 3);
}

#[test]
fn a_leg_that_returns_with_restarted_stamps_goes_on_without_a_discontinuity() {
    let mut rig = Rig::new();
    rig.begin("a");
    (0..3).for_each(|second| rig.second(second));
    rig.leave();
    rig.now += Duration::from_millis(1500);
    rig.begin("a");
    (0..3).for_each(|second| rig.second(second));

    let video = rig.emitted(TrackKind::Video);
    assert!(video.windows(2).all(|pair| pair[0] < pair[1]));
    let hole = video[75] - video[74];
    assert!((hole - 360 * 1540).abs() <= 360 * 20, "the hole is what passed: {} ms", hole / 360);
    let audio = rig.emitted(TrackKind::Audio);
    assert!(audio.windows(2).all(|pair| pair[1] - pair[0] == 1024), "silence fills the hole on the grid");
    assert_eq!(rig.program.stats.discontinuities, 0);
}

#[test]
fn other_parameter_sets_are_one_discontinuity() {
    let mut rig = Rig::new();
    rig.begin("a");
    rig.second(0);
    let before = Arc::clone(&rig.program.tracks);
    rig.leave();
    rig.begin("b");
    rig.second(0);

    assert!(!Arc::ptr_eq(&before, &rig.program.tracks));
    assert_eq!(rig.program.stats.discontinuities, 1);
}

#[test]
fn a_leg_without_sound_is_silent_where_the_program_has_sound() {
    let mut rig = Rig::new();
    rig.begin("a");
    rig.second(0);
    let before = Arc::clone(&rig.program.tracks);
    rig.leave();
    rig.connect(Announced { video: true, audio: false });
    rig.config(video_config("a"));
    for frame in 0..50 {
        rig.unit(TrackKind::Video, frame * 14_400, frame % 25 == 0);
        rig.now += Duration::from_millis(40);
    }

    assert!(Arc::ptr_eq(&before, &rig.program.tracks), "nothing a decoder would notice");
    let audio = rig.emitted(TrackKind::Audio);
    assert!(audio.windows(2).all(|pair| pair[1] - pair[0] == 1024));
    assert!(audio.len() > 130, "three seconds: {}", audio.len());
}

#[test]
fn sound_without_picture_begins_after_the_census() {
    let mut rig = Rig::new();
    rig.connect(Announced::default());
    rig.config(audio_config());
    for frame in 0..60 {
        rig.unit(TrackKind::Audio, frame * 1024, true);
        rig.now += Duration::from_millis(21);
    }
    assert_eq!(rig.emitted(TrackKind::Audio).len(), 60, "nothing that was collected is lost");
}
