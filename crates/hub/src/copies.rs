//! Legs that carry the same encode: how they are recognised, and what is kept to make one sequence of several copies.
//!
//! A unit is known by a hash of its coded picture, or of its sound. Two legs are copies of one encode after a run of units
//! with equal hashes at one offset in time; units that repeat (silence, a still picture) teach nothing. From then on a
//! unit is a duplicate only if its place in time *and* its hash agree.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use media::{AccessUnit, TrackKind, VideoCodec};
use xxhash_rust::xxh3::Xxh3Default;

use crate::program::Arrival;
use crate::ring::Tracks;

/// Pictures in a row that must agree before two legs are called copies.
const VIDEO_RUN: u32 = 8;
/// Frames of sound in a row that must agree where there is no picture.
const AUDIO_ONLY_RUN: u32 = 32;
/// Frames of sound in a row that must agree where the picture already does.
const AUDIO_RUN: u32 = 8;
/// Pictures after which sound that taught nothing (silence) is taken to lie where the picture says.
const VIDEO_RUN_WITHOUT_SOUND: u32 = 90;
/// Time over which the lateness of a copy is looked at.
const LATENESS_TIME: Duration = Duration::from_secs(1);
/// Seconds of units that are remembered: the largest skew at which copies are recognised.
const SPAN_SECONDS: i64 = 8;
/// Units after which an index that nobody asked is dropped.
const UNASKED_MAX: u32 = 100;
/// Most units that are remembered of a track, whatever their stamps.
const PRINTS_MAX: usize = 4000;

/// Where a track stands in arrays.
pub(crate) fn place(track: TrackKind) -> usize {
    usize::from(track == TrackKind::Audio)
}

/// What a unit is known by, whatever container brought it.
pub(crate) fn hash(unit: &AccessUnit, video: VideoCodec) -> u64 {
    let mut hasher = Xxh3Default::new(); // the same for the same bytes, whatever slices they come in
    match unit.track {
        TrackKind::Video => codec::picture_data(video, &unit.payload).for_each(|slice| hasher.update(slice)),
        TrackKind::Audio => unit.payload.slices().for_each(|slice| hasher.update(slice)),
    }
    hasher.digest()
}

/// What is remembered of a unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Print {
    pub(crate) dts: i64,
    pub(crate) hash: u64,
    pub(crate) came: Instant,
    pub(crate) is_stand_in: bool,
}

/// The last units of a track, in order of time.
#[derive(Debug, Default)]
pub(crate) struct Prints {
    units: VecDeque<Print>,
    /// By hash: how many there are, and when the last one was. Made when it is asked and dropped when it is not any more: keeping it costs
    /// as much as all else that is done to a copy.
    by_hash: Option<HashMap<u64, (usize, i64)>>,
    /// Units since it was asked.
    unasked: u32,
}

impl Prints {
    /// `hz` is the scale of the stamps.
    pub(crate) fn push(&mut self, print: Print, hz: u32) {
        if self.units.back().is_some_and(|last| last.dts >= print.dts) {
            return; // the timeline lets nothing go backwards; what would is not remembered
        }
        self.units.push_back(print);
        self.unasked = self.unasked.saturating_add(1);
        if let Some(index) = self.by_hash.as_mut().filter(|_| self.unasked <= UNASKED_MAX) {
            enter(index, &print);
        } else {
            self.by_hash = None;
        }
        let span = SPAN_SECONDS * i64::from(hz);
        while let Some(first) = self.units.pop_front_if(|first| print.dts.saturating_sub(first.dts) > span) {
            self.forget(first.hash);
        }
        if self.units.len() > PRINTS_MAX
            && let Some(first) = self.units.pop_front()
        {
            self.forget(first.hash);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.units.clear();
        self.by_hash = None;
    }

    fn forget(&mut self, hash: u64) {
        let Some(index) = &mut self.by_hash else { return };
        let Some((count, _)) = index.get_mut(&hash) else { return };
        *count -= 1;
        if *count == 0 {
            index.remove(&hash);
        }
    }

    /// When the one unit with this hash was; none where several have it.
    pub(crate) fn unique(&mut self, hash: u64) -> Option<i64> {
        self.unasked = 0;
        let index = self.by_hash.get_or_insert_with(|| {
            let mut index = HashMap::new();
            self.units.iter().for_each(|print| enter(&mut index, print));
            index
        });
        index.get(&hash).filter(|(count, _)| *count == 1).map(|(_, dts)| *dts)
    }

    /// The unit at this time, give or take; the nearest.
    pub(crate) fn near(&self, dts: i64, tolerance: i64) -> Option<&Print> {
        self.around(dts, tolerance).min_by_key(|print| print.dts.abs_diff(dts))
    }

    /// When the unit with this hash was, around this time; the nearest.
    pub(crate) fn find(&self, hash: u64, dts: i64, reach: i64) -> Option<i64> {
        let same = self.around(dts, reach).filter(|print| print.hash == hash);
        same.map(|print| print.dts).min_by_key(|at| at.abs_diff(dts))
    }

    fn around(&self, dts: i64, reach: i64) -> impl Iterator<Item = &Print> {
        let recent = self.units.iter().rev().take_while(move |print| print.dts >= dts.saturating_sub(reach));
        recent.filter(move |print| print.dts <= dts.saturating_add(reach))
    }
}

fn enter(index: &mut HashMap<u64, (usize, i64)>, print: &Print) {
    let (count, last) = index.entry(print.hash).or_default();
    (*count, *last) = (*count + 1, print.dts);
}

/// Offsets that agree, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    offset: i64,
    count: u32,
}

impl Run {
    pub(crate) fn restart(&mut self) {
        self.count = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes the next one; how many agree by now.
    pub(crate) fn observe(&mut self, offset: i64, tolerance: i64) -> u32 {
        let agrees = self.count > 0 && offset.abs_diff(self.offset) <= tolerance.unsigned_abs();
        self.count = if agrees { self.count.saturating_add(1) } else { 1 };
        self.offset = offset;
        self.count
    }
}

/// What is added to a leg's stamps to make program time, for each track on its own scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shifts {
    pub(crate) video: i64,
    /// Not known where the sound taught nothing.
    pub(crate) audio: Option<i64>,
}

/// Looks whether a leg carries what the program carries.
#[derive(Debug, Default)]
pub(crate) struct Learner {
    own: [Prints; 2],
    runs: [Run; 2],
    /// Frames of sound that would have taught something.
    telling_sound: u32,
}

impl Learner {
    /// A unit of the leg in leg time; what it is a copy of may have been emitted already.
    pub(crate) fn on_own(&mut self, track: TrackKind, print: Print, emitted: &mut Prints, hz: u32, tolerance: i64) {
        let (Some(own), Some(run)) = (self.own.get_mut(place(track)), self.runs.get_mut(place(track))) else { return };
        own.push(print, hz);
        if track == TrackKind::Audio && own.unique(print.hash).is_some() {
            self.telling_sound = self.telling_sound.saturating_add(1);
        }
        if let (Some(_), Some(twin)) = (own.unique(print.hash), emitted.unique(print.hash)) {
            run.observe(twin - print.dts, tolerance);
        }
    }

    /// A unit was emitted; its copy may have come over the leg before.
    pub(crate) fn on_emitted(&mut self, track: TrackKind, print: &Print, emitted: &mut Prints, tolerance: i64) {
        let (Some(own), Some(run)) = (self.own.get_mut(place(track)), self.runs.get_mut(place(track))) else { return };
        if let (Some(twin), Some(_)) = (own.unique(print.hash), emitted.unique(print.hash)) {
            run.observe(print.dts - twin, tolerance);
        }
    }

    /// Forgets what it learned: the leg's stamps jumped.
    pub(crate) fn restart(&mut self) {
        *self = Self::default();
    }

    /// Where the leg lies, once it is sure.
    pub(crate) fn shifts(&self, tracks: &Tracks) -> Option<Shifts> {
        let [video, audio] = self.runs;
        if tracks.video.is_none() {
            return (audio.count >= AUDIO_ONLY_RUN).then_some(Shifts { video: 0, audio: Some(audio.offset) });
        }
        let knows_sound = audio.count >= AUDIO_RUN;
        if tracks.audio.is_some() && !knows_sound && self.telling_sound >= AUDIO_ONLY_RUN {
            return None; // the same pictures with other sound
        }
        let enough = if tracks.audio.is_none() || knows_sound { VIDEO_RUN } else { VIDEO_RUN_WITHOUT_SOUND };
        let audio = knows_sound.then_some(audio.offset);
        (video.count >= enough).then_some(Shifts { video: video.offset, audio })
    }
}

/// A unit in program time that waits for what may still come before it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) at: Arrival,
    pub(crate) leg: u64,
    pub(crate) unit: AccessUnit,
    pub(crate) hash: Option<u64>,
    pub(crate) is_stand_in: bool,
    /// The configuration that begins with it.
    pub(crate) changed: Option<Tracks>,
    pub(crate) deadline: Instant,
    /// How much later than the first copy its leg brings units.
    pub(crate) late: Duration,
}

/// How late a copy is as a rule: what stood still once and came in a burst is no rule.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lateness {
    since: Option<Instant>,
    least: Duration,
    most: Duration,
}

impl Lateness {
    /// One unit came so late; once in a while, how late they are.
    pub(crate) fn observe(&mut self, now: Instant, late: Duration) -> Option<Duration> {
        let Some(since) = self.since else {
            *self = Self { since: Some(now), least: late, most: late };
            return None;
        };
        (self.least, self.most) = (self.least.min(late), self.most.max(late));
        if now.saturating_duration_since(since) < LATENESS_TIME {
            return None;
        }
        self.since = None;
        Some(self.most.min(2 * self.least))
    }
}

/// What became of copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyStats {
    /// Units that another leg had brought already.
    pub duplicates: u64,
    /// Units whose place in time was taken by something else.
    pub conflicts: u64,
    /// Units that came when the program was past them.
    pub late: u64,
    /// Pictures that came while later ones of another leg waited for them.
    pub repaired: u64,
    /// Holes that nobody filled.
    pub unrepaired: u64,
}

/// The units of all copies on their way to one sequence.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    pub(crate) emitted: [Prints; 2],
    pub(crate) held: [BTreeMap<i64, Held>; 2],
    pub(crate) stats: CopyStats,
}

impl Copies {
    pub(crate) fn is_idle(&self) -> bool {
        self.held.iter().all(BTreeMap::is_empty)
    }

    pub(crate) fn prints(&mut self, track: TrackKind) -> &mut Prints {
        let [video, audio] = &mut self.emitted;
        if track == TrackKind::Video { video } else { audio }
    }

    pub(crate) fn held(&mut self, track: TrackKind) -> &mut BTreeMap<i64, Held> {
        let [video, audio] = &mut self.held;
        if track == TrackKind::Video { video } else { audio }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_was_dropped_tells_the_same_as_one_that_was_kept() {
        let came = Instant::now();
        let (mut kept, mut dropped) = (Prints::default(), Prints::default());
        let mut unique = 0;
        for dts in 0..3000 {
            let hash = u64::try_from(dts * dts % 1999).expect("positive"); // some repeat
            let print = Print { dts, hash, came, is_stand_in: false };
            [&mut kept, &mut dropped].into_iter().for_each(|prints| prints.push(print, 100));
            kept.unique(hash);
            if dts % 170 == 0 {
                assert!(dropped.by_hash.is_none(), "at {dts}");
                for hash in 0..1999 {
                    assert_eq!(kept.unique(hash), dropped.unique(hash), "{hash} at {dts}");
                    unique += usize::from(kept.unique(hash).is_some());
                }
            }
        }
        assert!(unique > 1000, "{unique}");
    }
}
