//! The packager: a program in, playlists and parts out.
//!
//! Video leads: its random access points decide where segments begin. Sound follows: it is cut at the first frame at or
//! after the cut's PTS, and waits until the picture has passed that point.

mod gaps;
mod targets;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use media::{AccessUnit, CodecConfig, FrameRate, Timescale, TrackKind};

use crate::assembler::Assembler;
use crate::era::{Cut, Segmenter};
use crate::hash::content_hash;
use crate::playlist::{InitSegment, MediaPlaylist, Segment};
use crate::utc::UtcMap;
use targets::SharedTargets;

/// How long sound waits for the picture to pass it, in milliseconds.
const AUDIO_WAIT_MS: i64 = 500;
/// Most frames of sound that wait: 500 ms of the shortest frames (2.5 ms), and some.
const AUDIO_QUEUE_MAX: usize = 256;
/// Most gaps published at one look at the clock: fewer than the numbers that are recorded ahead.
const GAPS_AT_ONCE_MAX: u32 = 3;
/// Most bytes of an open segment.
const SEGMENT_BYTES_MAX: usize = 256 << 20;
/// A gap is published this long after it has passed, so that media which arrives late does not lie inside it.
const GAP_LAG_NANOS: i64 = 300_000_000;
const SECOND: i64 = 1_000_000_000;

/// Settings of a packager.
#[derive(Clone, Copy, Debug)]
pub struct PackagerConfig {
    /// Length of a part, 100 ms–1 s.
    pub part_target: Duration,
    /// Length of a segment, 1–6 s.
    pub segment_target: Duration,
    /// Shortest content of a playlist; at least 8 target durations are kept whatever it says.
    pub window: Duration,
    /// PART-HOLD-BACK; at least 3 × PART-TARGET is used whatever it says.
    pub part_hold_back: Duration,
}

impl Default for PackagerConfig {
    fn default() -> Self {
        Self {
            part_target: Duration::from_millis(200),
            segment_target: Duration::from_secs(2),
            window: Duration::from_secs(32),
            part_hold_back: Duration::from_secs(1),
        }
    }
}

impl PackagerConfig {
    /// EXT-X-TARGETDURATION: fixed when the playlist is created.
    pub fn target_duration(&self) -> i64 {
        i64::try_from((self.segment_target * 2).as_nanos().div_ceil(1_000_000_000)).unwrap_or(4)
    }
}

/// Where a broadcast goes on: what must be kept so that a name is used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// Number of the first segment.
    pub first_number: u64,
    /// Discontinuities of the broadcast so far.
    pub discontinuities: u64,
    /// The broadcast had segments before: the first one now is a discontinuity.
    pub is_resumed: bool,
}

/// The beginning of a segment that sound has not reached.
#[derive(Debug)]
struct PendingCut {
    /// Ticks of the video scale.
    at: i64,
    /// That time by the clock, as the other rendition says it.
    utc_nanos: i64,
    start: SegmentStart,
}

/// How a segment begins, the same in every rendition.
#[derive(Clone, Copy, Debug)]
struct SegmentStart {
    number: u64,
    is_discontinuity: bool,
    /// Discontinuities of the broadcast before it.
    discontinuities: u64,
}

/// One track on its way into its playlist.
#[derive(Debug)]
struct TrackPackager {
    assembler: Assembler,
    init: Arc<InitSegment>,
    /// Created with the first part, when PART-TARGET is known.
    playlist: Option<MediaPlaylist>,
    /// The segment that waits for the playlist, and the discontinuities before it.
    waiting: Option<(Segment, u64)>,
    /// Where the open segment began, in ticks of the track.
    start: i64,
    /// Where the last segment ended, in ticks of the track.
    end: Option<i64>,
}

/// What became of a source that is lost.
#[derive(Debug)]
enum Flow {
    /// Media comes, or nothing ever came.
    Running,
    /// The source is lost: media may come back and stretch the last picture until this UTC time.
    Lost { gap_at_utc: i64 },
    /// Gaps are published: the media time up to which (video ticks), its UTC time, and whether there was one yet.
    Gap { until: i64, until_utc: i64, is_told: bool },
}

/// Packages one program. Its owner feeds it in order and shows the playlists to requests in between.
#[derive(Debug)]
pub struct Packager {
    config: PackagerConfig,
    shared: SharedTargets,
    segmenter: Segmenter,
    discontinuities: u64,
    video: Option<TrackPackager>,
    audio: Option<TrackPackager>,
    cuts: VecDeque<PendingCut>,
    queue: VecDeque<AccessUnit>,
    utc: UtcMap,
    next_is_discontinuity: bool,
    flow: Flow,
    /// Sound leads because the picture is missing; the open video segment has nothing in it.
    is_blind: bool,
    frame_rate: Option<FrameRate>,
    /// When the last unit of the leading track arrived, and where it lies.
    last_arrival_utc: i64,
    last_position: i64,
    /// When the first unit came that lies inside what was called a gap.
    passed_since: Option<i64>,
    /// Decode time of the last picture, and its distance to the one before, on the video scale.
    last_video: Option<i64>,
    video_step: i64,
    /// The last random access point of the leading track, and its distance to the one before, on the video scale.
    random_access: Option<i64>,
    gop: i64,
    is_ended: bool,
}

impl Packager {
    /// A packager that has published nothing.
    pub fn new(config: PackagerConfig, continuation: Continuation) -> Self {
        // A duration is rounded before it is compared with the target duration (LL-01).
        let limit =
            config.target_duration() * i64::from(Timescale::VIDEO.hz()) + i64::from(Timescale::VIDEO.hz()) * 45 / 100;
        let target = Timescale::VIDEO.ticks(config.segment_target);
        Self {
            config,
            shared: SharedTargets::new(&config),
            segmenter: Segmenter::new(target, limit, continuation.first_number),
            discontinuities: continuation.discontinuities,
            video: None,
            audio: None,
            cuts: VecDeque::new(),
            queue: VecDeque::new(),
            utc: UtcMap::default(),
            next_is_discontinuity: continuation.is_resumed,
            flow: Flow::Running,
            is_blind: false,
            frame_rate: None,
            last_arrival_utc: 0,
            last_position: 0,
            passed_since: None,
            last_video: None,
            video_step: 0,
            random_access: None,
            gop: 0,
            is_ended: false,
        }
    }

    /// The playlist of a track, once it has a part.
    pub fn playlist(&self, track: TrackKind) -> Option<&MediaPlaylist> {
        self.track(track)?.playlist.as_ref()
    }

    /// The configuration of a track.
    pub fn codec(&self, track: TrackKind) -> Option<&CodecConfig> {
        Some(self.track(track)?.assembler.config())
    }

    /// The multivariant playlist; media playlists are named below `directory`. `None` until a player can start.
    pub fn render_multivariant(&self, directory: &str) -> Option<String> {
        crate::multivariant::render(self, directory)
    }

    /// A media playlist with its report of the other rendition, full or as a delta update.
    pub fn render_media(&self, track: TrackKind, skip: bool) -> Option<String> {
        let (other, name) = match track {
            TrackKind::Video => (TrackKind::Audio, "audio.m3u8"),
            TrackKind::Audio => (TrackKind::Video, "video.m3u8"),
        };
        let report = self.playlist(other).and_then(MediaPlaylist::position).map(|position| (name, position));
        Some(self.playlist(track)?.render(skip, report))
    }

    /// The frame rate, measured.
    pub fn frame_rate(&self) -> Option<FrameRate> {
        self.frame_rate
    }

    /// The number the next segment will have. It must be recorded before it is used.
    pub fn next_number(&self) -> u64 {
        self.segmenter.next_number()
    }

    /// Discontinuities of the broadcast so far; recorded with the number.
    pub fn discontinuities(&self) -> u64 {
        self.discontinuities
    }

    /// Numbering rules that ended because something did not fit.
    pub fn eras(&self) -> u64 {
        self.segmenter.eras()
    }

    /// Whether ENDLIST was written.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// A player can start with each of the tracks.
    pub fn is_ready(&self) -> bool {
        let mut tracks = [&self.video, &self.audio].into_iter().flatten().peekable();
        tracks.peek().is_some() && tracks.all(|track| track.playlist.as_ref().is_some_and(MediaPlaylist::is_playable))
    }

    fn track(&self, track: TrackKind) -> Option<&TrackPackager> {
        match track {
            TrackKind::Video => self.video.as_ref(),
            TrackKind::Audio => self.audio.as_ref(),
        }
    }

    /// The tracks are others from here on: what is open is closed, and what follows needs a new decoder. Sound that stays as it is goes on
    /// until the new picture begins.
    pub fn set_tracks(&mut self, video: Option<CodecConfig>, audio: Option<CodecConfig>) {
        let is_first = self.video.is_none() && self.audio.is_none();
        if !is_first {
            let goes_on = |track: &TrackPackager| audio.as_ref().is_some_and(|new| new == track.assembler.config());
            let is_pictured = self.video.is_some() && !matches!(self.flow, Flow::Gap { .. });
            if is_pictured && self.audio.as_ref().is_some_and(goes_on) {
                self.close_pictures();
            } else {
                self.close_all();
            }
            self.utc.restart();
            self.next_is_discontinuity = true;
        }
        if !matches!(self.flow, Flow::Gap { .. }) {
            self.flow = Flow::Running;
        }
        self.frame_rate = None;
        if let Some(CodecConfig::Video(video)) = &video
            && let Some(rate) = video.frame_rate
        {
            self.shared.expect(Timescale::VIDEO.duration(rate.frame_duration(Timescale::VIDEO)));
        }
        (self.video, self.audio) = (renew(self.video.take(), video), renew(self.audio.take(), audio));
    }

    /// One unit of the program, in order, that arrived at this UTC time.
    pub fn handle_unit(&mut self, unit: AccessUnit, arrival_utc_nanos: i64) {
        if self.is_ended {
            return;
        }
        let Some(track) = self.track(unit.track) else { return };
        let scale = track.assembler.config().timescale();
        self.utc.observe(scale.nanos(unit.dts.0), arrival_utc_nanos);
        if unit.track == TrackKind::Video || self.video.is_none() {
            self.last_arrival_utc = arrival_utc_nanos;
            self.last_position = scale.rescale(unit.pts.0, Timescale::VIDEO);
            if unit.is_random_access && !matches!(self.flow, Flow::Gap { .. }) {
                let before = self.random_access.replace(self.last_position);
                self.gop = before.map_or(0, |before| self.last_position - before);
            }
        }
        match unit.track {
            TrackKind::Video => self.on_video(unit),
            TrackKind::Audio if self.video.is_none() => self.on_audio_alone(unit),
            TrackKind::Audio => {
                self.queue.push_back(unit);
                self.drain_audio(false);
            }
        }
    }

    /// The source is lost. The last picture is held for a segment's length; after that gaps are published.
    pub fn handle_lost(&mut self, utc_nanos: i64) {
        if matches!(self.flow, Flow::Running) && self.next_number_used() {
            let patience = i64::try_from(self.config.segment_target.as_nanos()).unwrap_or(2 * SECOND);
            self.flow = Flow::Lost { gap_at_utc: utc_nanos.max(self.last_arrival_utc + patience) };
        }
    }

    /// Time passes without media.
    pub fn handle_timeout(&mut self, utc_nanos: i64) {
        if let Flow::Lost { gap_at_utc } = self.flow
            && utc_nanos >= gap_at_utc
        {
            let until = self.close_all();
            self.flow = Flow::Gap { until, until_utc: self.expected_utc(until), is_told: false };
        }
        for _ in 0..GAPS_AT_ONCE_MAX {
            let Flow::Gap { until, until_utc, .. } = self.flow else { return };
            let next = self.gap_end(until);
            let next_utc = until_utc + Timescale::VIDEO.nanos(next - until);
            if utc_nanos < next_utc + GAP_LAG_NANOS {
                return;
            }
            self.add_gap(until, next);
            self.flow = Flow::Gap { until: next, until_utc: next_utc, is_told: true };
        }
        if let Flow::Gap { until_utc, .. } = &mut self.flow {
            *until_utc = utc_nanos; // the clock was set, or the process slept: what passed is not told
        }
    }

    /// The program is over: closes what is open and writes ENDLIST.
    pub fn handle_end(&mut self) {
        if self.is_ended {
            return;
        }
        self.close_all();
        self.is_ended = true;
        for track in [&mut self.video, &mut self.audio].into_iter().flatten() {
            if let Some(playlist) = &mut track.playlist {
                playlist.end();
            }
        }
    }

    /// Closes what is open without an end: the process stops, the broadcast goes on later.
    pub fn handle_shutdown(&mut self) {
        if !self.is_ended {
            self.close_all();
        }
    }

    fn next_number_used(&self) -> bool {
        [&self.video, &self.audio]
            .into_iter()
            .flatten()
            .any(|track| track.playlist.is_some() || track.waiting.is_some())
    }

    /// Deals with what is missing before `unit`: closes what is open, fills the hole with gaps. False if the unit cannot
    /// be used, because what it refers to is missing.
    fn handle_hole(&mut self, unit: &AccessUnit) -> bool {
        let Some(track) = self.track(unit.track) else { return false };
        let scale = track.assembler.config().timescale();
        let ticks = |time: i64| scale.rescale(time, Timescale::VIDEO);
        let (nominal, ended) = (track.assembler.decode_time(unit), track.end);
        // What a picture lasted before a gap was told says little of an encoder that always sends so few.
        let step = if unit.track == TrackKind::Video { self.video_step } else { 0 };
        let usual = ticks(track.assembler.last_duration()).max(step);
        if let Some(held) = track.assembler.held_start() {
            let hole = ticks(nominal - held);
            let is_long = hole >= Timescale::VIDEO.ticks(self.config.segment_target);
            let limit = self.shared.target_duration * i64::from(Timescale::VIDEO.hz());
            if is_long && (usual > 0 && hole > 3 * usual || hole > limit) {
                let until = self.close_all();
                self.flow = Flow::Gap { until, until_utc: self.expected_utc(until), is_told: false };
            } else if self.segmenter.is_full(ticks(nominal), 0) && unit.track == TrackKind::Video {
                self.end_segment_at(held); // a slow picture: it begins a segment of its own
            }
        }
        if let Flow::Gap { until, is_told, .. } = self.flow {
            let goes_on = !is_told && ended.is_some_and(|end| ticks(nominal - end).abs() <= 2 * usual.max(1));
            if !goes_on && (!unit.is_random_access || self.is_passed(scale.rescale(unit.pts.0, Timescale::VIDEO))) {
                return false;
            }
            self.resume_after_gap(until, unit);
            if !unit.is_random_access && unit.track == TrackKind::Video {
                // Nothing was lost, it was only late: the stream goes on where it stopped.
                let number = self.segmenter.force(ticks(nominal));
                self.begin_video(number, nominal);
            }
        }
        (self.flow, self.passed_since) = (Flow::Running, None);
        true
    }

    /// Ends the open video segment at `at`, where the held picture begins, and begins another there.
    fn end_segment_at(&mut self, at: i64) {
        let Some(video) = &mut self.video else { return };
        video.finish_segment(at, &mut self.shared);
        let number = self.segmenter.force(at);
        self.begin_video(number, at);
    }

    fn on_video(&mut self, unit: AccessUnit) {
        let is_usable = self.handle_hole(&unit);
        self.video_step = self.last_video.replace(unit.dts.0).map_or(0, |last| unit.dts.0.saturating_sub(last).max(0));
        if !is_usable {
            return;
        }
        let Some(video) = &mut self.video else { return };
        let nominal = video.assembler.decode_time(&unit);
        if video.is_closed() && !unit.is_random_access {
            return; // nothing was ever there to decode from
        }
        if std::mem::take(&mut self.is_blind) && !unit.is_random_access {
            // The picture is back: what was missing is a gap, and a segment begins without a random access point.
            video.finish_segment(nominal, &mut self.shared);
            let number = self.segmenter.force(nominal);
            self.begin_video(number, nominal);
        }
        let Some(video) = &mut self.video else { return };
        if unit.is_random_access {
            let held = video.assembler.held_start();
            if let Cut::Begin(number) = self.segmenter.random_access(unit.pts.0) {
                video.assembler.align(&unit, held);
                let start = video.assembler.decode_time(&unit);
                video.release(start, &mut self.shared);
                video.finish_segment(start, &mut self.shared);
                self.begin_video(number, start);
            } else {
                video.release(nominal, &mut self.shared);
            }
        } else {
            video.release(nominal, &mut self.shared);
        }
        self.publish_video(nominal);
        if let Some(video) = &mut self.video {
            self.frame_rate = self.frame_rate.or_else(|| video.assembler.frame_rate());
            video.assembler.hold(unit);
        }
        self.drain_audio(false);
    }

    /// Publishes the pending part if it is full, and ends the segment if another part would make it too long.
    fn publish_video(&mut self, now: i64) {
        let Some(video) = &mut self.video else { return };
        if !video.publish_if_full(&mut self.shared) {
            return;
        }
        let part_target = video.part_target().unwrap_or(0);
        if self.segmenter.is_full(now, part_target) || video.open_bytes() > SEGMENT_BYTES_MAX {
            let number = self.segmenter.force(now);
            video.finish_segment(now, &mut self.shared);
            self.begin_video(number, now);
        }
    }

    /// How the segment `number` begins; counts its discontinuity.
    fn segment_start(&mut self, number: u64) -> SegmentStart {
        let is_discontinuity = std::mem::take(&mut self.next_is_discontinuity);
        let discontinuities = self.discontinuities;
        self.discontinuities += u64::from(is_discontinuity);
        SegmentStart { number, is_discontinuity, discontinuities }
    }

    /// Opens a video segment, and tells the sound.
    fn begin_video(&mut self, number: u64, at: i64) {
        let start = self.segment_start(number);
        self.settle_utc();
        let utc_nanos = self.utc.begin_segment(Timescale::VIDEO.nanos(at));
        if let Some(video) = &mut self.video {
            video.begin_segment(start, at, utc_nanos);
        }
        if self.audio.is_some() {
            self.cuts.push_back(PendingCut { at, utc_nanos, start });
        }
    }

    /// Encoders send their first moments late or in a burst. What is learned during the first segment, which no player has
    /// seen before it is complete, corrects its times.
    fn settle_utc(&mut self) {
        let mut tracks = [&mut self.video, &mut self.audio];
        let is_shown = |track: &TrackPackager| track.playlist.as_ref().is_some_and(|list| list.segments().len() > 1);
        if tracks.iter().any(|track| track.as_ref().is_some_and(is_shown)) {
            return;
        }
        let error = self.utc.settle();
        for track in tracks.iter_mut().filter_map(|track| track.as_mut()) {
            if let Some(playlist) = &mut track.playlist {
                playlist.shift_utc(error);
            }
            if let Some((segment, _)) = &mut track.waiting {
                segment.utc_nanos += error;
            }
        }
        self.cuts.iter_mut().for_each(|cut| cut.utc_nanos += error);
    }

    /// Sound waits for a picture that does not come. Before its segment grows too long, it leads: the last picture
    /// stands until then, and the next video segment is a gap unless the picture returns.
    fn lead_with_sound(&mut self, unit: &AccessUnit, at: i64) {
        let limit = self.shared.target_duration * i64::from(Timescale::VIDEO.hz());
        let wait = i64::from(Timescale::VIDEO.hz()) * AUDIO_WAIT_MS / 1000;
        let elapsed = self.segmenter.elapsed(at);
        if elapsed.is_some_and(|elapsed| elapsed < limit - wait) || !self.next_number_used() {
            return;
        }
        let at = elapsed.map_or(at, |elapsed| at - (elapsed - limit).max(0));
        if let Flow::Gap { until, .. } = self.flow {
            self.resume_after_gap(until, unit);
            self.flow = Flow::Running;
        }
        let Some(video) = &mut self.video else { return };
        video.release(at, &mut self.shared);
        video.finish_segment(at, &mut self.shared);
        let number = self.segmenter.force(at);
        self.is_blind = true;
        self.begin_video(number, at);
    }

    /// Each frame is a random access point; the grid cuts at the first one past its line.
    fn on_audio_alone(&mut self, unit: AccessUnit) {
        if !self.handle_hole(&unit) {
            return;
        }
        let Some(audio) = &self.audio else { return };
        let at = audio.assembler.config().timescale().rescale(unit.pts.0, Timescale::VIDEO);
        if let Cut::Begin(number) = self.segmenter.sound(at) {
            let start = self.segment_start(number);
            self.settle_utc();
            let utc_nanos = self.utc.begin_segment(Timescale::VIDEO.nanos(at));
            self.cuts.push_back(PendingCut { at, utc_nanos, start });
        }
        self.queue.push_back(unit);
        self.drain_audio(true);
    }

    /// Assigns sound that the picture has passed; all of it if `all`.
    fn drain_audio(&mut self, all: bool) {
        let Some(scale) = self.audio.as_ref().map(|audio| audio.assembler.config().timescale()) else { return };
        let passed = self.video.as_ref().and_then(|video| video.assembler.held_start());
        let wait = i64::from(scale.hz()) * AUDIO_WAIT_MS / 1000;
        while let Some(front) = self.queue.front() {
            let at = scale.rescale(front.pts.0, Timescale::VIDEO);
            let ended = self.audio.as_ref().and_then(|audio| audio.end);
            if matches!(self.flow, Flow::Gap { .. }) && ended.is_some_and(|end| front.pts.0 < end) {
                self.queue.pop_front(); // it lies in what was published, perhaps as a gap
                continue;
            }
            let span = self.queue.back().map_or(0, |back| back.pts - front.pts);
            if !all && passed.is_none_or(|passed| at >= passed) {
                if span <= wait && self.queue.len() <= AUDIO_QUEUE_MAX {
                    return;
                }
                let front = front.clone();
                self.lead_with_sound(&front, at);
            }
            if let Some(unit) = self.queue.pop_front() {
                self.assign_audio(unit, scale);
            }
        }
    }

    fn assign_audio(&mut self, unit: AccessUnit, scale: Timescale) {
        let at = scale.rescale(unit.pts.0, Timescale::VIDEO);
        while let Some(cut) = self.cuts.pop_front_if(|cut| cut.at <= at) {
            self.cut_audio(&cut, unit.dts.0, scale);
        }
        let patience = scale.ticks(self.config.segment_target);
        let held = self.audio.as_ref().and_then(|audio| audio.assembler.held_start());
        if self.video.is_some() && held.is_some_and(|held| unit.dts.0 - held > patience) {
            // A hole in the sound that nobody filled: the picture has it too, and ends it.
            let end = self.close_all();
            self.flow = Flow::Gap { until: end, until_utc: self.expected_utc(end), is_told: false };
        }
        let Some(audio) = self.audio.as_mut().filter(|audio| !audio.is_closed()) else { return };
        audio.release(unit.dts.0, &mut self.shared);
        audio.publish_if_full(&mut self.shared);
        audio.assembler.hold(unit);
    }

    /// The sound reaches a cut; its next frame begins at `at`.
    fn cut_audio(&mut self, cut: &PendingCut, at: i64, scale: Timescale) {
        let Some(audio) = &mut self.audio else { return };
        // Over a discontinuity what is missing may be long, and the last frame before it does not stand for that.
        let held = audio.assembler.held_start().filter(|_| cut.start.is_discontinuity);
        let patience = scale.ticks(self.config.segment_target);
        let long = held.filter(|held| at - held > patience);
        let end = long.map_or(at, |held| held + audio.assembler.nominal_duration());
        audio.release(end, &mut self.shared);
        audio.finish_segment(end, &mut self.shared);
        let after = scale.nanos(at) - Timescale::VIDEO.nanos(cut.at);
        audio.begin_segment(cut.start, at, cut.utc_nanos + after);
    }

    /// Publishes the pictures and all sound, and closes the track of the pictures. Returns where it ends.
    fn close_pictures(&mut self) -> Option<i64> {
        self.segmenter.close();
        self.is_blind = false;
        let end = self.video.as_mut().and_then(|video| video.close(&mut self.shared));
        self.drain_audio(true);
        end
    }

    /// Publishes everything and closes both tracks at the same point. Returns it, on the video scale.
    fn close_all(&mut self) -> i64 {
        let video_end = self.close_pictures();
        let Some(scale) = self.audio.as_ref().map(|audio| audio.assembler.config().timescale()) else {
            return video_end.unwrap_or(0);
        };
        // The last sound stands until the picture ends, so that both have gaps of the same length.
        let until = video_end.map(|end| Timescale::VIDEO.rescale(end, scale)).filter(|_| self.cuts.is_empty());
        let audio_end = self.audio.as_mut().and_then(|audio| {
            if let Some((until, held)) = until.zip(audio.assembler.held_start()).filter(|(until, held)| until > held) {
                let until = until.max(held + audio.assembler.nominal_duration());
                audio.release(until, &mut self.shared);
                audio.finish_segment(until, &mut self.shared);
            }
            audio.close(&mut self.shared)
        });
        let end = video_end.or(audio_end.map(|end| scale.rescale(end, Timescale::VIDEO))).unwrap_or(0);
        // Segments that no sound reached are gaps in its playlist.
        while let Some(cut) = self.cuts.pop_front() {
            self.cut_audio(&cut, Timescale::VIDEO.rescale(cut.at, scale), scale);
            if self.cuts.is_empty()
                && let Some(audio) = &mut self.audio
            {
                audio.finish_segment(Timescale::VIDEO.rescale(end, scale), &mut self.shared);
            }
        }
        end
    }

    /// Where the track that reaches furthest ends, on the video scale.
    fn latest_end(&self) -> i64 {
        let ends = [&self.video, &self.audio]
            .into_iter()
            .flatten()
            .filter_map(|track| Some(track.assembler.config().timescale().rescale(track.end?, Timescale::VIDEO)));
        ends.max().unwrap_or(i64::MIN)
    }
}

/// A track with a new configuration; the playlist of the same kind of track goes on.
fn renew(old: Option<TrackPackager>, config: Option<CodecConfig>) -> Option<TrackPackager> {
    let Some(config) = config else { return old }; // a track that was there stays, as a gap
    let Some(old) = old else { return Some(TrackPackager::new(config)) };
    if *old.assembler.config() == config {
        return Some(old);
    }
    let mut track = TrackPackager::new(config);
    let same_scale = old.assembler.config().timescale() == track.assembler.config().timescale();
    track.end = old.end.filter(|_| same_scale);
    track.playlist = old.playlist;
    Some(track)
}

impl TrackPackager {
    fn new(config: CodecConfig) -> Self {
        let data = container::fmp4::init_segment(&config);
        let prefix = if config.kind() == TrackKind::Video { 'v' } else { 'a' };
        let name = format!("{prefix}-{:016x}.mp4", content_hash(&data));
        let init = Arc::new(InitSegment { name, data });
        Self { assembler: Assembler::new(config), init, playlist: None, waiting: None, start: 0, end: None }
    }

    /// No segment is open.
    fn is_closed(&self) -> bool {
        let open = self.playlist.as_ref().and_then(|playlist| playlist.segments().next_back());
        self.waiting.is_none() && open.is_none_or(|segment| segment.is_complete)
    }

    fn begin_segment(&mut self, start: SegmentStart, at: i64, utc_nanos: i64) {
        self.assembler.begin_segment(start.number);
        self.start = at;
        let segment = Segment {
            number: start.number,
            is_discontinuity: start.is_discontinuity,
            is_gap: false,
            is_complete: false,
            utc_nanos,
            duration: 0,
            init: Arc::clone(&self.init),
            parts: Vec::new(),
            whole: Vec::new(),
        };
        match &mut self.playlist {
            Some(playlist) => playlist.begin(segment),
            None => self.waiting = Some((segment, start.discontinuities)),
        }
    }

    /// Publishes the pending part if it is full.
    fn publish_if_full(&mut self, shared: &mut SharedTargets) -> bool {
        let is_full = match self.part_target() {
            Some(part_target) => self.assembler.is_full(part_target),
            None => self.assembler.reached(self.assembler.config().timescale().ticks(shared.part_target)),
        };
        (is_full || self.assembler.is_large()) && self.publish(shared)
    }

    /// PART-TARGET in ticks, once it is known.
    fn part_target(&self) -> Option<i64> {
        let nanos = self.playlist.as_ref()?.targets().part_target;
        Some(self.assembler.config().timescale().ticks_from_nanos(nanos))
    }

    /// The held unit ends at `until`. What is pending goes first where the part would grow too long.
    fn release(&mut self, until: i64, shared: &mut SharedTargets) {
        if self.part_target().is_some_and(|part_target| self.assembler.would_overflow(until, part_target)) {
            self.publish(shared);
            if let Some(playlist) = &mut self.playlist {
                playlist.count_violation();
            }
        }
        self.assembler.release(until);
    }

    /// Bytes of the open segment.
    fn open_bytes(&self) -> usize {
        let open = self.playlist.as_ref().and_then(|playlist| playlist.segments().next_back());
        open.filter(|segment| !segment.is_complete).map_or(0, Segment::size)
    }

    /// Publishes what is pending; the first part creates the playlist.
    fn publish(&mut self, shared: &mut SharedTargets) -> bool {
        let config = self.assembler.config();
        let (track, scale) = (config.kind(), config.timescale());
        let part_target = self.assembler.part_target(scale.ticks(shared.part_target));
        let Some(part) = self.assembler.take_part() else { return false };
        if let Some((segment, discontinuities)) = self.waiting.take() {
            let targets = shared.fix(part_target, scale);
            let mut playlist = MediaPlaylist::new(track, targets, discontinuities);
            playlist.begin(segment);
            self.playlist = Some(playlist);
        }
        if let Some(playlist) = &mut self.playlist {
            playlist.add_part(part);
        }
        true
    }

    /// The open segment ends at `end`, with what is pending.
    fn finish_segment(&mut self, end: i64, shared: &mut SharedTargets) {
        if self.is_closed() {
            return;
        }
        self.publish(shared);
        if let Some(playlist) = &mut self.playlist {
            playlist.complete(self.assembler.config().timescale().nanos(end - self.start));
        }
        self.waiting = None;
        self.end = Some(end);
    }

    /// Publishes everything and closes the segment. Returns where the track ended, if it ever began.
    fn close(&mut self, shared: &mut SharedTargets) -> Option<i64> {
        let end = self.assembler.release_alone().or(self.end)?;
        self.finish_segment(end, shared);
        self.end
    }
}
