//! Repairs what real encoders do to time. After it, time is trustworthy.
//!
//! In come units with the peer's stamps; out come units in *leg time*, which starts near 0, with exact grids, strictly
//! increasing DTS and PTS ≥ DTS. Each repair is counted.

mod audio_grid;
mod clock;
mod video_grid;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use codec::VideoUnit;
use media::{
    AccessUnit, AudioCodec, AudioConfig, CodecConfig, CompositionOffset, Dts, FrameRate, Payload, Timescale, TrackKind,
    VideoConfig,
};

use audio_grid::{AudioGrid, Placement};
use clock::{Clock, TrackClock};
use video_grid::{VideoGrid, div_round};

/// How far sound may lag behind the picture before silence stands in: more than encoders interleave.
const AUDIO_LATE_MS: i64 = 500;
/// How far the stand-in stays behind the picture, so that sound that returns finds room.
const STAND_IN_LAG_MS: i64 = 100;
/// Longest lag that is filled; beyond it the picture itself had a hole.
const STAND_IN_MS_MAX: i64 = 3000;
/// Largest composition offset that is believed: 16 frames of reordering at 5 frames/s.
const COMPOSITION_OFFSET_NANOS_MAX: i64 = 3_200_000_000;
/// Part of wall time by which a leg's clock may be fast without being called ahead: one in 1,000.
const CLOCK_TOLERANCE: i64 = 1000;

/// Repairs by kind, since the leg began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// The timestamps jumped and were joined.
    pub jumps: u64,
    /// DTS did not increase.
    pub disorder: u64,
    /// PTS was before DTS, or impossibly far behind it.
    pub composition: u64,
    /// Frames of silence that stand in for sound that was missing.
    pub silence: u64,
    /// Frames of sound that came twice or too late.
    pub dropped_audio: u64,
    /// Units that could not be read.
    pub damaged: u64,
}

impl Repairs {
    /// What was repaired since then, in words; empty where nothing was.
    pub(crate) fn since(self, before: Self) -> String {
        let counts = [
            (self.jumps - before.jumps, "jumps of timestamps"),
            (self.disorder - before.disorder, "decode times that did not increase"),
            (self.composition - before.composition, "impossible composition offsets"),
            (self.silence - before.silence, "frames of silence in place of sound"),
            (self.dropped_audio - before.dropped_audio, "frames of sound that came twice or too late"),
            (self.damaged - before.damaged, "units that cannot be read"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        counts.collect::<Vec<_>>().join(", ")
    }
}

/// What comes out.
#[derive(Debug)]
pub enum Repaired {
    /// The configuration of a track, from here on.
    Config(CodecConfig),
    /// One unit in leg time.
    Unit(AccessUnit),
    /// Silence in leg time, in place of sound that did not come.
    StandIn(AccessUnit),
}

/// The time of one leg.
#[derive(Debug)]
pub struct Timeline {
    clock: Clock,
    video: VideoTrack,
    audio: Option<AudioTrack>,
    audio_clock: TrackClock,
    out: VecDeque<Repaired>,
    repairs: Repairs,
    pace: Pace,
}

#[derive(Debug, Default)]
struct VideoTrack {
    clock: TrackClock,
    grid: VideoGrid,
    first: Option<i64>,
    last: Option<i64>,
}

#[derive(Debug)]
struct AudioTrack {
    config: AudioConfig,
    grid: AudioGrid,
    /// Silence stands in.
    standing_in: bool,
}

/// Furthest behind that is remembered: what a backlog may catch up without being called ahead.
const BEHIND_NANOS_MAX: i64 = 10_000_000_000;

/// How far media runs ahead of the wall clock. Behind counts too: a backlog after a stall only makes up for it.
#[derive(Debug, Default)]
struct Pace {
    ahead_nanos: i64,
    last: Option<(Instant, i64)>,
}

impl Pace {
    fn observe(&mut self, now: Instant, leg_nanos: i64) {
        let Some((then, last_nanos)) = self.last else {
            self.last = Some((now, leg_nanos));
            return;
        };
        let media = leg_nanos.saturating_sub(last_nanos).max(0);
        let wall = i64::try_from(now.saturating_duration_since(then).as_nanos()).unwrap_or(i64::MAX);
        let balance = self.ahead_nanos.saturating_add(media).saturating_sub(wall);
        // A clock that is a little fast or slow is no lead and no lag: the balance tends to zero.
        let drift = (wall / CLOCK_TOLERANCE).min(balance.saturating_abs());
        self.ahead_nanos = (balance - drift * balance.signum()).max(-BEHIND_NANOS_MAX);
        self.last = Some((now, leg_nanos.max(last_nanos)));
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new()
    }
}

impl Timeline {
    /// A timeline that has seen nothing.
    pub fn new() -> Self {
        Self {
            clock: Clock::default(),
            video: VideoTrack::default(),
            audio: None,
            audio_clock: TrackClock::default(),
            out: VecDeque::new(),
            repairs: Repairs::default(),
            pace: Pace::default(),
        }
    }

    /// The next repaired thing.
    pub fn poll(&mut self) -> Option<Repaired> {
        self.out.pop_front()
    }

    /// What was repaired so far.
    pub fn repairs(&self) -> Repairs {
        self.repairs
    }

    /// Times since the leg began that its stamps jumped, or went back.
    pub fn breaks(&self) -> u64 {
        self.clock.breaks()
    }

    /// Counts a unit that could not be read.
    pub fn count_damaged(&mut self) {
        self.repairs.damaged += 1;
    }

    /// How far the leg is ahead of its own clock: what it has sent faster than real time.
    pub fn ahead(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.pace.ahead_nanos).unwrap_or(0))
    }

    /// Where a time of the peer's clock lies, in nanoseconds of leg time; none before the first unit.
    pub fn leg_nanos(&self, peer_nanos: i64) -> Option<i64> {
        self.clock.leg_time(peer_nanos)
    }

    /// The constant frame rate the video is on, if it is.
    pub fn frame_rate(&self) -> Option<FrameRate> {
        self.video.grid.frame().and_then(|frame| FrameRate::from_frame_duration(frame, Timescale::VIDEO))
    }

    /// The declared frame rate, from outside the bitstream. A hint.
    pub fn hint_frame_rate(&mut self, rate: FrameRate) {
        self.video.grid.hint(rate);
    }

    /// A configuration of the video track.
    pub fn video_config(&mut self, config: VideoConfig) {
        if let Some(rate) = config.frame_rate {
            self.video.grid.hint(rate);
        }
        self.out.push_back(Repaired::Config(CodecConfig::Video(config)));
    }

    /// A configuration of the audio track; the same one again changes nothing.
    pub fn audio_config(&mut self, config: AudioConfig) {
        if self.audio.as_ref().is_some_and(|audio| audio.config == config) {
            return;
        }
        let mut grid = AudioGrid::new(config.timescale.hz());
        if let Some(old) = &self.audio
            && let Some(head) = old.grid.head()
        {
            grid.set_head(old.config.timescale.rescale(head, config.timescale));
        }
        self.out.push_back(Repaired::Config(CodecConfig::Audio(config.clone())));
        self.audio = Some(AudioTrack { config, grid, standing_in: false });
    }

    /// Whether an audio configuration is known.
    pub fn has_audio(&self) -> bool {
        self.audio.is_some()
    }

    /// A video unit: the peer's decode time and composition offset in nanoseconds.
    pub fn video(&mut self, now: Instant, peer_nanos: i64, offset_nanos: i64, unit: VideoUnit) {
        let (nanos, jumped) = self.clock.map(&mut self.video.clock, now, peer_nanos);
        self.pace.observe(now, nanos);
        if jumped {
            self.repairs.jumps += 1;
            self.video.grid.restart();
        }
        let mut dts = self.video.grid.place(Timescale::VIDEO.ticks_from_nanos(nanos));
        if let Some(last) = self.video.last.filter(|last| dts <= *last) {
            self.repairs.disorder += 1;
            dts = last + 1;
        }
        self.video.last = Some(dts);
        let pts = Dts(dts) + self.composition_offset(offset_nanos);
        if let Some(config) = unit.new_config {
            self.video_config(config);
        }
        let VideoUnit { payload, is_random_access, .. } = unit;
        let track = TrackKind::Video;
        self.out.push_back(Repaired::Unit(AccessUnit {
            track,
            dts: Dts(dts),
            pts,
            duration: None,
            is_random_access,
            payload,
        }));
        let first = *self.video.first.get_or_insert(dts);
        self.stand_in(first, dts);
    }

    /// A whole number of frames while the rate is constant.
    fn composition_offset(&mut self, nanos: i64) -> CompositionOffset {
        if !(0..=COMPOSITION_OFFSET_NANOS_MAX).contains(&nanos) {
            self.repairs.composition += 1;
            return CompositionOffset(0);
        }
        let ticks = Timescale::VIDEO.ticks_from_nanos(nanos);
        CompositionOffset(self.video.grid.frame().map_or(ticks, |frame| div_round(ticks, frame) * frame))
    }

    /// Silence for sound that was announced and is late or has vanished.
    fn stand_in(&mut self, first_video: i64, video: i64) {
        let Some(audio) = &mut self.audio else { return };
        let scale = audio.config.timescale;
        let position = Timescale::VIDEO.rescale(video, scale);
        let head = audio.grid.head().unwrap_or_else(|| Timescale::VIDEO.rescale(first_video, scale));
        let samples = |millis: i64| millis * i64::from(scale.hz()) / 1000;
        let allowed = samples(if audio.standing_in { STAND_IN_LAG_MS } else { AUDIO_LATE_MS });
        let lag = position.saturating_sub(head);
        if lag <= allowed {
            return;
        }
        audio.standing_in = true;
        let length = i64::from(audio.config.samples_per_unit);
        let mut next = head;
        if lag > samples(STAND_IN_MS_MAX) {
            next += div_round(lag - samples(STAND_IN_LAG_MS), length) * length;
        }
        while position - next > samples(STAND_IN_LAG_MS) {
            let Some(unit) = silent_unit(&audio.config, next) else { break };
            self.out.push_back(Repaired::StandIn(unit));
            self.repairs.silence += 1;
            next += length;
        }
        audio.grid.set_head(next);
    }

    /// An audio unit: the peer's time in nanoseconds. Needs a configuration first; without one it is dropped.
    pub fn audio(&mut self, now: Instant, peer_nanos: i64, payload: Bytes) {
        let Some(audio) = &mut self.audio else { return };
        if payload.is_empty() {
            self.repairs.damaged += 1; // no sound at all is no frame of sound: silence will stand in
            return;
        }
        let length = match audio.config.codec {
            AudioCodec::Aac => audio.config.samples_per_unit,
            AudioCodec::Opus => match codec::opus::packet_samples(&payload) {
                Ok(samples) => samples,
                Err(_) => {
                    self.repairs.damaged += 1;
                    return;
                }
            },
        };
        let (nanos, jumped) = self.clock.map(&mut self.audio_clock, now, peer_nanos);
        self.pace.observe(now, nanos);
        self.repairs.jumps += u64::from(jumped && self.video.last.is_none());
        let stamp = audio.config.timescale.ticks_from_nanos(nanos);
        match audio.grid.place(stamp, i64::from(length)) {
            Placement::Drop => {
                audio.standing_in = false; // it is back: silence may lag as far as sound, until its stamps have caught up
                self.repairs.dropped_audio += 1;
            }
            Placement::Emit { silence_at, silent, dts } => {
                audio.standing_in = false;
                if length == audio.config.samples_per_unit {
                    for index in 0..i64::from(silent) {
                        let at = silence_at + index * i64::from(length);
                        if let Some(unit) = silent_unit(&audio.config, at) {
                            self.out.push_back(Repaired::StandIn(unit));
                            self.repairs.silence += 1;
                        }
                    }
                }
                self.out.push_back(Repaired::Unit(audio_unit(dts, length, payload.into())));
            }
        }
    }
}

fn audio_unit(dts: i64, duration: u32, payload: Payload) -> AccessUnit {
    AccessUnit {
        track: TrackKind::Audio,
        dts: Dts(dts),
        pts: media::Pts(dts),
        duration: Some(duration),
        is_random_access: true,
        payload,
    }
}

/// A ready-made unit of silence at `dts`, `samples_per_unit` long; `None` where the codec has none.
pub(crate) fn silent_unit(config: &AudioConfig, dts: i64) -> Option<AccessUnit> {
    let payload = match config.codec {
        AudioCodec::Aac => codec::aac::silent_frame(config)?,
        // spec: RFC 7845 §5.1.1: more channels are several streams in one packet
        AudioCodec::Opus if config.channels > 2 => return None,
        AudioCodec::Opus => codec::opus::silent_packet(),
    };
    Some(audio_unit(dts, config.samples_per_unit, payload.into()))
}

#[cfg(test)]
mod tests;
