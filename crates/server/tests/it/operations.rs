//! Operations: API, metrics, health, the command line, configuration.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::http::{get, request};
use testkit::programs::Program;
use tokio::io::AsyncWriteExt as _;

use crate::rig::{Encoder, Rig, eventually};

pub(crate) fn throughline(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_throughline")).args(arguments).output().expect("starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_lists_and_revokes_keys_with_and_without_a_server() {
    let mut rig = Rig::start().await;
    let state = rig.state.to_str().expect("plain").to_owned();
    let with_server = throughline(&["key", "create", "show", "--state", &state]);
    assert!(with_server.0 && with_server.1.trim().len() == 32 && with_server.1.lines().count() == 1, "{with_server:?}");
    let second = throughline(&["serve", "--state", &state, "--http", "off", "--rtmp", "off", "--ops", "off"]);
    assert!(!second.0 && second.2.contains("another server uses the state directory"), "{}", second.2);
    let table = throughline(&["status", "--state", &state]);
    assert!(table.0 && table.1.contains("no streams"), "{table:?}");
    rig.stop().await;

    let without = throughline(&["key", "create", "show", "--state", &state]);
    assert!(without.0 && without.1.trim() != with_server.1.trim());
    let list = throughline(&["key", "list", "--state", &state]).1;
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(!list.contains(without.1.trim()), "secrets are not listed");
    let id = list.lines().last().and_then(|line| line.split(' ').next()).expect("an id").to_owned();
    assert!(throughline(&["key", "revoke", &id, "--state", &state]).0);
    let again = throughline(&["key", "revoke", &id, "--state", &state]);
    assert!(!again.0 && again.2.contains("there is no key"), "{}", again.2);
    assert!(!throughline(&["key", "create", "../x", "--state", &state]).0, "no stream name");
    assert!(throughline(&["status", "--state", &state]).2.contains("no server runs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_wants_the_token_and_shows_streams_and_health() {
    let rig = Rig::start().await;
    let token = rig.server.as_ref().expect("runs").first_token().expect("first start").to_owned();
    let ops = rig.addresses.ops.expect("listens");
    assert_eq!(get(ops, "/healthz").await.status, 200);
    assert_eq!(get(ops, "/readyz").await.status, 200);
    assert_eq!(get(ops, "/api/v1/streams").await.status, 401);
    assert_eq!(request(ops, "GET", "/api/v1/streams", &[("authorization", "Bearer guess")]).await.status, 403);
    let bearer = format!("Bearer {token}");
    let with = [("authorization", bearer.as_str())];
    assert_eq!(request(ops, "GET", "/api/v1/streams", &with).await.text(), "[]");
    assert_eq!(request(ops, "GET", "/api/v1/streams/nothing", &with).await.status, 404);

    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    rig.multivariant("show").await;
    let streams: serde_json::Value =
        serde_json::from_str(request(ops, "GET", "/api/v1/streams", &with).await.text()).expect("JSON");
    assert_eq!(streams[0]["name"], "show");
    assert!(streams[0]["publisher"]["encoder"].as_str().is_some_and(|name| name.contains("Lavf")), "{streams}");
    let metrics = get(ops, "/metrics").await;
    for name in [
        "throughline_ingest_sessions_opened_total{protocol=\"rtmp\"}",
        "throughline_ingest_received_bytes_total",
        "throughline_hls_parts_total",
        "throughline_http_requests_total{class=\"multivariant\",status=\"200\"}",
        "throughline_stream_live{stream=\"show\"} 1",
        "throughline_process_resident_bytes",
    ] {
        assert!(metrics.text().contains(name), "{name} in\n{}", metrics.text());
    }
    let text = metrics.text().to_owned();
    assert!(text.ends_with("# EOF\n"), "OpenMetrics");
}

#[test]
fn the_openapi_description_is_the_committed_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, control::openapi_json(), "run: throughline openapi > docs/openapi.json");
}

#[test]
fn config_check_prints_the_effective_configuration_or_the_mistake_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("throughline.toml");
    let name = path.to_str().expect("plain");
    std::fs::write(&path, "[hls]\npart_target_ms = 500\n").expect("writes");
    let (success, out, _) = throughline(&["config", "check", "--config", name]);
    assert!(success && out.contains("part_target_ms = 500") && out.contains("segment_target_ms = 2000"), "{out}");
    std::fs::write(&path, "[hls]\npart_target = 500\n").expect("writes");
    let (success, _, errors) = throughline(&["config", "check", "--config", name]);
    assert!(!success && errors.contains("line 2, column 1") && errors.contains("part_target_ms"), "{errors}");
}

/// Puts another self-made certificate into the files.
pub(crate) fn renew(certificate: &Path, key: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
    std::fs::write(key, made.signing_key.serialize_pem()).expect("written");
    std::fs::write(certificate, made.cert.pem()).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_used_by_https_and_rtmps_without_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let [certificate, key, old] = ["chain.pem", "key.pem", "old.pem"].map(|name| folder.path().join(name));
    renew(&certificate, &key);
    let rig = Rig::with(|file| {
        (file.tls.certificate, file.tls.key) = (Some(certificate.clone()), Some(key.clone()));
    })
    .await;
    let ports = [rig.addresses.https, rig.addresses.rtmps].map(|address| address.expect("listens").port().to_string());
    // curl checks the certificate before it speaks: 60 is a certificate it does not know.
    let knows = async |port: &str, authority: &Path| {
        let url = format!("https://localhost:{port}/");
        let authority = authority.to_str().expect("a plain path");
        let arguments = ["-s", "-m", "2", "-o", "/dev/null", "-w", "%{ssl_verify_result}", "--cacert", authority, &url];
        let (_, out, _) = Program::start("/usr/bin/curl", arguments).finish().await;
        out == "0"
    };
    for port in &ports {
        assert!(knows(port, &certificate).await, "the first certificate");
    }
    std::fs::copy(&certificate, &old).expect("copied");
    std::fs::write(&key, "no key at all").expect("written");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(knows(&ports[0], &old).await, "a pair that does not fit changes nothing");

    renew(&certificate, &key);
    for port in &ports {
        eventually("the new certificate", || async { knows(port, &certificate).await.then_some(()) }).await;
        assert!(!knows(port, &old).await, "not the old one any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_enough_of_the_output_is_no_failure() {
    let rig = Rig::start().await;
    for stream in 0..200 {
        rig.key(&format!("s{stream}")).await;
    }
    let line = format!("{} key list --state {} | head -n 1", env!("CARGO_BIN_EXE_throughline"), rig.state.display());
    let (success, out, errors) = Program::start("/bin/bash", ["-o", "pipefail", "-c", &line]).finish().await;
    assert!(success && out.starts_with("ID") && errors.is_empty(), "{out}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_takes_flags_before_environment_before_file_and_ends_in_time_on_sigterm() {
    let folder = tempfile::tempdir().expect("a folder");
    let (state, config) = (folder.path().join("state"), folder.path().join("throughline.toml"));
    let text = "[listen]\nhttp = \"127.0.0.1:1\"\nrtmp = \"127.0.0.1:1\"\nops = \"off\"\n[limits]\nshutdown_grace_seconds = 2\n";
    std::fs::write(&config, text).expect("writes");
    let mut command = Command::new(env!("CARGO_BIN_EXE_throughline"));
    command.args(["serve", "--rtmp", "127.0.0.1:0", "--log-json", "--config"]).arg(&config);
    command
        .env("THROUGHLINE_HTTP", "127.0.0.1:0")
        .env("THROUGHLINE_RTMP", "127.0.0.1:2")
        .env("THROUGHLINE_STATE", &state);
    let mut server = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let addresses = eventually("it listens", || async { std::fs::read(state.join("addresses.json")).ok() }).await;
    let addresses: serde_json::Value = serde_json::from_slice(&addresses).expect("JSON");
    let http: SocketAddr = addresses["http"].as_str().expect("listens").parse().expect("an address");
    assert!(addresses.get("ops").is_none() && addresses.get("https").is_none(), "off: {addresses}");

    let url = format!("rtmp://{}/live/{}", addresses["rtmp"].as_str().expect("listens"), key(&state, "show"));
    let encoder = Encoder::default().publish(&url);
    let multivariant = eventually("the stream", || async {
        let answer = get(http, "/live/show/index.m3u8").await;
        (answer.status == 200).then(|| answer.text().to_owned())
    });
    let media = multivariant.await.lines().last().expect("a playlist").to_owned();
    // One who sends half a request and waits, and one who is held.
    let mut stuck = tokio::net::TcpStream::connect(http).await.expect("connects");
    stuck.write_all(b"GET / HTTP/1.1\r\n").await.expect("writes");
    let playlist = get(http, &format!("/live/show/{media}")).await.text().to_owned();
    let msn = testkit::playlist::Playlist::parse(&playlist).edge().expect("parts").0;
    let held = tokio::spawn(async move { get(http, &format!("/live/show/{media}?_HLS_msn={}", msn + 1)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    assert!(Command::new("kill").arg(server.id().to_string()).status().expect("kills").success());
    let answer = held.await.expect("answered");
    assert!(matches!(answer.status, 200 | 503) && !answer.text().contains("ENDLIST"), "{}", answer.status);
    let status = tokio::task::spawn_blocking(move || (server.wait(), server)).await.expect("ends");
    assert!(
        status.0.expect("ends").success() && began.elapsed() < Duration::from_millis(3500),
        "{:?}",
        began.elapsed()
    );
    drop((encoder, stuck));
    let (mut out, mut log) = (String::new(), String::new());
    let mut server = status.1;
    server.stdout.take().expect("piped").read_to_string(&mut out).expect("text");
    server.stderr.take().expect("piped").read_to_string(&mut log).expect("text");
    assert!(out.lines().any(|line| line == format!("http {http}")), "{out}");
    for line in log.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("every line is JSON");
        assert!(event["message"].is_string(), "{line}");
    }
    assert_eq!(log.matches("operator token, shown this once").count(), 1);
    assert!(!state.join("addresses.json").exists());
}

fn key(state: &Path, stream: &str) -> String {
    throughline(&["key", "create", stream, "--state", state.to_str().expect("plain")]).1.trim().to_owned()
}

#[test]
fn a_key_is_not_made_behind_the_back_of_a_server_that_does_not_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let _lock = server::StateLock::take(folder.path()).expect("free");
    let refused = throughline(&["key", "create", "show", "--state", folder.path().to_str().expect("plain")]);
    assert!(!refused.0 && refused.2.contains("try again in a moment"), "{refused:?}");
}
