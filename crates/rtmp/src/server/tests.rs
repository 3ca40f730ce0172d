//! Dialogues, step by step, with our own client as the other side.

use bytes::{Bytes, BytesMut};

use super::*;
use crate::{ClientCommand, ClientConfig, ClientEvent, ClientInput, ClientSession, Role};

/// Both ends of a connection without a wire between them.
struct Pair {
    now: Instant,
    server: ServerSession,
    client: ClientSession,
    server_events: Vec<Event>,
    client_events: Vec<ClientEvent>,
    client_error: Option<Error>,
    server_error: Option<Error>,
}

impl Pair {
    fn new(role: Role, app: &str, name: &str) -> Self {
        let now = Instant::now();
        let tc_url = format!("rtmp://127.0.0.1/{app}");
        let config = ClientConfig { role, app: app.into(), tc_url, name: media::StreamKey::new(name), nonce: [1; 32] };
        let mut pair = Self {
            now,
            server: ServerSession::new(now, ServerConfig::default()),
            client: ClientSession::new(now, config),
            server_events: Vec::new(),
            client_events: Vec::new(),
            client_error: None,
            server_error: None,
        };
        pair.run();
        pair
    }

    /// Carries bytes both ways, in pieces of 1,000, until nobody has anything to say.
    fn run(&mut self) {
        loop {
            let mut idle = true;
            while let Some(bytes) = self.drain_client() {
                idle = false;
                for piece in bytes.chunks(1000) {
                    self.server_error =
                        self.server.handle_input(self.now, Input::Received(piece)).err().or(self.server_error.take());
                }
            }
            while let Some(bytes) = self.drain_server() {
                idle = false;
                for piece in bytes.chunks(1000) {
                    self.client_error = self
                        .client
                        .handle_input(self.now, ClientInput::Received(piece))
                        .err()
                        .or(self.client_error.take());
                }
            }
            if idle {
                return;
            }
        }
    }

    fn drain_client(&mut self) -> Option<Bytes> {
        loop {
            match self.client.poll_output() {
                Output::Send(bytes) => return Some(bytes),
                Output::Event(event) => self.client_events.push(event),
                Output::Wait(_) => return None,
            }
        }
    }

    fn drain_server(&mut self) -> Option<Bytes> {
        loop {
            match self.server.poll_output() {
                Output::Send(bytes) => return Some(bytes),
                Output::Event(event) => self.server_events.push(event),
                Output::Wait(_) => return None,
            }
        }
    }

    fn decide(&mut self, command: Command) {
        self.server.handle_input(self.now, Input::Command(command)).expect("commands do not fail");
        self.run();
    }
}

#[test]
fn publisher_is_let_in_and_its_media_arrives() {
    let mut pair = Pair::new(Role::Publish, "live/show", "secret?x=1");
    let Some(Event::PublishRequested { path, name }) = pair.server_events.pop() else { panic!("no request") };
    assert_eq!((&*path, name.expose()), ("show", "secret?x=1"));
    assert!(!format!("{:?}", pair.server).contains("secret"), "the key is not printed");

    pair.decide(Command::Accept);
    assert!(matches!(pair.client_events.pop(), Some(ClientEvent::Started)));
    let body = Bytes::from_static(&[0x17, 1, 0, 0, 0, 9, 9]);
    for timestamp_ms in [u32::MAX - 9, 10] {
        let command = ClientCommand::SendMedia { track: media::TrackKind::Video, timestamp_ms, body: body.clone() };
        pair.client.handle_input(pair.now, ClientInput::Command(command)).expect("running");
    }
    pair.client.handle_input(pair.now, ClientInput::Command(ClientCommand::Close)).expect("running");
    pair.run();

    let times: Vec<i64> = pair
        .server_events
        .iter()
        .filter_map(|event| match event {
            Event::Media { time_nanos, .. } => Some(*time_nanos),
            _ => None,
        })
        .collect();
    assert_eq!(times[1] - times[0], 20_000_000, "the 32-bit clock wrapped in between");
    assert!(matches!(pair.server_events.last(), Some(Event::PublishEnded)));
    assert!(!pair.server.is_closed(), "the peer closes first: GStreamer calls it an error otherwise");
    pair.server.handle_input(pair.now + GOODBYE_TIMEOUT, Input::Timeout).expect("no error");
    assert!(pair.server.is_closed());
}

#[test]
fn refusals_carry_their_text_to_the_client() {
    let mut pair = Pair::new(Role::Publish, "live", "wrong");
    pair.decide(Command::Reject(Rejection::Unauthorized("this key is not valid".into())));
    assert!(matches!(&pair.client_error, Some(Error::Refused(text)) if text == "this key is not valid"));
    assert!(pair.server.is_closed());

    let pair = Pair::new(Role::Publish, "other", "key");
    assert!(matches!(&pair.client_error, Some(Error::Refused(text)) if text.contains("use rtmp://SERVER/live")));
}

#[test]
fn player_receives_configuration_and_units() {
    let mut pair = Pair::new(Role::Play, "live", "show");
    assert!(matches!(pair.server_events.pop(), Some(Event::PlayRequested { name, .. }) if name.expose() == "show"));
    pair.decide(Command::Accept);
    pair.server.send_metadata(&Metadata { has_audio: true, ..Metadata::default() });
    let audio = codec::aac::lc_config(48_000, 2).expect("in the tables");
    let config = CodecConfig::Audio(audio);
    pair.decide(Command::SendConfig(config.clone()));
    for dts in [4800, 9600] {
        let unit = AccessUnit {
            track: media::TrackKind::Audio,
            dts: media::Dts(dts),
            pts: media::Pts(dts),
            duration: Some(1024),
            is_random_access: true,
            payload: Bytes::from_static(b"sound").into(),
        };
        pair.decide(Command::SendUnit(config.clone(), unit));
    }

    let times: Vec<i64> = pair
        .client_events
        .iter()
        .filter_map(|event| match event {
            ClientEvent::Media { time_nanos, .. } => Some(*time_nanos),
            _ => None,
        })
        .collect();
    assert_eq!(times, [0, 0, 100_000_000], "configuration, first unit at 0, second 100 ms later");
    assert!(pair.client_events.iter().any(|event| matches!(event, ClientEvent::Metadata(m) if m.has_audio)));
    // As other servers hand it on from the encoder.
    let info = FrameInfo { day_nanos: 40_333_500_000_000, frames: 0 };
    pair.server.link.data(1, 100, &info.to_values());
    pair.run();
    let Some(ClientEvent::Captured { time_nanos, info: told }) = pair.client_events.last() else { panic!("not told") };
    assert_eq!((*time_nanos, *told), (100_000_000, info));
    pair.decide(Command::Close("the stream ended".into()));
    assert!(pair.client.is_closed() && pair.client_error.is_none());
}

#[test]
fn a_publisher_tells_when_its_pictures_were_captured() {
    let mut pair = Pair::new(Role::Publish, "live", "key");
    pair.decide(Command::Accept);
    let info = FrameInfo { day_nanos: 40_333_500_000_000, frames: 0 };
    let tell = |pair: &mut Pair, timestamp_ms| {
        let command = ClientCommand::SendFrameInfo { timestamp_ms, info };
        pair.client.handle_input(pair.now, ClientInput::Command(command)).expect("running");
        pair.run();
    };
    tell(&mut pair, 0);
    let is_told = |event: &Event| matches!(event, Event::Captured { .. });
    assert!(!pair.server_events.iter().any(is_told), "it is of no picture yet");
    let body = Bytes::from_static(&[0x17, 1, 0, 0, 0, 9, 9]);
    let command = ClientCommand::SendMedia { track: media::TrackKind::Video, timestamp_ms: 40, body };
    pair.client.handle_input(pair.now, ClientInput::Command(command)).expect("running");
    tell(&mut pair, 40);
    let Some(Event::Captured { time_nanos, info: told }) = pair.server_events.last() else { panic!("not told") };
    assert_eq!((*time_nanos, *told), (40_000_000, info));
}

#[test]
fn silent_peer_is_dropped_at_each_deadline() {
    let mut session = ServerSession::new(Instant::now(), ServerConfig::default());
    let Output::Wait(Some(deadline)) = session.poll_output() else { panic!("a deadline") };
    assert!(session.handle_input(deadline - Duration::from_millis(1), Input::Timeout).is_ok());
    assert!(matches!(session.handle_input(deadline, Input::Timeout), Err(Error::HandshakeTimeout)));

    let mut pair = Pair::new(Role::Publish, "live", "key");
    pair.decide(Command::Accept);
    pair.now += Duration::from_secs(10);
    let late = pair.server.handle_input(pair.now, Input::Timeout);
    assert!(matches!(late, Err(Error::FirstMediaTimeout(10))));
    pair.run();
    assert!(
        matches!(&pair.client_error, Some(Error::Refused(text)) if text.contains("within 10 s")),
        "it was told why"
    );
}

#[test]
fn half_a_handshake_is_an_error_of_its_own() {
    let mut session = ServerSession::new(Instant::now(), ServerConfig::default());
    session.handle_input(Instant::now(), Input::Received(&[3; 700])).expect("half of C1");
    let outcome = session.handle_input(Instant::now(), Input::Eof);
    assert!(matches!(outcome, Err(Error::PeerMisbehaved(Violation::HandshakeEof))));
    assert!(session.is_closed());
}

#[test]
fn a_deep_amf_message_ends_only_its_session() {
    let mut pair = Pair::new(Role::Publish, "live", "key");
    pair.decide(Command::Accept);
    let deep: Vec<u8> = [&[2, 0, 1, b'x', 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[10, 0, 0, 0, 1].repeat(70_000)].concat();
    let mut bytes = BytesMut::new();
    let head = crate::chunk::MessageHead { type_id: type_id::COMMAND_AMF0, stream_id: 0, timestamp: 0 };
    let mut writer = crate::chunk::ChunkWriter::new();
    writer.set_chunk_size(60_000);
    writer.write(&mut bytes, 3, &head, &[&deep]);
    let outcome = pair.server.handle_input(pair.now, Input::Received(&bytes));
    assert!(matches!(outcome, Err(Error::PeerMisbehaved(Violation::Amf(_)))), "{outcome:?}");
    pair.run();
    assert!(pair.client_error.is_some(), "the client was told why");
}

#[test]
fn what_an_encoder_sends_before_it_was_let_in_is_read_after() {
    let mut pair = Pair::new(Role::Publish, "live", "key");
    let mut bytes = BytesMut::new();
    let mut writer = crate::chunk::ChunkWriter::new();
    writer.set_chunk_size(60_000);
    let head = crate::chunk::MessageHead { type_id: type_id::AUDIO, stream_id: 1, timestamp: 0 };
    writer.write(&mut bytes, 4, &head, &[&[0xaf, 0, 0x11, 0x90]]);
    pair.server.handle_input(pair.now, Input::Received(&bytes)).expect("kept");
    pair.run();
    assert!(!pair.server_events.iter().any(|event| matches!(event, Event::Media { .. })), "not before the verdict");

    pair.decide(Command::Accept);
    assert!(pair.server_events.iter().any(|event| matches!(event, Event::Media { .. })), "not lost");
    let flood = vec![0; EARLY_BYTES_MAX + 1];
    let mut pair = Pair::new(Role::Publish, "live", "key");
    assert!(pair.server.handle_input(pair.now, Input::Received(&flood)).is_err(), "bounded");
}
