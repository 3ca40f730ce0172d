//! `load`: many viewers in one process, each on its own, or many publishers.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use srt::CallerConfig;
use tokio::task::JoinSet;

use crate::client::{Client, Shared};
use crate::direct::{self, DirectPlayer, Place};
use crate::follower::{Event, Follower, PlayerSettings};
use crate::probe::quality_lines;
use crate::publisher::{Publisher, Tag, read_flv};
use crate::quality::{Quality, QualityReport};
use crate::samples::{Samples, Summary};
use crate::srt_link::resolve;
use crate::srt_publisher::{SrtPublisher, TsClip};
use crate::url::Url;
use crate::watch::{moment, watch};

/// Measurements that one of many viewers keeps of a kind.
const SAMPLES_MAX: usize = 256;
/// Viewers that are told one by one: those who had it worst.
const WORST: usize = 10;
/// How often the process looks whether it is late itself.
const LAG_INTERVAL: Duration = Duration::from_millis(20);
/// A client that is this late, or this busy, tells more of itself than of the server.
const LAG_MS_MAX: u32 = 50;
const BUSY_PERCENT_MAX: u64 = 90;
/// How often a viewer's figures are added up.
const TICK: Duration = Duration::from_millis(500);
/// Publishers begin spread over this time, so that their keyframes do not come all at once.
const PUBLISHER_SPREAD: Duration = Duration::from_secs(2);

/// How many, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadSettings {
    /// Viewers.
    pub viewers: u32,
    /// They come spread over this time.
    pub ramp: Duration,
    /// And stay so long after the last has come.
    pub duration: Duration,
    /// How each behaves.
    pub player: PlayerSettings,
}

/// What one of the worst felt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorstViewer {
    /// Counted from 0, in the order they came.
    pub index: u32,
    /// It never began to play.
    pub never_began: bool,
    /// Times it ran dry, and how long it stood still.
    pub stalls: u64,
    /// In milliseconds.
    pub stalled_ms: u64,
    /// Latency that 95 of 100 of its measurements did not exceed.
    pub latency_p95_ms: u32,
}

/// How the client itself did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClientFigures {
    /// Processor time in thousandths of one core, while all viewers were there.
    pub core_per_mille: u64,
    /// Cores it may use.
    pub cores: u64,
    /// How late its own timers were: 99 of 100.
    pub lag_p99_ms: u32,
    /// The figures are limited by this client, not by the server.
    pub is_the_limit: bool,
}

/// How it went.
#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// What was watched.
    pub url: String,
    /// By so many.
    pub viewers: u32,
    /// Who began to play.
    pub began: u32,
    /// Who ran dry at least once.
    pub viewers_with_stalls: u32,
    /// Time to the first picture in milliseconds, over all viewers.
    pub startup_ms: Summary,
    /// While all viewers were there.
    pub requests_per_second: u64,
    /// Likewise, bodies only.
    pub bits_per_second: u64,
    /// Figures over all viewers.
    pub quality: QualityReport,
    /// Who had it worst.
    pub worst: Vec<WorstViewer>,
    /// How the client did.
    pub client: ClientFigures,
}

#[derive(Debug, Default)]
struct Totals {
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// What many viewers watch; they are spread evenly over the addresses.
#[derive(Clone, Debug)]
pub enum Audience {
    /// Over HTTP.
    Http(Arc<Shared>, Vec<Url>),
    /// Over RTMP or SRT, and whether any certificate is taken.
    Direct(Vec<Place>, bool),
}

impl Audience {
    /// What is watched, without secrets.
    fn addresses(&self) -> String {
        let texts: Vec<String> = match self {
            Self::Http(_, urls) => urls.iter().map(Url::to_string).collect(),
            Self::Direct(places, _) => places.iter().map(Place::to_string).collect(),
        };
        texts.join(" ")
    }

    /// Watches as one of the viewers until then; `on_tick` is told its figures twice a second.
    async fn watch(
        &self,
        index: usize,
        settings: PlayerSettings,
        until: Instant,
        mut on_tick: impl FnMut(&Quality) + Send,
    ) -> Option<Quality> {
        match self {
            Self::Http(shared, urls) => {
                let client = Client::new(shared);
                let url = urls.get(index % urls.len().max(1))?;
                let mut follower = Follower::new(moment(), url.clone(), settings);
                watch(&client, &mut follower, until, TICK, |follower, _| on_tick(follower.quality())).await;
                Some(follower.quality().clone())
            }
            Self::Direct(places, is_insecure) => {
                let place = places.get(index % places.len().max(1))?;
                let mut player = DirectPlayer::new(moment(), direct::BUFFER, settings.samples_max);
                let tell = |player: &DirectPlayer, _: Option<&Event>| on_tick(player.quality());
                direct::watch(place, &mut player, *is_insecure, until, TICK, tell).await;
                Some(player.quality().clone())
            }
        }
    }
}

/// Runs viewers. `on_second` is told once a second how many have come, and who has run dry so far.
pub async fn viewers(audience: Audience, settings: LoadSettings, mut on_second: impl FnMut(u32, u64)) -> LoadReport {
    let totals = Arc::new(Totals::default());
    let stalls = Arc::new(AtomicU64::new(0));
    let came = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let steady = began + settings.ramp;
    let until = steady + settings.duration;
    let mut tasks = JoinSet::new();
    let audience = Arc::new(audience);
    for index in 0..settings.viewers {
        let audience = Arc::clone(&audience);
        let (totals, stalls, came) = (Arc::clone(&totals), Arc::clone(&stalls), Arc::clone(&came));
        let starts = began + settings.ramp * index / settings.viewers.max(1);
        let player = PlayerSettings { samples_max: SAMPLES_MAX, ..settings.player };
        tasks.spawn(async move {
            tokio::time::sleep_until(starts.into()).await;
            came.fetch_add(1, Ordering::Relaxed);
            let mut told = (0, 0, 0);
            let quality = audience.watch(index as usize, player, until, |quality| {
                totals.requests.fetch_add(quality.requests - told.0, Ordering::Relaxed);
                totals.bytes.fetch_add(quality.bytes - told.1, Ordering::Relaxed);
                stalls.fetch_add(quality.stalls - told.2, Ordering::Relaxed);
                told = (quality.requests, quality.bytes, quality.stalls);
            });
            Some((index, Box::pin(quality).await?))
        });
    }
    let mut lag = Samples::new(10_000);
    let mut before = None;
    let mut second = began + Duration::from_secs(1);
    while Instant::now() < until {
        let asked = Instant::now();
        tokio::time::sleep(LAG_INTERVAL).await;
        let late = asked.elapsed().saturating_sub(LAG_INTERVAL);
        if Instant::now() >= steady {
            before.get_or_insert_with(|| (Instant::now(), processor_time(), count(&totals)));
            lag.add(i64::try_from(late.as_millis()).unwrap_or(i64::MAX));
        }
        if Instant::now() >= second {
            second += Duration::from_secs(1);
            on_second(u32::try_from(came.load(Ordering::Relaxed)).unwrap_or(u32::MAX), stalls.load(Ordering::Relaxed));
        }
    }
    let (since, processor, counted) = before.unwrap_or((began, Duration::ZERO, (0, 0)));
    let (requests, bytes) = count(&totals);
    let span = since.elapsed();
    let used = processor_time().saturating_sub(processor);
    let mut viewers = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        viewers.extend(ended.ok().flatten());
    }
    let per_second = |count: u64| u64::try_from(u128::from(count) * 1000 / span.as_millis().max(1)).unwrap_or(u64::MAX);
    let rates = (per_second(requests - counted.0), per_second((bytes - counted.1) * 8));
    sum_up(audience.addresses(), settings.viewers, &viewers, rates, client_figures(used, span, &lag))
}

fn count(totals: &Totals) -> (u64, u64) {
    (totals.requests.load(Ordering::Relaxed), totals.bytes.load(Ordering::Relaxed))
}

fn client_figures(used: Duration, span: Duration, lag: &Samples) -> ClientFigures {
    let core_per_mille = u64::try_from(used.as_millis() * 1000 / span.as_millis().max(1)).unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let lag_p99_ms = lag.percentile(990);
    let is_the_limit = lag_p99_ms > LAG_MS_MAX || core_per_mille > cores * BUSY_PERCENT_MAX * 10;
    ClientFigures { core_per_mille, cores, lag_p99_ms, is_the_limit }
}

/// User and system time of this process, from the kernel.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn sum_up(url: String, meant: u32, viewers: &[(u32, Quality)], rates: (u64, u64), client: ClientFigures) -> LoadReport {
    let mut all = Quality::new(2);
    let mut startup = Samples::new(viewers.len());
    debug_assert!(viewers.len() <= meant as usize, "each came once");
    let mut worst = Vec::new();
    for (index, quality) in viewers {
        all.merge(quality);
        if let Some(began) = quality.startup {
            startup.add(began.first_picture_ms.into());
        }
        worst.push(WorstViewer {
            index: *index,
            never_began: quality.startup.is_none(),
            stalls: quality.stalls,
            stalled_ms: u64::try_from(quality.stalled.as_millis()).unwrap_or(u64::MAX),
            latency_p95_ms: quality.latency.percentile(950),
        });
    }
    worst.sort_by_key(|one| std::cmp::Reverse((one.never_began, one.stalled_ms, one.latency_p95_ms)));
    worst.truncate(WORST);
    let count = |is_meant: fn(&Quality) -> bool| {
        u32::try_from(viewers.iter().filter(|(_, quality)| is_meant(quality)).count()).unwrap_or(u32::MAX)
    };
    LoadReport {
        url,
        viewers: meant,
        began: count(|quality| quality.startup.is_some()),
        viewers_with_stalls: count(|quality| quality.stalls > 0),
        startup_ms: startup.summary(),
        requests_per_second: rates.0,
        bits_per_second: rates.1,
        quality: all.report(),
        worst,
        client,
    }
}

impl LoadReport {
    /// The summary for people.
    pub fn summary(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{}: {} viewers, {} began to play, {} ran dry",
            self.url, self.viewers, self.began, self.viewers_with_stalls
        );
        let startup = &self.startup_ms;
        let _ = writeln!(
            out,
            "  startup        p50 {} ms, p95 {} ms, p99 {} ms, max {} ms",
            startup.p50, startup.p95, startup.p99, startup.max
        );
        out += &quality_lines(&self.quality);
        let _ = writeln!(
            out,
            "  rate           {} requests/s, {:.3} Gbit/s",
            self.requests_per_second,
            self.bits_per_second as f64 / 1e9
        );
        let client = &self.client;
        let _ = writeln!(
            out,
            "  this client    {:.2} of {} cores, timers late by {} ms (p99){}",
            client.core_per_mille as f64 / 1000.0,
            client.cores,
            client.lag_p99_ms,
            if client.is_the_limit { ": THE FIGURES ARE LIMITED BY THIS CLIENT" } else { "" }
        );
        for one in self.worst.iter().filter(|one| one.never_began || one.stalls > 0) {
            let began = if one.never_began { "never began; " } else { "" };
            let _ = writeln!(
                out,
                "  worst          viewer {}: {began}{} stalls, {} ms, latency p95 {} ms",
                one.index, one.stalls, one.stalled_ms, one.latency_p95_ms
            );
        }
        out
    }
}

/// How publishers went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PublishReport {
    /// How many there were.
    pub publishers: u32,
    /// Who were let in and sent to the end.
    pub completed: u32,
    /// How far the slowest fell behind its clock.
    pub behind_ms_max: u64,
    /// Why others ended.
    pub failures: Vec<String>,
}

/// Where each publisher sends: application, and the stream key with whatever belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishTarget {
    /// Host and port.
    pub server: String,
    /// Application, and path behind it.
    pub app: String,
    /// One for each publisher.
    pub keys: Vec<String>,
}

/// Where SRT publishers send.
#[derive(Clone, Debug)]
pub struct SrtTarget {
    /// Host and port.
    pub server: String,
    /// A stream identifier for each publisher.
    pub stream_ids: Vec<String>,
    /// The connections.
    pub settings: srt::Settings,
}

/// Replays a clip as [`publishers`] does, over SRT.
///
/// # Errors
/// In words: the clip cannot be used, or the server's name is not known.
pub async fn srt_publishers(target: &SrtTarget, clip: &Path, duration: Duration) -> Result<PublishReport, String> {
    let (tags, server) = (read_clip(clip)?, resolve(&target.server).await?);
    let clip = Arc::new(TsClip::new(&tags)?);
    let count = u32::try_from(target.stream_ids.len()).unwrap_or(u32::MAX).max(1);
    let mut tasks = JoinSet::new();
    for (index, stream_id) in (0u32..).zip(target.stream_ids.clone()) {
        let (clip, settings) = (Arc::clone(&clip), target.settings.clone());
        tasks.spawn(async move {
            tokio::time::sleep(PUBLISHER_SPREAD * index / count).await;
            let config = CallerConfig { settings, stream_id: Some(stream_id), ..CallerConfig::default() };
            SrtPublisher::connect(server, config).await?.replay(&clip, duration).await
        });
    }
    Ok(collect(count, tasks).await)
}

fn read_clip(clip: &Path) -> Result<Vec<Tag>, String> {
    let file = std::fs::read(clip).map_err(|error| format!("{}: {error}", clip.display()))?;
    let tags = read_flv(&Bytes::from(file));
    if tags.is_empty() {
        return Err(format!(
            "{} is no FLV file with media; make one with: ffmpeg -i VIDEO -t 20 -c:v libx264 -g 60 -bf 0 -c:a aac clip.flv",
            clip.display()
        ));
    }
    Ok(tags)
}

async fn collect(count: u32, mut tasks: JoinSet<Result<Duration, String>>) -> PublishReport {
    let mut report = PublishReport { publishers: count, ..PublishReport::default() };
    while let Some(ended) = tasks.join_next().await {
        match ended.map_err(|error| error.to_string()).flatten() {
            Ok(behind) => {
                report.completed += 1;
                report.behind_ms_max = report.behind_ms_max.max(u64::try_from(behind.as_millis()).unwrap_or(u64::MAX));
            }
            Err(error) => report.failures.push(error),
        }
    }
    report
}

/// Replays a clip in real time, over and over, as many publishers as there are keys.
///
/// # Errors
/// In words: the clip cannot be used, or the server's name is not known.
pub async fn publishers(target: &PublishTarget, clip: &Path, duration: Duration) -> Result<PublishReport, String> {
    let (tags, server) = (read_clip(clip)?, resolve(&target.server).await?);
    let tags: Arc<[Tag]> = tags.into();
    let count = u32::try_from(target.keys.len()).unwrap_or(u32::MAX).max(1);
    let mut tasks = JoinSet::new();
    for (index, key) in (0u32..).zip(target.keys.clone()) {
        let (tags, app) = (Arc::clone(&tags), target.app.clone());
        tasks.spawn(async move {
            tokio::time::sleep(PUBLISHER_SPREAD * index / count).await;
            Publisher::connect(server, &app, &key).await?.replay(&tags, duration).await
        });
    }
    Ok(collect(count, tasks).await)
}
