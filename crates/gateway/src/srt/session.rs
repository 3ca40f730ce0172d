//! One SRT connection: the shell around it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hub::{Item, Leg, Publisher, StreamState, Subscriber, Transport};
use listen::Place;
use media::{StreamKey, StreamName};
use srt::{Event, Group, GroupKind, GroupOutput, Mode, RejectCode, Request, StreamId};
use telemetry::{CloseReason, Metrics, Protocol, RejectReason, SrtCount};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::DropGuard;
use tracing::{info, warn};

use super::socket::{Datagrams, Outgoing, Socket};
use super::{Joining, LINKS_MAX, Linked, SrtSettings, ToSession, wanted};
use crate::ts::{AHEAD_MAX, TOO_FAST, TsSink, TsSource};
use crate::{Gateway, arrival, rtmp_session::until};

/// How often figures are handed on.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// Payload of a packet: seven packets of a transport stream.
const PAYLOAD_BYTES: usize = 7 * 188;

/// Where a link goes.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) id: u32,
    pub(super) peer: SocketAddr,
    pub(super) socket: Arc<Socket>,
    /// Its place among all connections, or who reads for it: let go with it.
    pub(super) _keeps: Keeps,
}

/// What a link holds as long as it stands.
#[derive(Debug)]
pub(super) enum Keeps {
    /// A peer's place among all connections.
    Place { _place: Place },
    /// The task that reads from a socket of its own.
    Reader { _reader: DropGuard },
}

/// Where links that have ended are told, and which have not been.
pub(super) type Leaving<'a> = Option<(&'a mpsc::Sender<u32>, &'a mut Vec<u32>)>;

/// A peer that is let in: one connection, or several that carry the same.
pub(super) struct Session<'a> {
    gateway: &'a Gateway,
    /// How further links are let in; `None` where this end calls.
    door: Option<(&'a SrtSettings, StreamName)>,
    paths: Vec<Path>,
    /// Our number of the peer's group.
    own_group: Option<u32>,
    group: Group,
    outgoing: Outgoing,
    /// Links that have ended.
    gone: Vec<u32>,
    role: Role,
    silent_after: Duration,
    counted: srt::Stats,
    next_report: Instant,
    reason: CloseReason,
}

enum Role {
    Publishing {
        source: Box<TsSource>,
        kicked: watch::Receiver<Option<String>>,
    },
    Playing {
        subscriber: Subscriber,
        sink: Box<TsSink>,
        pace: Pace,
    },
    /// What it was for is over; the peer is told.
    Ending,
}

enum Wake {
    Told,
    Timeout,
    Kicked(String),
    Entry(Arc<hub::Entry>),
    Shutdown,
}

impl<'a> Session<'a> {
    /// Lets a caller in, or refuses it with a code and says so in the log.
    pub(super) fn open(
        gateway: &'a Gateway,
        settings: &'a SrtSettings,
        socket: Arc<Socket>,
        joining: Joining,
    ) -> Result<Self, CloseReason> {
        let Joining { peer, id, request, place } = joining;
        let answers = Arc::clone(&socket);
        let refuse = |reason, datagram: &[u8], text: &str| {
            warn!(reason = text, "refused");
            gateway.metrics.rejected(reason);
            answers.send(peer, datagram);
            CloseReason::rejected
        };
        let (name, wish) = match wish(gateway, settings, &request) {
            Ok(wish) => wish,
            Err((reason, code, text)) => return Err(refuse(reason, &request.refuse(code), &text)),
        };
        let (now, version, is_encrypted) = (Instant::now(), request.version(), request.is_encrypted());
        let is_draining = gateway.draining.borrow().is_some();
        let code = if is_draining { RejectCode::UNAVAILABLE } else { RejectCode::CONFLICT };
        let (refusal, group) = (request.refuse(code), request.group());
        let own_group = group.map(|_| id | srt::GROUP_BIT);
        let is_publisher = matches!(wish, Wish::Publish(_));
        let connection = match request.accept(now, id, own_group, settings.of(&name, is_publisher)) {
            Ok(connection) => connection,
            Err((code, datagram)) => return Err(refuse(RejectReason::unauthorized, &datagram, &code.to_string())),
        };
        let group = match group {
            None => Group::single(connection),
            Some(group) => {
                Group::bonded(GroupKind::from_wire(group.kind).unwrap_or_default(), connection, group.weight)
            }
        };
        let is_bonded = group.peer_group().is_some();
        let path = Path { id, peer, socket, _keeps: Keeps::Place { _place: place } };
        // Last, so that whoever has no passphrase disturbs nobody.
        let session = match wish {
            Wish::Play(subscriber) => Self::playing(gateway, path, group, subscriber),
            Wish::Publish(_) if is_draining => {
                return Err(refuse(RejectReason::draining, &refusal, crate::DRAINING));
            }
            Wish::Publish(grant) => {
                let publisher = Publisher {
                    protocol: Protocol::srt.as_str(),
                    peer: peer.to_string(),
                    encoder: Some(format!("SRT {version}")),
                    key_id: grant.key_id,
                    rank: grant.rank,
                    is_fetched: false,
                };
                match gateway.hub.publish(arrival(), &grant.stream, publisher) {
                    Ok(leg) => Self::publishing(gateway, path, group, leg, settings.silent_after),
                    Err(error) => {
                        let reason = if error.is_busy() { RejectReason::busy } else { RejectReason::limit };
                        return Err(refuse(reason, &refusal, &error.to_string()));
                    }
                }
            }
        };
        info!(stream = %name, version, is_encrypted, is_bonded, "{} joined", if is_publisher { "publisher" } else { "player" });
        Ok(Self { door: Some((settings, name)), own_group, ..session })
    }

    /// One whose peer sends a stream.
    pub(super) fn publishing(gateway: &'a Gateway, path: Path, group: Group, leg: Leg, silent_after: Duration) -> Self {
        let role = Role::Publishing { kicked: leg.kicked(), source: Box::new(gateway.ts_source(leg)) };
        Self { silent_after, ..Self::new(gateway, path, group, role) }
    }

    /// One whose peer is sent a stream.
    pub(super) fn playing(gateway: &'a Gateway, path: Path, group: Group, subscriber: Subscriber) -> Self {
        let role = Role::Playing { subscriber, sink: Box::default(), pace: Pace::default() };
        Self::new(gateway, path, group, role)
    }

    fn new(gateway: &'a Gateway, path: Path, group: Group, role: Role) -> Self {
        Self {
            gateway,
            door: None,
            paths: vec![path],
            own_group: None,
            group,
            outgoing: Outgoing::default(),
            gone: Vec::new(),
            role,
            silent_after: Duration::ZERO,
            counted: srt::Stats::default(),
            next_report: Instant::now() + REPORT_INTERVAL,
            reason: CloseReason::peer,
        }
    }

    /// One more link of a group: the same stream and the same right to it.
    fn join(&mut self, joining: Joining) {
        let Joining { peer, id, request, place } = joining;
        let Some(socket) = self.paths.first().map(|path| Arc::clone(&path.socket)) else { return };
        let Some((settings, name)) = &self.door else { return };
        let role = &self.role;
        let granted = wish(self.gateway, settings, &request).and_then(|(wanted, wish)| {
            let fits = match role {
                Role::Publishing { .. } => matches!(wish, Wish::Publish(_)),
                Role::Playing { .. } => matches!(wish, Wish::Play(_)),
                Role::Ending => false,
            };
            let text = "the links of a group want the same";
            let fits = fits && wanted == *name && self.paths.len() < LINKS_MAX;
            if fits { Ok(()) } else { Err((RejectReason::protocol, RejectCode::GROUP, text.to_owned())) }
        });
        let group = request.group();
        let own_group = self.own_group;
        let accepted = match granted {
            Err((reason, code, text)) => Err((reason, request.refuse(code), text)),
            Ok(()) => {
                let is_publisher = matches!(self.role, Role::Publishing { .. });
                let accepted = request.accept(Instant::now(), id, own_group, settings.of(name, is_publisher));
                accepted.map_err(|(code, datagram)| (RejectReason::unauthorized, datagram, code.to_string()))
            }
        };
        match accepted {
            Ok(connection) => {
                info!(%peer, "one more link of the group");
                self.group.join(Instant::now(), connection, group.map_or(0, |group| group.weight));
                self.paths.push(Path { id, peer, socket, _keeps: Keeps::Place { _place: place } });
            }
            Err((reason, datagram, text)) => {
                warn!(%peer, reason = text, "refused");
                self.gateway.metrics.rejected(reason);
                socket.send(peer, &datagram);
                self.gone.push(id);
            }
        }
    }

    /// Runs it to its end and says why it ended.
    pub(super) async fn run(mut self, mut told: mpsc::Receiver<ToSession>, mut leaving: Leaving<'_>) -> CloseReason {
        let mut batch = Vec::with_capacity(64);
        while let Some(deadline) = self.drain() {
            self.tell_gone(&mut leaving).await;
            let timeout = deadline.min(self.next_report);
            let timeout = self.silent_at().map_or(timeout, |at| timeout.min(at));
            let is_open = !matches!(self.role, Role::Ending);
            let shutdown = &self.gateway.shutdown;
            let wake = tokio::select! {
                biased;
                () = shutdown.cancelled(), if is_open => Wake::Shutdown,
                wake = self.role.wake(), if is_open => wake,
                count = told.recv_many(&mut batch, 64) => if count > 0 { Wake::Told } else { break },
                () = until(Some(timeout)) => Wake::Timeout,
            };
            let now = Instant::now();
            match wake {
                Wake::Told => {
                    for told in batch.drain(..) {
                        self.take(now, told, &mut leaving);
                    }
                }
                Wake::Timeout => {}
                Wake::Kicked(text) => self.close(now, CloseReason::kicked, &text),
                Wake::Entry(entry) => self.play(now, &entry),
                Wake::Shutdown => self.close(now, CloseReason::shutdown, "the server is restarting"),
            }
            self.group.handle_timeout(now);
            if now >= self.next_report {
                self.next_report = now + REPORT_INTERVAL;
                self.report();
            }
            if self.silent_at().is_some_and(|at| at <= now) {
                self.close(now, CloseReason::timeout, "no media came for too long");
            }
        }
        self.report();
        if let Role::Publishing { source, .. } = self.role {
            info!(reason = ?self.reason, "publisher left");
            source.close(arrival());
        }
        self.reason
    }

    /// When a publisher has been silent for too long.
    fn silent_at(&self) -> Option<Instant> {
        matches!(self.role, Role::Publishing { .. }).then(|| self.group.last_data() + self.silent_after)
    }

    fn take(&mut self, now: Instant, told: ToSession, leaving: &mut Leaving<'_>) {
        match told {
            ToSession::Datagrams(id, Datagrams { bytes, each, at }) => {
                for datagram in bytes.chunks(each) {
                    self.group.handle_datagram(at, id, datagram);
                }
            }
            ToSession::Repeated(id) => self.group.handle_repeated_request(now, id),
            ToSession::Join(joining) => {
                if let Some((_, left)) = leaving {
                    left.push(joining.id);
                }
                self.join(*joining);
            }
            ToSession::Linked(linked) => {
                let Linked { path, mut connection, weight } = *linked;
                if connection.peer_group() == self.group.peer_group() {
                    info!(peer = %path.peer, "one more link of the group");
                    self.group.join(now, connection, weight);
                    return self.paths.push(path);
                }
                // The other end has begun anew: once the old links are given up, so does this one.
                warn!(peer = %path.peer, "the other end has another group now");
                connection.close(now);
                while let srt::Output::Send(datagram) = connection.poll_output(now) {
                    path.socket.send(path.peer, &datagram);
                }
            }
        }
    }

    /// Tells of links that have ended.
    async fn tell_gone(&mut self, leaving: &mut Leaving<'_>) {
        for id in std::mem::take(&mut self.gone) {
            self.paths.retain(|path| path.id != id);
            if let Some((ended, left)) = leaving {
                left.retain(|known| *known != id);
                let _ = ended.send(id).await;
            }
        }
    }

    fn close(&mut self, now: Instant, reason: CloseReason, text: &str) {
        info!(reason = text, "session closed by the server");
        self.reason = reason;
        self.report();
        if let Role::Publishing { source, .. } = std::mem::replace(&mut self.role, Role::Ending) {
            source.close(arrival());
        }
        self.group.close(now);
    }

    /// Carries out what the links ask for; their deadline, or `None` at the end.
    fn drain(&mut self) -> Option<Instant> {
        let mut over = None;
        loop {
            let output = self.group.poll_output(Instant::now());
            if let GroupOutput::Send(id, datagram) = &output {
                if over != Some(*id) {
                    self.flush(over.replace(*id));
                }
                self.put(*id, datagram);
                continue;
            }
            self.flush(over.take());
            match output {
                GroupOutput::Event(Event::Data(payload)) => self.on_data(&payload),
                // What is lost, the transport stream's own counters show.
                GroupOutput::Send(..) | GroupOutput::Event(Event::Lost(_)) => {}
                GroupOutput::Event(Event::Closed(reason)) => {
                    if self.reason == CloseReason::peer {
                        self.reason = close_reason(reason);
                    }
                    return None;
                }
                GroupOutput::LinkClosed(id, reason) => {
                    let peer = self.paths.iter().find(|path| path.id == id).map(|path| path.peer);
                    warn!(?peer, ?reason, left = self.paths.len() - 1, "a link of the group ended");
                    self.gone.push(id);
                }
                GroupOutput::LinkActive(id, is_active) => {
                    let peer = self.paths.iter().find(|path| path.id == id).map(|path| path.peer);
                    info!(?peer, is_active, "the stream changes links");
                }
                GroupOutput::Wait(deadline) => return deadline,
            }
        }
    }

    fn on_data(&mut self, payload: &[u8]) {
        let Role::Publishing { source, .. } = &mut self.role else { return };
        if let Err(text) = source.push(arrival(), payload) {
            self.close(Instant::now(), CloseReason::protocol_error, &text);
        } else if source.ahead() > AHEAD_MAX {
            self.close(Instant::now(), CloseReason::protocol_error, TOO_FAST);
        }
    }

    /// Puts a datagram behind the others for the same link.
    fn put(&mut self, id: u32, datagram: &[u8]) {
        let Some(path) = self.paths.iter().find(|path| path.id == id) else { return };
        let together = path.socket.together_max();
        if !self.outgoing.push(datagram, together) {
            path.socket.send_together(path.peer, &mut self.outgoing);
            self.outgoing.push(datagram, together);
        }
    }

    fn flush(&mut self, id: Option<u32>) {
        if let Some(path) = self.paths.iter().find(|path| Some(path.id) == id) {
            path.socket.send_together(path.peer, &mut self.outgoing);
        }
    }

    /// To a player.
    fn play(&mut self, now: Instant, entry: &hub::Entry) {
        let Role::Playing { sink, .. } = &mut self.role else { return };
        if matches!(entry.item, Item::End) {
            return self.close(now, CloseReason::peer, "the stream ended");
        }
        let mut packets = sink.packets(entry);
        while !packets.is_empty() {
            let payload = packets.split_to(packets.len().min(PAYLOAD_BYTES));
            self.group.send(now, &payload);
        }
    }

    /// Hands figures to the stream and the metrics.
    fn report(&mut self) {
        let now = self.group.stats();
        let before = std::mem::replace(&mut self.counted, now);
        count(&self.gateway.metrics, &before, &now);
        if let Role::Publishing { source, .. } = &mut self.role {
            let figures = transport(&now);
            let link = |(id, stats, _): (u32, srt::Stats, bool)| {
                let peer = self.paths.iter().find(|path| path.id == id)?.peer;
                Some(hub::Link { peer: peer.to_string(), transport: transport(&stats) })
            };
            let is_bonded = self.group.peer_group().is_some();
            let links = self.group.links().filter(|_| is_bonded).filter_map(link).collect();
            source.report(figures, links);
            source.count(&self.gateway.metrics);
        }
    }
}

fn transport(stats: &srt::Stats) -> Transport {
    Transport {
        rtt: stats.rtt,
        latency: stats.latency,
        buffer: stats.receive_buffer,
        packets: stats.received_packets,
        lost: stats.lost,
        retransmitted: stats.received_retransmitted,
        belated: stats.belated,
        dropped: stats.dropped,
        undecryptable: stats.undecryptable,
        bytes_per_second: stats.receive_bytes_per_second,
        capacity_bits_per_second: stats.capacity_bits_per_second,
        continuity_errors: 0,
    }
}

fn count(metrics: &Metrics, before: &srt::Stats, now: &srt::Stats) {
    metrics.received_bytes(Protocol::srt).inc_by(now.received_bytes - before.received_bytes);
    for (count, now, before) in [
        (SrtCount::received, now.received_packets, before.received_packets),
        (SrtCount::lost, now.lost, before.lost),
        (SrtCount::received_again, now.received_retransmitted, before.received_retransmitted),
        (SrtCount::belated, now.belated, before.belated),
        (SrtCount::dropped, now.dropped, before.dropped),
        (SrtCount::undecryptable, now.undecryptable, before.undecryptable),
        (SrtCount::malformed, now.malformed, before.malformed),
        (SrtCount::sent, now.sent_packets, before.sent_packets),
        (SrtCount::sent_again, now.sent_retransmitted, before.sent_retransmitted),
        (SrtCount::given_up, now.sent_dropped, before.sent_dropped),
    ] {
        metrics.srt_packets(count, now - before);
    }
}

fn close_reason(reason: srt::CloseReason) -> CloseReason {
    match reason {
        srt::CloseReason::Silent => CloseReason::timeout,
        srt::CloseReason::Undecryptable => CloseReason::protocol_error,
        srt::CloseReason::Peer | srt::CloseReason::Local => CloseReason::peer,
    }
}

/// What a caller may do.
enum Wish {
    Publish(crate::Grant),
    Play(Subscriber),
}

type Refusal = (RejectReason, RejectCode, String);

/// What a caller wants, if it may.
fn wish(gateway: &Gateway, settings: &SrtSettings, request: &Request) -> Result<(StreamName, Wish), Refusal> {
    let (name, id) = wanted(request, settings).map_err(|(code, text)| (RejectReason::protocol, code, text))?;
    // spec: SRT access control §2: who says no mode requests; but encoders often say none, and have a key.
    let publishes = match id.mode {
        Some(mode) => mode != Mode::Request,
        None => !id.key.is_empty(),
    };
    let wish =
        if publishes { Wish::Publish(publish(gateway, &name, &id)?) } else { Wish::Play(play(gateway, &name, &id)?) };
    Ok((name, wish))
}

fn publish(gateway: &Gateway, name: &StreamName, id: &StreamId) -> Result<crate::Grant, Refusal> {
    if id.key.is_empty() {
        let help = "a stream key is needed: put it into the stream identifier as 's=KEY'";
        return Err((RejectReason::unauthorized, RejectCode::UNAUTHORIZED, help.into()));
    }
    (gateway.doors.publish)(&StreamKey::new(id.key.as_str()), Some(name))
        .map_err(|text| (RejectReason::unauthorized, RejectCode::UNAUTHORIZED, text))
}

fn play(gateway: &Gateway, name: &StreamName, id: &StreamId) -> Result<Subscriber, Refusal> {
    let key = (!id.key.is_empty()).then(|| StreamKey::new(id.key.as_str()));
    (gateway.doors.play)(name, key.as_ref())
        .map_err(|refusal| (RejectReason::unauthorized, RejectCode::UNAUTHORIZED, refusal.to_string()))?;
    let stream = gateway.hub.stream(name).filter(|stream| stream.state() != StreamState::Ended);
    let stream = stream
        .ok_or_else(|| (RejectReason::not_found, RejectCode::NOT_FOUND, "there is no such stream now".to_owned()))?;
    Ok(stream.subscribe())
}

impl Role {
    /// What the hub has for the session. Cancel-safe.
    async fn wake(&mut self) -> Wake {
        match self {
            Self::Ending => std::future::pending().await,
            Self::Playing { subscriber, pace, .. } => Wake::Entry(pace.next(subscriber).await),
            Self::Publishing { kicked, .. } => {
                let reason = kicked.wait_for(Option::is_some).await;
                Wake::Kicked(reason.ok().and_then(|reason| reason.clone()).unwrap_or_default())
            }
        }
    }
}

/// A player that comes gets the begun GOP at twice its speed: all at once would fill the narrowest place on its way.
#[derive(Default)]
struct Pace {
    /// When the first entry went out, and its time.
    began: Option<(Instant, i64)>,
    held: Option<Arc<hub::Entry>>,
}

impl Pace {
    /// The next entry, when its time has come. Cancel-safe.
    async fn next(&mut self, subscriber: &mut Subscriber) -> Arc<hub::Entry> {
        let entry = match &self.held {
            Some(held) => Arc::clone(held),
            None => Arc::clone(self.held.insert(subscriber.next().await)),
        };
        if let Some(nanos) = nanos_of(&entry) {
            let (at, first) = *self.began.get_or_insert((Instant::now(), nanos));
            let since = Duration::from_nanos(u64::try_from(nanos - first).unwrap_or(0) / 2);
            if at + since > Instant::now() {
                until(Some(at + since)).await;
            }
        }
        self.held = None;
        entry
    }
}

/// When an entry is decoded.
fn nanos_of(entry: &hub::Entry) -> Option<i64> {
    let Item::Unit(unit) = &entry.item else { return None };
    Some(entry.tracks.config(unit.track)?.timescale().nanos(unit.dts.0))
}
