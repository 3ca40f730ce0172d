//! How far behind the viewer is, and how soon there is a picture.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;

use super::nginx::{nginx, nginx_by};
use super::{Ours, Running, SETTLE, tool};

/// The source carries a clock in its picture; its GOP is one second.
fn source(mut command: Command, url: &str) -> anyhow::Result<Running> {
    command.arg(tool("clock.sh")).arg(url);
    Running::start(command.envs([("SIZE", "640x360"), ("GOP", "30"), ("KBPS", "1000"), ("SECONDS_", "200")]))
}

fn watch(mut command: Command, http: &str, options: &[&str]) -> anyhow::Result<String> {
    let page = format!("http://{http}/watch/clock");
    let output = command.arg(tool("glass.mjs")).args(["--url", &page]).args(options).output()?;
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        .trim()
        .to_owned())
}

/// Glass to glass through the player page.
pub(super) fn glass_to_glass(folder: &Path) -> anyhow::Result<()> {
    println!("glass to glass, 640x360p30, 1 s GOP, the player page in Chromium:");
    for profile in ["default", "lan"] {
        let ours = Ours::start(folder, profile)?;
        let _source = source(Command::new("bash"), &ours.publish_url("clock")?)?;
        sleep(SETTLE);
        println!("  {profile:8} {}", watch(Command::new("node"), &ours.http, &["--seconds", "60"])?);
    }
    match nginx(folder, 1)? {
        None => println!("  nginx-rtmp not installed"),
        Some(peer) => {
            let _source = source(Command::new("bash"), &peer.publish_url("clock"))?;
            sleep(SETTLE * 2);
            let seen = watch(Command::new("node"), &peer.http(), &["--seconds", "40"])?;
            println!("  nginx-rtmp, segments of 1 s, Chromium's own player: {seen}");
        }
    }
    Ok(())
}

/// From the address to the first picture.
pub(super) fn join(folder: &Path) -> anyhow::Result<()> {
    let ours = Ours::start(folder, "default")?;
    let _source = source(Command::new("bash"), &ours.publish_url("clock")?)?;
    sleep(SETTLE);
    println!("first picture, empty caches: {}", watch(Command::new("node"), &ours.http, &["--joins", "40"])?);
    if let Some(peer) = nginx(folder, 1)? {
        let _source = source(Command::new("bash"), &peer.publish_url("clock"))?;
        sleep(SETTLE * 2);
        println!(
            "nginx-rtmp, Chromium's own player: {}",
            watch(Command::new("node"), &peer.http(), &["--joins", "20"])?
        );
    }
    Ok(())
}

/// The same over a line of 100 ms there and back with 30 ms of jitter, between two network namespaces (needs root).
pub(super) fn impaired_line(folder: &Path) -> anyhow::Result<()> {
    let netlag =
        |words: &[&str]| Command::new("bash").arg(tool("netlag.sh")).args(words).env("RIG_RUN", folder).output();
    let up = netlag(&["up", "bench", "both:delay=50,jitter=15"])?;
    if !up.status.success() {
        println!("impaired line: not measured, it needs root: {}", String::from_utf8_lossy(&up.stderr).trim());
        return Ok(());
    }
    let measured = over_the_line(folder);
    netlag(&["down", "bench"])?;
    measured
}

fn over_the_line(folder: &Path) -> anyhow::Result<()> {
    println!("over 100 ms + 30 ms of jitter:");
    let inside = |host: &str, program: &Path| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host]).arg(program);
        command
    };
    let measure = |publish_url: &str, http: &str| {
        let _source = source(inside("bench-a", Path::new("bash")), publish_url)?;
        sleep(SETTLE * 2);
        watch(inside("bench-b", Path::new("node")), http, &["--seconds", "120"])
    };
    let ours = Ours::start_by(inside("bench-a", &super::program("throughline")), folder, "default", "10.209.0.1")?;
    println!("  default  {}", measure(&ours.publish_url("clock")?, &ours.http)?);
    drop(ours);
    if let Some(peer) = nginx_by(inside("bench-a", Path::new("nginx")), folder, 1, "10.209.0.1")? {
        let seen = measure(&peer.publish_url("clock"), &peer.http())?;
        println!("  nginx-rtmp, segments of 1 s, Chromium's own player: {seen}");
    }
    Ok(())
}
