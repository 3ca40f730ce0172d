//! `make soak`: a 4K stream of 60 Mbit/s and a 720p stream of 6 Mbit/s for an hour.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;

use anyhow::bail;

use super::cost::replay;
use super::{Ours, SETTLE, Size, clip, program};

const STREAMS: [(&str, Size); 2] = [("hd", Size::Hd), ("uhd", Size::Uhd)];

pub(super) fn run(folder: &Path, minutes: u32) -> anyhow::Result<()> {
    let ours = Ours::start(folder, "default")?;
    for (_, size) in STREAMS {
        clip(folder, size)?;
    }
    let mut publishers = Vec::new();
    for (stream, size) in STREAMS {
        publishers.push(replay(&ours, folder, &[stream.to_owned()], size, SETTLE * (10 * minutes + 4))?);
    }
    println!("{minutes} minutes of 4K at 60 Mbit/s and 720p at 6 Mbit/s:");
    sleep(SETTLE * 2);
    let mut watch = Command::new(program("soak"));
    watch
        .args([&ours.http, &ours.server.0.id().to_string(), &minutes.to_string()])
        .args(STREAMS.map(|(stream, _)| stream));
    if !watch.status()?.success() {
        bail!("the long run failed");
    }
    Ok(())
}
