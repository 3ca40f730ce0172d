//! Those who take too much: connections, held requests, and readers that do not read.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use testkit::http::get;
use testkit::publisher::Publisher;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::dialogues::{message, number, object, string};
use crate::rig::{Encoder, Rig, eventually, metric};

/// The path of a complete segment.
async fn segment(rig: &Rig) -> String {
    let path = rig.playlist_path("show", "video").await;
    let playlist = rig.playlist_when(&path, "a segment", |playlist| playlist.complete().count() >= 1).await;
    let uri = playlist.complete().next().expect("one").uri.clone();
    format!("{}/{uri}", path.rsplit_once('/').expect("a path").0)
}

/// A socket that takes in as little as possible.
async fn narrow(server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.connect(server).await.expect("connects")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_cut_off_and_nobody_else() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = segment(&rig).await;
    let mut socket = narrow(rig.http()).await;
    // Far more than the kernel buffers: requests one after the other, and not a byte is read.
    let requests = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").repeat(400);
    let _ = tokio::join!(
        eventually("it is cut off", || async {
            assert_eq!(get(rig.http(), &path).await.status, 200, "others are served");
            (metric(&rig, "throughline_http_slow_readers_total").await == 1).then_some(())
        }),
        socket.write_all(requests.as_bytes()),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_http_2_that_gives_no_window_is_cut_off() {
    let rig = Rig::with(|file| file.limits.read_rate_min_bytes_per_second = 50_000).await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    // A body of many slices, and one that is a single slice.
    for (count, path) in [(1, segment(&rig).await), (2, rig.playlist_path("show", "video").await)] {
        hold_back(&rig, &path, count).await;
    }
}

/// Takes one byte of a body and no more, until that is one slow reader more.
async fn hold_back(rig: &Rig, path: &str, count: u64) {
    let url = format!("http://{}{path}", rig.http());
    let socket = TcpStream::connect(rig.http()).await.expect("connects");
    let (mut client, connection) =
        h2::client::Builder::new().initial_window_size(1).handshake::<_, bytes::Bytes>(socket).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(url).body(()).expect("a request");
    let (response, _) = client.send_request(request, true).expect("sent");
    let body = response.await.expect("answered").into_body();
    eventually("it is cut off", || async {
        (metric(rig, "throughline_http_slow_readers_total").await == count).then_some(())
    })
    .await;
    let _ = tokio::time::timeout(Duration::from_secs(5), connection).await.expect("the connection is closed");
    drop(body);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_encoders_are_refused_and_who_publishes_stays() {
    let rig = Rig::with(|file| file.limits.rtmp_connections_max = 2).await;
    let key = rig.key("show").await;
    let publisher = Publisher::connect(rig.rtmp(), "live", &key).await.expect("let in");
    let idle = TcpStream::connect(rig.rtmp()).await.expect("connects");
    eventually("all places are taken", || async {
        let mut refused = TcpStream::connect(rig.rtmp()).await.expect("the kernel connects");
        let closed = tokio::time::timeout(Duration::from_millis(500), refused.read(&mut [0; 16])).await;
        matches!(closed, Ok(Ok(0) | Err(_))).then_some(())
    })
    .await;
    assert!(metric(&rig, "throughline_ingest_rejected_total{reason=\"limit\"}").await >= 1);
    assert_eq!(metric(&rig, "throughline_ingest_sessions_opened_total{protocol=\"rtmp\"}").await, 2);
    drop((idle, publisher));
    eventually("a place is free", || async { Publisher::connect(rig.rtmp(), "live", &key).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_connections_are_closed_and_places_come_free() {
    let rig = Rig::with(|file| file.limits.http_connections_max = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut socket = TcpStream::connect(rig.http()).await.expect("connects");
        socket.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("written");
        assert_ne!(socket.read(&mut [0; 1024]).await.expect("answered"), 0);
        held.push(socket);
    }
    let mut refused = TcpStream::connect(rig.http()).await.expect("the kernel connects");
    assert_eq!(refused.read(&mut [0; 16]).await.unwrap_or(0), 0, "closed at once");
    held.pop();
    eventually("a place is free", || async {
        let mut socket = TcpStream::connect(rig.http()).await.expect("connects");
        let _ = socket.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await;
        (socket.read(&mut [0; 16]).await.unwrap_or(0) > 0).then_some(())
    })
    .await;
    assert!(metric(&rig, "throughline_http_refused_connections_total").await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_of_held_requests_they_are_told_to_come_back_and_others_are_served() {
    let rig = Rig::with(|file| file.limits.blocked_requests_max = 2).await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = rig.playlist_path("show", "video").await;
    let playlist = rig.playlist_when(&path, "a segment", |playlist| playlist.complete().count() >= 1).await;
    // The segment after the next is at least one second away.
    let ahead = format!("{path}?_HLS_msn={}", playlist.edge().expect("parts").0 + 1);
    let held = [tokio::spawn(hold(rig.http(), ahead.clone())), tokio::spawn(hold(rig.http(), ahead.clone()))];
    eventually("both are held", || async {
        (metric(&rig, "throughline_http_blocked_requests").await == 2).then_some(())
    })
    .await;
    let refused = get(rig.http(), &ahead).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"), "{}", refused.text());
    assert_eq!(get(rig.http(), &path).await.status, 200, "what need not wait is served");
    for request in held {
        assert_eq!(request.await.expect("no panic"), 200);
    }
}

async fn hold(server: SocketAddr, path: String) -> u16 {
    get(server, &path).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rtmp_player_that_does_not_read_is_cut_off_and_harms_nobody() {
    let rig = Rig::start().await;
    let video = "libx264 -preset ultrafast -tune zerolatency -g 30 -pix_fmt yuv420p -b:v 20M -minrate 20M -maxrate 20M \
        -bufsize 20M -nal-hrd cbr";
    let encoder = Encoder { video: Some(video), ..Encoder::default() };
    let _encoder = encoder.publish(&rig.publish_url("show").await);
    rig.multivariant("show").await;
    let mut player = narrow(rig.rtmp()).await;
    let command = |stream, values: &[Vec<u8>]| message(20, stream, 0, &values.concat());
    let opening = [
        [&[3][..], &[0; 3072]].concat(),
        message(1, 0, 0, &[0, 1, 0, 0]), // chunks of 64 KiB
        command(0, &[string("connect"), number(1.0), object(&[("app", "live")])]),
        command(0, &[string("createStream"), number(2.0), vec![5]]),
        command(1, &[string("play"), number(3.0), vec![5], string("show")]),
    ];
    player.write_all(&opening.concat()).await.expect("written");
    eventually("it is cut off", || async {
        let text = get(rig.addresses.ops.expect("listens"), "/metrics").await.text().to_owned();
        text.lines()
            .any(|line| {
                line.starts_with("throughline_ingest_sessions_closed_total")
                    && line.contains("timeout")
                    && line.ends_with(" 1")
            })
            .then_some(())
    })
    .await;
    let view = rig.api("/api/v1/streams/show").await;
    assert_eq!((&view["state"], &view["delivery"]["discontinuities"]), (&"live".into(), &0.into()), "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_after_the_tls_handshake_is_dropped() {
    let rig = Rig::start().await;
    let https = rig.addresses.https.expect("listens").to_string();
    let mut command = tokio::process::Command::new("/usr/bin/openssl");
    command.args(["s_client", "-quiet", "-connect", &https]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut client = command.stderr(Stdio::null()).kill_on_drop(true).spawn().expect("starts");
    let began = Instant::now();
    let ended = tokio::time::timeout(Duration::from_secs(15), client.wait()).await;
    assert!(ended.is_ok(), "the server closes");
    assert!(began.elapsed() > Duration::from_secs(9), "it had its time");
}
