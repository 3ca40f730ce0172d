//! The side that calls. spec: draft-sharabayko-srt-01 §4.3.1

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::RejectCode;
use crate::connection::{Agreed, Connection, LATENCY_MAX, Settings, timestamp};
use crate::crypto::Keys;
use crate::handshake::{Abilities, Handshake, Kind, MAGIC, Membership, VERSION, flags};
use crate::packet::{self, Control, Packet, Seq};
use crate::stream_id;

/// Until a handshake is sent again.
const REPEAT: Duration = Duration::from_millis(250);

/// How to call.
#[derive(Clone, Debug)]
pub struct CallerConfig {
    /// The connection.
    pub settings: Settings,
    /// Tells the listener what is wanted; at most 512 bytes.
    pub stream_id: Option<String>,
    /// Most time until it stands. SRT-03
    pub timeout: Duration,
    /// The group that the connection is to belong to. SRT-07
    pub group: Option<Membership>,
}

impl Default for CallerConfig {
    fn default() -> Self {
        Self { settings: Settings::default(), stream_id: None, timeout: Duration::from_secs(3), group: None }
    }
}

/// How far it is.
#[derive(Debug)]
pub enum Progress {
    /// Send this to the listener.
    Send(Bytes),
    /// It stands.
    Connected(Box<Connection>),
    /// The listener said no.
    Refused(RejectCode),
    /// No answer in time, or none that is SRT 1.3 or newer.
    Failed(&'static str),
    /// Nothing until then.
    Wait(Instant),
}

enum State {
    Induction,
    Conclusion(Box<Handshake>),
    Done,
}

/// A call that is being made.
pub struct Caller {
    config: CallerConfig,
    id: u32,
    seq: Seq,
    began: Instant,
    /// Our clock's 0.
    epoch: Instant,
    repeat_at: Instant,
    state: State,
    /// The keys of both directions, and the message that tells them.
    keys: Option<MadeKeys>,
    out: VecDeque<Progress>,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Caller {
    /// `id` and `initial_seq` are random; `id` is not 0. The links of a group have the same `initial_seq`.
    ///
    /// # Errors
    /// In words: the stream identifier is too long, or there is no randomness.
    pub fn new(now: Instant, config: CallerConfig, id: u32, initial_seq: u32) -> Result<Self, &'static str> {
        if config.stream_id.as_ref().is_some_and(|text| text.len() > stream_id::BYTES_MAX) {
            return Err("a stream identifier has at most 512 bytes");
        }
        let keys = made_keys(&config.settings)?;
        let mut caller = Self {
            config,
            id,
            seq: Seq::new(initial_seq),
            began: now,
            epoch: now,
            repeat_at: now,
            state: State::Induction,
            keys,
            out: VecDeque::new(),
        };
        caller.handle_timeout(now);
        Ok(caller)
    }

    /// For a link of a group, whose links have one clock: since when it runs.
    #[must_use]
    pub fn with_epoch(mut self, epoch: Instant) -> Self {
        self.epoch = epoch;
        self
    }

    /// The number that the listener puts on its packets.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Repeats what was not answered.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.repeat_at {
            return;
        }
        if now >= self.began + self.config.timeout {
            return self.finish(Progress::Failed("the server did not answer in time"));
        }
        self.repeat_at = now + REPEAT;
        let handshake = match &self.state {
            State::Induction => {
                let mut first = Handshake::new(Kind::Induction, self.id, self.seq);
                (first.version, first.extension) = (4, 2); // as every version before 1.3 began
                first
            }
            State::Conclusion(handshake) => (**handshake).clone(),
            State::Done => return,
        };
        self.out.push_back(Progress::Send(packet::handshake(&handshake.write(), timestamp(self.epoch, now), 0)));
    }

    fn finish(&mut self, how: Progress) {
        if !matches!(self.state, State::Done) {
            self.state = State::Done;
            self.out.push_back(how);
        }
    }

    /// Takes a datagram from the listener's address.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        let Ok(Packet::Control { body: Control::Handshake(body), timestamp }) = packet::parse(datagram) else { return };
        let Ok(answer) = Handshake::parse(body) else { return };
        match (&self.state, answer.kind) {
            (State::Induction | State::Conclusion(_), Kind::Refused(code)) => self.finish(Progress::Refused(code)),
            (State::Induction, Kind::Induction) => {
                if answer.version < 5 || answer.extension != MAGIC {
                    return self.finish(Progress::Failed("the server speaks no SRT 1.3 or newer"));
                }
                let conclusion = conclusion(&self.config, self.keys.as_ref(), self.id, self.seq);
                let conclusion = Handshake { cookie: answer.cookie, ..conclusion };
                self.state = State::Conclusion(Box::new(conclusion));
                self.repeat_at = now;
                self.handle_timeout(now);
            }
            (State::Conclusion(_), Kind::Conclusion) => self.conclude(now, &answer, timestamp),
            _ => {}
        }
    }

    fn conclude(&mut self, now: Instant, answer: &Handshake, timestamp: u32) {
        let Some(response) = answer.response else {
            return self.finish(Progress::Failed("the server's answer lacks its abilities"));
        };
        // A server that cannot read the key answers with a status of four bytes.
        let has_key = answer.key_response.as_ref().is_some_and(|material| material.len() > 4);
        if has_key != self.keys.is_some() {
            return self.finish(Progress::Refused(RejectCode::BAD_SECRET));
        }
        if self.config.group.is_some() && answer.group.is_none() {
            return self.finish(Progress::Failed("the server knows no groups"));
        }
        let (send_keys, receive_keys) = self.keys.take().map(|(send, receive, _)| (send, receive)).unzip();
        let wish = self.config.settings.latency;
        let agreed = Agreed {
            own_id: self.id,
            peer_id: answer.socket_id,
            first_seq: self.seq,
            send_seq: self.seq,
            receive_latency: wish.max(Duration::from_millis(response.sender_latency.into())).min(LATENCY_MAX),
            send_latency: wish.max(Duration::from_millis(response.receiver_latency.into())).min(LATENCY_MAX),
            timestamp,
            send_keys,
            receive_keys,
            answer: None,
            epoch: self.epoch,
            peer_group: answer.group.map(|group| group.id),
        };
        let connection = Connection::new(now, self.config.settings.clone(), agreed);
        self.finish(Progress::Connected(Box::new(connection)));
    }

    /// What to do next.
    pub fn poll(&mut self) -> Progress {
        self.out.pop_front().unwrap_or(Progress::Wait(self.repeat_at))
    }
}

/// Keys of both directions, and the message that tells them.
pub(crate) type MadeKeys = (Keys, Keys, Bytes);

/// New keys, where there is a passphrase.
pub(crate) fn made_keys(settings: &Settings) -> Result<Option<MadeKeys>, &'static str> {
    let Some(passphrase) = &settings.passphrase else { return Ok(None) };
    let made = Keys::generate(settings.cipher, settings.key_length).and_then(|keys| {
        let (copy, material) = (keys.copy()?, keys.material(passphrase)?);
        Some((keys, copy, material))
    });
    made.map(Some).ok_or("there is no randomness")
}

/// What is asked for.
pub(crate) fn conclusion(config: &CallerConfig, keys: Option<&MadeKeys>, id: u32, seq: Seq) -> Handshake {
    let latency = u16::try_from(config.settings.latency.as_millis()).unwrap_or(u16::MAX);
    let request =
        Abilities { version: VERSION, flags: flags::LIVE, receiver_latency: latency, sender_latency: latency };
    Handshake {
        request: Some(request),
        key_length: keys.map(|(keys, ..)| keys.length()),
        key_request: keys.map(|(.., material)| material.clone()),
        group: config.group,
        stream_id: config.stream_id.clone(),
        ..Handshake::new(Kind::Conclusion, id, seq)
    }
}
