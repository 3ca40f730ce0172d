//! One broadcast of one stream: its packager, who feeds it, who reads it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hls::{Continuation, Decision, Directives, Packager, PackagerConfig, Resource};
use hub::{Entry, Item, Stream, Tracks};
use media::TrackKind;
use parking_lot::Mutex;
use telemetry::Metrics;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::reply::gzip;
use crate::{EraRecord, EraStore};

/// How often the packager looks at the clock while no media comes.
const TICK: Duration = Duration::from_millis(100);
/// Numbers that are recorded ahead: a restart without a stop skips at most as many. More than twice the gaps that fill one
/// hole (40), since half of them may be used before the next look.
const NUMBERS_AHEAD: u64 = 96;
/// Pauses between attempts to save a record.
const SAVE_RETRIES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800), Duration::from_secs(3)];
/// 2020-01-01 in seconds since 1970: where numbers without a record begin.
const NUMBER_EPOCH_SECONDS: u64 = 1_577_836_800;

/// A rendered playlist.
#[derive(Clone, Debug)]
pub(crate) struct Rendered {
    pub(crate) plain: Bytes,
    pub(crate) gzip: Bytes,
    pub(crate) etag: String,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    Ready(T),
    /// The playlist as it is, because the server stops: true now, and not what was asked for.
    Early(T),
    Refused(&'static str),
    NotFound,
    /// LL-15: it was held too long.
    TimedOut,
    /// It would have to be held, and too many are.
    Busy,
    /// The server stops.
    Stopping,
}

/// What requests that must wait need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting<'a> {
    pub(crate) shutdown: &'a CancellationToken,
    /// Places of requests that are held.
    pub(crate) places: &'a Semaphore,
    pub(crate) metrics: &'a Metrics,
}

/// Counts a request while it is held, also when its client leaves.
struct Held<'a> {
    metrics: &'a Metrics,
    began: Instant,
    _place: SemaphorePermit<'a>,
}

impl<'a> Waiting<'a> {
    fn hold(&self) -> Option<Held<'a>> {
        let place = self.places.try_acquire().ok()?;
        self.metrics.http_blocked_requests.inc();
        Some(Held { metrics: self.metrics, began: Instant::now(), _place: place })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.metrics.http_blocked_requests.dec();
        self.metrics.http_blocked_seconds.observe(self.began.elapsed().as_secs_f64());
    }
}

/// Figures of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelStatus {
    /// Number of the last complete segment or the open one.
    pub media_sequence: u64,
    /// Bytes of media held in memory.
    pub held_bytes: usize,
    /// Segments listed in the leading playlist.
    pub segments: usize,
    /// Discontinuities of the broadcast.
    pub discontinuities: u64,
    /// Parts that were longer than PART-TARGET.
    pub part_violations: u64,
    /// Numbering eras that ended early.
    pub eras: u64,
    /// Requests held now.
    pub blocked_requests: usize,
}

/// One broadcast.
pub struct Channel {
    /// `{when it began}-{secret}`: who may not read the multivariant playlist does not guess where the media is.
    broadcast: String,
    stream: Weak<Stream>,
    feeder: Mutex<Option<hub::Subscriber>>,
    packager: Mutex<Packager>,
    /// Counts changes of each playlist, video first, and of any: who waits for one is not woken by the other.
    revisions: [watch::Sender<u64>; 3],
    cache: Mutex<HashMap<(TrackKind, bool), (u64, Rendered)>>,
    /// The multivariant playlist as of a revision of all.
    multivariant: Mutex<Option<(u64, Rendered)>>,
    config: PackagerConfig,
    /// Highest number and discontinuities that were saved.
    recorded: Mutex<(u64, u64)>,
    name: media::StreamName,
    is_superseded: AtomicBool,
    is_withdrawn: AtomicBool,
}

/// How packaging came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The broadcast is over.
    Ended,
    /// The server stops.
    Stopped,
    /// The record cannot be saved.
    Failed,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("broadcast", &shown(&self.broadcast)).finish_non_exhaustive()
    }
}

fn now_utc_nanos() -> i64 {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(utc.as_nanos()).unwrap_or(i64::MAX)
}

impl Channel {
    /// Goes on where the record says; without one it begins at whole seconds since 2020.
    pub(crate) fn new(stream: &Arc<Stream>, config: PackagerConfig, record: Option<EraRecord>) -> Self {
        let seconds = u64::try_from(now_utc_nanos() / 1_000_000_000).unwrap_or(0).saturating_sub(NUMBER_EPOCH_SECONDS);
        let (broadcast, continuation) = match record {
            Some(record) if !record.is_ended => {
                let first_number = record.highest_number + 1;
                // One more than was recorded: the last one may not have been.
                let discontinuities = record.discontinuities + 1;
                (record.broadcast, Continuation { first_number, discontinuities, is_resumed: true })
            }
            old => {
                // Another broadcast within the same second still gets another name and higher numbers.
                let mut id = seconds;
                if let Some(last) = old.and_then(|old| u64::from_str_radix(shown(&old.broadcast), 36).ok()) {
                    id = id.max(last + 1);
                }
                let continuation = Continuation { first_number: seconds, discontinuities: 0, is_resumed: false };
                (format!("{}-{}", base36(id.into()), secret()), continuation)
            }
        };
        Self {
            broadcast,
            stream: Arc::downgrade(stream),
            feeder: Mutex::new(Some(stream.subscribe_from_oldest())),
            packager: Mutex::new(Packager::new(config, continuation)),
            revisions: [0; 3].map(watch::Sender::new),
            cache: Mutex::default(),
            multivariant: Mutex::default(),
            config,
            recorded: Mutex::new((0, 0)),
            name: stream.name().clone(),
            is_superseded: AtomicBool::new(false),
            is_withdrawn: AtomicBool::new(false),
        }
    }

    /// Names the broadcast in URLs. It holds a secret.
    pub fn broadcast(&self) -> &str {
        &self.broadcast
    }

    /// It belongs to an earlier stream of the same name.
    pub(crate) fn is_of_another(&self, stream: &Arc<Stream>) -> bool {
        !self.is_fed_by(stream)
    }

    /// Another channel keeps the record from now on.
    pub(crate) fn supersede(&self) {
        self.is_superseded.store(true, Ordering::Relaxed);
    }

    /// The playlists are gone; the media stays a while. LL-22
    pub(crate) fn withdraw(&self) {
        self.is_withdrawn.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.is_withdrawn.load(Ordering::Relaxed)
    }

    pub(crate) fn is_fed_by(&self, stream: &Arc<Stream>) -> bool {
        std::ptr::eq(self.stream.as_ptr(), Arc::as_ptr(stream))
    }

    pub(crate) fn window_nanos(&self) -> i64 {
        let packager = self.packager.lock();
        let playlist = packager.playlist(TrackKind::Video).or(packager.playlist(TrackKind::Audio));
        playlist.map_or(0, |playlist| playlist.targets().window_nanos)
    }

    /// Figures now.
    pub fn status(&self) -> ChannelStatus {
        let packager = self.packager.lock();
        let tracks = || [TrackKind::Video, TrackKind::Audio].into_iter().filter_map(|track| packager.playlist(track));
        let leading = tracks().next();
        ChannelStatus {
            media_sequence: leading.and_then(hls::MediaPlaylist::position).map_or(0, |position| position.msn),
            held_bytes: tracks().map(hls::MediaPlaylist::held_bytes).sum(),
            segments: leading.map_or(0, |playlist| playlist.segments().len()),
            discontinuities: packager.discontinuities(),
            part_violations: tracks().map(hls::MediaPlaylist::violations).sum(),
            eras: packager.eras(),
            blocked_requests: self.revisions.iter().map(watch::Sender::receiver_count).sum(),
        }
    }

    /// Feeds the packager until the program ends or the server stops.
    pub(crate) async fn run(&self, eras: &dyn EraStore, metrics: &Metrics, shutdown: &CancellationToken) -> Outcome {
        let Some(mut subscriber) = self.feeder.lock().take() else { return Outcome::Failed };
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut tracks: Option<Arc<Tracks>> = None;
        let mut skipped = 0;
        info!(broadcast = shown(&self.broadcast), "packaging began");
        loop {
            if !self.record_ahead(eras, false).await {
                return Outcome::Failed; // without a record a name could be used twice
            }
            let entry = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                entry = subscriber.next() => Some(entry),
                _ = ticks.tick() => None,
            };
            let is_end = entry.as_ref().is_some_and(|entry| matches!(entry.item, Item::End));
            if subscriber.skipped() > skipped {
                metrics.hls_skipped.inc_by(subscriber.skipped() - skipped);
                skipped = subscriber.skipped();
                warn!("the packager was too slow and skipped whole GOPs");
            }
            match entry {
                Some(entry) => self.feed(&entry, &mut tracks, metrics),
                None => {
                    self.change(metrics, |packager| packager.handle_timeout(now_utc_nanos()));
                }
            }
            if is_end {
                info!(broadcast = shown(&self.broadcast), "playlist ended");
                break;
            }
        }
        if shutdown.is_cancelled() {
            self.change(metrics, Packager::handle_shutdown);
        }
        self.record_ahead(eras, true).await;
        if shutdown.is_cancelled() { Outcome::Stopped } else { Outcome::Ended }
    }

    fn feed(&self, entry: &Entry, tracks: &mut Option<Arc<Tracks>>, metrics: &Metrics) {
        let is_new = tracks.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &entry.tracks));
        let parts = self.change(metrics, |packager| {
            if is_new && matches!(entry.item, Item::Unit(_)) {
                packager.set_tracks(entry.tracks.config(TrackKind::Video), entry.tracks.config(TrackKind::Audio));
                *tracks = Some(Arc::clone(&entry.tracks));
            }
            match &entry.item {
                Item::Unit(unit) => packager.handle_unit(unit.clone(), entry.arrival_utc_nanos),
                Item::Lost => packager.handle_lost(entry.arrival_utc_nanos),
                Item::End => packager.handle_end(),
            }
        });
        if parts > 0 {
            let delay = u64::try_from(now_utc_nanos().saturating_sub(entry.arrival_utc_nanos)).unwrap_or(0);
            metrics.hls_part_publish_delay_seconds.observe(Duration::from_nanos(delay).as_secs_f64());
        }
    }

    /// Changes the packager, and wakes those who wait if something was published. Returns how many parts were.
    fn change(&self, metrics: &Metrics, change: impl FnOnce(&mut Packager)) -> u64 {
        let mut packager = self.packager.lock();
        let before = counts(&packager);
        change(&mut packager);
        let after = counts(&packager);
        drop(packager);
        let mut parts = 0;
        for (revision, (before, after)) in self.revisions.iter().zip(before.iter().zip(&after)) {
            if after != before {
                revision.send_modify(|revision| *revision += 1);
            }
            parts += after.1.saturating_sub(before.1); // a track that goes takes its count along
        }
        if before != after {
            self.revisions[2].send_modify(|revision| *revision += 1);
        }
        metrics.hls_parts.inc_by(parts);
        parts
    }

    /// Sees to it that the next numbers are recorded before they are used; false if that cannot be done.
    async fn record_ahead(&self, eras: &dyn EraStore, is_last: bool) -> bool {
        if self.is_superseded.load(Ordering::Relaxed) {
            return true;
        }
        let record = {
            let packager = self.packager.lock();
            let next = packager.next_number();
            let mut recorded = self.recorded.lock();
            let known = (next + NUMBERS_AHEAD / 2 <= recorded.0, packager.discontinuities() == recorded.1);
            if known == (true, true) && !is_last {
                return true;
            }
            *recorded = (next + NUMBERS_AHEAD, packager.discontinuities());
            EraRecord {
                broadcast: self.broadcast.clone(),
                highest_number: if is_last { next.saturating_sub(1) } else { recorded.0 },
                discontinuities: packager.discontinuities(),
                is_ended: packager.is_ended(),
            }
        };
        for wait in SAVE_RETRIES {
            match eras.save(&self.name, record.clone()).await {
                Ok(()) => return true,
                Err(text) => warn!(error = text, "the record of segment numbers could not be saved; trying again"),
            }
            tokio::time::sleep(wait).await;
        }
        error!("the record of segment numbers cannot be saved: packaging stops, lest a name be used twice");
        false
    }

    /// The multivariant playlist, when a player can start.
    pub(crate) async fn multivariant(&self, waiting: Waiting<'_>) -> Answer<Rendered> {
        self.wait(None, waiting, |packager| {
            let [video, audio] = counts(packager);
            let revision = video.0 + audio.0;
            let mut known = self.multivariant.lock();
            if let Some((_, rendered)) = known.as_ref().filter(|(known, _)| *known == revision) {
                return Some(rendered.clone());
            }
            let text = packager.render_multivariant(&self.broadcast)?;
            let etag = etag_of(&text);
            let rendered = Rendered { gzip: gzip(text.as_bytes()), plain: text.into(), etag };
            *known = Some((revision, rendered.clone()));
            Some(rendered)
        })
        .await
    }

    /// A media playlist, when the directives are met.
    pub(crate) async fn playlist(
        &self,
        track: TrackKind,
        directives: Directives,
        waiting: Waiting<'_>,
    ) -> Answer<Rendered> {
        let outcome = self
            .wait(Some(track), waiting, |packager| {
                match packager.playlist(track).map(|playlist| playlist.decide(directives)) {
                    None => Some(Err(Answer::NotFound)),
                    Some(Decision::Refuse(text)) => Some(Err(Answer::Refused(text))),
                    Some(Decision::Reply) => Some(Ok(())),
                    Some(Decision::Block) => None,
                }
            })
            .await;
        let rendered = || self.render(track, directives.skip);
        match outcome {
            Answer::Ready(Ok(())) => rendered().map_or(Answer::NotFound, Answer::Ready),
            Answer::Stopping => rendered().map_or(Answer::NotFound, Answer::Early),
            Answer::Ready(Err(refusal)) => refusal,
            Answer::TimedOut => Answer::TimedOut,
            Answer::Busy => Answer::Busy,
            Answer::Early(_) | Answer::Refused(_) | Answer::NotFound => Answer::NotFound,
        }
    }

    /// Renders once per revision, plain and gzip, for all who ask.
    fn render(&self, track: TrackKind, skip: bool) -> Option<Rendered> {
        let mut cache = self.cache.lock();
        let packager = self.packager.lock();
        let revision = packager.playlist(track)?.revision();
        if let Some((_, rendered)) = cache.get(&(track, skip)).filter(|(known, _)| *known == revision) {
            return Some(rendered.clone());
        }
        let text = packager.render_media(track, skip)?;
        drop(packager);
        let etag = etag_of(&text);
        let rendered = Rendered { gzip: gzip(text.as_bytes()), plain: text.into(), etag };
        cache.insert((track, skip), (revision, rendered.clone()));
        Some(rendered)
    }

    /// A segment, part or initialization segment; the hinted part when it is there.
    pub(crate) async fn media(&self, file: &str, waiting: Waiting<'_>) -> Answer<Vec<Bytes>> {
        let track = if file.starts_with('v') { TrackKind::Video } else { TrackKind::Audio };
        let outcome = self
            .wait(Some(track), waiting, |packager| {
                match packager.playlist(track).map(|playlist| playlist.resource(file)) {
                    None | Some(Resource::NotFound) => Some(None),
                    Some(Resource::Ready(slices)) => Some(Some(slices)),
                    Some(Resource::Hinted) => None,
                }
            })
            .await;
        match outcome {
            Answer::Ready(Some(slices)) => Answer::Ready(slices),
            Answer::Ready(None) | Answer::Early(_) | Answer::NotFound | Answer::Refused(_) => Answer::NotFound,
            Answer::TimedOut => Answer::TimedOut,
            Answer::Busy => Answer::Busy,
            Answer::Stopping => Answer::Stopping,
        }
    }

    /// Looks again after each change until `look` finds something: at most three target durations (LL-15).
    async fn wait<T>(
        &self,
        track: Option<TrackKind>,
        waiting: Waiting<'_>,
        look: impl Fn(&Packager) -> Option<T>,
    ) -> Answer<T> {
        if let Some(found) = look(&self.packager.lock()) {
            return Answer::Ready(found);
        }
        // Apart, so that a request that need not wait does not carry the room for waiting along.
        Box::pin(self.hold(track, waiting, look)).await
    }

    async fn hold<T>(
        &self,
        track: Option<TrackKind>,
        waiting: Waiting<'_>,
        look: impl Fn(&Packager) -> Option<T>,
    ) -> Answer<T> {
        let Some(_held) = waiting.hold() else { return Answer::Busy };
        let [video, audio, any] = &self.revisions;
        let changes = match track {
            Some(TrackKind::Video) => video,
            Some(TrackKind::Audio) => audio,
            None => any,
        };
        let mut changed = changes.subscribe();
        let limit = Duration::from_secs(3 * u64::try_from(self.config.target_duration()).unwrap_or(4));
        let held = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = look(&self.packager.lock()) {
                    return Answer::Ready(found);
                }
                if changed.changed().await.is_err() {
                    return Answer::NotFound;
                }
            }
        };
        tokio::select! {
            answer = held => answer,
            () = tokio::time::sleep(limit) => Answer::TimedOut,
            () = waiting.shutdown.cancelled() => Answer::Stopping,
        }
    }
}

/// Changes and parts so far of each playlist, video first.
fn counts(packager: &Packager) -> [(u64, u64); 2] {
    [TrackKind::Video, TrackKind::Audio]
        .map(|track| packager.playlist(track).map_or((0, 0), |playlist| (playlist.revision() + 1, playlist.parts())))
}

/// An entity tag that follows from the content: the same after a restart, another for another text.
fn etag_of(text: &str) -> String {
    format!("\"{:016x}\"", hls::content_hash(text.as_bytes()))
}

/// What may be shown of a broadcast's name.
fn shown(broadcast: &str) -> &str {
    broadcast.split('-').next().unwrap_or_default()
}

/// 128 random bits.
fn secret() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    base36(u128::from_le_bytes(bytes))
}

fn base36(mut value: u128) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit((value % 36) as u32, 36).unwrap_or('0'));
        value /= 36;
        if value == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use hub::{Hub, HubConfig, Publisher};
    use telemetry::registry::Registry;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ll_15_a_request_that_waits_three_target_durations_in_vain_gives_up() {
        let hub = Hub::new(HubConfig::default());
        let name = "show".parse().expect("valid");
        let at = hub::Arrival { now: Instant::now(), utc_nanos: 0 };
        let leg = hub.publish(at, &name, Publisher::default()).expect("nobody else publishes");
        let channel = Channel::new(leg.stream(), PackagerConfig::default(), None);
        let (metrics, shutdown) = (Metrics::register(&mut Registry::default()), CancellationToken::new());
        let places = Semaphore::new(1);
        let waiting = || Waiting { shutdown: &shutdown, places: &places, metrics: &metrics };

        let began = tokio::time::Instant::now();
        assert!(matches!(channel.multivariant(waiting()).await, Answer::TimedOut));
        assert_eq!(began.elapsed(), Duration::from_secs(12), "three times four seconds");
        let (first, second) = tokio::join!(channel.multivariant(waiting()), channel.multivariant(waiting()));
        assert!(matches!((first, second), (Answer::TimedOut, Answer::Busy)), "one place is there");
        shutdown.cancel();
        assert!(matches!(channel.multivariant(waiting()).await, Answer::Stopping));
    }
}
