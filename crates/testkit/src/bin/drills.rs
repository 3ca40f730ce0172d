//! Kills sources, paths and processes, and counts what a viewer lost.
//!   drills PROGRAM ROUNDS [DRILL…]     prints rows of a table; fails where an aim is missed
//!
//! What counts is what players saw: ffmpeg decodes the stream and its pictures and sound are compared with what the encoder
//! made; `throughline probe` tells stalls as a player feels them. The server's own events tell when and why it switched.
#![expect(clippy::print_stdout, reason = "this is the command line")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use testkit::cable::Cable;
use testkit::programs::{Ffmpeg, Program};
use testkit::relay::{Line, Random, Relay};
use testkit::witness::{Comparison, Making, Source, Witness};
use tokio::process::{Child, Command};

/// A server of its own state, the release build.
struct Server {
    program: PathBuf,
    state: PathBuf,
    child: Child,
    http: SocketAddr,
    rtmp: SocketAddr,
    srt: SocketAddr,
}

impl Server {
    async fn start(program: &Path, folder: &Path, config: &str) -> Self {
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
        let address = |name: &str| {
            let at = known.find(&format!("\"{name}\": \"")).expect("listens") + name.len() + 5;
            known[at..].split('"').next().and_then(|text| text.parse().ok()).expect("an address")
        };
        let (http, rtmp, srt) = (address("http"), address("rtmp"), address("srt"));
        Self { program: program.into(), state: state.into(), child, http, rtmp, srt }
    }

    /// Kills it as a power cut does, and starts it again on the same addresses.
    async fn restart(mut self) -> Self {
        self.child.kill().await.expect("it ran");
        let _ = std::fs::remove_file(self.state.join("addresses.json"));
        let addresses = [self.http, self.rtmp, self.srt].map(|address| address.to_string());
        Self::run(&self.program, &self.state, addresses.each_ref().map(|address| &address[..])).await
    }

    /// Memory that it holds.
    fn resident_mib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id().expect("runs"))).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("tells");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") / 1024
    }

    async fn tell(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        let output = command.args(arguments).arg("--state").arg(&self.state).output().await.expect("runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    async fn key(&self, rank: u8) -> String {
        self.tell(&["key", "create", "show", "--rank", &rank.to_string()]).await
    }

    async fn rtmp_url(&self, at: SocketAddr) -> String {
        format!("rtmp://{at}/live/{}", self.key(0).await)
    }

    /// Waits until the table of legs has these words in a line, so often.
    async fn legs(&self, words: &str, count: usize) {
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

    /// Gaps of switches for this reason, in milliseconds, as the server tells them.
    async fn gaps(&self, reason: &str) -> Vec<u64> {
        let text = self.tell(&["events", "show", "--limit", "1000", "--json"]).await;
        let mut gaps: Vec<u64> = Vec::new();
        for event in text.split('{').filter(|event| event.contains(&format!("\"reason\": \"{reason}\""))) {
            let rest = event.split("\"gap_ms\": ").nth(1);
            let gap = rest.and_then(|rest| rest.split([',', '\n', '}']).next()?.parse::<u64>().ok());
            gaps.extend(gap);
        }
        gaps
    }
}

/// A player that tells what it felt.
struct Player(Program);

impl Player {
    fn watch(server: &Server, seconds: u64) -> Self {
        let url = format!("http://{}/live/show/index.m3u8", server.http);
        let seconds = seconds.to_string();
        Self(Program::start(&server.program, ["probe", &url, "--for", &seconds, "--json"]))
    }

    /// Stalls, the longest in milliseconds, and holes in what was played.
    async fn felt(self) -> [u64; 3] {
        self.felt_and_growth().await.0
    }

    /// Likewise, and by how many milliseconds its latency grew in a minute.
    async fn felt_and_growth(self) -> ([u64; 3], i64) {
        let (_, text, error) = self.0.finish().await;
        let number = |name: &str| {
            let rest = text.split(&format!("\"{name}\": ")).nth(1);
            let number = rest.and_then(|rest| rest.split([',', '\n', '}']).next()?.trim().parse::<i64>().ok());
            number.unwrap_or_else(|| panic!("the probe says nothing of {name}: {text} {error}"))
        };
        let felt = ["stalls", "stall_longest_ms", "holes"].map(|name| u64::try_from(number(name)).expect("a count"));
        (felt, number("latency_slope_ms_per_minute"))
    }
}

async fn seconds(count: f64) {
    tokio::time::sleep(Duration::from_secs_f64(count)).await;
}

/// Seconds, fewer than these.
fn up_to(random: &mut Random, limit: f64) -> f64 {
    limit * f64::from(u32::try_from(random.draw() % 1000).unwrap_or(0)) / 1000.0
}

/// One line of the table.
fn row(what: &str, times: usize, lost: &str, felt: Option<[u64; 3]>, gaps: &[u64], is_met: bool) -> bool {
    let felt =
        felt.map_or_else(|| "–".to_owned(), |[stalls, longest, holes]| format!("{stalls} ({longest} ms), {holes}"));
    let mut sorted = gaps.to_vec();
    sorted.sort_unstable();
    let middle = sorted.get(sorted.len() / 2).map_or_else(|| "–".to_owned(), |gap| format!("{gap} ms"));
    let worst = sorted.last().map_or_else(|| "–".to_owned(), |gap| format!("{gap} ms"));
    let verdict = if is_met { "" } else { " **missed**" };
    println!("| {what} | {times} | {lost} | {felt} | {middle} / {worst} |{verdict}");
    is_met
}

fn discontinuities(text: &str) -> usize {
    text.lines().filter(|line| *line == "#EXT-X-DISCONTINUITY").count()
}

async fn media_playlist(server: &Server) -> String {
    testkit::http::get(server.http, &media_path(server, "video.m3u8").await).await.text().to_owned()
}

/// The path of something beside the media playlist.
async fn media_path(server: &Server, name: &str) -> String {
    let text = testkit::http::get(server.http, "/live/show/index.m3u8").await.text().to_owned();
    let uri = text.lines().find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    format!("/live/show/{}/{name}", uri.split('/').next().unwrap_or_default())
}

/// What is done to one of two paths.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Kill,
    BlackHole,
    Stall,
    Loss,
}

/// A way from the encoder to the server that can be harmed.
enum Way {
    Rtmp(Cable),
    Srt(Relay),
}

/// Of 1,000 datagrams so many are lost on an SRT path that is well, and on one that is not.
const LOSS_PER_MILLE: u64 = 20;
const BAD_LOSS_PER_MILLE: u64 = 300;

impl Way {
    async fn open(server: &Server, is_srt: bool, seed: u64) -> Self {
        if !is_srt {
            return Self::Rtmp(Cable::to(server.rtmp).await);
        }
        let line = Line { delay: Duration::from_millis(20), loss_per_mille: LOSS_PER_MILLE, ..Line::default() };
        Self::Srt(Relay::start(server.srt, line, seed).await)
    }

    fn output(&self, key: &str) -> (&'static str, String) {
        match self {
            Self::Rtmp(cable) => ("flv", format!("rtmp://{}/live/{key}", cable.address)),
            Self::Srt(relay) => {
                ("mpegts", format!("srt://{}?streamid=publish:show:{key}&pkt_size=1316", relay.address))
            }
        }
    }

    async fn harm(&self, harm: Harm) {
        match (self, harm) {
            (Self::Rtmp(_), Harm::Loss) => {} // TCP has none
            (Self::Rtmp(cable), Harm::Kill) => cable.cut(),
            (Self::Rtmp(cable), Harm::BlackHole) => {
                cable.hold();
                seconds(1.0).await;
                cable.cut();
                cable.resume();
            }
            (Self::Rtmp(cable), Harm::Stall) => cable.stall(Duration::from_secs(2)).await,
            (Self::Srt(relay), Harm::Loss) => {
                relay.set_loss(BAD_LOSS_PER_MILLE).await;
                seconds(2.5).await;
                relay.set_loss(LOSS_PER_MILLE).await;
            }
            (Self::Srt(relay), _) => {
                relay.cut.store(true, Ordering::Relaxed);
                seconds(1.5).await;
                relay.cut.store(false, Ordering::Relaxed);
            }
        }
    }
}

/// The same encode over two paths, each harmed in turn at random points.
async fn two_paths(program: &Path, folder: &Path, rounds: usize, harm: Harm, are_srt: [bool; 2]) -> bool {
    let server = Server::start(program, folder, "[slate]\nenabled = false\n").await;
    let key = server.key(0).await;
    let ways = [Way::open(&server, are_srt[0], 9).await, Way::open(&server, are_srt[1], 5).await];
    let outputs = ways.each_ref().map(|way| way.output(&key));
    let length = u32::try_from(rounds).expect("few") * 6 + 20;
    let making = Making { seconds: length, ..Making::default() };
    let source = Source::start(making, &folder.join("made.mkv"), &outputs);
    server.legs("healthy copy", 1).await;
    seconds(4.0).await;
    let witness = Witness::watch(server.http, "show", &folder.join("seen.txt"));
    let began = Instant::now();
    let player = Player::watch(&server, u64::from(length) - 12);
    seconds(2.0).await;
    let mut random = Random(88_172_645_463_325_252);
    let mut done = 0;
    let mut breaks = 0;
    while done < rounds && began.elapsed() < Duration::from_secs(u64::from(length) - 16) {
        ways[done % 2].harm(harm).await;
        done += 1;
        seconds(0.6).await; // what was done has been noticed
        server.legs("healthy copy", 1).await;
        seconds(0.2 + up_to(&mut random, 1.5)).await;
        breaks = breaks.max(discontinuities(&media_playlist(&server).await));
    }
    let felt = player.felt().await;
    let made = source.made().await;
    seconds(3.0).await;
    let seen = witness.seen().await;
    let (video, audio) = (Comparison::of(&made.video, &seen.video), Comparison::of(&made.audio, &seen.audio));
    let gaps = [server.gaps("closed").await, server.gaps("silent").await].concat();
    let protocol = match are_srt {
        [false, false] => "RTMP + RTMP",
        [false, true] => "RTMP + SRT (2 % loss)",
        _ => "SRT + SRT (2 % loss)",
    };
    let lost = format!(
        "{} of {} pictures, {} of {} frames of sound, {breaks} discontinuities",
        video.missing + video.again + video.strange,
        video.seen,
        audio.missing + audio.again + audio.strange,
        audio.seen
    );
    let is_met = video.is_whole() && audio.is_whole() && felt[0] == 0 && breaks == 0;
    row(&format!("same encode, {protocol}, {harm:?}"), done, &lost, Some(felt), &gaps, is_met)
}

fn encoder(url: &str, size: &str, tone: u32) -> Program {
    let picture = format!("testsrc2=size={size}:rate=30");
    let sound = format!("sine=frequency={tone}:sample_rate=48000");
    let words =
        ["-hide_banner", "-loglevel", "error", "-nostdin", "-re", "-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i"];
    let codecs = "-c:v libx264 -preset ultrafast -g 60 -bf 2 -sc_threshold 0 -pix_fmt yuv420p -b:v 800k -c:a aac -b:a 96k -f flv";
    // Two encoders with one picture and the same settings would make the same bytes.
    let filter = if tone == 880 { "negate" } else { "null" };
    let words = words.into_iter().chain([&sound[..], "-vf", filter]).chain(codecs.split(' ')).chain([url]);
    Program::start(Ffmpeg::Debian.path(), words)
}

/// Two encoders with the same settings (or another size): the first dies or is silent, and gets the stream back.
async fn two_encoders(program: &Path, folder: &Path, rounds: usize, is_silent: bool, size: &str) -> bool {
    let server = Server::start(program, folder, "[slate]\nenabled = false\n[streams]\nhold_down_seconds = 2\n").await;
    let cable = Cable::to(server.rtmp).await;
    let first = format!("rtmp://{}/live/{}", cable.address, server.key(0).await);
    let second = format!("rtmp://{}/live/{}", server.rtmp, server.key(1).await);
    let mut preferred = Some(encoder(&first, "640x360", 440));
    server.legs("healthy feeding", 1).await;
    let _backup = encoder(&second, size, 880);
    server.legs("healthy standby", 1).await;
    seconds(5.0).await;
    let began = Instant::now();
    let length = u64::try_from(rounds).expect("few") * 16 + 10;
    let player = Player::watch(&server, length);
    seconds(2.0).await;
    let mut breaks = 0;
    let mut done = 0;
    let mut random = Random(88_172_645_463_325_252);
    while done < rounds && began.elapsed() < Duration::from_secs(length - 14) {
        seconds(up_to(&mut random, 2.0)).await;
        let before = discontinuities(&media_playlist(&server).await);
        if is_silent {
            cable.stall(Duration::from_millis(1500)).await;
        } else if let Some(encoder) = preferred.take() {
            encoder.kill().await;
            seconds(1.0).await;
            preferred = Some(encoder_again(&first));
        }
        done += 1;
        server.legs("healthy standby", 1).await;
        seconds(5.5).await; // the hold-down, and a keyframe
        breaks += discontinuities(&media_playlist(&server).await).saturating_sub(before);
    }
    let felt = player.felt().await;
    let gaps = server.gaps(if is_silent { "silent" } else { "closed" }).await;
    let returns = server.gaps("preferred").await.len();
    let worst = gaps.iter().max().copied().unwrap_or(u64::MAX);
    let same = size == "640x360";
    let is_met = worst <= 1000 && (!same || breaks == 0 && felt[1] <= 1000);
    let harm = if is_silent { "is silent for 1.5 s" } else { "is killed, returns after 1 s" };
    let kind = if same { "two encoders, same settings".to_owned() } else { format!("backup of {size}") };
    let lost = format!("{breaks} discontinuities, {returns} returns");
    row(&format!("{kind}: the first {harm}"), done, &lost, Some(felt), &gaps, is_met)
}

fn encoder_again(url: &str) -> Program {
    encoder(url, "640x360", 440)
}

/// The only source dies: the slate, and the program again.
async fn slate(program: &Path, folder: &Path, rounds: usize, is_silent: bool) -> bool {
    let server = Server::start(program, folder, "").await;
    let cable = Cable::to(server.rtmp).await;
    let url = server.rtmp_url(cable.address).await;
    let mut source = Some(encoder(&url, "640x360", 440));
    server.legs("healthy feeding rtmp", 1).await;
    seconds(5.0).await; // the slate is made
    let length = u64::try_from(rounds).expect("few") * 14 + 10;
    let player = Player::watch(&server, length);
    let began = Instant::now();
    seconds(2.0).await;
    let mut done = 0;
    while done < rounds && began.elapsed() < Duration::from_secs(length - 12) {
        if is_silent {
            cable.hold();
        } else if let Some(encoder) = source.take() {
            encoder.kill().await;
        }
        server.legs("feeding slate", 1).await;
        seconds(2.0).await;
        if is_silent {
            cable.resume();
        } else {
            source = Some(encoder_again(&url));
        }
        server.legs("healthy feeding rtmp", 1).await;
        done += 1;
        seconds(2.5).await;
    }
    let felt = player.felt().await;
    let gaps = server.gaps(if is_silent { "silent" } else { "closed" }).await;
    let aim = if is_silent { 2200 } else { 700 };
    let is_met = gaps.len() >= done && gaps.iter().all(|gap| *gap <= aim);
    let harm = if is_silent { "is silent" } else { "is killed" };
    let back = server.gaps("recovered").await;
    let lost = format!("back: at most {} ms", back.iter().max().copied().unwrap_or(0));
    row(&format!("the only source {harm}: slate"), done, &lost, Some(felt), &gaps, is_met)
}

/// Minutes in which a source comes and goes, and the slate stands in: the latency and the memory at the end are those of the beginning.
async fn alternation(program: &Path, folder: &Path, minutes: usize) -> bool {
    let server = Server::start(program, folder, "").await;
    let url = server.rtmp_url(server.rtmp).await;
    let mut source = Some(encoder_again(&url));
    server.legs("healthy feeding rtmp", 1).await;
    seconds(5.0).await; // the slate is made
    let length = u64::try_from(minutes).expect("few") * 60;
    let player = Player::watch(&server, length);
    let (began, mut random) = (Instant::now(), Random(88_172_645_463_325_252));
    let (mut done, mut memory) = (0, None);
    while began.elapsed() < Duration::from_secs(length - 20) {
        if began.elapsed() > Duration::from_secs(length / 4).min(Duration::from_mins(2)) && memory.is_none() {
            memory = Some(server.resident_mib());
        }
        seconds(2.0 + up_to(&mut random, 6.0)).await;
        match source.take() {
            Some(encoder) => {
                encoder.kill().await;
                server.legs("feeding slate", 1).await;
            }
            None => {
                source = Some(encoder_again(&url));
                server.legs("healthy feeding rtmp", 1).await;
            }
        }
        done += 1;
    }
    let (before, after) = (memory.unwrap_or(0), server.resident_mib());
    let (felt, growth) = player.felt_and_growth().await;
    let gaps = server.gaps("closed").await;
    let is_met = felt[1] <= 1000 && growth.abs() <= 20 && after <= before + before / 10;
    let lost = format!("latency grows by {growth} ms a minute; memory {before} → {after} MiB");
    row(&format!("a source comes and goes for {minutes} min"), done, &lost, Some(felt), &gaps, is_met)
}

/// An encoder that sends one picture every three seconds, and sound.
async fn sparse(program: &Path, folder: &Path) -> bool {
    let server = Server::start(program, folder, "").await;
    let url = server.rtmp_url(server.rtmp).await;
    let words = "-hide_banner -loglevel error -nostdin -re -f lavfi -i testsrc2=size=640x360:rate=1/3 -f lavfi -i \
        anoisesrc=sample_rate=48000:amplitude=0.1 -c:v libx264 -preset ultrafast -tune zerolatency -g 1 -pix_fmt yuv420p \
        -c:a aac -b:a 96k -f flv";
    let _source = Program::start(Ffmpeg::Debian.path(), words.split_whitespace().chain([&*url]));
    server.legs("healthy feeding rtmp", 1).await;
    media_playlist(&server).await;
    let player = Player::watch(&server, 40);
    let felt = player.felt().await;
    let text = media_playlist(&server).await;
    let gaps = text.lines().filter(|line| *line == "#EXT-X-GAP").count();
    let switches =
        server.tell(&["events", "show", "--limit", "1000", "--json"]).await.matches("stream.switched").count();
    let lost = format!("{} discontinuities, {gaps} gaps, {switches} switch", discontinuities(&text));
    let is_met = felt[1] <= 500 && gaps == 0 && discontinuities(&text) == 0 && switches == 1;
    row("one picture every 3 s, for 40 s", 1, &lost, Some(felt), &[], is_met)
}

/// A blip of the network on the only path.
async fn blip(program: &Path, folder: &Path, millis: u64) -> bool {
    let server = Server::start(program, folder, "[slate]\nenabled = false\n").await;
    let cable = Cable::to(server.rtmp).await;
    let making = Making { seconds: 34, ..Making::default() };
    let url = server.rtmp_url(cable.address).await;
    let source = Source::start(making, &folder.join("made.mkv"), &[("flv", url)]);
    server.legs("healthy feeding", 1).await;
    seconds(5.0).await;
    let witness = Witness::watch(server.http, "show", &folder.join("seen.txt"));
    let player = Player::watch(&server, 22);
    seconds(4.0).await;
    cable.stall(Duration::from_millis(millis)).await;
    let felt = player.felt().await;
    let made = source.made().await;
    seconds(3.0).await;
    let seen = witness.seen().await;
    let (video, audio) = (Comparison::of(&made.video, &seen.video), Comparison::of(&made.audio, &seen.audio));
    let lost = format!("{} pictures, {} frames of sound", video.missing, audio.missing);
    let is_met = video.again == 0 && (millis > 1000 || video.missing == 0);
    row(&format!("the only path stands still for {millis} ms"), 1, &lost, Some(felt), &[], is_met)
}

/// The server is killed and started again.
async fn restart(program: &Path, folder: &Path, rounds: usize) -> bool {
    let mut server = Server::start(program, folder, "[slate]\nenabled = false\n").await;
    let url = server.rtmp_url(server.rtmp).await;
    let mut names = std::collections::HashMap::new();
    let mut twice = 0;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let source = encoder(&url, "640x360", 440);
        server.legs("healthy feeding", 1).await;
        seconds(6.0).await;
        let text = media_playlist(&server).await;
        // A window may list what was there before; a name with other bytes is what must not be.
        for name in text.lines().filter(|line| !line.starts_with('#') && line.contains(".m4s")) {
            let bytes = testkit::http::get(server.http, &media_path(&server, name).await).await.body;
            let before = names.insert(name.to_owned(), bytes.clone());
            twice += usize::from(before.is_some_and(|before| before != bytes));
        }
        let died = Instant::now();
        server = server.restart().await;
        times.push(u64::try_from(died.elapsed().as_millis()).expect("short"));
        drop(source);
        seconds(1.0).await;
    }
    let lost = format!("{twice} names used twice");
    row("the server is killed and started again: time until it listens", rounds, &lost, None, &times, twice == 0)
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, rounds, wanted @ ..] = arguments.as_slice() else {
        eprintln!("drills PROGRAM ROUNDS [DRILL…]");
        return ExitCode::from(2);
    };
    let (program, rounds) = (Path::new(program), rounds.parse::<usize>().expect("a number"));
    let folder = std::env::temp_dir().join(format!("throughline-drills-{}", std::process::id()));
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|known| known == name);
    println!(
        "| what happens | times | lost | stalls (longest), holes: the probe | gap in the program, median / worst |"
    );
    println!("| --- | --- | --- | --- | --- |");
    let few = rounds.div_ceil(10);
    let mut is_met = true;
    if is_wanted("copies") {
        for harm in [Harm::Kill, Harm::BlackHole, Harm::Stall] {
            is_met &= two_paths(program, &folder, rounds, harm, [false, false]).await;
        }
        is_met &= two_paths(program, &folder, rounds, Harm::Kill, [false, true]).await;
    }
    if is_wanted("loss") {
        is_met &= two_paths(program, &folder, rounds, Harm::Loss, [true, true]).await;
    }
    if is_wanted("encoders") {
        is_met &= two_encoders(program, &folder, few, false, "640x360").await;
        is_met &= two_encoders(program, &folder, few, true, "640x360").await;
        is_met &= two_encoders(program, &folder, few, false, "320x180").await;
    }
    if is_wanted("slate") {
        is_met &= slate(program, &folder, few, false).await;
        is_met &= slate(program, &folder, few, true).await;
    }
    if is_wanted("blip") {
        for millis in [200, 800, 1000, 3000, 10_000] {
            is_met &= blip(program, &folder, millis).await;
        }
    }
    if is_wanted("sparse") {
        is_met &= sparse(program, &folder).await;
    }
    if wanted.iter().any(|known| known == "alternation") {
        is_met &= alternation(program, &folder, rounds).await;
    }
    if is_wanted("restart") {
        is_met &= restart(program, &folder, few).await;
    }
    let _ = std::fs::remove_dir_all(&folder);
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
