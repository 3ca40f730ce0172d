//! The synthetic viewer from the command line, against our server and against others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use testkit::http::get;
use testkit::programs::Program;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::operations::throughline;
use crate::rig::{Encoder, Rig, eventually};

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_watches_as_a_player_does_and_its_thresholds_decide() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    rig.two_segments("show", "video").await;
    let url = format!("http://{}/live/show/index.m3u8", rig.http());
    let limits = ["--startup-max", "1s", "--latency-max", "1500ms", "--stalls-max", "0", "--errors-max", "0"];
    let arguments = [&["probe", &url, "--for", "8s", "--json", "--location", "Manchester"][..], &limits].concat();
    let (success, out, errors) = throughline(&arguments);
    let report = json(&out);
    assert!(success, "{report:#} {errors}");
    let quality = &report["quality"];
    assert_eq!(
        (&report["location"], &quality["stalls"], &quality["missing"]),
        (&"Manchester".into(), &0.into(), &0.into())
    );
    let latency = quality["latency_ms"]["p50"].as_u64().expect("measured");
    assert!((700..1400).contains(&latency), "PART-HOLD-BACK is a second: {latency} ms");
    assert!(quality["part_age_ms"]["p95"].as_u64() < Some(250), "{quality:#}");
    assert!(errors.contains("first picture after"), "what happens is told as it happens: {errors}");

    let https = format!("https://{}/live/show/index.m3u8", rig.addresses.https.expect("listens"));
    let refused = throughline(&["probe", &https, "--for", "1s"]);
    assert!(!refused.0 && refused.1.contains("--insecure"), "{refused:?}");
    let (success, out, _) =
        throughline(&["probe", &https, "--for", "4s", "--json", "--insecure", "--latency-max", "100ms"]);
    let report = json(&out);
    assert!(
        !success && report["exceeded"][0].as_str().is_some_and(|text| text.starts_with("latency p95")),
        "{report:#}"
    );
    assert!(report["quality"]["startup"]["tls_ms"].as_u64() > Some(0), "{report:#}");
    let nothing = throughline(&["probe", &url.replace("show", "nothing"), "--for", "1s"]);
    assert!(!nothing.0 && nothing.1.contains("never began to play"), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_plays_plain_hls_with_ts_segments_of_another_server() {
    let rig = Rig::start().await; // takes the turn, and lends its folder
    let folder = rig.state.join("hls");
    std::fs::create_dir_all(&folder).expect("a folder");
    let playlist = folder.join("index.m3u8");
    let options = "-f hls -hls_time 1 -hls_list_size 8 -hls_flags delete_segments";
    let encoder = Encoder { muxer: options, ..Encoder::default() };
    let _encoder = encoder.publish(playlist.to_str().expect("plain"));
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("free").port();
    let (port, folder) = (port.to_string(), folder.to_str().expect("plain"));
    let arguments = ["python3", "-m", "http.server", &port, "--bind", "127.0.0.1", "--directory", folder];
    let _server = Program::start("/usr/bin/env", arguments);
    let address = format!("127.0.0.1:{port}").parse().expect("an address");
    eventually("five segments", || async {
        std::net::TcpStream::connect(address).ok()?;
        let answer = get(address, "/index.m3u8").await;
        (answer.status == 200 && answer.text().matches("#EXTINF").count() >= 5).then_some(())
    })
    .await;
    let url = format!("http://{address}/index.m3u8");
    let (success, out, errors) = throughline(&["probe", &url, "--for", "8s", "--json", "--stalls-max", "0"]);
    let report = json(&out);
    assert!(success, "{report:#} {errors}");
    assert!(report["quality"]["played_ms"].as_u64() > Some(6000), "{report:#}");
    assert!(report["quality"]["media"].as_u64() >= Some(8), "{report:#}");
}

/// Hands connections on, all together at no more than so many bytes a second.
async fn narrow_line(to: std::net::SocketAddr, rate: Arc<AtomicUsize>) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = tokio::net::TcpStream::connect(to).await else { return };
            let rate = Arc::clone(&rate);
            tokio::spawn(async move {
                let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.into_split(), far.into_split());
                tokio::spawn(async move { tokio::io::copy(&mut from_near, &mut to_far).await });
                let mut buffer = vec![0; 64 << 10];
                loop {
                    let share = rate.load(Ordering::Relaxed) / 50;
                    let read = from_far.read(&mut buffer[..share.clamp(1, 64 << 10)]).await.unwrap_or(0);
                    if read == 0 || to_near.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_takes_the_variant_of_another_server_that_the_line_carries() {
    let rig = Rig::start().await; // takes the turn, and lends its folder
    let folder = rig.state.join("hls");
    std::fs::create_dir_all(&folder).expect("a folder");
    let line = "-v error -re -f lavfi -i testsrc2=s=640x360:r=25 -map 0 -map 0 -c:v libx264 -preset ultrafast -g 25 \
        -b:v:0 2000k -minrate:v:0 2000k -maxrate:v:0 2000k -bufsize:v:0 1000k -s:v:1 320x180 -b:v:1 200k -maxrate:v:1 200k \
        -bufsize:v:1 100k -nal-hrd cbr -f hls -hls_time 1 -hls_list_size 10 -hls_flags delete_segments -master_pl_name index.m3u8";
    let out = folder.join("v%v.m3u8");
    let map = ["-var_stream_map", "v:0 v:1", out.to_str().expect("plain")];
    let _encoder = Program::start("/usr/bin/ffmpeg", line.split_whitespace().chain(map));
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("free").port();
    let (port, folder) = (port.to_string(), folder.to_str().expect("plain"));
    let arguments = ["python3", "-m", "http.server", &port, "--bind", "127.0.0.1", "--directory", folder];
    let _server = Program::start("/usr/bin/env", arguments);
    let server = format!("127.0.0.1:{port}").parse().expect("an address");
    eventually("six segments", || async {
        std::net::TcpStream::connect(server).ok()?;
        let answer = get(server, "/v0.m3u8").await;
        (answer.status == 200 && answer.text().matches("#EXTINF").count() >= 6).then_some(())
    })
    .await;
    let rate = Arc::new(AtomicUsize::new(8 << 20));
    let near = narrow_line(server, Arc::clone(&rate)).await;
    let url = format!("http://{near}/index.m3u8");
    let watch = async |seconds: &str| {
        let (url, seconds) = (url.clone(), seconds.to_owned());
        let watched = tokio::task::spawn_blocking(move || throughline(&["probe", &url, "--for", &seconds, "--json"]));
        let (_, out, errors) = watched.await.expect("no panic");
        (json(&out), errors)
    };
    let (wide, errors) = watch("12s").await;
    assert_eq!(wide["quality"]["stalls"], 0, "{wide:#} {errors}");
    let carried = |report: &serde_json::Value| {
        report["quality"]["bytes"].as_u64().expect("counted") * 8000
            / report["quality"]["played_ms"].as_u64().expect("it plays").max(1)
    };
    assert!(carried(&wide) > 1_200_000, "a wide line carries the first variant: {wide:#} {errors}");
    // 600 kbit/s carry the second variant, and not the first.
    let (narrowed, ()) = tokio::join!(watch("24s"), async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        rate.store(75_000, Ordering::Relaxed);
    });
    assert!(narrowed.0["quality"]["switches"].as_u64() >= Some(1), "a line that gets narrow: {narrowed:?}");
    assert!(narrowed.0["quality"]["played_ms"].as_u64() > Some(14_000), "{narrowed:?}");
    let (narrow, errors) = watch("12s").await;
    assert!(carried(&narrow) < 1_200_000, "a narrow line the second: {narrow:#} {errors}");
    assert_eq!(narrow["quality"]["stalls"], 0, "{narrow:#} {errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_brings_viewers_and_publishers_and_tells_how_it_went() {
    let rig = Rig::start().await;
    let tags = rig.clip(&Encoder { seconds: 4, ..Encoder::default() }).await;
    assert!(!tags.is_empty());
    let keys = rig.state.join("keys");
    let mut made = Vec::new();
    for stream in ["one", "two", "three"] {
        made.push(rig.key(stream).await);
    }
    std::fs::write(&keys, made.join("\n")).expect("writes");
    let (target, clip) = (format!("rtmp://{}/live", rig.rtmp()), rig.state.join("640x360.flv"));
    let publishing = std::thread::spawn(move || {
        let (clip, keys) = (clip.to_str().expect("plain").to_owned(), keys.to_str().expect("plain").to_owned());
        throughline(&["load", &target, "--publishers", "3", "--clip", &clip, "--keys", &keys, "--for", "25s", "--json"])
    });
    for stream in ["one", "two", "three"] {
        rig.two_segments(stream, "video").await;
    }
    for (scheme, address) in [("http", rig.http()), ("https", rig.addresses.https.expect("listens"))] {
        let url = format!("{scheme}://{address}/live/two/index.m3u8");
        let (success, out, errors) =
            throughline(&["load", &url, "--viewers", "40", "--ramp", "1s", "--for", "4s", "--insecure", "--json"]);
        let report = json(&out);
        assert!(success, "{report:#} {errors}");
        assert_eq!((&report["began"], &report["quality"]["missing"]), (&40.into(), &0.into()), "{report:#}");
        assert!(
            report["requests_per_second"].as_u64() > Some(300),
            "two tracks, ten requests a second each: {report:#}"
        );
        assert_eq!(report["worst"].as_array().map(Vec::len), Some(10));
    }
    let (success, out, errors) =
        tokio::task::spawn_blocking(move || publishing.join().expect("ends")).await.expect("ends");
    assert!(success, "{out} {errors}");
    assert_eq!(json(&out)["completed"], 3);
    let refused =
        throughline(&["load", &format!("rtmp://{}/live/wrong", rig.rtmp()), "--publishers", "1", "--for", "1s"]);
    assert!(!refused.0 && refused.2.contains("--clip"), "{refused:?}");
}

/// Over RTMP, RTMPS and SRT there is nothing to ask for: the viewer plays what comes.
#[tokio::test(flavor = "multi_thread")]
async fn probe_and_load_watch_over_rtmp_and_srt() {
    let rig = Rig::start().await;
    let _encoder = Encoder::with_b_frames().publish(&rig.publish_url("show").await);
    rig.two_segments("show", "video").await;
    let limits = ["--startup-max", "1s", "--latency-max", "3s", "--stalls-max", "0", "--errors-max", "0"];
    let rtmp = format!("rtmp://{}/live/show", rig.rtmp());
    let rtmps = format!("rtmps://{}/live/show", rig.addresses.rtmps.expect("listens"));
    let srt = format!("srt://{}?streamid=read:show", rig.srt());
    for (url, more) in [(&rtmp, &[][..]), (&rtmps, &["--insecure"][..]), (&srt, &[][..])] {
        let arguments = [&["probe", url, "--for", "6s", "--json"][..], &limits, more].concat();
        let (success, out, errors) = throughline(&arguments);
        let report = json(&out);
        assert!(success, "{report:#} {errors}");
        let quality = &report["quality"];
        assert!(quality["played_ms"].as_u64() > Some(4500), "{report:#}");
        assert!(
            quality["media"].as_u64() > Some(6 * (30 + 40)),
            "30 pictures and 47 frames of sound a second: {report:#}"
        );
        assert!(quality["latency_ms"]["count"].as_u64() > Some(3), "{report:#}");
        let (success, out, _) = throughline(
            &[&["load", url, "--viewers", "20", "--ramp", "1s", "--for", "4s", "--json"][..], more].concat(),
        );
        let report = json(&out);
        assert!(success, "{report:#}");
        assert_eq!((&report["began"], &report["viewers_with_stalls"]), (&20.into(), &0.into()), "{report:#}");
        assert!(report["bits_per_second"].as_u64() > Some(20 * 300_000), "{report:#}");
    }
    for option in [&["--plain"][..], &["--variant", "0"], &["--http", "2"]] {
        let (success, _, errors) = throughline(&[&["probe", &rtmp, "--for", "1s"], option].concat());
        assert!(!success && errors.contains(&format!("{} is for HTTP", option[0])), "{errors}");
    }
    let refused = throughline(&["probe", &rtmp.replace("show", "nothing"), "--for", "2s"]);
    assert!(!refused.0 && refused.1.contains("no such stream"), "{refused:?}");
    let refused = throughline(&["probe", &srt.replace("show", "nothing"), "--for", "2s"]);
    assert!(!refused.0 && refused.1.contains("refused"), "{refused:?}");
}

/// What stands still on the way is felt, and told.
#[tokio::test(flavor = "multi_thread")]
async fn probe_feels_a_path_that_stands_still_over_rtmp() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    rig.two_segments("show", "video").await;
    let cable = testkit::cable::Cable::to(rig.rtmp()).await;
    let url = format!("rtmp://{}/live/show", cable.address);
    let watched = tokio::task::spawn_blocking(move || throughline(&["probe", &url, "--for", "12s", "--json"]));
    tokio::time::sleep(Duration::from_secs(5)).await;
    cable.stall(Duration::from_secs(4)).await;
    let (_, out, errors) = watched.await.expect("ran");
    let report = json(&out);
    let quality = &report["quality"];
    assert_eq!(quality["stalls"], 1, "{report:#} {errors}");
    assert!((1000..4500).contains(&quality["stall_longest_ms"].as_u64().expect("told")), "{report:#}");
    assert!(quality["part_age_ms"]["max"].as_u64() > Some(3000), "{report:#}");
}

/// Another program sends: ffmpeg, listening for an SRT caller.
#[tokio::test(flavor = "multi_thread")]
async fn probe_watches_ffmpeg_over_srt() {
    let _rig = Rig::start().await; // takes the turn
    let port = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("free").port();
    let listener = format!("srt://127.0.0.1:{port}?mode=listener&passphrase=a-long-secret&pkt_size=1316");
    let _sender = Encoder { muxer: "-f mpegts", ..Encoder::default() }.publish(&listener);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let url = format!("srt://127.0.0.1:{port}?passphrase=a-long-secret&latency=200");
    let arguments = ["probe", &url, "--for", "8s", "--json", "--stalls-max", "0", "--errors-max", "0"];
    let (success, out, errors) = throughline(&arguments);
    let report = json(&out);
    assert!(success, "{report:#} {errors}");
    assert!(report["quality"]["played_ms"].as_u64() > Some(4000), "{report:#}");
}
