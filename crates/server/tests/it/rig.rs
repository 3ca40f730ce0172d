//! A server on free ports with a state directory of its own, and what tests do with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use control::{KeyPurpose, Store};
use server::config::{Config, ConfigFile, Listen};
use server::{Addresses, LocalClient, Server};
use tempfile::TempDir;
pub(crate) use testkit::browser::{Look, Viewer};
use testkit::http;
use testkit::playlist::Playlist;
use testkit::programs::{Ffmpeg, Program};
use testkit::publisher::{Tag, read_flv};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long anything may take that has no limit of its own.
pub(crate) const PATIENCE: Duration = testkit::PATIENCE;

/// Encoders and browsers are heavy, and the machine has two cores: one test at a time has them.
static HEAVY: Semaphore = Semaphore::const_new(1);

pub(crate) struct Rig {
    pub(crate) server: Option<Server>,
    pub(crate) addresses: Addresses,
    pub(crate) state: PathBuf,
    _folder: TempDir,
    _turn: Option<SemaphorePermit<'static>>,
}

fn config(state: &Path, addresses: &Addresses, change: impl FnOnce(&mut ConfigFile)) -> Config {
    let at =
        |known: Option<SocketAddr>| Some(Listen::At(known.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))));
    let mut file = ConfigFile { state: Some(state.into()), ..ConfigFile::default() };
    file.listen.http = at(addresses.http);
    file.listen.https = at(addresses.https);
    file.listen.rtmp = at(addresses.rtmp);
    file.listen.rtmps = at(addresses.rtmps);
    file.listen.srt = at(addresses.srt);
    file.listen.ops = at(addresses.ops);
    file.slate.enabled = false; // tests that are about slates say so
    change(&mut file);
    Config::try_from(file).expect("a usable configuration")
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut ConfigFile)) -> Self {
        let turn = Some(HEAVY.acquire().await.expect("never closed"));
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let server = Server::start(config(&state, &Addresses::default(), change)).await.expect("starts");
        let addresses = server.addresses().clone();
        Self { server: Some(server), addresses, state, _folder: folder, _turn: turn }
    }

    /// A second server beside this one that knows what this one has written: keys, events.
    pub(crate) async fn beside(&self) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        std::fs::create_dir(&state).expect("a folder");
        for entry in std::fs::read_dir(&self.state).expect("is there").flatten() {
            let name = entry.file_name();
            let is_database = name.to_string_lossy().contains(".db") || name.to_string_lossy().contains("sqlite");
            if is_database || name == "alive" {
                std::fs::copy(entry.path(), state.join(name)).expect("copied");
            }
        }
        let server = Server::start(config(&state, &Addresses::default(), |_| {})).await.expect("starts");
        let addresses = server.addresses().clone();
        Self { server: Some(server), addresses, state, _folder: folder, _turn: None }
    }

    /// Stops as SIGTERM does.
    pub(crate) async fn stop(&mut self) {
        self.server.take().expect("runs").stop().await;
    }

    /// Starts again on the same addresses and state.
    pub(crate) async fn start_again(&mut self) {
        self.start_again_with(|_| {}).await;
    }

    /// Likewise, with another configuration.
    pub(crate) async fn start_again_with(&mut self, change: impl FnOnce(&mut ConfigFile)) {
        let server = Server::start(config(&self.state, &self.addresses, change)).await.expect("starts again");
        self.server = Some(server);
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.addresses.http.expect("listens")
    }

    pub(crate) fn rtmp(&self) -> SocketAddr {
        self.addresses.rtmp.expect("listens")
    }

    pub(crate) fn srt(&self) -> SocketAddr {
        self.addresses.srt.expect("listens")
    }

    /// A key to publish a stream.
    pub(crate) async fn key(&self, stream: &str) -> String {
        self.key_for(stream, KeyPurpose::Publish).await
    }

    /// A key, made as the command line makes it.
    pub(crate) async fn key_for(&self, stream: &str, purpose: KeyPurpose) -> String {
        let client = LocalClient::connect(&self.state).await.expect("the server runs");
        let body = serde_json::json!({ "stream": stream, "purpose": purpose }).to_string();
        let view: control::KeyView = client.call(hyper::Method::POST, "/api/v1/keys", body).await.expect("made");
        view.key.expect("shown once")
    }

    /// A key to publish a stream as a leg of this rank.
    pub(crate) async fn key_with_rank(&self, stream: &str, rank: u8) -> String {
        let client = LocalClient::connect(&self.state).await.expect("the server runs");
        let body = serde_json::json!({ "stream": stream, "rank": rank }).to_string();
        let view: control::KeyView = client.call(hyper::Method::POST, "/api/v1/keys", body).await.expect("made");
        view.key.expect("shown once")
    }

    /// Does something with the legs of a stream, as the command line does; what is wrong, in words.
    pub(crate) async fn change_legs(&self, stream: &str, change: &serde_json::Value) -> Result<(), String> {
        let client = LocalClient::connect(&self.state).await.expect("the server runs");
        let path = format!("/api/v1/streams/{stream}/legs");
        client.call(hyper::Method::POST, &path, change.to_string()).await.map_err(|error| error.to_string())
    }

    /// Asks for something that is answered with nothing.
    pub(crate) async fn ask(&self, method: hyper::Method, path: &str, body: &serde_json::Value) -> Result<(), String> {
        let client = LocalClient::connect(&self.state).await.expect("the server runs");
        client.call(method, path, body.to_string()).await.map_err(|error| error.to_string())
    }

    /// Follows server-sent events of the API, from the one after that number on, where there is one.
    pub(crate) async fn follow(&self, path: &str, last: Option<&serde_json::Value>) -> Follower {
        let mut socket = UnixStream::connect(self.state.join("control.sock")).await.expect("the server runs");
        let last = last.map_or(String::new(), |last| format!("last-event-id: {last}\r\n"));
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{last}\r\n");
        socket.write_all(request.as_bytes()).await.expect("taken");
        let mut lines = BufReader::new(socket).lines();
        // The head has come: from here on nothing is missed.
        while lines.next_line().await.expect("answers").is_some_and(|line| !line.is_empty()) {}
        Follower(lines)
    }

    pub(crate) async fn publish_url(&self, stream: &str) -> String {
        format!("rtmp://{}/live/{}", self.rtmp(), self.key(stream).await)
    }

    /// What an encoder sends, all of it at once.
    pub(crate) async fn clip(&self, encoder: &Encoder) -> Vec<Tag> {
        let file = self.state.join(format!("{}.flv", encoder.size));
        let encoder = Encoder { is_paced: false, ..*encoder };
        let (success, _, errors) = encoder.publish(file.to_str().expect("a plain path")).finish().await;
        assert!(success, "{errors}");
        read_flv(&std::fs::read(&file).expect("read").into())
    }

    /// The API's answer, through the socket in the state directory.
    pub(crate) async fn api(&self, path: &str) -> serde_json::Value {
        let client = LocalClient::connect(&self.state).await.expect("the server runs");
        client.call(hyper::Method::GET, path, String::new()).await.expect("answers")
    }

    /// Says who may watch, as the command line does.
    pub(crate) async fn set_playback(&self, stream: &str, playback: &str) {
        let client = LocalClient::connect(&self.state).await.expect("the server runs");
        let body = serde_json::json!({ "playback": playback }).to_string();
        let path = format!("/api/v1/streams/{stream}/playback");
        let _: serde_json::Value = client.call(hyper::Method::PUT, &path, body).await.expect("said");
    }

    /// Waits until the multivariant playlist is there.
    pub(crate) async fn multivariant(&self, stream: &str) -> String {
        let path = format!("/live/{stream}/index.m3u8");
        eventually("the stream is there", || async {
            let answer = http::get(self.http(), &path).await;
            (answer.status == 200).then(|| answer.text().to_owned())
        })
        .await
    }

    /// The path of a media playlist.
    pub(crate) async fn playlist_path(&self, stream: &str, track: &str) -> String {
        let text = self.multivariant(stream).await;
        let line = text.lines().find_map(|line| {
            let start = line.find(|letter: char| letter != '#').filter(|_| !line.starts_with('#'));
            start.map(|_| line.to_owned())
        });
        let directory = line.expect("names a playlist").split('/').next().expect("a directory").to_owned();
        format!("/live/{stream}/{directory}/{track}.m3u8")
    }

    pub(crate) async fn playlist(&self, path: &str) -> Playlist {
        let answer = http::get(self.http(), path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        Playlist::parse(answer.text())
    }

    /// Waits until a track has two complete segments; the path of its playlist.
    pub(crate) async fn two_segments(&self, stream: &str, track: &str) -> String {
        let path = self.playlist_path(stream, track).await;
        self.playlist_when(&path, "two segments", |playlist| playlist.complete().count() >= 2).await;
        path
    }

    /// Waits until a playlist satisfies a condition.
    pub(crate) async fn playlist_when(&self, path: &str, what: &str, holds: impl Fn(&Playlist) -> bool) -> Playlist {
        eventually(what, || async {
            let playlist = self.playlist(path).await;
            holds(&playlist).then_some(playlist)
        })
        .await
    }
}

/// Server-sent events.
pub(crate) struct Follower(tokio::io::Lines<BufReader<UnixStream>>);

impl Follower {
    /// The data of the next event.
    pub(crate) async fn next_data(&mut self) -> serde_json::Value {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let line = self.0.next_line().await.expect("goes on").expect("goes on");
                if let Some(data) = line.strip_prefix("data: ") {
                    return serde_json::from_str(data).expect("JSON");
                }
            }
        });
        found.await.expect("an event in time")
    }
}

/// The value of a metric, with its labels; fails where it is not there.
pub(crate) async fn metric(rig: &Rig, name: &str) -> u64 {
    find_metric(rig, name).await.unwrap_or_else(|| panic!("there is no {name}"))
}

/// The value of a metric, with its labels; 0 before it was first counted.
pub(crate) async fn counted(rig: &Rig, name: &str) -> u64 {
    find_metric(rig, name).await.unwrap_or(0)
}

async fn find_metric(rig: &Rig, name: &str) -> Option<u64> {
    let text = http::get(rig.addresses.ops.expect("listens"), "/metrics").await.text().to_owned();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Answered HTTP requests of a class.
pub(crate) async fn requests(rig: &Rig, class: &str) -> u64 {
    let text = http::get(rig.addresses.ops.expect("listens"), "/metrics").await.text().to_owned();
    let of_class = text.lines().filter(|line| line.contains("http_requests_total{") && line.contains(class));
    of_class.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Tries until there is a result; fails with `what` after a while.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = attempt().await {
            return result;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An encoder with a test picture and a tone.
pub(crate) struct Encoder {
    pub(crate) ffmpeg: Ffmpeg,
    pub(crate) size: &'static str,
    pub(crate) video: Option<&'static str>,
    pub(crate) audio: Option<&'static str>,
    pub(crate) extra: &'static str,
    pub(crate) seconds: u32,
    /// As fast as real time, not faster.
    pub(crate) is_paced: bool,
    /// The container, and its options.
    pub(crate) muxer: &'static str,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            ffmpeg: Ffmpeg::Debian,
            size: "640x360",
            video: Some("libx264 -preset ultrafast -tune zerolatency -g 30 -pix_fmt yuv420p -b:v 600k"),
            audio: Some("aac -b:a 96k"),
            extra: "",
            seconds: 120,
            is_paced: true,
            muxer: "-f flv",
        }
    }
}

impl Encoder {
    pub(crate) fn with_b_frames() -> Self {
        let video = Some("libx264 -preset veryfast -bf 2 -g 30 -sc_threshold 0 -pix_fmt yuv420p -b:v 600k");
        Self { video, ..Self::default() }
    }

    pub(crate) fn hevc() -> Self {
        let video = Some(
            "libx265 -preset ultrafast -x265-params log-level=none:keyint=30:min-keyint=30:bframes=0 -pix_fmt yuv420p -b:v 500k",
        );
        Self { ffmpeg: Ffmpeg::Current, size: "320x180", video, ..Self::default() }
    }

    pub(crate) fn av1_with_opus() -> Self {
        let video =
            Some("libsvtav1 -preset 12 -svtav1-params rtc=1:pred-struct=1:rc=2 -g 30 -pix_fmt yuv420p -b:v 300k");
        Self { ffmpeg: Ffmpeg::Current, size: "320x180", video, audio: Some("libopus -b:a 64k"), ..Self::default() }
    }

    /// Starts to publish; it ends when dropped.
    pub(crate) fn publish(&self, url: &str) -> Program {
        let picture = format!("testsrc2=size={}:rate=30", self.size);
        let mut arguments = vec!["-hide_banner", "-loglevel", "error", "-nostdin"];
        arguments.extend(self.is_paced.then_some("-re"));
        if self.video.is_some() {
            arguments.extend(["-f", "lavfi", "-i", &picture]);
        }
        if self.audio.is_some() {
            arguments.extend(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]);
        }
        if let Some(video) = self.video {
            arguments.push("-c:v");
            arguments.extend(video.split(' '));
        }
        if let Some(audio) = self.audio {
            arguments.push("-c:a");
            arguments.extend(audio.split(' '));
        }
        arguments.extend(self.extra.split(' ').filter(|word| !word.is_empty()));
        let seconds = self.seconds.to_string();
        arguments.extend(["-t", &seconds]);
        arguments.extend(self.muxer.split(' '));
        arguments.push(url);
        Program::start(self.ffmpeg.path(), arguments)
    }
}

/// Opens the store of a stopped server.
pub(crate) fn store(state: &Path) -> Store {
    Store::open(state).expect("opens")
}
