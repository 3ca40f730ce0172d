//! `make run`: the server with a demo source, and what to do next.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};

use crate::root;

/// How long the server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// Ends the processes it started, whatever happens.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in self.0.iter_mut().rev() {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let _ = child.wait();
        }
    }
}

pub(crate) fn run() -> anyhow::Result<()> {
    let binary = root().join("target/release/throughline");
    let state = std::env::var("THROUGHLINE_STATE").unwrap_or_else(|_| "throughline-data".into());
    let addresses = Path::new(&state).join("addresses.json");
    let before = written(&addresses);
    let mut server = Command::new(&binary);
    server.args(["serve", "--state", &state]).stdout(Stdio::null());
    let mut children = Children(vec![server.spawn().context("cannot start the server")?]);
    let began = Instant::now();
    while written(&addresses) <= before {
        if let Some(status) = children.0[0].try_wait()? {
            bail!("the server ended: {status}; is another one running?");
        }
        if began.elapsed() > START_TIMEOUT {
            bail!("the server does not listen");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let known: serde_json::Value = serde_json::from_slice(&std::fs::read(&addresses)?)?;
    let port =
        |name: &str| known[name].as_str().and_then(|address| address.rsplit(':').next()).unwrap_or("").to_owned();
    let key = |stream: &str| -> anyhow::Result<String> {
        let output = Command::new(&binary).args(["key", "create", stream, "--state", &state]).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let (http, rtmp) = (port("http"), port("rtmp"));
    children.0.push(demo(&format!("rtmp://127.0.0.1:{rtmp}/live"), &key("demo")?)?);
    await_picture(&format!("127.0.0.1:{http}"))?;
    println!("open     http://localhost:{http}/watch/demo");
    println!("server   rtmp://localhost:{rtmp}/live");
    println!("key      {}   (for the stream 'live': http://localhost:{http}/watch/live)", key("live")?);
    children.0[0].wait()?;
    Ok(())
}

/// When a file was written; `None` if it is not there.
fn written(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|known| known.modified()).ok()
}

/// Waits until the demo can be played: who opens the page then sees a picture at once.
fn await_picture(server: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < START_TIMEOUT {
        let mut socket = TcpStream::connect(server)?;
        socket.write_all(b"GET /live/demo/index.m3u8 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer)?;
        if answer.starts_with(b"HTTP/1.1 200") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("the demo source does not arrive")
}

/// A moving picture with a clock and a soft tone, encoded as we recommend.
fn demo(server: &str, key: &str) -> anyhow::Result<Child> {
    let picture = "testsrc2=size=1280x720:rate=30";
    let sound = "sine=frequency=330:beep_factor=2:sample_rate=48000,volume=0.25";
    Command::new("ffmpeg")
        .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-re", "-f", "lavfi", "-i", picture])
        .args(["-f", "lavfi", "-i", sound, "-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency"])
        .args(["-g", "60", "-keyint_min", "60", "-sc_threshold", "0", "-bf", "0", "-pix_fmt", "yuv420p"])
        .args(["-b:v", "2500k", "-maxrate", "2500k", "-bufsize", "2500k"])
        .args(["-c:a", "aac", "-b:a", "128k", "-ac", "2", "-f", "flv"])
        .arg(format!("{server}/{key}"))
        .spawn()
        .context("cannot start ffmpeg")
}
