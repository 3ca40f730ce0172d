//! `probe`: one viewer, watched closely.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::client::{Client, Shared};
use crate::direct::{self, DirectPlayer, Place};
use crate::follower::{Event, Follower, PlayerSettings};
use crate::quality::{Quality, QualityReport, Startup};
use crate::url::Url;
use crate::watch::{moment, watch};

/// Messages of what failed that are kept.
const FAILURES_KEPT: usize = 20;
/// Between two live lines.
const TICK: Duration = Duration::from_secs(1);

/// What is too much; none: anything goes, as long as it plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// Longest time to the first picture.
    pub startup: Option<Duration>,
    /// Latency that 95 of 100 measurements may not exceed.
    pub latency: Option<Duration>,
    /// Growth of latency in milliseconds a minute.
    pub latency_slope_ms: Option<u64>,
    /// Times it may run dry.
    pub stalls: Option<u64>,
    /// Time it may stand still.
    pub stalled: Option<Duration>,
    /// Parts, segments and playlists that may be missing or broken.
    pub errors: Option<u64>,
}

/// How it went.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeReport {
    /// What was watched.
    pub url: String,
    /// From where, in the words of whoever ran it.
    pub location: Option<String>,
    /// For how long.
    pub seconds: f64,
    /// The variant at the end, in bits per second.
    pub variant_bandwidth: Option<u64>,
    /// Figures.
    pub quality: QualityReport,
    /// What failed, the first of it.
    pub failures: Vec<String>,
    /// Which thresholds were passed; empty: all is well.
    pub exceeded: Vec<String>,
}

/// Watches for `duration`. `on_line` gets a line for people at each event and each second.
pub async fn probe(
    shared: &Arc<Shared>,
    url: &Url,
    settings: PlayerSettings,
    duration: Duration,
    mut on_line: impl FnMut(&Line),
) -> ProbeReport {
    let began = Instant::now();
    let client = Arc::new(Client::new(shared));
    let mut follower = Follower::new(moment(), url.clone(), settings);
    let mut failures = Vec::new();
    watch(&client, &mut follower, began + duration, TICK, |follower, event| {
        if let Some(Event::Failed(text)) = event
            && failures.len() < FAILURES_KEPT
        {
            failures.push(text.clone());
        }
        on_line(&line(follower, event, began));
    })
    .await;
    ProbeReport {
        url: url.to_string(),
        location: None,
        seconds: began.elapsed().as_secs_f64(),
        variant_bandwidth: follower.variant_bandwidth(),
        quality: follower.quality().report(),
        failures,
        exceeded: Vec::new(),
    }
}

/// Watches over RTMP or SRT as [`probe`] does over HTTP.
pub async fn probe_direct(
    place: &Place,
    is_insecure: bool,
    buffer: Duration,
    duration: Duration,
    mut on_line: impl FnMut(&Line) + Send,
) -> ProbeReport {
    let began = Instant::now();
    let mut player = DirectPlayer::new(moment(), buffer, PlayerSettings::default().samples_max);
    let mut failures = Vec::new();
    direct::watch(place, &mut player, is_insecure, began + duration, TICK, |player, event| {
        if let Some(Event::Failed(text)) = event {
            failures.push(text.clone());
        }
        let text = match event {
            None => status(player.quality(), player.is_stalled(), player.latency_nanos(moment()), "units"),
            Some(event) => words(event),
        };
        on_line(&Line { text: at(began, &text), is_status: event.is_none() });
    })
    .await;
    ProbeReport {
        url: place.to_string(),
        location: None,
        seconds: began.elapsed().as_secs_f64(),
        variant_bandwidth: None,
        quality: player.quality().report(),
        failures,
        exceeded: Vec::new(),
    }
}

/// A line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The text.
    pub text: String,
    /// It tells how things stand and is replaced by the next; else it tells what happened and stays.
    pub is_status: bool,
}

fn line(follower: &Follower, event: Option<&Event>, began: Instant) -> Line {
    let text = match event {
        None => {
            let latency = follower.latency_nanos(moment());
            status(follower.quality(), follower.is_stalled(), latency, "parts and segments")
        }
        Some(event) => words(event),
    };
    Line { text: at(began, &text), is_status: event.is_none() }
}

fn at(began: Instant, text: &str) -> String {
    format!("{:6.1} s  {text}", began.elapsed().as_secs_f64())
}

/// How things stand.
fn status(quality: &Quality, is_stalled: bool, latency_nanos: Option<i64>, units: &str) -> String {
    let behind = latency_nanos.map_or_else(|| "–".into(), |nanos| seconds(nanos / 1_000_000));
    let state = match (quality.startup, is_stalled) {
        (None, _) => "starting",
        (Some(_), true) => "stalled",
        (Some(_), false) => "playing",
    };
    format!(
        "{state}, {behind} behind, {} stalls, {} {units}, {:.1} MB, {} failures",
        quality.stalls,
        quality.media,
        quality.bytes as f64 / 1e6,
        quality.failures
    )
}

fn words(event: &Event) -> String {
    match event {
        Event::Began(startup) => format!("first picture after {} ms", startup.first_picture_ms),
        Event::Stalled => "it ran dry".into(),
        Event::Resumed(lasted) => format!("it goes on after {} ms", lasted.as_millis()),
        Event::Jumped(length) => format!("played over a hole of {} ms", length.as_millis()),
        Event::Switched(bandwidth) => format!("changed to the variant of {} kbit/s", bandwidth / 1000),
        Event::WentLive => "too far behind: went to the live edge".into(),
        Event::Failed(text) => text.clone(),
        Event::Ended => "the stream is over".into(),
    }
}

fn seconds(millis: i64) -> String {
    format!("{}.{:02} s", millis / 1000, millis % 1000 / 10)
}

impl ProbeReport {
    /// Which thresholds were passed, in words.
    pub fn judge(&mut self, thresholds: &Thresholds) {
        let quality = &self.quality;
        let Some(startup) = quality.startup else {
            self.exceeded.push("it never began to play".into());
            return;
        };
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let slope = u64::try_from(quality.latency_slope_ms_per_minute).unwrap_or(0);
        let broken = quality.missing + quality.broken_hints + quality.regressions + quality.playlist_faults;
        let errors = broken + quality.refused + quality.failures;
        let wait = u64::from(startup.first_picture_ms);
        let latency = u64::from(quality.latency_ms.p95);
        for (what, got, limit, unit) in [
            ("first picture after", wait, thresholds.startup.map(millis), " ms"),
            ("latency p95", latency, thresholds.latency.map(millis), " ms"),
            ("latency grows by", slope, thresholds.latency_slope_ms, " ms a minute"),
            ("stalls:", quality.stalls, thresholds.stalls, ""),
            ("stood still for", quality.stalled_ms, thresholds.stalled.map(millis), " ms"),
            ("errors:", errors, thresholds.errors, ""),
        ] {
            if let Some(limit) = limit.filter(|limit| got > *limit) {
                self.exceeded.push(format!("{what} {got}{unit}, at most {limit}{unit}"));
            }
        }
    }

    /// The summary for people.
    pub fn summary(&self) -> String {
        let mut out = String::new();
        let from = self.location.as_ref().map_or(String::new(), |location| format!(" from {location}"));
        let _ = writeln!(out, "{}{from}, {:.0} s", self.url, self.seconds);
        out += &quality_lines(&self.quality);
        for text in &self.failures {
            let _ = writeln!(out, "  failed         {text}");
        }
        for text in &self.exceeded {
            let _ = writeln!(out, "  too much       {text}");
        }
        out
    }
}

/// The figures of one viewer, or of many, for people.
pub(crate) fn quality_lines(quality: &QualityReport) -> String {
    let mut out = String::new();
    // Over RTMP and SRT nothing is asked for: it comes.
    let is_direct = quality.requests == 0;
    if let Some(startup) = quality.startup {
        out += &startup_line(&startup, is_direct);
    }
    let latency = &quality.latency_ms;
    if latency.count > 0 {
        let _ = writeln!(
            out,
            "  latency        p50 {} ms, p95 {} ms, max {} ms, {:+} ms a minute",
            latency.p50, latency.p95, latency.max, quality.latency_slope_ms_per_minute
        );
    }
    let _ = writeln!(
        out,
        "  stalls         {}, {} ms in all, longest {} ms, {} of 1,000 of the time; holes {} ({} ms), went live {}",
        quality.stalls,
        quality.stalled_ms,
        quality.stall_longest_ms,
        quality.stall_per_mille,
        quality.holes,
        quality.hole_ms,
        quality.jumps_to_live
    );
    let (first, age) = (&quality.first_byte_ms, &quality.part_age_ms);
    if is_direct {
        return out + &direct_lines(quality);
    }
    let _ = writeln!(
        out,
        "  media          {} parts and segments, first byte p50 {} p95 {} ms; part there p50 {} p95 {} ms after its end, {} late",
        quality.media, first.p50, first.p95, age.p50, age.p95, quality.late_parts
    );
    let _ = writeln!(
        out,
        "  faults         {} missing, {} hints broken, {} playlists went back, {} replies early, {} playlists with faults, {} refused, {} failures",
        quality.missing,
        quality.broken_hints,
        quality.regressions,
        quality.early_replies,
        quality.playlist_faults,
        quality.refused,
        quality.failures
    );
    let statuses: Vec<String> = quality.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
    let _ = writeln!(
        out,
        "  requests       {}, {:.1} MB; {}; cache: {} hits, {} misses, Age up to {} s; {} changes of variant",
        quality.requests,
        quality.bytes as f64 / 1e6,
        statuses.join(", "),
        quality.cache.hits,
        quality.cache.misses,
        quality.cache.age_seconds_max,
        quality.switches
    );
    out
}

fn startup_line(startup: &Startup, is_direct: bool) -> String {
    let (connection, before) = if is_direct {
        ("connection", format!("let in at {}", startup.playlists_ms))
    } else {
        ("TCP", format!("multivariant playlist at {}, playlists {}", startup.multivariant_ms, startup.playlists_ms))
    };
    format!(
        "  startup        first picture after {} ms (name {}, {connection} {}, TLS {}; {before}, first media {})\n",
        startup.first_picture_ms, startup.dns_ms, startup.tcp_ms, startup.tls_ms, startup.first_media_ms
    )
}

/// What came by itself.
fn direct_lines(quality: &QualityReport) -> String {
    let age = &quality.part_age_ms;
    format!(
        "  media          {} pictures and frames of sound, {:.1} MB; later than the earliest by p50 {} p95 {} max {} ms, {} by more than the buffer\n  \
         faults         {} packets missing, {} time stamps went back, {} failures\n",
        quality.media,
        quality.bytes as f64 / 1e6,
        age.p50,
        age.p95,
        age.max,
        quality.late_parts,
        quality.missing,
        quality.regressions,
        quality.failures
    )
}
