//! What a second leg costs, and what the server does when every stream loses its source at once. The server has core 0.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::cost::{names, on_one_core, replay_to, share_of_a_core};
use super::{Ours, SETTLE, Size, processor_time, program};

const MEASURE: Duration = Duration::from_secs(15);
/// Rounds with one leg and with two in turn. What a round takes varies, with one leg more than with two: the middle ones are compared.
const ROUNDS: usize = 5;
/// Streams with two legs each.
const STREAMS: usize = 100;
/// Streams that lose their source.
const LOSERS: usize = 200;
/// For the slates of all of them.
const PREPARING_MAX: Duration = Duration::from_mins(15);
/// Looks at the processor after the loss.
const LOOKS: usize = 10;

/// One leg, then two with the same encode.
pub(super) fn second_leg(folder: &Path) -> anyhow::Result<()> {
    println!("{STREAMS} streams, packaged, no viewer, the server held to one core:");
    for size in [Size::Small, Size::Hd] {
        let mut shares = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (legs, shares) in (1..).zip(&mut shares) {
                shares.push(with_legs(folder, size, legs)?);
            }
        }
        shares.iter_mut().for_each(|shares| shares.sort_by(f64::total_cmp));
        let [one, two] = shares.each_ref().map(|shares| shares[ROUNDS / 2]);
        let text = |shares: &[f64]| {
            format!("{:.1} % of a core ({:.1} to {:.1})", shares[ROUNDS / 2], shares[0], shares[ROUNDS - 1])
        };
        println!(
            "  {} Mbit/s each: {} with one leg, {} with two: the second costs {:.0} % of the first",
            size.picture_and_kilobits().1 / 1000,
            text(&shares[0]),
            text(&shares[1]),
            100.0 * (two - one) / one
        );
    }
    Ok(())
}

/// Share of a core that so many legs of each stream cost.
fn with_legs(folder: &Path, size: Size, legs: usize) -> anyhow::Result<f64> {
    let config = "[slate]\nenabled = false\n";
    let ours = Ours::start_with(on_one_core(&program("throughline")), folder, config)?;
    let idle = share_of_a_core(ours.server.0.id(), Duration::from_secs(2))?;
    let keys: Vec<String> = names(STREAMS).iter().map(|stream| ours.key(stream)).collect::<Result<_, _>>()?;
    // Publishers come one after another: two with one key within 10 ms.
    let keys: Vec<String> = keys.into_iter().flat_map(|key| vec![key; legs]).collect();
    let mut replaying = replay_to(&ours.rtmp, &keys, folder, size, SETTLE * 2 + MEASURE)?;
    sleep(SETTLE);
    let share = share_of_a_core(ours.server.0.id(), MEASURE)? - idle;
    let copies = ours.streams()?.iter().flat_map(legs_of).filter(|leg| leg["role"] == "copy").count();
    replaying.0.wait()?; // it prints how it went
    if copies != STREAMS * (legs - 1) {
        bail!("{copies} legs are copies, not {}", STREAMS * (legs - 1));
    }
    Ok(share)
}

fn legs_of(stream: &Value) -> Vec<Value> {
    stream["legs"].as_array().cloned().unwrap_or_default()
}

/// Every stream loses its source in one moment.
pub(super) fn outage(folder: &Path) -> anyhow::Result<()> {
    let ours = Ours::start_with(on_one_core(&program("throughline")), folder, "")?;
    let keys: Vec<String> = names(LOSERS).iter().map(|stream| ours.key(stream)).collect::<Result<_, _>>()?;
    let replaying = replay_to(&ours.rtmp, &keys, folder, Size::Small, PREPARING_MAX * 2)?;
    let began = Instant::now();
    let slates = ours.state.join("slates");
    while fs::read_dir(&slates).map_or(0, Iterator::count) < LOSERS {
        if began.elapsed() > PREPARING_MAX {
            bail!("only {} slates", fs::read_dir(&slates).map_or(0, Iterator::count));
        }
        sleep(Duration::from_millis(500));
    }
    println!("{LOSERS} streams of 2 Mbit/s; their slates were made in {} s", began.elapsed().as_secs());
    sleep(SETTLE);
    let with_sources = share_of_a_core(ours.server.0.id(), SETTLE)?;
    let killed = SystemTime::now();
    let id = replaying.0.id().to_string();
    Command::new("kill").args(["-9", &id]).status()?;
    let mut shares = Vec::new();
    for _ in 0..LOOKS {
        shares.push(format!("{:.0}", share_of_a_core(ours.server.0.id(), Duration::from_secs(1))?));
    }
    println!("  with sources {with_sources:.0} % of a core; by second after their loss: {} %", shares.join(" "));
    drop(replaying);
    told(&ours, killed)?;
    let used = processor_time(ours.server.0.id())?;
    sleep(SETTLE);
    let share = 100.0 * (processor_time(ours.server.0.id())? - used).as_secs_f64() / SETTLE.as_secs_f64();
    println!("  with slates {share:.0} % of a core");
    Ok(())
}

/// From the end of the encoders to the slate of each stream, by the server's events.
fn told(ours: &Ours, killed: SystemTime) -> anyhow::Result<()> {
    let killed_ms = u64::try_from(killed.duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?;
    let mut waits = Vec::new();
    for stream in names(LOSERS) {
        let mut command = Command::new(program("throughline"));
        let output = command.args(["events", &stream, "--json", "--state"]).arg(&ours.state).output()?;
        let events: Vec<Value> = serde_json::from_slice(&output.stdout).context("events")?;
        let switches = events.iter().filter(|event| event["kind"] == "stream.switched");
        let after = switches.filter_map(|event| event["utc_ms"].as_u64()?.checked_sub(killed_ms));
        waits.extend(after.min());
    }
    waits.sort_unstable();
    let slates = ours.streams()?.iter().filter(|stream| stream["publisher"]["protocol"] == "slate").count();
    println!(
        "  {} had their slate: after {} ms in the middle, {} ms at most; {slates} show it {:.0} s after the loss",
        waits.len(),
        waits.get(waits.len() / 2).context("no slate was shown")?,
        waits.last().context("no slate was shown")?,
        killed.elapsed()?.as_secs_f64()
    );
    Ok(())
}
