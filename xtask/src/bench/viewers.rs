//! Viewers: how many, what each costs, and what they feel. The server has core 0, the viewers core 1.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::cost::replay;
use super::deliver::newest;
use super::{Ours, Running, SETTLE, Size, processor_time, program, resident_kib};

/// All viewers are there for so long.
const STEADY: Duration = Duration::from_secs(30);
/// Between the last viewer's coming and the measurement.
const AFTER_RAMP: Duration = Duration::from_secs(5);
/// So many come in a second.
const COME_PER_SECOND: u64 = 250;

/// One measurement.
#[derive(Clone, Copy)]
struct Round {
    part_ms: u32,
    streams: usize,
    viewers: u64,
    /// HTTP/2 over TLS; else HTTP/1.1 in plain, as behind a CDN.
    is_http_2: bool,
    /// Readers beside them that take 10 kB/s of a segment.
    slow: u64,
}

const fn round_of(part_ms: u32, viewers: u64, is_http_2: bool) -> Round {
    Round { part_ms, streams: 1, viewers, is_http_2, slow: 0 }
}

const ROUNDS: [Round; 15] = [
    round_of(1000, 100, true),
    round_of(1000, 1000, true),
    round_of(1000, 2500, true),
    round_of(1000, 5000, true),
    round_of(1000, 100, false),
    round_of(1000, 1000, false),
    round_of(1000, 2500, false),
    // Four connections each: more would need more than 20,000 open files.
    round_of(1000, 4500, false),
    round_of(500, 2000, false),
    round_of(200, 100, true),
    round_of(200, 500, true),
    round_of(200, 1000, true),
    Round { streams: 20, ..round_of(1000, 1000, true) },
    Round { streams: 200, ..round_of(1000, 1000, true) },
    Round { slow: 1000, ..round_of(1000, 1000, true) },
];

pub(super) fn run(folder: &Path) -> anyhow::Result<()> {
    println!("viewers of 640x360 at 300 kbit/s and sound, GOP 2 s:");
    ROUNDS.into_iter().try_for_each(|round| measure(folder, round))
}

fn measure(folder: &Path, round: Round) -> anyhow::Result<()> {
    let Round { part_ms, streams, viewers: count, is_http_2, slow } = round;
    let command = on_core("0", &program("throughline"));
    // Room for what a stranger would not get: ten thousand connections from one address.
    let config = format!(
        "[hls]\npart_target_ms = {part_ms}\n[listen]\nhttps = \"127.0.0.1:0\"\n[limits]\n\
         http_connections_max = 200000\nhttp_connections_per_address_max = 200000\nblocked_requests_max = 200000\n"
    );
    let ours = Ours::start_with(command, folder, &config)?;
    let ramp = Duration::from_secs((count / COME_PER_SECOND).max(2));
    let all = SETTLE * 2 + ramp + AFTER_RAMP + STEADY + SETTLE;
    let names: Vec<String> = (0..streams).map(|index| format!("show{index}")).collect();
    let _source = replay(&ours, folder, &names, Size::Tiny, all)?;
    sleep(SETTLE * 2);
    let process = ours.server.0.id();
    let (empty, before) = (resident_kib(process), processor_time(process)?);
    sleep(SETTLE);
    let idle = (processor_time(process)? - before).as_secs_f64() / SETTLE.as_secs_f64();
    let seconds = |duration: Duration| format!("{}s", duration.as_secs());
    let _readers = if slow > 0 { Some(slow_readers(&ours, slow, ramp + AFTER_RAMP + STEADY)?) } else { None };
    let (base, version) =
        if is_http_2 { (format!("https://{}", ours.https), "2") } else { (format!("http://{}", ours.http), "1") };
    let mut load = on_core("1", &program("throughline"));
    load.args(["load", "--insecure", "--json", "--http", version]);
    load.args(["--viewers", &count.to_string(), "--ramp", &seconds(ramp), "--for", &seconds(AFTER_RAMP + STEADY)]);
    load.args(names.iter().map(|name| format!("{base}/live/{name}/index.m3u8")));
    let load = load.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    sleep(ramp + AFTER_RAMP);
    let before = processor_time(process)?;
    sleep(STEADY / 2);
    let share = (processor_time(process)? - before).as_secs_f64() / (STEADY / 2).as_secs_f64();
    let resident = resident_kib(process);
    let output = load.wait_with_output()?;
    if output.stdout.is_empty() {
        bail!("the load reported nothing");
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).context("the report")?;
    let quality = &report["quality"];
    println!(
        "  {}, parts of {part_ms} ms, {streams} streams, {slow} slow readers, {count:6} viewers: {:.2} of a core ({:.1} µs a viewer and second), {:.1} KiB a viewer; {} began, {} ran dry, stalls {}, \
         latency p50 {} p95 {} ms, parts there after p50 {} p95 {} p99 {} ms; {} requests/s, {:.2} Gbit/s; client {:.2} cores, \
         late by {} ms{}",
        if is_http_2 { "TLS, HTTP/2" } else { "HTTP/1.1" },
        share,
        (share - idle) * 1e6 / count as f64,
        resident.saturating_sub(empty) as f64 / count as f64,
        report["began"],
        report["viewers_with_stalls"],
        quality["stalls"],
        quality["latency_ms"]["p50"],
        quality["latency_ms"]["p95"],
        quality["part_age_ms"]["p50"],
        quality["part_age_ms"]["p95"],
        quality["part_age_ms"]["p99"],
        report["requests_per_second"],
        report["bits_per_second"].as_f64().unwrap_or(0.0) / 1e9,
        report["client"]["core_per_mille"].as_f64().unwrap_or(0.0) / 1000.0,
        report["client"]["lag_p99_ms"],
        if report["client"]["is_the_limit"] == true { " (the client is the limit)" } else { "" }
    );
    Ok(())
}

fn on_core(core: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

/// Connections that each take 10 kB/s of a complete segment.
fn slow_readers(ours: &Ours, count: u64, duration: Duration) -> anyhow::Result<Running> {
    let (_, path) = newest(&ours.http, "show0")?;
    let mut command = on_core("1", &program("slow"));
    command.args([&ours.http, &path]);
    command.args([count.to_string(), "10000".into(), duration.as_secs().to_string()]);
    Ok(Running(command.spawn()?))
}
