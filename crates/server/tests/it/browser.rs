//! What a viewer sees and hears, in real browsers.

use std::time::Duration;

use testkit::publisher::{Publisher, with_captions};

use crate::rig::{Encoder, Look, Rig, Viewer, requests};

fn page(rig: &Rig) -> String {
    format!("http://{}/watch/show", rig.http())
}

/// The picture advances and the sound plays, all the time.
fn assert_plays(looks: &[Look], with_sound: bool) {
    let (first, last) = (&looks[0], &looks[looks.len() - 1]);
    let seconds = f64::from(u32::try_from(last.millis - first.millis).expect("short")) / 1000.0;
    let frames = f64::from(u32::try_from(last.frames - first.frames).expect("few"));
    assert!(frames > 15.0 * seconds, "{frames} frames in {seconds} s: {first:?} to {last:?}");
    assert!((last.time - first.time) > 0.8 * seconds, "time went from {} to {} in {seconds} s", first.time, last.time);
    assert!(!with_sound || last.audio_bytes > first.audio_bytes, "sound is decoded");
    let mut moved = first;
    for look in looks {
        let stood = look.millis - moved.millis;
        assert!(stood < 700, "it stood still for {stood} ms at {}", look.time);
        moved = if look.time > moved.time { look } else { moved };
    }
    let away: Vec<&str> = looks.iter().map(|look| look.state.as_str()).filter(|state| *state != "playing").collect();
    assert!(away.is_empty(), "{away:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn h264_with_b_frames_and_aac_plays_in_chromium_close_to_live() {
    let rig = Rig::start().await;
    let mut viewer = Viewer::open(&page(&rig), &[]);
    let waiting = viewer.until("it says that it waits", |look| look.state == "waiting").await;
    assert!(waiting.text.contains("Waiting for the stream"));
    let _encoder = Encoder::with_b_frames().publish(&rig.publish_url("show").await);
    viewer.until("it plays by itself", |look| look.state == "playing").await;
    let looks = viewer.watch(Duration::from_secs(6)).await;
    assert_plays(&looks, true);
    let latency = looks.last().and_then(|look| look.latency).expect("measured");
    assert!(latency < 2.0, "{latency} s behind");
    assert!(looks.iter().all(|look| look.loads == 1 && !look.muted));
    viewer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_browser_forbids_sound_it_starts_muted_and_one_tap_gives_it() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    rig.multivariant("show").await;
    let mut viewer = Viewer::open(
        &page(&rig),
        &["--gesture", "1", "--touch", "1", "--width", "390", "--height", "780", "--tap", "6"],
    );
    let muted = viewer.until("it plays muted and offers a tap", |look| look.state == "playing" && look.can_tap).await;
    assert!(muted.muted);
    viewer.until("the tap gave sound", |look| look.state == "playing" && !look.muted && !look.can_tap).await;
    viewer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn av1_with_opus_plays_in_chromium() {
    let rig = Rig::start().await;
    let _encoder = Encoder::av1_with_opus().publish(&rig.publish_url("show").await);
    let mut viewer = Viewer::open(&page(&rig), &[]);
    viewer.until("it plays", |look| look.state == "playing").await;
    assert_plays(&viewer.watch(Duration::from_secs(4)).await, true);
    viewer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hevc_plays_in_firefox() {
    let rig = Rig::start().await;
    let _encoder = Encoder::hevc().publish(&rig.publish_url("show").await);
    rig.multivariant("show").await;
    let mut viewer = Viewer::open(&page(&rig), &["--browser", "firefox"]);
    viewer.until("it plays", |look| look.state == "playing").await;
    let looks = viewer.watch(Duration::from_secs(4)).await;
    // Firefox counts no decoded sound and hears nothing without a device: it tells only that there is some.
    assert_plays(&looks, false);
    assert!(looks.iter().all(|look| look.audio_bytes == 1), "it has sound");
    assert_eq!(looks[0].size(), (320, 180));
    viewer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_recovers_alone_when_source_and_server_come_back() {
    let mut rig = Rig::start().await;
    let url = rig.publish_url("show").await;
    let encoder = Encoder::default().publish(&url);
    rig.multivariant("show").await;
    let mut viewer = Viewer::open(&page(&rig), &[]);
    viewer.until("it plays", |look| look.state == "playing" && look.frames > 30).await;

    let asked = requests(&rig, "\"multivariant\"").await;
    encoder.kill().await;
    let encoder = Encoder::default().publish(&url);
    let frames = viewer.look().await.frames;
    viewer
        .until("it plays after the encoder returned", |look| look.state == "playing" && look.frames > frames + 120)
        .await;

    assert_eq!(requests(&rig, "\"multivariant\"").await, asked, "the player did not begin anew");
    rig.stop().await;
    drop(encoder);
    viewer.until("it says that it reconnects", |look| look.state == "reconnecting").await;
    rig.start_again().await;
    let _encoder = Encoder::default().publish(&url);
    viewer.until("it plays after the server returned", |look| look.state == "playing").await;
    let looks = viewer.watch(Duration::from_secs(4)).await;
    assert_plays(&looks, true);
    assert_eq!(looks[0].loads, 1, "the page was never loaded again");
    viewer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_resolution_plays_on_without_a_reload() {
    let rig = Rig::start().await;
    let url = rig.publish_url("show").await;
    let encoder = Encoder::default().publish(&url);
    rig.multivariant("show").await;
    let mut viewer = Viewer::open(&page(&rig), &[]);
    viewer.until("it plays", |look| look.state == "playing" && look.size() == (640, 360)).await;
    encoder.kill().await;
    let _encoder = Encoder { size: "320x180", ..Encoder::default() }.publish(&url);
    let look = viewer.until("the new size", |look| look.state == "playing" && look.size() == (320, 180)).await;
    assert_eq!(look.loads, 1);
    assert_plays(&viewer.watch(Duration::from_secs(3)).await, true);
    viewer.close().await;
}

/// Chromium gives up at a picture that refers to one that is missing, and pauses.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_goes_on_with_the_next_segment_where_pictures_are_missing() {
    let rig = Rig::start().await;
    let video = Some("libx264 -preset veryfast -bf 2 -g 60 -sc_threshold 0 -pix_fmt yuv420p -b:v 800k");
    let extra = "-bsf:v noise=drop='between(mod(n,240),210,211)'"; // the first after seven seconds
    let _encoder = Encoder { video, extra, ..Encoder::default() }.publish(&rig.publish_url("show").await);
    rig.multivariant("show").await;
    let mut viewer = Viewer::open(&page(&rig), &[]);
    viewer.until("it plays", |look| look.state == "playing").await;
    let looks = viewer.watch(Duration::from_secs(18)).await; // two of them are within
    let last = looks.last().expect("some");
    assert!(last.felt.longest < 3000 && last.loads == 1, "{last:?}");
    let is_playing =
        |look: &&Look| look.state == "playing" && !look.paused && look.latency.is_some_and(|late| late < 3.0);
    let playing = looks.iter().filter(is_playing).count();
    assert!(playing > looks.len() * 3 / 4, "{playing} of {}: {last:?}", looks.len());
    viewer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captions_in_the_picture_can_be_switched_on() {
    let rig = Rig::start().await;
    let mut tags = rig.clip(&Encoder { seconds: 4, ..Encoder::default() }).await;
    with_captions(&mut tags, "Welcome to the show", 30);
    let publisher = Publisher::connect(rig.rtmp(), "live", &rig.key("show").await).await.expect("let in");
    let replay = tokio::spawn(async move { publisher.replay(&tags, Duration::from_mins(1)).await });
    let mut viewer = Viewer::open(&page(&rig), &[]);
    let before = viewer.until("it plays and has captions", |look| look.state == "playing" && look.can_caption).await;
    assert_eq!(before.captions, "", "nobody asked for them");
    viewer.tell("press c").await;
    viewer.until("the caption", |look| look.captions == "Welcome to the show").await;
    viewer.tell("press c").await;
    viewer.until("no captions", |look| look.captions.is_empty()).await;
    viewer.close().await;
    replay.abort();
}

/// A page of somebody else's, in a file.
fn foreign_page(rig: &Rig, body: &str) -> String {
    let file = rig.state.join("page.html");
    std::fs::write(&file, format!("<!doctype html><meta charset=utf-8><title>A club</title>{body}")).expect("written");
    format!("file://{}", file.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_and_the_element_play_on_other_peoples_pages() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    rig.multivariant("show").await;
    let home = format!("http://{}", rig.http());
    let bodies = [
        format!("<iframe src='{home}/watch/show' width=640 height=360 allow='autoplay; fullscreen'></iframe>"),
        format!(
            "<script type=module src='{home}/throughline-player.js'></script><throughline-player stream=show muted></throughline-player>"
        ),
    ];
    for body in bodies {
        let mut viewer = Viewer::open(&foreign_page(&rig, &body), &["--frame", "1"]);
        viewer.until("it plays", |look| look.state == "playing" && look.frames > 10).await;
        assert_plays(&viewer.watch(Duration::from_secs(3)).await, true);
        viewer.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_plays_over_https_and_obeys_the_keyboard() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    rig.multivariant("show").await;
    let page = format!("https://{}/watch/show", rig.addresses.https.expect("listens"));
    let mut viewer = Viewer::open(&page, &[]);
    viewer.until("it plays", |look| look.state == "playing" && look.frames > 30).await;
    assert_plays(&viewer.watch(Duration::from_secs(3)).await, true);
    viewer.tell("press m").await;
    viewer.until("m mutes", |look| look.muted).await;
    viewer.tell("press m").await;
    viewer.until("and gives the sound back", |look| !look.muted).await;
    viewer.tell("press f").await;
    viewer.until("f fills the screen", |look| look.is_full_screen).await;
    viewer.tell("press f").await;
    viewer.until("and leaves it", |look| !look.is_full_screen).await;
    viewer.tell("press k").await;
    viewer.until("k pauses", |look| look.paused).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    viewer.tell("press l").await;
    let live = |look: &Look| !look.paused && look.state == "playing" && look.latency.is_some_and(|behind| behind < 2.0);
    viewer.until("l goes to the live edge", live).await;
    viewer.close().await;
}
