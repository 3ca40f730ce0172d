//! The client's side of a session: connect to a server and publish or play.

use std::mem;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::TrackKind;

use crate::amf0::{Value, object};
use crate::chunk::Message;
use crate::handshake::Handshake;
use crate::link::{Link, Output, Stats};
use crate::message::{self, CommandMessage, FrameInfo, Media, Metadata, Unroller, type_id};
use crate::{Error, Violation};

/// Time for each step until the server says that it begins.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT: f64 = 1.0;
const CREATE_STREAM: f64 = 4.0;
const START: f64 = 5.0;

/// What the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Send media.
    Publish,
    /// Receive media.
    Play,
}

/// Settings of a client session.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Publish or play.
    pub role: Role,
    /// Application, with what follows it in the path.
    pub app: String,
    /// The whole URL of the application: `rtmp://host:port/app`.
    pub tc_url: String,
    /// Stream name or key.
    pub name: media::StreamKey,
    /// Fresh randomness for the handshake.
    pub nonce: [u8; 32],
}

/// What the owner of the socket tells the session.
#[derive(Debug)]
pub enum ClientInput<'a> {
    /// Bytes from the server.
    Received(&'a [u8]),
    /// The server closed its side.
    Eof,
    /// The deadline asked for has passed.
    Timeout,
    /// The application decides.
    Command(ClientCommand),
}

/// What the application decides; taken once [`ClientEvent::Started`] came, left out before.
#[derive(Debug)]
pub enum ClientCommand {
    /// Send one audio or video message.
    SendMedia {
        /// Which of the two.
        track: TrackKind,
        /// Milliseconds, 32 bits that wrap.
        timestamp_ms: u32,
        /// FLV tag body.
        body: Bytes,
    },
    /// Send `onMetaData`.
    SendMetadata(Metadata),
    /// Send `onFI`: when the picture of this time was captured.
    SendFrameInfo {
        /// Milliseconds, as of media.
        timestamp_ms: u32,
        /// What the clock said, in milliseconds.
        info: FrameInfo,
    },
    /// End the stream properly.
    Close,
}

/// What the session tells the application.
#[derive(Debug)]
pub enum ClientEvent {
    /// Publishing or playing has begun.
    Started,
    /// The server described the stream that plays.
    Metadata(Metadata),
    /// Audio or video that plays.
    Media {
        /// Decode time in nanoseconds.
        time_nanos: i64,
        /// The packet.
        media: Media,
    },
    /// When a picture that plays was captured.
    Captured {
        /// The picture's decode time in nanoseconds.
        time_nanos: i64,
        /// What the encoder's clock said.
        info: FrameInfo,
    },
    /// The server wants this client to connect anew and to leave this connection then.
    /// spec: Enhanced RTMP v2, reconnect request
    ReconnectRequested {
        /// Where to; none: to where it is now.
        tc_url: Option<String>,
    },
}

/// The state machine.
///
/// ```text
/// Handshake ──S2──▶ Connecting ──_result──▶ Creating ──_result──▶ Starting ──onStatus──▶ Running ──▶ Closed
/// ```
#[derive(Debug)]
enum State {
    Handshake { handshake: Handshake, deadline: Instant },
    Connecting { deadline: Instant },
    Creating { deadline: Instant },
    Starting { stream_id: u32, deadline: Instant },
    Running { stream_id: u32, clock: Unroller },
    Closed,
}

/// One connection, as the client sees it.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    state: State,
    link: Link<ClientEvent>,
}

impl ClientSession {
    /// A session whose socket connected at `now`.
    pub fn new(now: Instant, config: ClientConfig) -> Self {
        let handshake = Handshake::new(config.nonce);
        let mut link = Link::new();
        handshake.hello(link.out());
        Self { config, state: State::Handshake { handshake, deadline: now + STEP_TIMEOUT }, link }
    }

    /// Advances the session. After an error it is closed and stays so.
    ///
    /// # Errors
    /// The server broke the protocol, was too slow, or refused.
    pub fn handle_input(&mut self, now: Instant, input: ClientInput<'_>) -> Result<(), Error> {
        let outcome = match input {
            ClientInput::Received(bytes) => self.on_received(now, bytes),
            ClientInput::Eof => match mem::replace(&mut self.state, State::Closed) {
                State::Running { .. } | State::Closed => Ok(()),
                _ => Err(Error::Refused("connection closed before the stream began".into())),
            },
            ClientInput::Timeout if self.deadline().is_some_and(|deadline| deadline <= now) => {
                Err(Error::CommandTimeout)
            }
            ClientInput::Timeout => Ok(()),
            ClientInput::Command(command) => {
                self.on_command(command);
                Ok(())
            }
        };
        if outcome.is_err() {
            self.state = State::Closed;
        }
        outcome
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Output<ClientEvent> {
        let deadline = self.deadline();
        self.link.poll(deadline)
    }

    /// Nothing more will come once the output is drained.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// What passed through.
    pub fn stats(&self) -> Stats {
        self.link.stats
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Handshake { deadline, .. }
            | State::Connecting { deadline }
            | State::Creating { deadline }
            | State::Starting { deadline, .. } => Some(*deadline),
            State::Running { .. } | State::Closed => None,
        }
    }

    fn on_received(&mut self, now: Instant, mut input: &[u8]) -> Result<(), Error> {
        self.link.on_received(input.len());
        if let State::Handshake { handshake, .. } = &mut self.state {
            if !handshake.greet(&mut input, self.link.out())? {
                return Ok(());
            }
            self.state = State::Connecting { deadline: now + STEP_TIMEOUT };
            self.connect();
        }
        while !matches!(self.state, State::Closed) {
            let Some(message) = self.link.read(&mut input)? else { break };
            self.on_message(now, &message)?;
        }
        Ok(())
    }

    /// spec: RTMP 1.0 §7.2.1.1; Enhanced RTMP v2
    fn connect(&mut self) {
        let four_ccs = ["avc1", "hvc1", "av01", "vp09", "mp4a", "Opus"].map(Value::from).to_vec();
        let info = object([
            ("app", self.config.app.as_str().into()),
            ("type", "nonprivate".into()),
            ("flashVer", "FMLE/3.0 (compatible; Throughline)".into()),
            ("tcUrl", self.config.tc_url.as_str().into()),
            ("fourCcList", Value::StrictArray(four_ccs)),
            // spec: Enhanced RTMP v2, `capsEx`: reconnect
            ("capsEx", 1.0.into()),
        ]);
        self.link.announce();
        self.link.command(0, "connect", CONNECT, &[info]);
    }

    fn on_message(&mut self, now: Instant, message: &Message) -> Result<(), Error> {
        match message.type_id {
            type_id::COMMAND_AMF0 | type_id::COMMAND_AMF3 => {
                self.on_command_message(now, &CommandMessage::parse(message)?)
            }
            type_id::DATA_AMF0 | type_id::DATA_AMF3 => {
                let values = message::decode_data(message)?;
                if let Some(metadata) = Metadata::from_values(&values) {
                    self.link.push(ClientEvent::Metadata(metadata));
                } else if let State::Running { clock, .. } = &self.state
                    && let Some((time_nanos, info)) = FrameInfo::beside(&values, clock, message.timestamp)
                {
                    self.link.push(ClientEvent::Captured { time_nanos, info });
                }
                Ok(())
            }
            type_id::AUDIO | type_id::VIDEO => {
                let State::Running { clock, .. } = &mut self.state else { return Ok(()) };
                let time_nanos = clock.unroll(message.timestamp).saturating_mul(1_000_000);
                let link = &mut self.link;
                message::parse_media(message.type_id, &message.payload, |media| {
                    let time_nanos = time_nanos.saturating_add(media.nano_offset());
                    link.push(ClientEvent::Media { time_nanos, media });
                })
            }
            _ => Ok(()),
        }
    }

    fn on_command_message(&mut self, now: Instant, command: &CommandMessage) -> Result<(), Error> {
        let info = command.arguments.get(1);
        let text = |name: &str| info.and_then(|info| info.get(name)).and_then(Value::as_str).unwrap_or_default();
        let is_answer_to = |transaction: f64| (command.transaction - transaction).abs() < 0.5;
        match (command.name.as_str(), mem::replace(&mut self.state, State::Closed)) {
            // Servers refuse releaseStream and FCPublish and mean nothing by it.
            ("_error", _) if is_answer_to(CONNECT) || is_answer_to(CREATE_STREAM) || is_answer_to(START) => {
                return Err(Error::Refused(text("description").to_owned()));
            }
            ("onStatus", _) if text("level") == "error" => return Err(Error::Refused(text("description").to_owned())),
            ("_result", State::Connecting { .. }) if is_answer_to(CONNECT) => {
                if self.config.role == Role::Publish {
                    let name = self.config.name.expose().to_owned();
                    self.link.command(0, "releaseStream", 2.0, &[Value::Null, Value::String(name.clone())]);
                    self.link.command(0, "FCPublish", 3.0, &[Value::Null, Value::String(name)]);
                }
                self.link.command(0, "createStream", CREATE_STREAM, &[Value::Null]);
                self.state = State::Creating { deadline: now + STEP_TIMEOUT };
            }
            ("_result", State::Creating { .. }) if is_answer_to(CREATE_STREAM) => {
                let id = command.arguments.get(1).and_then(Value::as_u32);
                let stream_id = id.ok_or(Violation::Command("createStream answered without an id"))?;
                self.start(stream_id);
                self.state = State::Starting { stream_id, deadline: now + STEP_TIMEOUT };
            }
            ("onStatus", State::Starting { stream_id, .. })
                if matches!(text("code"), "NetStream.Publish.Start" | "NetStream.Play.Start") =>
            {
                self.link.allow_media();
                self.link.push(ClientEvent::Started);
                self.state = State::Running { stream_id, clock: Unroller::default() };
            }
            ("onStatus", state) if text("code") == "NetConnection.Connect.ReconnectRequest" => {
                let tc_url = Some(text("tcUrl")).filter(|url| !url.is_empty()).map(str::to_owned);
                self.link.push(ClientEvent::ReconnectRequested { tc_url });
                self.state = state;
            }
            ("onStatus", _) if text("code") == "NetStream.Play.UnpublishNotify" => {} // closed
            (_, state) => self.state = state,
        }
        Ok(())
    }

    fn start(&mut self, stream_id: u32) {
        let name = Value::String(self.config.name.expose().to_owned());
        match self.config.role {
            Role::Publish => self.link.command(stream_id, "publish", START, &[Value::Null, name, "live".into()]),
            Role::Play => self.link.command(stream_id, "play", START, &[Value::Null, name, (-2000.0).into()]),
        }
    }

    fn on_command(&mut self, command: ClientCommand) {
        let State::Running { stream_id, .. } = self.state else { return };
        match command {
            ClientCommand::SendMedia { track, timestamp_ms, body } => {
                self.link.media(track, stream_id, timestamp_ms, &[&body]);
            }
            ClientCommand::SendMetadata(metadata) => {
                let mut values = metadata.to_values();
                values.insert(0, "@setDataFrame".into());
                self.link.data(stream_id, 0, &values);
            }
            ClientCommand::SendFrameInfo { timestamp_ms, info } => {
                self.link.data(stream_id, timestamp_ms, &info.to_values());
            }
            ClientCommand::Close => {
                self.link.command(0, "deleteStream", 6.0, &[Value::Null, f64::from(stream_id).into()]);
                self.state = State::Closed;
            }
        }
    }
}
