//! What an SRT input costs, beside srt-live-transmit, and two hundred encrypted ones.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::bail;

use super::cost::share_of_a_core;
use super::{Ours, Running, SETTLE, Size, clip, processor_time, program, resident_kib};

const MEASURE: Duration = Duration::from_secs(20);
const PASSPHRASE: &str = "correct-horse-battery";
const FEW: u32 = 20;
const MANY: u32 = 200;

pub(super) fn run(folder: &Path) -> anyhow::Result<()> {
    println!("one SRT input of 60 Mbit/s, 2160p30; ours takes it apart and packages it too, each on core 0:");
    for passphrase in [None, Some(PASSPHRASE)] {
        let received = one_of_ours(folder, passphrase, 0)?;
        report("throughline receives", passphrase, received, 60.0);
        report("throughline sends", passphrase, one_of_ours(folder, passphrase, 1)? - received, 60.0);
        let received = theirs(folder, passphrase, 1, Size::Uhd, false)?;
        report("srt-live-transmit receives", passphrase, received, 60.0);
        let sent = theirs(folder, passphrase, 1, Size::Uhd, true)? - received;
        report("srt-live-transmit sends", passphrase, sent, 60.0);
    }
    println!("{FEW} inputs of 6 Mbit/s, on core 0: one process of ours, {FEW} of srt-live-transmit:");
    for passphrase in [None, Some(PASSPHRASE)] {
        let (share, _, _) = inputs(folder, passphrase, FEW, Size::Hd, 120)?;
        report("throughline", passphrase, share, 6.0 * f64::from(FEW));
        report(
            "srt-live-transmit",
            passphrase,
            theirs(folder, passphrase, FEW, Size::Hd, false)?,
            6.0 * f64::from(FEW),
        );
    }
    println!("{MANY} inputs of 1 Mbit/s, AES-128, packaged, no viewer, the server held to one core:");
    for latency_ms in [120, 1120, 2120] {
        let (share, mebibytes, dropped) = inputs(folder, Some(PASSPHRASE), MANY, Size::Megabit, latency_ms)?;
        println!(
            "  latency {latency_ms} ms: {share:.0} % of a core, {mebibytes} MiB, {dropped} packets missing in the media"
        );
    }
    Ok(())
}

/// The share of a core that one input of ours takes, with `players` that ask for it.
fn one_of_ours(folder: &Path, passphrase: Option<&str>, players: u32) -> anyhow::Result<f64> {
    let ours = server(folder, passphrase, 120)?;
    let ids = identifiers(&ours, 1)?;
    let mut publisher = publish(folder, &ours.srt, &ids, Size::Uhd, passphrase)?;
    sleep(SETTLE / 2);
    let mut playing = Vec::new();
    for _ in 0..players {
        let mut player = Command::new("taskset");
        let url = format!("srt://{}?streamid=read:s0{}", ours.srt, secret(passphrase));
        player.args(["-c", "1", "srt-live-transmit", "-q", &url, "file://con"]);
        playing.push(Running::start(&mut player)?);
    }
    sleep(SETTLE / 2);
    let share = share_of_a_core(ours.server.0.id(), MEASURE)?;
    if playing.iter_mut().any(|player| matches!(player.0.try_wait(), Ok(Some(_)))) {
        bail!("a player was turned away");
    }
    publisher.0.wait()?;
    Ok(share)
}

/// The share of a core that as many inputs take in processes of srt-live-transmit; they throw the bytes away, or send
/// them on.
fn theirs(folder: &Path, passphrase: Option<&str>, count: u32, size: Size, sends: bool) -> anyhow::Result<f64> {
    let mut servers = Vec::new();
    let mut running = Vec::new();
    for _ in 0..count {
        let (input, output) = (free_port()?, free_port()?);
        let mut peer = Command::new("taskset");
        let url = format!("srt://127.0.0.1:{input}?mode=listener{}", secret(passphrase));
        peer.args(["-c", "0", "srt-live-transmit", "-q", &url]);
        if sends {
            let url = format!("srt://127.0.0.1:{output}?mode=listener{}", secret(passphrase));
            running.push((Running::start(peer.arg(url))?, Some(output)));
        } else {
            running.push((Running::start(peer.arg("file://con"))?, None));
        }
        servers.push(format!("127.0.0.1:{input}"));
    }
    sleep(Duration::from_secs(1));
    let ids = ["none".to_owned()];
    let mut publishers = servers
        .iter()
        .map(|server| publish(folder, server, &ids, size, passphrase))
        .collect::<anyhow::Result<Vec<_>>>()?;
    sleep(SETTLE / 2);
    let mut playing = Vec::new();
    for output in running.iter().filter_map(|(_, output)| *output) {
        let mut player = Command::new("taskset");
        let url = format!("srt://127.0.0.1:{output}?mode=caller{}", secret(passphrase));
        player.args(["-c", "1", "srt-live-transmit", "-q", &url, "file://con"]);
        playing.push(Running::start(&mut player)?);
    }
    sleep(SETTLE / 2);
    let before = running.iter().map(|(peer, _)| processor_time(peer.0.id())).sum::<anyhow::Result<Duration>>()?;
    sleep(MEASURE);
    let after = running.iter().map(|(peer, _)| processor_time(peer.0.id())).sum::<anyhow::Result<Duration>>()?;
    if playing.iter_mut().any(|player| matches!(player.0.try_wait(), Ok(Some(_)))) {
        bail!("a player was turned away");
    }
    for publisher in &mut publishers {
        publisher.0.wait()?;
    }
    Ok(100.0 * (after - before).as_secs_f64() / MEASURE.as_secs_f64())
}

/// Share of a core, MiB, and packets missing in the media, of as many inputs in one server.
fn inputs(
    folder: &Path,
    passphrase: Option<&str>,
    count: u32,
    size: Size,
    latency_ms: u32,
) -> anyhow::Result<(f64, u64, u64)> {
    let ours = server(folder, passphrase, latency_ms)?;
    let empty = resident_kib(ours.server.0.id());
    let ids = identifiers(&ours, count)?;
    let mut publishers = publish(folder, &ours.srt, &ids, size, passphrase)?;
    sleep(SETTLE);
    let share = share_of_a_core(ours.server.0.id(), MEASURE)?;
    let resident = resident_kib(ours.server.0.id()).saturating_sub(empty) / 1024;
    let dropped = ours.streams()?.iter().filter_map(|stream| stream["transport"]["dropped"].as_u64()).sum();
    publishers.0.wait()?;
    Ok((share, resident, dropped))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn secret(passphrase: Option<&str>) -> String {
    passphrase.map_or(String::new(), |text| format!("&passphrase={text}&pbkeylen=16"))
}

fn server(folder: &Path, passphrase: Option<&str>, latency_ms: u32) -> anyhow::Result<Ours> {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program("throughline"));
    let secret = passphrase.map_or(String::new(), |text| format!("passphrase = \"{text}\"\n"));
    Ours::start_with(command, folder, &format!("[srt]\nlatency_ms = {latency_ms}\n{secret}"))
}

fn identifiers(ours: &Ours, count: u32) -> anyhow::Result<Vec<String>> {
    (0..count).map(|index| Ok(format!("publish:s{index}:{}", ours.key(&format!("s{index}"))?))).collect()
}

/// Publishers on the other core.
fn publish(
    folder: &Path,
    server: &str,
    ids: &[String],
    size: Size,
    passphrase: Option<&str>,
) -> anyhow::Result<Running> {
    let list = folder.join("identifiers");
    fs::write(&list, ids.join("\n"))?;
    let secret = passphrase.map_or(String::new(), |text| format!("?passphrase={text}"));
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(program("throughline")).args(["load", &format!("srt://{server}{secret}")]);
    let seconds = (SETTLE + MEASURE + SETTLE).as_secs().to_string();
    command.args(["--publishers", &ids.len().to_string(), "--for", &seconds]);
    Ok(Running(command.arg("--clip").arg(clip(folder, size)?).arg("--keys").arg(list).spawn()?))
}

fn report(name: &str, passphrase: Option<&str>, share: f64, megabits: f64) {
    let way = if passphrase.is_some() { "AES-128" } else { "plain" };
    println!("  {name:26} {way:7} {share:.2} % of a core, {:.3} % a Mbit/s", share / megabits);
}
