//! What is not let in, and what bad input does: a clear answer, and no harm to others.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use media::TrackKind;
use server::config::SecondPublisherName;
use testkit::publisher::Publisher;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Encoder, Rig, counted, eventually, metric};

/// Sends bytes and reads until the server closes; fails if it does not.
async fn throw(server: SocketAddr, pieces: &[&[u8]]) -> Vec<u8> {
    let mut socket = TcpStream::connect(server).await.expect("connects");
    for piece in pieces {
        if socket.write_all(piece).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(12), socket.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "the server closes");
    answer
}

/// C0, C1 and C2 of the simple handshake.
fn handshake() -> Vec<u8> {
    [&[3][..], &[0; 1536], &[0; 1536]].concat()
}

/// A chunk of type 0 on stream 3, with its length as announced.
fn chunk(type_id: u8, length: u32, payload: &[u8]) -> Vec<u8> {
    let [_, l2, l1, l0] = length.to_be_bytes();
    [&[3, 0, 0, 0, l2, l1, l0, type_id, 0, 0, 0, 0][..], payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_refused_with_words_the_encoder_shows() {
    let rig = Rig::start().await;
    let (success, _, errors) = Encoder::default().publish(&format!("rtmp://{}/live/wrong", rig.rtmp())).finish().await;
    assert!(!success && errors.contains("stream key is not valid"), "{errors}");

    let key = rig.key("show").await;
    let (success, _, errors) =
        Encoder::default().publish(&format!("rtmp://{}/live/other/{key}", rig.rtmp())).finish().await;
    assert!(!success && errors.contains("for another stream"), "{errors}");

    let (success, _, errors) =
        Encoder::default().publish(&format!("rtmp://{}/studio/{key}", rig.rtmp())).finish().await;
    assert!(!success && errors.contains("there is no application 'studio'"), "{errors}");
    assert_eq!(metric(&rig, "throughline_ingest_rejected_total{reason=\"not_found\"}").await, 1, "counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_policy_is_to_refuse_a_second_encoder_waits_until_the_first_is_silent() {
    let rig = Rig::with(|file| file.streams.second_publisher = SecondPublisherName::Refuse).await;
    let key = rig.key("show").await;
    let mut first = Publisher::connect(rig.rtmp(), "live", &key).await.expect("let in");
    let sound = Bytes::from_static(&[0xaf, 1, 0x21, 0x10]);
    first.send(TrackKind::Audio, 0, Bytes::from_static(&[0xaf, 0, 0x11, 0x90])).await.expect("sent");
    first.send(TrackKind::Audio, 0, sound.clone()).await.expect("sent");
    for frame in 1..40 {
        first.send(TrackKind::Audio, frame * 21, sound.clone()).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = Publisher::connect(rig.rtmp(), "live", &key).await.expect_err("the first one is healthy");
    assert!(refused.contains("already being published"), "{refused}");

    tokio::time::sleep(Duration::from_millis(600)).await;
    let _second = Publisher::connect(rig.rtmp(), "live", &key).await.expect("the first one is silent");
    assert!(first.closing_words().await.contains("another encoder took over"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_throws_its_publisher_out() {
    let rig = Rig::start().await;
    let key = rig.key("show").await;
    let publisher = Publisher::connect(rig.rtmp(), "live", &key).await.expect("let in");
    let keys = rig.api("/api/v1/keys").await;
    let id = keys[0]["id"].as_str().expect("an id").to_owned();
    let client = server::LocalClient::connect(&rig.state).await.expect("runs");
    let () = client.call(hyper::Method::DELETE, &format!("/api/v1/keys/{id}"), String::new()).await.expect("revoked");

    assert!(publisher.closing_words().await.contains("revoked"));
    let refused = Publisher::connect(rig.rtmp(), "live", &key).await.expect_err("revoked");
    assert!(refused.contains("not valid"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_harms_nobody() {
    let rig = Rig::start().await;
    let _encoder = Encoder::default().publish(&rig.publish_url("show").await);
    let path = rig.playlist_path("show", "video").await;
    let before = rig.playlist(&path).await.edge().expect("parts");
    let server = rig.rtmp();

    let deep = [&[2, 0, 7][..], b"connect", &[0; 9], &[10, 0, 0, 0, 1].repeat(70_000)].concat();
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).expect("small");
    let half: Vec<u8> =
        (3..63u8).flat_map(|id| [&[id, 0, 0, 0, 0x07, 0, 0, 9, 1, 0, 0, 0][..], &[0; 65_536]].concat()).collect();
    let attacks: [(&str, Vec<Vec<u8>>); 7] = [
        ("another protocol", vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()]),
        ("chunk size of 2^31", vec![handshake(), chunk(1, 4, &[0x80, 0, 0, 0])]),
        ("chunk size of zero", vec![handshake(), chunk(1, 4, &[0, 0, 0, 0])]),
        ("message of 16 MiB", vec![handshake(), chunk(9, 0xff_ffff, &[0; 4096])]),
        ("70,000 levels of AMF", vec![handshake(), chunk(1, 4, &[0, 0x10, 0, 0]), chunk(20, size(&deep), &deep)]),
        ("60 half messages", vec![handshake(), chunk(1, 4, &[0, 1, 0, 0]), half]),
        ("continuation of nothing", vec![handshake(), vec![0xc9, 1, 2, 3]]),
    ];
    let counter = "throughline_ingest_sessions_closed_total{protocol=\"rtmp\",reason=\"protocol_error\"}";
    for (count, (name, pieces)) in (1u64..).zip(attacks) {
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let answer = throw(server, &pieces).await;
        eventually("it is counted", || async { (counted(&rig, counter).await == count).then_some(()) }).await;
        assert!(answer.len() <= 3073 + 4096, "{name}: {} bytes in answer", answer.len());
    }
    let mut socket = TcpStream::connect(server).await.expect("connects");
    socket.write_all(&[3; 700]).await.expect("half of C1");
    drop(socket);
    let mut silent = TcpStream::connect(server).await.expect("connects");
    let closed = tokio::time::timeout(Duration::from_secs(8), silent.read(&mut [0; 16])).await;
    assert_eq!(closed.expect("within the handshake time").expect("reads"), 0, "a silent peer is dropped");

    let after = rig.playlist(&path).await.edge().expect("parts");
    assert!(after > before, "the other stream went on: {before:?} to {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_from_hell_are_repaired_and_counted() {
    let rig = Rig::start().await;
    let key = rig.key("show").await;
    let mut publisher = Publisher::connect(rig.rtmp(), "live", &key).await.expect("let in");
    let record = testkit::fixture("ffmpeg-5.1-avcc-30.bin");
    let config = [&[0x17, 0, 0, 0, 0][..], &record].concat();
    publisher.send(TrackKind::Video, 0, config.into()).await.expect("sent");
    for frame in 0..120u32 {
        let timestamp = match frame % 10 {
            3 => u32::MAX - frame,
            5 => 0,
            7 => 1 << 31,
            _ => frame * 33,
        };
        let offset: [u8; 3] = if frame % 4 == 0 { [0x80, 0, 0] } else { [0, 0, 33] };
        let body = [
            &[if frame % 30 == 0 { 0x17 } else { 0x27 }, 1][..],
            &offset,
            &[0, 0, 0, 2, 0x65, u8::try_from(frame % 250).expect("small")],
        ]
        .concat();
        publisher.send(TrackKind::Video, timestamp, body.into()).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let view = eventually("repairs are counted", || async {
        let view = rig.api("/api/v1/streams/show").await;
        (view["repairs"]["jumps"].as_u64() > Some(0) && view["repairs"]["composition"].as_u64() > Some(0))
            .then_some(view)
    })
    .await;
    assert_eq!(view["state"], "live");
}
