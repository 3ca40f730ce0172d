//! Legs that are fetched over HLS, from servers of ours and others.

use std::path::Path;
use std::time::Duration;

use control::KeyPurpose;
use server::config::HlsPullTable;
use testkit::cable::Cable;
use testkit::http;
use testkit::programs::Program;
use testkit::witness::{Making, Source, Witness};

use crate::continuity::{assert_seamless, assert_whole, events, legs, seconds};
use crate::operations::renew;
use crate::rig::{Encoder, Rig, eventually};

fn fetched(url: String) -> HlsPullTable {
    HlsPullTable { stream: "show".into(), url, ..HlsPullTable::default() }
}

/// A web server that is not ours, and its address.
fn serve(folder: &Path) -> (Program, String) {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port().to_string();
    let folder = folder.to_str().expect("a plain path");
    let arguments = ["-m", "http.server", &port, "--bind", "127.0.0.1", "--directory", folder];
    (Program::start("python3", arguments), format!("http://127.0.0.1:{port}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_over_ll_hls_with_a_play_key_is_whole() {
    let mut rig = Rig::start().await;
    let origin = rig.beside().await;
    let there = origin.key("there").await;
    origin.set_playback("there", "key").await;
    let key = origin.key_for("there", KeyPurpose::Play).await;
    let cable = Cable::to(origin.http()).await;
    let url = format!("http://{}/live/there/index.m3u8?token=secret", cable.address);
    rig.stop().await;
    rig.start_again_with(|file| file.hls.pull.push(HlsPullTable { key: Some(key), ..fetched(url) })).await;
    let making = Making { seconds: 25, ..Making::default() };
    let urls = [("flv", format!("rtmp://{}/live/{there}", origin.rtmp()))];
    let source = Source::start(making, &rig.state.join("made.mkv"), &urls);
    let leg = legs(&rig, "feeding", 1).await.remove(0);
    assert_eq!(leg["publisher"]["protocol"], "hls", "{leg}");
    assert!(!leg.to_string().contains("secret"), "{leg}");
    rig.multivariant("show").await;
    let witness = Witness::watch(rig.http(), "show", &rig.state.join("seen.txt"));
    seconds(6.0).await;
    cable.stall(Duration::from_millis(1500)).await; // longer than what is held back: what is late comes at once, and in order
    let made = source.made().await;
    assert_seamless(&rig).await;
    seconds(4.0).await; // as far behind as it is to be, twice
    assert_whole(&rig, &made, &witness.seen().await).await;
    assert_eq!(events(&rig, "stream.switched").await.len(), 1, "it never fell silent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_fetched_over_ll_hls_takes_over_when_the_encoder_dies() {
    let mut rig = Rig::start().await;
    let origin = rig.beside().await;
    let url = format!("http://{}/live/show/index.m3u8", origin.http());
    rig.stop().await;
    rig.start_again_with(|file| file.hls.pull.push(HlsPullTable { rank: 1, ..fetched(url) })).await;
    let encoder = Encoder::default().publish(&rig.publish_url("show").await);
    legs(&rig, "feeding", 1).await;
    let other = Encoder { extra: "-b:v 400k", ..Encoder::default() };
    let _other = other.publish(&origin.publish_url("show").await);
    legs(&rig, "standby", 1).await;
    rig.two_segments("show", "video").await;
    encoder.kill().await;
    let switch = eventually("the backup feeds the stream", || async {
        events(&rig, "stream.switched").await.into_iter().find(|event| event["reason"] == "closed")
    })
    .await;
    assert!(switch["gap_ms"].as_i64().is_some_and(|gap| gap <= 200), "{switch}");
    assert_eq!(legs(&rig, "feeding", 1).await[0]["publisher"]["protocol"], "hls");
    seconds(3.0).await;
    assert_seamless(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hls_of_ffmpeg_is_fetched_as_transport_stream_and_as_mp4_without_a_hole() {
    let mut rig = Rig::start().await;
    for (rounds, form, muxer) in [
        (1, "ts", "hls:hls_time=2:hls_list_size=6:hls_flags=delete_segments"),
        (2, "mp4", "hls:hls_time=2:hls_list_size=6:hls_segment_type=fmp4:hls_flags=delete_segments+program_date_time"),
    ] {
        let folder = rig.state.join(form);
        std::fs::create_dir_all(&folder).expect("a folder");
        let (_server, url) = serve(&folder);
        rig.stop().await;
        rig.start_again_with(|file| file.hls.pull = vec![fetched(format!("{url}/index.m3u8"))]).await;
        let making = Making { seconds: 30, ..Making::default() };
        let outputs = [(muxer, folder.join("index.m3u8").to_str().expect("a plain path").to_owned())];
        let source = Source::start(making, &rig.state.join(format!("{form}.mkv")), &outputs);
        legs(&rig, "feeding", 1).await;
        rig.multivariant("show").await;
        let witness = Witness::watch(rig.http(), "show", &rig.state.join(format!("{form}.txt")));
        let made = source.made().await;
        assert_seamless(&rig).await;
        seconds(9.0).await; // as far behind the edge as players are to be, and more
        assert_whole(&rig, &made, &witness.seen().await).await;
        let switches = events(&rig, "stream.switched").await;
        assert_eq!(switches.len(), rounds, "it never fell silent");
        let end = || async { (rig.api("/api/v1/streams/show").await["state"] == "lost").then_some(()) };
        eventually("its end is seen", end).await;
        rig.ask(hyper::Method::DELETE, "/api/v1/streams/show", &serde_json::Value::Null).await.expect("is there");
    }
}

/// Takes webhooks over HTTPS, with a library that is not ours: port, certificate, key.
const HOOK: &str = r"
import http.server, ssl, sys
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers['content-length']))
        self.send_response(204)
        self.end_headers()
server = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Hook)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_and_told_over_tls_goes_to_whom_the_certificate_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let [certificate, key, config, state] =
        ["chain.pem", "key.pem", "throughline.toml", "state"].map(|name| folder.path().join(name));
    renew(&certificate, &key);
    let origin = Rig::with(|file| {
        (file.tls.certificate, file.tls.key) = (Some(certificate.clone()), Some(key.clone()));
    })
    .await;
    let _encoder = Encoder::default().publish(&origin.publish_url("show").await);
    origin.two_segments("show", "video").await;
    let [https, rtmps] = [origin.addresses.https, origin.addresses.rtmps].map(|at| at.expect("listens").port());
    let hook = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let [certificate, key] = [certificate, key].map(|path| path.to_str().expect("plain").to_owned());
    let _hook = Program::start("python3", ["-c", HOOK, &hook.to_string(), &certificate, &key]);
    let text = format!(
        "[[rtmp.pull]]\nstream = \"one\"\nurl = \"rtmps://localhost:{rtmps}/live/show\"\n\
         [[rtmp.pull]]\nstream = \"three\"\nurl = \"rtmps://127.0.0.1:{rtmps}/live/show\"\n\
         [[hls.pull]]\nstream = \"two\"\nurl = \"https://localhost:{https}/live/show/index.m3u8\"\n\
         [[webhook]]\nurl = \"https://localhost:{hook}/\"\nsecret = \"whsec_YSBrZXkgb2YgdGhpcnR5LXR3byByYW5kb20gYnl0ZXM=\"\n\
         allow_private = true\n"
    );
    std::fs::write(&config, text).expect("written");
    let known = format!("SSL_CERT_FILE={certificate}");
    let [config, shown] = [&config, &state].map(|path| path.to_str().expect("plain"));
    let words =
        [&known, env!("CARGO_BIN_EXE_throughline"), "serve", "--config", config, "--state", shown, "--srt", "off"];
    let listen = ["--rtmp", "off", "--http", "127.0.0.1:0", "--ops", "127.0.0.1:0"];
    let _server = Program::start("/usr/bin/env", words.into_iter().chain(listen));
    let addresses = eventually("it listens", || async {
        let text = std::fs::read_to_string(state.join("addresses.json")).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()
    })
    .await;
    let [http, ops] =
        ["http", "ops"].map(|name| addresses[name].as_str().and_then(|at| at.parse().ok()).expect("listens"));
    for stream in ["one", "two"] {
        let path = format!("/live/{stream}/index.m3u8");
        eventually(stream, || async { (http::get(http, &path).await.status == 200).then_some(()) }).await;
    }
    let delivered = "throughline_webhooks_total{outcome=\"delivered\"} ";
    eventually("webhooks are taken", || async {
        http::get(ops, "/metrics").await.text().contains(delivered).then_some(())
    })
    .await;
    assert_eq!(http::get(http, "/live/three/index.m3u8").await.status, 404, "the certificate names another one");
}
