//! What the legs show and sound like, decoded now and then.

use server::config::ConfigFile;

use crate::continuity::{events, legs};
use crate::rig::{Encoder, Rig, eventually};

fn looks_often(file: &mut ConfigFile) {
    file.sampling.enabled = true;
    file.sampling.interval_seconds = 1;
    file.sampling.black_seconds = 2;
    file.sampling.frozen_seconds = 3;
    file.sampling.silent_seconds = 3;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_whose_picture_is_black_gives_way_to_one_whose_is_not() {
    let rig = Rig::with(looks_often).await;
    let preferred = rig.publish_url("show").await;
    let backup = format!("rtmp://{}/live/{}", rig.rtmp(), rig.key_with_rank("show", 1).await);
    // With noise: a black without it is first seen by its bit rate.
    let black = "-vf drawbox=t=fill:color=black:enable=gte(t\\,10),noise=alls=10:allf=t";
    let _black = Encoder { size: "320x180", extra: black, ..Encoder::default() }.publish(&preferred);
    legs(&rig, "feeding", 1).await;
    let _well = Encoder { size: "320x180", ..Encoder::default() }.publish(&backup);
    legs(&rig, "standby", 1).await;
    let switch = eventually("the backup feeds the stream", || async {
        events(&rig, "stream.switched").await.into_iter().find(|event| event["reason"] == "degraded")
    })
    .await;
    assert!(switch["text"].as_str().is_some_and(|text| text.contains("a black picture for ")), "{switch}");
    eventually("only the black one is suspect", || async {
        let view = rig.api("/api/v1/streams/show").await;
        let legs = view["legs"].as_array().expect("a list");
        let is = |rank: u64, state: &str| legs.iter().any(|leg| leg["rank"] == rank && leg["state"] == state);
        (is(0, "suspect") && is(1, "healthy")).then_some(())
    })
    .await;
    let metrics = testkit::http::get(rig.addresses.ops.expect("listens"), "/metrics").await.text().to_owned();
    assert!(metrics.contains("throughline_samples_total{outcome=\"decoded\"}"), "{metrics}");
    assert!(!metrics.contains("throughline_samples_total{outcome=\"failed\"}"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_encoder_that_is_silent_or_stands_still_goes_on_and_is_told_and_gives_way_once_there_is_another() {
    let rig = Rig::with(looks_often).await;
    let quiet = "-af volume=volume=0:enable=gte(t\\,5)";
    let still = "-vf drawbox=t=fill:color=teal:enable=gte(t\\,5)";
    let rows = [("quiet", quiet, "silence for "), ("still", still, "the same picture for ")];
    let mut encoders = Vec::new();
    for (stream, extra, _) in rows {
        let url = rig.publish_url(stream).await;
        encoders.push(Encoder { size: "320x180", extra, ..Encoder::default() }.publish(&url));
    }
    for (stream, _, words) in rows {
        let view = eventually(words, || async {
            let streams = rig.api("/api/v1/streams").await; // empty before anybody has come
            let view = streams.as_array()?.iter().find(|view| view["name"] == stream)?.clone();
            let leg = &view["legs"][0];
            let is_told = leg["weakness"].as_str().is_some_and(|text| text.contains(words));
            (is_told && leg["state"] == "suspect").then_some(view)
        })
        .await;
        assert_eq!(view["state"], "live", "{view:#}");
    }
    for (stream, ..) in rows {
        let url = format!("rtmp://{}/live/{}", rig.rtmp(), rig.key_with_rank(stream, 1).await);
        encoders.push(Encoder { size: "320x180", ..Encoder::default() }.publish(&url));
    }
    for (stream, _, words) in rows {
        let switch = eventually("the one that came feeds the stream", || async {
            let told = rig.api(&format!("/api/v1/events?stream={stream}&limit=1000")).await;
            told.as_array()?.iter().find(|event| event["reason"] == "degraded").cloned()
        })
        .await;
        assert!(switch["text"].as_str().is_some_and(|text| text.contains(words)), "{switch}");
    }
}
