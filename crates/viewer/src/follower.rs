//! A player without a picture: which playlist and which media it asks for, and when. Sans-IO.
//!
//! It does what browsers' players do: multivariant playlist, then a media playlist for each track; starts PART-HOLD-BACK
//! (or HOLD-BACK) behind the edge at a random access point; holds one blocking reload and one request for media on each
//! track, the hinted part among them; changes the variant by measured bandwidth; stalls, catches up, and goes to the live
//! edge when it has fallen too far behind.
//!
//! | Subject | Specification |
//! | --- | --- |
//! | when to reload, what to ask for | rfc8216bis §6.3.4, §6.2.5 |
//! | where to begin | rfc8216bis §6.3.3 |

mod track;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hls::read::{ByteRange, MultivariantPlaylist, Playlist};

use crate::bandwidth::Bandwidth;
use crate::playback::{Change, Moment, Playback};
use crate::quality::{Quality, Startup};
use crate::url::Url;
use track::{Item, Track};

/// Pause before the multivariant playlist is asked for again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Further behind its distance to live than this, it goes to the live edge.
const BEHIND_NANOS_MAX: i64 = 8_000_000_000;
/// Part of the measured bandwidth that a variant may take, in percent.
const BANDWIDTH_PERCENT: u64 = 70;
/// Between two changes of variant.
const SWITCH_PAUSE: Duration = Duration::from_secs(4);
/// Smaller bodies say nothing of bandwidth.
const MEASURED_BYTES_MIN: u64 = 16_000;
/// From when on growth of latency is told: before, the player finds its distance.
const SLOPE_FROM_SECONDS: f64 = 10.0;
/// Between two measurements of latency.
const LATENCY_INTERVAL: Duration = Duration::from_secs(1);

/// Which variant is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that the bandwidth allows, as measured.
    #[default]
    Bandwidth,
    /// The one with the highest bit rate, always.
    Best,
    /// Always this one, counted from 0 in the order of the playlist; the last one if there are fewer.
    Number(usize),
}

/// How the player behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayerSettings {
    /// Uses parts, blocking reload and delta updates where they are offered.
    pub low_latency: bool,
    /// Which variant.
    pub variant: Choice,
    /// Bits per second believed in at first.
    pub bandwidth: u64,
    /// Most measurements kept of a kind.
    pub samples_max: usize,
}

impl Default for PlayerSettings {
    fn default() -> Self {
        Self { low_latency: true, variant: Choice::Bandwidth, bandwidth: 1_500_000, samples_max: 20_000 }
    }
}

/// What is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A playlist of either kind: the answer needs it read.
    Playlist,
    /// What initializes a decoder: the answer needs its size only.
    Init {
        /// Of the track that the variant lists itself, 0, or of its sound, 1.
        track: usize,
    },
    /// Media: the answer needs its size only. Each track asks for one after the other, in order.
    Media {
        /// As above.
        track: usize,
        /// Media time as dated, in nanoseconds since 1970: where it begins, and how long it is. Of what is only hinted, an estimate.
        start: i64,
        /// Nanoseconds.
        duration: i64,
    },
}

/// A request.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Names it in the answer.
    pub id: u64,
    /// Where.
    pub url: Url,
    /// Which bytes.
    pub range: Option<ByteRange>,
    /// What.
    pub what: What,
    /// The multivariant playlist whose variables it may import.
    pub multivariant: Option<Arc<Playlist>>,
}

/// How long the steps of a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Looking up the name, if a connection was made for it.
    pub dns: Duration,
    /// Connecting, likewise.
    pub tcp: Duration,
    /// The TLS handshake, likewise.
    pub tls: Duration,
    /// From sending the request, over a connection that is there, to the first byte of the answer.
    pub first_byte: Duration,
    /// Likewise to the last byte of the body.
    pub total: Duration,
}

/// What came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Where it came from, after redirects: what relative addresses in it are relative to.
    pub url: Url,
    /// Status code.
    pub status: u16,
    /// Steps.
    pub timing: Timing,
    /// Bytes of the body as sent.
    pub bytes: u64,
    /// The playlist, where one was asked for and the status is 200; or why it cannot be read.
    pub playlist: Option<Result<Arc<Playlist>, String>>,
    /// A cache says that it had it, or had it not.
    pub cache_hit: Option<bool>,
    /// The Age field in seconds.
    pub age_seconds: Option<u32>,
}

/// What the owner tells the follower.
#[derive(Debug)]
pub enum Input {
    /// A request was answered, or not: the text says why.
    Answered(u64, Result<Answer, String>),
    /// The deadline has passed.
    Timeout,
}

/// What the follower asks of its owner. Drain until `Wait`.
#[must_use]
#[derive(Debug)]
pub enum Output {
    /// Send this request.
    Fetch(Fetch),
    /// Tell whoever wants to know.
    Event(Event),
    /// Nothing to do before an answer, or before this moment.
    Wait(Option<Instant>),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Playback began.
    Began(Startup),
    /// It ran dry.
    Stalled,
    /// It goes on after so long.
    Resumed(Duration),
    /// It played over a hole.
    Jumped(Duration),
    /// Another variant, with its bits per second.
    Switched(u64),
    /// It had fallen too far behind.
    WentLive,
    /// A request failed, or its answer is of no use.
    Failed(String),
    /// The stream is over, and all of it was played.
    Ended,
}

/// Why something was asked for.
#[derive(Clone, Debug)]
enum Purpose {
    Multivariant,
    Playlist { track: usize, asked: Option<(u64, u64)> },
    Init { track: usize },
    Media { track: usize, item: Item },
}

/// The player.
#[derive(Debug)]
pub struct Follower {
    settings: PlayerSettings,
    url: Url,
    /// Where the multivariant playlist came from, after redirects.
    base: Url,
    began: Instant,
    multivariant: Option<Arc<Playlist>>,
    retry_at: Option<Instant>,
    variant: usize,
    switched_at: Option<Instant>,
    bandwidth: Bandwidth,
    tracks: Vec<Track>,
    pending: Vec<(u64, Purpose)>,
    next_id: u64,
    out: VecDeque<Output>,
    playback: Playback,
    /// Where playback began last.
    start: Option<i64>,
    /// Distance to live that is kept.
    target: Option<i64>,
    startup: Startup,
    quality: Quality,
    latency_at: Option<Instant>,
    is_done: bool,
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl Follower {
    /// A player that opens `url`: a multivariant or a media playlist.
    pub fn new(at: Moment, url: Url, settings: PlayerSettings) -> Self {
        let mut follower = Self {
            settings,
            base: url.clone(),
            url,
            began: at.now,
            multivariant: None,
            retry_at: None,
            variant: 0,
            switched_at: None,
            bandwidth: Bandwidth::new(settings.bandwidth),
            tracks: Vec::new(),
            pending: Vec::new(),
            next_id: 0,
            out: VecDeque::new(),
            playback: Playback::new(),
            start: None,
            target: None,
            startup: Startup::default(),
            quality: Quality::new(settings.samples_max),
            latency_at: None,
            is_done: false,
        };
        let url = follower.url.clone();
        follower.fetch(url, None, Purpose::Multivariant);
        follower
    }

    /// Figures so far.
    pub fn quality(&self) -> &Quality {
        &self.quality
    }

    /// Behind live, in nanoseconds; `None` where nothing plays or the playlists have no dates.
    pub fn latency_nanos(&self, at: Moment) -> Option<i64> {
        let has_dates = self.tracks.iter().all(Track::has_dates);
        self.playback
            .position(at.now)
            .filter(|_| self.playback.has_begun() && has_dates)
            .map(|at_media| at.utc_nanos - at_media)
    }

    /// The variant being played, where there are several.
    pub fn variant_bandwidth(&self) -> Option<u64> {
        self.list().and_then(|list| list.variants.get(self.variant)).and_then(|variant| variant.bandwidth)
    }

    /// Media time (as dated, nanoseconds since 1970) at which playback began last: what is fetched begins at the random access point before.
    pub fn start(&self) -> Option<i64> {
        self.start
    }

    /// Nothing is added to it any more, or it is a recording.
    pub fn has_end(&self) -> bool {
        self.tracks.iter().any(Track::has_end)
    }

    /// All of the stream was played.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// It stands still now.
    pub fn is_stalled(&self) -> bool {
        self.playback.is_stalled()
    }

    /// Watching ends here: a stall that goes on is counted as far as it went.
    pub fn finish(&mut self, at: Moment) {
        if let Some(lasted) = self.playback.stalled_for(at.now).filter(|_| !self.is_done) {
            self.quality.count_stall(lasted);
        }
    }

    /// Advances the player.
    pub fn handle_input(&mut self, at: Moment, input: Input) {
        match input {
            Input::Answered(id, outcome) => self.on_answered(at, id, outcome),
            Input::Timeout => {}
        }
        self.advance(at);
        self.ask(at);
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Output {
        self.out.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }

    fn deadline(&self) -> Option<Instant> {
        let buffers: Vec<_> = self.tracks.iter().map(|track| &track.buffer).collect();
        let reloads = self.tracks.iter().filter_map(Track::wake_at);
        reloads.chain(self.retry_at).chain(self.playback.deadline(&buffers)).min()
    }

    fn list(&self) -> Option<&MultivariantPlaylist> {
        match self.multivariant.as_deref() {
            Some(Playlist::Multivariant(list)) => Some(list),
            _ => None,
        }
    }

    fn fetch(&mut self, url: Url, range: Option<ByteRange>, purpose: Purpose) {
        let what = match &purpose {
            Purpose::Multivariant | Purpose::Playlist { .. } => What::Playlist,
            Purpose::Init { track } => What::Init { track: *track },
            Purpose::Media { track, item } => What::Media { track: *track, start: item.start, duration: item.duration },
        };
        let id = self.next_id;
        self.next_id += 1;
        self.quality.requests += 1;
        self.pending.push((id, purpose));
        let multivariant = self.multivariant.clone().filter(|_| what == What::Playlist);
        self.out.push_back(Output::Fetch(Fetch { id, url, range, what, multivariant }));
    }

    fn event(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }

    fn on_answered(&mut self, at: Moment, id: u64, outcome: Result<Answer, String>) {
        let Some(index) = self.pending.iter().position(|(known, _)| *known == id) else {
            if let Ok(answer) = outcome {
                self.quality.bytes += answer.bytes; // for a variant that was left
            }
            return;
        };
        let (_, purpose) = self.pending.swap_remove(index);
        match &outcome {
            Err(text) => {
                self.quality.failures += 1;
                self.event(Event::Failed(text.clone()));
            }
            Ok(answer) => {
                self.quality.count_status(answer.status);
                self.quality.refused += u64::from(!matches!(answer.status, 200..=299));
                self.quality.bytes += answer.bytes;
                let cache = &mut self.quality.cache;
                cache.hits += u64::from(answer.cache_hit == Some(true));
                cache.misses += u64::from(answer.cache_hit == Some(false));
                cache.age_seconds_max = cache.age_seconds_max.max(answer.age_seconds.unwrap_or(0));
                self.note_connection(&answer.timing);
            }
        }
        match purpose {
            Purpose::Multivariant => self.on_multivariant(at, outcome),
            Purpose::Playlist { track, asked } => self.on_playlist(at, track, asked, outcome),
            Purpose::Init { track } => {
                let is_there = outcome.is_ok_and(|answer| matches!(answer.status, 200 | 206));
                if let Some(track) = self.tracks.get_mut(track) {
                    track.on_init(at.now, is_there);
                    self.quality.missing += u64::from(!is_there);
                }
            }
            Purpose::Media { track, item } => self.on_media(at, track, &item, outcome),
        }
    }

    /// The steps of the first connection are part of the startup.
    fn note_connection(&mut self, timing: &Timing) {
        if self.startup.tcp_ms == 0 && self.startup.multivariant_ms == 0 {
            let Timing { dns, tcp, tls, .. } = *timing;
            (self.startup.dns_ms, self.startup.tcp_ms, self.startup.tls_ms) = (millis(dns), millis(tcp), millis(tls));
        }
    }

    fn on_multivariant(&mut self, at: Moment, outcome: Result<Answer, String>) {
        let playlist = match outcome {
            Ok(Answer { status: 200, playlist: Some(Ok(playlist)), url, .. }) => {
                self.base = url;
                playlist
            }
            Ok(answer) => {
                let text = match answer.playlist {
                    Some(Err(text)) => format!("{}: {text}", self.url),
                    _ => format!("{}: status {}", self.url, answer.status),
                };
                self.event(Event::Failed(text));
                self.retry_at = Some(at.now + RETRY_PAUSE);
                return;
            }
            Err(_) => {
                self.retry_at = Some(at.now + RETRY_PAUSE);
                return;
            }
        };
        self.startup.multivariant_ms = millis(at.now.saturating_duration_since(self.began));
        self.multivariant = Some(Arc::clone(&playlist));
        let Playlist::Multivariant(list) = &*playlist else {
            let mut track = Track::new(self.url.clone(), true);
            track.base = self.base.clone();
            self.tracks = vec![track];
            self.on_media_playlist(at, 0, None, &playlist);
            return;
        };
        self.quality.playlist_faults += u64::from(!list.faults.is_empty());
        self.variant = self.choose(list);
        let Some(variant) = list.variants.get(self.variant) else {
            self.event(Event::Failed(format!("{}: no variant is listed", self.url)));
            self.retry_at = Some(at.now + RETRY_PAUSE);
            return;
        };
        let mut uris = vec![&*variant.uri];
        uris.extend(list.audio_of(variant).and_then(|audio| audio.uri.as_deref()));
        let resolved: Result<Vec<Url>, _> = uris.iter().map(|uri| self.base.resolve(uri)).collect();
        match resolved {
            Ok(urls) => {
                self.tracks = urls.into_iter().enumerate().map(|(index, url)| Track::new(url, index == 0)).collect();
            }
            Err(error) => {
                self.event(Event::Failed(error.to_string()));
                self.retry_at = Some(at.now + RETRY_PAUSE);
            }
        }
    }

    /// The variant that the bandwidth allows.
    fn choose(&self, list: &MultivariantPlaylist) -> usize {
        let allowed = match self.settings.variant {
            Choice::Number(fixed) => return fixed.min(list.variants.len().saturating_sub(1)),
            Choice::Best => u64::MAX,
            Choice::Bandwidth => self.bandwidth.estimate().saturating_mul(BANDWIDTH_PERCENT) / 100,
        };
        let rates = || list.variants.iter().map(|variant| variant.bandwidth.unwrap_or(0)).enumerate();
        let fits = rates().filter(|(_, rate)| *rate <= allowed).max_by_key(|(_, rate)| *rate);
        fits.or_else(|| rates().min_by_key(|(_, rate)| *rate)).map_or(0, |(index, _)| index)
    }

    fn on_playlist(&mut self, at: Moment, index: usize, asked: Option<(u64, u64)>, outcome: Result<Answer, String>) {
        let Some(track) = self.tracks.get_mut(index) else { return };
        let playlist = match outcome {
            Ok(Answer { status: 200, playlist: Some(Ok(playlist)), url, .. }) => {
                track.base = url;
                playlist
            }
            Ok(answer) => {
                track.on_no_playlist(at.now);
                let url = track.url.clone();
                match answer.playlist {
                    Some(Err(text)) => {
                        self.quality.playlist_faults += 1;
                        self.event(Event::Failed(format!("{url}: {text}")));
                    }
                    _ => self.event(Event::Failed(format!("{url}: status {}", answer.status))),
                }
                return;
            }
            Err(_) => return track.on_no_playlist(at.now),
        };
        self.on_media_playlist(at, index, asked, &playlist);
    }

    fn on_media_playlist(&mut self, at: Moment, index: usize, asked: Option<(u64, u64)>, playlist: &Arc<Playlist>) {
        let Some(track) = self.tracks.get_mut(index) else { return };
        let Playlist::Media(media) = &**playlist else {
            track.on_no_playlist(at.now);
            self.quality.playlist_faults += 1;
            return;
        };
        self.quality.playlist_faults += u64::from(!media.faults.is_empty());
        let seen = track.on_playlist(at, asked, playlist, self.settings.low_latency);
        self.quality.count_age(seen.hint_age.filter(|_| track.has_dates()), track.part_target());
        self.quality.regressions += u64::from(seen.went_back);
        self.quality.early_replies += u64::from(seen.came_early);
        self.quality.missing += seen.lost;
        if seen.lost > 0 {
            self.go_live(at);
        }
        if self.tracks.iter().all(Track::is_loaded) {
            if self.startup.playlists_ms == 0 {
                self.startup.playlists_ms = millis(at.now.saturating_duration_since(self.began)).max(1);
            }
            if self.tracks.iter().any(|track| track.position.is_none()) {
                self.place(at);
            }
        }
    }

    /// Decides where to begin. spec: rfc8216bis §6.3.3
    fn place(&mut self, at: Moment) {
        let low_latency = self.settings.low_latency;
        // A track that changed its variant goes on where it was.
        let goes_on = self.playback.has_begun()
            && self.tracks.iter().any(|track| track.position.is_some())
            && self.tracks.iter().any(|track| track.resume_at.is_some());
        let start = if goes_on {
            self.tracks.iter().filter_map(|track| track.resume_at).max()
        } else {
            let Some((start, target)) = self.tracks.first().and_then(|track| track.live_start(low_latency)) else {
                return;
            };
            (self.start, self.target) = (Some(start), target);
            if self.playback.has_begun() {
                self.playback.seek(at.now, start);
            } else {
                self.playback.begin_at(start, target);
            }
            Some(start)
        };
        let Some(start) = start else { return };
        for track in self.tracks.iter_mut().filter(|track| track.position.is_none()) {
            track.begin_at(track.resume_at.unwrap_or(start), low_latency);
        }
    }

    fn go_live(&mut self, at: Moment) {
        self.quality.jumps_to_live += 1;
        self.event(Event::WentLive);
        for track in &mut self.tracks {
            track.leave();
        }
        self.pending.retain(|(_, purpose)| !matches!(purpose, Purpose::Media { .. } | Purpose::Init { .. }));
        if self.tracks.iter().all(Track::is_loaded) {
            self.place(at);
        }
    }

    fn on_media(&mut self, at: Moment, index: usize, item: &Item, outcome: Result<Answer, String>) {
        let Some(track) = self.tracks.get_mut(index) else { return };
        let answer = match outcome {
            Ok(answer) if matches!(answer.status, 200 | 206) => answer,
            refused => {
                let is_missing = track.on_no_media(at.now, item);
                self.quality.broken_hints += u64::from(item.is_hint);
                self.quality.missing += u64::from(is_missing);
                if let Ok(answer) = refused {
                    let text = format!("{} of segment {}: status {}", item.name(), item.msn, answer.status);
                    self.event(Event::Failed(text));
                }
                return;
            }
        };
        let hint_age = track.on_media(at.utc_nanos, item);
        self.quality.media += 1;
        if !item.is_hint {
            self.quality.first_byte.add(i64::from(millis(answer.timing.first_byte)));
        }
        let listed_age = (item.is_edge && !item.is_hint).then(|| at.utc_nanos - (item.start + item.duration));
        self.quality.count_age(hint_age.or(listed_age).filter(|_| track.has_dates()), track.part_target());
        if self.startup.first_media_ms == 0 {
            self.startup.first_media_ms = millis(at.now.saturating_duration_since(self.began)).max(1);
        }
        if self.startup.first_picture_ms == 0 && self.tracks.iter().all(|track| track.fetched > 0) {
            self.startup.first_picture_ms = millis(at.now.saturating_duration_since(self.began)).max(1);
        }
        self.measure(at, index, &answer);
    }

    /// Learns from a body how much goes through, and changes the variant if that tells to.
    fn measure(&mut self, at: Moment, index: usize, answer: &Answer) {
        let body = answer.timing.total.saturating_sub(answer.timing.first_byte).max(Duration::from_micros(100));
        if index != 0 || answer.bytes < MEASURED_BYTES_MIN {
            return;
        }
        self.bandwidth.add(answer.bytes, body);
        let is_early = self.switched_at.is_some_and(|last| at.now.saturating_duration_since(last) < SWITCH_PAUSE);
        let Some(list) = self.list().filter(|list| list.variants.len() > 1 && !is_early) else { return };
        let wanted = self.choose(list);
        let Some(variant) = list.variants.get(wanted).filter(|_| wanted != self.variant) else { return };
        let (Ok(url), bandwidth) = (self.base.resolve(&variant.uri), variant.bandwidth.unwrap_or(0)) else { return };
        if let Some(main) = self.tracks.first_mut() {
            main.change_to(url);
        }
        (self.variant, self.switched_at) = (wanted, Some(at.now));
        self.quality.switches += 1;
        self.pending.retain(|(_, purpose)| match purpose {
            Purpose::Playlist { track, .. } | Purpose::Init { track } | Purpose::Media { track, .. } => *track != 0,
            Purpose::Multivariant => true,
        });
        self.event(Event::Switched(bandwidth));
    }

    /// Moves the clock, and tells what happened.
    fn advance(&mut self, at: Moment) {
        let is_over = self.is_over();
        self.playback.no_more_comes(is_over);
        let edge = self.tracks.iter().filter_map(|track| track.live_edge(at.now)).min();
        loop {
            let mut buffers: Vec<_> = self.tracks.iter_mut().map(|track| &mut track.buffer).collect();
            if buffers.is_empty() {
                return;
            }
            let Some(change) = self.playback.advance(at, edge, &mut buffers) else { break };
            if change == Change::Stalled && is_over {
                continue; // that was the last of it
            }
            let event = self.quality.count_change(change, self.startup);
            self.event(event);
        }
        self.quality.played = self.playback.played();
        if is_over && self.playback.is_stalled() && !self.is_done {
            self.is_done = true;
            self.event(Event::Ended);
        }
        self.measure_latency(at);
        let behind = edge.zip(self.playback.position(at.now)).map_or(0, |(edge, position)| edge - position);
        let is_lost = self.target.is_some_and(|target| behind > target + BEHIND_NANOS_MAX);
        if is_lost && self.playback.has_begun() && !self.is_over() {
            self.go_live(at);
        }
    }

    fn measure_latency(&mut self, at: Moment) {
        let is_due = self.latency_at.is_none_or(|last| at.now.saturating_duration_since(last) >= LATENCY_INTERVAL);
        let Some(latency) = self.latency_nanos(at).filter(|_| is_due) else { return };
        self.latency_at = Some(at.now);
        self.quality.latency.add(latency / 1_000_000);
        let seconds = at.now.saturating_duration_since(self.began).as_secs_f64();
        if seconds >= SLOPE_FROM_SECONDS {
            self.quality.slope.add(seconds, (latency / 1_000_000) as f64);
        }
    }

    /// Nothing will come any more.
    fn is_over(&self) -> bool {
        !self.tracks.is_empty() && self.tracks.iter().all(Track::is_over)
    }

    /// Asks for what is needed next.
    fn ask(&mut self, at: Moment) {
        if self.retry_at.is_some_and(|retry| retry <= at.now) {
            self.retry_at = None;
            let url = self.url.clone();
            self.fetch(url, None, Purpose::Multivariant);
        }
        let position = self.playback.position(at.now);
        for index in 0..self.tracks.len() {
            let pending = |kind: fn(&Purpose) -> Option<usize>| {
                self.pending.iter().any(|(_, purpose)| kind(purpose) == Some(index))
            };
            let has_playlist = pending(|purpose| match purpose {
                Purpose::Playlist { track, .. } => Some(*track),
                _ => None,
            });
            let has_media = pending(|purpose| match purpose {
                Purpose::Media { track, .. } | Purpose::Init { track } => Some(*track),
                _ => None,
            });
            let Some(track) = self.tracks.get_mut(index) else { return };
            let reload = if has_playlist { None } else { track.next_reload(at.now, self.settings.low_latency) };
            let media = if has_media { None } else { track.next_media(at.now, position, self.settings.low_latency) };
            if let Some((url, asked)) = reload {
                self.fetch(url, None, Purpose::Playlist { track: index, asked });
            }
            match media {
                Some(Ok((url, range, None))) => self.fetch(url, range, Purpose::Init { track: index }),
                Some(Ok((url, range, Some(item)))) => {
                    self.fetch(url, range, Purpose::Media { track: index, item });
                }
                Some(Err(error)) => {
                    self.quality.missing += 1;
                    self.event(Event::Failed(error));
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
