//! Sources that die, servers that restart, broadcasts that end.

use std::net::SocketAddr;
use std::time::Duration;

use testkit::http;
use testkit::playlist::Playlist;

use crate::rig::{Encoder, Rig, eventually, store};

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_was_killed_returns_within_two_seconds_on_the_same_playlist() {
    let rig = Rig::start().await;
    let url = rig.publish_url("show").await;
    let encoder = Encoder::default().publish(&url);
    let path = rig.playlist_path("show", "video").await;
    let before = rig.playlist_when(&path, "two segments", |playlist| playlist.complete().count() >= 2).await;
    encoder.kill().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _encoder = Encoder::default().publish(&url);

    let last = before.segments.last().expect("some").number;
    let after = rig.playlist_when(&path, "it goes on", |playlist| {
        playlist.segments.last().is_some_and(|segment| segment.number > last + 1)
    });
    let after = after.await;
    assert_eq!(after.broken_rules_since(&before), Vec::<String>::new());
    assert!(after.segments.iter().all(|segment| !segment.discontinuity), "nothing a decoder would notice");
    assert_eq!(rig.api("/api/v1/streams/show").await["joins"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn ll_07_a_longer_loss_is_signalled_as_gaps_and_then_the_program_goes_on() {
    let rig = Rig::start().await;
    let url = rig.publish_url("show").await;
    let encoder = Encoder::default().publish(&url);
    let path = rig.two_segments("show", "video").await;
    encoder.kill().await;
    let gaps = |playlist: &Playlist| playlist.segments.iter().filter(|segment| segment.gap).count();
    for track in ["video", "audio"] {
        let path = rig.playlist_path("show", track).await;
        rig.playlist_when(&path, "a gap", |playlist| gaps(playlist) >= 1).await;
    }
    let _encoder = Encoder::default().publish(&url);
    let playlist = rig.playlist_when(&path, "media again", |playlist| {
        gaps(playlist) >= 1 && playlist.segments.last().is_some_and(|segment| !segment.gap && !segment.parts.is_empty())
    });
    let playlist = playlist.await;
    for pair in playlist.segments.windows(2) {
        let (start, next) = (pair[0].date_ms.expect("dated"), pair[1].date_ms.expect("dated"));
        let length = i64::try_from(Duration::from_secs_f64(pair[0].length()).as_millis()).expect("short");
        assert!((start + length - next).abs() < 50, "durations add up to the time that passed: {pair:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_continues_the_sequence_with_a_discontinuity_and_uses_no_name_twice() {
    let mut rig = Rig::start().await;
    let url = rig.publish_url("show").await;
    let encoder = Encoder::default().publish(&url);
    let path = rig.playlist_path("show", "video").await;
    let before = rig.playlist_when(&path, "two segments", |playlist| playlist.complete().count() >= 2).await;
    rig.stop().await;
    drop(encoder);
    assert!(!rig.state.join("addresses.json").exists());
    let row = store(&rig.state).era(&"show".parse().expect("valid")).expect("recorded");
    assert!(!row.is_ended, "a stop never ends a playlist");

    rig.start_again().await;
    let _encoder = Encoder::default().publish(&url);
    assert_eq!(rig.playlist_path("show", "video").await, path, "the same URL");
    let after = rig.playlist_when(&path, "media", |playlist| !playlist.segments.is_empty()).await;
    let last = before.segments.last().expect("some").number;
    let first = &after.segments[0];
    assert!(first.number > last && first.number <= last + 20, "{} after {last}", first.number);
    assert!(first.discontinuity && after.discontinuity_sequence >= before.discontinuity_sequence);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_requests_are_answered_when_the_server_stops() {
    let mut rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = rig.playlist_path("show", "video").await;
    let msn = rig.playlist_when(&path, "a segment", |playlist| playlist.complete().count() >= 1).await;
    let wanted = format!("{path}?_HLS_msn={}", msn.segments.last().expect("some").number + 1);
    let server = rig.http();
    let viewer = tokio::task::spawn(async move { http::get(server, &wanted).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    rig.stop().await;

    let answer = viewer.await.expect("answered");
    assert!(answer.status == 200 && !answer.text().contains("ENDLIST") || answer.status == 503, "{}", answer.status);
    assert!(
        answer.status == 200 && answer.header("cache-control") == "no-store" || answer.header("retry-after") == "1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_hold_time_the_list_ends_and_the_next_broadcast_has_other_urls() {
    let change = |file: &mut server::config::ConfigFile| {
        (file.streams.hold_seconds, file.hls.segment_target_ms, file.hls.window_seconds) = (3, 1000, 0);
    };
    let rig = Rig::with(change).await;
    let url = rig.publish_url("show").await;
    let encoder = Encoder::default().publish(&url);
    let path = rig.playlist_path("show", "video").await;
    rig.playlist_when(&path, "a segment", |playlist| playlist.complete().count() >= 1).await;
    encoder.kill().await;
    let ended = rig.playlist_when(&path, "ENDLIST", |playlist| playlist.ended).await;
    assert!(ended.hint.is_none() && ended.segments.iter().all(|segment| segment.parts.is_empty()));
    let reply = http::get(rig.http(), &format!("{path}?_HLS_msn=99999999999")).await;
    assert_eq!(reply.status, 200, "LL-16: directives are ignored once it ended");

    let _encoder = Encoder::default().publish(&url);
    let next = eventually("another broadcast", || async {
        let next = rig.playlist_path("show", "video").await;
        (next != path).then_some(next)
    })
    .await;
    rig.playlist_when(&next, "media", |playlist| !playlist.ended && !playlist.segments.is_empty()).await;
    let directory = path.rsplit_once('/').expect("a path").0;
    let last = format!("{directory}/{}", ended.segments.iter().rfind(|segment| !segment.gap).expect("media").uri);
    let status = async |path: &str| http::get(rig.http(), path).await.status;
    assert_eq!((status(&path).await, status(&last).await), (200, 200), "LL-22: the ended list stays a window");
    eventually("LL-22: the list is gone", || async { (status(&path).await == 404).then_some(()) }).await;
    assert_eq!(status(&last).await, 200, "LL-22: and its segments stay a window longer");
}

/// As systemd does it: opens the sockets, and starts the server with them, again and again.
const SYSTEMD: &str = r"
import os, socket, sys, signal
def listener(port):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', port)); s.listen(64); return s
http, rtmp = listener(0), listener(0)
srt = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); srt.bind(('127.0.0.1', 0))
ports = [str(s.getsockname()[1]) for s in (http, rtmp, srt)]
print(' '.join(ports), flush=True)
fds = [os.dup(s.fileno()) for s in (http, rtmp, srt)]
for line in sys.stdin:
    if line.strip() != 'start': break
    child = os.fork()
    if child == 0:
        high = [os.dup2(fd, 50 + i) for i, fd in enumerate(fds)]
        for i, fd in enumerate(high): os.dup2(fd, 3 + i, inheritable=True)
        os.environ.update(LISTEN_FDS='3', LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES='throughline.socket:throughline.socket:srt')
        os.execv(sys.argv[1], [sys.argv[1], *[word.format(*ports) for word in sys.argv[2:]]])
    print(child, flush=True)
    sys.stdin.readline()
    os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
    print('gone', flush=True)
";

/// Where the media playlist is, and the first and the last number that it lists, once the last is above this one.
async fn listed(server: SocketAddr, above: u64) -> Option<(String, u64, u64)> {
    let text = http::try_get(server, "/live/show/index.m3u8").await?;
    let media = std::str::from_utf8(&text).ok()?.lines().find(|line| line.ends_with("video.m3u8"))?.to_owned();
    let list = Playlist::parse(http::get(server, &format!("/live/show/{media}")).await.text());
    let newest = list.complete().last()?.number;
    (newest > above).then_some((media, list.media_sequence, newest))
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_systemd_holds_refuse_nobody_while_the_server_restarts() {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
    let rig = Rig::start().await; // takes the turn, and lends its folder
    let state = rig.state.join("activated");
    let mut command = tokio::process::Command::new("/usr/bin/env");
    command.args(["python3", "-c", SYSTEMD, env!("CARGO_BIN_EXE_throughline"), "serve", "--ops", "off"]);
    command.args(["--http", "127.0.0.1:{0}", "--rtmp", "127.0.0.1:{1}", "--srt", "127.0.0.1:0", "--state"]).arg(&state);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
    let mut systemd = command.spawn().expect("starts");
    let mut tell = systemd.stdin.take().expect("piped");
    let mut lines = tokio::io::BufReader::new(systemd.stdout.take().expect("piped")).lines();
    let ports = lines.next_line().await.expect("read").expect("ports");
    let [http, rtmp, srt]: [u16; 3] =
        ports.split(' ').map(|port| port.parse().expect("a port")).collect::<Vec<_>>().try_into().expect("three");
    let addresses = state.join("addresses.json");
    let known = || async { std::fs::read_to_string(&addresses).ok().filter(|text| text.contains("srt")) };
    tell.write_all(b"start\n").await.expect("written");
    let written = eventually("it listens", known).await;
    for port in [http, rtmp, srt] {
        assert!(written.contains(&format!("127.0.0.1:{port}")), "{written}");
    }
    // The server prints its addresses too.
    tell.write_all(b"kill\n").await.expect("written");
    while lines.next_line().await.expect("read").expect("a line") != "gone" {}
    let _ = std::fs::remove_file(&addresses);

    // Nobody runs, and nobody is refused: whoever asks now is answered when the server is back.
    let mut early = tokio::net::TcpStream::connect(("127.0.0.1", http)).await.expect("taken into the queue");
    early.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("written");
    tell.write_all(b"start\n").await.expect("written");
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), early.read_to_string(&mut answer)).await;
    assert!(read.is_ok() && answer.starts_with("HTTP/1.1 "), "{answer}");
    let (_, key, _) =
        crate::operations::throughline(&["key", "create", "show", "--state", state.to_str().expect("plain")]);
    let url = format!("rtmp://127.0.0.1:{rtmp}/live/{}", key.trim());
    let encoder = Encoder::default().publish(&url);
    let address = format!("127.0.0.1:{http}").parse().expect("an address");
    let (media, _, newest) = eventually("it is live", || listed(address, 0)).await;
    tell.write_all(b"kill\n").await.expect("written");
    while lines.next_line().await.expect("read").expect("a line") != "gone" {}
    encoder.kill().await;

    // The sequence goes on at the same place, above what may have been published and is not recorded: no name is used twice.
    tell.write_all(b"start\n").await.expect("written");
    let _encoder = Encoder::default().publish(&url);
    let (again, first, _) = eventually("it is live again", || listed(address, newest)).await;
    assert!(again == media && (newest + 1..newest + 200).contains(&first), "{again} from {first}, {media} to {newest}");
    tell.write_all(b"kill\n").await.expect("written");

    // A socket that nobody is configured for would keep its peers waiting for ever.
    let mut command = tokio::process::Command::new("/usr/bin/env");
    command.args([
        "python3",
        "-c",
        SYSTEMD,
        env!("CARGO_BIN_EXE_throughline"),
        "serve",
        "--ops",
        "off",
        "--srt",
        "off",
    ]);
    command.args(["--http", "127.0.0.1:{0}", "--rtmp", "127.0.0.1:{1}", "--state"]).arg(rig.state.join("other"));
    command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).kill_on_drop(true);
    let mut systemd = command.spawn().expect("starts");
    let mut tell = systemd.stdin.take().expect("piped");
    tell.write_all(b"start\n").await.expect("written");
    let mut errors = tokio::io::BufReader::new(systemd.stderr.take().expect("piped")).lines();
    let words = errors.next_line().await.expect("read").unwrap_or_default();
    assert!(
        words.contains("nothing is configured to listen on that port") && words.contains("ListenDatagram"),
        "{words}"
    );
}
