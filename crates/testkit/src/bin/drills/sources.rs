//! Encoders and servers that die and return.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use testkit::cable::Cable;
use testkit::programs::{Ffmpeg, Program};
use testkit::reel::{Cut, Recorder, Track};
use testkit::relay::Random;
use testkit::witness::Hashes;

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

/// A picture and a sound that never repeat. Whenever it is started it makes the same.
#[derive(Clone, Copy)]
pub(crate) struct Encoder {
    size: &'static str,
    rate: &'static str,
    filter: &'static str,
    seed: u32,
    ffmpeg: Ffmpeg,
    codec: &'static str,
}

const H264: &str = "libx264 -preset ultrafast -g 60 -bf 2 -sc_threshold 0";
/// Pictures that come after a later one.
const REORDERED: usize = 2;

/// The usual one.
pub(crate) const FIRST: Encoder =
    Encoder { size: "640x360", rate: "30", filter: "null", seed: 1, ffmpeg: Ffmpeg::Debian, codec: H264 };

/// One that sends a picture every three seconds, and sound.
const SPARSE: Encoder = Encoder { rate: "1/3", codec: "libx264 -preset ultrafast -tune zerolatency -g 1", ..FIRST };

impl Backup {
    /// Nothing that it makes is the same as of the first encoder, which would be a copy.
    pub(crate) fn encoder(self) -> Encoder {
        let alike = Encoder { filter: "negate", seed: 2, ..FIRST };
        match self {
            Self::Alike => alike,
            Self::Smaller => Encoder { size: "320x180", ..alike },
            Self::Vp9 => {
                Encoder { ffmpeg: Ffmpeg::Current, codec: "libvpx-vp9 -deadline realtime -cpu-used 8 -g 60", ..alike }
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

impl Encoder {
    /// Sends, until it is killed.
    pub(crate) fn start(self, url: &str) -> Program {
        self.run(&["-re"], &["-f", "flv", url])
    }

    /// What it makes in so many seconds.
    async fn makes(self, seconds: u64, folder: &Path) -> Hashes {
        let file = folder.join("made.mkv");
        let file = file.to_str().expect("a plain path");
        let (is_done, _, error) =
            self.run(&[], &["-t", &seconds.to_string(), "-f", "matroska", "-y", file]).finish().await;
        assert!(is_done, "{error}");
        Hashes::of(file).await
    }

    fn run(self, pace: &[&str], output: &[&str]) -> Program {
        let Self { size, rate, filter, seed, ffmpeg, codec } = self;
        let picture = format!("testsrc2=size={size}:rate={rate}");
        let sound = format!("anoisesrc=sample_rate=48000:amplitude=0.1:seed={seed}");
        let words = ["-hide_banner", "-loglevel", "error", "-nostdin"].into_iter().chain(pace.iter().copied());
        let words = words.chain(["-f", "lavfi", "-i", &picture]).chain(pace.iter().copied());
        let words = words.chain(["-f", "lavfi", "-i", &sound, "-vf", filter, "-c:v"]).chain(codec.split(' '));
        let rest = "-pix_fmt yuv420p -b:v 800k -c:a aac -b:a 96k -flags +global_header";
        Program::start(ffmpeg.path(), words.chain(rest.split(' ')).chain(output.iter().copied()))
    }
}

/// What was played of what encoders made, decoded.
struct Played {
    video: Cut,
    audio: Cut,
    pictures: Track,
    sound: Track,
}

/// Longest that sound is away, in milliseconds: a frame and its rounding at a switch.
const SOUND_APART_MS: i64 = 50;

impl Played {
    /// Of encoders that each ran no longer than so many seconds at a time.
    async fn of(recorder: Recorder, encoders: &[Encoder], seconds: u64, folder: &Path) -> Self {
        let reel = recorder.reel().await;
        let mut made = Vec::new();
        for encoder in encoders {
            made.push(encoder.makes(seconds, folder).await);
        }
        Self::compare(reel, &made)
    }

    fn compare((pictures, sound): (Track, Track), made: &[Hashes]) -> Self {
        let video: Vec<_> = made.iter().map(|made| (&made.video[..], &made.shown_us[..])).collect();
        let audio: Vec<_> = made.iter().map(|made| (&made.audio[..], &made.heard_us[..])).collect();
        let (video, audio) = (Cut::of(&video, &pictures.units), Cut::of(&audio, &sound.units));
        Self { video, audio, pictures, sound }
    }

    /// Whether of each encoder nothing is missing, nothing came twice or in another order, and sound is where the picture is.
    fn is_right(&self, takes: usize) -> bool {
        self.is_right_over(takes, 0)
    }

    /// Likewise; the time of the program began anew so often.
    fn is_right_over(&self, takes: usize, restarts: usize) -> bool {
        let Self { video, audio, pictures, sound } = self;
        let is_whole = |cut: &Cut, lost| cut.takes.len() == takes && lost == 0 && cut.back == restarts;
        let tells = |cut: &Cut, track: &Track| 10 * cut.repeated < track.units.len();
        let faults = |track: &Track| track.undecoded + track.disordered;
        let drifts = audio.takes.iter().any(|take| take.varied_us > 25_000);
        let is_right = is_whole(video, video.missing(REORDERED))
            && is_whole(audio, audio.missing(0))
            && faults(pictures) + faults(sound) == 0
            && (pictures.gaps, pictures.discontinuities) == (sound.gaps, sound.discontinuities)
            && pictures.span_ms() >= 20_000
            && pictures.span_ms().abs_diff(sound.span_ms()) <= 4000
            && tells(video, pictures)
            && tells(audio, sound)
            && !drifts
            && video.apart_ms(audio).is_some_and(|apart| apart <= 40);
        if !is_right {
            let faults = [pictures, sound]
                .map(|track| (track.undecoded, track.disordered, track.gaps, track.discontinuities, track.span_ms()));
            eprintln!("{takes} takes were expected; pictures: {video:?}\nsound: {audio:?}\n{faults:?}");
            eprintln!("{:?} {:?}", pictures.kinds, sound.kinds);
        }
        is_right
    }

    /// Whether each segment could be fetched, and no picture was later than so many milliseconds after the one before, nor sound without one.
    fn is_dense(&self, longest_ms: i64) -> bool {
        let missed = self.pictures.missed + self.sound.missed;
        missed == 0 && self.video.longest_ms <= longest_ms && self.audio.longest_ms <= SOUND_APART_MS
    }

    /// Whether there are no pictures of anybody else, and no longer silence for each of so many switches than for a gap of a second.
    fn is_pure(&self, switches: usize) -> bool {
        self.video.strange == 0 && self.audio.strange <= switches * 48
    }

    fn describe(&self) -> String {
        let Self { video, audio, pictures, .. } = self;
        format!(
            "{} pictures in {} takes, {} missing, at most {} ms apart; sound: {} missing, at most {} ms apart, \
             {} ms beside the picture; of none of them: {} pictures, {} frames; {} discontinuities, {} gaps",
            pictures.units.len(),
            video.takes.len(),
            video.missing(REORDERED),
            video.longest_ms,
            audio.missing(0),
            audio.longest_ms,
            video.apart_ms(audio).unwrap_or(-1),
            video.strange,
            audio.strange,
            pictures.discontinuities,
            pictures.gaps
        )
    }
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
    let mut preferred = Some(FIRST.start(&first));
    server.legs("healthy feeding", 1).await;
    let _backup = backup.encoder().start(&second);
    server.legs("healthy standby", 1).await;
    seconds(5.0).await;
    let began = Instant::now();
    let length = u64::try_from(rounds).expect("few") * 16 + 10;
    let players = Players::watch(&server, length);
    let recorder = Recorder::start(server.http, "show", folder);
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
            preferred = Some(FIRST.start(&first));
        }
        server.legs("healthy standby", 1).await;
        seconds(5.5).await; // the hold-down, and a keyframe
        breaks += discontinuities(&media_playlist(&server).await).saturating_sub(before);
    }
    let felt = players.felt().await;
    let played = Played::of(recorder, &[FIRST, backup.encoder()], length + 60, folder).await;
    let events = server.events().await;
    let gaps = server.gaps(&[if is_silent { "silent" } else { "closed" }]).await;
    let returns = server.gaps(&["preferred"]).await.len();
    let worst = gaps.iter().max().copied().unwrap_or(u64::MAX);
    let harm = if is_silent { "is silent for 1.5 s" } else { "is killed, returns after 1 s" };
    // There and back.
    let usual = if backup == Backup::Alike { 0 } else { 2 * harms.count() };
    let is_smooth = breaks == usual && returns == harms.count() && felt.longest() <= 1000;
    let is_seen = played.is_right(1 + 2 * harms.count()) && played.is_dense(1000) && played.is_pure(2 * rounds);
    let row = Row {
        what: format!("{}: the first {harm}", backup.describe()),
        times: harms.count(),
        lost: format!("{returns} returns; {}", played.describe()),
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
    let mut source = Some(FIRST.start(&url));
    server.legs("healthy feeding rtmp", 1).await;
    seconds(5.0).await; // the slate is made
    let recorder = Recorder::start(server.http, "show", folder);
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
            source = Some(FIRST.start(&url));
        }
        server.legs("healthy feeding rtmp", 1).await;
        seconds(2.5).await;
    }
    let felt = players.felt().await;
    let played = Played::of(recorder, &[FIRST], length + 60, folder).await;
    let events = server.events().await;
    let switched = harms.until(&events, is_switch);
    let aim: u16 = if is_silent { 2200 } else { 700 };
    let harm = if is_silent { "is silent" } else { "is killed" };
    let back = server.gaps(&["recovered"]).await;
    let row = Row {
        what: format!("the only source {harm}: slate"),
        times: harms.count(),
        lost: format!("back: at most {} ms; {}", back.iter().max().copied().unwrap_or(0), played.describe()),
        gaps: server.gaps(&[if is_silent { "silent" } else { "closed" }]).await,
        detected: harms.until(&events, is_detection),
        is_met: harms.count() == rounds
            && switched.len() == rounds
            && played.is_right(1 + rounds)
            && played.is_dense(aim.into())
            && played.pictures.kinds.len() == 1 // the slate's are the source's
            && played.sound.kinds.len() == 1
            && back.iter().all(|gap| *gap <= 1000)
            && switched.iter().all(|after| *after <= aim.into())
            && felt.longest() <= aim.into()
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
    let mut source = FIRST.start(&url);
    server.legs("healthy feeding", 1).await;
    seconds(5.0).await;
    let length = u64::try_from(rounds).expect("few") * 7 + 10;
    let players = Players::watch(&server, length);
    let recorder = Recorder::start(server.http, "show", folder);
    let began = Instant::now();
    seconds(2.0).await;
    let (mut harms, mut breaks, mut random) = (Harms::default(), 0, Random(SEED));
    while harms.count() < rounds && began.elapsed() < Duration::from_secs(length - 7) {
        seconds(up_to(&mut random, 2.0)).await;
        harms.mark();
        source.kill().await;
        source = FIRST.start(&url);
        seconds(1.0).await;
        server.legs("healthy feeding", 1).await;
        seconds(3.0).await;
        breaks = breaks.max(discontinuities(&media_playlist(&server).await));
    }
    let felt = players.felt().await;
    let played = Played::of(recorder, &[FIRST], length + 30, folder).await;
    let is_seen = played.is_right(1 + rounds) && played.is_dense(1000) && played.is_pure(rounds);
    let events = server.events().await;
    let row = Row {
        what: "the only encoder reconnects at once, its times begin at zero, no slate".to_owned(),
        times: harms.count(),
        lost: played.describe(),
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
    let mut source = Some(FIRST.start(&url));
    server.legs("healthy feeding rtmp", 1).await;
    seconds(5.0).await; // the slate is made
    let length = u64::try_from(minutes).expect("few") * 60;
    let recorder = Recorder::start(server.http, "show", folder);
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
                source = Some(FIRST.start(&url));
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
    let played = Played::of(recorder, &[FIRST], 60, folder).await;
    let is_steady = felt.growth.abs() <= 20 && after <= before + before / 10;
    let row = Row {
        what: format!("a source comes and goes for {minutes} min"),
        times: done,
        lost: format!(
            "latency grows by {} ms a minute; memory {before} → {after} KiB; {}",
            felt.growth,
            played.describe()
        ),
        gaps: server.gaps(&["closed"]).await,
        is_met: is_steady
            && played.is_right(1 + done / 2)
            && played.is_dense(1000)
            && felt.longest() <= 1000
            && felt.page_goes_on(),
        felt: Some(felt),
        ..Row::default()
    };
    row.print()
}

/// An encoder that sends one picture every three seconds, and sound.
pub(crate) async fn sparse(program: &Path, folder: &Path) -> bool {
    let server = Server::start(program, folder, "").await;
    let url = server.rtmp_url(server.rtmp).await;
    let _source = SPARSE.start(&url);
    server.legs("healthy feeding rtmp", 1).await;
    media_playlist(&server).await;
    let recorder = Recorder::start(server.http, "show", folder);
    let felt = Players::watch(&server, 40).felt().await;
    let played = Played::of(recorder, &[SPARSE], 120, folder).await;
    let text = media_playlist(&server).await;
    let gaps = text.lines().filter(|line| *line == "#EXT-X-GAP").count();
    let switches = server.events().await.iter().filter(|event| is_switch(event)).count();
    let breaks = discontinuities(&text);
    let row = Row {
        what: "one picture every 3 s, for 40 s".to_owned(),
        times: 1,
        lost: format!("{switches} switch; {}", played.describe()),
        is_met: felt.is_nothing()
            && played.is_right(1)
            && played.is_dense(3001)
            && played.is_pure(0)
            && gaps + breaks == 0
            && switches == 1,
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
    let mut source = FIRST.start(&url);
    server.legs("healthy feeding", 1).await;
    seconds(3.0).await;
    let recorder = Recorder::start(server.http, "show", folder);
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
        source = FIRST.start(&url);
        server.legs("healthy feeding", 1).await;
        seconds(7.0).await;
    }
    let felt = players.felt().await;
    let played = Played::of(recorder, &[FIRST], 120, folder).await;
    let is_told = |event: &&Event| event.kind == "stream.live" && event.text.contains("the server was away");
    let events = server.events().await;
    let told: Vec<u64> = events.iter().filter(is_told).filter_map(|event| event.gap_ms).collect();
    let listens = times.iter().max().unwrap_or(&0);
    let row = Row {
        what: "the server is killed and started again, and its encoder".to_owned(),
        times: rounds,
        lost: format!(
            "{twice} names have other bytes than before; it listens after {listens} ms; {}",
            played.describe()
        ),
        // Its encoder needs a second of that.
        is_met: twice == 0
            && played.is_right_over(1 + rounds, rounds)
            && played.is_pure(rounds)
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

/// A real OBS Studio, whose recording tells what it made: its only path stands still, and nothing is lost.
pub(crate) async fn obs(program: &Path, folder: &Path) -> bool {
    let server = Server::start(program, folder, "[slate]\nenabled = false\n").await;
    let cable = Cable::to(server.rtmp).await;
    let path = |name: &str| folder.join(name).to_str().expect("a plain path").to_owned();
    let (clip, record) = (path("clip.mkv"), path("recorded"));
    std::fs::create_dir_all(&record).expect("a folder");
    let (is_done, _, error) = FIRST.run(&[], &["-t", "90", "-f", "matroska", &clip]).finish().await;
    assert!(is_done, "{error}");
    let (clip, home, kept) = (format!("CLIP={clip}"), format!("HOME_RIG={}", path("obs")), format!("RECORD={record}"));
    let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/obs.sh");
    let (to, key) = (format!("rtmp://{}/live", cable.address), server.key(0).await);
    let obs = Program::start("/usr/bin/env", [&*clip, &home, &kept, "bash", tool, &to, &key, "60"]);
    server.legs("healthy feeding", 1).await;
    seconds(5.0).await;
    let recorder = Recorder::start(server.http, "show", folder);
    let players = Players::watch(&server, 30);
    let mut harms = Harms::default();
    for _ in 0..3 {
        seconds(6.0).await;
        harms.mark();
        cable.stall(Duration::from_millis(800)).await;
    }
    let felt = players.felt().await;
    let reel = recorder.reel().await;
    let (_, said, error) = obs.finish().await;
    let recorded = std::fs::read_dir(&record).expect("a folder").flatten().next().unwrap_or_else(|| {
        panic!("OBS recorded nothing: {said} {error}");
    });
    let made = Hashes::of(recorded.path().to_str().expect("a plain path")).await;
    let played = Played::compare(reel, &[made]);
    let row = Row {
        what: "OBS over RTMP: its path stands still for 0.8 s".to_owned(),
        times: harms.count(),
        lost: played.describe(),
        detected: harms.until(&server.events().await, is_detection),
        is_met: played.is_right(1)
            && played.is_dense(34)
            && played.is_pure(0)
            && felt.page_goes_on()
            && felt.longest() <= 800, // as long as the path
        felt: Some(felt),
        ..Row::default()
    };
    row.print()
}
