//! A viewer over RTMP or SRT: there are no playlists, media comes as it is made. The player is sans-IO; [`watch`] drives it.
//!
//! These protocols carry no time of day. Latency is counted from the unit that came earliest for its time stamp: it is what
//! the player and an uneven line add to the way itself, and it grows as any latency does.

mod place;
mod rtmp;
mod srt;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use media::TrackKind;

pub use place::{Place, SrtPlace};

use crate::follower::Event;
use crate::playback::{Buffer, Change, Moment, Playback, nanos};
use crate::quality::{Quality, Startup};
use crate::watch::moment;

/// What a player has before it begins, as usual ones have it.
pub const BUFFER: Duration = Duration::from_millis(500);
/// Between two units of a track that follow each other without a hole.
const HOLE_NANOS: i64 = 1_000_000_000;
/// Time stamps that jump by more than this, or go back, begin anew.
const JUMP_NANOS: i64 = 10_000_000_000;
/// Between what came before a jump and what comes after it.
const FRAME_NANOS: i64 = 33_000_000;
/// A track that is so far behind the other one has ended: the other plays alone.
const GONE_NANOS: i64 = 3_000_000_000;
/// Once a second.
const LATENCY_INTERVAL: Duration = Duration::from_secs(1);
/// The growth of latency counts from here on.
const SLOPE_FROM_SECONDS: f64 = 3.0;

/// What is known of a track.
#[derive(Clone, Debug, Default)]
struct Track {
    buffer: Buffer,
    /// Time of the first unit, and of the newest.
    first: Option<i64>,
    newest: Option<i64>,
}

/// A player without a picture, for media that comes by itself.
#[derive(Debug)]
pub struct DirectPlayer {
    began: Instant,
    wanted: i64,
    playback: Playback,
    startup: Startup,
    tracks: [Track; 2],
    /// Added to time stamps: they may begin anew.
    offset: i64,
    /// Where a decoder can begin.
    start: Option<i64>,
    /// Arrival less time stamp of the unit that came earliest for its time.
    earliest: Option<i64>,
    latency_at: Option<Instant>,
    quality: Quality,
    events: VecDeque<Event>,
    is_done: bool,
}

impl DirectPlayer {
    /// A player that begins with `buffer` of media and keeps at most `samples_max` measurements of a kind.
    pub fn new(at: Moment, buffer: Duration, samples_max: usize) -> Self {
        Self {
            began: at.now,
            wanted: nanos(buffer),
            playback: Playback::new(),
            startup: Startup::default(),
            tracks: Default::default(),
            offset: 0,
            start: None,
            earliest: None,
            latency_at: None,
            quality: Quality::new(samples_max),
            events: VecDeque::new(),
            is_done: false,
        }
    }

    /// Figures so far.
    pub fn quality(&self) -> &Quality {
        &self.quality
    }

    /// It stands still now.
    pub fn is_stalled(&self) -> bool {
        self.playback.is_stalled()
    }

    /// Nothing more will come.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// How far playback is behind what came earliest, in nanoseconds.
    pub fn latency_nanos(&self, at: Moment) -> Option<i64> {
        let position = self.playback.position(at.now).filter(|_| self.playback.has_begun())?;
        Some(at.utc_nanos - self.earliest? - position)
    }

    fn since_start(&self, at: Moment) -> u32 {
        u32::try_from(at.now.saturating_duration_since(self.began).as_millis()).unwrap_or(u32::MAX)
    }

    /// The connection stands; how long its steps took, in milliseconds.
    fn connected(&mut self, dns_ms: u32, tcp_ms: u32, tls_ms: u32) {
        self.startup = Startup { dns_ms, tcp_ms, tls_ms, ..self.startup };
    }

    /// The server lets it play.
    fn accepted(&mut self, at: Moment) {
        self.startup.playlists_ms = self.since_start(at);
    }

    /// A coded picture or frame of sound came. `is_random_access`: a decoder can begin with it.
    pub fn unit(&mut self, at: Moment, kind: TrackKind, dts_nanos: i64, is_random_access: bool, bytes: usize) {
        if self.quality.media == 0 {
            self.startup.first_media_ms = self.since_start(at);
        }
        self.quality.media += 1;
        self.quality.bytes += bytes as u64;
        let index = usize::from(kind == TrackKind::Audio);
        let Some(track) = self.tracks.get_mut(index) else { return };
        let mut time = dts_nanos + self.offset;
        if let Some(newest) = track.newest {
            let step = time - newest;
            if !(0..JUMP_NANOS).contains(&step) {
                self.quality.regressions += u64::from(step < 0);
                self.offset += FRAME_NANOS - step;
                time = newest + FRAME_NANOS;
                self.earliest = None;
            } else if step < HOLE_NANOS {
                track.buffer.add(newest, time);
            }
        }
        track.newest = Some(time);
        track.first.get_or_insert(time);
        let lateness = at.utc_nanos - time;
        let earliest = self.earliest.map_or(lateness, |earliest| earliest.min(lateness));
        self.earliest = Some(earliest);
        if self.playback.has_begun() {
            self.quality.count_age(Some(lateness - earliest), self.wanted);
        }
        if is_random_access && kind == TrackKind::Video {
            self.start.get_or_insert(time);
        }
        self.advance(at);
    }

    /// So many packets before what comes next are missing.
    fn lost(&mut self, packets: u64) {
        self.quality.missing += packets;
    }

    /// It ended otherwise than it should.
    fn fail(&mut self, text: String) {
        self.quality.failures += 1;
        self.events.push_back(Event::Failed(text));
        self.is_done = true;
    }

    /// The server ended the stream.
    fn end(&mut self) {
        self.events.push_back(Event::Ended);
        self.is_done = true;
    }

    /// Watching ends here: a stall that goes on is counted as far as it went.
    fn finish(&mut self, at: Moment) {
        if let Some(lasted) = self.playback.stalled_for(at.now).filter(|_| !self.is_done) {
            self.quality.count_stall(lasted);
        }
    }

    /// When it runs dry if nothing comes.
    fn deadline(&mut self) -> Option<Instant> {
        let active = active(&mut self.tracks);
        let buffers: Vec<&Buffer> = active.iter().map(|buffer| &**buffer).collect();
        self.playback.deadline(&buffers)
    }

    /// Where it begins: at a picture that a decoder can begin with, or at the first sound where there are no pictures.
    fn beginning(&self) -> Option<i64> {
        let [video, audio] = &self.tracks;
        let sound = audio.first.zip(audio.newest).filter(|(first, newest)| newest - first >= HOLE_NANOS);
        self.start.or(sound.map(|(first, _)| first).filter(|_| video.newest.is_none()))
    }

    /// Moves the clock, and tells what happened.
    fn advance(&mut self, at: Moment) {
        let Some(start) = self.beginning() else { return };
        let edge = self.tracks.iter().filter_map(|track| track.newest).min();
        if !self.playback.has_begun() {
            if edge.is_none_or(|edge| edge - start < self.wanted) {
                return;
            }
            self.playback.begin_at(start, Some(self.wanted));
        }
        while let Some(change) = self.playback.advance(at, edge, &mut active(&mut self.tracks)) {
            if change == Change::Began {
                self.startup.first_picture_ms = self.since_start(at);
            }
            self.events.push_back(self.quality.count_change(change, self.startup));
        }
        self.quality.played = self.playback.played();
        let is_due = self.latency_at.is_none_or(|last| at.now.saturating_duration_since(last) >= LATENCY_INTERVAL);
        if let Some(latency) = self.latency_nanos(at).filter(|_| is_due) {
            self.latency_at = Some(at.now);
            self.quality.latency.add(latency / 1_000_000);
            let seconds = at.now.saturating_duration_since(self.began).as_secs_f64();
            if seconds >= SLOPE_FROM_SECONDS {
                self.quality.slope.add(seconds, (latency / 1_000_000) as f64);
            }
        }
    }
}

/// What plays: every track that has come and has not ended.
fn active(tracks: &mut [Track; 2]) -> Vec<&mut Buffer> {
    let newest = tracks.iter().filter_map(|track| track.newest).max().unwrap_or(0);
    let alive = tracks.iter_mut().filter(|track| track.newest.is_some_and(|time| newest - time < GONE_NANOS));
    alive.map(|track| &mut track.buffer).collect()
}

/// Watches until `until`, or until the stream is over. `on_event` is called for each event, and every `tick` without one.
pub async fn watch(
    place: &Place,
    player: &mut DirectPlayer,
    is_insecure: bool,
    until: Instant,
    tick: Duration,
    mut on_event: impl FnMut(&DirectPlayer, Option<&Event>) + Send,
) {
    let mut teller = Teller { until, tick, next: Instant::now() + tick, on_event: &mut on_event };
    let outcome = match place {
        Place::Rtmp(place) => rtmp::play(place, is_insecure, player, &mut teller).await,
        Place::Srt(place) => srt::play(place, player, &mut teller).await,
    };
    match outcome {
        Ok(()) if Instant::now() < until => player.end(),
        Ok(()) => {}
        Err(text) => player.fail(text),
    }
    player.finish(moment());
    teller.tell(player);
    (teller.on_event)(player, None);
}

/// When to wake, and who is told.
struct Teller<'a> {
    until: Instant,
    tick: Duration,
    next: Instant,
    on_event: &'a mut (dyn FnMut(&DirectPlayer, Option<&Event>) + Send),
}

impl Teller<'_> {
    /// When the player has something to do even if nothing comes.
    fn wake(&self, player: &mut DirectPlayer) -> Instant {
        player.deadline().map_or(self.until, |dry| dry.min(self.until)).min(self.next)
    }

    /// Moves the player's clock and tells; true when watching is over.
    fn tell(&mut self, player: &mut DirectPlayer) -> bool {
        let at = moment();
        player.advance(at);
        while let Some(event) = player.events.pop_front() {
            (self.on_event)(player, Some(&event));
        }
        if at.now >= self.next {
            self.next = at.now + self.tick;
            (self.on_event)(player, None);
        }
        at.now >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLIS: i64 = 1_000_000;

    struct World {
        began: Instant,
        player: DirectPlayer,
    }

    impl World {
        fn new() -> Self {
            let began = Instant::now();
            let at = Moment { now: began, utc_nanos: 0 };
            Self { began, player: DirectPlayer::new(at, BUFFER, 1000) }
        }

        fn moment(&self, millis: i64) -> Moment {
            let passed = Duration::from_millis(u64::try_from(millis).expect("after the start"));
            Moment { now: self.began + passed, utc_nanos: millis * MILLIS }
        }

        /// 25 pictures a second with this time stamp each, all with a keyframe a second, and sound; they come `late`.
        fn units(&mut self, from_millis: i64, to_millis: i64, late: i64) {
            for at in (from_millis..to_millis).step_by(20) {
                let moment = self.moment(at + late);
                if at % 40 == 0 {
                    self.player.unit(moment, TrackKind::Video, at * MILLIS, at % 1000 == 0, 100);
                }
                self.player.unit(moment, TrackKind::Audio, at * MILLIS, true, 10);
            }
        }

        fn events(&mut self) -> Vec<Event> {
            self.player.events.drain(..).collect()
        }
    }

    #[test]
    fn it_begins_at_a_keyframe_with_its_buffer_full() {
        let mut world = World::new();
        world.units(400, 1480, 0);
        assert_eq!(world.events(), [], "the keyframe at one second is not half a second old");
        world.units(1480, 1600, 0);
        let [Event::Began(startup)] = &world.events()[..] else { panic!("it begins") };
        assert_eq!((startup.first_media_ms, startup.first_picture_ms), (400, 1520));
        world.units(1600, 6000, 0);
        assert_eq!(world.events(), []);
        let latency = world.player.quality().latency.summary();
        assert!((500..540).contains(&latency.max), "what is in the buffer: {latency:?}");
    }

    #[test]
    fn media_that_comes_late_is_a_stall_and_then_latency() {
        let mut world = World::new();
        world.units(0, 3000, 0);
        world.events();
        world.units(3000, 6000, 2000);
        let events = world.events();
        assert!(matches!(events[..], [Event::Stalled, Event::Resumed(_)]), "{events:?}");
        let quality = world.player.quality();
        assert!((1500..2100).contains(&quality.stall_longest.as_millis()), "{quality:?}");
        assert!(quality.latency.summary().max >= 2000 && quality.part_age.summary().max == 2000);
    }

    #[test]
    fn time_stamps_that_begin_anew_go_on_and_are_counted() {
        let mut world = World::new();
        world.units(0, 3000, 0);
        world.events();
        // The sender begins again at 0, three seconds later.
        world.units(0, 3000, 3000);
        let events = world.events();
        assert_eq!(events, [], "one goes on where the other ended");
        assert_eq!(world.player.quality().regressions, 1, "the other track follows");
    }

    #[test]
    fn sound_alone_plays_and_a_track_that_ends_does_not_stop_the_other() {
        let mut world = World::new();
        for at in (0..3000).step_by(20) {
            world.player.unit(world.moment(at), TrackKind::Audio, at * MILLIS, true, 10);
        }
        assert!(matches!(world.events()[..], [Event::Began(_)]));
        let mut world = World::new();
        world.units(0, 3000, 0);
        for at in (3000..9000).step_by(20) {
            world.player.unit(world.moment(at), TrackKind::Audio, at * MILLIS, true, 10);
        }
        let events = world.events();
        assert!(matches!(events[..], [Event::Began(_), Event::Stalled, Event::Resumed(_)]), "{events:?}");
    }
}
