//! Processor time and memory of publishers that nobody watches.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use super::nginx::{Nginx, nginx, nginx_by};
use super::{Ours, Running, SETTLE, Size, clip, processor_time, program, resident_kib};

/// How long the cost of a publisher is measured.
const MEASURE: Duration = Duration::from_secs(30);
/// Streams of the two benchmarks with many.
const PUBLISHERS: usize = 200;
const MEMORY_STREAMS: usize = 20;
/// Until the window of a playlist and what must stay fetchable behind it are full, and some.
const WINDOW_FULL: Duration = Duration::from_secs(100);

/// Processor time and memory for one publisher of 6 Mbit/s that is packaged and not watched, beside nginx-rtmp.
pub(super) fn beside_nginx(folder: &Path) -> anyhow::Result<()> {
    let clip = clip(folder, Size::Hd)?;
    println!("one publisher of 6 Mbit/s, packaged, no viewer, {} s:", MEASURE.as_secs());
    let ours = Ours::start(folder, "default")?;
    report("throughline", &clip, &ours.publish_url("clip")?, ours.server.0.id())?;
    drop(ours);
    match nginx(folder, 2)? {
        None => println!("  nginx-rtmp   not installed (apt-get install nginx libnginx-mod-rtmp)"),
        Some(peer) => report("nginx-rtmp", &clip, &peer.publish_url("clip"), peer.server.0.id())?,
    }
    Ok(())
}

fn report(name: &str, clip: &Path, url: &str, process: u32) -> anyhow::Result<()> {
    let mut publish = Command::new("ffmpeg");
    publish.args(["-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i"]).arg(clip);
    let _publisher = Running::start(publish.args(["-c", "copy", "-f", "flv", url]))?;
    sleep(SETTLE);
    let share = share_of_a_core(process, MEASURE)?;
    println!("  {name:12} {share:.2} % of a core, {} MiB resident", resident_kib(process) / 1024);
    Ok(())
}

pub(super) fn share_of_a_core(process: u32, duration: Duration) -> anyhow::Result<f64> {
    let before = processor_time(process)?;
    sleep(duration);
    Ok(100.0 * (processor_time(process)? - before).as_secs_f64() / duration.as_secs_f64())
}

/// A program on the first core; what loads it has the second.
pub(super) fn on_one_core(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program);
    command
}

pub(super) fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("s{index}")).collect()
}

/// Starts a publisher of a clip for each stream, on the second core.
pub(super) fn replay(
    ours: &Ours,
    folder: &Path,
    streams: &[String],
    size: Size,
    duration: Duration,
) -> anyhow::Result<Running> {
    let keys: Vec<String> = streams.iter().map(|stream| ours.key(stream)).collect::<Result<_, _>>()?;
    replay_to(&ours.rtmp, &keys, folder, size, duration)
}

pub(super) fn replay_to(
    rtmp: &str,
    keys: &[String],
    folder: &Path,
    size: Size,
    duration: Duration,
) -> anyhow::Result<Running> {
    let list = folder.join(format!("keys-{}", keys.first().map_or("", String::as_str)));
    fs::write(&list, keys.join("\n"))?;
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(program("throughline")).args(["load", &format!("rtmp://{rtmp}/live")]);
    command.args(["--publishers", &keys.len().to_string(), "--for", &duration.as_secs().to_string()]);
    command.arg("--clip").arg(clip(folder, size)?).arg("--keys").arg(list);
    Ok(Running(command.spawn()?))
}

/// The server on one core, the publishers on the other; then nginx-rtmp in our place.
pub(super) fn publishers(folder: &Path) -> anyhow::Result<()> {
    println!("{PUBLISHERS} publishers, packaged, no viewer, the server held to one core:");
    let names = names(PUBLISHERS);
    let duration = SETTLE * 2 + MEASURE;
    for size in [Size::Small, Size::Hd] {
        let ours = Ours::start_by(on_one_core(&program("throughline")), folder, "default", "127.0.0.1")?;
        let replaying = replay(&ours, folder, &names, size, duration)?;
        many("throughline", size, ours.server.0.id(), replaying)?;
        drop(ours);
        if let Some(peer) = nginx_by(on_one_core(Path::new("nginx")), folder, 2, "127.0.0.1")? {
            let replaying = replay_to(&peer.rtmp(), &names, folder, size, duration)?;
            many("nginx-rtmp", size, peer.server.0.id(), replaying)?;
        }
    }
    Ok(())
}

fn many(name: &str, size: Size, process: u32, mut replaying: Running) -> anyhow::Result<()> {
    let (_, kilobits) = size.picture_and_kilobits();
    sleep(SETTLE);
    let share = share_of_a_core(process, MEASURE)?;
    let resident = resident_kib(process) / 1024;
    println!("  {name:12} {} Mbit/s each: {share:.0} % of a core, {resident} MiB resident", kilobits / 1000);
    replaying.0.wait()?; // it prints how it went
    Ok(())
}

/// Resident memory against what the playlists must hold; what nginx-rtmp keeps is in files.
pub(super) fn memory(folder: &Path) -> anyhow::Result<()> {
    let ours = Ours::start(folder, "default")?;
    let empty = resident_kib(ours.server.0.id());
    let names = names(MEMORY_STREAMS);
    let mut replaying = replay(&ours, folder, &names, Size::Hd, WINDOW_FULL + SETTLE)?;
    sleep(WINDOW_FULL);
    let resident = resident_kib(ours.server.0.id());
    let held: u64 = ours.streams()?.iter().filter_map(|stream| stream["delivery"]["held_bytes"].as_u64()).sum();
    let held = held / 1024;
    let bound = per_stream(held) * 1.2 + 2.0;
    println!("{MEMORY_STREAMS} streams of 6 Mbit/s after {} s:", WINDOW_FULL.as_secs());
    println!(
        "  throughline  {:.1} MiB resident per stream over the empty server's {} MiB, {:.1} MiB of them listed or still fetchable; \
         aim at most {bound:.1} MiB",
        per_stream(resident - empty),
        empty / 1024,
        per_stream(held)
    );
    replaying.0.wait()?;
    drop(ours);
    if let Some(peer) = nginx(folder, 2)? {
        let empty = resident_kib(peer.server.0.id());
        let mut replaying = replay_to(&peer.rtmp(), &names, folder, Size::Hd, WINDOW_FULL + SETTLE)?;
        sleep(WINDOW_FULL);
        println!(
            "  nginx-rtmp   {:.1} MiB resident per stream and {:.1} MiB in files",
            per_stream(resident_kib(peer.server.0.id()) - empty),
            per_stream(files_kib(&peer)?)
        );
        replaying.0.wait()?;
    }
    Ok(())
}

fn per_stream(kib: u64) -> f64 {
    kib as f64 / 1024.0 / MEMORY_STREAMS as f64
}

fn files_kib(peer: &Nginx) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(peer.root.join("live"))? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes / 1024)
}
