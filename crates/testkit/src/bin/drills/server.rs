//! The server that is harmed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::{Child, Command};

/// What happened, as the server tells it.
#[derive(Debug, Deserialize)]
pub(crate) struct Event {
    pub(crate) utc_ms: i64,
    pub(crate) kind: String,
    pub(crate) reason: Option<String>,
    pub(crate) text: String,
    pub(crate) gap_ms: Option<u64>,
}

/// A server of its own state, the release build.
pub(crate) struct Server {
    pub(crate) program: PathBuf,
    state: PathBuf,
    child: Child,
    pub(crate) http: SocketAddr,
    pub(crate) rtmp: SocketAddr,
    pub(crate) srt: SocketAddr,
}

impl Server {
    pub(crate) async fn start(program: &Path, folder: &Path, config: &str) -> Self {
        let state = folder.join("state");
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder).expect("a folder");
        std::fs::write(folder.join("config.toml"), config).expect("written");
        Self::run(program, &state, ["127.0.0.1:0"; 3]).await
    }

    async fn run(program: &Path, state: &Path, [http, rtmp, srt]: [&str; 3]) -> Self {
        let config = state.with_file_name("config.toml");
        let mut command = Command::new(program);
        command.args(["serve", "--log", "warn", "--ops", "off", "--http", http, "--rtmp", rtmp, "--srt", srt]);
        command.arg("--state").arg(state).arg("--config").arg(config).stdout(std::process::Stdio::null());
        let child = command.kill_on_drop(true).spawn().expect("starts");
        let known = loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Ok(text) = std::fs::read_to_string(state.join("addresses.json")) {
                break text;
            }
        };
        let known: serde_json::Value = serde_json::from_str(&known).expect("addresses");
        let address = |name: &str| known[name].as_str().and_then(|text| text.parse().ok()).expect("an address");
        let (http, rtmp, srt) = (address("http"), address("rtmp"), address("srt"));
        Self { program: program.into(), state: state.into(), child, http, rtmp, srt }
    }

    /// Kills it as a power cut does, and starts it again on the same addresses.
    pub(crate) async fn restart(mut self) -> Self {
        self.child.kill().await.expect("it ran");
        let _ = std::fs::remove_file(self.state.join("addresses.json"));
        let addresses = [self.http, self.rtmp, self.srt].map(|address| address.to_string());
        Self::run(&self.program, &self.state, addresses.each_ref().map(|address| &address[..])).await
    }

    /// Memory that it holds.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id().expect("runs"))).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("tells");
        line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
    }

    pub(crate) async fn tell(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        let output = command.args(arguments).arg("--state").arg(&self.state).output().await.expect("runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) async fn key(&self, rank: u8) -> String {
        self.tell(&["key", "create", "show", "--rank", &rank.to_string()]).await
    }

    pub(crate) async fn rtmp_url(&self, at: SocketAddr) -> String {
        format!("rtmp://{at}/live/{}", self.key(0).await)
    }

    /// Waits until the table of legs has these words in a line, so often.
    pub(crate) async fn legs(&self, words: &str, count: usize) {
        for _ in 0..600 {
            let table = self.tell(&["switch", "show"]).await;
            let found = table.lines().filter(|line| words.split(' ').all(|word| line.contains(word))).count();
            if found == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not in time: {count} legs that are {words}: {}", self.tell(&["events", "show"]).await);
    }

    /// What happened until now, the oldest first.
    pub(crate) async fn events(&self) -> Vec<Event> {
        let text = self.tell(&["events", "show", "--limit", "1000", "--json"]).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Gaps of switches for these reasons, in milliseconds, as the server tells them.
    pub(crate) async fn gaps(&self, reasons: &[&str]) -> Vec<u64> {
        let is_wanted = |event: &Event| event.reason.as_deref().is_some_and(|reason| reasons.contains(&reason));
        self.events().await.iter().filter(|event| is_wanted(event)).filter_map(|event| event.gap_ms).collect()
    }
}

pub(crate) fn discontinuities(text: &str) -> usize {
    text.lines().filter(|line| *line == "#EXT-X-DISCONTINUITY").count()
}

pub(crate) async fn media_playlist(server: &Server) -> String {
    testkit::http::get(server.http, &media_path(server, "video.m3u8").await).await.text().to_owned()
}

/// The path of something beside the media playlist.
pub(crate) async fn media_path(server: &Server, name: &str) -> String {
    let text = testkit::http::get(server.http, "/live/show/index.m3u8").await.text().to_owned();
    let uri = text.lines().find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    format!("/live/show/{}/{name}", uri.split('/').next().unwrap_or_default())
}
