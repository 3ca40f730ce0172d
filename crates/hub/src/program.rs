//! The program: one continuous timeline that outlives every leg.
//!
//! One leg feeds it at a time. A leg joins at its first random access point; its time is shifted once, by a whole number
//! of ticks, so that nothing accumulates. Sound joins on the program's own grid.

use std::sync::Arc;
use std::time::{Duration, Instant};

use media::{AccessUnit, CodecConfig, Timescale, TrackKind};

use crate::ring::{Entry, Item, Ring, Tracks};
use crate::timeline::{Repaired, silent_unit};

/// How long the tracks that were announced are waited for.
const CENSUS_TIME: Duration = Duration::from_secs(1);
/// Most units kept while waiting: 1 s of 240 pictures and 400 frames of sound.
const PENDING_MAX: usize = 640;
/// Most bytes kept while waiting: 1 s at 200 Mbit/s.
const PENDING_BYTES_MAX: usize = 25 << 20;
/// Where program time begins: room below for a decode time that precedes the first picture.
const PROGRAM_START: i64 = 10 * 360_000;
/// Longest hole in the sound that is filled with silence at a join, in milliseconds.
const FILL_MS_MAX: i64 = 3000;

/// When something reached us, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Monotonic.
    pub now: Instant,
    /// Nanoseconds since 1970, UTC.
    pub utc_nanos: i64,
}

/// What the encoder announced before it sent anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) video: bool,
    pub(crate) audio: bool,
}

/// How the leg that feeds the program is tied to it.
#[derive(Debug)]
enum Join {
    /// Nobody feeds it.
    Idle,
    /// Waiting for the announced tracks and a random access point.
    Collecting { since: Instant, announced: Announced, tracks: Tracks, pending: Vec<(Arrival, AccessUnit)> },
    /// Fed, with these shifts from leg time to program time.
    /// `anchor` is the PTS of its first random access point, `known` the configurations it has now.
    Joined { video_shift: i64, audio_shift: i64, anchor: i64, known: Tracks, is_silent: bool },
}

/// Counters of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramStats {
    /// Units that reached the ring.
    pub units: u64,
    /// Bytes that reached the ring.
    pub bytes: u64,
    /// Times a leg joined.
    pub joins: u64,
    /// Times the decoder configuration changed on the way.
    pub discontinuities: u64,
    /// Units dropped because they came before a random access point or behind the head.
    pub dropped_units: u64,
}

/// The program's state; the stream's lock guards it.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) ring: Ring,
    pub(crate) tracks: Arc<Tracks>,
    pub(crate) stats: ProgramStats,
    join: Join,
    /// Last decode time and highest presentation time of the picture.
    video: Option<(i64, i64)>,
    /// Where the next sound belongs, on the sound's own scale.
    audio_head: Option<i64>,
    last_arrival: Option<Instant>,
}

impl Program {
    pub(crate) fn new() -> Self {
        Self {
            ring: Ring::default(),
            tracks: Arc::default(),
            stats: ProgramStats::default(),
            join: Join::Idle,
            video: None,
            audio_head: None,
            last_arrival: None,
        }
    }

    /// A new leg feeds the program from its first random access point on.
    pub(crate) fn begin_leg(&mut self, now: Instant) {
        let (announced, tracks) = (Announced::default(), Tracks::default());
        self.join = Join::Collecting { since: now, announced, tracks, pending: Vec::new() };
    }

    pub(crate) fn announce(&mut self, announcement: Announced) {
        if let Join::Collecting { announced, .. } = &mut self.join {
            *announced = announcement;
        }
    }

    /// The leg is gone.
    pub(crate) fn end_leg(&mut self) {
        self.join = Join::Idle;
    }

    /// Whether anything was ever emitted.
    pub(crate) fn has_begun(&self) -> bool {
        self.last_arrival.is_some()
    }

    /// Appends something that is no unit.
    pub(crate) fn mark(&mut self, arrival_utc_nanos: i64, item: Item) {
        self.ring.push(Entry { arrival_utc_nanos, tracks: Arc::clone(&self.tracks), item });
    }

    /// What the feeding leg's timeline brought.
    pub(crate) fn handle(&mut self, at: Arrival, repaired: Repaired) {
        match repaired {
            Repaired::Config(config) => self.on_config(config),
            Repaired::Unit(unit) => self.on_unit(at, unit),
        }
    }

    fn on_config(&mut self, config: CodecConfig) {
        match &mut self.join {
            Join::Idle => {}
            Join::Collecting { tracks, .. } => set_config(tracks, config),
            // In force from the next random access point on.
            Join::Joined { known, is_silent, .. } => {
                *is_silent &= config.kind() == TrackKind::Video;
                set_config(known, config);
            }
        }
    }

    fn set_tracks(&mut self, tracks: Tracks) {
        if *self.tracks != tracks {
            self.stats.discontinuities += u64::from(self.has_begun());
            self.tracks = Arc::new(tracks);
        }
    }

    fn on_unit(&mut self, at: Arrival, unit: AccessUnit) {
        match &mut self.join {
            Join::Idle => {}
            Join::Joined { .. } => self.on_joined_unit(at, unit),
            Join::Collecting { since, announced, tracks, pending } => {
                let bytes: usize = pending.iter().map(|(_, unit)| unit.payload.len()).sum();
                if pending.len() == PENDING_MAX || bytes > PENDING_BYTES_MAX {
                    pending.remove(0);
                    self.stats.dropped_units += 1;
                }
                pending.push((at, unit));
                let waited = at.now.saturating_duration_since(*since) >= CENSUS_TIME || pending.len() == PENDING_MAX;
                let knows_all =
                    (tracks.video.is_some() || !announced.video) && (tracks.audio.is_some() || !announced.audio);
                let is_announced = announced.video || announced.audio;
                let complete = tracks.video.is_some() && tracks.audio.is_some();
                if complete || waited || knows_all && is_announced {
                    self.try_join(waited);
                }
            }
        }
    }

    fn on_joined_unit(&mut self, at: Arrival, unit: AccessUnit) {
        let Join::Joined { video_shift, audio_shift, anchor, known, is_silent } = &mut self.join else { return };
        let begins = unit.is_random_access && (unit.track == TrackKind::Video || known.video.is_none());
        if begins && *known != *self.tracks {
            let changed = Tracks { video: known.video.clone(), audio: known.audio.clone() };
            let scale = |tracks: &Tracks| tracks.audio.as_ref().map(|audio| audio.timescale);
            if scale(&changed) != scale(&self.tracks) {
                if let Some(scale) = scale(&changed) {
                    *audio_shift = Timescale::VIDEO.rescale(*video_shift, scale);
                }
                self.audio_head = None;
            }
            let tracks = Arc::new(changed);
            self.stats.discontinuities += u64::from(self.last_arrival.is_some());
            self.tracks = tracks;
        }
        let is_old = match unit.track {
            TrackKind::Video => unit.pts.0 < *anchor, // leading pictures of an open GOP
            TrackKind::Audio => known.audio != self.tracks.audio, // waits for the random access point
        };
        let (video_shift, audio_shift, is_silent) = (*video_shift, *audio_shift, *is_silent);
        if is_old {
            self.stats.dropped_units += 1;
        } else {
            self.emit(at, unit, video_shift, audio_shift);
        }
        if is_silent {
            self.stand_in(at);
        }
    }

    /// Silence for a leg that brings no sound to a program that has it.
    fn stand_in(&mut self, at: Arrival) {
        let (Some((video, _)), Some(audio), Some(mut head)) = (self.video, &self.tracks.audio, self.audio_head) else {
            return;
        };
        let until = Timescale::VIDEO.rescale(video, audio.timescale);
        let length = i64::from(audio.samples_per_unit);
        if (until - head) / i64::from(audio.timescale.hz()) > FILL_MS_MAX / 1000 {
            head += (until - head) / length * length; // too long a hole to fill: it is a gap
        }
        while head + length <= until {
            let Some(unit) = silent_unit(audio, head) else { break };
            let (tracks, item) = (Arc::clone(&self.tracks), Item::Unit(unit));
            self.ring.push(Entry { arrival_utc_nanos: at.utc_nanos, tracks, item });
            head += length;
        }
        self.audio_head = Some(head);
    }

    /// Joins if there is a random access point among what was collected.
    fn try_join(&mut self, waited: bool) {
        let Join::Collecting { tracks, pending, .. } = &mut self.join else { return };
        let has_video =
            tracks.video.is_some() && (!waited || pending.iter().any(|(_, unit)| unit.track == TrackKind::Video));
        let anchor_track = if has_video { TrackKind::Video } else { TrackKind::Audio };
        let is_anchor = |unit: &AccessUnit| unit.track == anchor_track && unit.is_random_access;
        let Some(index) = pending.iter().position(|(_, unit)| is_anchor(unit)) else { return };
        let (mut tracks, pending) = (std::mem::take(tracks), std::mem::take(pending));
        let all = Tracks { video: tracks.video.clone(), audio: None };
        if !has_video {
            tracks.video = None; // announced, and not a single picture: it joins when it comes
        }
        // A track that the program has stays, whether this leg brings it or not: sound as silence, pictures as a gap.
        let is_silent = tracks.audio.is_none();
        tracks.video = tracks.video.or_else(|| self.tracks.video.clone());
        tracks.audio = tracks.audio.or_else(|| self.tracks.audio.clone());
        let known = Tracks { video: all.video.or_else(|| tracks.video.clone()), audio: tracks.audio.clone() };
        let Some((at, anchor)) = pending.get(index) else { return };
        let scale = tracks.config(anchor_track).map_or(Timescale::VIDEO, |config| config.timescale());
        let anchor_pts = scale.rescale(anchor.pts.0, Timescale::VIDEO);
        let reorder = if anchor_track == TrackKind::Video { anchor.pts.0 - anchor.dts.0 } else { 0 };
        let video_shift = self.join_position(at.now, reorder) - anchor_pts;
        let audio_shift = self.join_audio(&tracks, &pending, anchor_pts, video_shift);
        if let Some(audio) = &tracks.audio {
            // No sound from before the first picture, whenever it comes.
            let floor = Timescale::VIDEO.rescale(anchor_pts, audio.timescale) + audio_shift;
            self.audio_head.get_or_insert(floor);
        }
        self.set_tracks(tracks);
        self.stats.joins += 1;
        let anchor = if anchor_track == TrackKind::Video { anchor_pts } else { i64::MIN };
        self.join = Join::Joined { video_shift, audio_shift, anchor, known, is_silent };
        for (at, unit) in pending {
            let before = match unit.track {
                TrackKind::Video => unit.pts.0 < anchor_pts,
                TrackKind::Audio => self
                    .tracks
                    .audio
                    .as_ref()
                    .is_none_or(|audio| audio.timescale.rescale(unit.pts.0, Timescale::VIDEO) < anchor_pts),
            };
            if before {
                self.stats.dropped_units += 1; // also the leading pictures of an open GOP
            } else {
                self.emit(at, unit, video_shift, audio_shift);
            }
        }
    }

    /// Program time, on the video scale, at which a leg whose anchor arrived at `now` joins.
    fn join_position(&self, now: Instant, reorder: i64) -> i64 {
        let audio_end = self
            .audio_head
            .zip(self.tracks.audio.as_ref())
            .map(|(head, audio)| audio.timescale.rescale(head, Timescale::VIDEO));
        let video_head = self.video.filter(|_| self.tracks.video.is_some());
        let head = match (video_head, audio_end) {
            (Some((_, pts)), _) => pts,
            (None, Some(end)) => end,
            (None, None) => return PROGRAM_START,
        };
        let passed = self.last_arrival.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let expected = head + Timescale::VIDEO.ticks(passed);
        // PTS above every one emitted, DTS above the last, whatever the reorder depths.
        let lowest = self.video.map_or(head, |(dts, pts)| (pts + 1).max(dts + 1 + reorder));
        expected.max(lowest)
    }

    /// The shift of the sound: the picture's, moved by at most half a frame onto the program's grid. Fills the hole
    /// between the old sound and the new with silence.
    fn join_audio(&mut self, tracks: &Tracks, pending: &[(Arrival, AccessUnit)], anchor: i64, video_shift: i64) -> i64 {
        let Some(audio) = &tracks.audio else { return 0 };
        let scale = audio.timescale;
        let exact = Timescale::VIDEO.rescale(video_shift, scale);
        let same = self.tracks.audio.as_ref() == Some(audio);
        let Some(head) = self.audio_head.filter(|_| same) else {
            self.audio_head = None;
            return exact;
        };
        let length = i64::from(audio.samples_per_unit);
        let first = pending
            .iter()
            .map(|(_, unit)| unit)
            .find(|unit| unit.track == TrackKind::Audio && scale.rescale(unit.pts.0, Timescale::VIDEO) >= anchor);
        let first = first.map_or_else(|| Timescale::VIDEO.rescale(anchor, scale), |unit| unit.dts.0);
        let frames = ((first + exact - head + length / 2).div_euclid(length)).max(0);
        if frames * length <= FILL_MS_MAX * i64::from(scale.hz()) / 1000 {
            let arrival_utc_nanos = pending.first().map_or(0, |(at, _)| at.utc_nanos);
            for frame in 0..frames {
                if let Some(unit) = silent_unit(audio, head + frame * length) {
                    self.audio_head = Some(head + (frame + 1) * length);
                    let tracks = Arc::clone(&self.tracks);
                    self.ring.push(Entry { arrival_utc_nanos, tracks, item: Item::Unit(unit) });
                }
            }
        }
        head + frames * length - first
    }

    fn emit(&mut self, at: Arrival, mut unit: AccessUnit, video_shift: i64, audio_shift: i64) {
        let shift = if unit.track == TrackKind::Video { video_shift } else { audio_shift };
        unit.dts = unit.dts + shift;
        unit.pts = unit.pts + shift;
        let behind = match unit.track {
            TrackKind::Video => self.tracks.video.is_none() || self.video.is_some_and(|(dts, _)| unit.dts.0 <= dts),
            TrackKind::Audio => self.tracks.audio.is_none() || self.audio_head.is_some_and(|head| unit.dts.0 < head),
        };
        if behind {
            self.stats.dropped_units += 1;
            return;
        }
        match unit.track {
            TrackKind::Video => {
                let highest = self.video.map_or(unit.pts.0, |(_, pts)| pts.max(unit.pts.0));
                self.video = Some((unit.dts.0, highest));
            }
            TrackKind::Audio => self.audio_head = Some(unit.dts.0 + i64::from(unit.duration.unwrap_or(0))),
        }
        if unit.track == TrackKind::Video || self.tracks.video.is_none() {
            self.last_arrival = Some(at.now); // of the track whose head tells where the program is
        }
        self.stats.units += 1;
        self.stats.bytes += unit.payload.len() as u64;
        let tracks = Arc::clone(&self.tracks);
        self.ring.push(Entry { arrival_utc_nanos: at.utc_nanos, tracks, item: Item::Unit(unit) });
    }
}

fn set_config(tracks: &mut Tracks, config: CodecConfig) {
    match config {
        CodecConfig::Video(video) => tracks.video = Some(video),
        CodecConfig::Audio(audio) => tracks.audio = Some(audio),
    }
}

#[cfg(test)]
mod tests;
