//! What an operator does from the command line, and the slates that he chooses.

use std::path::Path;
use std::time::Duration;

use testkit::http;
use testkit::programs::{Ffmpeg, Program};

use crate::continuity::{events, legs};
use crate::operations::throughline;
use crate::rig::{Encoder, Rig, eventually};

async fn leads(rig: &Rig, leg: &str) {
    let leg: u64 = leg.parse().expect("a number");
    eventually("that leg feeds the stream", || async {
        let view = rig.api("/api/v1/streams/show").await;
        (view["legs"][0]["id"] == leg && view["legs"][0]["role"] == "feeding").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_pins_takes_out_lets_in_and_ends() {
    let rig = Rig::start().await;
    let state = rig.state.to_str().expect("plain").to_owned();
    let switch = |words: &[&str]| throughline(&[&["switch", "show"], words, &["--state", &state]].concat());
    let _preferred = Encoder::default().publish(&rig.publish_url("show").await);
    let first = legs(&rig, "feeding", 1).await[0]["id"].to_string();
    let backup = format!("rtmp://{}/live/{}", rig.rtmp(), rig.key_with_rank("show", 1).await);
    let _backup = Encoder { extra: "-vf negate", ..Encoder::default() }.publish(&backup);
    let second = legs(&rig, "standby", 1).await[0]["id"].to_string();

    let done = switch(&[&second, "--do", "pin"]);
    assert!(done.0, "{done:?}");
    leads(&rig, &second).await;
    let table = switch(&[]).1;
    assert!(table.lines().any(|line| line.contains("pinned") && line.contains("feeding")), "{table}");
    assert!(switch(&["--unpin"]).0);
    assert!(switch(&[&first]).0, "goes on with it");
    leads(&rig, &first).await;
    assert!(switch(&[&first, "--do", "disable"]).0);
    leads(&rig, &second).await;
    assert!(switch(&[&first, "--do", "enable"]).0);
    legs(&rig, "standby", 1).await;
    let unknown = switch(&["77", "--do", "pin"]);
    assert!(!unknown.0 && unknown.2.contains("no leg 77; `throughline switch STREAM` lists them"), "{unknown:?}");
    let said = events(&rig, "operator").await;
    assert!(said.len() >= 4, "each is told: {said:?}");

    let path = rig.two_segments("show", "video").await;
    assert!(throughline(&["end", "show", "--state", &state]).0);
    rig.playlist_when(&path, "the end", |playlist| playlist.ended).await;
    let nothing = throughline(&["end", "nothing", "--state", &state]);
    assert!(!nothing.0 && nothing.2.contains("no stream 'nothing'"), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_drains_a_server_and_ends_its_broadcasts() {
    let rig = Rig::start().await; // takes the turn, and lends its folder
    let state = rig.state.join("drained");
    let shown = state.to_str().expect("plain");
    let words = ["serve", "--ops", "off", "--http", "127.0.0.1:0", "--rtmp", "127.0.0.1:0", "--srt", "off", "--state"];
    let serving = Program::start(env!("CARGO_BIN_EXE_throughline"), words.into_iter().chain([shown]));
    let addresses = eventually("it listens", || async {
        let text = std::fs::read_to_string(state.join("addresses.json")).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()
    })
    .await;
    let [at, rtmp] = ["http", "rtmp"].map(|name| addresses[name].as_str().expect("listens").to_owned());
    let at = at.parse().expect("an address");
    let key = throughline(&["key", "create", "show", "--state", shown]).1;
    let _encoder = Encoder::default().publish(&format!("rtmp://{rtmp}/live/{}", key.trim()));
    let list = eventually("a playlist", || async {
        let text = http::get(at, "/live/show/index.m3u8").await.text().to_owned();
        let line = text.lines().find(|line| line.contains("video.m3u8"))?.to_owned();
        Some(format!("/live/show/{line}"))
    })
    .await;
    let drain = {
        let shown = shown.to_owned();
        tokio::task::spawn_blocking(move || throughline(&["drain", "--end", "--timeout", "2", "--state", &shown]))
    };
    eventually("the end is written before the server goes", || async {
        http::get(at, &list).await.text().contains("#EXT-X-ENDLIST").then_some(())
    })
    .await;
    let drained = drain.await.expect("no panic");
    assert!(drained.0, "{drained:?}");
    let ended = tokio::time::timeout(Duration::from_secs(20), serving.finish()).await.expect("it stops");
    assert!(ended.0, "{}", ended.2);
}

/// The mean colours of the newest pictures.
async fn colours(rig: &Rig, stream: &str, pictures: u32) -> Vec<u8> {
    let file = rig.state.join("colour.rgb");
    let url = format!("http://{}/live/{stream}/index.m3u8", rig.http());
    let count = pictures.to_string();
    let words =
        ["-hide_banner", "-loglevel", "error", "-y", "-live_start_index", "-1", "-i", &url, "-frames:v", &count];
    let rest = ["-vf", "scale=1:1:flags=area", "-pix_fmt", "rgb24", "-f", "rawvideo", file.to_str().expect("plain")];
    let (is_done, _, error) = Program::start(Ffmpeg::Debian.path(), words.into_iter().chain(rest)).finish().await;
    assert!(is_done, "{error}");
    std::fs::read(&file).expect("written")
}

/// Red for a second, and where there is another one, blue in it.
async fn red(path: &Path, pictures: &str) {
    let words = ["-hide_banner", "-loglevel", "error", "-y", "-f", "lavfi", "-i", "color=red:size=320x180:rate=30"];
    let filter = ["-vf", "drawbox=color=blue:t=fill:enable='gte(n,30)'"];
    let rest = ["-frames:v", pictures, path.to_str().expect("plain")];
    assert!(Program::start(Ffmpeg::Debian.path(), words.into_iter().chain(filter).chain(rest)).finish().await.0);
}

/// How many pictures in a row are red, not red, red and so on.
fn runs(pictures: &[u8]) -> Vec<usize> {
    let reds: Vec<bool> = pictures.chunks(3).map(is_red).collect();
    reds.chunk_by(bool::eq).map(<[bool]>::len).collect()
}

fn is_red(picture: &[u8]) -> bool {
    matches!(picture, [red, green, blue] if *red > 180 && *green < 70 && *blue < 70)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slate_is_the_picture_or_clip_that_was_chosen_in_h264_and_h265_and_a_gap_in_av1_or_when_off() {
    let [still, clip] =
        ["png", "mp4"].map(|kind| std::env::temp_dir().join(format!("throughline-red-{}.{kind}", std::process::id())));
    tokio::join!(red(&still, "1"), red(&clip, "60"));
    let rig = Rig::with(|file| {
        file.slate.enabled = true;
        file.slate.file = Some(still.clone());
        file.slate.streams.insert("moving".into(), clip.clone());
        file.slate.streams.insert("quiet".into(), "off".into());
    })
    .await;
    for (stream, encoder) in [("moving", Encoder::default()), ("show", Encoder::hevc())] {
        let source = encoder.publish(&rig.publish_url(stream).await);
        let path = rig.two_segments(stream, "video").await;
        tokio::time::sleep(Duration::from_secs(3)).await; // the slate is made meanwhile
        source.kill().await;
        let view = format!("/api/v1/streams/{stream}");
        eventually("the slate is shown", || async {
            (rig.api(&view).await["publisher"]["protocol"] == "slate").then_some(())
        })
        .await;
        eventually("red", || async { is_red(&colours(&rig, stream, 1).await).then_some(()) }).await;
        if stream == "moving" {
            let runs = runs(&colours(&rig, stream, 160).await);
            let whole = runs.get(1..runs.len() - 1).unwrap_or_default();
            assert!(whole.len() >= 3 && whole.iter().all(|run| *run == 30), "looped, a second of each: {runs:?}");
        }
        assert_eq!(rig.playlist(&path).await.broken_rules(), Vec::<String>::new());
    }
    let source = Encoder::default().publish(&rig.publish_url("quiet").await);
    let path = rig.two_segments("quiet", "video").await;
    source.kill().await;
    let has_gap = |playlist: &testkit::playlist::Playlist| playlist.segments.iter().any(|segment| segment.gap);
    rig.playlist_when(&path, "a gap in place of a slate", has_gap).await;
    let source = Encoder::av1_with_opus().publish(&rig.publish_url("modern").await);
    let path = rig.two_segments("modern", "video").await;
    source.kill().await;
    rig.playlist_when(&path, "a gap where none can be made", has_gap).await;
    let told = rig.api("/api/v1/events?stream=modern&limit=100").await.to_string();
    assert!(told.contains("slate.missing") && told.contains("none is made for its codec"), "{told}");
    [still, clip].iter().for_each(|file| std::fs::remove_file(file).expect("it was there"));
}
