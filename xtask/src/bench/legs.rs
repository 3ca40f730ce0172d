//! What a second leg costs, and what the server does when every stream loses its source at once. The server has core 0.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::cost::{names, on_one_core, replay_to, share_of_a_core};
use super::deliver::{get, newest};
use super::{Ours, Running, SETTLE, Size, program};

const MEASURE: Duration = Duration::from_secs(15);
/// Rounds with one leg and with two in turn. What a round takes varies, with one leg more than with two: the middle ones are compared.
const ROUNDS: usize = 5;
/// Streams with two legs each.
const STREAMS: usize = 100;
/// Streams that lose their source.
const LOSERS: usize = 200;
/// For the slates of all of them.
const PREPARING_MAX: Duration = Duration::from_mins(15);
/// So long viewers watch: from before the loss until the last slate is there.
const WATCHED: Duration = Duration::from_mins(2);
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

/// Every stream loses its source in one moment, with a viewer on each: when its slate is there, and before any is.
pub(super) fn outage(folder: &Path) -> anyhow::Result<()> {
    println!("{LOSERS} streams of 2 Mbit/s, a viewer on each, the server held to one core:");
    lose_all(folder, true)?;
    lose_all(folder, false)
}

fn lose_all(folder: &Path, waits_for_slates: bool) -> anyhow::Result<()> {
    let config = "[limits]\nhttp_connections_max = 20000\nhttp_connections_per_address_max = 20000\n";
    let ours = Ours::start_with(on_one_core(&program("throughline")), folder, config)?;
    let process = ours.server.0.id();
    let names = names(LOSERS);
    let keys: Vec<String> = names.iter().map(|stream| ours.key(stream)).collect::<Result<_, _>>()?;
    let replaying = replay_to(&ours.rtmp, &keys, folder, Size::Small, PREPARING_MAX * 2)?;
    let began = Instant::now();
    let is_ready = |entry: &fs::DirEntry| entry.path().extension().is_none_or(|end| end != "new");
    let slates = || fs::read_dir(ours.state.join("slates")).map_or(0, |found| found.flatten().filter(is_ready).count());
    while waits_for_slates && slates() < LOSERS {
        if began.elapsed() > PREPARING_MAX {
            bail!("only {} slates", slates());
        }
        sleep(Duration::from_millis(500));
    }
    if waits_for_slates {
        println!("  FFmpeg made the slates in {} s", began.elapsed().as_secs());
    }
    sleep(SETTLE);
    let watching = Viewers::watch(&ours, &names)?;
    sleep(SETTLE + SETTLE);
    let with_sources = share_of_a_core(process, SETTLE)?;
    let ready = slates();
    let killed = SystemTime::now();
    let id = replaying.0.id().to_string();
    Command::new("kill").args(["-9", &id]).status()?;
    let mut shares = Vec::new();
    for _ in 0..LOOKS {
        shares.push(format!("{:.0}", share_of_a_core(process, Duration::from_secs(1))?));
    }
    drop(replaying);
    println!(
        "  with {ready} slates at the loss: {with_sources:.0} % of a core with sources; by second after it: {} %",
        shares.join(" ")
    );
    told(&ours, &names, killed)?;
    println!("  with slates {:.0} % of a core", share_of_a_core(process, SETTLE)?);
    watching.felt()
}

/// From the end of the encoders to the slate of each stream, by the server's events; what the playlists of the others say.
fn told(ours: &Ours, names: &[String], killed: SystemTime) -> anyhow::Result<()> {
    let killed_ms = u64::try_from(killed.duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?;
    let (mut waits, mut gaps) = (Vec::new(), 0);
    for stream in names {
        let mut command = Command::new(program("throughline"));
        let output = command.args(["events", stream, "--json", "--state"]).arg(&ours.state).output()?;
        let events: Vec<Value> = serde_json::from_slice(&output.stdout).context("events")?;
        let switches = events.iter().filter(|event| event["kind"] == "stream.switched");
        let after = switches.filter_map(|event| event["utc_ms"].as_u64()?.checked_sub(killed_ms)).min();
        let (playlist, _) = newest(&ours.http, stream)?;
        let is_gap = String::from_utf8(get(&ours.http, &playlist)?)?.contains("#EXT-X-GAP");
        gaps += usize::from(after.is_none() && is_gap);
        waits.extend(after);
    }
    waits.sort_unstable();
    let wait = |of: Option<&u64>| of.map_or_else(|| "–".to_owned(), u64::to_string);
    println!(
        "  {} had their slate: after {} ms in the middle, {} ms at most; {gaps} others signal gaps; looked at {:.0} s after the loss",
        waits.len(),
        wait(waits.get(waits.len() / 2)),
        wait(waits.last()),
        killed.elapsed()?.as_secs_f64()
    );
    Ok(())
}

/// A viewer on each stream, on the second core.
struct Viewers(Running);

impl Viewers {
    fn watch(ours: &Ours, names: &[String]) -> anyhow::Result<Self> {
        let mut load = Command::new("taskset");
        load.args(["-c", "1"]).arg(program("throughline")).args(["load", "--json", "--http", "1", "--ramp", "4s"]);
        load.args(["--viewers", &names.len().to_string(), "--for", &format!("{}s", WATCHED.as_secs())]);
        load.args(names.iter().map(|name| format!("http://{}/live/{name}/index.m3u8", ours.http)));
        Ok(Self(Running(load.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)))
    }

    fn felt(mut self) -> anyhow::Result<()> {
        let mut text = String::new();
        self.0.0.stdout.take().context("piped")?.read_to_string(&mut text)?;
        let report: Value = serde_json::from_str(&text).context("the report of the viewers")?;
        let quality = &report["quality"];
        println!(
            "  of {} viewers {} began and {} stood still, for {} ms at most; {} holes, {} ms together; {} not to be had, {} refused, \
             {} failures; {} s were watched",
            report["viewers"],
            report["began"],
            report["viewers_with_stalls"],
            quality["stall_longest_ms"],
            quality["holes"],
            quality["hole_ms"],
            quality["missing"],
            quality["refused"],
            quality["failures"],
            WATCHED.as_secs()
        );
        Ok(())
    }
}
