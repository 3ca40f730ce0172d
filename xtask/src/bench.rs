//! `make bench`: what a stream costs and how far behind the viewer is, beside nginx-rtmp on the same machine in the same run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::root;

/// How long the cost of a publisher is measured.
const MEASURE: Duration = Duration::from_secs(30);
/// How long a source runs before that.
const SETTLE: Duration = Duration::from_secs(6);

/// A process that is ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        sleep(Duration::from_millis(300));
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Ours {
    server: Running,
    state: PathBuf,
    http: String,
    rtmp: String,
}

pub(crate) fn run() -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("throughline-bench-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let outcome = latency(&folder).and_then(|()| cost(&folder));
    let _ = fs::remove_dir_all(&folder);
    outcome
}

/// Starts the release binary on free loopback ports.
fn ours(folder: &Path, profile: &str) -> anyhow::Result<Ours> {
    let state = folder.join(format!("state-{profile}"));
    let config = folder.join(format!("{profile}.toml"));
    fs::write(&config, format!("[hls]\nprofile = \"{profile}\"\n"))?;
    let mut command = Command::new(root().join("target/release/throughline"));
    command.args(["serve", "--log", "error", "--config"]).arg(&config).arg("--state").arg(&state);
    command.args(["--http", "127.0.0.1:0", "--rtmp", "127.0.0.1:0", "--ops", "off"]);
    let server = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
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
    Ok(Ours { server, state, http: address("http"), rtmp: address("rtmp") })
}

fn key(ours: &Ours, stream: &str) -> anyhow::Result<String> {
    let mut command = Command::new(root().join("target/release/throughline"));
    let output = command.args(["key", "create", stream, "--state"]).arg(&ours.state).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Glass to glass through the player page, and the time to the first picture.
fn latency(folder: &Path) -> anyhow::Result<()> {
    let tools = root().join("crates/testkit/tools");
    println!("glass to glass, 640x360p30, 1 s GOP, the player page in Chromium:");
    for profile in ["default", "lan"] {
        let ours = ours(folder, profile)?;
        let url = format!("rtmp://{}/live/{}", ours.rtmp, key(&ours, "clock")?);
        let mut source = Command::new(tools.join("clock.sh"));
        source.arg(&url).envs([("SIZE", "640x360"), ("GOP", "30"), ("KBPS", "1000"), ("SECONDS_", "60")]);
        let _source = Running(source.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        sleep(SETTLE);
        let page = format!("http://{}/watch/clock", ours.http);
        let output = Command::new("node").arg(tools.join("glass.mjs")).args(["--url", &page]).output()?;
        println!("  {profile:8} {}", String::from_utf8_lossy(&output.stdout).trim());
    }
    Ok(())
}

/// Processor time and memory for one publisher of 6 Mbit/s that is packaged and not watched.
fn cost(folder: &Path) -> anyhow::Result<()> {
    let clip = folder.join("clip.flv");
    let mut encode = Command::new("ffmpeg");
    encode.args(["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30"]);
    encode.args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", "12", "-c:v", "libx264"]);
    encode.args(["-preset", "veryfast", "-g", "60", "-bf", "0", "-pix_fmt", "yuv420p", "-b:v", "6M", "-minrate", "6M"]);
    encode.args(["-maxrate", "6M", "-bufsize", "6M", "-nal-hrd", "cbr", "-c:a", "aac", "-b:a", "128k"]).arg(&clip);
    if !encode.status()?.success() {
        bail!("ffmpeg cannot make the clip");
    }
    println!("one publisher of 6 Mbit/s, packaged, no viewer, {} s:", MEASURE.as_secs());
    let ours = ours(folder, "default")?;
    let url = format!("rtmp://{}/live/{}", ours.rtmp, key(&ours, "clip")?);
    report("throughline", &clip, &url, &[ours.server.0.id()])?;
    drop(ours);
    match nginx(folder)? {
        None => println!("  nginx-rtmp   not installed (apt-get install nginx libnginx-mod-rtmp)"),
        Some((server, url)) => report("nginx-rtmp", &clip, &url, &[server.0.id()])?,
    }
    Ok(())
}

fn report(name: &str, clip: &Path, url: &str, processes: &[u32]) -> anyhow::Result<()> {
    let mut publish = Command::new("ffmpeg");
    publish
        .args(["-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i"])
        .arg(clip)
        .args(["-c", "copy", "-f", "flv", url]);
    let _publisher = Running(publish.stderr(Stdio::null()).spawn()?);
    sleep(SETTLE);
    let before = processor_time(processes)?;
    sleep(MEASURE);
    let used = processor_time(processes)? - before;
    let memory: u64 = processes.iter().map(|id| resident_kib(*id)).sum();
    let share = 100.0 * used.as_secs_f64() / MEASURE.as_secs_f64();
    println!("  {name:12} {share:.2} % of a core, {} MiB resident", memory / 1024);
    Ok(())
}

/// nginx with its RTMP module making HLS, as its documentation shows it.
fn nginx(folder: &Path) -> anyhow::Result<Option<(Running, String)>> {
    let module = Path::new("/usr/lib/nginx/modules/ngx_rtmp_module.so");
    if !module.exists() {
        return Ok(None);
    }
    let hls = folder.join("hls");
    fs::create_dir_all(&hls)?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let config = folder.join("nginx.conf");
    let text = format!(
        "load_module {};\nuser root;\ndaemon off;\nmaster_process off;\npid {}/nginx.pid;\nerror_log {}/nginx.log;\nevents {{}}\n\
         rtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; hls on; hls_path {}; hls_fragment 2s; \
         hls_playlist_length 32s; }} }} }}\n",
        module.display(),
        folder.display(),
        folder.display(),
        hls.display()
    );
    fs::write(&config, text)?;
    let server = Command::new("nginx").arg("-c").arg(&config).stderr(Stdio::null()).spawn().context("nginx")?;
    sleep(Duration::from_secs(1));
    Ok(Some((Running(server), format!("rtmp://127.0.0.1:{port}/live/clip"))))
}

/// User and system time of processes, from the kernel.
fn processor_time(processes: &[u32]) -> anyhow::Result<Duration> {
    let mut ticks = 0;
    for id in processes {
        let text = fs::read_to_string(format!("/proc/{id}/stat"))?;
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        for field in [11, 12] {
            ticks += fields.get(field).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(Duration::from_millis(ticks * 10))
}

fn resident_kib(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
