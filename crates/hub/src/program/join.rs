//! How a leg joins the program: where its time lies, and what of its newest GOPs is used.

use std::time::Duration;

use media::{AccessUnit, AudioConfig, Timescale, TrackKind};

use super::{Arrival, FILL_MS_MAX, Feed, PROGRAM_START, Program};
use crate::copies::{Held, Lateness, Prints, Run, Shifts};
use crate::ring::Tracks;
use crate::standby::{Incoming, Standby};
use crate::timeline::silent_unit;

/// Frames that must be caught up are emitted this far apart: a millisecond.
const STEP_MIN: i64 = 360;
/// Furthest that legs may be apart to be aligned by the times of capture: a second, as for copies.
const CAPTURE_TICKS_MAX: i64 = 360_000;
/// A random access point this little behind the head joins at the head: it is jitter.
const JITTER: i64 = 36_000;

/// What a switch was to the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    /// Program time without a picture; none where there was no picture before.
    pub(crate) gap: Option<Duration>,
    /// The gap in usual intervals.
    pub(crate) lost: u64,
    /// Frames older than the head that were squeezed into the gap.
    pub(crate) squeezed: u64,
    /// It carried on as a copy.
    pub(crate) is_copy: bool,
    /// It lies where the times of capture put it, and not its arrival.
    pub(crate) is_by_capture: bool,
}

/// From leg time to program time for pictures: a shift, and before `until` all of it squeezed.
#[derive(Clone, Copy, Debug)]
struct Squeeze {
    shift: i64,
    /// PTS, shifted, of the random access point, and where it comes to lie.
    from: i64,
    to: i64,
    /// From here on (shifted) nothing is squeezed.
    until: i64,
    /// Usual distance of frames.
    frame: i64,
}

impl Squeeze {
    fn place(&self, time: i64) -> i64 {
        let shifted = time + self.shift;
        if shifted >= self.until {
            return shifted;
        }
        self.to + ((shifted - self.from) * STEP_MIN).div_euclid(self.frame)
    }

    fn moves(&self, time: i64) -> bool {
        time + self.shift < self.until
    }
}

impl Program {
    /// The leg feeds the program from here on, in place of those that did. Nothing changes, and there is no answer, where
    /// it has no random access point that could be used yet.
    pub(crate) fn join(
        &mut self,
        at: Arrival,
        leg: u64,
        standby: &mut Standby,
        likeness: Option<Shifts>,
    ) -> Option<Joined> {
        if let Some(shifts) = likeness {
            return Some(self.carry_on(at, leg, standby, shifts));
        }
        if !standby.is_complete(at.now) || !standby.is_settled() {
            return None;
        }
        let waited = standby.has_waited(at.now);
        let has_picture = |(_, incoming): &(Arrival, Incoming)| incoming.unit.track == TrackKind::Video;
        let has_video = standby.tracks.video.is_some() && (!waited || standby.units.iter().any(has_picture));
        let anchor_track = if has_video { TrackKind::Video } else { TrackKind::Audio };
        // A leg that brings pictures joins a program that has them with one that can be decoded, and not with its sound before.
        let brings_pictures =
            standby.announced.video || standby.tracks.video.is_some() || standby.units.iter().any(has_picture);
        let is_patient = !self.feeds.is_empty() || !standby.has_waited_long(at.now);
        if self.tracks.video.is_some() && brings_pictures && !has_video && is_patient {
            return None;
        }
        // Where nothing goes on, a leg that tells when its pictures were captured is waited for until it has caught up.
        let waits = self.feeds.is_empty();
        self.anchor(standby, anchor_track, waits)?;
        // Nothing that is held waits any longer: another leg goes on from here.
        let feeds = std::mem::take(&mut self.feeds);
        self.release_all(at);
        let Some((index, squeeze, ahead)) = self.anchor(standby, anchor_track, waits) else {
            self.feeds = feeds;
            return None;
        };
        self.ahead = ahead;
        self.lag = Duration::ZERO; // of copies that it is none of
        let is_by_capture = self.capture_shift(standby).is_some_and(|shift| (shift - squeeze.shift).abs() <= JITTER);
        self.capture = standby.capture.map(|leg| leg.saturating_sub(Timescale::VIDEO.nanos(squeeze.shift)));
        self.forget_likeness();
        let mut tracks = standby.tracks.clone();
        let own = Tracks { video: tracks.video.clone(), audio: None };
        if !has_video {
            tracks.video = None; // announced, and not a single picture: it joins when it comes
        }
        // A track that the program has stays, whether this leg brings it or not: sound as silence, pictures as a gap.
        let is_silent = tracks.audio.is_none();
        tracks.video = tracks.video.or_else(|| self.tracks.video.clone());
        tracks.audio = tracks.audio.or_else(|| self.tracks.audio.clone());
        let known = Tracks { video: own.video.or_else(|| tracks.video.clone()), audio: tracks.audio.clone() };
        let anchor = standby.units.get(index).map(|(_, incoming)| incoming.unit.pts.0)?;
        let scale = tracks.config(anchor_track).map_or(Timescale::VIDEO, |config| config.timescale());
        let anchor_pts = scale.rescale(anchor, Timescale::VIDEO);
        let before = self.video.filter(|_| self.tracks.video.is_some() && has_video).map(|(_, pts)| pts);
        let interval = self.interval(TrackKind::Video);
        let audio_shift = self.join_audio(&tracks, standby, at, anchor_pts, squeeze);
        self.set_tracks(tracks);
        self.stats.joins += 1;
        (self.is_joined, self.since_join) = (true, 0);
        let has_pictures = standby.tracks.video.is_some();
        self.start_feed(at, leg, (squeeze.shift, audio_shift), known, is_silent);
        if let Some(feed) = self.feeds.first_mut() {
            feed.has_pictures = has_pictures;
            // Pictures that come later begin with one that can be decoded.
            feed.anchor = if anchor_track == TrackKind::Video { anchor_pts } else { i64::MAX };
        }
        let squeezed = self.replay(leg, standby, index, squeeze, audio_shift);
        let gap = before.map(|before| (squeeze.place(anchor_pts) - before - interval).max(0));
        let lost =
            gap.filter(|_| interval > 0).map_or(0, |gap| u64::try_from((gap + interval / 2) / interval).unwrap_or(0));
        let gap = gap.map(|gap| Duration::from_nanos(u64::try_from(Timescale::VIDEO.nanos(gap)).unwrap_or(0)));
        Some(Joined { gap, lost, squeezed, is_copy: false, is_by_capture })
    }

    fn start_feed(
        &mut self,
        at: Arrival,
        leg: u64,
        (video_shift, audio_shift): (i64, i64),
        known: Tracks,
        is_silent: bool,
    ) {
        self.feeds = vec![Feed {
            leg,
            video_shift,
            audio_shift,
            anchor: i64::MIN,
            known,
            is_silent,
            has_pictures: true,
            reached: [i64::MIN; 2],
            is_copy: false,
            conflicts: 0,
            firsts: 0,
            drift: [Run::default(); 2],
            last: at.now,
            figures: super::CopyFigures::default(),
            lateness: Lateness::default(),
        }];
        self.candidates.retain(|candidate| candidate.leg != leg);
    }

    /// Another encode goes on: what was learned of the one before says nothing of it.
    fn forget_likeness(&mut self) {
        self.candidates.iter_mut().for_each(|candidate| candidate.learner.restart());
        self.copies.emitted.iter_mut().for_each(Prints::clear);
    }

    /// A leg that carries what the program carries: what it has of what is missing, and on.
    fn carry_on(&mut self, at: Arrival, leg: u64, standby: &mut Standby, shifts: Shifts) -> Joined {
        let interval = self.interval(TrackKind::Video);
        let next = self.video.map(|(dts, _)| dts + interval).filter(|_| self.tracks.video.is_some());
        let pictures =
            standby.units.iter().map(|(_, incoming)| &incoming.unit).filter(|unit| unit.track == TrackKind::Video);
        let first = pictures.into_iter().map(|unit| unit.dts.0 + shifts.video).find(|dts| Some(*dts + interval) > next);
        // What it brings later follows without a hole.
        let missing = next.zip(first).map_or(0, |(next, first)| first - next).max(0);
        self.is_joined = first.is_some();
        self.add_copy(at, leg, standby, shifts);
        self.feeds.retain(|feed| feed.leg == leg);
        self.stats.joins += 1;
        self.release_all(at);
        let is_hole = missing > interval / 2;
        let gap = Duration::from_nanos(u64::try_from(Timescale::VIDEO.nanos(missing)).unwrap_or(0));
        let lost = u64::try_from((missing + interval / 2).checked_div(interval).unwrap_or(0)).unwrap_or(0);
        let gap = if is_hole { gap } else { Duration::ZERO };
        Joined { gap: next.map(|_| gap), lost, squeezed: 0, is_copy: true, is_by_capture: false }
    }

    /// A leg that carries what the program carries feeds it too, from what it has kept.
    pub(crate) fn add_copy(&mut self, at: Arrival, leg: u64, standby: &mut Standby, shifts: Shifts) {
        let (others, known) = (std::mem::take(&mut self.feeds), standby.tracks.clone());
        let audio_shift = shifts.audio.unwrap_or_else(|| self.snapped(standby, shifts.video));
        self.start_feed(at, leg, (shifts.video, audio_shift), known, false);
        if let Some(feed) = self.feeds.first_mut() {
            feed.has_pictures = standby.tracks.video.is_some();
        }
        let feed = std::mem::replace(&mut self.feeds, others);
        self.feeds.extend(feed);
        // Also of one that is left alone the next unit may have been brought by the other.
        self.feeds.iter_mut().for_each(|feed| feed.is_copy = true);
        for (came, incoming) in std::mem::take(&mut standby.units) {
            self.unit(came, leg, incoming);
        }
        standby.clear();
    }

    /// The shift of sound that taught nothing: the picture's, on the program's grid.
    fn snapped(&self, standby: &Standby, video_shift: i64) -> i64 {
        let Some(audio) = &self.tracks.audio else { return 0 };
        let exact = Timescale::VIDEO.rescale(video_shift, audio.timescale);
        let sound =
            standby.units.iter().map(|(_, incoming)| &incoming.unit).find(|unit| unit.track == TrackKind::Audio);
        let (Some(head), Some(unit)) = (self.audio_head, sound) else { return exact };
        let length = i64::from(audio.samples_per_unit);
        let frames = (unit.dts.0 + exact - head + length / 2).div_euclid(length);
        head + frames * length - unit.dts.0
    }

    /// Which random access point of a leg the program goes on with, where it lies, and how far ahead of the line that is.
    fn anchor(&self, standby: &Standby, track: TrackKind, waits: bool) -> Option<(usize, Squeeze, i64)> {
        let scale = standby.tracks.config(track).map_or(Timescale::VIDEO, |config| config.timescale());
        let (dts, pts) = (
            |unit: &AccessUnit| scale.rescale(unit.dts.0, Timescale::VIDEO),
            |unit: &AccessUnit| scale.rescale(unit.pts.0, Timescale::VIDEO),
        );
        let units = || standby.units.iter().enumerate().filter(|(_, (_, incoming))| incoming.unit.track == track);
        let anchors = || units().filter(|(_, (_, incoming))| incoming.unit.is_random_access);
        let plain = |shift| Squeeze { shift, from: i64::MIN, to: 0, until: i64::MIN, frame: 1 };
        // Where the leg lies by what came of it with the least delay: a burst is not played from its beginning.
        let count = units().count();
        let lies = |came: &Arrival, unit: &AccessUnit| Some(self.line.at(came.now, count)? - dts(unit));
        let line = units().filter_map(|(_, (came, incoming))| lies(came, &incoming.unit)).min();
        let Some((arrived, lead)) = line.zip(self.reorder_lead()) else {
            return anchors().next().map(|(index, (_, first))| (index, plain(PROGRAM_START - pts(&first.unit)), 0));
        };
        // By the times of capture, where both encoders tell and that is not far from where it arrived: a clock that is wrong must not stop
        // a stream. What that makes of the line is taken back by the next one that has no such times.
        let captured =
            self.capture_shift(standby).filter(|shift| (shift - arrived).saturating_abs() <= CAPTURE_TICKS_MAX);
        let line = captured.unwrap_or(arrived);
        let jitter = if captured.is_some() { 0 } else { JITTER };
        let lowest = |unit: &AccessUnit| self.lowest(pts(unit) - dts(unit));
        for (index, (_, incoming)) in anchors() {
            let (expected, lowest) = (pts(&incoming.unit) + line, lowest(&incoming.unit)?);
            if expected + jitter + lead >= lowest {
                let place = expected.max(lowest);
                return Some((index, plain(place - pts(&incoming.unit)), place - expected + line - arrived));
            }
        }
        // All lie before the head.
        let (index, (came, first)) = anchors().last().filter(|_| track == TrackKind::Video)?;
        if let Some(squeeze) = self.squeeze(standby, index, line) {
            return Some((index, squeeze, line - arrived));
        }
        if captured.is_some() && waits {
            return None; // it is less than a second behind
        }
        // A leg whose delay varies more than that, or that has fallen behind: from a random access point that comes now.
        let (_, (_, last)) = units().next_back()?;
        let is_live = dts(&last.unit) - dts(&first.unit) <= JITTER;
        let expected = pts(&first.unit) + lies(came, &first.unit)?;
        let place = expected.max(lowest(&first.unit)?);
        is_live.then_some((index, plain(place - pts(&first.unit)), place - expected))
    }

    /// Where a leg lies by the times at which its pictures and those of the program were captured, where both encoders tell.
    fn capture_shift(&self, standby: &Standby) -> Option<i64> {
        let (leg, program) = standby.capture.zip(self.capture)?;
        Some(Timescale::VIDEO.ticks_from_nanos(leg.saturating_sub(program)))
    }

    /// How a GOP that began before the head is caught up in the gap, where it can be; `shift` is where the leg lies.
    fn squeeze(&self, standby: &Standby, index: usize, shift: i64) -> Option<Squeeze> {
        let is_picture = |unit: &&AccessUnit| unit.track == TrackKind::Video;
        let frames = || standby.units.iter().skip(index).map(|(_, incoming)| &incoming.unit).filter(is_picture);
        let (first, last) = (frames().next()?, frames().next_back()?);
        let steps = frames().zip(frames().skip(1)).map(|(one, next)| next.dts.0 - one.dts.0);
        let frame = steps.filter(|step| *step > 0).min()?;
        let from = first.pts.0 + shift;
        let to = self.lowest(0)? + (first.pts.0 - first.dts.0) * STEP_MIN / frame + 1;
        // Where the squeezed line meets the true one. At 1 ms for each frame a thousand frames a second is all there is.
        let rest = (to - from).checked_mul(STEP_MIN)?.checked_div(frame - STEP_MIN).filter(|rest| *rest >= 0)?;
        let until = to + rest + 1;
        // What follows has its own stamps: the last of what is kept must lie beyond.
        (until <= last.dts.0 + shift).then_some(Squeeze { shift, from, to, until, frame })
    }

    /// The end of the program: of the picture, else of the sound, on the video scale.
    pub(super) fn head(&self) -> Option<i64> {
        let sound = self.audio_head.zip(self.tracks.audio.as_ref());
        let video = self.video.filter(|_| self.tracks.video.is_some()).map(|(_, pts)| pts);
        video.or_else(|| sound.map(|(head, audio)| audio.timescale.rescale(head, Timescale::VIDEO)))
    }

    /// The lowest program time at which a picture may follow: its PTS above every one emitted, its DTS above the last,
    /// whatever the reorder depths.
    fn lowest(&self, reorder: i64) -> Option<i64> {
        let head = self.head()?;
        Some(self.video.map_or(head, |(dts, pts)| (pts + 1).max(dts + 1 + reorder)))
    }

    /// How far the highest presentation time is ahead of the last decode time: reordered pictures.
    pub(super) fn reorder_lead(&self) -> Option<i64> {
        let head = self.head()?;
        Some(self.video.filter(|_| self.tracks.video.is_some()).map_or(0, |(dts, _)| head - dts))
    }

    /// The shift of the sound: the picture's, moved by at most half a frame onto the program's grid. Fills the hole
    /// between the old sound and the new with silence.
    fn join_audio(&mut self, tracks: &Tracks, standby: &Standby, at: Arrival, anchor: i64, squeeze: Squeeze) -> i64 {
        let Some(audio) = &tracks.audio else { return 0 };
        let scale = audio.timescale;
        let exact = Timescale::VIDEO.rescale(squeeze.shift, scale);
        let same = self.tracks.audio.as_ref() == Some(audio);
        let Some(head) = self.audio_head.filter(|_| same) else {
            // No sound from before the first picture, whenever it comes, and none from before the sound that was.
            self.fill_to_the_end(at, squeeze.place(anchor));
            let floor = Timescale::VIDEO.rescale(squeeze.place(anchor), scale);
            let before = self.audio_head.zip(self.tracks.audio.as_ref());
            let before = before.map(|(head, audio)| audio.timescale.rescale(head, scale));
            self.audio_head = Some(before.map_or(floor, |before| before.max(floor)));
            return exact;
        };
        let length = i64::from(audio.samples_per_unit);
        let sound =
            standby.units.iter().map(|(_, incoming)| &incoming.unit).filter(|unit| unit.track == TrackKind::Audio);
        let first = sound.into_iter().map(|unit| unit.dts.0).find(|dts| *dts + exact > head - length / 2);
        let first = first.unwrap_or_else(|| Timescale::VIDEO.rescale(anchor, scale));
        let frames = (first + exact - head + length / 2).div_euclid(length);
        if frames * length <= FILL_MS_MAX * i64::from(scale.hz()) / 1000 {
            self.fill(at, audio, head, frames);
        }
        head + frames * length - first
    }

    /// Other sound follows from `until` on, in program time. That from before reaches the end of the picture: a segment in which no sound
    /// lies would be a gap in its playlist, at which players wait.
    fn fill_to_the_end(&mut self, at: Arrival, until: i64) {
        let (Some(head), Some(audio), Some((_, shown))) = (self.audio_head, self.tracks.audio.clone(), self.video)
        else {
            return;
        };
        let end = until.min(shown + self.interval(TrackKind::Video));
        let missing = Timescale::VIDEO.rescale(end, audio.timescale) - head;
        let length = i64::from(audio.samples_per_unit);
        if missing <= FILL_MS_MAX * i64::from(audio.timescale.hz()) / 1000 {
            self.fill(at, &audio, head, missing.saturating_add(length - 1).div_euclid(length));
        }
    }

    /// So many frames of silence from `head` on.
    fn fill(&mut self, at: Arrival, audio: &AudioConfig, head: i64, frames: i64) {
        let length = i64::from(audio.samples_per_unit);
        for frame in 0..frames {
            if let Some(unit) = silent_unit(audio, head + frame * length) {
                self.audio_head = Some(head + (frame + 1) * length);
                self.push(at, unit);
            }
        }
    }

    /// Emits what the leg has kept: pictures from the random access point on, sound from where it is missing. Returns how many
    /// frames were squeezed.
    fn replay(&mut self, leg: u64, standby: &mut Standby, index: usize, squeeze: Squeeze, audio_shift: i64) -> u64 {
        let mut squeezed = 0;
        let is_first = !standby.units.iter().take(index).any(|(_, incoming)| standby.is_anchor(&incoming.unit));
        let Some((anchor, newest)) = standby.units.get(index).zip(standby.units.back()) else { return 0 };
        let (anchor, newest) = (anchor.1.unit.pts.0, newest.0);
        let is_video = standby.tracks.video.is_some();
        let is_video_anchor =
            standby.units.get(index).is_some_and(|(_, incoming)| incoming.unit.track == TrackKind::Video);
        for (number, (came, incoming)) in std::mem::take(&mut standby.units).into_iter().enumerate() {
            let Incoming { mut unit, mut hash, is_stand_in } = incoming;
            let mut at = came;
            if unit.track == TrackKind::Video {
                if number < index || !is_video_anchor || unit.pts.0 < anchor {
                    // Of no use: before the first random access point, or leading pictures of an open GOP.
                    self.stats.dropped_units += u64::from(number > index || is_first);
                    continue;
                }
                if squeeze.moves(unit.pts.0) {
                    squeezed += 1;
                    at = newest; // it is sent on now
                    hash = None; // it is not where its copies are
                }
                (unit.dts.0, unit.pts.0) = (squeeze.place(unit.dts.0), squeeze.place(unit.pts.0));
            } else {
                if !is_video && number < index {
                    continue;
                }
                unit.dts = unit.dts + audio_shift;
                unit.pts = unit.pts + audio_shift;
            }
            let deadline = at.now;
            self.emit(Held { at, leg, unit, hash, is_stand_in, changed: None, deadline, late: Duration::ZERO });
        }
        standby.clear();
        squeezed
    }
}
