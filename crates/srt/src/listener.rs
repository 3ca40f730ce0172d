//! The side that is called. spec: draft-sharabayko-srt-01 §4.3.1.1

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use bytes::Bytes;

use crate::RejectCode;
use crate::connection::{Agreed, Connection, LATENCY_MAX_MS, Settings};
use crate::crypto::{Cipher, Keys, MaterialError};
use crate::group::{GROUP_BIT, GroupKind};
use crate::handshake::{Abilities, Handshake, Kind, MAGIC, Membership, VERSION, VERSION_GCM, VERSION_MIN, flags};
use crate::packet::{self, Control, Packet, Seq, word};

/// A cookie is good for so long, and once more.
const COOKIE_PERIOD: Duration = Duration::from_mins(1);

/// Answers handshakes; keeps nothing of a peer.
pub struct Listener {
    secret: hmac::Key,
    began: Instant,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

/// What came.
#[derive(Debug)]
pub enum Incoming {
    /// Send this back.
    Reply(Bytes),
    /// Somebody wants to connect, and has shown that it is where it says.
    Request(Box<Request>),
    /// Refused by the protocol, for this reason; send the answer back.
    Refused(RejectCode, Bytes),
    /// Nothing for a listener.
    Ignored,
}

/// A peer that wants to connect.
#[derive(Debug)]
pub struct Request {
    handshake: Handshake,
    abilities: Abilities,
    timestamp: u32,
}

impl Listener {
    /// `secret`: random bytes that nobody knows.
    pub fn new(now: Instant, secret: [u8; 32]) -> Self {
        Self { secret: hmac::Key::new(hmac::HMAC_SHA256, &secret), began: now }
    }

    fn cookie(&self, peer: SocketAddr, period: u64) -> u32 {
        let tag = hmac::sign(&self.secret, format!("{peer} {period}").as_bytes());
        word(tag.as_ref(), 0).unwrap_or(1).max(1)
    }

    /// Takes a datagram that is for no connection.
    pub fn handle_datagram(&self, now: Instant, peer: SocketAddr, datagram: &[u8]) -> Incoming {
        let Ok(Packet::Control { body: Control::Handshake(body), timestamp }) = packet::parse(datagram) else {
            return Incoming::Ignored;
        };
        let Ok(handshake) = Handshake::parse(body) else { return Incoming::Ignored };
        let period = now.saturating_duration_since(self.began).as_secs() / COOKIE_PERIOD.as_secs();
        match handshake.kind {
            Kind::Induction => {
                let answer = Handshake {
                    cookie: self.cookie(peer, period),
                    extension: MAGIC,
                    ..Handshake::new(Kind::Induction, handshake.socket_id, handshake.initial_seq)
                };
                let reply = packet::handshake(&answer.write(), 0, handshake.socket_id);
                if reply.len() > datagram.len() { Incoming::Ignored } else { Incoming::Reply(reply) }
            }
            Kind::Conclusion => {
                let is_known = |period| self.cookie(peer, period) == handshake.cookie;
                if !is_known(period) && !period.checked_sub(1).is_some_and(is_known) {
                    return Incoming::Ignored;
                }
                Request::check(handshake, timestamp)
            }
            Kind::Wave | Kind::Agreement | Kind::Refused(_) => Incoming::Ignored,
        }
    }
}

impl Request {
    pub(crate) fn check(handshake: Handshake, timestamp: u32) -> Incoming {
        let refused = |code| Incoming::Refused(code, refusal(&handshake, code));
        let Some(abilities) = handshake.request.filter(|_| handshake.version == 5) else {
            return refused(if handshake.version < 5 { RejectCode::VERSION } else { RejectCode::ROGUE });
        };
        if abilities.version < VERSION_MIN {
            return refused(RejectCode::VERSION);
        }
        if handshake.has_filter {
            return refused(RejectCode::FILTER);
        }
        let is_group = |group: Membership| group.id & GROUP_BIT != 0 && GroupKind::from_wire(group.kind).is_some();
        if handshake.group.is_some_and(|group| !is_group(group)) {
            return refused(RejectCode::GROUP);
        }
        let is_live = abilities.flags & flags::TSBPD_SENDER != 0 && abilities.flags & flags::STREAM == 0;
        if handshake.is_not_live || !is_live {
            return refused(RejectCode::BAD_MODE);
        }
        Incoming::Request(Box::new(Self { handshake, abilities, timestamp }))
    }

    /// What the peer calls itself and what it wants; see [`crate::StreamId`].
    pub fn stream_id(&self) -> Option<&str> {
        self.handshake.stream_id.as_deref()
    }

    /// The number of the peer's socket: with its address it tells a repeated request.
    pub fn peer_id(&self) -> u32 {
        self.handshake.socket_id
    }

    /// The peer brings a key.
    pub fn is_encrypted(&self) -> bool {
        self.handshake.key_request.is_some()
    }

    /// The group that it wants to belong to.
    pub fn group(&self) -> Option<Membership> {
        self.handshake.group
    }

    /// The peer's version, as 1.5.3.
    pub fn version(&self) -> String {
        let version = self.abilities.version;
        format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff)
    }

    /// Says no.
    pub fn refuse(&self, code: RejectCode) -> Bytes {
        refusal(&self.handshake, code)
    }

    /// Says yes: the connection's first output is the answer. `id` is not 0 and not in use; `group` is our number of the
    /// peer's group, if it wants one.
    ///
    /// # Errors
    /// The peer is refused, because encryption, its passphrase or its group does not fit; the answer says so.
    pub fn accept(
        self,
        now: Instant,
        id: u32,
        group: Option<u32>,
        settings: Settings,
    ) -> Result<Connection, (RejectCode, Bytes)> {
        self.answer(now, id, group, settings, None)
    }

    /// `own`: first number, cookie and clock of this end, where it called as well; else they are the peer's, and new.
    pub(crate) fn answer(
        self,
        now: Instant,
        id: u32,
        group: Option<u32>,
        settings: Settings,
        own: Option<(Seq, u32, Instant)>,
    ) -> Result<Connection, (RejectCode, Bytes)> {
        let refused = |code| (code, refusal(&self.handshake, code));
        let keys = match (&settings.passphrase, &self.handshake.key_request) {
            (None, None) => None,
            (Some(passphrase), Some(material)) => {
                let keys = Keys::read(material, passphrase).map_err(|error| match error {
                    MaterialError::WrongPassphrase => refused(RejectCode::BAD_SECRET),
                    MaterialError::Invalid => refused(RejectCode::ROGUE),
                })?;
                if keys.cipher() == Cipher::AesGcm && self.abilities.version < VERSION_GCM {
                    return Err(refused(RejectCode::CRYPTO));
                }
                let copy = keys.copy().ok_or_else(|| refused(RejectCode::RESOURCE))?;
                Some((keys, copy))
            }
            (None, Some(_)) | (Some(_), None) => return Err(refused(RejectCode::UNSECURE)),
        };
        if self.handshake.group.is_some() != group.is_some() {
            return Err(refused(RejectCode::GROUP));
        }
        let (receive_keys, send_keys) = keys.unzip();
        let wish = u16::try_from(settings.latency.as_millis()).unwrap_or(u16::MAX);
        // spec: draft-sharabayko-srt-01 §4.4.1: the larger wish counts
        let receive = wish.max(self.abilities.sender_latency).min(LATENCY_MAX_MS);
        let send = wish.max(self.abilities.receiver_latency).min(LATENCY_MAX_MS);
        let response =
            Abilities { version: VERSION, flags: flags::LIVE, receiver_latency: receive, sender_latency: send };
        let first_seq = self.handshake.initial_seq;
        let (send_seq, cookie, epoch) = own.unwrap_or((first_seq, self.handshake.cookie, now));
        let answer = Handshake {
            mtu: self.handshake.mtu.min(1500),
            response: Some(response),
            key_length: receive_keys.as_ref().map(Keys::length),
            key_response: self.handshake.key_request.clone(),
            cookie,
            group: self.handshake.group.zip(group).map(|(theirs, id)| Membership { id: id | GROUP_BIT, ..theirs }),
            ..Handshake::new(Kind::Conclusion, id, send_seq)
        };
        let agreed = Agreed {
            own_id: id,
            peer_id: self.handshake.socket_id,
            first_seq,
            send_seq,
            receive_latency: Duration::from_millis(receive.into()),
            send_latency: Duration::from_millis(send.into()),
            timestamp: self.timestamp,
            send_keys,
            receive_keys,
            answer: Some(answer.write()),
            epoch,
            peer_group: self.handshake.group.map(|group| group.id),
        };
        let mut connection = Connection::new(now, settings, agreed);
        connection.answer_handshake(now);
        Ok(connection)
    }
}

fn refusal(to: &Handshake, code: RejectCode) -> Bytes {
    let answer = Handshake { cookie: to.cookie, ..Handshake::new(Kind::Refused(code), to.socket_id, to.initial_seq) };
    packet::handshake(&answer.write(), 0, to.socket_id)
}
