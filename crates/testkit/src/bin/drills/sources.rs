//! Encoders and servers that die and return.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use testkit::cable::Cable;
use testkit::programs::{Ffmpeg, Program};
use testkit::relay::Random;
use testkit::witness::Witness;

use crate::paths::SEED;
use crate::server::{Event, Server, discontinuities, media_path, media_playlist};
use crate::watching::{Harms, Players, Row, is_detection, is_switch, seconds, up_to};

/// What the second encoder is beside the first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backup {
    /// It has the same settings.
    Alike,
    /// Its picture has another size.
    Smaller,
    /// Its picture has another codec.
    Vp9,
}

/// A picture and a tone, until it is killed.
pub(crate) fn encoder(url: &str) -> Program {
    encode(url, "640x360", "null", 440, Ffmpeg::Debian, H264)
}

const H264: &str = "libx264 -preset ultrafast -g 60 -bf 2 -sc_threshold 0";

impl Backup {
    /// Nothing that it makes is the same as of the first encoder, which would be a copy.
    pub(crate) fn encoder(self, url: &str) -> Program {
        let size = if self == Self::Smaller { "320x180" } else { "640x360" };
        match self {
            Self::Alike | Self::Smaller => encode(url, size, "negate", 880, Ffmpeg::Debian, H264),
            Self::Vp9 => {
                let codec = "libvpx-vp9 -deadline realtime -cpu-used 8 -g 60";
                encode(url, size, "negate", 880, Ffmpeg::Current, codec)
            }
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Alike => "two encoders, same settings",
            Self::Smaller => "a backup of 320x180 instead of 640x360",
            Self::Vp9 => "a backup with VP9 instead of H.264",
        }
    }
}

fn encode(url: &str, size: &str, filter: &str, tone: u32, ffmpeg: Ffmpeg, codec: &str) -> Program {
    let picture = format!("testsrc2=size={size}:rate=30");
    let sound = format!("sine=frequency={tone}:sample_rate=48000");
    let words =
        ["-hide_banner", "-loglevel", "error", "-nostdin", "-re", "-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i"];
    let words = words.into_iter().chain([&sound[..], "-vf", filter, "-c:v"]).chain(codec.split(' '));
    let rest = "-pix_fmt yuv420p -b:v 800k -c:a aac -b:a 96k -f flv";
    Program::start(ffmpeg.path(), words.chain(rest.split(' ')).chain([url]))
}

/// What a player that is not ours decoded in so many seconds, in words; whether it went on to the end, and no picture was later than a second
/// after the one before.
async fn decoded(witness: Witness, length: u64) -> (String, bool) {
    let seen = witness.seen().await;
    let ((span, longest, back), count) = (seen.pace(), seen.video.len());
    let is_to_the_end = span >= 1000 * (i64::try_from(length).expect("short") - 5);
    (format!("; {count} pictures decoded, at most {longest} ms apart"), is_to_the_end && longest <= 1000 && back == 0)
}

/// Two encoders: the first dies or is silent, and gets the stream back.
pub(crate) async fn two_encoders(
    program: &Path,
    folder: &Path,
    rounds: usize,
    is_silent: bool,
    backup: Backup,
) -> bool {
    let server = Server::start(program, folder, "[slate]\nenabled = false\n[streams]\nhold_down_seconds = 2\n").await;
    let cable = Cable::to(server.rtmp).await;
    let first = format!("rtmp://{}/live/{}", cable.address, server.key(0).await);
    let second = format!("rtmp://{}/live/{}", server.rtmp, server.key(1).await);
    let mut preferred = Some(encoder(&first));
    server.legs("healthy feeding", 1).await;
    let _backup = backup.encoder(&second);
    server.legs("healthy standby", 1).await;
    seconds(5.0).await;
    let began = Instant::now();
    let length = u64::try_from(rounds).expect("few") * 16 + 10;
    let players = Players::watch(&server, length);
    // FFmpeg's player does not take a second EXT-X-MAP.
    let witness = (backup == Backup::Alike).then(|| Witness::watch(server.http, "show", &folder.join("seen.txt")));
    seconds(2.0).await;
    let (mut harms, mut breaks, mut random) = (Harms::default(), 0, Random(SEED));
    while harms.count() < rounds && began.elapsed() < Duration::from_secs(length - 14) {
        seconds(up_to(&mut random, 2.0)).await;
        let before = discontinuities(&media_playlist(&server).await);
        harms.mark();
        if is_silent {
            cable.stall(Duration::from_millis(1500)).await;
        } else if let Some(died) = preferred.take() {
            died.kill().await;
            seconds(1.0).await;
            preferred = Some(encoder(&first));
        }
        server.legs("healthy standby", 1).await;
        seconds(5.5).await; // the hold-down, and a keyframe
        breaks += discontinuities(&media_playlist(&server).await).saturating_sub(before);
    }
    let felt = players.felt().await;
    let (seen, is_seen) = match witness {
        Some(witness) => decoded(witness, length).await,
        None => (String::new(), true),
    };
    let events = server.events().await;
    let gaps = server.gaps(&[if is_silent { "silent" } else { "closed" }]).await;
    let returns = server.gaps(&["preferred"]).await.len();
    let worst = gaps.iter().max().copied().unwrap_or(u64::MAX);
    let harm = if is_silent { "is silent for 1.5 s" } else { "is killed, returns after 1 s" };
    // There and back.
    let usual = if backup == Backup::Alike { 0 } else { 2 * harms.count() };
    let is_smooth = breaks == usual && returns == harms.count() && felt.longest() <= 1000;
    let row = Row {
        what: format!("{}: the first {harm}", backup.describe()),
        times: harms.count(),
        lost: format!("{breaks} discontinuities, {returns} returns{seen}"),
        gaps,
        detected: harms.until(&events, is_detection),
        switched: harms.until(&events, is_switch),
        is_met: harms.count() == rounds && worst <= 1000 && is_smooth && is_seen && felt.page_goes_on(),
        felt: Some(felt),
    };
    row.print()
}

/// The only source dies: the slate, and the program again.
pub(crate) async fn slate(program: &Path, folder: &Path, rounds: usize, is_silent: bool) -> bool {
    let server = Server::start(program, folder, "").await;
    let cable = Cable::to(server.rtmp).await;
    let url = server.rtmp_url(cable.address).await;
    let mut source = Some(encoder(&url));
    server.legs("healthy feeding rtmp", 1).await;
    seconds(5.0).await; // the slate is made
    let length = u64::try_from(rounds).expect("few") * 14 + 10;
    let players = Players::watch(&server, length);
    let began = Instant::now();
    seconds(2.0).await;
    let mut harms = Harms::default();
    while harms.count() < rounds && began.elapsed() < Duration::from_secs(length - 12) {
        harms.mark();
        if is_silent {
            cable.hold();
        } else if let Some(source) = source.take() {
            source.kill().await;
        }
        server.legs("feeding slate", 1).await;
        seconds(2.0).await;
        if is_silent {
            cable.resume();
        } else {
            source = Some(encoder(&url));
        }
        server.legs("healthy feeding rtmp", 1).await;
        seconds(2.5).await;
    }
    let felt = players.felt().await;
    let events = server.events().await;
    let switched = harms.until(&events, is_switch);
    let aim = if is_silent { 2200 } else { 700 };
    let harm = if is_silent { "is silent" } else { "is killed" };
    let back = server.gaps(&["recovered"]).await;
    let row = Row {
        what: format!("the only source {harm}: slate"),
        times: harms.count(),
        lost: format!("back: at most {} ms", back.iter().max().copied().unwrap_or(0)),
        gaps: server.gaps(&[if is_silent { "silent" } else { "closed" }]).await,
        detected: harms.until(&events, is_detection),
        is_met: harms.count() == rounds
            && switched.len() == rounds
            && back.iter().all(|gap| *gap <= 1000)
            && switched.iter().all(|after| *after <= aim)
            && felt.longest() <= aim
            && felt.page_goes_on(),
        switched,
        felt: Some(felt),
    };
    row.print()
}

/// The only source dies, and another one with times from zero is there at once.
pub(crate) async fn reconnect(program: &Path, folder: &Path, rounds: usize) -> bool {
    let server = Server::start(program, folder, "[slate]\nenabled = false\n").await;
    let url = server.rtmp_url(server.rtmp).await;
    let mut source = encoder(&url);
    server.legs("healthy feeding", 1).await;
    seconds(5.0).await;
    let length = u64::try_from(rounds).expect("few") * 7 + 10;
    let players = Players::watch(&server, length);
    let witness = Witness::watch(server.http, "show", &folder.join("seen.txt"));
    let began = Instant::now();
    seconds(2.0).await;
    let (mut harms, mut breaks, mut random) = (Harms::default(), 0, Random(SEED));
    while harms.count() < rounds && began.elapsed() < Duration::from_secs(length - 7) {
        seconds(up_to(&mut random, 2.0)).await;
        harms.mark();
        source.kill().await;
        source = encoder(&url);
        seconds(1.0).await;
        server.legs("healthy feeding", 1).await;
        seconds(3.0).await;
        breaks = breaks.max(discontinuities(&media_playlist(&server).await));
    }
    let felt = players.felt().await;
    let (seen, is_seen) = decoded(witness, length).await;
    let events = server.events().await;
    let row = Row {
        what: "the only encoder reconnects at once, its times begin at zero, no slate".to_owned(),
        times: harms.count(),
        lost: format!("{breaks} discontinuities{seen}"),
        gaps: server.gaps(&["joined"]).await.into_iter().skip(1).collect(),
        detected: harms.until(&events, is_detection),
        switched: harms.until(&events, is_switch),
        is_met: harms.count() == rounds && breaks == 0 && is_seen && felt.page_goes_on() && felt.longest() <= 1000,
        felt: Some(felt),
    };
    row.print()
}

/// Minutes in which a source comes and goes, and the slate stands in: neither latency nor memory grows. Of memory the middle of the last
/// quarter is compared with that of the second: the first fills what is kept of events and media.
pub(crate) async fn alternation(program: &Path, folder: &Path, minutes: usize) -> bool {
    let server = Server::start(program, folder, "").await;
    let url = server.rtmp_url(server.rtmp).await;
    let mut source = Some(encoder(&url));
    server.legs("healthy feeding rtmp", 1).await;
    seconds(5.0).await; // the slate is made
    let length = u64::try_from(minutes).expect("few") * 60;
    let players = Players::watch(&server, length);
    let (began, mut random) = (Instant::now(), Random(SEED));
    let mut memory = Vec::new();
    while began.elapsed() < Duration::from_secs(length - 20) {
        seconds(2.0 + up_to(&mut random, 6.0)).await;
        match source.take() {
            Some(source) => {
                source.kill().await;
                server.legs("feeding slate", 1).await;
            }
            None => {
                source = Some(encoder(&url));
                server.legs("healthy feeding rtmp", 1).await;
            }
        }
        memory.push(server.resident_kib());
    }
    let done = memory.len();
    let middle = |quarter: usize| {
        let mut sorted = memory[quarter * done / 4..(quarter + 1) * done / 4].to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    let (before, after) = (middle(1), middle(3));
    let felt = players.felt().await;
    let is_steady = felt.growth.abs() <= 20 && after <= before + before / 10;
    let row = Row {
        what: format!("a source comes and goes for {minutes} min"),
        times: done,
        lost: format!("latency grows by {} ms a minute; memory {before} → {after} KiB", felt.growth),
        gaps: server.gaps(&["closed"]).await,
        is_met: is_steady && felt.longest() <= 1000 && felt.page_goes_on(),
        felt: Some(felt),
        ..Row::default()
    };
    row.print()
}

/// An encoder that sends one picture every three seconds, and sound.
pub(crate) async fn sparse(program: &Path, folder: &Path) -> bool {
    let server = Server::start(program, folder, "").await;
    let url = server.rtmp_url(server.rtmp).await;
    let words = "-hide_banner -loglevel error -nostdin -re -f lavfi -i testsrc2=size=640x360:rate=1/3 -f lavfi -i \
        anoisesrc=sample_rate=48000:amplitude=0.1 -c:v libx264 -preset ultrafast -tune zerolatency -g 1 -pix_fmt yuv420p \
        -c:a aac -b:a 96k -f flv";
    let _source = Program::start(Ffmpeg::Debian.path(), words.split_whitespace().chain([&*url]));
    server.legs("healthy feeding rtmp", 1).await;
    media_playlist(&server).await;
    let felt = Players::watch(&server, 40).felt().await;
    let text = media_playlist(&server).await;
    let gaps = text.lines().filter(|line| *line == "#EXT-X-GAP").count();
    let switches = server.events().await.iter().filter(|event| is_switch(event)).count();
    let breaks = discontinuities(&text);
    let row = Row {
        what: "one picture every 3 s, for 40 s".to_owned(),
        times: 1,
        lost: format!("{breaks} discontinuities, {gaps} gaps, {switches} switch"),
        is_met: felt.is_nothing() && gaps + breaks == 0 && switches == 1,
        felt: Some(felt),
        ..Row::default()
    };
    row.print()
}

/// The server is killed and started again, and the encoder with it.
pub(crate) async fn restart(program: &Path, folder: &Path, rounds: usize) -> bool {
    let mut server = Server::start(program, folder, "[slate]\nenabled = false\n").await;
    let url = server.rtmp_url(server.rtmp).await;
    let mut names = HashMap::new();
    let mut twice = 0;
    let mut times = Vec::new();
    let mut source = encoder(&url);
    server.legs("healthy feeding", 1).await;
    seconds(3.0).await;
    let players = Players::watch(&server, u64::try_from(rounds).expect("few") * 12 + 12);
    seconds(3.0).await;
    let mut first_numbers = Vec::new();
    for _ in 0..rounds {
        let text = media_playlist(&server).await;
        let first = text.lines().find_map(|line| line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:")?.parse::<u64>().ok());
        first_numbers.push(first.expect("it has one"));
        // A window may list what was there before; a name with other bytes is what must not be.
        let segments = text.lines().filter(|line| !line.starts_with('#') && line.contains(".m4s"));
        let parts =
            text.lines().filter(|line| line.starts_with("#EXT-X-PART:")).filter_map(|line| line.split('"').nth(1));
        for name in segments.chain(parts) {
            let bytes = testkit::http::get(server.http, &media_path(&server, name).await).await.body;
            let before = names.insert(name.to_owned(), bytes.clone());
            twice += usize::from(before.is_some_and(|before| before != bytes));
        }
        let died = Instant::now();
        server = server.restart().await;
        times.push(u64::try_from(died.elapsed().as_millis()).expect("short"));
        source.kill().await;
        source = encoder(&url);
        server.legs("healthy feeding", 1).await;
        seconds(7.0).await;
    }
    let felt = players.felt().await;
    let is_told = |event: &&Event| event.kind == "stream.live" && event.text.contains("the server was away");
    let events = server.events().await;
    let told: Vec<u64> = events.iter().filter(is_told).filter_map(|event| event.gap_ms).collect();
    let listens = times.iter().max().unwrap_or(&0);
    let row = Row {
        what: "the server is killed and started again, and its encoder".to_owned(),
        times: rounds,
        lost: format!("{twice} names have other bytes than before; it listens after {listens} ms"),
        // Its encoder needs a second of that.
        is_met: twice == 0
            && first_numbers.is_sorted()
            && felt.page_goes_on()
            && felt.longest() <= 3000
            && told.len() == rounds,
        gaps: told,
        felt: Some(felt),
        ..Row::default()
    };
    row.print()
}
