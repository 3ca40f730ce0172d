//! Two ends that call each other at the same time, through firewalls that only let answers in.
//! spec: draft-sharabayko-srt-01 §4.3.2

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::caller::{CallerConfig, MadeKeys, Progress, conclusion, made_keys};
use crate::connection::{Agreed, Connection, LATENCY_MAX, timestamp};
use crate::handshake::{Handshake, Kind};
use crate::listener::{Incoming, Request};
use crate::packet::{self, Control, Packet, Seq};
use crate::{RejectCode, stream_id};

/// Until a handshake is sent again.
const REPEAT: Duration = Duration::from_millis(250);

/// What comes out of turn is answered no sooner than this after the last.
const ANSWER_PAUSE: Duration = Duration::from_millis(20);

/// What this end does, once both cookies are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Asks, as a caller does.
    Initiator,
    /// Answers, as a listener does.
    Responder,
}

/// A call that both ends make.
pub struct Rendezvous {
    config: CallerConfig,
    id: u32,
    seq: Seq,
    cookie: u32,
    began: Instant,
    repeat_at: Instant,
    /// What this end does, the number of the peer's socket, and its cookie.
    known: Option<(Role, u32, u32)>,
    sent_at: Instant,
    is_done: bool,
    /// Of this end, if it asks.
    keys: Option<MadeKeys>,
    out: VecDeque<Progress>,
}

impl std::fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rendezvous").field("id", &self.id).field("known", &self.known).finish_non_exhaustive()
    }
}

impl Rendezvous {
    /// `id`, `initial_seq` and `cookie` are random; `id` and `cookie` are not 0. The time for it is ten times that of a
    /// caller, as with libsrt: nobody starts at the same moment.
    ///
    /// # Errors
    /// In words: the stream identifier is too long, or there is no randomness.
    pub fn new(
        now: Instant,
        config: CallerConfig,
        id: u32,
        initial_seq: u32,
        cookie: u32,
    ) -> Result<Self, &'static str> {
        if config.stream_id.as_ref().is_some_and(|text| text.len() > stream_id::BYTES_MAX) {
            return Err("a stream identifier has at most 512 bytes");
        }
        let keys = made_keys(&config.settings)?;
        let mut rendezvous = Self {
            config,
            id,
            seq: Seq::new(initial_seq),
            cookie: cookie.max(1),
            began: now,
            repeat_at: now,
            known: None,
            sent_at: now,
            is_done: false,
            keys,
            out: VecDeque::new(),
        };
        rendezvous.handle_timeout(now);
        Ok(rendezvous)
    }

    /// Repeats what was not answered.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_done || now < self.repeat_at {
            return;
        }
        if now >= self.began + 10 * self.config.timeout {
            return self.finish(Progress::Failed("the other end did not answer in time"));
        }
        (self.repeat_at, self.sent_at) = (now + REPEAT, now);
        let (handshake, to) = match self.known {
            None => (Handshake::new(Kind::Wave, self.id, self.seq), 0),
            Some((Role::Responder, peer, _)) => (Handshake::new(Kind::Conclusion, self.id, self.seq), peer),
            Some((Role::Initiator, peer, _)) => (conclusion(&self.config, self.keys.as_ref(), self.id, self.seq), peer),
        };
        let handshake = Handshake { cookie: self.cookie, ..handshake };
        let datagram = packet::handshake(&handshake.write(), timestamp(self.began, now), to);
        self.out.push_back(Progress::Send(datagram));
    }

    fn finish(&mut self, how: Progress) {
        if !std::mem::replace(&mut self.is_done, true) {
            self.out.push_back(how);
        }
    }

    /// Takes a datagram from the peer's address.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        let Ok(Packet::Control { body: Control::Handshake(body), timestamp }) = packet::parse(datagram) else { return };
        let Ok(theirs) = Handshake::parse(body) else { return };
        if self.is_done || theirs.version < 5 || theirs.cookie == 0 {
            return;
        }
        if let Kind::Refused(code) = theirs.kind {
            return self.finish(Progress::Refused(code));
        }
        // The larger cookie asks; libsrt compares the difference in 32 bits. A peer that calls anew has another.
        let role = match (self.known, self.cookie.wrapping_sub(theirs.cookie)) {
            (Some((role, id, cookie)), _) if (id, cookie) == (theirs.socket_id, theirs.cookie) => role,
            (_, 0) => return self.finish(Progress::Failed("both ends have the same cookie: call again")),
            (_, 1..=0x7fff_ffff) => Role::Initiator,
            _ => Role::Responder,
        };
        self.known = Some((role, theirs.socket_id, theirs.cookie));
        match (role, theirs.kind) {
            (Role::Initiator, Kind::Conclusion) if theirs.response.is_some() => self.conclude(now, &theirs, timestamp),
            (Role::Responder, Kind::Conclusion) if theirs.request.is_some() => self.accept(now, theirs, timestamp),
            (_, Kind::Wave | Kind::Conclusion) => {
                self.repeat_at = self.repeat_at.min(self.sent_at + ANSWER_PAUSE);
                self.handle_timeout(now);
            }
            (_, Kind::Induction | Kind::Agreement | Kind::Refused(_)) => {}
        }
    }

    /// The answer to what this end asked.
    fn conclude(&mut self, now: Instant, theirs: &Handshake, timestamp: u32) {
        let Some(response) = theirs.response else { return };
        let has_key = theirs.key_response.as_ref().is_some_and(|material| material.len() > 4);
        if has_key != self.keys.is_some() {
            return self.finish(Progress::Refused(RejectCode::BAD_SECRET));
        }
        let (send_keys, receive_keys) = self.keys.take().map(|(send, receive, _)| (send, receive)).unzip();
        let wish = self.config.settings.latency;
        let latency = |millis: u16| wish.max(Duration::from_millis(millis.into())).min(LATENCY_MAX);
        let agreement = Handshake { cookie: self.cookie, ..Handshake::new(Kind::Agreement, self.id, self.seq) };
        let agreed = Agreed {
            own_id: self.id,
            peer_id: theirs.socket_id,
            first_seq: theirs.initial_seq,
            send_seq: self.seq,
            receive_latency: latency(response.sender_latency),
            send_latency: latency(response.receiver_latency),
            timestamp,
            send_keys,
            receive_keys,
            answer: Some(agreement.write()),
            epoch: self.began,
            peer_group: None,
        };
        let mut connection = Connection::new(now, self.config.settings.clone(), agreed);
        connection.answer_handshake(now);
        self.finish(Progress::Connected(Box::new(connection)));
    }

    /// What the other end asks.
    fn accept(&mut self, now: Instant, theirs: Handshake, timestamp: u32) {
        let request = match Request::check(theirs, timestamp) {
            Incoming::Request(request) => request,
            Incoming::Refused(code, datagram) => {
                self.out.push_back(Progress::Send(datagram));
                return self.finish(Progress::Refused(code));
            }
            Incoming::Reply(_) | Incoming::Ignored => return,
        };
        let own = (self.seq, self.cookie, self.began);
        match request.answer(now, self.id, None, self.config.settings.clone(), Some(own)) {
            Ok(connection) => self.finish(Progress::Connected(Box::new(connection))),
            Err((code, datagram)) => {
                self.out.push_back(Progress::Send(datagram));
                self.finish(Progress::Refused(code));
            }
        }
    }

    /// What to do next.
    pub fn poll(&mut self) -> Progress {
        self.out.pop_front().unwrap_or(Progress::Wait(self.repeat_at))
    }
}
