//! What real encoders sent, recorded: understood, and understood the same in whatever pieces it comes.

use std::time::Instant;

use rtmp::{Command, Event, Input, Media, Output, ServerConfig, ServerSession};

/// Recording, how the encoder names itself, the codec of the picture.
const RECORDED: [(&[u8], &str, &str); 4] = [
    (include_bytes!("../../testkit/fixtures/rtmp/ffmpeg-5.1-h264.bin"), "Lavf59", "Avc"),
    (include_bytes!("../../testkit/fixtures/rtmp/ffmpeg-9.0-hevc.bin"), "Lavf63", "Hevc"),
    (include_bytes!("../../testkit/fixtures/rtmp/gstreamer-1.22-h264.bin"), "GStreamer", "Avc"),
    (include_bytes!("../../testkit/fixtures/rtmp/obs-29.0.2-h264.bin"), "libobs version 29.0.2", "Avc"),
];

/// Everything the session says when the recording comes in pieces of these sizes, in turn.
fn listen(recording: &[u8], pieces: &[usize]) -> Vec<Event> {
    let now = Instant::now();
    let mut session = ServerSession::new(now, ServerConfig::default());
    let (mut events, mut rest) = (Vec::new(), recording);
    let mut sizes = pieces.iter().cycle();
    while !rest.is_empty() {
        let size = (*sizes.next().expect("endless")).min(rest.len());
        let (piece, left) = rest.split_at(size);
        rest = left;
        session.handle_input(now, Input::Received(piece)).expect("a real encoder keeps the protocol");
        loop {
            match session.poll_output() {
                Output::Event(event) => {
                    let asks = matches!(event, Event::PublishRequested { .. });
                    events.push(event);
                    if asks {
                        session.handle_input(now, Input::Command(Command::Accept)).expect("let in");
                    }
                }
                Output::Send(_) => {}
                Output::Wait(_) => break,
            }
        }
    }
    assert!(!session.is_closed());
    events
}

#[test]
fn recorded_encoders_are_understood() {
    for (recording, encoder, codec) in RECORDED {
        let events = listen(recording, &[recording.len()]);
        assert!(
            matches!(&events[0], Event::PublishRequested { path, name } if path.is_empty() && !name.expose().is_empty())
        );
        let metadata = events.iter().find_map(|event| match event {
            Event::Metadata(metadata) => Some(metadata),
            _ => None,
        });
        let named = metadata.and_then(|metadata| metadata.encoder.clone()).unwrap_or_default();
        assert!(named.contains(encoder), "{named} is not {encoder}");
        let (mut pictures, mut sounds, mut last) = (0, 0, [i64::MIN; 2]);
        for event in &events {
            let Event::Media { time_nanos, media } = event else { continue };
            let track = match media {
                Media::Video(packet) => {
                    assert_eq!(format!("{:?}", packet.codec), codec, "{encoder}");
                    pictures += 1;
                    0
                }
                Media::Audio(packet) => {
                    assert_eq!(format!("{:?}", packet.codec), "Aac", "{encoder}");
                    sounds += 1;
                    1
                }
            };
            assert!(*time_nanos >= last[track], "{encoder}: times go on");
            last[track] = *time_nanos;
        }
        assert!(pictures > 20 && sounds > 20, "{encoder}: {pictures} pictures, {sounds} frames of sound");
    }
}

#[test]
fn recorded_encoders_are_understood_the_same_in_any_pieces() {
    for (recording, encoder, _) in RECORDED {
        let whole = format!("{:?}", listen(recording, &[recording.len()]));
        for pieces in [&[1][..], &[2, 1, 5], &[1460], &[1536, 1, 1536, 4096], &[127, 128, 129]] {
            assert!(whole == format!("{:?}", listen(recording, pieces)), "{encoder} in pieces of {pieces:?}");
        }
    }
}
