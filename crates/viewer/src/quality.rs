//! What a viewer felt, in figures.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::follower::Event;
use crate::playback::Change;
use crate::samples::{Samples, Slope, Summary};

/// Status codes that are told apart.
const STATUSES_MAX: usize = 32;

/// What happened before the first picture, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Startup {
    /// Looking up the host's name, of the first connection.
    pub dns_ms: u32,
    /// Connecting.
    pub tcp_ms: u32,
    /// TLS handshake.
    pub tls_ms: u32,
    /// From the beginning until the multivariant playlist was there; 0 where there are no playlists.
    pub multivariant_ms: u32,
    /// Until every media playlist was there; over RTMP and SRT, until the server let it play.
    pub playlists_ms: u32,
    /// Until the first media was there.
    pub first_media_ms: u32,
    /// Until every track had what a decoder needs for its first picture and sound: a random access point and what
    /// initializes a decoder.
    pub first_picture_ms: u32,
}

/// Which answers came from a cache, by what the cache says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CacheFigures {
    /// Answers that say they were in a cache.
    pub hits: u64,
    /// Answers that say they were fetched for this request.
    pub misses: u64,
    /// Oldest answer, from its Age field.
    pub age_seconds_max: u32,
}

/// Counts and measurements of one viewer.
#[derive(Clone, Debug)]
pub struct Quality {
    /// How the start went; set when it has begun.
    pub startup: Option<Startup>,
    /// Time played.
    pub played: Duration,
    /// Times it ran dry.
    pub stalls: u64,
    /// Time it stood still.
    pub stalled: Duration,
    /// The longest of them.
    pub stall_longest: Duration,
    /// Milliseconds behind live, about once a second; over RTMP and SRT, behind what came earliest for its time stamp.
    pub latency: Samples,
    pub(crate) slope: Slope,
    /// Milliseconds from a request for a part or segment to its first byte; held requests are not in it.
    pub first_byte: Samples,
    /// Milliseconds from the end of a part's media time to its arrival.
    pub part_age: Samples,
    /// Parts that came more than a part target after they were due.
    pub late_parts: u64,
    /// Parts and segments fetched; over RTMP and SRT, coded pictures and frames of sound.
    pub media: u64,
    /// Listed, and not to be had; over SRT, packets that never came.
    pub missing: u64,
    /// Hinted, and not to be had.
    pub broken_hints: u64,
    /// Playlists, or time stamps, that went back.
    pub regressions: u64,
    /// Blocking reloads that were answered before they should.
    pub early_replies: u64,
    /// Playlists that could not be read, or have faults.
    pub playlist_faults: u64,
    /// Changes of variant.
    pub switches: u64,
    /// Holes that were played over.
    pub holes: u64,
    /// Their length.
    pub hole_time: Duration,
    /// Went to the live edge, having fallen too far behind.
    pub jumps_to_live: u64,
    /// Answers that say no: any status but 2xx.
    pub refused: u64,
    /// Requests without an answer: not connected, broken, timed out.
    pub failures: u64,
    /// Requests.
    pub requests: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Caches.
    pub cache: CacheFigures,
}

impl Quality {
    /// Nothing yet; keeps at most so many measurements of a kind.
    pub fn new(samples_max: usize) -> Self {
        let samples = || Samples::new(samples_max);
        Self {
            startup: None,
            played: Duration::ZERO,
            stalls: 0,
            stalled: Duration::ZERO,
            stall_longest: Duration::ZERO,
            latency: samples(),
            slope: Slope::default(),
            first_byte: samples(),
            part_age: samples(),
            late_parts: 0,
            media: 0,
            missing: 0,
            broken_hints: 0,
            regressions: 0,
            early_replies: 0,
            playlist_faults: 0,
            switches: 0,
            holes: 0,
            hole_time: Duration::ZERO,
            jumps_to_live: 0,
            refused: 0,
            failures: 0,
            requests: 0,
            bytes: 0,
            statuses: BTreeMap::new(),
            cache: CacheFigures::default(),
        }
    }

    pub(crate) fn count_status(&mut self, status: u16) {
        if self.statuses.len() < STATUSES_MAX || self.statuses.contains_key(&status) {
            *self.statuses.entry(status).or_default() += 1;
        }
    }

    /// How long after its end a part at the live edge came, in nanoseconds.
    pub(crate) fn count_age(&mut self, age: Option<i64>, part_target: i64) {
        if let Some(age) = age {
            self.part_age.add(age / 1_000_000);
            self.late_parts += u64::from(part_target > 0 && age > part_target);
        }
    }

    /// Counts what the clock saw; what is to be told of it.
    pub(crate) fn count_change(&mut self, change: Change, startup: Startup) -> Event {
        match change {
            Change::Began => {
                self.startup = Some(startup);
                Event::Began(startup)
            }
            Change::Stalled => {
                self.stalls += 1;
                Event::Stalled
            }
            Change::Resumed(lasted) => {
                self.count_stall(lasted);
                Event::Resumed(lasted)
            }
            Change::Jumped(length) => {
                let length = Duration::from_nanos(u64::try_from(length).unwrap_or(0));
                self.holes += 1;
                self.hole_time += length;
                Event::Jumped(length)
            }
        }
    }

    pub(crate) fn count_stall(&mut self, lasted: Duration) {
        self.stalled += lasted;
        self.stall_longest = self.stall_longest.max(lasted);
    }

    /// Adds another viewer's figures; the start is kept apart by whoever adds.
    pub fn merge(&mut self, other: &Self) {
        self.played += other.played;
        self.stalls += other.stalls;
        self.stalled += other.stalled;
        self.stall_longest = self.stall_longest.max(other.stall_longest);
        self.latency.merge(&other.latency);
        self.first_byte.merge(&other.first_byte);
        self.part_age.merge(&other.part_age);
        self.late_parts += other.late_parts;
        self.media += other.media;
        self.missing += other.missing;
        self.broken_hints += other.broken_hints;
        self.regressions += other.regressions;
        self.early_replies += other.early_replies;
        self.playlist_faults += other.playlist_faults;
        self.switches += other.switches;
        self.holes += other.holes;
        self.hole_time += other.hole_time;
        self.jumps_to_live += other.jumps_to_live;
        self.refused += other.refused;
        self.failures += other.failures;
        self.slope.merge(&other.slope);
        self.requests += other.requests;
        self.bytes += other.bytes;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.cache.hits += other.cache.hits;
        self.cache.misses += other.cache.misses;
        self.cache.age_seconds_max = self.cache.age_seconds_max.max(other.cache.age_seconds_max);
    }

    /// Stall time in thousandths of the time since the start.
    pub fn stall_per_mille(&self) -> u64 {
        let all = self.played + self.stalled;
        u64::try_from(self.stalled.as_micros() * 1000 / all.as_micros().max(1)).unwrap_or(u64::MAX)
    }

    /// As it is printed and written as JSON.
    pub fn report(&self) -> QualityReport {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        QualityReport {
            startup: self.startup,
            played_ms: millis(self.played),
            stalls: self.stalls,
            stalled_ms: millis(self.stalled),
            stall_longest_ms: millis(self.stall_longest),
            stall_per_mille: self.stall_per_mille(),
            latency_ms: self.latency.summary(),
            latency_slope_ms_per_minute: self.slope.per_minute(),
            first_byte_ms: self.first_byte.summary(),
            part_age_ms: self.part_age.summary(),
            late_parts: self.late_parts,
            media: self.media,
            missing: self.missing,
            broken_hints: self.broken_hints,
            regressions: self.regressions,
            early_replies: self.early_replies,
            playlist_faults: self.playlist_faults,
            switches: self.switches,
            holes: self.holes,
            hole_ms: millis(self.hole_time),
            jumps_to_live: self.jumps_to_live,
            refused: self.refused,
            failures: self.failures,
            requests: self.requests,
            bytes: self.bytes,
            statuses: self.statuses.clone(),
            cache: self.cache,
        }
    }
}

/// The figures of [`Quality`] in plain units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the fields are those of Quality, with their units in their names")]
pub struct QualityReport {
    pub startup: Option<Startup>,
    pub played_ms: u64,
    pub stalls: u64,
    pub stalled_ms: u64,
    pub stall_longest_ms: u64,
    pub stall_per_mille: u64,
    pub latency_ms: Summary,
    pub latency_slope_ms_per_minute: i64,
    pub first_byte_ms: Summary,
    pub part_age_ms: Summary,
    pub late_parts: u64,
    pub media: u64,
    pub missing: u64,
    pub broken_hints: u64,
    pub regressions: u64,
    pub early_replies: u64,
    pub playlist_faults: u64,
    pub switches: u64,
    pub holes: u64,
    pub hole_ms: u64,
    pub jumps_to_live: u64,
    pub refused: u64,
    pub failures: u64,
    pub requests: u64,
    pub bytes: u64,
    pub statuses: BTreeMap<u16, u64>,
    pub cache: CacheFigures,
}
