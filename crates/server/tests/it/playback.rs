//! Streams that are not open to everybody.

use control::KeyPurpose;
use testkit::http::{Answer, get, request};
use testkit::programs::Program;

use crate::operations::throughline;
use crate::rig::{Encoder, Rig, Viewer};

const PLAYLIST: &str = "/live/show/index.m3u8";

/// A stream that runs, and the key that opens it.
async fn guarded() -> (Rig, Program, String) {
    let rig = Rig::start().await;
    let encoder = Encoder::default().publish(&rig.publish_url("show").await);
    rig.multivariant("show").await;
    rig.set_playback("show", "key").await;
    let key = rig.key_for("show", KeyPurpose::Play).await;
    (rig, encoder, key)
}

async fn with_key(rig: &Rig, key: &str) -> Answer {
    request(rig.http(), "GET", PLAYLIST, &[("authorization", &format!("Bearer {key}"))]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_stream_is_given_to_who_has_its_play_key_and_is_never_shared_by_caches() {
    let (mut rig, _encoder, key) = guarded().await;
    let refused = get(rig.http(), PLAYLIST).await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Bearer"));
    assert_eq!(refused.header("cache-control"), "no-store");
    assert!(refused.text().contains("a play key is needed"), "{}", refused.text());
    for wrong in ["guess".to_owned(), rig.key("show").await, rig.key_for("other", KeyPurpose::Play).await] {
        let refused = with_key(&rig, &wrong).await;
        assert_eq!(refused.status, 401, "{}", refused.text());
        assert!(refused.header("www-authenticate").contains("invalid_token"));
    }
    assert_eq!(get(rig.http(), "/live/show/nothing/video.m3u8").await.status, 404);
    let preflight = request(rig.http(), "OPTIONS", PLAYLIST, &[("origin", "http://a.example")]).await;
    assert!(preflight.header("access-control-allow-headers").contains("Authorization"));

    let answer = with_key(&rig, &key).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"));
    assert_eq!(get(rig.http(), &format!("{PLAYLIST}?key={key}")).await.text(), answer.text(), "the same for everybody");

    // What it names is not guessed, holds nothing of the viewer, and is good for every cache.
    let media = answer.text().lines().last().expect("a playlist");
    let name = media.split('/').next().and_then(|name| name.split_once('-')).expect("a broadcast").1;
    assert!(name.len() >= 20 && !answer.text().contains(&key), "{media}");
    let playlist = get(rig.http(), &format!("/live/show/{media}")).await;
    assert_eq!(playlist.status, 200);
    assert!(playlist.header("cache-control").starts_with("public"));

    rig.stop().await;
    rig.start_again().await;
    assert_eq!(
        get(rig.http(), PLAYLIST).await.status,
        401,
        "it outlives a restart, and says so before the stream is there"
    );
    assert_eq!(with_key(&rig, &key).await.status, 404, "who may watch is told that nothing is there");
    rig.set_playback("show", "open").await;
    assert_eq!(get(rig.http(), PLAYLIST).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn players_without_headers_play_a_guarded_stream_by_its_address() {
    let (rig, _encoder, key) = guarded().await;
    for url in [format!("rtmp://{}/live/show", rig.rtmp()), format!("http://{}{PLAYLIST}", rig.http())] {
        let play = async |url: &str| {
            let arguments = ["-v", "error", "-t", "1", "-i", url, "-f", "null", "-"];
            Program::start("/usr/bin/ffmpeg", arguments).finish().await
        };
        let (success, _, errors) = play(&format!("{url}?key={key}")).await;
        assert!(success && errors.is_empty(), "{url}: {errors}");
        let (success, _, errors) = play(&url).await;
        assert!(!success, "{url}");
        assert!(errors.contains("play key is needed") || errors.contains("401"), "{errors}");
    }
    let play_key = Encoder::default().publish(&format!("rtmp://{}/live/{key}", rig.rtmp())).finish().await;
    assert!(!play_key.0 && play_key.2.contains("for watching"), "{}", play_key.2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_the_key_and_takes_it_from_a_link() {
    let (rig, _encoder, key) = guarded().await;
    let page = format!("http://{}/watch/show", rig.http());
    let mut viewer = Viewer::open(&page, &[]);
    let asked = viewer.until("it asks", |look| look.state == "locked").await;
    assert!(asked.text.contains("This stream needs a key"), "{}", asked.text);
    viewer.tell("key guess").await;
    viewer.until("it says that the key is wrong", |look| look.text.contains("does not fit")).await;
    viewer.tell(&format!("key {key}")).await;
    viewer.until("it plays", |look| look.state == "playing" && look.frames > 10).await;
    viewer.tell("reload").await;
    viewer
        .until("it plays again, unasked", |look| look.loads == 2 && look.state == "playing" && look.frames > 10)
        .await;
    viewer.close().await;

    let mut viewer = Viewer::open(&format!("{page}#key={key}"), &[]);
    let looks = viewer.until("it plays", |look| look.state == "playing" && look.frames > 10).await;
    assert_eq!(looks.address, page, "the key does not stay in the address bar");
    viewer.close().await;

    // A viewer who stands before the door comes in when it is opened to everybody.
    let mut viewer = Viewer::open(&page, &[]);
    viewer.until("it asks", |look| look.state == "locked").await;
    rig.set_playback("show", "open").await;
    viewer.until("it plays by itself", |look| look.state == "playing" && look.frames > 10).await;
    viewer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_who_may_watch_with_and_without_a_server() {
    let mut rig = Rig::start().await;
    let state = rig.state.to_str().expect("plain").to_owned();
    let playback = |more: &[&str]| throughline(&[&["playback", "show"], more, &["--state", &state]].concat());
    assert_eq!(playback(&[]).1, "open\n");
    assert_eq!(playback(&["key"]).1, "key\n");
    let made = throughline(&["key", "create", "show", "--play", "--state", &state]);
    assert!(made.0 && made.1.trim().len() == 32, "{made:?}");
    assert!(throughline(&["key", "list", "--state", &state]).1.contains(" play "));
    let id = throughline(&["key", "list", "--state", &state])
        .1
        .lines()
        .last()
        .and_then(|line| line.split(' ').next().map(str::to_owned));
    assert_eq!(with_key(&rig, made.1.trim()).await.status, 404, "let in; nothing is there");
    assert!(throughline(&["key", "revoke", &id.expect("an id"), "--state", &state]).0);
    assert_eq!(with_key(&rig, made.1.trim()).await.status, 401);
    rig.stop().await;
    assert_eq!(playback(&[]).1, "key\n");
    assert_eq!(playback(&["open"]).1, "open\n");
    let wrong = playback(&["nobody"]);
    assert!(!wrong.0 && wrong.2.contains("'open'") && wrong.2.contains("'key'"), "{}", wrong.2);
}
