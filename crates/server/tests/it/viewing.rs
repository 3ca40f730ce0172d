//! The synthetic viewer from the command line, against our server and against others.

use testkit::http::get;
use testkit::programs::Program;

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
