//! Real SRT encoders and players: ffmpeg, GStreamer, srt-live-transmit.

use std::sync::atomic::Ordering;
use std::time::Duration;

use server::config::{SrtCallTable, UdpStreamTable};
use testkit::programs::{Ffmpeg, Program};
use testkit::relay::{Line, Relay};

use crate::encoders::{check_media, decode, record};
use crate::rig::{Encoder, PATIENCE, Rig, Viewer, counted, eventually};

const MPEGTS: &str = "-f mpegts";
const PASSPHRASE: &str = "correct-horse-battery";

/// An encoder whose output is a transport stream.
fn encoder() -> Encoder {
    Encoder { muxer: MPEGTS, ..Encoder::default() }
}

fn url(server: std::net::SocketAddr, stream_id: &str, more: &str) -> String {
    format!("srt://{server}?mode=caller&pkt_size=1316&streamid={stream_id}{more}")
}

async fn publish_url(rig: &Rig, stream: &str) -> String {
    url(rig.srt(), &format!("publish:{stream}:{}", rig.key(stream).await), "")
}

/// What became of SRT packets.
async fn packets(rig: &Rig, what: &str) -> u64 {
    counted(rig, &format!("throughline_srt_packets_total{{what=\"{what}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_h264_with_b_frames_and_aac_decodes_across_every_part_boundary() {
    let rig = Rig::start().await;
    let encoder = Encoder { muxer: MPEGTS, ..Encoder::with_b_frames() };
    let _encoder = encoder.publish(&publish_url(&rig, "show").await);
    check_media(&rig, "show", &[("video", "h264,640,360"), ("audio", "aac,48000")]).await;
    let view = rig.api("/api/v1/streams/show").await;
    assert_eq!(view["publisher"]["protocol"], "srt");
    assert_eq!((&view["transport"]["dropped"], &view["transport"]["latency_ms"]), (&0.into(), &120.into()));
    assert!(view["transport"]["packets"].as_u64() > Some(100), "{view}");
    let [capacity, rate] = ["capacity_bits_per_second", "bits_per_second"].map(|name| view["transport"][name].as_u64());
    assert!(capacity == Some(0) || capacity > rate, "not known yet, or more than what comes: {view}");
    assert_eq!(view["ts_errors"], serde_json::json!({}), "{view}");
    assert!(packets(&rig, "received").await > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_open_gops_at_29_97_with_sound_at_44_1_khz_play_clean() {
    let rig = Rig::start().await;
    let video = "libx264 -preset veryfast -r 30000/1001 -bf 2 -g 30 -x264-params open-gop=1:scenecut=0 -pix_fmt yuv420p -b:v 600k";
    let encoder = Encoder { video: Some(video), audio: Some("aac -b:a 96k -ar 44100 -ac 2"), ..encoder() };
    let _encoder = encoder.publish(&publish_url(&rig, "show").await);
    check_media(&rig, "show", &[("audio", "aac,44100")]).await;
    assert!(rig.multivariant("show").await.contains("FRAME-RATE=29.970"));

    // Where the first closed GOP meets an open one, decode times step over the leading pictures, and the last picture before
    // is written as long. Every picture is there: the times of presentation have no hole.
    let (bytes, playlist) = record(&rig, "show", "video", 4).await;
    assert_eq!(playlist.broken_rules(), Vec::<String>::new());
    let file = rig.state.join("video.mp4");
    std::fs::write(&file, bytes).expect("writes");
    assert!(decode(&file).await.contains("h264,640,360"));
    let name = file.to_str().expect("a plain path");
    let probe = ["-v", "error", "-show_entries", "packet=pts", "-of", "csv=p=0", name];
    let (_, out, _) = Program::start("/usr/bin/ffprobe", probe).finish().await;
    let mut times: Vec<i64> = out.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect();
    times.sort_unstable();
    assert!(times.len() > 150 && times.windows(2).all(|pair| pair[1] - pair[0] == 12_012), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_hevc_and_aac_in_latm_arrive() {
    let rig = Rig::start().await;
    let encoder = Encoder { muxer: "-f mpegts -mpegts_flags latm", ..Encoder::hevc() };
    let encoder = Encoder { ffmpeg: Ffmpeg::Debian, ..encoder };
    let _encoder = encoder.publish(&publish_url(&rig, "show").await);
    check_media(&rig, "show", &[("video", "hevc,320,180"), ("audio", "aac,48000")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_opus_arrives() {
    let rig = Rig::start().await;
    let encoder = Encoder { audio: Some("libopus -b:a 64k -ac 2"), ..encoder() };
    let _encoder = encoder.publish(&publish_url(&rig, "show").await);
    check_media(&rig, "show", &[("video", "h264,640,360"), ("audio", "opus,48000")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_the_wrap_of_the_clock_in_mid_stream_is_invisible() {
    let rig = Rig::start().await;
    // 2^33 / 90,000 is 95,443.7 s.
    let encoder = Encoder { extra: "-output_ts_offset 95438", ..encoder() };
    let _encoder = encoder.publish(&publish_url(&rig, "show").await);
    rig.multivariant("show").await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    check_media(&rig, "show", &[("video", "h264,640,360"), ("audio", "aac,48000")]).await;
    let view = rig.api("/api/v1/streams/show").await;
    assert_eq!((&view["repairs"]["jumps"], &view["delivery"]["discontinuities"]), (&0.into(), &0.into()), "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_sound_that_is_not_carried_is_named_and_the_picture_goes_on() {
    let rig = Rig::start().await;
    let encoder = Encoder { audio: Some("mp2 -b:a 128k"), ..encoder() };
    let _encoder = encoder.publish(&publish_url(&rig, "show").await);
    assert!(!rig.multivariant("show").await.contains("mp4a"));
    eventually("it says so", || async {
        let view = rig.api("/api/v1/streams/show").await;
        let text = view["advice"].to_string();
        (text.contains("unsupported_codec") && text.contains("MP2")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_every_key_length_is_decrypted_and_a_wrong_passphrase_refused() {
    let rig = Rig::with(|file| file.srt.passphrase = Some(PASSPHRASE.into())).await;
    for (stream, bytes) in [("a", 16), ("b", 24), ("c", 32)] {
        let base = publish_url(&rig, stream).await;
        let url = format!("{base}&passphrase={PASSPHRASE}&pbkeylen={bytes}");
        let _encoder = Encoder { audio: None, ..encoder() }.publish(&url);
        check_media(&rig, stream, &[("video", "h264,640,360")]).await;
    }
    assert_eq!(packets(&rig, "undecryptable").await, 0);
    let base = publish_url(&rig, "d").await;
    for more in ["&passphrase=something-else", ""] {
        let encoder = Encoder { seconds: 5, ..encoder() };
        let (success, _, _) = encoder.publish(&format!("{base}{more}")).finish().await;
        assert!(!success, "refused: '{more}'");
    }
    assert!(rig.server.as_ref().is_some());
    assert_eq!(counted(&rig, "throughline_ingest_rejected_total{reason=\"unauthorized\"}").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_02_who_has_no_right_is_refused_and_a_default_helps_encoders_without_an_identifier() {
    let rig = Rig::start().await;
    let key = rig.key("show").await;
    let refused = async |stream_id: &str| {
        let encoder = Encoder { seconds: 5, ..encoder() };
        let (success, _, errors) = encoder.publish(&url(rig.srt(), stream_id, "")).finish().await;
        assert!(!success, "'{stream_id}' is refused");
        errors
    };
    refused("publish:show:wrong").await;
    refused(&format!("publish:other:{key}")).await;
    refused("").await;
    refused("#!::m=take").await;
    refused("read:nothing").await;
    let _encoder = encoder().publish(&url(rig.srt(), &format!("#!::r=live/show,m=publish,s={key}"), ""));
    rig.multivariant("show").await;

    let mut rig = rig;
    rig.stop().await;
    rig.start_again_with(|file| file.srt.default_stream_id = Some(format!("publish:show:{key}"))).await;
    let _encoder = encoder().publish(&format!("srt://{}?mode=caller&pkt_size=1316", rig.srt()));
    rig.multivariant("show").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_gstreamer_and_srt_live_transmit_publish() {
    let rig = Rig::start().await;
    let uri = format!("srt://{}?mode=caller", rig.srt());
    let id = format!("streamid=publish:one:{}", rig.key("one").await);
    let line = "-e videotestsrc is-live=true ! video/x-raw,width=640,height=360,framerate=30/1 ! x264enc tune=zerolatency \
        speed-preset=ultrafast key-int-max=30 ! h264parse ! mpegtsmux alignment=7 ! srtsink";
    let uri = format!("uri={uri}");
    let arguments = line.split_whitespace().chain([uri.as_str(), id.as_str(), "latency=200"]);
    let encoder = Program::start("/usr/bin/gst-launch-1.0", arguments);
    check_media(&rig, "one", &[("video", "h264,640,360")]).await;
    assert_eq!(rig.api("/api/v1/streams/one").await["transport"]["latency_ms"], 200, "the larger wish counts");
    drop(encoder);

    let port = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
    let (from, to) = (format!("udp://127.0.0.1:{port}"), publish_url(&rig, "two").await);
    let _transmit = Program::start("/usr/bin/srt-live-transmit", ["-q", from.as_str(), to.as_str()]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _encoder = encoder_to_udp(port);
    check_media(&rig, "two", &[("video", "h264,640,360"), ("audio", "aac,48000")]).await;
}

fn encoder_to_udp(port: u16) -> Program {
    encoder().publish(&format!("udp://127.0.0.1:{port}?pkt_size=1316"))
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_players_are_sent_what_rtmp_brought() {
    let rig = Rig::start().await;
    let _encoder = Encoder::with_b_frames().publish(&rig.publish_url("show").await);
    rig.multivariant("show").await;
    for (stream_id, name) in [("read:show", "a.ts"), ("#!::r=show", "b.ts")] {
        let file = rig.state.join(name);
        let path = file.to_str().expect("a plain path");
        let from = url(rig.srt(), stream_id, "");
        let arguments = ["-v", "error", "-nostdin", "-y", "-i", &from, "-t", "4", "-c", "copy", path];
        let (success, _, errors) = Program::start("/usr/bin/ffmpeg", arguments).finish().await;
        assert!(success, "{errors}");
        let described = decode(&file).await;
        assert!(described.contains("h264,640,360") && described.contains("aac,48000"), "{described}");
    }
    assert!(packets(&rig, "sent").await > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_is_watched_in_chromium() {
    let rig = Rig::start().await;
    let encoder = Encoder { muxer: MPEGTS, ..Encoder::with_b_frames() };
    let _encoder = encoder.publish(&publish_url(&rig, "show").await);
    rig.multivariant("show").await;
    let mut viewer = Viewer::open(&format!("http://{}/watch/show", rig.http()), &[]);
    viewer.until("it plays", |look| look.state == "playing").await;
    let looks = viewer.watch(Duration::from_secs(5)).await;
    let (first, last) = (&looks[0], &looks[looks.len() - 1]);
    assert!(last.time - first.time > 4.0 && last.frames > first.frames + 100, "{first:?} to {last:?}");
    assert!(last.audio_bytes > first.audio_bytes);
    viewer.close().await;
}

/// ffmpeg over a line with loss, jitter, datagrams that overtake each other and come twice: not a packet is missing.
#[tokio::test(flavor = "multi_thread")]
async fn srt_05_a_bad_line_loses_nothing_with_latency_to_spare() {
    let rig = Rig::with(|file| file.srt.latency_ms = 400).await;
    let line = Line {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(10),
        loss_per_mille: 50,
        burst: 2,
        duplicate_per_mille: 10,
    };
    let relay = Relay::start(rig.srt(), line, 7).await;
    let id = format!("publish:show:{}", rig.key("show").await);
    let _encoder = encoder().publish(&url(relay.address, &id, "&latency=400000"));
    rig.multivariant("show").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    check_media(&rig, "show", &[("video", "h264,640,360"), ("audio", "aac,48000")]).await;
    let view = rig.api("/api/v1/streams/show").await;
    assert!(view["transport"]["lost"].as_u64() > Some(20), "the line is bad: {view}");
    assert_eq!(
        (&view["transport"]["dropped"], &view["transport"]["continuity_errors"]),
        (&0.into(), &0.into()),
        "{view}"
    );
    assert!(view["transport"]["rtt_ms"].as_f64() > Some(38.0), "{view}");
    assert!(relay.counts.lost.load(Ordering::Relaxed) > 20);

    // The path dies: the source is missed, and the session closed.
    relay.cut.store(true, Ordering::Relaxed);
    eventually("the stream is lost", || async {
        (rig.api("/api/v1/streams/show").await["state"] == "lost").then_some(())
    })
    .await;
    tokio::time::timeout(PATIENCE, async {
        while rig.api("/api/v1/streams/show").await["publisher"].is_object() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .expect("the silent session is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_noise_and_half_handshakes_disturb_nobody() {
    let rig = Rig::start().await;
    let _encoder = encoder().publish(&publish_url(&rig, "show").await);
    rig.multivariant("show").await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let mut answered = 0u64;
    let mut sent = 0u64;
    let mut buffer = [0; 2048];
    for round in 0u32..5000 {
        let mut datagram = vec![0; 16 + usize::try_from(round % 80).expect("small")];
        for (index, byte) in datagram.iter_mut().enumerate() {
            let mixed = round.wrapping_mul(2_654_435_761).rotate_left(u32::try_from(index % 32).expect("small"));
            *byte = mixed.to_le_bytes()[index % 4];
        }
        if round % 3 == 0 {
            // A handshake for the listener, its body noise.
            datagram[..4].copy_from_slice(&[0x80, 0, 0, 0]);
            datagram[12..16].copy_from_slice(&[0; 4]);
        }
        sent += datagram.len() as u64;
        let _ = socket.send_to(&datagram, rig.srt()).await;
        while let Ok((length, _)) = socket.try_recv_from(&mut buffer) {
            answered += length as u64;
        }
    }
    assert!(answered <= sent, "no more comes back than was sent");
    let before = rig.api("/api/v1/streams/show").await["transport"]["packets"].as_u64();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let view = rig.api("/api/v1/streams/show").await;
    assert!(view["transport"]["packets"].as_u64() > before && view["state"] == "live", "{view}");
}

fn free_udp_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port()
}

fn call(stream: &str, port: u16) -> SrtCallTable {
    SrtCallTable { stream: stream.into(), server: format!("127.0.0.1:{port}"), ..SrtCallTable::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_streams_are_fetched_from_a_listener_and_sent_on_to_another_and_calls_are_repeated() {
    let (from, to) = (free_udp_port(), free_udp_port());
    let rig = Rig::with(|file| {
        let secret = Some(PASSPHRASE.to_owned());
        file.srt.pull.push(SrtCallTable { passphrase: secret.clone(), key_bits: Some(256), ..call("show", from) });
        file.srt.push.push(SrtCallTable { passphrase: secret, key_bits: Some(192), ..call("show", to) });
    })
    .await;
    // Nobody listens at first: the call is made again.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let source = format!("srt://127.0.0.1:{from}?mode=listener&passphrase={PASSPHRASE}&pbkeylen=32&pkt_size=1316");
    let first = encoder().publish(&source);
    check_media(&rig, "show", &[("video", "h264,640,360"), ("audio", "aac,48000")]).await;
    assert!(rig.api("/api/v1/streams/show").await["publisher"]["key_id"].as_str().expect("text").starts_with("pull"));

    let file = rig.state.join("pushed.ts");
    let path = file.to_str().expect("a plain path");
    let sink = format!("srt://127.0.0.1:{to}?mode=listener&passphrase={PASSPHRASE}");
    let arguments = ["-v", "error", "-nostdin", "-y", "-i", &sink, "-t", "4", "-c", "copy", path];
    let (success, _, errors) = Program::start("/usr/bin/ffmpeg", arguments).finish().await;
    assert!(success, "{errors}");
    assert!(decode(&file).await.contains("h264,640,360"));

    first.kill().await;
    eventually("it is missed", || async { (rig.api("/api/v1/streams/show").await["state"] == "lost").then_some(()) })
        .await;
    let _second = encoder().publish(&source);
    eventually("it is fetched again", || async {
        (rig.api("/api/v1/streams/show").await["state"] == "live").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mpegts_over_plain_udp_comes_in_and_goes_out_also_by_multicast() {
    let (unicast, multicast, out) = (free_udp_port(), free_udp_port(), free_udp_port());
    let row = |stream: &str, address: String| UdpStreamTable {
        stream: stream.into(),
        address: address.parse().expect("an address"),
        interface: Some([127, 0, 0, 1].into()),
        rank: 0,
    };
    let rig = Rig::with(|file| {
        file.udp.input.push(row("show", format!("127.0.0.1:{unicast}")));
        file.udp.input.push(row("group", format!("239.255.7.9:{multicast}")));
        file.udp.output.push(row("show", format!("127.0.0.1:{out}")));
    })
    .await;
    let _unicast = encoder_to_udp(unicast);
    check_media(&rig, "show", &[("video", "h264,640,360"), ("audio", "aac,48000")]).await;
    assert_eq!(rig.api("/api/v1/streams/show").await["publisher"]["protocol"], "udp");
    let file = rig.state.join("sent.ts");
    let (path, from) = (file.to_str().expect("a plain path"), format!("udp://127.0.0.1:{out}?timeout=20000000"));
    let arguments = ["-v", "fatal", "-nostdin", "-y", "-i", &from, "-t", "4", "-c", "copy", path];
    let (success, _, errors) = Program::start("/usr/bin/ffmpeg", arguments).finish().await;
    assert!(success, "{errors}");
    let probe = ["-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", path];
    let (_, found, _) = Program::start("/usr/bin/ffprobe", probe).finish().await;
    assert!(found.contains("h264") && found.contains("aac"), "{found}");

    let url = format!("udp://239.255.7.9:{multicast}?pkt_size=1316&localaddr=127.0.0.1&ttl=0");
    let _multicast = Encoder { muxer: "-f rtp_mpegts", ..encoder() }.publish(&url.replace("udp://", "rtp://"));
    rig.multivariant("group").await;
}

/// libsrt's own test program, built with socket groups; see `xtask setup`.
fn bonding_program() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/srt-test-live");
    assert!(std::path::Path::new(path).exists(), "cargo xtask setup test");
    path.into()
}

async fn two_ways(to: std::net::SocketAddr) -> [Relay; 2] {
    let line = |millis| Line { delay: Duration::from_millis(millis), ..Line::default() };
    [Relay::start(to, line(10), 1).await, Relay::start(to, line(40), 2).await]
}

/// One way goes dark, comes back, and the other goes dark.
async fn darken_in_turn(ways: &[Relay; 2]) {
    for way in ways {
        way.cut.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(3)).await;
        way.cut.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}

async fn assert_nothing_is_missing(rig: &Rig, stream: &str) {
    let view = rig.api(&format!("/api/v1/streams/{stream}")).await;
    let transport = &view["transport"];
    assert_eq!((&transport["dropped"], &transport["continuity_errors"]), (&0.into(), &0.into()), "{view}");
    assert_eq!(view["links"].as_array().map(Vec::len), Some(2), "{view}");
    assert!(view["links"][0]["transport"]["packets"].as_u64() > Some(500), "{view}");
    assert!(view["links"][1]["transport"]["packets"].as_u64() > Some(500), "{view}");
    check_media(rig, stream, &[("video", "h264,640,360"), ("audio", "aac,48000")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_07_libsrt_sends_over_two_paths_and_nothing_is_missing_when_each_goes_dark() {
    // libsrt takes up to 0.5 s until it trusts the backup.
    let rig = Rig::with(|file| file.srt.latency_ms = 1000).await;
    for kind in ["broadcast", "backup"] {
        let ways = two_ways(rig.srt()).await;
        let port = free_udp_port();
        let id = format!("publish:{kind}:{}", rig.key(kind).await);
        let first = format!("srt://{}?type={kind}&streamid={id}&latency=1000&weight=10", ways[0].address);
        let second = format!("srt://{}?weight=5", ways[1].address);
        let from = format!("udp://127.0.0.1:{port}");
        let arguments = [from.as_str(), "-g", first.as_str(), second.as_str()];
        let _sender = Program::start(bonding_program(), arguments);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _encoder = encoder_to_udp(port);
        rig.multivariant(kind).await;
        darken_in_turn(&ways).await;
        assert_nothing_is_missing(&rig, kind).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_07_this_server_sends_over_two_paths_to_libsrt_and_to_itself() {
    let listener = free_udp_port();
    let mut rig = Rig::start().await;
    let libsrt = two_ways(([127, 0, 0, 1], listener).into()).await;
    let ours = two_ways(rig.srt()).await;
    let links = |ways: &[Relay; 2]| {
        let link = |(way, weight): (&Relay, u16)| server::config::SrtLinkTable {
            server: way.address.to_string(),
            weight,
            ..Default::default()
        };
        ways.iter().zip([10, 5]).map(link).collect::<Vec<_>>()
    };
    let key = rig.key("copy").await;
    rig.stop().await;
    rig.start_again_with(|file| {
        let table = |ways, group, stream_id| SrtCallTable {
            stream: "show".into(),
            links: links(ways),
            group: Some(group),
            latency_ms: Some(400),
            stream_id,
            ..SrtCallTable::default()
        };
        file.srt.push.push(table(&libsrt, server::config::GroupMode::Broadcast, None));
        let id = Some(format!("publish:copy:{key}"));
        file.srt.push.push(table(&ours, server::config::GroupMode::Backup, id));
    })
    .await;
    let file = rig.state.join("received.ts");
    let from = format!("srt://127.0.0.1:{listener}?mode=listener&groupconnect=1&latency=1000");
    let receiver = Program::start(bonding_program(), [from.as_str(), file.to_str().expect("a plain path")]);
    let _encoder = Encoder::with_b_frames().publish(&rig.publish_url("show").await);
    rig.multivariant("copy").await;
    let both = [&libsrt, &ours].map(darken_in_turn);
    let [libsrt, ours] = both;
    tokio::join!(libsrt, ours);
    assert_nothing_is_missing(&rig, "copy").await;
    receiver.kill().await;
    let mut demuxer = container::mpegts::Demuxer::new(container::mpegts::DemuxerConfig::default());
    let received = std::fs::read(&file).expect("libsrt wrote it");
    for piece in received.chunks(188 * 1000) {
        demuxer.push(piece);
        while demuxer.poll().is_some() {}
    }
    assert!(received.len() > 1_000_000, "{} bytes", received.len());
    assert_eq!(demuxer.health().continuity_count_error, 0, "every packet is there: {:?}", demuxer.health());
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_05_latencies_from_20_ms_to_2_s_are_agreed_on_and_kept() {
    let rig = Rig::with(|file| file.srt.latency_ms = 20).await;
    for (stream, millis) in [("low", 20), ("middle", 250), ("high", 2000)] {
        let id = format!("publish:{stream}:{}", rig.key(stream).await);
        let _encoder = encoder().publish(&url(rig.srt(), &id, &format!("&latency={}", millis * 1000)));
        check_media(&rig, stream, &[("video", "h264,640,360"), ("audio", "aac,48000")]).await;
        let view = rig.api(&format!("/api/v1/streams/{stream}")).await;
        let transport = &view["transport"];
        assert_eq!((&transport["latency_ms"], &transport["dropped"]), (&millis.into(), &0.into()), "{view}");
        let held = transport["buffer_ms"].as_u64().expect("a number");
        assert!(held <= millis + 100 && held + 300 >= millis, "what is held is the latency: {view}");
    }
}

/// Each end calls from the port that it calls: here they have the same port on two addresses.
#[tokio::test(flavor = "multi_thread")]
async fn srt_rendezvous_with_libsrt_brings_and_takes_a_stream() {
    let (from, to) = (free_udp_port(), free_udp_port());
    let meet = |port: u16, secret: Option<&str>| SrtCallTable {
        stream: "show".into(),
        server: String::new(),
        links: vec![server::config::SrtLinkTable {
            server: format!("127.0.0.1:{port}"),
            from: Some([127, 0, 0, 2].into()),
            weight: 0,
        }],
        mode: Some(server::config::CallMode::Rendezvous),
        passphrase: secret.map(str::to_owned),
        key_bits: Some(256),
        ..SrtCallTable::default()
    };
    let rig = Rig::with(|file| {
        file.srt.pull.push(meet(from, None));
        file.srt.push.push(meet(to, Some(PASSPHRASE)));
    })
    .await;
    let port = free_udp_port();
    let (source, there) =
        (format!("udp://127.0.0.1:{port}"), format!("srt://127.0.0.2:{from}?mode=rendezvous&adapter=127.0.0.1"));
    let _transmit = Program::start("/usr/bin/srt-live-transmit", ["-q", source.as_str(), there.as_str()]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _encoder = encoder_to_udp(port);
    check_media(&rig, "show", &[("video", "h264,640,360"), ("audio", "aac,48000")]).await;
    assert_eq!(rig.api("/api/v1/streams/show").await["transport"]["dropped"], 0);

    let file = rig.state.join("met.ts");
    let there = format!("srt://127.0.0.2:{to}?mode=rendezvous&adapter=127.0.0.1&passphrase={PASSPHRASE}&pbkeylen=32");
    let mut receiver = tokio::process::Command::new("/usr/bin/srt-live-transmit");
    let out = std::fs::File::create(&file).expect("writes");
    let mut receiver =
        receiver.args(["-q", &there, "file://con"]).stdout(out).kill_on_drop(true).spawn().expect("it is installed");
    eventually("it is sent", || async {
        (std::fs::metadata(&file).is_ok_and(|file| file.len() > 500_000)).then_some(())
    })
    .await;
    receiver.kill().await.expect("it runs");
    let mut demuxer = container::mpegts::Demuxer::new(container::mpegts::DemuxerConfig::default());
    demuxer.push(&std::fs::read(&file).expect("reads"));
    while demuxer.poll().is_some() {}
    assert_eq!(demuxer.health().continuity_count_error, 0, "{:?}", demuxer.health());
}

/// Handshakes without end from many addresses: nothing is kept of them, and a stream goes on.
#[tokio::test(flavor = "multi_thread")]
async fn srt_a_flood_of_handshakes_from_many_addresses_leaves_nothing_behind() {
    let rig = Rig::start().await;
    let stream = encoder().publish(&publish_url(&rig, "show").await);
    rig.multivariant("show").await;
    let (mut asked, mut answered) = (0u64, 0u64);
    for round in 0..20u32 {
        for host in 1..=250u8 {
            let net = [127, 9, u8::try_from(round).expect("small"), host];
            let source = std::net::UdpSocket::bind(std::net::SocketAddr::from((net, 0))).expect("a port");
            source.set_nonblocking(true).expect("can be");
            // Some say that they belong to a group: those of a round name the same.
            let group = (host % 4 == 1).then_some(srt::Membership { id: srt::GROUP_BIT | round, kind: 1, weight: 0 });
            let stream_id = Some("publish:show:wrong".into());
            let config = srt::CallerConfig { stream_id, group, ..srt::CallerConfig::default() };
            let now = std::time::Instant::now();
            let mut caller = srt::Caller::new(now, config, 1 + u32::from(host), round).expect("valid");
            let mut buffer = [0; 1500];
            // Half of them go on to ask for a stream with a wrong key, and are refused.
            for _ in 0..=u32::from(host % 2) {
                while let srt::Progress::Send(datagram) = caller.poll() {
                    asked += datagram.len() as u64;
                    let _ = source.send_to(&datagram, rig.srt());
                }
                for _ in 0..20 {
                    if let Ok(length) = source.recv(&mut buffer) {
                        answered += length as u64;
                        caller.handle_datagram(now, &buffer[..length]);
                        break;
                    }
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
            }
        }
    }
    assert!(answered <= asked && answered > asked / 4, "{answered} bytes for {asked}");
    eventually("all are forgotten", || async {
        let text = testkit::http::get(rig.addresses.ops.expect("listens"), "/metrics").await.text().to_owned();
        let sum = |name: &str| {
            let lines = text.lines().filter(|line| line.starts_with(name) && line.contains("\"srt\""));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
        };
        let [opened, closed] =
            ["throughline_ingest_sessions_opened_total{", "throughline_ingest_sessions_closed_total{"].map(sum);
        (opened > 1000 && opened - closed == 1).then_some(())
    })
    .await;
    assert!(counted(&rig, "throughline_ingest_rejected_total{reason=\"unauthorized\"}").await > 1000);
    let view = rig.api("/api/v1/streams/show").await;
    assert_eq!((&view["state"], &view["transport"]["dropped"]), (&"live".into(), &0.into()), "{view}");
    let (mut rig, began) = (rig, std::time::Instant::now());
    drop(stream);
    rig.stop().await;
    assert!(began.elapsed() < Duration::from_secs(4), "nobody is waited for: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_klv_beside_the_picture_is_kept_and_counted() {
    let rig = Rig::start().await;
    let unit = b"\x06\x0e\x2b\x34\x02\x0b\x01\x01\x0e\x01\x03\x01\x01\x00\x00\x00\x04abcd";
    // Over UDP: a file that GStreamer reads again and again is left out of the stream at times.
    let sensor = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let free = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket").local_addr().expect("bound").port();
    let (to, port) = (format!("127.0.0.1:{free}"), format!("port={free}"));
    let _sending = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let _ = sensor.send_to(unit, &to).await; // nobody listens yet
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }));
    let (uri, id) =
        (format!("uri=srt://{}?mode=caller", rig.srt()), format!("streamid=publish:show:{}", rig.key("show").await));
    let line = "videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=30/1 ! x264enc tune=zerolatency \
        speed-preset=ultrafast key-int-max=30 ! h264parse ! mux.";
    let arguments = ["-e", "mpegtsmux", "name=mux", "alignment=7", "!", "srtsink", &uri, &id];
    let klv = ["udpsrc", "address=127.0.0.1", &port, "caps=meta/x-klv,parsed=true", "!", "mux."];
    let arguments = arguments.into_iter().chain(line.split_whitespace()).chain(klv);
    let _encoder = Program::start("/usr/bin/gst-launch-1.0", arguments);
    rig.multivariant("show").await;
    let markers = eventually("the last 16 are kept", || async {
        let markers = rig.api("/api/v1/streams/show").await["markers"].as_array().expect("a list").clone();
        (markers.len() == 16).then_some(markers)
    })
    .await;
    assert_eq!(
        (&markers[0]["kind"], &markers[0]["data"]),
        (&"klv".into(), &format!("{:x}", bytes::Bytes::from_static(unit)).into())
    );
    eventually("they are counted", || async {
        (counted(&rig, "throughline_ts_markers_total{kind=\"klv\"}").await >= 16).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_of_several_programs_the_first_is_taken_or_the_one_that_is_set() {
    let rig = Rig::with(|file| {
        file.mpegts.programs.insert("second".into(), 2);
    })
    .await;
    let line = "-v error -nostdin -re -f lavfi -i testsrc2=s=320x180:r=25 -f lavfi -i testsrc2=s=640x360:r=25 -map 0 -map 1 \
        -c:v libx264 -preset ultrafast -tune zerolatency -g 25 -program program_num=1:st=0 -program program_num=2:st=1 -f mpegts";
    for (stream, expected) in [("first", "h264,320,180"), ("second", "h264,640,360")] {
        let to = publish_url(&rig, stream).await;
        let _encoder = Program::start("/usr/bin/ffmpeg", line.split_whitespace().chain([to.as_str()]));
        check_media(&rig, stream, &[("video", expected)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mpegts_errors_are_counted_for_each_stream_as_etsi_tr_101_290_has_them() {
    let (good, bad) = (free_udp_port(), free_udp_port());
    let row = |stream: &str, port: u16| UdpStreamTable {
        stream: stream.into(),
        address: ([127, 0, 0, 1], port).into(),
        interface: None,
        rank: 0,
    };
    let rig = Rig::with(|file| file.udp.input.extend([row("good", good), row("bad", bad)])).await;
    let line = Line { loss_per_mille: 50, ..Line::default() };
    let relay = Relay::start(([127, 0, 0, 1], bad).into(), line, 3).await;
    let _encoders = [good, relay.address.port()].map(encoder_to_udp);
    rig.multivariant("good").await;
    let errors = eventually("errors are counted", || async {
        let errors = rig.api("/api/v1/streams/bad").await["ts_errors"].clone();
        (errors["continuity_count"].as_u64() > Some(10)).then_some(errors)
    })
    .await;
    assert_eq!(errors.get("sync_loss"), None, "{errors}");
    let view = rig.api("/api/v1/streams/good").await;
    assert_eq!(view["ts_errors"], serde_json::json!({}), "{view}");
}
