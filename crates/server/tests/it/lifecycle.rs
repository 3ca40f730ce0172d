//! Sources that die, servers that restart, broadcasts that end.

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
