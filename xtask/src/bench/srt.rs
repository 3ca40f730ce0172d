//! What an SRT input costs, beside srt-live-transmit, and two hundred encrypted ones.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use super::cost::share_of_a_core;
use super::{Ours, Running, SETTLE, Size, clip, program, resident_kib};

const MEASURE: Duration = Duration::from_secs(20);
const PASSPHRASE: &str = "correct-horse-battery";
const INPUTS: usize = 200;

pub(super) fn run(folder: &Path) -> anyhow::Result<()> {
    println!("one SRT input of 60 Mbit/s, 2160p30; ours takes it apart and packages it too, each on core 0:");
    for passphrase in [None, Some(PASSPHRASE)] {
        let ours = server(folder, passphrase)?;
        let ids = identifiers(&ours, 1)?;
        let publisher = publish(folder, &ours.srt, &ids, Size::Uhd, passphrase)?;
        report("throughline", passphrase, ours.server.0.id(), publisher)?;
        drop(ours);
        let port = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let secret = passphrase.map_or(String::new(), |text| format!("&passphrase={text}&pbkeylen=16"));
        let mut peer = Command::new("taskset");
        peer.args(["-c", "0", "srt-live-transmit", "-q", &format!("srt://127.0.0.1:{port}?mode=listener{secret}")]);
        let peer = Running::start(peer.arg("file://con"))?;
        sleep(Duration::from_secs(1));
        let ids = ["none".to_owned()];
        let publisher = publish(folder, &format!("127.0.0.1:{port}"), &ids, Size::Uhd, passphrase)?;
        report("srt-live-transmit", passphrase, peer.0.id(), publisher)?;
    }
    println!("{INPUTS} inputs of 1 Mbit/s, AES-128, packaged, no viewer, the server held to one core:");
    let ours = server(folder, Some(PASSPHRASE))?;
    let empty = resident_kib(ours.server.0.id());
    let ids = identifiers(&ours, INPUTS)?;
    let mut publishers = publish(folder, &ours.srt, &ids, Size::Megabit, Some(PASSPHRASE))?;
    sleep(SETTLE);
    let share = share_of_a_core(ours.server.0.id(), MEASURE)?;
    let resident = resident_kib(ours.server.0.id()).saturating_sub(empty) / 1024;
    let dropped: u64 = ours.streams()?.iter().filter_map(|stream| stream["transport"]["dropped"].as_u64()).sum();
    println!("  {share:.0} % of a core, {resident} MiB, {dropped} packets missing in the media");
    publishers.0.wait()?;
    Ok(())
}

fn server(folder: &Path, passphrase: Option<&str>) -> anyhow::Result<Ours> {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program("throughline"));
    let secret = passphrase.map_or(String::new(), |text| format!("[srt]\npassphrase = \"{text}\"\n"));
    Ours::start_with(command, folder, &secret)
}

fn identifiers(ours: &Ours, count: usize) -> anyhow::Result<Vec<String>> {
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

fn report(name: &str, passphrase: Option<&str>, process: u32, mut publisher: Running) -> anyhow::Result<()> {
    sleep(SETTLE);
    let share = share_of_a_core(process, MEASURE)?;
    let way = if passphrase.is_some() { "AES-128" } else { "plain" };
    println!("  {name:17} {way:7} {share:.2} % of a core, {:.3} % a Mbit/s", share / 60.0);
    publisher.0.wait()?;
    Ok(())
}
