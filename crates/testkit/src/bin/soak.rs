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
/// From when on memory may not grow: windows and tails are full.
const FULL: Duration = Duration::from_mins(2);
/// What memory may still grow by, in percent of what it was then.
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
    let (began, mut reported, mut full_kib, mut now_kib) = (Instant::now(), Duration::ZERO, None, 0);
    while began.elapsed() < duration {
        for stream in &mut dates {
            stream.look(server).await;
        }
        now_kib = resident_kib(process);
        if began.elapsed() > FULL {
            full_kib.get_or_insert(now_kib);
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
    let has_grown = full_kib.is_some_and(|full| now_kib > full + full * GROWTH_MAX_PERCENT / 100);
    let is_off = dates.iter().any(|stream| stream.is_off);
    println!("  memory {}, dates {}", if has_grown { "grew" } else { "flat" }, if is_off { "off" } else { "true" });
    if has_grown || is_off { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
