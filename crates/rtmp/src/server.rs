//! The server's side of a session: somebody connects and publishes or plays.

use std::mem;
use std::time::{Duration, Instant};

use container::flv;
use media::{AccessUnit, CodecConfig};

use crate::amf0::{Value, object};
use crate::chunk::Message;
use crate::handshake::Handshake;
use crate::link::{Link, Output, Stats};
use crate::message::{self, CommandMessage, FrameInfo, Media, Metadata, Unroller, type_id};
use crate::{Error, Violation};

/// Time for C0 to C2. spec: RTMP 1.0 §5.2 sets none
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the peer to close after it ended its stream.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time from the handshake to a publish or play.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes behind a publish or play before the application has decided.
const EARLY_BYTES_MAX: usize = 1 << 20;
/// Most message streams of one connection.
const MESSAGE_STREAMS_MAX: u32 = 8;
/// A message of audio or video that is not longer says nothing: some encoders send them for a track that is silent.
const EMPTY_MEDIA_BYTES: usize = 2;
/// Codecs that are taken and given. spec: Enhanced RTMP v2, `fourCcList`
const FOUR_CCS: [&str; 6] = ["avc1", "hvc1", "av01", "vp09", "mp4a", "Opus"];
/// spec: Enhanced RTMP v2, `capsEx`: reconnect, multitrack, ModEx, nanosecond offset
const CAPS_EX: f64 = 1.0 + 2.0 + 4.0 + 8.0;
/// spec: Enhanced RTMP v2, info maps: can decode (1: we package it) and forward (4)
const CAN_DECODE_AND_FORWARD: f64 = 5.0;

/// Settings of a server session.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The application name that is served, the first component of the path.
    pub app: Box<str>,
    /// Time from an accepted publish to the first audio or video.
    pub first_media_timeout: Duration,
    /// Longest silence of a publisher after that.
    pub media_timeout: Duration,
    /// Fresh randomness for the handshake.
    pub nonce: [u8; 32],
}

impl Default for ServerConfig {
    fn default() -> Self {
        let (first_media_timeout, media_timeout) = (Duration::from_secs(10), Duration::from_secs(5));
        Self { app: "live".into(), first_media_timeout, media_timeout, nonce: [0; 32] }
    }
}

/// What the owner of the socket tells the session.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes from the peer.
    Received(&'a [u8]),
    /// The peer closed its side.
    Eof,
    /// The deadline asked for has passed.
    Timeout,
    /// The application decides.
    Command(Command),
}

/// What the application decides.
#[derive(Debug)]
pub enum Command {
    /// Let the pending publish or play begin.
    Accept,
    /// Refuse the pending publish or play.
    Reject(Rejection),
    /// To a player: what a decoder needs from here on.
    SendConfig(CodecConfig),
    /// To a player: one access unit, with the configuration of its track.
    SendUnit(CodecConfig, AccessUnit),
    /// To a publisher that knows the request: connect anew, to this address or the same one; this session goes on meanwhile.
    /// spec: Enhanced RTMP v2, reconnect request
    Reconnect {
        /// Where to, if not where it is.
        tc_url: Option<String>,
        /// Why, for people.
        description: String,
    },
    /// End the session and say why.
    Close(String),
}

/// Why a publish or play is refused; the text is shown by encoders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// No key, or a wrong one.
    Unauthorized(String),
    /// Somebody else publishes, or the name is not valid.
    BadName(String),
    /// To a player: there is no such stream now.
    NotFound(String),
    /// To a player: no key, or a wrong one.
    PlayUnauthorized(String),
}

impl Rejection {
    /// The `code` of the status object. spec: RTMP 1.0 §7.2.2; clients treat any status of level `error` as final
    fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "NetStream.Publish.Denied",
            Self::BadName(_) => "NetStream.Publish.BadName",
            Self::NotFound(_) => "NetStream.Play.StreamNotFound",
            Self::PlayUnauthorized(_) => "NetStream.Play.Failed",
        }
    }

    /// The text.
    pub fn description(&self) -> &str {
        match self {
            Self::Unauthorized(text) | Self::BadName(text) | Self::NotFound(text) | Self::PlayUnauthorized(text) => {
                text
            }
        }
    }
}

/// What the session tells the application.
#[derive(Debug)]
pub enum Event {
    /// The peer wants to publish; answer with [`Command::Accept`] or [`Command::Reject`].
    PublishRequested {
        /// What follows the application in the path: `rtmp://host/live/{here}`; often empty.
        path: Box<str>,
        /// What the encoder calls stream key, query included. It holds a secret.
        name: media::StreamKey,
    },
    /// The peer wants to play; answer as above.
    PlayRequested {
        /// As in `PublishRequested`.
        path: Box<str>,
        /// The stream's name, query included. It may hold a secret.
        name: media::StreamKey,
    },
    /// The publisher described its stream.
    Metadata(Metadata),
    /// The publisher says when a picture was captured.
    Captured {
        /// Decode time of the picture, as that of media.
        time_nanos: i64,
        /// When.
        info: FrameInfo,
    },
    /// Audio or video of one track.
    Media {
        /// Decode time in nanoseconds: 32-bit milliseconds unrolled, plus a nanosecond offset.
        time_nanos: i64,
        /// The packet.
        media: Media,
    },
    /// Audio or video that ends in the middle of its header.
    Damaged,
    /// The publisher ended its stream properly.
    PublishEnded,
}

/// The state machine.
///
/// ```text
/// Handshake ──C2──▶ Connecting ──connect──▶ Connected ──publish──▶ PublishPending ──accept──▶ Publishing
///                                               └──────play──────▶ PlayPending ────accept──▶ Playing
/// Publishing, Playing ──deleteStream──▶ Ended
/// any ──error, eof, close, timeout──▶ Closed
/// ```
#[derive(Debug)]
enum State {
    Handshake { handshake: Handshake, deadline: Instant },
    Connecting { deadline: Instant },
    Connected { path: Box<str>, deadline: Instant },
    PublishPending { path: Box<str>, stream_id: u32 },
    PlayPending { stream_id: u32 },
    Publishing { stream_id: u32, clock: Unroller, deadline: Instant, seen_media: bool },
    Playing { stream_id: u32, origin_nanos: Option<i64> },
    Ended { deadline: Instant },
    Closed,
}

/// One connection, as the server sees it.
#[derive(Debug)]
pub struct ServerSession {
    config: ServerConfig,
    state: State,
    link: Link<Event>,
    message_streams: u32,
    /// Bytes that came while the application had not decided yet.
    early: Vec<u8>,
    /// The peer knows what a request to reconnect is.
    takes_reconnect: bool,
}

impl ServerSession {
    /// A session whose connection was accepted at `now`.
    pub fn new(now: Instant, config: ServerConfig) -> Self {
        let handshake = Handshake::new(config.nonce);
        let state = State::Handshake { handshake, deadline: now + HANDSHAKE_TIMEOUT };
        Self { config, state, link: Link::new(), message_streams: 0, early: Vec::new(), takes_reconnect: false }
    }

    /// Advances the session. After an error it is closed and stays so; drain its output, so that the peer is told why.
    ///
    /// # Errors
    /// The peer broke the protocol, was too slow, or sends what is not carried.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) -> Result<(), Error> {
        match input {
            Input::Received(bytes) => {
                self.link.on_received(bytes.len());
                self.take(now, bytes)
            }
            Input::Eof => self.on_eof(),
            Input::Timeout => self.on_timeout(now),
            Input::Command(command) => {
                self.on_command(now, command);
                let early = mem::take(&mut self.early);
                if early.is_empty() { Ok(()) } else { self.take(now, &early) }
            }
        }
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Output<Event> {
        let deadline = match &self.state {
            State::Handshake { deadline, .. }
            | State::Connecting { deadline }
            | State::Connected { deadline, .. }
            | State::Publishing { deadline, .. }
            | State::Ended { deadline } => Some(*deadline),
            State::PublishPending { .. } | State::PlayPending { .. } | State::Playing { .. } | State::Closed => None,
        };
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

    fn take(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Error> {
        let outcome = self.on_received(now, bytes);
        if let Err(error) = &outcome {
            self.say_goodbye(&error.to_string());
        }
        outcome
    }

    fn on_received(&mut self, now: Instant, mut input: &[u8]) -> Result<(), Error> {
        if let State::Handshake { handshake, .. } = &mut self.state {
            let outcome = handshake.serve(&mut input, self.link.out());
            match outcome {
                Ok(false) => return Ok(()),
                Ok(true) => self.state = State::Connecting { deadline: now + COMMAND_TIMEOUT },
                Err(violation) => {
                    self.state = State::Closed; // not RTMP: there is nobody to explain it to
                    return Err(violation.into());
                }
            }
        }
        while !matches!(self.state, State::Closed) {
            if matches!(self.state, State::PublishPending { .. } | State::PlayPending { .. }) {
                // Encoders that do not wait for the verdict: what they sent is read after it.
                if self.early.len() + input.len() > EARLY_BYTES_MAX {
                    return Err(Violation::Command("publish, with too much behind it before the answer").into());
                }
                self.early.extend_from_slice(input);
                break;
            }
            let Some(message) = self.link.read(&mut input)? else { break };
            self.on_message(now, &message)?;
        }
        Ok(())
    }

    fn on_eof(&mut self) -> Result<(), Error> {
        match mem::replace(&mut self.state, State::Closed) {
            State::Handshake { .. } => Err(Violation::HandshakeEof.into()),
            _ => Ok(()),
        }
    }

    fn on_timeout(&mut self, now: Instant) -> Result<(), Error> {
        let error = match &self.state {
            State::Ended { deadline } if *deadline <= now => {
                self.state = State::Closed;
                return Ok(());
            }
            State::Handshake { deadline, .. } if *deadline <= now => Error::HandshakeTimeout,
            State::Connecting { deadline } | State::Connected { deadline, .. } if *deadline <= now => {
                Error::CommandTimeout
            }
            State::Publishing { deadline, seen_media: false, .. } if *deadline <= now => {
                Error::FirstMediaTimeout(self.config.first_media_timeout.as_secs())
            }
            State::Publishing { deadline, .. } if *deadline <= now => {
                Error::MediaTimeout(self.config.media_timeout.as_secs())
            }
            _ => return Ok(()),
        };
        self.say_goodbye(&error.to_string());
        Err(error)
    }

    fn on_message(&mut self, now: Instant, message: &Message) -> Result<(), Error> {
        match message.type_id {
            type_id::COMMAND_AMF0 | type_id::COMMAND_AMF3 => {
                let command = CommandMessage::parse(message)?;
                self.on_command_message(now, message.stream_id, &command)
            }
            type_id::DATA_AMF0 | type_id::DATA_AMF3 => {
                // A damaged description harms nobody. ERTMP-05
                if let State::Publishing { clock, .. } = &self.state
                    && let Ok(values) = message::decode_data(message)
                {
                    if let Some(metadata) = Metadata::from_values(&values) {
                        self.link.push(Event::Metadata(metadata));
                    } else if let Some((time_nanos, info)) = FrameInfo::beside(&values, clock, message.timestamp) {
                        self.link.push(Event::Captured { time_nanos, info });
                    }
                }
                Ok(())
            }
            type_id::AUDIO | type_id::VIDEO => self.on_media(now, message),
            type_id::AGGREGATE if matches!(self.state, State::Publishing { .. }) => message::split_aggregate(message)
                .iter()
                .filter(|part| matches!(part.type_id, type_id::AUDIO | type_id::VIDEO))
                .try_for_each(|part| self.on_media(now, part)),
            _ => Ok(()), // shared objects and what later versions add
        }
    }

    fn on_media(&mut self, now: Instant, message: &Message) -> Result<(), Error> {
        let State::Publishing { clock, deadline, seen_media, .. } = &mut self.state else { return Ok(()) };
        if message.payload.len() > EMPTY_MEDIA_BYTES {
            *deadline = now + self.config.media_timeout;
            *seen_media = true;
        }
        let time_nanos = clock.unroll(message.timestamp).saturating_mul(1_000_000);
        let link = &mut self.link;
        let outcome = message::parse_media(message.type_id, &message.payload, |media| {
            let time_nanos = time_nanos.saturating_add(media.nano_offset());
            link.push(Event::Media { time_nanos, media });
        });
        match outcome {
            Err(Error::Unsupported(flv::Error::Truncated)) => {
                self.link.push(Event::Damaged);
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn on_command_message(&mut self, now: Instant, stream_id: u32, command: &CommandMessage) -> Result<(), Error> {
        match (command.name.as_str(), &self.state) {
            ("connect", State::Connecting { .. }) => self.on_connect(now, command)?,
            (_, State::Connecting { .. }) => return Err(Violation::Command("before connect").into()),
            ("createStream", _) => {
                self.message_streams += 1;
                if self.message_streams > MESSAGE_STREAMS_MAX {
                    return Err(Violation::Command("createStream more often than is allowed").into());
                }
                let id = f64::from(self.message_streams).into();
                self.link.command(0, "_result", command.transaction, &[Value::Null, id]);
            }
            ("releaseStream", _) => {
                self.link.command(0, "_result", command.transaction, &[Value::Null, Value::Null]);
            }
            ("FCPublish", _) => {
                let status = status("status", "NetStream.Publish.Start", "");
                self.link.command(0, "onFCPublish", 0.0, &[Value::Null, status]);
                self.link.command(0, "_result", command.transaction, &[Value::Null, Value::Null]);
            }
            ("getStreamLength", _) => {
                self.link.command(0, "_result", command.transaction, &[Value::Null, 0.0.into()]);
            }
            ("publish", State::Connected { .. }) => self.on_publish(stream_id, command)?,
            ("play", State::Connected { .. }) => self.on_play(stream_id, command)?,
            ("publish" | "play", _) => return Err(Violation::Command("publish or play twice").into()),
            ("FCUnpublish" | "deleteStream" | "closeStream", State::Publishing { .. } | State::Playing { .. }) => {
                if matches!(self.state, State::Publishing { .. }) {
                    self.link.push(Event::PublishEnded);
                    self.status(stream_id, status("status", "NetStream.Unpublish.Success", "the stream has ended"));
                }
                // The peer closes: some call it an error when the server is faster.
                self.state = State::Ended { deadline: now + GOODBYE_TIMEOUT };
            }
            _ => {} // _checkbw, onStatus and other things that need no answer
        }
        Ok(())
    }

    /// spec: RTMP 1.0 §7.2.1.1; Enhanced RTMP v2 (ERTMP-02)
    fn on_connect(&mut self, now: Instant, command: &CommandMessage) -> Result<(), Error> {
        let info = command.arguments.first().ok_or(Violation::Command("connect without an object"))?;
        let whole = info.get("app").and_then(Value::as_str).unwrap_or_default();
        let path = whole.split('?').next().unwrap_or_default().trim_matches('/');
        let (app, rest) = path.split_once('/').unwrap_or((path, ""));
        self.link.announce();
        self.takes_reconnect = info.get("capsEx").and_then(Value::as_u32).is_some_and(|caps| caps & 1 != 0);
        if app != &*self.config.app {
            let error = Error::UnknownApp { got: app.into(), ours: self.config.app.clone() };
            let status = status("error", "NetConnection.Connect.Rejected", &error.to_string());
            self.link.command(0, "_error", command.transaction, &[Value::Null, status]);
            self.state = State::Closed; // it has been told
            return Err(error);
        }
        let properties =
            object([("fmsVer", "FMS/3,5,7,7009".into()), ("capabilities", 31.0.into()), ("mode", 1.0.into())]);
        let mut answer = status("status", "NetConnection.Connect.Success", "connected");
        if let Value::Object(fields) = &mut answer {
            fields.push(("objectEncoding".into(), 0.0.into())); // AMF 0, whatever was offered
            if ["fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap", "capsEx"]
                .iter()
                .any(|name| info.get(name).is_some())
            {
                let (video, audio) = FOUR_CCS.split_at(4);
                let map = |names: &[&str]| {
                    Value::Object(names.iter().map(|name| ((*name).into(), CAN_DECODE_AND_FORWARD.into())).collect())
                };
                fields.push(("fourCcList".into(), Value::StrictArray(FOUR_CCS.map(Value::from).to_vec())));
                fields.push(("videoFourCcInfoMap".into(), map(video)));
                fields.push(("audioFourCcInfoMap".into(), map(audio)));
                fields.push(("capsEx".into(), CAPS_EX.into()));
            }
        }
        self.link.command(0, "_result", command.transaction, &[properties, answer]);
        self.state = State::Connected { path: rest.into(), deadline: now + COMMAND_TIMEOUT };
        Ok(())
    }

    fn on_publish(&mut self, stream_id: u32, command: &CommandMessage) -> Result<(), Error> {
        let name = command.text(1).ok_or(Violation::Command("publish without a name"))?;
        let State::Connected { path, .. } = mem::replace(&mut self.state, State::Closed) else { return Ok(()) };
        self.link.push(Event::PublishRequested { path: path.clone(), name: media::StreamKey::new(name) });
        self.state = State::PublishPending { path, stream_id };
        Ok(())
    }

    fn on_play(&mut self, stream_id: u32, command: &CommandMessage) -> Result<(), Error> {
        let name = command.text(1).ok_or(Violation::Command("play without a name"))?;
        let State::Connected { path, .. } = mem::replace(&mut self.state, State::Closed) else { return Ok(()) };
        self.link.push(Event::PlayRequested { path, name: media::StreamKey::new(name) });
        self.state = State::PlayPending { stream_id };
        Ok(())
    }

    fn on_command(&mut self, now: Instant, command: Command) {
        self.state = match (mem::replace(&mut self.state, State::Closed), command) {
            (State::PublishPending { path, stream_id }, Command::Accept) => {
                self.link.user_control(0, stream_id); // stream begin. spec: RTMP 1.0 §7.1.7
                let text = if path.is_empty() { "publishing".into() } else { format!("publishing to {path}") };
                self.status(stream_id, status("status", "NetStream.Publish.Start", &text));
                let deadline = now + self.config.first_media_timeout;
                self.link.allow_media();
                State::Publishing { stream_id, clock: Unroller::default(), deadline, seen_media: false }
            }
            (State::PlayPending { stream_id, .. }, Command::Accept) => {
                self.link.user_control(0, stream_id);
                self.status(stream_id, status("status", "NetStream.Play.Reset", "playing"));
                self.status(stream_id, status("status", "NetStream.Play.Start", "playing"));
                State::Playing { stream_id, origin_nanos: None }
            }
            (
                State::PublishPending { stream_id, .. } | State::PlayPending { stream_id, .. },
                Command::Reject(rejection),
            ) => {
                self.status(stream_id, status("error", rejection.code(), rejection.description()));
                State::Closed
            }
            (State::Playing { stream_id, origin_nanos }, Command::SendConfig(config)) => {
                self.link.media(config.kind(), stream_id, 0, &[&flv::config_body(&config)]);
                State::Playing { stream_id, origin_nanos }
            }
            (State::Playing { stream_id, mut origin_nanos }, Command::SendUnit(config, unit)) => {
                self.send_unit(stream_id, &mut origin_nanos, &config, &unit);
                State::Playing { stream_id, origin_nanos }
            }
            (state @ State::Publishing { .. }, Command::Reconnect { tc_url, description }) => {
                if self.takes_reconnect {
                    self.link.command(
                        0,
                        "onStatus",
                        0.0,
                        &[Value::Null, reconnect_request(tc_url.as_deref(), &description)],
                    );
                }
                state
            }
            (state, Command::Close(text)) => {
                self.state = state;
                self.say_goodbye(&text);
                State::Closed
            }
            // A verdict or media that comes too late, after the peer has moved on.
            (
                state,
                Command::Accept
                | Command::Reject(_)
                | Command::SendConfig(_)
                | Command::SendUnit(..)
                | Command::Reconnect { .. },
            ) => state,
        };
    }

    /// spec: RTMP 1.0 §7.1.4, §7.1.5; times start at 0 with the first unit
    fn send_unit(&mut self, stream_id: u32, origin: &mut Option<i64>, config: &CodecConfig, unit: &AccessUnit) {
        let scale = config.timescale();
        let nanos = scale.nanos(unit.dts.0);
        let first = *origin.get_or_insert(nanos);
        let millis = nanos.saturating_sub(first).max(0) / 1_000_000;
        let timestamp = u32::try_from(millis & 0xffff_ffff).unwrap_or(0);
        let offset = i32::try_from(scale.nanos(unit.composition_offset().0) / 1_000_000).unwrap_or(0);
        let prefix = flv::unit_header(config, unit.is_random_access, offset);
        let slices: Vec<&[u8]> = std::iter::once(&prefix).chain(unit.payload.slices()).map(AsRef::as_ref).collect();
        self.link.media(unit.track, stream_id, timestamp, &slices);
    }

    /// Sends `onMetaData` to a player; call it after the play was accepted.
    pub fn send_metadata(&mut self, metadata: &Metadata) {
        let State::Playing { stream_id, .. } = self.state else { return };
        self.link.data(stream_id, 0, &metadata.to_values());
    }

    fn status(&mut self, stream_id: u32, status: Value) {
        self.link.command(stream_id, "onStatus", 0.0, &[Value::Null, status]);
    }

    /// Tells the peer why, in the form that fits the state, and closes.
    fn say_goodbye(&mut self, text: &str) {
        match mem::replace(&mut self.state, State::Closed) {
            State::Publishing { stream_id, .. } | State::PublishPending { stream_id, .. } => {
                self.status(stream_id, status("error", "NetStream.Publish.Failed", text));
            }
            State::Playing { stream_id, .. } | State::PlayPending { stream_id, .. } => {
                self.status(stream_id, status("status", "NetStream.Play.UnpublishNotify", text));
            }
            State::Connected { .. } | State::Connecting { .. } => {
                self.status(0, status("error", "NetConnection.Connect.Closed", text));
            }
            State::Handshake { .. } | State::Ended { .. } | State::Closed => {}
        }
    }
}

/// spec: Enhanced RTMP v2, reconnect request
fn reconnect_request(tc_url: Option<&str>, description: &str) -> Value {
    let mut request = status("status", "NetConnection.Connect.ReconnectRequest", description);
    if let (Value::Object(fields), Some(tc_url)) = (&mut request, tc_url) {
        fields.push(("tcUrl".into(), tc_url.into()));
    }
    request
}

/// An information object. spec: RTMP 1.0 §7.2.2
fn status(level: &str, code: &str, description: &str) -> Value {
    object([("level", level.into()), ("code", code.into()), ("description", description.into())])
}

#[cfg(test)]
mod tests;
