//! Legs: a path, an encoder or a process dies, and the viewer does not notice. Every unit is counted by a player that is not ours.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, Mac as _};
use server::config::{AlwaysOnTable, MergeModeName, RtmpPullTable, SecondPublisherName, WebhookTable};
use sha2::Sha256;
use testkit::cable::{Cable, can_lose};
use testkit::http;
use testkit::playlist::Playlist;
use testkit::programs::Program;
use testkit::publisher::{FrameInfo, Publisher};
use testkit::relay::{Line, Relay};
use testkit::witness::{Comparison, Hashes, Making, Source, Witness};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Encoder, Rig, eventually, metric};

pub(crate) async fn seconds(count: f64) {
    tokio::time::sleep(Duration::from_secs_f64(count)).await;
}

/// Waits until the stream has so many legs in this role.
pub(crate) async fn legs(rig: &Rig, role: &str, count: usize) -> Vec<serde_json::Value> {
    eventually("the legs are there", || async {
        let streams = rig.api("/api/v1/streams").await; // empty before anybody has come
        let legs = streams[0]["legs"].as_array().cloned().unwrap_or_default();
        let found: Vec<_> = legs.into_iter().filter(|leg| leg["role"] == role && leg["state"] == "healthy").collect();
        (found.len() == count).then_some(found)
    })
    .await
}

/// Waits, after something was done to a path, until both carry the stream again.
async fn both_again(rig: &Rig) {
    seconds(0.5).await; // what was done has been noticed
    legs(rig, "copy", 1).await;
}

pub(crate) async fn events(rig: &Rig, kind: &str) -> Vec<serde_json::Value> {
    let events = rig.api("/api/v1/events?stream=show&limit=1000").await;
    let of_kind = events.as_array().cloned().unwrap_or_default().into_iter().filter(|event| event["kind"] == kind);
    let mut of_kind: Vec<_> = of_kind.collect();
    of_kind.reverse();
    of_kind
}

/// Everything that was made came, once and in order; else what happened is told.
pub(crate) async fn assert_whole(rig: &Rig, made: &Hashes, seen: &Hashes) {
    let video = Comparison::of(&made.video, &seen.video);
    let audio = Comparison::of(&made.audio, &seen.audio);
    if !video.is_whole() || !audio.is_whole() {
        let all = rig.api("/api/v1/events?stream=show&limit=1000").await;
        for event in all.as_array().expect("a list").iter().rev() {
            eprintln!("{} {}", event["utc_ms"], event["text"]);
        }
        eprintln!("{:#}", rig.api("/api/v1/streams").await);
        panic!("pictures: {video:?}, sound: {audio:?}");
    }
}

/// Nothing in the playlists that a player would notice.
pub(crate) async fn assert_seamless(rig: &Rig) {
    for track in ["video", "audio"] {
        let playlist = rig.playlist(&rig.playlist_path("show", track).await).await;
        assert!(playlist.segments.iter().all(|segment| !segment.discontinuity && !segment.gap), "{track}");
        assert_eq!(playlist.broken_rules(), Vec::<String>::new(), "{track}");
    }
}

/// One encode over two paths, and ten times one of them is harmed: every picture and every frame of sound is played once, in order.
async fn assert_nothing_is_lost(rig: &Rig, outputs: &[(&'static str, String)], harm: impl AsyncFn(usize)) {
    let making = Making { seconds: 120, rate: 25, gop: 50, ..Making::default() };
    let source = Source::start(making, &rig.state.join("made.mkv"), outputs);
    legs(rig, "copy", 1).await;
    rig.multivariant("show").await;
    let witness = Witness::watch(rig.http(), "show", &rig.state.join("seen.txt"));
    seconds(2.0).await;
    for (round, later) in (0..10).zip([0.1, 0.4, 0.2, 0.7, 0.3].into_iter().cycle()) {
        harm(round).await;
        both_again(rig).await;
        seconds(later).await; // another point of the GOP each time
    }
    seconds(2.0).await; // what came of the last one is in a segment that a player has
    assert_seamless(rig).await;
    let made = source.stop().await;
    seconds(2.5).await;
    let seen = witness.seen().await;
    assert_whole(rig, &made, &seen).await;
    let unseen = Comparison::of(&made.video, &seen.video).unseen;
    assert!(unseen < 65, "{unseen} pictures were not seen: the last harm was 2.6 s before the end");
}

/// An SRT path, how many of 1,000 datagrams it loses when it is well, and its latency.
async fn srt_path(rig: &Rig, key: &str, (loss_per_mille, latency_ms): (u64, u32)) -> (Relay, (&'static str, String)) {
    let line = Line { delay: Duration::from_millis(10), loss_per_mille, ..Line::default() };
    let relay = Relay::start(rig.srt(), line, 5).await;
    let url =
        format!("srt://{}?streamid=publish:show:{key}&pkt_size=1316&latency={}", relay.address, latency_ms * 1000);
    (relay, ("mpegts", url))
}

/// For a while nothing passes, or a third is lost.
async fn harm_srt(relay: &Relay, loss_per_mille: u64, is_dark: bool) {
    if is_dark {
        relay.cut.store(true, std::sync::atomic::Ordering::Relaxed);
        seconds(1.5).await;
        return relay.cut.store(false, std::sync::atomic::Ordering::Relaxed);
    }
    relay.set_loss(300).await;
    seconds(1.5).await;
    relay.set_loss(loss_per_mille).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_encode_over_two_rtmp_paths_loses_nothing_when_either_is_cut_or_stands_still() {
    let rig = Rig::start().await;
    let key = rig.key("show").await;
    let paths = [Cable::to(rig.rtmp()).await, Cable::to(rig.rtmp()).await];
    let outputs = paths.each_ref().map(|path| ("flv", format!("rtmp://{}/live/{key}", path.address)));
    let can_lose = can_lose().await;
    if !can_lose {
        eprintln!(
            "not tested here: packets that the kernel loses, which needs root and nftables; the path stands still instead"
        );
    }
    assert_nothing_is_lost(&rig, &outputs, async |round| {
        let path = &paths[round % 2];
        match round % 5 {
            0 => path.cut(),
            2 | 3 if can_lose => path.lose(300, Duration::from_millis(1500)).await,
            1..=3 => path.stall(Duration::from_secs(2)).await,
            _ => {
                // A black hole, and then its end.
                path.hold();
                seconds(0.7).await;
                path.cut();
                path.resume();
            }
        }
    })
    .await;
    let view = rig.api("/api/v1/streams/show").await;
    assert_eq!((&view["joins"], &view["copies"]["conflicts"]), (&1.into(), &0.into()), "{view}");
    let switches = events(&rig, "stream.switched").await;
    assert!(switches.len() > 3, "{switches:?}");
    assert!(switches.iter().skip(1).all(|event| event["gap_ms"] == 0 && event["units_lost"] == 0), "{switches:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_encode_over_rtmp_and_srt_loses_nothing_whatever_happens_to_either() {
    let rig = Rig::start().await;
    let key = rig.key("show").await;
    let cable = Cable::to(rig.rtmp()).await;
    let (relay, over_srt) = srt_path(&rig, &key, (20, 120)).await;
    let outputs = [("flv", format!("rtmp://{}/live/{key}", cable.address)), over_srt];
    assert_nothing_is_lost(&rig, &outputs, async |round| match round % 4 {
        0 => cable.cut(),
        2 => cable.stall(Duration::from_secs(2)).await,
        other => harm_srt(&relay, 20, other == 3).await,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_encode_over_two_srt_paths_loses_nothing_when_either_is_dark_or_loses_a_third() {
    let rig = Rig::start().await;
    let key = rig.key("show").await;
    // What comes too late over one path, on a machine that does other things too, nobody has while the other is dark: they lose nothing by
    // themselves here, and have time. In the drills they do, and have 120 ms.
    let (one, first) = srt_path(&rig, &key, (0, 500)).await;
    let (other, second) = srt_path(&rig, &key, (0, 500)).await;
    assert_nothing_is_lost(&rig, &[first, second], async |round| {
        harm_srt(if round % 2 == 0 { &one } else { &other }, 0, round % 4 < 2).await;
    })
    .await;
    let damaged = metric(&rig, "throughline_timeline_repairs_total{kind=\"damaged\"}").await;
    assert!(damaged > 0, "what is left of a unit of which packets are missing gives way to the other path's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_encoder_takes_over_within_a_second_and_the_preferred_one_gets_the_stream_back() {
    let rig = Rig::with(|file| file.streams.hold_down_seconds = 3).await;
    let preferred = rig.publish_url("show").await;
    let backup = format!("rtmp://{}/live/{}", rig.rtmp(), rig.key_with_rank("show", 1).await);
    // The same settings: the parameter sets are equal, and a player notices nothing but the pictures.
    let cable = Cable::to(rig.rtmp()).await;
    let first = Encoder::default().publish(&preferred.replace(&rig.rtmp().to_string(), &cable.address.to_string()));
    legs(&rig, "feeding", 1).await;
    let _second = Encoder::default().publish(&backup);
    legs(&rig, "standby", 1).await;
    rig.two_segments("show", "video").await;
    // Silence first: the socket stays open.
    cable.hold();
    let switch = eventually("the backup feeds the stream", || async {
        events(&rig, "stream.switched").await.into_iter().find(|event| event["reason"] == "silent")
    })
    .await;
    assert!(switch["gap_ms"].as_i64().is_some_and(|gap| (0..=1000).contains(&gap)), "{switch}");
    cable.resume();
    let back = eventually("the preferred leg gets the stream back", || async {
        events(&rig, "stream.switched").await.into_iter().find(|event| event["reason"] == "preferred")
    })
    .await;
    assert!(back["gap_ms"].as_i64().is_some_and(|gap| gap <= 100), "{back}");
    seconds(1.0).await;
    first.kill().await;
    let switch = eventually("the backup feeds the stream again", || async {
        events(&rig, "stream.switched").await.into_iter().find(|event| event["reason"] == "closed")
    })
    .await;
    assert!(switch["gap_ms"].as_i64().is_some_and(|gap| gap <= 500), "{switch}");
    seconds(3.0).await;
    assert_seamless(&rig).await;
    assert_eq!(metric(&rig, "throughline_switches_total{reason=\"preferred\"}").await, 1);
    assert!(metric(&rig, "throughline_switch_gap_seconds_count").await >= 3, "silent, preferred, closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_another_size_is_one_discontinuity_and_the_operator_can_choose() {
    let rig = Rig::start().await;
    let first = Encoder::default().publish(&rig.publish_url("show").await);
    legs(&rig, "feeding", 1).await;
    let _second = Encoder { size: "320x180", ..Encoder::default() }.publish(&rig.publish_url("show").await);
    let standby = legs(&rig, "standby", 1).await;
    rig.two_segments("show", "video").await;
    let id = standby[0]["id"].as_u64().expect("a number");
    rig.change_legs("show", &serde_json::json!({ "action": "pin", "leg": id })).await.expect("known");
    let path = rig.playlist_path("show", "video").await;
    let playlist = rig
        .playlist_when(&path, "the other size", |playlist| {
            let change = playlist.segments.iter().position(|segment| segment.discontinuity);
            change.is_some_and(|at| playlist.complete().count() > at + 1)
        })
        .await;
    assert_eq!(playlist.segments.iter().filter(|segment| segment.discontinuity).count(), 1);
    assert_eq!(playlist.broken_rules(), Vec::<String>::new());
    let view = rig.api("/api/v1/streams/show").await;
    assert_eq!((&view["video"]["width"], &view["pinned"]), (&320.into(), &id.into()), "{view}");

    let unknown = rig.change_legs("show", &serde_json::json!({ "action": "switch", "leg": 99 })).await;
    assert!(unknown.is_err_and(|text| text.contains("no leg 99")));
    rig.change_legs("show", &serde_json::json!({ "action": "unpin" })).await.expect("can be let go");
    rig.change_legs("show", &serde_json::json!({ "action": "disable", "leg": id })).await.expect("known");
    eventually("the other leg feeds the stream", || async {
        let view = rig.api("/api/v1/streams/show").await;
        (view["video"]["width"] == 640).then_some(())
    })
    .await;
    let told: Vec<_> = events(&rig, "operator").await.iter().map(|event| event["text"].to_string()).collect();
    assert_eq!(told.len(), 3, "{told:?}");

    // And when the one that feeds the stream dies.
    let _third = Encoder { size: "320x180", ..Encoder::default() }.publish(&rig.publish_url("show").await);
    legs(&rig, "standby", 1).await;
    let count = |playlist: &Playlist| playlist.segments.iter().filter(|segment| segment.discontinuity).count();
    let before = count(&rig.playlist(&path).await);
    first.kill().await;
    let playlist = rig.playlist_when(&path, "the other size again", |playlist| count(playlist) > before).await;
    assert_eq!(count(&playlist), before + 1);
    assert_eq!(playlist.broken_rules(), Vec::<String>::new());
    let switch = events(&rig, "stream.switched").await.pop().expect("one");
    assert!(switch["reason"] == "closed" && switch["gap_ms"].as_u64().is_some_and(|gap| gap <= 1000), "{switch}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_publisher_with_a_leaked_key_is_refused_and_told_of() {
    let rig = Rig::start().await;
    let url = rig.publish_url("show").await;
    let _first = Encoder::default().publish(&url);
    legs(&rig, "feeding", 1).await;
    let _second = Encoder::default().publish(&url);
    legs(&rig, "standby", 1).await;
    let third = Encoder { seconds: 5, ..Encoder::default() }.publish(&url);
    let (success, _, _) = third.finish().await;
    assert!(!success);
    let refused = events(&rig, "leg.refused").await;
    assert!(refused[0]["text"].as_str().is_some_and(|text| text.contains("two healthy publishers")), "{refused:?}");
    assert_seamless(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_says_what_a_second_publisher_is() {
    let rig = Rig::with(|file| file.streams.second_publisher = SecondPublisherName::Refuse).await;
    let url = rig.publish_url("show").await;
    let _first = Encoder::default().publish(&url);
    legs(&rig, "feeding", 1).await;
    let (success, _, _) = Encoder { seconds: 5, ..Encoder::default() }.publish(&url).finish().await;
    assert!(!success, "refused while the first one delivers");
    drop(rig);

    let rig = Rig::with(|file| file.streams.second_publisher = SecondPublisherName::TakeOver).await;
    let url = rig.publish_url("show").await;
    let first = Encoder::default().publish(&url);
    legs(&rig, "feeding", 1).await;
    let _second = Encoder::default().publish(&url);
    let (success, _, _) = first.finish().await;
    assert!(!success, "thrown out");
    legs(&rig, "feeding", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed_live_and_kept_over_a_restart() {
    let mut rig = Rig::start().await;
    let url = rig.publish_url("show").await;
    let mut follower = rig.follow("/api/v1/events/live?stream=show", None).await;
    let encoder = Encoder::default().publish(&url);
    let first = follower.next_data().await;
    assert_eq!((&first["kind"], &first["stream"]), (&"leg.joined".into(), &"show".into()));
    legs(&rig, "feeding", 1).await;
    encoder.kill().await;
    let mut told = vec![first];
    while told.last().is_some_and(|event| event["kind"] != "stream.lost") {
        told.push(follower.next_data().await);
    }
    // Who was away goes on where it was.
    let mut follower = rig.follow("/api/v1/events/live?stream=show", Some(&told[0]["number"])).await;
    for event in &told[1..] {
        assert_eq!(&follower.next_data().await, event);
    }
    let before = events(&rig, "stream.lost").await;
    assert_eq!(before.len(), 1);
    rig.stop().await;
    rig.start_again().await;
    assert_eq!(events(&rig, "stream.lost").await, before);
    let _again = Encoder::default().publish(&url);
    legs(&rig, "feeding", 1).await;
    let all = rig.api("/api/v1/events?limit=1000").await;
    let mut numbers: Vec<i64> =
        all.as_array().expect("a list").iter().filter_map(|event| event["number"].as_i64()).collect();
    numbers.reverse();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let wrong = http::get(rig.addresses.ops.expect("listens"), "/api/v1/events").await;
    assert_eq!(wrong.status, 401, "without the token nobody sees them");

    // Another server goes on with what this one would leave if it were killed now; the encoder does not come to it.
    seconds(1.5).await; // there is a sign of life each second
    let mut next = rig.beside().await;
    let lost = events(&next, "stream.lost").await;
    assert_eq!((lost.len(), &lost[0]), (2, &before[0]));
    let (text, live) = (lost[1]["text"].as_str().unwrap_or_default(), &events(&rig, "stream.live").await[1]);
    assert!(text.contains("sign of life") && lost[1]["utc_ms"].as_i64() >= live["utc_ms"].as_i64(), "{lost:?}, {live}");
    next.stop().await;
    next.start_again().await;
    assert_eq!(events(&next, "stream.lost").await, lost, "told once");
}

/// What the leg that leads comes by.
pub(crate) async fn leader(rig: &Rig) -> String {
    let streams = rig.api("/api/v1/streams").await;
    streams[0]["publisher"]["protocol"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_source_viewers_see_the_slate_and_the_program_goes_on_when_it_returns() {
    let rig = Rig::with(|file| file.slate.enabled = true).await;
    let url = rig.publish_url("show").await;
    let cable = Cable::to(rig.rtmp()).await;
    let url = url.replace(&rig.rtmp().to_string(), &cable.address.to_string());
    let encoder = Encoder::with_b_frames().publish(&url);
    legs(&rig, "feeding", 1).await;
    let path = rig.two_segments("show", "video").await;
    seconds(2.0).await; // the slate is made meanwhile
    encoder.kill().await;
    eventually("the slate is shown", || async { (leader(&rig).await == "slate").then_some(()) }).await;
    let switch = events(&rig, "stream.switched").await.pop().expect("to the slate");
    assert_eq!(switch["reason"], "closed");
    assert!(switch["gap_ms"].as_i64().is_some_and(|gap| gap <= 700), "{switch}");
    seconds(3.0).await;

    let encoder = Encoder::with_b_frames().publish(&url);
    eventually("the source is back", || async { (leader(&rig).await == "rtmp").then_some(()) }).await;
    let switch = events(&rig, "stream.switched").await.pop().expect("to the source");
    assert_eq!(switch["reason"], "recovered");
    assert!(switch["gap_ms"].as_i64().is_some_and(|gap| gap <= 100), "{switch}");
    seconds(2.0).await;

    cable.hold();
    eventually("the slate is shown", || async { (leader(&rig).await == "slate").then_some(()) }).await;
    let switch = events(&rig, "stream.switched").await.pop().expect("to the slate");
    assert_eq!(switch["reason"], "silent");
    assert!(switch["gap_ms"].as_i64().is_some_and(|gap| gap <= 2200), "{switch}");
    seconds(1.5).await;
    cable.resume();
    eventually("the source is back after its silence", || async { (leader(&rig).await == "rtmp").then_some(()) }).await;
    seconds(2.5).await;
    for track in ["video", "audio"] {
        let playlist = rig.playlist(&path.replace("video", track)).await;
        assert_eq!(playlist.broken_rules(), Vec::<String>::new(), "{track}");
        // Where the sound ended a picture before the last one, that is told as a gap of one picture.
        let gaps: f64 = playlist.segments.iter().filter(|segment| segment.gap).map(|segment| segment.duration).sum();
        assert!(gaps < 0.1, "{track}: {gaps} s of gaps: the slate is in time");
    }
    drop(encoder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_is_gone_gives_way_to_the_slate_although_the_sound_goes_on() {
    let rig = Rig::with(|file| file.slate.enabled = true).await;
    let url = rig.publish_url("show").await;
    // After ten seconds there are no more pictures.
    let encoder = Encoder { size: "640x360:duration=10", ..Encoder::default() }.publish(&url);
    let path = rig.two_segments("show", "video").await;
    eventually("the slate is shown", || async { (leader(&rig).await == "slate").then_some(()) }).await;
    let states = events(&rig, "leg.state").await;
    assert!(
        states.iter().any(|event| event["text"].as_str().is_some_and(|text| text.contains("is dead"))),
        "{states:?}"
    );
    let view = rig.api("/api/v1/streams/show").await;
    let source = view["legs"].as_array().expect("two").iter().find(|leg| leg["publisher"]["protocol"] == "rtmp");
    let source = source.expect("it is still connected");
    assert!(source["silent_ms"].as_u64().is_some_and(|silent| silent < 1000), "its sound goes on: {source}");
    let switch = events(&rig, "stream.switched").await.pop().expect("to the slate");
    assert_eq!(switch["reason"], "silent");
    encoder.kill().await;
    let _encoder = Encoder::default().publish(&url);
    eventually("the picture is back", || async { (leader(&rig).await == "rtmp").then_some(()) }).await;
    let switch = events(&rig, "stream.switched").await.pop().expect("to the source");
    assert_eq!(switch["reason"], "recovered");
    seconds(2.0).await;
    for track in ["video", "audio"] {
        let playlist = rig.playlist(&path.replace("video", track)).await;
        assert_eq!(playlist.broken_rules(), Vec::<String>::new(), "{track}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_that_loses_most_of_its_pictures_gives_way_to_one_that_does_not() {
    let rig = Rig::start().await;
    let preferred = rig.publish_url("show").await;
    let backup = format!("rtmp://{}/live/{}", rig.rtmp(), rig.key_with_rank("show", 1).await);
    let select = "-vf select=lt(t\\,12)+not(mod(n\\,4)) -vsync vfr";
    let _weak = Encoder { extra: select, ..Encoder::default() }.publish(&preferred);
    legs(&rig, "feeding", 1).await;
    // The same pictures, seconds later: too late to fill what is missing.
    let _well = Encoder::default().publish(&backup);
    legs(&rig, "standby", 1).await;
    let switch = eventually("the backup feeds the stream", || async {
        events(&rig, "stream.switched").await.into_iter().find(|event| event["reason"] == "degraded")
    })
    .await;
    let text = switch["text"].as_str().expect("words");
    assert!(text.contains("pictures a second where 30") || text.contains("pictures a second where 29"), "{text}");
    assert!(switch["gap_ms"].as_i64().is_some_and(|gap| gap <= 200), "{switch}");
    let weak = eventually("the weak one is suspect", || async {
        let view = rig.api("/api/v1/streams/show").await;
        view["legs"].as_array()?.iter().find(|leg| leg["rank"] == 0 && leg["state"] == "suspect").cloned()
    })
    .await;
    assert!(weak["weakness"].as_str().is_some_and(|text| text.contains("pictures")), "{weak}");
    let figure =
        format!("throughline_leg_healthy{{stream=\"show\",protocol=\"rtmp\",leg=\"{}\",rank=\"0\"}}", weak["id"]);
    let text = http::get(rig.addresses.ops.expect("listens"), "/metrics").await.text().to_owned();
    assert!(text.contains(&format!("{figure} 0")), "{figure}: {text}");
    // One picture of 133 ms is too short for a part of 216, and two are too long: until those are gone LL-09 cannot be kept.
    seconds(10.0).await;
    assert_seamless(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_always_on_is_there_before_its_encoder_and_after_it() {
    let rig = Rig::with(|file| {
        file.slate.enabled = true;
        file.streams.hold_seconds = 2;
        file.always_on.push(AlwaysOnTable { stream: "show".into(), width: 640, height: 360, frame_rate: 30 });
    })
    .await;
    let path = rig.two_segments("show", "video").await;
    assert_eq!(leader(&rig).await, "slate");
    let encoder = Encoder { seconds: 6, ..Encoder::default() }.publish(&rig.publish_url("show").await);
    eventually("the source feeds the stream", || async { (leader(&rig).await == "rtmp").then_some(()) }).await;
    let (success, _, errors) = encoder.finish().await;
    assert!(success, "{errors}");
    eventually("the slate is back", || async { (leader(&rig).await == "slate").then_some(()) }).await;
    seconds(4.0).await; // longer than streams are held
    for track in ["video", "audio"] {
        let playlist = rig.playlist(&path.replace("video", track)).await;
        assert_eq!(playlist.broken_rules(), Vec::<String>::new(), "{track}");
        let gaps: f64 = playlist.segments.iter().filter(|segment| segment.gap).map(|segment| segment.duration).sum();
        assert!(!playlist.ended && gaps < 0.1, "{track}: it is always on");
        let changes = playlist.segments.iter().filter(|segment| segment.discontinuity).count();
        assert_eq!(changes, 2, "{track}: to the source and back");
    }
    rig.ask(hyper::Method::DELETE, "/api/v1/streams/show", &serde_json::Value::Null).await.expect("is there");
    eventually("a new broadcast begins", || async { (leader(&rig).await == "slate").then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slate_does_not_keep_a_stream_alive_and_one_that_cannot_be_made_is_a_gap() {
    let rig = Rig::with(|file| {
        file.slate.enabled = true;
        file.streams.hold_seconds = 3;
    })
    .await;
    let encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = rig.two_segments("show", "video").await;
    encoder.kill().await;
    eventually("the slate is shown", || async { (leader(&rig).await == "slate").then_some(()) }).await;
    rig.playlist_when(&path, "the end", |playlist| playlist.ended).await;
    drop(rig);

    let rig = Rig::with(|file| {
        file.slate.enabled = true;
        file.slate.ffmpeg = "/nowhere/ffmpeg".into();
    })
    .await;
    let encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = rig.two_segments("show", "video").await;
    encoder.kill().await;
    let has_gap = |playlist: &Playlist| playlist.segments.iter().any(|segment| segment.gap);
    let playlist = rig.playlist_when(&path, "a gap", has_gap).await;
    assert_eq!(playlist.broken_rules(), Vec::<String>::new());
    let missing = events(&rig, "slate.missing").await;
    let text = missing.last().and_then(|event| event["text"].as_str()).unwrap_or_default();
    assert!(text.contains("viewers see a gap") && text.contains("/nowhere/ffmpeg"), "it says so: {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ertmp_03_a_server_that_drains_sends_its_encoders_elsewhere_and_takes_no_new_ones() {
    let mut rig = Rig::start().await;
    let key = rig.key("show").await;
    let other = rig.beside().await;
    let tags = rig.clip(&Encoder { seconds: 4, ..Encoder::default() }).await;
    let publisher = Publisher::connect(rig.rtmp(), "live", &key).await.expect("let in");
    let playing = tokio::spawn(async move { publisher.replay(&tags, Duration::from_secs(12)).await });
    legs(&rig, "feeding", 1).await;

    let request = serde_json::json!({ "to": format!("rtmp://{}/live", other.rtmp()), "timeout_seconds": 30 });
    rig.ask(hyper::Method::POST, "/api/v1/drain", &request).await.expect("begun");
    let began = std::time::Instant::now();
    rig.server.as_mut().expect("runs").drained().await;
    assert!(began.elapsed() < Duration::from_secs(8), "the encoder left at its next keyframe: {:?}", began.elapsed());
    let refused = Publisher::connect(rig.rtmp(), "live", &key).await.expect_err("the server is about to stop");
    assert!(refused.contains("about to stop"), "{refused}");
    let srt = format!("srt://{}?streamid=publish:show:{key}&pkt_size=1316", rig.srt());
    let encoder = Encoder { seconds: 5, muxer: "-f mpegts", ..Encoder::default() };
    assert!(!encoder.publish(&srt).finish().await.0, "refused over SRT too");
    legs(&other, "feeding", 1).await;
    rig.stop().await;
    playing.await.expect("no panic").expect("to the end");
    assert_eq!(events(&other, "leg.joined").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_a_broadcast() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = rig.two_segments("show", "video").await;
    let none = serde_json::Value::Null;
    rig.ask(hyper::Method::DELETE, "/api/v1/streams/show", &none).await.expect("is there");
    let playlist = rig.playlist_when(&path, "the end", |playlist| playlist.ended).await;
    assert_eq!(playlist.broken_rules(), Vec::<String>::new());
    let unknown = rig.ask(hyper::Method::DELETE, "/api/v1/streams/nothing", &none).await;
    assert!(unknown.is_err_and(|text| text.contains("no stream 'nothing'")));
}

/// A receiver of webhooks that answers 500 once, then 204: head and body of each request.
async fn receiver() -> (std::net::SocketAddr, tokio::sync::mpsc::Receiver<(String, String)>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("is bound");
    let (sender, requests) = tokio::sync::mpsc::channel(100);
    tokio::spawn(async move {
        let mut answers = ["500 Internal Server Error"].into_iter();
        while let Ok((mut socket, _)) = listener.accept().await {
            let (mut text, mut buffer) = (String::new(), [0; 4096]);
            let (head, body) = loop {
                let count = socket.read(&mut buffer).await.expect("reads");
                text += std::str::from_utf8(&buffer[..count]).expect("text");
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.unwrap_or(0) {
                    break (head.to_owned(), body.to_owned());
                }
            };
            let answer = answers.next().unwrap_or("204 No Content");
            let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = socket.write_all(answer.as_bytes()).await;
            let _ = sender.send((head, body)).await;
        }
    });
    (address, requests)
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_signed_in_order_and_tried_again() {
    let (address, mut requests) = receiver().await;
    let key = b"a key of thirty-two random bytes".as_slice();
    let row = |allow_private| WebhookTable {
        url: format!("http://{address}/hook?a=b"),
        secret: format!("whsec_{}", BASE64_STANDARD.encode(key)),
        events: vec!["stream.live".into(), "stream.lost".into()],
        streams: Vec::new(),
        allow_private,
    };
    let rig = Rig::with(|file| file.webhook.extend([row(true), row(false)])).await;
    let encoder = Encoder::default().publish(&rig.publish_url("show").await);
    legs(&rig, "feeding", 1).await;
    encoder.kill().await;
    let mut kinds = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let request = tokio::time::timeout(Duration::from_secs(10), requests.recv()).await.expect("in time");
        let (head, body) = request.expect("the receiver runs");
        assert!(head.starts_with("POST /hook?a=b HTTP/1.1"), "{head}");
        let field =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).expect("is there").trim().to_owned();
        let (id, timestamp) = (field("webhook-id:"), field("webhook-timestamp:"));
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
        assert_eq!(field("webhook-signature:"), expected);
        let event: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(event["data"]["stream"], "show");
        kinds.push(event["type"].as_str().expect("a kind").to_owned());
        ids.push(id);
    }
    assert_eq!(kinds, ["stream.live", "stream.live", "stream.lost"], "the first one was not taken");
    assert_eq!(ids[0], ids[1]);
    let outcome = |outcome: &str| format!("throughline_webhooks_total{{outcome=\"{outcome}\"}}");
    eventually("both were delivered", || async {
        (crate::rig::counted(&rig, &outcome("delivered")).await == 2).then_some(())
    })
    .await;
    // The other one may not go to this machine.
    assert!(metric(&rig, &outcome("failed")).await >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_over_rtmp_is_a_leg_like_any_other_and_merges_with_its_twin() {
    // The encoder sends the same to another server and to this one, which fetches it from there too.
    let mut rig = Rig::start().await;
    let origin = rig.beside().await;
    let there = origin.key("there").await;
    let url = format!("rtmp://{}/live/there", origin.rtmp());
    rig.stop().await;
    rig.start_again_with(|file| {
        file.rtmp.pull.push(RtmpPullTable { stream: "show".into(), url, rank: 1, ..RtmpPullTable::default() });
        file.streams.merge_mode = MergeModeName::Steady;
    })
    .await;
    let key = rig.key("show").await;
    let cable = Cable::to(rig.rtmp()).await;
    let urls = [
        ("flv", format!("rtmp://{}/live/{there}", origin.rtmp())),
        ("flv", format!("rtmp://{}/live/{key}", cable.address)),
    ];
    let source = Source::start(Making::default(), &rig.state.join("made.mkv"), &urls);
    let all = [legs(&rig, "copy", 1).await, legs(&rig, "feeding", 1).await].concat();
    rig.multivariant("show").await;
    let witness = Witness::watch(rig.http(), "show", &rig.state.join("seen.txt"));
    seconds(3.0).await;
    cable.cut();
    both_again(&rig).await;
    assert_seamless(&rig).await;
    let made = source.stop().await;
    seconds(2.5).await;
    assert_whole(&rig, &made, &witness.seen().await).await;
    assert!(
        all.iter().any(|leg| leg["publisher"]["key_id"].as_str().is_some_and(|id| id.starts_with("pull 1 from rtmp")))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_ours_is_fetched_from_again_whenever_it_is_there() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let url = format!("rtmp://127.0.0.1:{port}/app/name");
    let rig = Rig::with(|file| {
        file.rtmp.pull.push(RtmpPullTable { stream: "show".into(), url: url.clone(), ..RtmpPullTable::default() });
    })
    .await;
    seconds(1.0).await; // nobody is there yet
    // ffmpeg as the server.
    let serving = Encoder { muxer: "-f flv -listen 1", ..Encoder::default() };
    let server = serving.publish(&url);
    let path = rig.two_segments("show", "video").await;
    let view = rig.api("/api/v1/streams/show").await;
    assert!(view["publisher"]["key_id"].as_str().expect("text").starts_with("pull 1 from rtmp://127.0.0.1"), "{view}");
    server.kill().await;
    eventually("its end is seen", || async {
        (rig.api("/api/v1/streams/show").await["state"] == "lost").then_some(())
    })
    .await;
    let _server = serving.publish(&url);
    let again = || async { (rig.api("/api/v1/streams/show").await["state"] == "live").then_some(()) };
    eventually("it is called again", again).await;
    let before = rig.playlist(&path).await.segments.last().expect("listed").number;
    rig.playlist_when(&path, "three segments more", |playlist| {
        playlist.complete().last().is_some_and(|segment| segment.number > before + 3)
    })
    .await;
    assert_eq!(rig.playlist(&path).await.broken_rules(), Vec::<String>::new());
    let view = rig.api("/api/v1/streams/show").await;
    assert_eq!(view["legs"].as_array().map(Vec::len), Some(1), "{view}");
}

/// GStreamer, which writes a time code into each picture, over a path that takes so long.
fn with_time_codes(address: &str, pattern: &str, delay_ms: u32) -> Program {
    let delay = format!("min-threshold-time={}", u64::from(delay_ms) * 1_000_000);
    let location = format!("location={address}");
    let pattern = format!("pattern={pattern}");
    let made = "! video/x-raw,width=320,height=180,framerate=30/1 ! timecodestamper source=rtc ! x264enc \
        tune=zerolatency speed-preset=ultrafast key-int-max=30 option-string=pic-struct=1:nal-hrd=vbr:vbv-maxrate=900:vbv-bufsize=900 ! \
        h264parse update-timecode=true ! queue max-size-time=5000000000 max-size-buffers=0 max-size-bytes=0";
    let sent = "! flvmux streamable=true ! rtmp2sink";
    let arguments = ["-e", "videotestsrc", "is-live=true", &*pattern]
        .into_iter()
        .chain(made.split_whitespace())
        .chain([&*delay])
        .chain(sent.split_whitespace())
        .chain([&*location]);
    Program::start("/usr/bin/gst-launch-1.0", arguments)
}

#[tokio::test(flavor = "multi_thread")]
async fn encoders_that_write_time_codes_are_aligned_by_them() {
    let rig = Rig::start().await;
    let fast = with_time_codes(&rig.publish_url("show").await, "smpte", 0);
    legs(&rig, "feeding", 1).await;
    let backup = format!("rtmp://{}/live/{}", rig.rtmp(), rig.key_with_rank("show", 1).await);
    let _slow = with_time_codes(&backup, "ball", 600);
    let slow = legs(&rig, "standby", 1).await;
    let delay = |leg: &serde_json::Value| leg["capture_delay_ms"].as_i64().expect("the encoder tells");
    seconds(3.0).await;
    let slow = rig.api("/api/v1/streams/show").await["legs"]
        .as_array()
        .expect("two")
        .iter()
        .find(|leg| leg["id"] == slow[0]["id"])
        .cloned()
        .expect("there");
    let leading = legs(&rig, "feeding", 1).await.remove(0);
    assert!((-50..400).contains(&delay(&leading)), "{leading}");
    assert!((400..900).contains(&(delay(&slow) - delay(&leading))), "{slow}");
    fast.kill().await;
    let switch = eventually("the backup feeds the stream", || async {
        events(&rig, "stream.switched").await.into_iter().find(|event| event["reason"] == "closed")
    })
    .await;
    assert!(switch["text"].as_str().is_some_and(|text| text.contains("aligned by the times of capture")), "{switch}");
    assert!(switch["gap_ms"].as_i64().is_some_and(|gap| gap <= 800), "{switch}");
}

#[tokio::test(flavor = "multi_thread")]
async fn frame_information_over_rtmp_tells_when_pictures_were_captured() {
    let rig = Rig::start().await;
    let key = rig.key("show").await;
    let tags = rig.clip(&Encoder { seconds: 4, ..Encoder::default() }).await;
    let mut encoder = Publisher::connect(rig.rtmp(), "live", &key).await.expect("let in");
    let began = tokio::time::Instant::now();
    for tag in tags {
        tokio::time::sleep_until(began + Duration::from_millis(tag.timestamp_ms.into())).await;
        encoder.send(tag.track, tag.timestamp_ms, tag.body).await.expect("sent");
        if tag.track == media::TrackKind::Video {
            // Captured 700 ms before it is sent.
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
            let captured = i64::try_from(now.as_nanos()).expect("before 2262") - 700_000_000;
            let info = FrameInfo { day_nanos: captured % 86_400_000_000_000, frames: 0 };
            encoder.captured(tag.timestamp_ms, info).await.expect("sent");
        }
    }
    let streams = rig.api("/api/v1/streams/show").await;
    let delay = streams["legs"][0]["capture_delay_ms"].as_i64().expect("the encoder tells");
    assert!((650..1000).contains(&delay), "{streams}");
    encoder.close().await.expect("ended");
}
