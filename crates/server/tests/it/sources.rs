//! What encoders do to time in the middle of a session.

use std::time::{Duration, Instant};

use media::TrackKind;
use server::config::SecondPublisherName;
use testkit::publisher::{Publisher, Tag};

use crate::rig::{Encoder, Rig, eventually, metric};

/// Sends tags in real time; `stamp` says what stands on them.
async fn send(publisher: &mut Publisher, tags: &[Tag], stamp: impl Fn(u32) -> u32) {
    let began = tokio::time::Instant::now();
    for tag in tags {
        tokio::time::sleep_until(began + Duration::from_millis(tag.timestamp_ms.into())).await;
        publisher.send(tag.track, stamp(tag.timestamp_ms), tag.body.clone()).await.expect("the server takes it");
    }
}

async fn publisher(rig: &Rig) -> Publisher {
    Publisher::connect(rig.rtmp(), "live", &rig.key("show").await).await.expect("let in")
}

#[tokio::test(flavor = "multi_thread")]
async fn another_size_in_the_same_session_is_one_discontinuity_in_both_renditions() {
    let rig = Rig::start().await;
    let first = rig.clip(&Encoder { seconds: 5, ..Encoder::default() }).await;
    let second = rig.clip(&Encoder { seconds: 8, size: "320x180", ..Encoder::default() }).await;
    let mut publisher = publisher(&rig).await;
    let playing = tokio::spawn(async move {
        send(&mut publisher, &first, |at| at).await;
        send(&mut publisher, &second, |at| at + 5000).await;
        publisher
    });
    for track in ["video", "audio"] {
        let path = rig.playlist_path("show", track).await;
        let playlist = rig.playlist_when(&path, "the other size and a segment of it", |playlist| {
            let change = playlist.segments.iter().position(|segment| segment.discontinuity);
            change.is_some_and(|at| playlist.complete().count() > at + 1)
        });
        let playlist = playlist.await;
        let at = playlist.segments.iter().position(|segment| segment.discontinuity).expect("seen");
        assert_eq!(playlist.segments.iter().filter(|segment| segment.discontinuity).count(), 1, "{track}");
        let (before, after) = (&playlist.segments[at - 1], &playlist.segments[at]);
        assert_eq!(before.map != after.map, track == "video", "{track}: {} and {}", before.map, after.map);
        assert_eq!(playlist.broken_rules(), Vec::<String>::new());
    }
    let view = rig.api("/api/v1/streams/show").await;
    assert_eq!((&view["joins"], &view["video"]["width"]), (&1.into(), &320.into()), "{view}");
    assert_eq!(view["repairs"]["jumps"], 0, "the stamps went on");
    drop(playing.await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrap_of_the_timestamps_is_not_seen() {
    let rig = Rig::start().await;
    let tags = rig.clip(&Encoder { seconds: 8, ..Encoder::default() }).await;
    let mut publisher = publisher(&rig).await;
    let playing = tokio::spawn(async move {
        send(&mut publisher, &tags, |at| (u32::MAX - 4000).wrapping_add(at)).await;
        publisher
    });
    let path = rig.playlist_path("show", "video").await;
    let playlist = rig.playlist_when(&path, "three segments", |playlist| playlist.complete().count() >= 3).await;
    assert!(playlist.segments.iter().all(|segment| !segment.discontinuity && !segment.gap));
    assert_eq!(playlist.broken_rules(), Vec::<String>::new());
    let repairs = &rig.api("/api/v1/streams/show").await["repairs"];
    assert_eq!((&repairs["jumps"], &repairs["disorder"]), (&0.into(), &0.into()), "{repairs}");
    drop(playing.await);
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_that_comes_late_and_vanishes_is_carried_as_silence() {
    let rig = Rig::start().await;
    let tags = rig.clip(&Encoder { seconds: 10, ..Encoder::default() }).await;
    // The description announces it; the first second and three in the middle are missing.
    let is_heard = |tag: &&Tag| {
        tag.track == TrackKind::Video || tag.body.get(1) == Some(&0) || matches!(tag.timestamp_ms, 1000..4000 | 7000..)
    };
    let heard: Vec<Tag> = tags.iter().filter(is_heard).cloned().collect();
    let mut publisher = publisher(&rig).await;
    let playing = tokio::spawn(async move {
        send(&mut publisher, &heard, |at| at).await;
        publisher
    });
    let path = rig.playlist_path("show", "audio").await;
    let playlist = rig.playlist_when(&path, "four segments", |playlist| playlist.complete().count() >= 4).await;
    assert!(playlist.segments.iter().all(|segment| !segment.discontinuity && !segment.gap), "it never stops");
    assert_eq!(playlist.broken_rules(), Vec::<String>::new());
    let view = rig.api("/api/v1/streams/show").await;
    // One second and three, in frames of 1024 samples at 48 kHz, each less what the sound may lag.
    let silence = view["repairs"]["silence"].as_u64().expect("a number");
    assert!((140..=195).contains(&silence), "{silence} frames of silence");
    assert_eq!(view["joins"], 1);
    drop(playing.await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_faster_than_real_time_is_paced() {
    let rig = Rig::start().await;
    let encoder = Encoder { is_paced: false, ..Encoder::default() }.publish(&rig.publish_url("show").await);
    let path = rig.playlist_path("show", "video").await;
    let began = Instant::now();
    let first = rig.playlist(&path).await;
    let end = |playlist: &testkit::playlist::Playlist| {
        let last = playlist.segments.last().expect("some");
        last.date_ms.expect("dated") + i64::try_from(Duration::from_secs_f64(last.length()).as_millis()).expect("short")
    };
    tokio::time::sleep(Duration::from_secs(4)).await;
    let later = rig.playlist(&path).await;
    let (media, wall) = (end(&later) - end(&first), i64::try_from(began.elapsed().as_millis()).expect("short"));
    assert!((media - wall).abs() < 2500, "{media} ms of media in {wall} ms");
    drop(encoder);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_after_a_burst_whose_sender_is_gone_takes_over_at_once() {
    let rig = Rig::with(|file| file.streams.second_publisher = SecondPublisherName::Refuse).await;
    // Sound alone: no more than the kernel takes at once, or the end would be stuck behind what does not fit.
    let tags = rig.clip(&Encoder { seconds: 8, video: None, ..Encoder::default() }).await;
    let key = rig.key("show").await;
    let mut first = Publisher::connect(rig.rtmp(), "live", &key).await.expect("let in");
    for tag in &tags {
        first.send(tag.track, tag.timestamp_ms, tag.body.clone()).await.expect("sent");
    }
    rig.multivariant("show").await;
    let refused = Publisher::connect(rig.rtmp(), "live", &key).await.expect_err("the first one is there");
    assert!(refused.contains("already being published"), "{refused}");
    drop(first);
    let died = Instant::now();
    eventually("the next one is let in", || async { Publisher::connect(rig.rtmp(), "live", &key).await.ok() }).await;
    assert!(died.elapsed() < Duration::from_millis(450), "after {:?}: less than silence would take", died.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_sound_in_one_read_is_taken_in_real_time() {
    let rig = Rig::start().await;
    let mut publisher = publisher(&rig).await;
    publisher.send(TrackKind::Audio, 0, vec![0xaf, 0, 0x11, 0x90].into()).await.expect("sent");
    for frame in 0..2000u32 {
        let sound = vec![0xaf, 1, 0x21, 0x10, 4, 0x60, 0x8c, 0x1c].into();
        if publisher.send(TrackKind::Audio, frame * 1900, sound).await.is_err() {
            break;
        }
    }
    let path = rig.playlist_path("show", "audio").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let playlist = rig.playlist(&path).await;
    let length: f64 = playlist.segments.iter().map(testkit::playlist::Segment::length).sum();
    assert!(length < 20.0, "{length} s of sound after a few seconds");
    assert_eq!(metric(&rig, "throughline_hls_restarts_total").await, 0);
}
