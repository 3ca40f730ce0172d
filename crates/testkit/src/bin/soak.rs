//! Watches streams of a server for a long time: memory must be flat and PROGRAM-DATE-TIME true.
//!   soak HTTP PROCESS MINUTES STREAM…     fails if they are not
#![expect(clippy::print_stdout, reason = "this is the command line")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use testkit::http::get;
use testkit::playlist::Playlist;

/// Between looks, and between reports.
const LOOK: Duration = Duration::from_secs(5);
const REPORT: Duration = Duration::from_mins(5);
/// Within this long windows and tails fill up, and the allocator comes to rest.
const FULL: Duration = Duration::from_mins(5);
/// Memory moves by 5 % from one look to the next, as batches of segments come and go: what grows is the least in such a time.
const VALLEY: Duration = Duration::from_mins(10);
/// What the last valley may lie above the first, in percent.
const GROWTH_MAX_PERCENT: u64 = 5;
/// How far PROGRAM-DATE-TIME may be off the wall clock, in milliseconds, at its best within a report.
const OFF_MAX_MS: i64 = 50;

/// When parts were published, less the date of their end, in milliseconds, since the last report. The smallest tells how far
/// the dates are off; what is above it is delay, by the network, by this machine, or by us.
struct Dates {
    stream: String,
    low: i64,
    high: i64,
    is_off: bool,
}

impl Dates {
    /// Waits for the next part of the picture.
    async fn look(&mut self, server: SocketAddr) {
        let multivariant = get(server, &format!("/live/{}/index.m3u8", self.stream)).await;
        let path = format!("/live/{}/{}", self.stream, multivariant.text().lines().last().expect("names a playlist"));
        let (msn, part) = Playlist::parse(get(server, &path).await.text()).edge().expect("parts");
        let answer = get(server, &format!("{path}?_HLS_msn={msn}&_HLS_part={}", part + 1)).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
        let playlist = Playlist::parse(answer.text());
        let last = playlist.segments.iter().rev().find(|segment| !segment.parts.is_empty()).expect("parts");
        let length = Duration::from_secs_f64(last.parts.iter().map(|part| part.duration).sum());
        let end = last.date_ms.expect("a date") + i64::try_from(length.as_millis()).expect("short");
        let off = i64::try_from(now).expect("near") - end;
        (self.low, self.high) = (self.low.min(off), self.high.max(off));
    }
}

fn resident_kib(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("is listed");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, process, minutes, streams @ ..] = arguments.as_slice() else {
        eprintln!("soak HTTP PROCESS MINUTES STREAM…");
        return ExitCode::from(2);
    };
    let server: SocketAddr = server.parse().expect("an address");
    let duration = Duration::from_secs(60 * minutes.parse::<u64>().expect("minutes"));
    let dates =
        streams.iter().map(|stream| Dates { stream: stream.clone(), low: i64::MAX, high: i64::MIN, is_off: false });
    let mut dates: Vec<Dates> = dates.collect();
    let (began, mut reported, mut first_kib, mut last_kib) = (Instant::now(), Duration::ZERO, u64::MAX, u64::MAX);
    while began.elapsed() < duration {
        for stream in &mut dates {
            stream.look(server).await;
        }
        let (at, now_kib) = (began.elapsed(), resident_kib(process));
        if (FULL..FULL + VALLEY).contains(&at) {
            first_kib = first_kib.min(now_kib);
        }
        if at + VALLEY >= duration {
            last_kib = last_kib.min(now_kib);
        }
        if began.elapsed() >= reported + REPORT || began.elapsed() + LOOK >= duration {
            reported = began.elapsed();
            print!("  {:>3} min: {} MiB resident", reported.as_secs() / 60, now_kib / 1024);
            for Dates { stream, low, high, is_off } in &mut dates {
                print!("; {stream}: {low} to {high} ms after its date");
                *is_off |= low.abs() > OFF_MAX_MS;
                (*low, *high) = (i64::MAX, i64::MIN);
            }
            println!();
        }
        tokio::time::sleep(LOOK).await;
    }
    let is_judged = duration >= FULL + 2 * VALLEY;
    let has_grown = is_judged && last_kib > first_kib.saturating_add(first_kib / 100 * GROWTH_MAX_PERCENT);
    let is_off = dates.iter().any(|stream| stream.is_off);
    let memory = match first_kib {
        _ if !is_judged => "not judged: it takes 25 minutes".into(),
        _ if has_grown => format!("grew from {} to {} MiB", first_kib / 1024, last_kib / 1024),
        _ => format!("flat, {} MiB at first and {} MiB at last", first_kib / 1024, last_kib / 1024),
    };
    println!("  memory {memory}; dates {}", if is_off { "off" } else { "true" });
    if has_grown || is_off { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
