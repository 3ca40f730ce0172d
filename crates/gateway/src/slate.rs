//! What viewers see while nobody publishes: a card or a clip in the stream's own format, as one more leg.
//!
//! It is made by FFmpeg as soon as a stream is live, so that it is there when it is needed, and kept: streams of one format
//! share it. It never ends the life of a stream: a source that is there takes over at once.

mod make;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use codec::VideoStream;
use hub::{Announcement, EventKind, Leg, Publisher, SLATE_RANK, Stream, StreamState, Tracks};
use media::{AudioConfig, FrameRate, StreamName, TrackKind, VideoConfig};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::{Gateway, arrival};
use make::{Card, Format};

/// Slates that are made at once.
const MAKERS: usize = 1;
/// Slates that are kept in memory.
const KEPT_MAX: usize = 64;
/// From the start until old slates are deleted.
const PRUNE_AFTER: Duration = Duration::from_hours(1);
/// Before a slate that could not be made is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// A source must feed the stream for so long before its slate is put away.
const SETTLE: Duration = Duration::from_millis(500);
/// Longest hole before the slate that it fills, so that players find no hole in the stream. After longer ones gaps have been told.
const FILL_MAX: Duration = Duration::from_millis(3500);
/// Sound of a stream that never had any.
const USUAL_RATE: u32 = 48_000;

/// Slates: for all streams, and for some.
#[derive(Clone, Debug)]
pub struct SlateSettings {
    /// The program that makes them.
    pub ffmpeg: PathBuf,
    /// Where they are kept over restarts.
    pub folder: PathBuf,
    /// A picture or clip in place of the built-in card.
    pub file: Option<PathBuf>,
    /// Likewise, by stream.
    pub files: HashMap<StreamName, PathBuf>,
    /// Streams without one: loss is a gap.
    pub without: Vec<StreamName>,
    /// Streams that are there from the server's start.
    pub always_on: Vec<AlwaysOn>,
}

/// A stream that is live whether somebody publishes or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlwaysOn {
    /// Its name.
    pub stream: StreamName,
    /// Pixels of its slate.
    pub width: u32,
    /// Pixels of its slate.
    pub height: u32,
    /// Pictures a second of its slate.
    pub frame_rate: FrameRate,
}

/// A slate that was made.
#[derive(Debug)]
struct Slate {
    config: VideoConfig,
    frame_rate: FrameRate,
    /// One closed GOP or several: whether a decoder can start there, and the unit as a transport stream carries it.
    units: Vec<bytes::Bytes>,
}

/// Makes and keeps slates.
#[derive(Debug)]
struct Shelf {
    settings: SlateSettings,
    /// Those that may be needed wait for each other, and those that are needed now.
    makers: Semaphore,
    urgent: Semaphore,
    /// Streams whose slate is shown, or made to be shown.
    shown: Mutex<HashSet<StreamName>>,
    kept: Mutex<HashMap<Card, Arc<Slate>>>,
    /// By stream: the slate that was made while its source was there, and for which tracks.
    ready: Mutex<HashMap<StreamName, Ready>>,
}

/// A slate and the tracks that it fits.
type Ready = (Arc<Tracks>, Arc<Slate>);

impl Shelf {
    fn card(&self, stream: &StreamName, format: Format) -> Card {
        let file = self.settings.files.get(stream).or(self.settings.file.as_ref());
        // A card of ours has the stream's title; a file looks the same for all.
        let title = file.is_none().then(|| stream.to_string());
        Card { format, file: file.cloned(), title }
    }

    async fn slate(&self, card: Card, makers: &Semaphore) -> Result<Arc<Slate>, String> {
        let known = || self.kept.lock().get(&card).cloned();
        if let Some(slate) = known() {
            return Ok(slate);
        }
        let _turn = makers.acquire().await.map_err(|error| error.to_string())?;
        if let Some(slate) = known() {
            return Ok(slate);
        }
        let slate = Arc::new(make::make(&self.settings.ffmpeg, &self.settings.folder, &card).await?);
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT_MAX {
            kept.clear(); // what is in use stays with its users, and the rest is on disk
        }
        kept.insert(card, Arc::clone(&slate));
        Ok(slate)
    }
}

impl Gateway {
    /// Shows slates for streams that lose their sources, and runs those that are always on; until shutdown.
    pub fn run_slates(&self, settings: SlateSettings) {
        let gateway = self.clone();
        let folder = settings.folder.clone();
        let shelf = Shelf {
            settings,
            makers: Semaphore::new(MAKERS),
            urgent: Semaphore::new(MAKERS),
            shown: Mutex::default(),
            kept: Mutex::default(),
            ready: Mutex::default(),
        };
        self.tracker.spawn(async move {
            let shutdown = gateway.shutdown.clone();
            tokio::select! {
                () = gateway.watch_streams(Arc::new(shelf)) => {}
                () = prune_later(&folder) => {}
                () = shutdown.cancelled() => {}
            }
        });
    }

    async fn watch_streams(&self, shelf: Arc<Shelf>) {
        let events = Arc::clone(self.hub.events());
        let mut changed = events.watch();
        let mut next = *changed.borrow();
        let mut tasks = JoinSet::new();
        for stream in &shelf.settings.always_on {
            self.begin(&shelf, stream, &mut tasks);
        }
        loop {
            changed.borrow_and_update();
            let news = events.since(next, 100);
            if news.first().is_some_and(|event| event.number > next) {
                self.look_at_all(&shelf, &mut tasks); // some are lost: more happened at once than is kept
            }
            next = news.last().map_or(next, |event| event.number + 1);
            for event in &news {
                if event.kind == EventKind::Ended {
                    shelf.ready.lock().remove(&event.stream);
                    let again = shelf.settings.always_on.iter().find(|always| always.stream == event.stream);
                    again.into_iter().for_each(|always| self.begin(&shelf, always, &mut tasks));
                    continue;
                }
                if shelf.settings.without.contains(&event.stream) {
                    continue;
                }
                let Some(stream) = self.hub.stream(&event.stream) else { continue };
                match event.kind {
                    // Also another leg, with another format perhaps.
                    EventKind::Live | EventKind::Switched if stream.has_source(Instant::now()) => {
                        tasks.spawn(prepare(Arc::clone(&shelf), stream));
                    }
                    // A leg may be dead whose sound goes on.
                    EventKind::Lost | EventKind::LegState
                        if event.kind == EventKind::Lost || stream.is_dark(Instant::now()) =>
                    {
                        tasks.spawn(self.clone().show(Arc::clone(&shelf), stream, None));
                    }
                    _ => {}
                }
            }
            while tasks.try_join_next().is_some() {}
            if news.is_empty() && changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whatever happened to streams: each has its slate ready, or shows it.
    fn look_at_all(&self, shelf: &Arc<Shelf>, tasks: &mut JoinSet<()>) {
        for always in &shelf.settings.always_on {
            if self.hub.stream(&always.stream).is_none() {
                self.begin(shelf, always, tasks);
            }
        }
        for stream in self.hub.streams() {
            if shelf.settings.without.contains(stream.name()) {
                continue;
            }
            if stream.has_source(Instant::now()) {
                tasks.spawn(prepare(Arc::clone(shelf), stream));
            } else if stream.state() != StreamState::Starting && stream.is_dark(Instant::now()) {
                tasks.spawn(self.clone().show(Arc::clone(shelf), stream, None));
            }
        }
    }

    /// A stream that is always on begins, unless the server is about to stop.
    fn begin(&self, shelf: &Arc<Shelf>, always: &AlwaysOn, tasks: &mut JoinSet<()>) {
        if self.draining.borrow().is_some() {
            return;
        }
        let format = Format::usual(always.width, always.height, always.frame_rate);
        match self.hub.declare(&always.stream) {
            Ok(stream) => drop(tasks.spawn(self.clone().show(Arc::clone(shelf), stream, Some(format)))),
            Err(error) => warn!(stream = %always.stream, %error, "cannot be always on"),
        }
    }

    /// Shows the slate until a source feeds the stream, or it has ended; once at a time.
    async fn show(self, shelf: Arc<Shelf>, stream: Arc<Stream>, usual: Option<Format>) {
        // A stream that is always on has nothing else to show: the broadcast before it is waited for, what fails is tried again.
        let is_always_on = usual.is_some();
        while !shelf.shown.lock().insert(stream.name().clone()) {
            if !is_always_on {
                return;
            }
            tokio::time::sleep(SETTLE).await;
        }
        let mut is_told = false;
        while !self.show_once(&shelf, &stream, usual.clone(), &mut is_told).await && is_always_on {
            tokio::time::sleep(RETRY).await;
        }
        shelf.shown.lock().remove(stream.name());
    }

    /// Whether the slate was shown, or was not needed. That there is none is told once.
    async fn show_once(&self, shelf: &Shelf, stream: &Arc<Stream>, usual: Option<Format>, is_told: &mut bool) -> bool {
        let (tracks, rate) = stream.format();
        let Some(format) = Format::of(&tracks, rate).or(usual) else {
            stream.slate_is_missing(arrival(), "none is made for its codec");
            return true;
        };
        let ready =
            shelf.ready.lock().get(stream.name()).filter(|(of, _)| **of == *tracks).map(|(_, slate)| Arc::clone(slate));
        let made = match ready {
            Some(slate) => Ok(slate),
            None => shelf.slate(shelf.card(stream.name(), format), &shelf.urgent).await,
        };
        let slate = match made {
            Ok(slate) => slate,
            Err(error) => {
                if !std::mem::replace(is_told, true) {
                    stream.slate_is_missing(arrival(), &error);
                }
                return false;
            }
        };
        let is_there = self.hub.stream(stream.name()).is_some_and(|known| Arc::ptr_eq(&known, stream));
        if !is_there || stream.state() == StreamState::Ended || stream.has_source(Instant::now()) {
            return true;
        }
        let publisher = Publisher {
            protocol: "slate",
            key_id: "slate".into(),
            encoder: Some("Throughline".into()),
            rank: SLATE_RANK,
            ..Publisher::default()
        };
        let Ok(leg) = self.hub.publish(arrival(), stream.name(), publisher) else { return true };
        if !Arc::ptr_eq(leg.stream(), stream) {
            return true; // it ended just now, and another one would begin with a slate
        }
        info!(stream = %stream.name(), "the slate is shown");
        // It begins where the source ended: what has passed since then is brought at once.
        let now = Instant::now();
        let ended = stream.last_arrival().filter(|last| now.saturating_duration_since(*last) <= FILL_MAX);
        let frame = nanos(Showing::picture_nanos(&slate, 1));
        let began = ended.map_or(now, |ended| (ended + frame).min(now));
        Showing::new(leg, slate, &tracks, began).run(stream).await;
        true
    }
}

/// Deletes old slates when those that are needed have been read, which makes them young. Never returns.
async fn prune_later(folder: &Path) {
    tokio::time::sleep(PRUNE_AFTER).await;
    make::prune(folder);
    std::future::pending::<()>().await;
}

/// Makes the slate of a stream before it is needed.
async fn prepare(shelf: Arc<Shelf>, stream: Arc<Stream>) {
    // The frame rate is known by then, and the stream has begun.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (tracks, rate) = stream.format();
    let is_ready = shelf.ready.lock().get(stream.name()).is_some_and(|(of, _)| **of == *tracks);
    if is_ready || !stream.has_source(Instant::now()) {
        return;
    }
    let Some(format) = Format::of(&tracks, rate) else { return };
    match shelf.slate(shelf.card(stream.name(), format), &shelf.makers).await {
        Ok(slate) => drop(shelf.ready.lock().insert(stream.name().clone(), (tracks, slate))),
        Err(error) => warn!(stream = %stream.name(), error, "no slate can be made: loss of the source will be a gap"),
    }
}

/// A slate that is shown.
struct Showing {
    leg: Leg,
    slate: Arc<Slate>,
    audio: AudioConfig,
    silence: Option<bytes::Bytes>,
    began: Instant,
    pictures: i64,
    sounds: i64,
}

impl Showing {
    fn new(leg: Leg, slate: Arc<Slate>, tracks: &Tracks, began: Instant) -> Self {
        let usual = || codec::aac::lc_config(USUAL_RATE, 2).expect("a rate and a layout of the tables");
        let audio = tracks.audio.clone().unwrap_or_else(usual);
        // A stream that has pictures only stays so.
        let has_sound = tracks.audio.is_some() || tracks.video.is_none();
        let silence = match audio.codec {
            _ if !has_sound => None,
            media::AudioCodec::Aac => codec::aac::silent_frame(&audio),
            media::AudioCodec::Opus => (audio.channels <= 2).then(codec::opus::silent_packet),
        };
        Self { leg, slate, audio, silence, began, pictures: 0, sounds: 0 }
    }

    /// Until a source feeds the stream.
    async fn run(mut self, stream: &Stream) {
        let at = arrival();
        let frame_rate = Some(self.slate.frame_rate);
        let audio = self.silence.is_some();
        self.leg.announce(at.now, Announcement { video: true, audio, frame_rate, ..Announcement::default() });
        self.leg.video_in_band(self.slate.config.codec);
        if audio {
            self.leg.audio_known(at, self.audio.clone());
        }
        let mut kicked = self.leg.kicked();
        let mut source_since: Option<Instant> = None;
        loop {
            self.bring();
            let due = self.began + nanos(Self::picture_nanos(&self.slate, self.pictures));
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                _ = kicked.wait_for(Option::is_some) => break,
            }
            let now = Instant::now();
            source_since = if stream.has_source(now) { source_since.or(Some(now)) } else { None };
            if source_since.is_some_and(|since| now.saturating_duration_since(since) >= SETTLE) {
                break;
            }
        }
        self.leg.close(arrival());
    }

    /// When a picture is due. Counted from the beginning, so that nothing accumulates.
    fn picture_nanos(slate: &Slate, number: i64) -> i64 {
        let rate = slate.frame_rate;
        let nanos = i128::from(number) * 1_000_000_000 * i128::from(rate.denominator()) / i128::from(rate.numerator());
        i64::try_from(nanos).unwrap_or(i64::MAX)
    }

    /// The next picture, and the sound up to it.
    fn bring(&mut self) {
        let time = Self::picture_nanos(&self.slate, self.pictures);
        // It counts as having come when it was due, however late this task was woken.
        let at = arrival();
        self.leg.set_late(at.now.saturating_duration_since(self.began + nanos(time)));
        let count = self.slate.units.len().max(1);
        let index = usize::try_from(self.pictures).unwrap_or(0) % count;
        if let Some(unit) = self.slate.units.get(index) {
            self.leg.video_unit(at, time, 0, false, unit);
        }
        self.pictures += 1;
        let Some(silence) = &self.silence else { return };
        let length = i64::from(self.audio.samples_per_unit);
        loop {
            let sound = self.audio.timescale.nanos(self.sounds * length);
            if sound > time {
                return;
            }
            self.leg.audio_unit(at, self.audio.codec, sound, silence.clone());
            self.sounds += 1;
        }
    }
}

fn nanos(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

impl Slate {
    /// From a byte stream with access unit delimiters.
    fn read(stream: &[u8], card: &Card) -> Result<Self, String> {
        let codec = card.format.codec;
        let units = codec::annexb::file_units(stream, codec);
        let mut video = VideoStream::in_band(codec);
        for unit in &units {
            video.unit(unit, false).map_err(|error| format!("what FFmpeg made cannot be read: {error}"))?;
        }
        let config = video.config().cloned().ok_or("what FFmpeg made has no parameter sets")?;
        Ok(Self { config, frame_rate: card.format.frame_rate, units })
    }
}

/// The video of a program.
fn video(tracks: &Tracks) -> Option<VideoConfig> {
    match tracks.config(TrackKind::Video)? {
        media::CodecConfig::Video(video) => Some(video),
        media::CodecConfig::Audio(_) => None,
    }
}
