//! Streams with several legs, at virtual time: copies of one encode, other encodes, and everything that goes wrong with them.

mod capture;
mod chance;
mod day;
mod health;
mod operator;
mod steady;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::{AudioCodec, TrackKind, VideoCodec};

use crate::{
    Announcement, Arrival, EventKind, Hub, HubConfig, Item, Leg, LegRole, MergeMode, Outage, Publisher,
    SecondPublisher, StreamState, Subscriber, SwitchReason,
};

const MILLI: i64 = 1_000_000;
/// Pictures a second, and of a GOP.
const RATE: i64 = 30;
const GOP: i64 = 60;
const SAMPLES: i64 = 1024;
const HZ: i64 = 48_000;

/// avcC of 1280x720, High.
const RECORD: &[u8] = &[
    1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 26, 0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50, 0x05, 0xbb, 0x01, 0x10, 0x00,
    0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0xc0, 0xf1, 0x83, 0x19, 0x60, 1, 0, 6, 0x68, 0xeb, 0xe3, 0xcb,
    0x22, 0xc0,
];

/// One unit of an encode: its number tells what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Made {
    encode: u8,
    track: u8,
    number: i64,
}

impl Made {
    /// When it is made, in nanoseconds of the encoder.
    fn nanos(self) -> i64 {
        if self.track == 0 { self.number * 1_000_000_000 / RATE } else { self.number * SAMPLES * 1_000_000_000 / HZ }
    }

    fn payload(self) -> Bytes {
        let number = self.number.to_be_bytes();
        let body = [&[self.encode, self.track], &number[..]].concat();
        if self.track == 1 {
            return body.into();
        }
        let kind = if self.number % GOP == 0 { 0x65 } else { 0x41 };
        [&[0, 0, 0, 12, kind][..], &body, &[0x80]].concat().into()
    }

    fn read(track: TrackKind, payload: &[u8]) -> Option<Self> {
        let body = if track == TrackKind::Video { payload.get(5..15)? } else { payload };
        let number = i64::from_be_bytes(body.get(2..10)?.try_into().ok()?);
        Some(Self { encode: *body.first()?, track: *body.get(1)?, number })
    }
}

/// How a path treats what it carries.
#[derive(Clone, Copy, Debug)]
struct Path {
    encode: u8,
    /// Added to the encoder's stamps.
    offset_nanos: i64,
    rounds_to_millis: bool,
    delay: Duration,
    /// I P B B …
    has_b_frames: bool,
    /// The encoder says when pictures are captured, by a clock that is wrong by so much.
    clock_error_nanos: Option<i64>,
}

struct World {
    hub: Hub,
    start: Instant,
    now_nanos: i64,
    subscriber: Option<Subscriber>,
    /// What came out, with its decode time in nanoseconds of the program.
    out: Vec<(Made, i64)>,
    /// Presentation times of pictures, likewise.
    shown: Vec<i64>,
    silence: u64,
    /// How long after it was made each came out, in nanoseconds.
    late: Vec<(Made, i64)>,
}

/// When worlds begin, in nanoseconds since 1970: 15 s before a midnight.
const UTC: i64 = 1_700_006_385_000_000_000;

fn name() -> media::StreamName {
    "show".parse().expect("a name")
}

impl World {
    fn new(config: HubConfig) -> Self {
        Self {
            hub: Hub::new(config),
            start: Instant::now(),
            now_nanos: 0,
            subscriber: None,
            out: Vec::new(),
            shown: Vec::new(),
            silence: 0,
            late: Vec::new(),
        }
    }

    fn at(&self) -> Arrival {
        let passed = Duration::from_nanos(u64::try_from(self.now_nanos).expect("forwards"));
        Arrival { now: self.start + passed, utc_nanos: UTC + self.now_nanos }
    }

    fn connect(&mut self, key: &str, rank: u8) -> Leg {
        self.connect_with(key, rank, &[0x11, 0x90])
    }

    /// A publisher with this record of its sound.
    fn connect_with(&mut self, key: &str, rank: u8, sound: &'static [u8]) -> Leg {
        let publisher = Publisher { protocol: "rtmp", key_id: key.into(), rank, ..Publisher::default() };
        let mut leg = self.hub.publish(self.at(), &name(), publisher).expect("let in");
        leg.announce(self.at().now, Announcement { video: true, audio: true, ..Announcement::default() });
        leg.video_config(self.at(), VideoCodec::Avc, &Bytes::from_static(RECORD)).expect("valid");
        leg.audio_config(self.at(), AudioCodec::Aac, &Bytes::from_static(sound)).expect("valid");
        self.subscriber.get_or_insert_with(|| leg.stream().subscribe_from_oldest());
        leg
    }

    fn bring(&mut self, leg: &mut Leg, path: &Path, made: Made) {
        let mut nanos = made.nanos() + path.offset_nanos;
        if path.rounds_to_millis {
            nanos = nanos / MILLI * MILLI;
        }
        if made.track == 0 {
            let frames = match made.number % GOP {
                _ if !path.has_b_frames => 0,
                0 => 1,
                number if number >= GOP - 2 => 1,
                number if number % 3 == 1 => 3,
                _ => 0,
            };
            leg.video_unit(self.at(), nanos, frames * SECOND / RATE, made.number % GOP == 0, &made.payload());
            if let Some(error) = path.clock_error_nanos {
                let day = (UTC + made.nanos() + error).rem_euclid(86_400 * SECOND);
                leg.captured(self.at(), nanos, day, 0);
            }
        } else {
            leg.audio_unit(self.at(), AudioCodec::Aac, nanos, made.payload());
        }
        self.drain();
    }

    fn tick(&mut self) {
        self.hub.tick(self.at());
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(entry) = self.subscriber.as_mut().and_then(Subscriber::try_next) {
            if let Item::Unit(unit) = &entry.item {
                let scale = entry.tracks.config(unit.track).expect("known").timescale();
                assert!(unit.pts.0 >= unit.dts.0);
                if unit.track == TrackKind::Video {
                    self.shown.push(scale.nanos(unit.pts.0));
                }
                match Made::read(unit.track, &unit.payload.to_bytes()) {
                    Some(made) => {
                        self.late.push((made, self.now_nanos - made.nanos()));
                        self.out.push((made, scale.nanos(unit.dts.0)));
                    }
                    None => self.silence += 1,
                }
            }
        }
    }

    fn status(&self) -> crate::StreamStatus {
        self.hub.stream(&name()).expect("is there").status(self.at().now)
    }

    fn switches(&self) -> Vec<std::sync::Arc<crate::Event>> {
        let events = self.hub.events().since(0, 10_000);
        events.into_iter().filter(|event| event.kind == EventKind::Switched).collect()
    }

    /// What must hold whatever happened.
    fn check(&self) {
        for track in 0..2u8 {
            let of_track: Vec<_> = self.out.iter().filter(|(made, _)| made.track == track).collect();
            assert!(of_track.windows(2).all(|pair| pair[0].1 < pair[1].1), "decode times increase on track {track}");
        }
        let mut seen = HashMap::new();
        for ((made, _), cut) in self.out.iter().zip(self.cuts()) {
            assert_ne!(seen.insert(made, cut), Some(cut), "{made:?} came twice");
        }
        let mut shown = self.shown.clone();
        shown.sort_unstable();
        assert!(shown.windows(2).all(|pair| pair[0] < pair[1]), "no two pictures are shown at one time");
        for event in self.switches() {
            assert!(event.reason.is_some(), "{event:?}");
        }
    }

    /// Numbers that are missing of an encode between the first and the last that came, for both tracks.
    fn missing(&self, encode: u8) -> [i64; 2] {
        [0, 1].map(|track| {
            let numbers = self.out.iter().filter(|(made, _)| (made.encode, made.track) == (encode, track));
            let numbers: Vec<i64> = numbers.map(|(made, _)| made.number).collect();
            match (numbers.iter().min(), numbers.iter().max()) {
                (Some(first), Some(last)) => last - first + 1 - i64::try_from(numbers.len()).expect("few"),
                _ => 0,
            }
        })
    }

    /// For each unit that came out, how often the program was cut before: a switch to what is not known as the same encode begins a GOP
    /// anew, and what is needed to decode the rest of it may come again.
    fn cuts(&self) -> impl Iterator<Item = usize> {
        let is_cut = |event: &std::sync::Arc<crate::Event>| !event.text.contains("same encode");
        let cuts: Vec<i64> =
            self.switches().iter().filter(|event| is_cut(event)).map(|event| event.utc_nanos - UTC).collect();
        self.late.iter().map(move |(made, late)| cuts.iter().filter(|cut| **cut <= made.nanos() + late).count())
    }

    /// The largest distance of sound and picture that were made at one time, in milliseconds.
    fn skew_ms(&self) -> i64 {
        let units: Vec<_> = self.out.iter().zip(self.cuts()).collect();
        let of = |track: u8| units.iter().filter(move |((made, _), _)| made.track == track);
        let mut worst = 0;
        let mut sound = of(1).peekable();
        let mut last = None;
        let mut before = 0;
        for ((picture, at), cut) in of(0) {
            // Pictures that are caught up come a millisecond apart, beside their sound: that is not what is measured.
            let is_caught_up = at - std::mem::replace(&mut before, *at) < 5 * MILLI;
            while let Some(((made, nanos), cut)) = sound.next_if(|((made, _), _)| made.nanos() <= picture.nanos()) {
                last = Some((made.encode, cut, nanos - made.nanos()));
            }
            if let Some((encode, of_cut, shift)) = last
                && (encode, of_cut) == (picture.encode, cut)
                && !is_caught_up
            {
                worst = worst.max((at - picture.nanos() - shift).abs() / MILLI);
            }
        }
        worst
    }
}

/// Units that an encoder makes in a span of its time, in the order in which it sends them.
fn units(encode: u8, from_nanos: i64, to_nanos: i64) -> Vec<Made> {
    let of = |track: u8| (0..).map(move |number| Made { encode, track, number });
    let within = |made: &Made| (from_nanos..to_nanos).contains(&made.nanos());
    let until = |made: &Made| made.nanos() < to_nanos;
    let mut all: Vec<Made> = of(0).take_while(until).chain(of(1).take_while(until)).filter(within).collect();
    all.sort_by_key(|made| (made.nanos(), made.track));
    all
}

/// Numbers that look random and are the same for the same seed: xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What a leg does in a run, made in advance: when it connects, what it brings when, when it leaves.
#[derive(Debug)]
enum Act {
    Connect,
    Bring(Made),
    Leave,
    /// Its stamps jump by so many nanoseconds.
    Jump(i64),
    Operate(Operation),
    /// Whoever decodes its samples sees no picture.
    LookBlack,
}

/// What an operator does.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Pin(Option<u64>),
    SwitchTo(u64),
    SetDisabled(u64, bool),
}

/// Plays acts of several legs in the order of time; each leg has one path and one key.
fn play(
    world: &mut World,
    paths: &[Path],
    keys: &[(&str, u8)],
    mut acts: Vec<(i64, usize, Act)>,
    until: i64,
) -> Vec<Option<Leg>> {
    acts.sort_by_key(|(nanos, ..)| *nanos);
    let mut paths = paths.to_vec();
    let mut legs: Vec<Option<Leg>> = paths.iter().map(|_| None).collect();
    let mut next_tick = 0;
    for (nanos, leg, act) in acts {
        while next_tick <= nanos {
            world.now_nanos = next_tick;
            world.tick();
            next_tick += 50 * MILLI;
        }
        world.now_nanos = nanos;
        match act {
            Act::Connect => legs[leg] = Some(world.connect(keys[leg].0, keys[leg].1)),
            Act::Bring(made) => {
                if let Some(mut source) = legs[leg].take() {
                    world.bring(&mut source, &paths[leg], made);
                    legs[leg] = Some(source);
                }
            }
            Act::Leave => {
                if let Some(source) = legs[leg].take() {
                    source.close(world.at());
                    world.drain();
                }
            }
            Act::Jump(by) => paths[leg].offset_nanos += by,
            Act::LookBlack => {
                let stream = world.hub.stream(&name()).expect("is there");
                stream.set_seen(world.at(), &[(u64::try_from(leg).expect("few"), Some("a black picture".into()))]);
                world.drain();
            }
            Act::Operate(operation) => {
                let stream = world.hub.stream(&name()).expect("is there");
                // A leg that is not there any more is told, and nothing happens.
                let _ = match operation {
                    Operation::Pin(leg) => stream.pin(world.at(), leg),
                    Operation::SwitchTo(leg) => stream.switch_to(world.at(), leg),
                    Operation::SetDisabled(leg, is_disabled) => stream.set_disabled(world.at(), leg, is_disabled),
                };
                world.drain();
            }
        }
    }
    while next_tick <= until {
        world.now_nanos = next_tick;
        world.tick();
        next_tick += 50 * MILLI;
    }
    legs
}

const SECOND: i64 = 1_000_000_000;

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).expect("short")
}

/// A leg that carries an encode from one time to another, with its path's delay.
fn carry(leg: usize, path: &Path, from: i64, to: i64) -> Vec<(i64, usize, Act)> {
    let brought = units(path.encode, from, to).into_iter();
    let brought = brought.map(|made| (made.nanos() + nanos(path.delay), leg, Act::Bring(made)));
    [(from, leg, Act::Connect)].into_iter().chain(brought).collect()
}

fn path(encode: u8, offset_ms: i64, delay_ms: u64, rounds_to_millis: bool) -> Path {
    let offset_nanos = offset_ms * MILLI + if rounds_to_millis { 0 } else { 123_456 };
    Path {
        encode,
        offset_nanos,
        rounds_to_millis,
        delay: Duration::from_millis(delay_ms),
        has_b_frames: false,
        clock_error_nanos: None,
    }
}

#[test]
fn copies_are_found_and_either_may_die_without_loss() {
    for (first, second) in [(10, 190), (190, 10), (50, 50)] {
        let mut world = World::new(HubConfig::default());
        let paths = [path(1, 0, first, true), path(1, 777_000, second, false)];
        let mut acts = carry(0, &paths[0], 0, 10 * SECOND);
        acts.push((10 * SECOND + MILLI, 0, Act::Leave));
        acts.extend(carry(1, &paths[1], 2 * SECOND + 100 * MILLI, 20 * SECOND));
        // What was on its way when the path broke is lost with it.
        acts.retain(|(at, leg, act)| !(*leg == 0 && matches!(act, Act::Bring(_)) && *at > 10 * SECOND));
        let _legs = play(&mut world, &paths, &[("a", 0), ("b", 0)], acts, 19 * SECOND);

        world.check();
        assert_eq!(world.missing(1), [0, 0], "{first} and {second} ms");
        assert_eq!(world.silence, 0);
        assert!(world.skew_ms() <= 1, "{}", world.skew_ms());
        let switches = world.switches();
        assert_eq!(switches.len(), 2, "{switches:?}");
        assert_eq!((switches[1].gap, switches[1].units_lost), (Some(Duration::ZERO), Some(0)));
        assert_eq!(switches[1].reason, Some(SwitchReason::Closed));
        assert_eq!(world.status().program.discontinuities, 0);
    }
}

#[test]
fn holes_of_one_copy_are_filled_by_the_other() {
    let mut random = Random(7);
    for (first, second) in [(10, 190), (190, 10)] {
        let mut world = World::new(HubConfig::default());
        let paths = [path(1, 0, first, true), path(1, 5_000, second, false)];
        let mut acts = carry(0, &paths[0], 0, 20 * SECOND);
        acts.extend(carry(1, &paths[1], 0, 20 * SECOND));
        // From the third second on, each loses units, never both the same.
        acts.retain(|(_, leg, act)| match act {
            Act::Bring(made) if made.nanos() > 3 * SECOND => {
                let loser = usize::from(made.number / 20 % 2 == 0);
                *leg != loser || !random.chance(30)
            }
            _ => true,
        });
        let _legs = play(&mut world, &paths, &[("a", 0), ("a", 0)], acts, 21 * SECOND);

        world.check();
        assert_eq!(world.missing(1), [0, 0], "{first} and {second} ms: {:?}", world.status().copies);
        assert_eq!(world.silence, 0, "no silence where there was sound");
        assert!(world.status().copies.repaired > 0);
        assert!(world.hub.events().since(0, 1000).iter().any(|event| event.kind == EventKind::Filled));
    }
}

#[test]
fn the_same_pictures_with_other_sound_are_no_copy_and_with_silence_they_are() {
    for is_silent in [false, true] {
        let mut world = World::new(HubConfig::default());
        let paths = [path(1, 0, 20, true), path(1, 40_000, 60, false)];
        let mut legs = [world.connect("a", 0), world.connect("a", 0)];
        for made in units(1, 0, 12 * SECOND) {
            world.now_nanos = made.nanos();
            for (index, (leg, path)) in legs.iter_mut().zip(&paths).enumerate() {
                let encode = if made.track == 1 && index == 1 { 2 } else { 1 };
                let number = if made.track == 1 && is_silent { 0 } else { made.number };
                let (bytes, at) =
                    (Made { encode: if is_silent { 1 } else { encode }, number, ..made }.payload(), world.at());
                let nanos = made.nanos() + path.offset_nanos;
                if made.track == 1 {
                    leg.audio_unit(at, AudioCodec::Aac, nanos, bytes);
                } else {
                    leg.video_unit(at, nanos, 0, made.number % GOP == 0, &bytes);
                }
            }
        }
        let role = world.status().legs.get(1).map(|leg| leg.role);
        assert_eq!(role, Some(if is_silent { LegRole::Copy } else { LegRole::Standby }), "silent: {is_silent}");
    }
}

#[test]
fn another_encode_with_equal_parameters_is_no_copy_and_takes_over_within_its_gop() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 99_000, 40, true)];
    let mut acts = carry(0, &paths[0], 0, 9 * SECOND + 700 * MILLI);
    acts.extend(carry(1, &paths[1], 0, 20 * SECOND));
    let _legs = play(&mut world, &paths, &[("a", 0), ("a", 0)], acts, 20 * SECOND);

    world.check();
    let switches = world.switches();
    let silent: Vec<_> = switches.iter().filter(|event| event.reason == Some(SwitchReason::Silent)).collect();
    assert_eq!(silent.len(), 1, "{switches:?}");
    let gap = silent[0].gap.expect("there was a picture before");
    assert!(gap < Duration::from_millis(600), "{gap:?}: its GOP is caught up");
    assert_eq!(world.missing(2), [0, 0], "nothing of it is left out");
    assert!(world.out.iter().any(|(made, _)| made.encode == 2));
    assert_eq!(world.status().program.discontinuities, 0);
    assert_eq!(world.status().legs.first().map(|leg| leg.role), Some(LegRole::Feeding));
}

#[test]
fn the_program_returns_to_a_preferred_leg_after_the_hold_down() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    let mut acts = carry(0, &paths[0], 0, 5 * SECOND);
    acts.extend(carry(0, &paths[0], 6 * SECOND, 30 * SECOND).split_off(1)); // silent for a second
    acts.extend(carry(1, &paths[1], 0, 30 * SECOND));
    let _legs = play(&mut world, &paths, &[("a", 0), ("b", 1)], acts, 30 * SECOND);

    world.check();
    let reasons: Vec<_> = world.switches().iter().filter_map(|event| event.reason).collect();
    assert_eq!(reasons, [SwitchReason::Joined, SwitchReason::Silent, SwitchReason::Preferred]);
    let back = world.switches().pop().expect("three");
    let after = back.utc_nanos - UTC;
    assert!((16 * SECOND..19 * SECOND).contains(&after), "at its first keyframe after the hold-down: {after}");
    assert!(back.gap.is_some_and(|gap| gap < Duration::from_millis(60)), "{back:?}");
}

#[test]
fn a_leg_that_flaps_is_not_returned_to_again_and_again() {
    let config = HubConfig { hold_down: Duration::from_secs(1), ..HubConfig::default() };
    let mut world = World::new(config);
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    let mut acts = carry(1, &paths[1], 0, 60 * SECOND);
    acts.extend(carry(0, &paths[0], 0, 60 * SECOND));
    acts.retain(|(_, leg, act)| !(*leg == 0 && matches!(act, Act::Bring(made) if made.nanos() / SECOND % 5 == 4)));
    let _legs = play(&mut world, &paths, &[("a", 0), ("b", 1)], acts, 60 * SECOND);

    world.check();
    let returns = world.switches().iter().filter(|event| event.reason == Some(SwitchReason::Preferred)).count();
    assert_eq!(returns, 3, "three in two minutes");
    assert_eq!(world.status().state, StreamState::Live);
}

#[test]
fn a_third_publisher_with_one_key_waits_for_silence() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 0, true), path(2, 0, 0, true)];
    let mut legs = [world.connect("a", 0), world.connect("a", 0)];
    for made in units(1, 0, 2 * SECOND) {
        world.now_nanos = made.nanos();
        for (leg, path) in legs.iter_mut().zip(&paths) {
            world.bring(leg, path, Made { encode: path.encode, ..made });
        }
    }
    let publisher = || Publisher { key_id: "a".into(), ..Publisher::default() };
    assert!(world.hub.publish(world.at(), &name(), publisher()).is_err());
    world.now_nanos += 600 * MILLI;
    let third = world.hub.publish(world.at(), &name(), publisher()).expect("one is silent");
    assert!(legs.iter().any(|leg| leg.kicked().borrow().is_some()));
    assert_eq!(world.status().legs.len(), 2);
    drop(third);

    let config = HubConfig { second_publisher: SecondPublisher::TakeOver, ..HubConfig::default() };
    let mut world = World::new(config);
    let first = world.connect("a", 0);
    let _second = world.connect("a", 0);
    assert!(first.kicked().borrow().is_some());
}

#[test]
fn a_gop_with_reordered_pictures_is_caught_up_whole() {
    for lead in 0..12 {
        let mut world = World::new(HubConfig::default());
        let mut paths = [path(1, 0, 20, true), path(2, 99_000, 40, true)];
        paths.iter_mut().for_each(|path| path.has_b_frames = true);
        // The end of the first one falls on every place in the second one's GOP and pattern.
        let end = 9 * SECOND + 700 * MILLI + lead * SECOND / RATE;
        let mut acts = carry(0, &paths[0], 0, end);
        acts.push((end + 30 * MILLI, 0, Act::Leave));
        acts.extend(carry(1, &paths[1], 0, 14 * SECOND));
        let _legs = play(&mut world, &paths, &[("a", 0), ("a", 0)], acts, 14 * SECOND);

        world.check();
        assert_eq!(world.missing(2), [0, 0], "{lead}: nothing of its GOP is left out");
        assert!(world.skew_ms() <= 40, "{} ms", world.skew_ms());
        let closed = world.switches().into_iter().find(|event| event.reason == Some(SwitchReason::Closed));
        let closed = closed.expect("the backup took over");
        assert!(closed.gap.is_some_and(|gap| gap < Duration::from_millis(150)), "{closed:?}");
    }
}

#[test]
fn other_sound_at_a_switch_does_not_go_back_in_time() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    let mut first = world.connect("a", 0);
    first.audio_config(world.at(), AudioCodec::Aac, &Bytes::from_static(&[0x12, 0x10])).expect("44.1 kHz, stereo");
    let mut second = world.connect("b", 1);
    for made in units(1, 0, 12 * SECOND) {
        world.now_nanos = made.nanos();
        if made.nanos() < 9 * SECOND + 500 * MILLI {
            world.bring(&mut first, &paths[0], made);
        }
        world.bring(&mut second, &paths[1], Made { encode: 2, ..made });
        world.tick();
    }
    world.check();
    assert!(world.out.iter().any(|(made, _)| made.encode == 2 && made.track == 1), "its sound is heard");
    assert!(world.skew_ms() <= 40, "{} ms", world.skew_ms());
    assert_eq!(world.status().program.discontinuities, 1);
}

#[test]
fn a_clip_that_is_sent_again_and_again_goes_on() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(1, 40_000, 90, false)];
    let mut legs = [world.connect("a", 0), world.connect("a", 0)];
    let mut acts: Vec<(i64, usize, Made)> = Vec::new();
    for made in units(1, 0, 30 * SECOND) {
        acts.extend([0, 1].map(|leg| (made.nanos() + nanos(paths[leg].delay), leg, made)));
    }
    acts.sort_by_key(|(nanos, ..)| *nanos);
    let mut emitted = 0;
    for (nanos, leg, made) in acts {
        world.now_nanos = nanos;
        let round = if made.track == 0 { 5 * RATE } else { 5 * HZ / SAMPLES };
        // The bytes of five seconds, with stamps that go on.
        let (at, stamp) = (world.at(), made.nanos() + paths[leg].offset_nanos);
        let bytes = Made { number: made.number % round, ..made }.payload();
        if made.track == 0 {
            legs[leg].video_unit(at, stamp, 0, made.number % round % GOP == 0, &bytes);
        } else {
            legs[leg].audio_unit(at, AudioCodec::Aac, stamp, bytes);
        }
        world.drain();
        emitted += usize::from(made.track == 0 && leg == 0);
    }
    let came = world.out.iter().filter(|(made, _)| made.track == 0).count();
    assert!(came + 10 >= emitted, "{came} of {emitted} pictures: {:?}", world.status().copies);
    assert!(world.out.windows(2).all(|pair| pair[0].0.track != pair[1].0.track || pair[0].1 < pair[1].1));
}

#[test]
fn copies_with_a_variable_frame_rate_lose_nothing() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(1, 40_000, 90, false)];
    // Ten pictures a second, then thirty, then ten again: a screen that moves now and then.
    let is_kept = |made: &Made| made.track == 1 || made.number / 90 % 2 == 1 || made.number % 3 == 0;
    let mut acts = carry(0, &paths[0], 0, 20 * SECOND);
    acts.extend(carry(1, &paths[1], 0, 20 * SECOND));
    acts.retain(|(_, _, act)| !matches!(act, Act::Bring(made) if !is_kept(made)));
    let _legs = play(&mut world, &paths, &[("a", 0), ("a", 0)], acts, 20 * SECOND);

    world.check();
    let made = units(1, 0, 20 * SECOND).into_iter().filter(|made| made.track == 0 && is_kept(made));
    let came: std::collections::HashSet<_> = world.out.iter().map(|(made, _)| *made).collect();
    let missing: Vec<_> = made.filter(|made| made.nanos() < 19 * SECOND && !came.contains(made)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_backup_without_a_random_access_point_stands_in_nobodys_way() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true), path(3, 0, 20, true)];
    let mut acts = carry(0, &paths[0], 0, 6 * SECOND);
    acts.push((6 * SECOND + 30 * MILLI, 0, Act::Leave));
    acts.extend(carry(1, &paths[1], SECOND, 12 * SECOND));
    acts.extend(carry(2, &paths[2], SECOND, 12 * SECOND));
    acts.retain(
        |(_, leg, act)| !matches!(act, Act::Bring(made) if *leg == 1 && made.track == 0 && made.number % GOP == 0),
    );
    let _legs = play(&mut world, &paths, &[("a", 0), ("b", 1), ("c", 2)], acts, 12 * SECOND);

    world.check();
    assert_eq!(world.status().legs.first().map(|leg| leg.id), Some(2));
    let closed = world.switches().into_iter().find(|event| event.reason == Some(SwitchReason::Closed));
    assert!(closed.is_some_and(|event| event.gap.is_some_and(|gap| gap < Duration::from_millis(200))));
}

#[test]
fn an_encoder_whose_pictures_stop_is_replaced_although_its_sound_goes_on() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    let mut acts = carry(0, &paths[0], 0, 12 * SECOND);
    acts.retain(|(at, leg, act)| !matches!(act, Act::Bring(made) if *leg == 0 && made.track == 0 && *at > 6 * SECOND));
    acts.extend(carry(1, &paths[1], 0, 12 * SECOND));
    let _legs = play(&mut world, &paths, &[("a", 0), ("b", 1)], acts, 12 * SECOND);

    world.check();
    assert_eq!(world.status().legs.first().map(|leg| leg.id), Some(1));
    assert_eq!(world.missing(2), [0, 0]);
}

#[test]
fn what_a_leg_sends_late_is_not_played_as_if_it_were_new() {
    let mut world = World::new(HubConfig::default());
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    // The first one stands still for six seconds, then everything comes at once.
    let mut acts = carry(0, &paths[0], 0, 30 * SECOND);
    for (at, _, act) in &mut acts {
        if matches!(act, Act::Bring(made) if (9 * SECOND..15 * SECOND).contains(&made.nanos())) {
            *at = 15 * SECOND + 20 * MILLI;
        }
    }
    acts.extend(carry(1, &paths[1], 0, 30 * SECOND));
    let _legs = play(&mut world, &paths, &[("a", 0), ("b", 1)], acts, 30 * SECOND);

    world.check();
    let reasons: Vec<_> = world.switches().iter().filter_map(|event| event.reason).collect();
    assert_eq!(reasons, [SwitchReason::Joined, SwitchReason::Silent, SwitchReason::Preferred]);
    // The program is where the clock is, to a few pictures.
    let (first, last) =
        (world.out.iter().find(|(made, _)| made.track == 0), world.out.iter().rfind(|(made, _)| made.track == 0));
    let (first, last) = (first.expect("pictures"), last.expect("pictures"));
    let ahead = (last.1 - first.1) - (last.0.nanos() - first.0.nanos());
    assert!(ahead.abs() < 150 * MILLI, "{} ms ahead", ahead / MILLI);
}

#[test]
fn a_leg_that_comes_back_and_stays_behind_gets_the_stream_back_all_the_same() {
    for (behind, has_b_frames) in
        [0, 300, 700, 1500, 4000].into_iter().flat_map(|behind| [(behind, false), (behind, true)])
    {
        let mut world = World::new(HubConfig { hold_down: Duration::ZERO, ..HubConfig::default() });
        let paths = [Path { has_b_frames, ..path(1, 0, 20, true) }, path(2, 0, 20, true)];
        // It stands still for four seconds; then it goes on in real time, so much later than before.
        let mut acts = carry(0, &paths[0], 0, 30 * SECOND);
        for (at, _, act) in &mut acts {
            if matches!(act, Act::Bring(made) if made.nanos() >= 9 * SECOND) {
                *at = (*at + behind * MILLI).max(13 * SECOND);
            }
        }
        acts.extend(carry(1, &paths[1], 0, 30 * SECOND));
        let _legs = play(&mut world, &paths, &[("a", 0), ("slate", crate::SLATE_RANK)], acts, 30 * SECOND);

        world.check();
        let back = world.switches().into_iter().find(|event| event.reason == Some(SwitchReason::Recovered));
        let back = back.unwrap_or_else(|| panic!("{behind} ms behind: it never got the stream back"));
        let after = back.utc_nanos - UTC;
        assert!(after < 17 * SECOND, "{behind} ms behind: only at {} ms", after / MILLI);
        assert_eq!(world.status().legs.first().map(|leg| leg.id), Some(0));
    }
}

#[test]
fn a_leg_whose_parameter_sets_come_in_band_gives_way_to_nothing_that_cannot_be_decoded() {
    let mut world = World::new(HubConfig { hold_down: Duration::ZERO, ..HubConfig::default() });
    let paths = [path(1, 0, 20, true), path(2, 0, 20, true)];
    let mut backup = world.connect("b", 1);
    let mut second: Option<Leg> = None;
    for made in units(1, 0, 12 * SECOND) {
        world.now_nanos = made.nanos();
        world.bring(&mut backup, &paths[0], made);
        // It connects in the middle of a GOP; its parameter sets come with its next random access point.
        if made.nanos() > 4 * SECOND + 200 * MILLI {
            let at = world.at();
            let leg = second.get_or_insert_with(|| {
                let publisher = Publisher { protocol: "srt", key_id: "a".into(), ..Publisher::default() };
                let mut leg = world.hub.publish(at, &name(), publisher).expect("let in");
                leg.announce(at.now, Announcement { video: true, audio: true, ..Announcement::default() });
                leg.video_in_band(VideoCodec::Avc);
                leg.audio_config(at, AudioCodec::Aac, &Bytes::from_static(&[0x11, 0x90])).expect("valid");
                leg
            });
            let theirs = Made { encode: 2, ..made };
            if made.track == 0 && made.number % GOP == 0 {
                let sets = [&[0, 0, 0, 26][..], &RECORD[8..34], &[0, 0, 0, 6], &RECORD[37..43]].concat();
                let bytes = [&sets[..], &theirs.payload()].concat().into();
                leg.video_unit(at, made.nanos(), 0, true, &bytes);
            } else if made.track == 0 {
                leg.video_unit(at, made.nanos(), 0, false, &theirs.payload());
            } else {
                leg.audio_unit(at, AudioCodec::Aac, made.nanos(), theirs.payload());
            }
        }
        world.tick();
    }
    let first = world.out.iter().find(|(made, _)| made.encode == 2 && made.track == 0).expect("it took over");
    assert_eq!(first.0.number % GOP, 0, "with a picture that can be decoded: {first:?}");
    assert_eq!(world.status().legs.first().map(|leg| leg.id), Some(1));
}
