//! A day of a source that dies and returns every minute, with a slate between.

use super::*;
use crate::SLATE_RANK;

/// 5 pictures a second, a keyframe every two seconds, sound of 24 kHz.
const PICTURE_NANOS: i64 = 200 * MILLI;
const DAY_GOP: i64 = 10;
const DAY_HZ: i64 = 24_000;
const ENCODER: u8 = 1;
const SLATE: u8 = 2;

/// A source with a clock that is off by so many millionths.
struct Source {
    leg: Leg,
    encode: u8,
    ppm: i64,
    began: i64,
    pictures: i64,
    frames: i64,
}

impl Source {
    fn connect(world: &mut World, encode: u8, rank: u8, ppm: i64) -> Self {
        let key = if encode == SLATE { "slate" } else { "a" };
        let leg = world.connect_with(key, rank, &[0x13, 0x10]);
        Self { leg, encode, ppm, began: world.now_nanos, pictures: 0, frames: 0 }
    }

    /// When the unit of this number is made, by the source's own clock.
    fn nanos(track: u8, number: i64) -> i64 {
        if track == 0 { number * PICTURE_NANOS } else { number * SAMPLES * SECOND / DAY_HZ }
    }

    /// What it has made until `until`, with the time at which each unit comes: its path delays each by up to 30 ms.
    fn make(&mut self, until: i64, random: &mut Random) -> Vec<(i64, Made)> {
        let mut made = Vec::new();
        for track in 0..2u8 {
            loop {
                let number = if track == 0 { self.pictures } else { self.frames };
                let leaves = self.began + Self::nanos(track, number) / (1_000_000 + self.ppm) * 1_000_000;
                if leaves >= until {
                    break;
                }
                let delay = i64::try_from(random.below(30)).expect("small") * MILLI;
                made.push((leaves + delay, Made { encode: self.encode, track, number }));
                *if track == 0 { &mut self.pictures } else { &mut self.frames } += 1;
            }
        }
        made.sort_by_key(|(leaves, made)| (*leaves, made.track));
        for index in 1..made.len() {
            made[index].0 = made[index].0.max(made[index - 1].0); // nothing overtakes
        }
        made
    }

    fn bring(&mut self, world: &World, made: Made) {
        let at = Self::nanos(made.track, made.number) / MILLI * MILLI;
        if made.track == 1 {
            self.leg.audio_unit(world.at(), AudioCodec::Aac, at, made.payload());
            return;
        }
        let kind = if made.number % DAY_GOP == 0 { 0x65 } else { 0x41 };
        let payload = [&[0, 0, 0, 12, kind, made.encode, 0][..], &made.number.to_be_bytes(), &[0x80]].concat();
        self.leg.video_unit(world.at(), at, 0, made.number % DAY_GOP == 0, &payload.into());
    }
}

/// Where the newest picture lies before the clock, and how far its sound is off, in nanoseconds.
fn newest(world: &World) -> (u8, i64, i64) {
    let last = |track: u8| *world.out.iter().rfind(|(made, _)| made.track == track).expect("it flows");
    let (picture, shown) = last(0);
    let (sound, heard) = last(1);
    let skew = shown - Source::nanos(0, picture.number) - (heard - Source::nanos(1, sound.number));
    (picture.encode, world.now_nanos - shown, skew)
}

#[test]
fn a_day_of_a_source_that_dies_every_minute_leaves_no_drift_and_no_growth() {
    let mut world = World::new(HubConfig::default());
    let mut source: Option<Source> = None;
    let mut slate: Option<Source> = None;
    let mut behind: Vec<(u8, i64)> = Vec::new();
    let mut random = Random(99);
    for step in 0..24 * 3600 * 5 {
        let (minute, phase) = (step / 300, step % 300);
        world.now_nanos = step * PICTURE_NANOS;
        if phase == 0 {
            // Its stamps begin at 0 again. Its clock is too fast for 40 s by as much as the slate's is too slow for 20 s.
            if let Some(old) = source.take() {
                old.leg.close(world.at());
            }
            source = Some(Source::connect(&mut world, ENCODER, 0, 50));
        }
        let slate = slate.get_or_insert_with(|| Source::connect(&mut world, SLATE, SLATE_RANK, -100));
        if phase == 200 && minute % 2 == 0 {
            source.take().expect("it runs").leg.close(world.at()); // in other minutes it is silent
        }
        let until = world.now_nanos + PICTURE_NANOS;
        let mut due = slate.make(until, &mut random);
        due.extend(source.iter_mut().filter(|_| phase < 200).flat_map(|source| source.make(until, &mut random)));
        due.sort_by_key(|(at, _)| *at);
        let mut tick = world.now_nanos;
        for (at, made) in due {
            while tick <= at {
                world.now_nanos = tick;
                world.hub.tick(world.at());
                tick += 50 * MILLI;
            }
            world.now_nanos = at;
            match (&mut source, made.encode) {
                (Some(source), ENCODER) => source.bring(&world, made),
                _ => slate.bring(&world, made),
            }
        }
        world.drain();
        if phase == 190 || phase == 290 {
            let (encode, late, skew) = newest(&world);
            assert_eq!(encode, if phase == 190 { ENCODER } else { SLATE }, "minute {minute}");
            assert!(skew.abs() <= 40 * MILLI, "minute {minute}: sound is {} ms off", skew / MILLI);
            behind.push((encode, late));
            let status = world.status();
            assert!(status.legs.len() <= 2, "minute {minute}: {} legs", status.legs.len());
            assert_eq!(status.program.discontinuities, 0, "minute {minute}");
            // Of a minute: what is kept of a day would be too much.
            let mut before = [i64::MIN; 2];
            for (made, at) in world.out.drain(..) {
                let before = &mut before[usize::from(made.track)];
                assert!(at > *before, "minute {minute}: decode times increase");
                *before = at;
            }
            world.shown.clear();
        }
    }
    for encode in [ENCODER, SLATE] {
        let of: Vec<i64> = behind.iter().filter(|(known, _)| *known == encode).map(|(_, late)| *late).collect();
        let (first, least, most) = (of[0], of.iter().min().expect("some"), of.iter().max().expect("some"));
        // Each of 2,880 switches errs by a share of 30 ms of jitter, at random: 0.3 ms of it on average would be a second.
        assert!(
            most - first < SECOND && first - least < SECOND,
            "{encode}: {} ms behind the clock at first, then {} to {}",
            first / MILLI,
            least / MILLI,
            most / MILLI
        );
    }
}
