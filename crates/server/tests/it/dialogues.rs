//! What no encoder at hand sends, byte by byte: AMF3 commands, aggregates, nanosecond offsets.

use std::time::Duration;

use bytes::Bytes;
use media::TrackKind;
use testkit::publisher::Publisher;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Rig, eventually};

/// AAC-LC, 48 kHz, two channels; and a frame of it.
const AAC_CONFIG: &[u8] = &[0xaf, 0, 0x11, 0x90];
const AAC_FRAME: &[u8] = &[0xaf, 1, 0x21, 0x10, 0x04, 0x60, 0x8c, 0x1c];

/// A message in one chunk: type 0, chunk stream 3.
pub(crate) fn message(type_id: u8, stream: u8, timestamp: u32, payload: &[u8]) -> Vec<u8> {
    let [_, t2, t1, t0] = timestamp.to_be_bytes();
    let [_, l2, l1, l0] = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&[3, t2, t1, t0, l2, l1, l0, type_id, stream, 0, 0, 0][..], payload].concat()
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    [&[2, 0, u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat()
}

pub(crate) fn number(value: f64) -> Vec<u8> {
    [&[0][..], &value.to_be_bytes()].concat()
}

pub(crate) fn object(pairs: &[(&str, &str)]) -> Vec<u8> {
    let pairs = pairs.iter().flat_map(|(name, value)| [&string(name)[1..], &string(value)].concat());
    [&[3][..], &pairs.collect::<Vec<_>>(), &[0, 0, 9]].concat()
}

/// Commands of type 17: a byte for the format, then AMF0. spec: RTMP 1.0 §7.1.1
fn amf3_command(stream: u8, values: &[Vec<u8>]) -> Vec<u8> {
    message(17, stream, 0, &[&[0][..], &values.concat()].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_in_an_amf3_wrapper_and_media_in_aggregates_make_a_stream() {
    let rig = Rig::start().await;
    let key = rig.key("show").await;
    let mut socket = TcpStream::connect(rig.rtmp()).await.expect("connects");
    let url = format!("rtmp://{}/live", rig.rtmp());
    let opening = [
        [&[3][..], &[0; 3072]].concat(),
        message(1, 0, 0, &[0, 1, 0, 0]), // chunks of 64 KiB
        amf3_command(0, &[string("connect"), number(1.0), object(&[("app", "live"), ("tcUrl", &url)])]),
        amf3_command(0, &[string("createStream"), number(2.0), vec![5]]),
        amf3_command(1, &[string("publish"), number(3.0), vec![5], string(&key), string("live")]),
    ];
    socket.write_all(&opening.concat()).await.expect("written");
    let (mut reader, mut writer) = socket.into_split();
    let heard = tokio::spawn(async move {
        let mut heard = vec![0; 65_536];
        let mut length = 0;
        while !heard[..length].windows(23).any(|window| window == b"NetStream.Publish.Start") {
            let count = reader.read(&mut heard[length..]).await.expect("readable");
            assert_ne!(count, 0, "closed: {}", String::from_utf8_lossy(&heard[..length]));
            length += count;
        }
        reader
    });
    let mut reader = heard.await.expect("publishing began");
    tokio::spawn(async move { while reader.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {} });

    writer.write_all(&message(8, 1, 0, AAC_CONFIG)).await.expect("written");
    for aggregate in 0..30u32 {
        // Eight frames in each; their stamps count from another zero than the message's. spec: RTMP 1.0 §7.1.6
        let mut payload = Vec::new();
        for frame in 0..8u32 {
            let [top, t2, t1, t0] = (5000 + (aggregate * 8 + frame) * 1024 / 48).to_be_bytes();
            let length = u8::try_from(AAC_FRAME.len()).expect("short");
            payload.extend([&[8, 0, 0, length, t2, t1, t0, top, 0, 0, 0][..], AAC_FRAME].concat());
            payload.extend(u32::from(length + 11).to_be_bytes());
        }
        writer.write_all(&message(22, 1, aggregate * 8 * 1024 / 48, &payload)).await.expect("written");
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    let path = rig.playlist_path("show", "audio").await;
    let playlist = rig.playlist_when(&path, "a segment", |playlist| playlist.complete().count() >= 1).await;
    assert!(playlist.complete().all(|segment| !segment.discontinuity && !segment.gap));
    let view = rig.api("/api/v1/streams/show").await;
    assert_eq!((&view["audio"]["codec"], &view["audio"]["sample_rate"]), (&"AAC".into(), &48_000.into()));
    assert_eq!((&view["repairs"]["jumps"], &view["repairs"]["damaged"]), (&0.into(), &0.into()), "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ertmp_05_nanosecond_offsets_are_read_and_what_follows_them_is_understood() {
    let rig = Rig::start().await;
    let mut publisher = Publisher::connect(rig.rtmp(), "live", &rig.key("show").await).await.expect("let in");
    // 7: ModEx; three bytes of nanoseconds; 0: a timestamp offset, and what packet follows. spec: Enhanced RTMP v2
    let extended = |packet: u8, nanos: u32, body: &[u8]| {
        let [_, n2, n1, n0] = nanos.to_be_bytes();
        Bytes::from([&[0x97, 2, n2, n1, n0, packet][..], b"mp4a", body].concat())
    };
    publisher.send(TrackKind::Audio, 0, extended(0, 0, &[0x11, 0x90])).await.expect("sent");
    for frame in 0..200u32 {
        let micros = frame * 64_000 / 3;
        let body = extended(1, micros % 1000 * 1000, &AAC_FRAME[2..]);
        publisher.send(TrackKind::Audio, micros / 1000, body).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    let view = eventually("it is a stream", || async {
        let view = rig.api("/api/v1/streams/show").await;
        (view["state"] == "live").then_some(view)
    })
    .await;
    assert_eq!(view["audio"]["codec"], "AAC");
    assert_eq!((&view["repairs"]["jumps"], &view["repairs"]["damaged"]), (&0.into(), &0.into()), "{view}");
    rig.multivariant("show").await;
}
