//! A player against a scripted server, in virtual time.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::*;
use crate::playback::nanos;

const SECOND: i64 = 1_000_000_000;
/// When the worlds begin.
const START: i64 = 1_795_438_800 * SECOND;
/// Segments of two seconds in four parts of half a second.
const PART: i64 = SECOND / 2;
const PARTS: u64 = 4;

/// A live stream that is made as time passes: video and audio, with parts, blocking reload and delta updates.
struct Server {
    round_trip: Duration,
    /// Media stops being made for a while: from, to.
    outage: Option<(i64, i64)>,
    has_dates: bool,
    /// Media lies in a folder that the multivariant playlist takes from its address.
    has_variables: bool,
    low_latency: bool,
    /// The stream is over from this moment on.
    ends_at: Option<i64>,
    /// Answers with 404.
    broken: fn(&str) -> bool,
    asked: Vec<String>,
}

impl Server {
    fn new() -> Self {
        let round_trip = Duration::from_millis(20);
        Self {
            round_trip,
            outage: None,
            has_dates: true,
            has_variables: false,
            low_latency: true,
            ends_at: None,
            broken: |_| false,
            asked: Vec::new(),
        }
    }

    /// Parts that are complete at `now`, nanoseconds after the start of the stream 60 s before the world began.
    fn parts_at(&self, now: i64) -> u64 {
        let made = match self.outage {
            Some((from, to)) if now >= from => from.max(now - (to - from).max(now.min(to) - from)),
            _ => now,
        };
        u64::try_from((made + 60 * SECOND) / PART).expect("positive")
    }

    /// When a number of parts is complete.
    fn ready_at(&self, parts: u64) -> i64 {
        let at = i64::try_from(parts).expect("small") * PART - 60 * SECOND;
        match self.outage {
            Some((from, to)) if at > from => at + (to - from),
            _ => at,
        }
    }

    fn media_playlist(&self, now: i64, prefix: char) -> String {
        let parts = self.parts_at(now);
        let (open, first) = (parts / PARTS, (parts / PARTS).saturating_sub(8));
        let mut out = format!(
            "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n#EXT-X-MAP:URI=\"{prefix}.mp4\"\n"
        );
        if self.low_latency {
            out += "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.5,HOLD-BACK=6\n#EXT-X-PART-INF:PART-TARGET=0.5\n";
        }
        for msn in first..=open {
            let date = START - 60 * SECOND + i64::try_from(msn * PARTS).expect("small") * PART;
            if self.has_dates {
                let second = (date - START) / SECOND + 3600 * 9;
                let _ = writeln!(
                    out,
                    "#EXT-X-PROGRAM-DATE-TIME:2026-11-23T{:02}:{:02}:{:02}.{:03}Z",
                    second / 3600 + 4,
                    second / 60 % 60,
                    second % 60,
                    date / 1_000_000 % 1000
                );
            }
            let listed = if msn < open { PARTS } else { parts % PARTS };
            for part in (0..listed).filter(|_| self.low_latency && msn + 3 > open) {
                let independent = if part == 0 { ",INDEPENDENT=YES" } else { "" };
                let _ = writeln!(out, "#EXT-X-PART:DURATION=0.5,URI=\"{prefix}{msn}.{part}\"{independent}");
            }
            if msn < open {
                let _ = writeln!(out, "#EXTINF:2.0,\n{prefix}{msn}");
            }
        }
        if self.ends_at.is_some_and(|end| now >= end) {
            out += "#EXT-X-ENDLIST\n";
        } else if self.low_latency {
            let _ = writeln!(out, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{prefix}{open}.{}\"", parts % PARTS);
        }
        if self.has_variables {
            out = out
                .replace("URI=\"", "URI=\"{$folder}")
                .replace(&format!("\n{prefix}"), &format!("\n{{$folder}}{prefix}"));
            out = out.replacen('\n', "\n#EXT-X-DEFINE:IMPORT=\"folder\"\n", 1);
        }
        out
    }

    /// When it answers, and what.
    fn answer(&mut self, url: &Url, now: i64) -> (i64, u16, Option<String>, u64) {
        self.asked.push(url.path.to_string());
        let arrives = now + nanos(self.round_trip / 2);
        let (path, query) = url.path.split_once('?').unwrap_or((&url.path, ""));
        let name = path.rsplit('/').next().expect("a name");
        let leaves = |ready: i64| ready.max(arrives) + nanos(self.round_trip / 2);
        if (self.broken)(name) {
            return (leaves(arrives), 404, None, 0);
        }
        match name {
            "index.m3u8" => {
                let text = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"a\",DEFAULT=YES,URI=\"a.m3u8\"\n\
                    #EXT-X-STREAM-INF:BANDWIDTH=1000000,AUDIO=\"a\"\nv.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=5000000,AUDIO=\"a\"\nw.m3u8\n";
                let define = if self.has_variables { "\n#EXT-X-DEFINE:QUERYPARAM=\"folder\"\n" } else { "\n" };
                (leaves(arrives), 200, Some(text.replacen('\n', define, 1)), 100)
            }
            "v.m3u8" | "w.m3u8" | "a.m3u8" => {
                let fields: HashMap<&str, u64> = query
                    .split('&')
                    .filter_map(|pair| pair.split_once('='))
                    .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
                    .collect();
                let wanted = fields.get("_HLS_msn").map(|msn| msn * PARTS + fields.get("_HLS_part").unwrap_or(&0) + 1);
                let ready = wanted.map_or(arrives, |parts| self.ready_at(parts)).max(arrives);
                let text = self.media_playlist(ready, name.chars().next().expect("a letter"));
                (leaves(ready), 200, Some(text), 1000)
            }
            media => {
                let (msn, part) = media[1..].split_once('.').unwrap_or((&media[1..], "3"));
                let ready = match (msn.parse::<u64>(), part.parse::<u64>()) {
                    (Ok(msn), Ok(part)) => self.ready_at(msn * PARTS + part + 1),
                    _ => arrives, // what initializes a decoder
                };
                (leaves(ready), 200, None, 60_000)
            }
        }
    }
}

struct World {
    server: Server,
    follower: Follower,
    began: Instant,
    now: i64,
    coming: Vec<(i64, u64, Answer)>,
    events: Vec<(i64, Event)>,
    /// Bits per second of the line.
    line: u64,
}

impl World {
    fn new(server: Server, settings: PlayerSettings) -> Self {
        Self::at("http://server/show/index.m3u8", server, settings)
    }

    fn at(url: &str, server: Server, settings: PlayerSettings) -> Self {
        let began = Instant::now();
        let url: Url = url.parse().expect("an address");
        let follower = Follower::new(Moment { now: began, utc_nanos: START }, url, settings);
        Self { server, follower, began, now: 0, coming: Vec::new(), events: Vec::new(), line: 100_000_000 }
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.began + Duration::from_nanos(u64::try_from(self.now).expect("positive")),
            utc_nanos: START + self.now,
        }
    }

    /// Lets time pass until `until` seconds.
    fn run(&mut self, until: i64) {
        let until = until * SECOND;
        while self.now < until {
            let deadline = loop {
                match self.follower.poll_output() {
                    Output::Fetch(fetch) => self.send(&fetch),
                    Output::Event(event) => self.events.push((self.now / 1_000_000, event)),
                    Output::Wait(deadline) => break deadline,
                }
            };
            if self.follower.is_done() {
                return;
            }
            let deadline =
                deadline.map_or(until, |at| nanos(at.saturating_duration_since(self.began)).max(self.now + 1));
            self.coming.sort_by_key(|(at, ..)| *at);
            match self.coming.first() {
                Some((at, ..)) if *at <= deadline.min(until) => {
                    let (at, id, answer) = self.coming.remove(0);
                    self.now = at.max(self.now);
                    self.follower.handle_input(self.moment(), Input::Answered(id, Ok(answer)));
                }
                _ => {
                    self.now = deadline.min(until);
                    self.follower.handle_input(self.moment(), Input::Timeout);
                }
            }
        }
    }

    fn send(&mut self, fetch: &Fetch) {
        let (first_byte, status, text, bytes) = self.server.answer(&fetch.url, self.now);
        let body = i64::try_from(bytes * 8 * 1_000_000_000 / self.line).expect("small");
        let duration = |nanos: i64| Duration::from_nanos(u64::try_from(nanos).expect("positive"));
        let outside = crate::client::outside(&fetch.url, fetch.multivariant.as_deref());
        let parse = |text: String| Playlist::parse_with(text.as_bytes(), outside).map_err(|error| error.to_string());
        let playlist = text.map(|text| parse(text).map(Arc::new));
        let timing = Timing {
            first_byte: duration(first_byte - self.now),
            total: duration(first_byte + body - self.now),
            ..Timing::default()
        };
        let answer =
            Answer { url: fetch.url.clone(), status, timing, bytes, playlist, cache_hit: None, age_seconds: None };
        self.coming.push((first_byte + body, fetch.id, answer));
    }

    fn count(&self, is_meant: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| is_meant(event)).count()
    }
}

#[test]
fn it_starts_at_part_hold_back_and_stays_there_without_a_stall() {
    let mut world = World::new(Server::new(), PlayerSettings::default());
    world.run(60);
    let quality = world.follower.quality();
    assert_eq!((quality.stalls, quality.missing, quality.regressions, quality.early_replies), (0, 0, 0, 0));
    let latency = quality.latency.summary();
    assert!((1450..2100).contains(&latency.p50), "{latency:?}: PART-HOLD-BACK, and what a random access point costs");
    assert!(quality.startup.is_some_and(|startup| startup.first_picture_ms < 150), "{:?}", quality.startup);
    // Each part: one blocking reload and one request for media, on two tracks.
    assert!((450..520).contains(&quality.requests), "{} requests in 60 s", quality.requests);
    let hinted = quality.part_age.summary();
    assert!(hinted.p95 <= 30, "hinted parts come half a round trip after their end: {hinted:?}");
    assert!(world.server.asked.iter().any(|path| path.contains("_HLS_msn=30&_HLS_part=1")), "it blocks");
}

#[test]
fn it_stalls_when_nothing_comes_and_catches_up_afterwards() {
    let server = Server { outage: Some((20 * SECOND, 24 * SECOND)), ..Server::new() };
    let mut world = World::new(server, PlayerSettings::default());
    world.run(40);
    assert_eq!(world.count(|event| *event == Event::Stalled), 1);
    let stalled = world.follower.quality().stalled;
    assert!(
        (3300..3800).contains(&stalled.as_millis()),
        "four seconds and two parts, less what was buffered: {stalled:?}"
    );
    let behind_then = world.follower.latency_nanos(world.moment()).expect("it plays");
    world.run(100);
    let behind = world.follower.latency_nanos(world.moment()).expect("it plays");
    // The stream's own dates are four seconds behind from now on: it cannot come closer than what is made.
    assert!(behind <= behind_then && (4000..6100).contains(&(behind / 1_000_000)), "{behind}");
    assert_eq!(world.follower.quality().stalls, 1, "catching up makes no stall");
}

#[test]
fn without_low_latency_it_takes_segments_three_target_durations_behind() {
    for low_latency in [true, false] {
        let server = Server { low_latency, ..Server::new() };
        let mut world = World::new(server, PlayerSettings { low_latency: false, ..PlayerSettings::default() });
        world.run(60);
        let quality = world.follower.quality();
        assert_eq!(quality.stalls, 0);
        let latency = quality.latency.summary();
        assert!((5900..8100).contains(&latency.p50), "{latency:?}");
        assert!(world.server.asked.iter().all(|path| !path.contains("_HLS") && !path.contains(".0")), "no parts");
        assert!(quality.requests < 140, "{} requests", quality.requests);
    }
}

#[test]
fn playlists_without_dates_are_played_all_the_same() {
    let mut world = World::new(Server { has_dates: false, ..Server::new() }, PlayerSettings::default());
    world.run(30);
    let quality = world.follower.quality();
    assert_eq!((quality.stalls, quality.latency.summary().count), (0, 0), "and latency is not invented");
    assert!(quality.played > Duration::from_secs(29));
}

#[test]
fn variables_of_the_multivariant_playlist_are_imported() {
    let server = Server { has_variables: true, ..Server::new() };
    let mut world = World::at("http://server/show/index.m3u8?folder=media%2F", server, PlayerSettings::default());
    world.run(30);
    let quality = world.follower.quality();
    assert_eq!((quality.stalls, quality.missing), (0, 0));
    assert!(quality.played > Duration::from_secs(28), "{:?}", quality.played);
    let of_media = |path: &&String| !path.contains("m3u8");
    assert!(world.server.asked.iter().filter(of_media).all(|path| path.starts_with("/show/media/")));
}

#[test]
fn a_part_that_is_missing_is_left_out_and_told() {
    let broken = |name: &str| name == "v35.2" || name == "v35";
    let settings = PlayerSettings { variant: Choice::Number(0), ..PlayerSettings::default() };
    let mut world = World::new(Server { broken, ..Server::new() }, settings);
    world.run(40);
    let quality = world.follower.quality();
    assert!(quality.missing + quality.broken_hints >= 1, "{quality:?}");
    assert_eq!(world.count(|event| matches!(event, Event::Jumped(_))), 1);
    assert!((400..600).contains(&quality.hole_time.as_millis()), "{:?}", quality.hole_time);
    assert_eq!(quality.jumps_to_live, 0);
}

#[test]
fn the_bandwidth_decides_the_variant() {
    let mut world = World::new(Server::new(), PlayerSettings::default());
    world.run(10);
    assert_eq!(world.follower.variant_bandwidth(), Some(5_000_000), "it went up");
    assert_eq!(world.follower.quality().switches, 1);
    let stalls = world.follower.quality().stalls;
    world.line = 3_000_000;
    world.run(40);
    assert_eq!(world.follower.variant_bandwidth(), Some(1_000_000), "and down when the line gets narrow");
    assert_eq!((world.follower.quality().switches, stalls), (2, 0));
    assert!(world.server.asked.iter().any(|path| path.contains("/w3")), "media of the other variant was fetched");
    let fixed = PlayerSettings { variant: Choice::Number(1), ..PlayerSettings::default() };
    let mut world = World::new(Server::new(), fixed);
    world.run(5);
    assert_eq!((world.follower.variant_bandwidth(), world.follower.quality().switches), (Some(5_000_000), 0));
}

#[test]
fn a_stream_that_is_not_there_is_asked_for_again() {
    let mut world =
        World::new(Server { broken: |name| name == "index.m3u8", ..Server::new() }, PlayerSettings::default());
    world.run(5);
    assert_eq!(world.server.asked.len(), 5, "once a second");
    world.server.broken = |_| false;
    world.run(10);
    assert!(world.follower.quality().startup.is_some());
}

#[test]
fn a_stream_that_ends_is_played_to_its_end_also_after_it_ran_dry() {
    let server = Server { outage: Some((20 * SECOND, 600 * SECOND)), ends_at: Some(26 * SECOND), ..Server::new() };
    let mut world = World::new(Server { low_latency: false, ..server }, PlayerSettings::default());
    world.run(60);
    assert!(world.follower.is_done(), "{:?}", world.events);
    assert_eq!(world.count(|event| *event == Event::Ended), 1);
}

#[test]
fn a_stall_that_goes_on_is_counted_when_watching_ends() {
    let server = Server { outage: Some((20 * SECOND, 600 * SECOND)), ..Server::new() };
    let mut world = World::new(server, PlayerSettings::default());
    world.run(40);
    world.follower.finish(world.moment());
    let quality = world.follower.quality();
    assert_eq!(quality.stalls, 1);
    assert!((17_000..19_500).contains(&quality.stalled.as_millis()), "{:?}", quality.stalled);
    assert!(quality.stall_per_mille() > 400);
}
