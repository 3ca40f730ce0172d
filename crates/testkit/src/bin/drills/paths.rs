//! Paths that die, lose or stand still, and publishers that trouble others.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use testkit::cable::Cable;
use testkit::relay::{Line, Random, Relay};
use testkit::witness::{Comparison, Making, Source, Witness};

use crate::server::{Server, discontinuities, media_playlist};
use crate::sources::Backup;
use crate::watching::{Harms, Players, Row, is_detection, is_switch, seconds, up_to};

/// What is done to one of two paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
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

/// Where and when harm is done is drawn from this.
pub(crate) const SEED: u64 = 88_172_645_463_325_252;

/// Of 1,000 datagrams so many are lost on an SRT path that is well; of 1,000 packets, on any path that is not.
const LOSS_PER_MILLE: u64 = 20;
/// One way. SRT's usual latency of 120 ms is six round trips of it (four are recommended): a path that is well loses nothing by itself, and is
/// less than 200 ms later than one over RTMP.
const SRT_DELAY_MS: u64 = 10;
const BAD_LOSS_PER_MILLE: u64 = 300;
const BAD_LOSS: Duration = Duration::from_millis(2500);
/// Either end of SRT gives the other one up after five seconds; whoever sends calls again.
const SRT_DEAD_SECONDS: f64 = 7.0;

/// Two paths of one encode: what they are, and by how many milliseconds one is longer than the other.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) are_srt: [bool; 2],
    pub(crate) delays: [u64; 2],
}

impl Way {
    async fn open(server: &Server, is_srt: bool, delay: u64, seed: u64) -> Self {
        if !is_srt {
            return Self::Rtmp(Cable::with_delay(server.rtmp, Duration::from_millis(delay)).await);
        }
        let line = Line {
            delay: Duration::from_millis(SRT_DELAY_MS + delay),
            loss_per_mille: LOSS_PER_MILLE,
            ..Line::default()
        };
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
            (Self::Rtmp(cable), Harm::Kill) => cable.cut(),
            (Self::Rtmp(cable), Harm::BlackHole) => {
                cable.hold();
                seconds(1.0).await;
                cable.cut();
                cable.resume();
            }
            (Self::Rtmp(cable), Harm::Stall) => cable.stall(Duration::from_secs(2)).await,
            (Self::Rtmp(cable), Harm::Loss) => cable.lose(BAD_LOSS_PER_MILLE, BAD_LOSS).await,
            (Self::Srt(relay), Harm::Loss) => {
                relay.set_loss(BAD_LOSS_PER_MILLE).await;
                tokio::time::sleep(BAD_LOSS).await;
                relay.set_loss(LOSS_PER_MILLE).await;
            }
            (Self::Srt(relay), harm) => {
                relay.cut.store(true, Ordering::Relaxed);
                seconds(if harm == Harm::Kill { SRT_DEAD_SECONDS } else { 1.5 }).await;
                relay.cut.store(false, Ordering::Relaxed);
            }
        }
    }
}

/// What ffmpeg decoded beside what the encoder made: in words, pictures, sound.
async fn compared(source: Source, witness: Witness) -> (String, Comparison, Comparison) {
    let made = source.made().await;
    seconds(3.0).await;
    let seen = witness.seen().await;
    let (video, audio) = (Comparison::of(&made.video, &seen.video), Comparison::of(&made.audio, &seen.audio));
    if !video.is_whole() || !audio.is_whole() {
        // Beside the table, for whoever looks for the reason.
        eprintln!("pictures: {video:?}, sound: {audio:?}");
        let leaps = [Comparison::leaps(&made.video, &seen.video), Comparison::leaps(&made.audio, &seen.audio)];
        eprintln!("of pictures: {:?}, of sound: {:?}", leaps[0], leaps[1]);
    }
    let lost = |of: Comparison| of.missing + of.again + of.strange;
    let all = |of: Comparison| of.seen + of.missing;
    let text = format!("{} of {} pictures, {} of {} frames of sound", lost(video), all(video), lost(audio), all(audio));
    (text, video, audio)
}

/// The same encode over two paths, each harmed in turn at random points.
pub(crate) async fn two_paths(program: &Path, folder: &Path, rounds: usize, harm: Harm, pair: Pair) -> bool {
    let Pair { are_srt, delays } = pair;
    let server = Server::start(program, folder, "[slate]\nenabled = false\n").await;
    let key = server.key(0).await;
    let ways = [Way::open(&server, are_srt[0], delays[0], 9).await, Way::open(&server, are_srt[1], delays[1], 5).await];
    let outputs = ways.each_ref().map(|way| way.output(&key));
    // Seconds that a round takes on average, and some more; the last rounds have what the first ones left.
    let round = match (harm, are_srt.iter().filter(|is_srt| **is_srt).count()) {
        (Harm::Kill, 0) => 3,
        (Harm::Kill, 1) => 7,
        (Harm::Kill, _) => 12,
        (Harm::BlackHole | Harm::Stall, _) => 5,
        (Harm::Loss, _) => 6,
    };
    let length = u32::try_from(rounds).expect("few") * round + 26;
    let making = Making { seconds: length, ..Making::default() };
    let source = Source::start(making, &folder.join("made.mkv"), &outputs);
    server.legs("healthy copy", 1).await;
    seconds(2.0).await;
    let began = Instant::now();
    let players = Players::watch(&server, u64::from(length) - 12);
    seconds(4.0).await; // a browser that starts takes both cores, and the paths with them
    let witness = Witness::watch(server.http, "show", &folder.join("seen.txt"));
    let mut random = Random(SEED);
    let (mut harms, mut breaks) = (Harms::default(), 0);
    while harms.count() < rounds && began.elapsed() < Duration::from_secs(u64::from(length) - 16) {
        let way = &ways[harms.count() % 2];
        harms.mark();
        way.harm(harm).await;
        seconds(0.6).await; // what was done has been noticed
        server.legs("healthy copy", 1).await;
        seconds(0.2 + up_to(&mut random, 1.5)).await;
        breaks = breaks.max(discontinuities(&media_playlist(&server).await));
    }
    let felt = players.felt().await;
    let (lost, video, audio) = compared(source, witness).await;
    let events = server.events().await;
    let protocol = match are_srt {
        [false, false] => "RTMP + RTMP",
        [false, true] => "RTMP + SRT (its 2 % loss)",
        _ => "SRT + SRT (2 % loss)",
    };
    let row = Row {
        what: format!("same encode, {protocol}, {} ms apart, {harm:?}", delays[0].abs_diff(delays[1])),
        times: harms.count(),
        lost: format!("{lost}, {breaks} discontinuities"),
        gaps: server.gaps(&["closed", "silent"]).await,
        detected: harms.until(&events, is_detection),
        switched: harms.until(&events, is_switch),
        is_met: harms.count() == rounds && video.is_whole() && audio.is_whole() && felt.is_nothing() && breaks == 0,
        felt: Some(felt),
    };
    if !row.is_met {
        events.iter().for_each(|event| eprintln!("{} {} {}", event.utc_ms, event.kind, event.text));
    }
    row.print()
}

/// A backup that comes and goes every second beside a source that is well.
pub(crate) async fn flaps(program: &Path, folder: &Path, rounds: usize) -> bool {
    let server = Server::start(program, folder, "[slate]\nenabled = false\n").await;
    let backup = format!("rtmp://{}/live/{}", server.rtmp, server.key(1).await);
    let url = server.rtmp_url(server.rtmp).await;
    let what = ("a backup that comes and goes every second", false);
    beside_a_source(&server, folder, rounds, &[url], what, async || {
        let encoder = Backup::Alike.encoder().start(&backup);
        seconds(1.0).await;
        encoder.kill().await;
    })
    .await
}

/// Somebody who knows the key publishes beside the two paths of its owner.
pub(crate) async fn leaked_key(program: &Path, folder: &Path, rounds: usize) -> bool {
    let server = Server::start(program, folder, "[slate]\nenabled = false\n").await;
    let url = server.rtmp_url(server.rtmp).await;
    let what = ("a third publisher has the key of two paths", true);
    beside_a_source(&server, folder, rounds, &[url.clone(), url.clone()], what, async || {
        let _thief = Backup::Alike.encoder().start(&url);
        seconds(2.0).await;
    })
    .await
}

/// What others do must not be seen by anybody who watches a source that is well.
async fn beside_a_source(
    server: &Server,
    folder: &Path,
    rounds: usize,
    urls: &[String],
    (what, is_refused): (&str, bool),
    mut trouble: impl AsyncFnMut(),
) -> bool {
    let length = u32::try_from(rounds).expect("few") * 3 + 24;
    let making = Making { seconds: length, ..Making::default() };
    let outputs: Vec<_> = urls.iter().map(|url| ("flv", url.clone())).collect();
    let source = Source::start(making, &folder.join("made.mkv"), &outputs);
    server.legs("healthy", urls.len()).await;
    seconds(4.0).await;
    let witness = Witness::watch(server.http, "show", &folder.join("seen.txt"));
    let began = Instant::now();
    let players = Players::watch(server, u64::from(length) - 14);
    seconds(2.0).await;
    let (mut harms, mut breaks) = (Harms::default(), 0);
    while harms.count() < rounds && began.elapsed() < Duration::from_secs(u64::from(length) - 16) {
        harms.mark();
        trouble().await;
        seconds(0.2).await;
        breaks = breaks.max(discontinuities(&media_playlist(server).await));
    }
    let felt = players.felt().await;
    let events = server.events().await; // when the source ends, the first path that does may be switched from
    let (lost, video, audio) = compared(source, witness).await;
    let count = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
    let (refused, switches) = (count("leg.refused"), count("stream.switched"));
    let row = Row {
        what: what.to_owned(),
        times: harms.count(),
        lost: format!("{lost}, {breaks} discontinuities; {refused} refused, {switches} switch"),
        detected: harms.until(&events, |event| event.kind == "leg.refused" || is_detection(event)),
        is_met: harms.count() == rounds
            && is_refused == (refused >= rounds)
            && video.is_whole()
            && audio.is_whole()
            && felt.is_nothing()
            && breaks == 0
            && switches == 1,
        felt: Some(felt),
        ..Row::default()
    };
    row.print()
}

/// A blip of the network on the only path.
pub(crate) async fn blip(program: &Path, folder: &Path, millis: u64) -> bool {
    let server = Server::start(program, folder, "[slate]\nenabled = false\n").await;
    let cable = Cable::to(server.rtmp).await;
    let making = Making { seconds: 38, ..Making::default() };
    let url = server.rtmp_url(cable.address).await;
    let source = Source::start(making, &folder.join("made.mkv"), &[("flv", url)]);
    server.legs("healthy feeding", 1).await;
    seconds(5.0).await;
    let witness = Witness::watch(server.http, "show", &folder.join("seen.txt"));
    let players = Players::watch(&server, 26);
    seconds(6.0).await;
    let mut harms = Harms::default();
    harms.mark();
    cable.stall(Duration::from_millis(millis)).await;
    let felt = players.felt().await;
    let (lost, video, audio) = compared(source, witness).await;
    let events = server.events().await;
    let row = Row {
        what: format!("the only path stands still for {millis} ms"),
        times: 1,
        lost,
        detected: harms.until(&events, is_detection),
        is_met: felt.page_goes_on()
            && felt.longest() <= if millis > 1000 { millis + 2500 } else { 500 }
            && video.again == 0
            && (millis > 1000 || video.is_whole() && audio.is_whole()),
        felt: Some(felt),
        ..Row::default()
    };
    row.print()
}
