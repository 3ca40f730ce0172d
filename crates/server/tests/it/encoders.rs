//! What real encoders send arrives, whole and in order.

use std::path::Path;
use std::time::Duration;

use testkit::http;
use testkit::playlist::Playlist;
use testkit::programs::{Ffmpeg, Program, is_there};

use crate::rig::{Encoder, Rig, eventually};

/// Downloads the parts of a track for a while, as a player does, and joins them behind the initialization segment.
pub(crate) async fn record(rig: &Rig, stream: &str, track: &str, segments: usize) -> (Vec<u8>, Playlist) {
    let path = rig.playlist_path(stream, track).await;
    let playlist =
        rig.playlist_when(&path, "enough segments", |playlist| playlist.complete().count() >= segments).await;
    let directory = path.rsplit_once('/').expect("a path").0.to_owned();
    let first = playlist.segments.first().expect("some");
    let mut bytes = http::get(rig.http(), &format!("{directory}/{}", first.map)).await.body.to_vec();
    for segment in playlist.complete() {
        let whole = http::get(rig.http(), &format!("{directory}/{}", segment.uri)).await;
        assert_eq!(whole.status, 200, "{}", segment.uri);
        let mut joined = Vec::new();
        for part in &segment.parts {
            joined.extend_from_slice(&http::get(rig.http(), &format!("{directory}/{}", part.uri)).await.body);
        }
        assert!(segment.parts.is_empty() || joined == whole.body, "the parts of {} are the segment", segment.uri);
        bytes.extend_from_slice(&whole.body);
    }
    (bytes, playlist)
}

/// Decodes a file and fails at the smallest error; returns what ffmpeg says of its streams.
pub(crate) async fn decode(file: &Path) -> String {
    let name = file.to_str().expect("a plain path");
    let strict = ["-v", "error", "-xerror", "-err_detect", "explode", "-i", name, "-f", "null", "-"];
    let (success, _, errors) = Program::start("/usr/bin/ffmpeg", strict).finish().await;
    assert!(success && errors.is_empty(), "decodes without error: {errors}");
    let probe = ["-v", "error", "-show_entries", "stream=codec_name,width,height,sample_rate", "-of", "csv=p=0", name];
    Program::start("/usr/bin/ffprobe", probe).finish().await.1
}

/// Decode times of all packets, in ticks.
async fn packet_times(file: &Path) -> Vec<(i64, i64)> {
    let name = file.to_str().expect("a plain path");
    let arguments = ["-v", "error", "-show_entries", "packet=dts,duration", "-of", "csv=p=0", name];
    let (_, out, _) = Program::start("/usr/bin/ffprobe", arguments).finish().await;
    let number = |field: &str| field.parse().unwrap_or(-1);
    out.lines()
        .filter_map(|line| line.split_once(','))
        .map(|(dts, rest)| (number(dts), number(rest.split(',').next().unwrap_or_default())))
        .collect()
}

pub(crate) async fn check_media(rig: &Rig, stream: &str, expected: &[(&str, &str)]) {
    for (track, says) in expected {
        let (bytes, playlist) = record(rig, stream, track, 3).await;
        assert_eq!(playlist.broken_rules(), Vec::<String>::new());
        let file = rig.state.join(format!("{track}.mp4"));
        std::fs::write(&file, bytes).expect("writes");
        let described = decode(&file).await;
        assert!(described.contains(says), "{track} is {described}, not {says}");
        let times = packet_times(&file).await;
        assert!(times.len() > 60, "{} packets", times.len());
        let step = times[1].0 - times[0].0; // some packets come without a duration
        let broken =
            times.windows(2).find(|pair| pair[0].0 + if pair[0].1 > 0 { pair[0].1 } else { step } != pair[1].0);
        assert_eq!(broken, None, "no hole and no overlap between packets");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h264_with_b_frames_and_aac_decodes_across_every_part_boundary() {
    let rig = Rig::start().await;
    let _encoder = Encoder::with_b_frames().publish(&rig.publish_url("show").await);
    check_media(&rig, "show", &[("video", "h264,640,360"), ("audio", "aac,48000")]).await;

    let view = rig.api("/api/v1/streams/show").await;
    assert_eq!(view["state"], "live");
    assert_eq!(view["video"]["codec"], "H.264");
    let advice: Vec<&str> =
        view["advice"].as_array().expect("a list").iter().filter_map(|a| a["code"].as_str()).collect();
    assert!(advice.contains(&"b_frames"), "{advice:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_at_44_1_khz_stays_on_its_grid() {
    let rig = Rig::start().await;
    let encoder = Encoder { audio: Some("aac -b:a 96k -ar 44100 -ac 2"), ..Encoder::default() };
    let _encoder = encoder.publish(&rig.publish_url("show").await);
    check_media(&rig, "show", &[("audio", "aac,44100")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ertmp_01_hevc_with_aac_arrives() {
    let rig = Rig::start().await;
    let _encoder = Encoder::hevc().publish(&rig.publish_url("show").await);
    let text = rig.multivariant("show").await;
    assert!(text.contains("CODECS=\"hvc1."), "{text}");
    check_media(&rig, "show", &[("video", "hevc,320,180"), ("audio", "aac,48000")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ertmp_01_av1_with_opus_arrives() {
    let rig = Rig::start().await;
    let _encoder = Encoder::av1_with_opus().publish(&rig.publish_url("show").await);
    let text = rig.multivariant("show").await;
    assert!(text.contains("CODECS=\"av01.0.") && text.contains("opus\""), "{text}");
    check_media(&rig, "show", &[("video", "av1,320,180"), ("audio", "opus,48000")]).await;
}

/// What ffmpeg reads of the picture's colour in the initialization segment alone.
async fn colour(rig: &Rig) -> String {
    let (bytes, _) = record(rig, "show", "video", 1).await;
    let file = rig.state.join("colour.mp4");
    std::fs::write(&file, bytes).expect("writes");
    let name = file.to_str().expect("a plain path");
    let probe = ["-v", "error", "-show_entries", "stream=color_transfer,color_primaries", "-of", "csv=p=0", name];
    Program::start("/usr/bin/ffprobe", probe).finish().await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn auth_11_high_dynamic_range_is_announced() {
    const PQ: &str = "-vf setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc";
    const HLG: &str = "-vf setparams=color_primaries=bt2020:color_trc=arib-std-b67:colorspace=bt2020nc";
    let hevc = "libx265 -preset ultrafast -x265-params log-level=none:keyint=30:min-keyint=30:bframes=2 \
                -pix_fmt yuv420p10le -b:v 500k";
    let av1 = "libsvtav1 -preset 12 -svtav1-params rtc=1:pred-struct=1:rc=2 -g 30 -pix_fmt yuv420p10le -b:v 300k";
    let vp9 = "libvpx-vp9 -deadline realtime -cpu-used 8 -g 30 -pix_fmt yuv420p -b:v 300k";
    let avc = "libx264 -preset ultrafast -tune zerolatency -g 30 -pix_fmt yuv420p -b:v 600k";
    for (video, extra, codecs, range, transfer) in [
        (hevc, PQ, "hvc1.2.", "VIDEO-RANGE=PQ", "smpte2084"),
        (av1, HLG, ".10.0.110.09.18.09.0", "VIDEO-RANGE=HLG", "arib-std-b67"),
        (vp9, HLG, "vp09.", "VIDEO-RANGE=HLG", "arib-std-b67"),
        (avc, HLG, "avc1.", "VIDEO-RANGE=HLG", "arib-std-b67"),
    ] {
        let rig = Rig::start().await;
        let encoder =
            Encoder { ffmpeg: Ffmpeg::Current, size: "320x180", video: Some(video), extra, ..Encoder::default() };
        let _encoder = encoder.publish(&rig.publish_url("show").await);
        let text = rig.multivariant("show").await;
        assert!(text.contains(codecs) && text.contains(range), "{text}");
        let colour = colour(&rig).await;
        assert!(colour.contains(transfer) && colour.contains("bt2020"), "{colour}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ertmp_01_vp9_arrives() {
    let rig = Rig::start().await;
    let video = Some("libvpx-vp9 -deadline realtime -cpu-used 8 -g 30 -pix_fmt yuv420p -b:v 300k");
    let encoder = Encoder { ffmpeg: Ffmpeg::Current, size: "320x180", video, ..Encoder::default() };
    let _encoder = encoder.publish(&rig.publish_url("show").await);
    check_media(&rig, "show", &[("video", "vp9,320,180")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ertmp_04_the_first_track_of_a_multitrack_publish_is_the_stream() {
    let rig = Rig::start().await;
    let extra = "-filter_complex [0:v]split[a][b];[b]scale=320:180[c] -map [a] -map [c] -map 1:a";
    let encoder = Encoder { ffmpeg: Ffmpeg::Current, extra, ..Encoder::default() };
    let _encoder = encoder.publish(&rig.publish_url("show").await);
    check_media(&rig, "show", &[("video", "h264,640,360"), ("audio", "aac,48000")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rtmps_is_rtmp_over_tls() {
    let rig = Rig::start().await;
    let url = format!("rtmps://{}/live/{}", rig.addresses.rtmps.expect("listens"), rig.key("show").await);
    let _encoder = Encoder::default().publish(&url);
    rig.multivariant("show").await;
    assert_eq!(rig.api("/api/v1/streams/show").await["publisher"]["protocol"], "rtmps");
}

/// FFmpeg does not know the sound yet when it announces it.
#[tokio::test(flavor = "multi_thread")]
async fn what_ffmpeg_copies_from_a_transport_stream_arrives() {
    let rig = Rig::start().await;
    let clip = rig.state.join("clip.ts");
    let clip = clip.to_str().expect("a plain path");
    let encoder = Encoder { seconds: 20, is_paced: false, muxer: "-f mpegts", ..Encoder::with_b_frames() };
    assert!(encoder.publish(clip).finish().await.0, "made");
    let url = rig.publish_url("show").await;
    let arguments = ["-nostdin", "-loglevel", "error", "-re", "-i", clip, "-c", "copy", "-f", "flv", &url];
    let _encoder = Program::start(Ffmpeg::Debian.path(), arguments);
    check_media(&rig, "show", &[("video", "h264,640,360"), ("audio", "aac,48000")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gstreamer_publishes() {
    assert!(is_there("/usr/bin/gst-launch-1.0"), "installed by 'cargo xtask setup test'");
    let rig = Rig::start().await;
    let location = format!("location={}", rig.publish_url("show").await);
    let line = "-e videotestsrc is-live=true ! video/x-raw,width=640,height=360,framerate=30/1 ! x264enc tune=zerolatency \
        speed-preset=ultrafast key-int-max=30 ! h264parse ! flvmux name=m streamable=true ! rtmp2sink";
    let arguments = line.split_whitespace().chain([location.as_str()]);
    let _encoder = Program::start("/usr/bin/gst-launch-1.0", arguments);
    check_media(&rig, "show", &[("video", "h264,640,360")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gstreamer_ends_its_stream_without_an_error() {
    let rig = Rig::start().await;
    let location = format!("location={}", rig.publish_url("show").await);
    let line = "-e videotestsrc is-live=true num-buffers=60 ! video/x-raw,width=320,height=180,framerate=30/1 ! x264enc \
        tune=zerolatency speed-preset=ultrafast key-int-max=30 ! h264parse ! flvmux streamable=true ! rtmp2sink";
    let arguments = line.split_whitespace().chain([location.as_str()]);
    let (success, out, errors) = Program::start("/usr/bin/gst-launch-1.0", arguments).finish().await;
    assert!(success && !errors.contains("ERROR"), "{out}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_alone_and_picture_alone_are_streams() {
    let rig = Rig::start().await;
    let _radio = Encoder { video: None, ..Encoder::default() }.publish(&rig.publish_url("radio").await);
    let _silent = Encoder { audio: None, ..Encoder::default() }.publish(&rig.publish_url("silent").await);
    check_media(&rig, "radio", &[("audio", "aac,48000")]).await;
    check_media(&rig, "silent", &[("video", "h264,640,360")]).await;
    assert!(!rig.multivariant("radio").await.contains("RESOLUTION"));
    assert!(!rig.multivariant("silent").await.contains("mp4a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_the_key_in_the_url_is_understood() {
    let rig = Rig::start().await;
    let server = rig.rtmp();
    for (stream, path) in [("one", "live/KEY"), ("two", "live/two?key=KEY"), ("three", "live/three/KEY")] {
        let url = format!("rtmp://{server}/{}", path.replace("KEY", &rig.key(stream).await));
        let _encoder = Encoder { audio: None, ..Encoder::default() }.publish(&url);
        rig.multivariant(stream).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rtmp_play_serves_monitoring_tools() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    rig.multivariant("show").await;
    let url = format!("rtmp://{}/live/show", rig.rtmp());
    let file = rig.state.join("played.flv");
    let name = file.to_str().expect("a plain path");
    let arguments = ["-v", "error", "-nostdin", "-y", "-i", &url, "-t", "3", "-c", "copy", name];
    let (success, _, errors) = Program::start("/usr/bin/ffmpeg", arguments).finish().await;
    assert!(success, "{errors}");
    let described = decode(&file).await;
    assert!(described.contains("h264,640,360") && described.contains("aac,48000"), "{described}");

    let nothing = format!("rtmp://{}/live/nothing", rig.rtmp());
    let (success, _, errors) =
        Program::start("/usr/bin/ffmpeg", ["-v", "error", "-i", &nothing, "-f", "null", "-"]).finish().await;
    assert!(!success && errors.contains("no such stream"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rtmpdump_and_ffplay_play_over_rtmp() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    rig.multivariant("show").await;
    let url = format!("rtmp://{}/live/show", rig.rtmp());
    let file = rig.state.join("dumped.flv");
    let name = file.to_str().expect("a plain path");
    let arguments = ["4", "rtmpdump", "-q", "-r", &url, "--live", "-o", name];
    let (_, _, errors) = Program::start("/usr/bin/timeout", arguments).finish().await;
    let described = decode(&file).await;
    assert!(described.contains("h264,640,360") && described.contains("aac,48000"), "{described} {errors}");

    let arguments = ["-v", "error", "-nodisp", "-autoexit", "-t", "2", &url];
    let (success, _, errors) = Program::start("/usr/bin/ffplay", arguments).finish().await;
    assert!(success, "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_at_an_uneven_rate_keep_their_times_and_the_encoder_is_told() {
    let rig = Rig::start().await;
    // Every third picture is missing: 33 ms and 67 ms in turn.
    let encoder = Encoder { extra: "-vf select='mod(n,3)' -fps_mode vfr", ..Encoder::default() };
    let _encoder = encoder.publish(&rig.publish_url("show").await);
    let (bytes, playlist) = record(&rig, "show", "video", 3).await;
    assert!(playlist.segments.iter().all(|segment| !segment.gap && !segment.discontinuity));
    let file = rig.state.join("uneven.mp4");
    std::fs::write(&file, bytes).expect("written");
    decode(&file).await;
    let times = packet_times(&file).await;
    let millis: Vec<i64> = times.windows(2).map(|pair| (pair[1].0 - pair[0].0) / 360).collect();
    assert!(millis.iter().all(|step| (32..=35).contains(step) || (65..=68).contains(step)), "{millis:?}");
    let view = rig.api("/api/v1/streams/show").await;
    let advice = view["advice"].as_array().expect("a list").iter().filter_map(|advice| advice["code"].as_str());
    assert!(advice.collect::<Vec<_>>().contains(&"variable_frame_rate"), "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_resolution_is_a_discontinuity_with_its_own_map() {
    let rig = Rig::start().await;
    let url = rig.publish_url("show").await;
    let encoder = Encoder::default().publish(&url);
    rig.two_segments("show", "video").await;
    encoder.kill().await;
    let _encoder = Encoder { size: "320x180", ..Encoder::default() }.publish(&url);

    for track in ["video", "audio"] {
        let path = rig.playlist_path("show", track).await;
        let holds = |playlist: &Playlist| playlist.segments.iter().filter(|segment| segment.discontinuity).count() == 1;
        let playlist = rig.playlist_when(&path, "one discontinuity", holds).await;
        let index = playlist.segments.iter().position(|segment| segment.discontinuity).expect("one");
        let (before, after) = (&playlist.segments[index - 1], &playlist.segments[index]);
        assert_eq!(before.number + 1, after.number, "the sequence goes on");
        assert_eq!(before.map != after.map, track == "video", "the picture changed, the sound did not");
    }
    let text = eventually("the new size is announced", || async {
        let text = rig.multivariant("show").await;
        text.contains("RESOLUTION=320x180").then_some(text)
    })
    .await;
    assert!(!text.contains("640x360"));
    tokio::time::sleep(Duration::from_millis(1)).await;
}
