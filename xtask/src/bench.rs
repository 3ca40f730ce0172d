//! `make bench`: what a stream costs and how far behind the viewer is, beside nginx-rtmp on the same machine in the same run.
//!
//! `cargo xtask bench [delay|join|line|cost|publishers|memory|deliver|viewers|srt|loss|legs|outage]…`: all without a name.

mod cost;
mod delay;
mod deliver;
mod legs;
mod loss;
mod nginx;
mod soak;
mod srt;
mod viewers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::{root, setup};

/// How long a source runs before anything is measured.
const SETTLE: Duration = Duration::from_secs(6);

/// A process that is ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return; // it has ended by itself
        }
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        sleep(Duration::from_millis(300));
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a command without its output.
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }
}

type Bench = fn(&Path) -> anyhow::Result<()>;

const ALL: [(&str, Bench); 12] = [
    ("delay", delay::glass_to_glass),
    ("join", delay::join),
    ("line", delay::impaired_line),
    ("cost", cost::beside_nginx),
    ("publishers", cost::publishers),
    ("memory", cost::memory),
    ("deliver", deliver::run),
    ("viewers", viewers::run),
    ("srt", srt::run),
    ("loss", loss::run),
    ("legs", legs::second_leg),
    ("outage", legs::outage),
];

pub(crate) fn run(names: &[&str]) -> anyhow::Result<()> {
    if let Some(unknown) = names.iter().find(|name| ALL.iter().all(|(known, _)| known != *name)) {
        bail!("no benchmark is called {unknown}");
    }
    setup::for_bench()?;
    let wanted = ALL.iter().filter(|(name, _)| names.is_empty() || names.contains(name));
    in_a_folder(|folder| wanted.map(|(_, bench)| bench(folder)).find(Result::is_err).unwrap_or(Ok(())))
}

/// The long run.
pub(crate) fn soak(minutes: &str) -> anyhow::Result<()> {
    let minutes = minutes.parse().context("minutes")?;
    in_a_folder(|folder| soak::run(folder, minutes))
}

pub(crate) fn in_a_folder(work: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("throughline-bench-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let outcome = work(&folder);
    let _ = fs::remove_dir_all(&folder);
    outcome
}

fn program(name: &str) -> PathBuf {
    root().join("target/release").join(name)
}

pub(crate) fn tool(name: &str) -> PathBuf {
    root().join("crates/testkit/tools").join(name)
}

/// A server of ours, the release build.
pub(crate) struct Ours {
    server: Running,
    state: PathBuf,
    http: String,
    https: String,
    pub(crate) rtmp: String,
    pub(crate) srt: String,
}

impl Ours {
    /// On free ports of the loopback interface.
    pub(crate) fn start(folder: &Path, profile: &str) -> anyhow::Result<Self> {
        Self::start_by(Command::new(program("throughline")), folder, profile, "127.0.0.1")
    }

    /// `command` runs the program, perhaps elsewhere.
    fn start_by(command: Command, folder: &Path, profile: &str, host: &str) -> anyhow::Result<Self> {
        Self::start_at(command, folder, &format!("[hls]\nprofile = \"{profile}\"\n"), host)
    }

    /// With a configuration, on the loopback interface.
    fn start_with(command: Command, folder: &Path, config: &str) -> anyhow::Result<Self> {
        Self::start_at(command, folder, config, "127.0.0.1")
    }

    fn start_at(mut command: Command, folder: &Path, text: &str, host: &str) -> anyhow::Result<Self> {
        let state = folder.join("state");
        let config = folder.join("throughline.toml");
        let _ = fs::remove_dir_all(&state);
        fs::write(&config, text)?;
        command.args(["serve", "--log", "error", "--config"]).arg(&config).arg("--state").arg(&state);
        command.args(["--http", &format!("{host}:0"), "--rtmp", "127.0.0.1:0", "--srt", "127.0.0.1:0", "--ops", "off"]);
        let server = Running::start(&mut command)?;
        let addresses = state.join("addresses.json");
        let began = Instant::now();
        while !addresses.exists() {
            if began.elapsed() > Duration::from_secs(10) {
                bail!("the server does not start");
            }
            sleep(Duration::from_millis(50));
        }
        let known: serde_json::Value = serde_json::from_slice(&fs::read(&addresses)?)?;
        let address = |name: &str| known[name].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            server,
            state,
            http: address("http"),
            https: address("https"),
            rtmp: address("rtmp"),
            srt: address("srt"),
        })
    }

    pub(crate) fn key(&self, stream: &str) -> anyhow::Result<String> {
        let mut command = Command::new(program("throughline"));
        let output = command.args(["key", "create", stream, "--state"]).arg(&self.state).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn publish_url(&self, stream: &str) -> anyhow::Result<String> {
        Ok(format!("rtmp://{}/live/{}", self.rtmp, self.key(stream)?))
    }

    /// Its streams, by its own account.
    pub(crate) fn streams(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let mut command = Command::new(program("throughline"));
        let output = command.args(["status", "--json", "--state"]).arg(&self.state).output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// What a clip is.
#[derive(Clone, Copy)]
enum Size {
    /// 360p30 at 300 kbit/s.
    Tiny,
    /// 360p30 at 1 Mbit/s.
    Megabit,
    /// 720p30 at 2 Mbit/s.
    Small,
    /// 720p30 at 6 Mbit/s.
    Hd,
    /// 720p30 at 8 Mbit/s: segments of a second have a megabyte.
    Large,
    /// 2160p30 at 60 Mbit/s.
    Uhd,
}

impl Size {
    fn picture_and_kilobits(self) -> (&'static str, u32) {
        match self {
            Self::Tiny => ("640x360", 300),
            Self::Megabit => ("640x360", 936),
            Self::Small => ("1280x720", 2000),
            Self::Hd => ("1280x720", 6000),
            Self::Large => ("1280x720", 8000),
            Self::Uhd => ("3840x2160", 60_000),
        }
    }
}

/// Twelve seconds of pictures and sound at a constant bit rate.
fn clip(folder: &Path, size: Size) -> anyhow::Result<PathBuf> {
    let (picture, kilobits) = size.picture_and_kilobits();
    let clip = folder.join(format!("clip-{kilobits}.flv"));
    if clip.exists() {
        return Ok(clip);
    }
    let rate = format!("{kilobits}k");
    // Segments of a second where their size is what is measured: 250 KB and 1 MB.
    let gop = if matches!(size, Size::Small | Size::Large) { "30" } else { "60" };
    let mut encode = Command::new("ffmpeg");
    encode.args(["-v", "error", "-y", "-f", "lavfi", "-i", &format!("testsrc2=size={picture}:rate=30")]);
    encode.args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", "12", "-c:v", "libx264"]);
    encode
        .args(["-preset", "veryfast", "-g", gop, "-bf", "0", "-pix_fmt", "yuv420p", "-b:v", &rate, "-minrate", &rate]);
    encode.args(["-maxrate", &rate, "-bufsize", &rate, "-nal-hrd", "cbr", "-c:a", "aac", "-b:a", "64k"]).arg(&clip);
    if !encode.status()?.success() {
        bail!("ffmpeg cannot make the clip");
    }
    Ok(clip)
}

/// User and system time of a process, from the kernel.
fn processor_time(id: u32) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{id}/stat"))?;
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

fn resident_kib(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
