//! `make drill-obs`: a real OBS Studio, without a screen, publishes to the server.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::bench::{Ours, in_a_folder, tool};
use crate::setup;

/// How long OBS streams, and when it is looked at.
const SECONDS: &str = "24";
const LOOK_AFTER: Duration = Duration::from_secs(16);

pub(crate) fn run() -> anyhow::Result<()> {
    setup::for_obs()?;
    for protocol in ["rtmp", "srt"] {
        in_a_folder(|folder| publish(folder, protocol))?;
        println!("OBS over {protocol}: nothing had to be repaired");
    }
    Ok(())
}

fn publish(folder: &Path, protocol: &str) -> anyhow::Result<()> {
    let ours = Ours::start(folder, "default")?;
    let key = ours.key("show")?;
    let (server, field) = if protocol == "srt" {
        (format!("srt://{}?streamid=publish:show:{key}&latency=400000", ours.srt), "")
    } else {
        (format!("rtmp://{}/live", ours.rtmp), key.as_str())
    };
    let mut obs = Command::new("bash");
    obs.arg(tool("obs.sh")).args([&server, field, SECONDS]);
    let obs = obs.env("HOME_RIG", folder.join("obs")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    sleep(LOOK_AFTER);
    let streams = ours.streams()?;
    let said = obs.wait_with_output()?;
    let view = streams.first().with_context(|| format!("no stream: {}", String::from_utf8_lossy(&said.stdout)))?;
    println!("{view:#}");
    ensure!(view["state"] == "live", "the stream is not live");
    let encoder = if protocol == "srt" { "SRT " } else { "libobs" };
    ensure!(view["publisher"]["encoder"].as_str().is_some_and(|name| name.contains(encoder)), "it is not OBS");
    let repairs = view["repairs"].as_object().context("repairs are counted")?;
    if let Some((name, count)) = repairs.iter().find(|(_, count)| **count != 0) {
        bail!("its stamps were repaired: {name} {count}");
    }
    ensure!(view["delivery"]["segments"].as_u64().is_some_and(|count| count >= 3), "it is not packaged");
    Ok(())
}
