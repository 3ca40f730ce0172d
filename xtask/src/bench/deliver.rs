//! What a request costs the server: segments and playlists, plain and over TLS, beside nginx serving the same bytes from
//! memory with sendfile. Each server has core 0, the client core 1.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::cost::{on_one_core, replay};
use super::nginx::nginx;
use super::{Ours, SETTLE, Size, processor_time, program};

/// How long each server is measured in a round, after a second of warming up.
const MEASURE: Duration = Duration::from_secs(3);
/// Rounds of a cell, both servers in turn: neighbours make a machine faster and slower from one minute to the next.
const ROUNDS: usize = 5;
const CONNECTIONS: &str = "100";

/// How a request is made.
#[derive(Clone, Copy)]
enum Way {
    Plain,
    Tls1,
    Tls2,
}

impl Way {
    const ALL: [Self; 3] = [Self::Plain, Self::Tls1, Self::Tls2];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "HTTP/1.1",
            Self::Tls1 => "TLS, HTTP/1.1",
            Self::Tls2 => "TLS, HTTP/2",
        }
    }
}

/// A server to measure.
struct Target {
    process: u32,
    http: String,
    https: String,
}

impl Target {
    fn url(&self, way: Way, path: &str) -> String {
        match way {
            Way::Plain => format!("http://{}{path}", self.http),
            Way::Tls1 | Way::Tls2 => format!("https://{}{path}", self.https),
        }
    }

    /// Processor microseconds a request, without what the server needs anyway.
    fn cost(&self, way: Way, path: &str, idle: f64) -> anyhow::Result<f64> {
        let url = self.url(way, path);
        requests(way, &url, Duration::from_secs(1))?;
        let before = processor_time(self.process)?;
        let count = requests(way, &url, MEASURE)?;
        let used = (processor_time(self.process)? - before).as_secs_f64() - idle * MEASURE.as_secs_f64();
        Ok(used * 1e6 / count.max(1) as f64)
    }

    /// Share of a core without requests.
    fn idle(&self) -> anyhow::Result<f64> {
        let before = processor_time(self.process)?;
        sleep(MEASURE);
        Ok((processor_time(self.process)? - before).as_secs_f64() / MEASURE.as_secs_f64())
    }
}

/// Requests that were answered with 200 in that time.
fn requests(way: Way, url: &str, duration: Duration) -> anyhow::Result<u64> {
    let seconds = duration.as_secs().to_string();
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]);
    match way {
        Way::Plain | Way::Tls1 => command.args(["wrk", "-t1", "-c", CONNECTIONS, "-d", &seconds, url]),
        Way::Tls2 => command.args(["h2load", "-t1", "-c", CONNECTIONS, "-m1", "-D", &seconds, url]),
    };
    let output = command.output().context("wrk and h2load")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("Non-2xx") || text.contains("Socket errors: connect") {
        bail!("{url}: {text}");
    }
    let number = |line: &str, before: &str| {
        let at = line.find(before)?;
        line[..at].trim().rsplit([' ', ',']).next()?.parse::<u64>().ok()
    };
    let counted = match way {
        Way::Plain | Way::Tls1 => text.lines().find_map(|line| number(line, " requests in")),
        Way::Tls2 => text.lines().find(|line| line.starts_with("status codes")).and_then(|line| number(line, " 2xx")),
    };
    counted.with_context(|| format!("cannot read: {text}"))
}

pub(super) fn get(address: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let output = Command::new("curl").args(["-sf", &format!("http://{address}{path}")]).output()?;
    if !output.status.success() {
        bail!("http://{address}{path} is not there");
    }
    Ok(output.stdout)
}

/// The newest complete segment of a stream, and its playlist's path.
pub(super) fn newest(http: &str, stream: &str) -> anyhow::Result<(String, String)> {
    let multivariant = String::from_utf8(get(http, &format!("/live/{stream}/index.m3u8"))?)?;
    let media = multivariant.lines().last().context("a playlist")?.to_owned();
    let playlist = format!("/live/{stream}/{media}");
    let text = String::from_utf8(get(http, &playlist)?)?;
    let segment = text.lines().rfind(|line| !line.starts_with('#')).context("a segment")?.to_owned();
    let folder = playlist.rsplit_once('/').context("a folder")?.0.to_owned();
    Ok((playlist, format!("{folder}/{segment}")))
}

/// CPU per request and per GB, in one run.
pub(super) fn run(folder: &Path) -> anyhow::Result<()> {
    let config = "[hls]\nsegment_target_ms = 1000\n[listen]\nhttps = \"127.0.0.1:0\"\n";
    let ours = Ours::start_with(on_one_core(&program("throughline")), folder, config)?;
    let streams = ["small".to_owned(), "large".to_owned()];
    let all = SETTLE * 90;
    let _small = replay(&ours, folder, &streams[..1], Size::Small, all)?;
    let _large = replay(&ours, folder, &streams[1..], Size::Large, all)?;
    sleep(SETTLE * 6);
    let peer = nginx(folder, 2)?.context("nginx is not installed")?;
    let target = Target { process: ours.server.0.id(), http: ours.http.clone(), https: ours.https.clone() };
    let nginx = Target { process: peer.server.0.id(), http: peer.http(), https: peer.https() };
    Command::new("taskset").args(["-pc", "0", &nginx.process.to_string()]).output()?;
    let idle = target.idle()?;
    println!(
        "CPU of the server, {CONNECTIONS} connections; ours needs {:.1} % of a core for its two streams, taken off:",
        idle * 100.0
    );
    for (what, stream, is_segment) in
        [("segment", "small", true), ("segment", "large", true), ("playlist", "small", false)]
    {
        for way in Way::ALL {
            let mut rounds = Vec::new();
            let mut size = 0;
            for _ in 0..ROUNDS {
                let (playlist, segment) = newest(&ours.http, stream)?;
                let path = if is_segment { segment } else { playlist };
                let bytes = get(&ours.http, &path)?;
                fs::write(peer.root.join("object.bin"), &bytes)?;
                let mine = target.cost(way, &path, idle)?;
                rounds.push((mine, nginx.cost(way, "/object.bin", 0.0)?));
                size = bytes.len();
            }
            rounds.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
            let (mine, theirs) = rounds[ROUNDS / 2];
            let ratio = |(mine, theirs): (f64, f64)| mine / theirs;
            let per_gb = |micros: f64| micros * 1e-6 / (size as f64 / 1e9);
            println!(
                "  {what:8} of {:4} KB, {:14} {mine:7.1} µs a request ({:.3} s/GB); nginx {theirs:7.1} µs ({:.3} s/GB); ratio {:.2} ({:.2} to {:.2})",
                size / 1000,
                way.name(),
                per_gb(mine),
                per_gb(theirs),
                ratio((mine, theirs)),
                ratio(rounds[0]),
                ratio(rounds[ROUNDS - 1])
            );
        }
    }
    let (playlist, _) = newest(&ours.http, "small")?;
    let mut blocked = Command::new("taskset");
    blocked.args(["-c", "1"]).arg(program("blocked")).args([&ours.http, &playlist, "5000", "10"]);
    print!("  {}", String::from_utf8_lossy(&blocked.output()?.stdout));
    Ok(())
}
