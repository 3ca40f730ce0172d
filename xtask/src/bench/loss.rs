//! A bad line: what is missing in the media behind our receiver and behind libsrt's, over the same losses.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;

use super::{Ours, Running, Size, clip, program};

const SEEDS: u64 = 20;
/// Seeds at the same time.
const AT_ONCE: u64 = 4;
const SECONDS: &str = "20";
const LATENCY_MS: u64 = 400;

/// What a line does: one way in milliseconds, of 1,000 so many lost each way, latency.
struct Round {
    delay_ms: u64,
    loss_per_mille: u64,
    latency_ms: u64,
}

const ROUNDS: [Round; 2] = [
    Round { delay_ms: 50, loss_per_mille: 100, latency_ms: LATENCY_MS },
    Round { delay_ms: 25, loss_per_mille: 20, latency_ms: LATENCY_MS },
];

/// What came through.
#[derive(Default)]
struct Sum {
    packets: u64,
    dropped: u64,
    again: u64,
    wire_bytes: u64,
    /// Connections that were not made.
    never_stood: u64,
}

impl Sum {
    fn add(&mut self, stats: &serde_json::Value, names: [&str; 3], wire_bytes: u64) {
        let [packets, dropped, again] = names.map(|name| stats[name].as_u64().unwrap_or(0));
        self.packets += packets.saturating_sub(again);
        self.dropped += dropped;
        self.again += again;
        self.wire_bytes += wire_bytes;
    }
}

/// A relay, and what it printed last.
struct Relay(Child);

impl Relay {
    fn start(server: &str, round: &Round, seed: u64) -> anyhow::Result<(Self, String)> {
        let Round { delay_ms, loss_per_mille, .. } = round;
        let mut command = Command::new(program("relay"));
        command.args([server, &delay_ms.to_string(), "0", &loss_per_mille.to_string(), &seed.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        let out = child.stdout.take().context("it prints")?;
        let mut out = BufReader::new(out);
        out.read_line(&mut address)?;
        child.stdout = Some(out.into_inner());
        Ok((Self(child), address.trim().to_owned()))
    }

    /// Bytes that encoders sent over it.
    fn finish(mut self) -> anyhow::Result<u64> {
        self.0.kill()?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.0.stdout.take().context("it prints")?, &mut text)?;
        self.0.wait()?;
        let mut whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.split_once(' '));
        whole.next_back().and_then(|(_, bytes)| bytes.parse().ok()).with_context(|| format!("the relay counts: {text}"))
    }
}

pub(super) fn run(folder: &Path) -> anyhow::Result<()> {
    let clip = clip(folder, Size::Hd)?;
    for round in ROUNDS {
        let Round { delay_ms, loss_per_mille, latency_ms } = round;
        println!(
            "{loss_per_mille} of 1,000 lost each way, {} ms there and back, latency {latency_ms} ms, ffmpeg sends, {SEEDS} seeds of {SECONDS} s:",
            2 * delay_ms
        );
        let (mut ours, mut theirs) = (Sum::default(), Sum::default());
        for first in (0..SEEDS).step_by(usize::try_from(AT_ONCE)?) {
            together(folder, &clip, &round, first..first + AT_ONCE, &mut ours, &mut theirs)?;
        }
        for (name, sum) in [("throughline", ours), ("srt-live-transmit", theirs)] {
            let Sum { packets, dropped, again, wire_bytes, never_stood } = sum;
            let share = f64::from(u32::try_from(dropped)?) / f64::from(u32::try_from(packets.max(1))?);
            println!(
                "  {name:17} {dropped} of {packets} packets missing ({share:.1e}), {again} came again, {wire_bytes} bytes on the wire; {never_stood} of {SEEDS} connections never stood"
            );
        }
    }
    Ok(())
}

/// Some seeds at once, each over a relay of its own to each receiver.
fn together(
    folder: &Path,
    clip: &Path,
    round: &Round,
    seeds: std::ops::Range<u64>,
    ours: &mut Sum,
    theirs: &mut Sum,
) -> anyhow::Result<()> {
    let latency = round.latency_ms;
    let config = format!("[srt]\nlatency_ms = {latency}\n");
    let server = Ours::start_with(Command::new(program("throughline")), folder, &config)?;
    let (mut senders, mut our_relays, mut peers) = (Vec::new(), Vec::new(), Vec::new());
    for seed in seeds {
        let (relay, address) = Relay::start(&server.srt, round, seed)?;
        let key = server.key(&format!("s{seed}"))?;
        let to = format!("srt://{address}?pkt_size=1316&latency={}&streamid=publish:s{seed}:{key}", latency * 1000);
        senders.push(send(clip, &to)?);
        our_relays.push(relay);

        let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let stats = folder.join(format!("stats-{seed}"));
        let from = format!("srt://127.0.0.1:{port}?mode=listener&latency={latency}");
        let mut peer = Command::new("srt-live-transmit");
        peer.args(["-q", "-f", "-s", "200", "-pf", "json", "-statsout"]).arg(&stats).args([&from, "file://con"]);
        let peer = Running::start(&mut peer)?;
        sleep(Duration::from_millis(300));
        let (relay, address) = Relay::start(&format!("127.0.0.1:{port}"), round, seed)?;
        senders.push(send(clip, &format!("srt://{address}?pkt_size=1316&latency={}", latency * 1000))?);
        peers.push((relay, peer, stats));
    }
    // All figures while the connections stand: libsrt's program begins anew with each.
    sleep(Duration::from_secs(18));
    for stream in server.streams()? {
        ours.add(&stream["transport"], ["packets", "dropped", "retransmitted"], 0);
    }
    for (_, _, stats) in &peers {
        match last_stats(stats)? {
            Some(stats) => theirs.add(&stats["recv"], ["packets", "packetsDropped", "packetsRetransmitted"], 0),
            None => theirs.never_stood += 1,
        }
    }
    ours.never_stood += AT_ONCE.saturating_sub(u64::try_from(server.streams()?.len())?);
    for relay in our_relays {
        ours.wire_bytes += relay.finish()?;
    }
    for (relay, ..) in peers {
        theirs.wire_bytes += relay.finish()?;
    }
    Ok(())
}

fn send(clip: &Path, to: &str) -> anyhow::Result<Running> {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "quiet", "-nostdin", "-re", "-stream_loop", "-1", "-i"]).arg(clip);
    Running::start(ffmpeg.args(["-t", SECONDS, "-c", "copy", "-f", "mpegts", to]))
}

/// The last whole line that srt-live-transmit wrote.
fn last_stats(file: &PathBuf) -> anyhow::Result<Option<serde_json::Value>> {
    let text = fs::read_to_string(file)?;
    Ok(text.lines().rev().find_map(|line| serde_json::from_str(line.trim_end_matches(',')).ok()))
}
