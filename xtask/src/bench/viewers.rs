//! Viewers: how many, what each costs, and what they feel. The server has core 0, the viewers core 1.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::cost::replay;
use super::{Ours, SETTLE, Size, processor_time, program, resident_kib};

/// All viewers are there for so long.
const STEADY: Duration = Duration::from_secs(30);
/// Between the last viewer's coming and the measurement.
const AFTER_RAMP: Duration = Duration::from_secs(5);
/// So many come in a second.
const COME_PER_SECOND: u64 = 250;

/// Part length, and how many viewers.
const ROUNDS: [(u32, &[u64]); 2] = [(1000, &[100, 1000, 5000, 10_000]), (200, &[100, 1000, 2000])];

pub(super) fn run(folder: &Path) -> anyhow::Result<()> {
    for (part_ms, counts) in ROUNDS {
        println!("viewers over TLS and HTTP/2, 640x360 at 300 kbit/s and sound, parts of {part_ms} ms, GOP 2 s:");
        for &count in counts {
            round(folder, part_ms, count)?;
        }
    }
    Ok(())
}

fn round(folder: &Path, part_ms: u32, count: u64) -> anyhow::Result<()> {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program("throughline"));
    let config = format!("[hls]\npart_target_ms = {part_ms}\n[listen]\nhttps = \"127.0.0.1:0\"\n");
    let ours = Ours::start_with(command, folder, &config)?;
    let ramp = Duration::from_secs((count / COME_PER_SECOND).max(2));
    let all = SETTLE * 2 + ramp + AFTER_RAMP + STEADY + SETTLE;
    let _source = replay(&ours, folder, &["show".to_owned()], Size::Tiny, all)?;
    sleep(SETTLE * 2);
    let process = ours.server.0.id();
    let (empty, before) = (resident_kib(process), processor_time(process)?);
    sleep(SETTLE);
    let idle = (processor_time(process)? - before).as_secs_f64() / SETTLE.as_secs_f64();
    let url = format!("https://{}/live/show/index.m3u8", ours.https);
    let seconds = |duration: Duration| format!("{}s", duration.as_secs());
    let mut load = Command::new("taskset");
    load.args(["-c", "1"]).arg(program("throughline")).args(["load", &url, "--insecure", "--json", "--http", "2"]);
    load.args(["--viewers", &count.to_string(), "--ramp", &seconds(ramp), "--for", &seconds(AFTER_RAMP + STEADY)]);
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
        "  {count:6}: {:.2} of a core ({:.1} µs a viewer and second), {:.1} KiB a viewer; {} began, {} ran dry, stalls {}, \
         latency p50 {} p95 {} ms, parts there after p50 {} p95 {} p99 {} ms; {} requests/s, {:.2} Gbit/s; client {:.2} cores, \
         late by {} ms{}",
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
