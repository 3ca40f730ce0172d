//! A connection after its handshake. spec: draft-sharabayko-srt-01 §4

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::crypto::{Cipher, KeyLength, Keys, Passphrase};
use crate::handshake::{Handshake, Kind};
use crate::packet::{self, Control, Data, HEADER_BYTES, Packet, Seq};
use crate::receive::{ACK_INTERVAL, Delivered, Receiver, WINDOW_PACKETS};
use crate::send::Sender;

/// Largest payload: seven packets of a transport stream fit.
pub(crate) const PAYLOAD_BYTES_MAX: usize = packet::DATAGRAM_BYTES_MAX - HEADER_BYTES;
/// Without anything else to say. spec: draft-sharabayko-srt-01 §3.2.3
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A peer that says nothing for so long is gone. SRT-03
const IDLE_MAX: Duration = Duration::from_secs(5);
/// How often what is too old is looked for.
const DROP_INTERVAL: Duration = Duration::from_millis(20);
/// The new key is told so many packets before it is used. spec: draft-sharabayko-srt-01 §6.1.6
const ANNOUNCE_PACKETS: u64 = 4000;
/// A key is used for so many packets.
const REFRESH_PACKETS: u64 = 1 << 24;
/// A new key that was not confirmed is told again no sooner.
const KEY_REQUEST_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Packets in a row that cannot be read: the peer has lost its key.
const UNDECRYPTABLE_MAX: u32 = 1000;

/// What a connection is to be like.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is lost may take so long to be sent again, in both directions; the larger wish of both ends counts. SRT-05
    pub latency: Duration,
    /// Encryption is then a must.
    pub passphrase: Option<Passphrase>,
    /// Of the media's key, where this end makes it.
    pub key_length: KeyLength,
    /// How the media is encrypted, where this end says.
    pub cipher: Cipher,
    /// Bytes that may be sent again, in percent of the media's: 5 to 100. SRT-03
    pub overhead_percent: u8,
    /// Packets until the media's key is changed.
    pub refresh_packets: u64,
    /// Packets of the peer that are held at most. Where nothing is expected from it, few are enough.
    pub window_packets: u64,
}

/// No peer makes this end hold media for longer: its wishes are heard up to here.
pub(crate) const LATENCY_MAX: Duration = Duration::from_secs(8);
/// See [`LATENCY_MAX`].
pub(crate) const LATENCY_MAX_MS: u16 = 8000;

impl Default for Settings {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(120),
            passphrase: None,
            key_length: KeyLength::Aes128,
            cipher: Cipher::AesCtr,
            overhead_percent: 25,
            refresh_packets: REFRESH_PACKETS,
            window_packets: WINDOW_PACKETS,
        }
    }
}

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A payload, in order and in time.
    Data(Bytes),
    /// So many packets before the next payload never came.
    Lost(u64),
    /// It is over.
    Closed(CloseReason),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer said so.
    Peer,
    /// This end did.
    Local,
    /// The peer was silent for too long.
    Silent,
    /// Nothing of what the peer sends can be decrypted.
    Undecryptable,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram to the peer.
    Send(Bytes),
    /// Something happened.
    Event(Event),
    /// Nothing until then, or until a datagram comes; `None`: it is over.
    Wait(Option<Instant>),
}

/// Figures since the connection began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Round trip time and its deviation.
    pub rtt: Duration,
    /// See [`Stats::rtt`].
    pub rtt_var: Duration,
    /// The latency both ends agreed on, for what comes.
    pub latency: Duration,
    /// Packets and bytes of payload that came, repeated ones included.
    pub received_packets: u64,
    /// See [`Stats::received_packets`].
    pub received_bytes: u64,
    /// Packets found missing, before anything was sent again.
    pub lost: u64,
    /// Packets that came again.
    pub received_retransmitted: u64,
    /// Came too late.
    pub belated: u64,
    /// Came twice.
    pub duplicate: u64,
    /// Never came: what is missing in the media.
    pub dropped: u64,
    /// Could not be decrypted.
    pub undecryptable: u64,
    /// Media time that waits to be due.
    pub receive_buffer: Duration,
    /// Bytes of payload that came in the last second.
    pub receive_bytes_per_second: u64,
    /// Packets sent for the first time.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// What the line could carry of what comes, in bits per second; 0 until it is known.
    pub capacity_bits_per_second: u64,
    /// Packets sent again.
    pub sent_retransmitted: u64,
    /// Packets the peer reported missing.
    pub sent_lost: u64,
    /// Packets given up before the peer had them.
    pub sent_dropped: u64,
    /// Packets the peer has not acknowledged.
    pub send_buffer_packets: usize,
    /// Datagrams that could not be read.
    pub malformed: u64,
}

impl Stats {
    /// Adds the counts of another connection; times stay.
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in [
            (&mut self.received_packets, other.received_packets),
            (&mut self.received_bytes, other.received_bytes),
            (&mut self.lost, other.lost),
            (&mut self.received_retransmitted, other.received_retransmitted),
            (&mut self.belated, other.belated),
            (&mut self.duplicate, other.duplicate),
            (&mut self.dropped, other.dropped),
            (&mut self.undecryptable, other.undecryptable),
            (&mut self.receive_bytes_per_second, other.receive_bytes_per_second),
            (&mut self.sent_packets, other.sent_packets),
            (&mut self.sent_bytes, other.sent_bytes),
            (&mut self.sent_retransmitted, other.sent_retransmitted),
            (&mut self.sent_lost, other.sent_lost),
            (&mut self.sent_dropped, other.sent_dropped),
            (&mut self.malformed, other.malformed),
        ] {
            *count += more;
        }
        self.send_buffer_packets += other.send_buffer_packets;
    }
}

/// What the handshake agreed on.
pub(crate) struct Agreed {
    pub(crate) own_id: u32,
    pub(crate) peer_id: u32,
    /// The first number of the peer, and of this end.
    pub(crate) first_seq: Seq,
    pub(crate) send_seq: Seq,
    pub(crate) receive_latency: Duration,
    pub(crate) send_latency: Duration,
    /// The peer's stamp on what came at `now`.
    pub(crate) timestamp: u32,
    pub(crate) send_keys: Option<Keys>,
    pub(crate) receive_keys: Option<Keys>,
    /// The answer's body, sent again when the peer repeats its handshake.
    pub(crate) answer: Option<Bytes>,
    /// Our clock's 0.
    pub(crate) epoch: Instant,
    /// The peer's number of the group that this belongs to.
    pub(crate) peer_group: Option<u32>,
}

/// The key that packets are encrypted with now, and the next.
struct SendKeys {
    keys: Keys,
    flag: u8,
    used: u64,
    /// The message with the next key, until the peer confirms it, and when it is sent again.
    announcement: Option<(Bytes, Instant)>,
}

/// A connection.
pub struct Connection {
    own_id: u32,
    peer_id: u32,
    peer_group: Option<u32>,
    epoch: Instant,
    settings: Settings,
    pub(crate) receiver: Receiver,
    pub(crate) sender: Sender,
    send_keys: Option<SendKeys>,
    receive_keys: Option<Keys>,
    latency: Duration,
    answer: Option<Bytes>,
    out: VecDeque<Bytes>,
    last_heard: Instant,
    last_sent: Instant,
    next_ack: Instant,
    next_drop: Instant,
    unreadable_in_row: u32,
    malformed: u64,
    closed: Option<CloseReason>,
    has_told_close: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("own_id", &self.own_id).field("closed", &self.closed).finish_non_exhaustive()
    }
}

/// Microseconds since the epoch, as packets carry them.
pub(crate) fn timestamp(epoch: Instant, now: Instant) -> u32 {
    let micros = now.saturating_duration_since(epoch).as_micros() & u128::from(u32::MAX);
    u32::try_from(micros).unwrap_or(0)
}

impl Connection {
    pub(crate) fn new(now: Instant, settings: Settings, agreed: Agreed) -> Self {
        let send_keys = agreed.send_keys.map(|keys| SendKeys { flag: keys.flag(), keys, used: 0, announcement: None });
        let (receive_latency, window) = (agreed.receive_latency, settings.window_packets.clamp(1, WINDOW_PACKETS));
        Self {
            own_id: agreed.own_id,
            peer_id: agreed.peer_id,
            epoch: agreed.epoch,
            peer_group: agreed.peer_group,
            receiver: Receiver::new(now, agreed.first_seq, agreed.timestamp, receive_latency, window),
            sender: Sender::new(now, agreed.send_seq, agreed.send_latency, settings.overhead_percent),
            settings,
            send_keys,
            receive_keys: agreed.receive_keys,
            latency: agreed.receive_latency,
            answer: agreed.answer,
            out: VecDeque::new(),
            last_heard: now,
            last_sent: now,
            next_ack: now + ACK_INTERVAL,
            next_drop: now + DROP_INTERVAL,
            unreadable_in_row: 0,
            malformed: 0,
            closed: None,
            has_told_close: false,
        }
    }

    /// The number that the peer puts on its packets.
    pub fn id(&self) -> u32 {
        self.own_id
    }

    /// The peer's number.
    pub fn peer_id(&self) -> u32 {
        self.peer_id
    }

    /// The peer's number of the group that it belongs to.
    pub fn peer_group(&self) -> Option<u32> {
        self.peer_group
    }

    /// Whether what goes over it is encrypted.
    pub fn key_length(&self) -> Option<KeyLength> {
        self.receive_keys.as_ref().map(Keys::length)
    }

    /// Figures now.
    pub fn stats(&self) -> Stats {
        let (received, sent) = (self.receiver.counts, self.sender.counts);
        let rtt = if self.receiver.rtt().is_measured() { self.receiver.rtt() } else { self.sender.rtt };
        Stats {
            rtt: rtt.smooth(),
            rtt_var: Duration::from_micros(rtt.var_micros.into()),
            latency: self.latency,
            received_packets: received.packets,
            received_bytes: received.bytes,
            lost: received.lost,
            received_retransmitted: received.retransmitted,
            belated: received.belated,
            duplicate: received.duplicate,
            dropped: received.dropped,
            undecryptable: received.undecryptable,
            receive_buffer: self.receiver.held(),
            receive_bytes_per_second: self.receiver.bytes_per_second().into(),
            capacity_bits_per_second: self.receiver.capacity_bits_per_second(),
            sent_packets: sent.packets,
            sent_bytes: sent.bytes,
            sent_retransmitted: sent.retransmitted,
            sent_lost: sent.lost,
            sent_dropped: sent.dropped,
            send_buffer_packets: self.sender.held(),
            malformed: self.malformed,
        }
    }

    /// Sends the answer to the handshake, for the first time or again.
    pub(crate) fn answer_handshake(&mut self, now: Instant) {
        if let Some(answer) = &self.answer {
            // Stamped anew: from the stamp the peer takes what our clock shows.
            let now = self.timestamp(now);
            self.out.push_back(packet::handshake(answer, now, self.peer_id));
        }
    }

    /// The peer repeats its request to the listener: the answer got lost.
    pub fn handle_repeated_request(&mut self, now: Instant) {
        self.answer_handshake(now);
    }

    /// Takes a datagram that names this connection.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        if self.closed.is_some() {
            return;
        }
        let Ok(packet) = packet::parse(datagram) else {
            self.malformed += 1;
            return;
        };
        self.last_heard = now;
        match packet {
            Packet::Data(data) => self.on_data(now, &data, packet::once(datagram)),
            Packet::Control { body, timestamp } => self.on_control(now, body, timestamp),
        }
    }

    /// `header`: as it was when the packet was sent for the first time.
    fn on_data(&mut self, now: Instant, data: &Data<'_>, header: [u8; HEADER_BYTES]) {
        let mut payload = data.payload.to_vec();
        let is_readable = match (&self.receive_keys, data.key) {
            (None, 0) => true,
            (Some(keys), 1 | 2) => keys.decrypt(data.key, data.seq, header, &mut payload),
            _ => false, // plain where encryption was agreed on, or the other way
        };
        if !is_readable {
            self.receiver.counts.undecryptable += 1;
            self.unreadable_in_row += 1;
            if self.unreadable_in_row >= UNDECRYPTABLE_MAX {
                self.end(now, CloseReason::Undecryptable);
            }
            return;
        }
        self.unreadable_in_row = 0;
        if let Some(range) = self.receiver.on_data(now, data, payload.into()) {
            let nak = packet::nak(&[range], self.timestamp(now), self.peer_id);
            self.out.push_back(nak);
        }
        if let Some(ack) = self.receiver.light_ack() {
            self.out.push_back(packet::ack(&ack, self.timestamp(now), self.peer_id));
        }
    }

    fn on_control(&mut self, now: Instant, body: Control<'_>, stamp: u32) {
        let own = self.timestamp(now);
        match body {
            Control::Handshake(body) => {
                // Asked again: the answer got lost.
                if Handshake::parse(body).is_ok_and(|theirs| matches!(theirs.kind, Kind::Conclusion | Kind::Wave)) {
                    self.answer_handshake(now);
                }
            }
            Control::Ack(ack) => {
                self.sender.on_ack(now, &ack);
                if ack.rtt_micros.is_some() {
                    self.out.push_back(packet::ack_ack(ack.number, own, self.peer_id));
                }
            }
            Control::Nak(ranges) => {
                if let Some((message, first, last)) = self.sender.on_nak(now, &ranges) {
                    self.out.push_back(packet::drop_request(message, first, last, own, self.peer_id));
                }
            }
            Control::AckAck(number) => self.receiver.on_ack_ack(now, number, stamp),
            Control::DropRequest(first, last) => self.receiver.on_drop_request(first, last),
            Control::Shutdown => self.closed = Some(CloseReason::Peer),
            Control::KeyRequest(material) => self.on_key_request(now, material),
            Control::KeyResponse(material) => {
                if let Some(keys) = &mut self.send_keys
                    && keys.announcement.as_ref().is_some_and(|(told, _)| told == material)
                {
                    keys.announcement = None;
                }
            }
            Control::KeepAlive if self.peer_group.is_some() => self.receiver.pause(),
            Control::KeepAlive | Control::Other => {}
        }
    }

    /// The peer's next key. What cannot be read changes nothing. spec: draft-sharabayko-srt-01 §6.1.6
    fn on_key_request(&mut self, now: Instant, material: &[u8]) {
        let (Some(passphrase), Some(known)) = (&self.settings.passphrase, &mut self.receive_keys) else { return };
        match Keys::read(material, passphrase) {
            Ok(newer) => {
                known.take_over(newer);
                let answer = packet::key_response(material, timestamp(self.epoch, now), self.peer_id);
                self.out.push_back(answer);
            }
            Err(_) => self.malformed += 1,
        }
    }

    /// Sends a payload of at most 1,456 bytes; `false` where too much waits to be acknowledged, or it is too large.
    pub fn send(&mut self, now: Instant, payload: Bytes) -> bool {
        let stamp = self.timestamp(now);
        self.is_sendable(&payload) && self.sender.push(now, now, stamp, payload)
    }

    pub(crate) fn is_sendable(&self, payload: &Bytes) -> bool {
        let tag_bytes = self.send_keys.as_ref().map_or(0, |keys| keys.keys.cipher().tag_bytes());
        self.closed.is_none() && payload.len() + tag_bytes <= PAYLOAD_BYTES_MAX && !payload.is_empty()
    }

    /// When the peer was heard last.
    pub(crate) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// When media came last; at first, when the connection was made.
    pub fn last_data(&self) -> Instant {
        self.receiver.last_data()
    }

    /// The latency that both ends agreed on, for what comes.
    pub fn latency(&self) -> Duration {
        self.latency
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    pub(crate) fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Joins the other connections of its group: one clock here and there, one count of packets.
    pub(crate) fn join(&mut self, other: &Self) {
        self.epoch = other.epoch;
        self.receiver.join(&other.receiver);
    }

    /// Ends the connection; the peer is told.
    pub fn close(&mut self, now: Instant) {
        self.end(now, CloseReason::Local);
    }

    fn end(&mut self, now: Instant, reason: CloseReason) {
        if self.closed.is_none() {
            self.out.push_back(packet::shutdown(self.timestamp(now), self.peer_id));
        }
        // What a peer that has left may still have to be played, nobody here waits for.
        self.closed = Some(reason);
    }

    pub(crate) fn timestamp(&self, now: Instant) -> u32 {
        timestamp(self.epoch, now)
    }

    /// Does what is due. Call it when the time of [`Output::Wait`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.closed.is_some() {
            return;
        }
        let own = self.timestamp(now);
        if now >= self.last_heard + IDLE_MAX {
            return self.end(now, CloseReason::Silent);
        }
        if now >= self.next_ack {
            self.next_ack = now + ACK_INTERVAL;
            let ack = self.receiver.full_ack(now);
            self.out.extend(ack.map(|ack| packet::ack(&ack, own, self.peer_id)));
        }
        if self.receiver.nak_at().is_some_and(|at| at <= now) {
            let ranges = self.receiver.due_naks(now);
            if !ranges.is_empty() {
                self.out.push_back(packet::nak(&ranges, own, self.peer_id));
            }
        }
        if now >= self.next_drop {
            self.next_drop = now + DROP_INTERVAL;
            if let Some((message, first, last)) = self.sender.drop_too_late(now) {
                self.out.push_back(packet::drop_request(message, first, last, own, self.peer_id));
            }
        }
        self.sender.probe_tail(now);
        self.repeat_announcement(now);
        if now >= self.last_sent + KEEP_ALIVE_INTERVAL && self.out.is_empty() {
            self.out.push_back(packet::keep_alive(own, self.peer_id));
        }
    }

    fn repeat_announcement(&mut self, now: Instant) {
        let again = self.sender.rtt.bound().max(KEY_REQUEST_INTERVAL_MIN);
        let (peer, own) = (self.peer_id, self.timestamp(now));
        let Some(keys) = &mut self.send_keys else { return };
        let Some((material, at)) = &mut keys.announcement else { return };
        if *at <= now {
            *at = now + again;
            self.out.push_back(packet::key_request(material, own, peer));
        }
    }

    /// What to do next. Call it until it says [`Output::Wait`].
    pub fn poll_output(&mut self, now: Instant) -> Output {
        if let Some(datagram) = self.poll_send(now) {
            return Output::Send(datagram);
        }
        if let Some(delivered) = self.receiver.poll(now) {
            return Output::Event(match delivered {
                Delivered::Payload(payload) => Event::Data(payload),
                Delivered::Lost(count) => Event::Lost(count),
            });
        }
        match self.poll_closed() {
            Some(reason) => Output::Event(Event::Closed(reason)),
            None => Output::Wait(self.deadline()),
        }
    }

    /// The next datagram for the peer.
    pub(crate) fn poll_send(&mut self, now: Instant) -> Option<Bytes> {
        let datagram = match self.out.pop_front() {
            Some(datagram) => datagram,
            None if self.closed.is_some() => return None,
            None => {
                let outgoing = self.sender.poll(now)?;
                self.encrypt(now, &outgoing)
            }
        };
        self.last_sent = now;
        Some(datagram)
    }

    /// Says once why it ended, and only when what the peer sent before is played.
    pub(crate) fn poll_closed(&mut self) -> Option<CloseReason> {
        let reason = self.closed?;
        let is_played = reason != CloseReason::Peer || self.receiver.due().is_none();
        (is_played && !std::mem::replace(&mut self.has_told_close, true)).then_some(reason)
    }

    /// When it has to be looked after; `None`: it is over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.closed {
            None => Some(self.running_deadline()),
            Some(CloseReason::Peer) if !self.has_told_close => self.receiver.due(),
            Some(_) => None,
        }
    }

    fn running_deadline(&self) -> Instant {
        let announcement = self.send_keys.as_ref().and_then(|keys| keys.announcement.as_ref()).map(|(_, at)| *at);
        let is_receiving = self.receiver.counts.packets > 0;
        let always = (self.last_heard + IDLE_MAX).min(self.last_sent + KEEP_ALIVE_INTERVAL);
        [
            self.receiver.due(),
            self.receiver.nak_at(),
            is_receiving.then_some(self.next_ack),
            (self.sender.held() > 0).then_some(self.next_drop),
            self.sender.look_at(),
            announcement,
        ]
        .into_iter()
        .flatten()
        .fold(always, Instant::min)
    }

    fn encrypt(&mut self, now: Instant, outgoing: &crate::send::Outgoing) -> Bytes {
        self.refresh(now);
        let key = self.send_keys.as_ref().map_or(0, |keys| keys.flag);
        let data = Data {
            seq: outgoing.seq,
            key,
            is_retransmitted: outgoing.is_retransmitted,
            timestamp: outgoing.timestamp,
            payload: &outgoing.payload,
        };
        let mut datagram = packet::data(&data, outgoing.message, self.peer_id);
        if let Some(keys) = &self.send_keys {
            let header = packet::once(&datagram);
            let mut payload = datagram.split_off(HEADER_BYTES.min(datagram.len()));
            let is_encrypted = keys.keys.encrypt(key, outgoing.seq, header, &mut payload);
            debug_assert!(is_encrypted, "the key in use is there");
            if !is_encrypted {
                payload.clear(); // rather nothing than in plain
            }
            datagram.unsplit(payload);
        }
        datagram.freeze()
    }

    /// Changes the key in time. spec: draft-sharabayko-srt-01 §6.1.6
    fn refresh(&mut self, now: Instant) {
        let every = self.settings.refresh_packets.max(16);
        let ahead = ANNOUNCE_PACKETS.min(every / 2);
        let (Some(keys), Some(passphrase)) = (&mut self.send_keys, &self.settings.passphrase) else { return };
        keys.used += 1;
        let next = 3 - keys.flag;
        if keys.used == every - ahead && keys.keys.renew(usize::from(next) - 1).is_some() {
            keys.announcement = keys.keys.material(passphrase).map(|material| (material, now));
        }
        // Never with a key that the peer has not confirmed.
        if keys.used >= every && keys.announcement.is_none() {
            (keys.flag, keys.used) = (next, 0);
        }
        self.repeat_announcement(now);
    }
}
