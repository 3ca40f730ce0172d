//! One SRT connection: the shell around it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hub::{Item, Leg, PublishError, Publisher, StreamState, Subscriber, Transport};
use media::{StreamKey, StreamName};
use srt::{Connection, Event, Mode, Output, RejectCode, Request, Settings, StreamId};
use telemetry::{CloseReason, Metrics, Protocol, RejectReason, SrtCount};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{SrtSettings, ToSession, wanted};
use crate::ts::{TsSink, TsSource};
use crate::{Gateway, arrival, rtmp_session::until};

/// How often figures are handed on.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// Payload of a packet: seven packets of a transport stream.
const PAYLOAD_BYTES: usize = 7 * 188;
/// A source that is so far ahead of its clock is closed: its socket cannot be left unread like that of TCP.
const AHEAD_MAX: Duration = Duration::from_secs(5);

/// A connection that is let in.
pub(super) struct Session<'a> {
    gateway: &'a Gateway,
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
    connection: Box<Connection>,
    role: Role,
    silent_after: Duration,
    last_media: Instant,
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
    },
    /// What it was for is over; the peer is told.
    Ending,
}

enum Wake {
    Told(Option<ToSession>),
    Timeout,
    Kicked(String),
    Entry(Arc<hub::Entry>),
    Shutdown,
}

impl<'a> Session<'a> {
    /// Lets a caller in, or refuses it with a code and says so in the log.
    pub(super) fn open(
        gateway: &'a Gateway,
        settings: &SrtSettings,
        socket: Arc<UdpSocket>,
        peer: SocketAddr,
        id: u32,
        request: Request,
    ) -> Result<Self, CloseReason> {
        let answers = Arc::clone(&socket);
        let refuse = |reason, datagram: &[u8], text: &str| {
            warn!(reason = text, "refused");
            gateway.metrics.rejected(reason);
            let _ = answers.try_send_to(datagram, peer);
            CloseReason::rejected
        };
        let found = wanted(&request, settings).map_err(|(code, text)| (RejectReason::protocol, code, text));
        let granted = found.and_then(|(name, id)| {
            // spec: SRT access control §2: who says no mode requests; but encoders often say none, and have a key.
            let publishes = match id.mode {
                Some(mode) => mode != Mode::Request,
                None => !id.key.is_empty(),
            };
            let wish = if publishes {
                Wish::Publish(publish(gateway, &name, &id)?)
            } else {
                Wish::Play(play(gateway, &name, &id)?)
            };
            Ok((name, wish))
        });
        let (name, wish) = match granted {
            Ok(granted) => granted,
            Err((reason, code, text)) => return Err(refuse(reason, &request.refuse(code), &text)),
        };
        let (now, version, is_encrypted) = (Instant::now(), request.version(), request.is_encrypted());
        let passphrase = settings.passphrase(&name).cloned();
        let srt_settings = Settings { latency: settings.latency, passphrase, ..Settings::default() };
        let refusal = request.refuse(RejectCode::CONFLICT);
        let connection = match request.accept(now, id, srt_settings) {
            Ok(connection) => connection,
            Err((code, datagram)) => return Err(refuse(RejectReason::unauthorized, &datagram, &code.to_string())),
        };
        // Last, so that whoever has no passphrase disturbs nobody.
        let session = match wish {
            Wish::Play(subscriber) => Self::playing(gateway, socket, peer, connection, subscriber),
            Wish::Publish(grant) => {
                let publisher = Publisher {
                    protocol: Protocol::srt.as_str(),
                    peer: peer.to_string(),
                    encoder: Some(format!("SRT {version}")),
                    key_id: grant.key_id,
                };
                match gateway.hub.publish(now, &grant.stream, publisher) {
                    Ok(leg) => Self::publishing(gateway, socket, peer, connection, leg, settings.silent_after),
                    Err(error) => {
                        let is_busy = matches!(error, PublishError::Busy(_));
                        let reason = if is_busy { RejectReason::busy } else { RejectReason::limit };
                        return Err(refuse(reason, &refusal, &error.to_string()));
                    }
                }
            }
        };
        let is_publisher = matches!(session.role, Role::Publishing { .. });
        info!(stream = %name, version, is_encrypted, "{} joined", if is_publisher { "publisher" } else { "player" });
        Ok(session)
    }

    /// One whose peer sends a stream.
    pub(super) fn publishing(
        gateway: &'a Gateway,
        socket: Arc<UdpSocket>,
        peer: SocketAddr,
        connection: Connection,
        leg: Leg,
        silent_after: Duration,
    ) -> Self {
        let role = Role::Publishing { kicked: leg.kicked(), source: Box::new(TsSource::new(leg)) };
        Self { silent_after, ..Self::new(gateway, socket, peer, connection, role) }
    }

    /// One whose peer is sent a stream.
    pub(super) fn playing(
        gateway: &'a Gateway,
        socket: Arc<UdpSocket>,
        peer: SocketAddr,
        connection: Connection,
        subscriber: Subscriber,
    ) -> Self {
        Self::new(gateway, socket, peer, connection, Role::Playing { subscriber, sink: Box::default() })
    }

    fn new(gateway: &'a Gateway, socket: Arc<UdpSocket>, peer: SocketAddr, connection: Connection, role: Role) -> Self {
        let now = Instant::now();
        Self {
            gateway,
            socket,
            peer,
            connection: Box::new(connection),
            role,
            silent_after: Duration::MAX,
            last_media: now,
            counted: srt::Stats::default(),
            next_report: now + REPORT_INTERVAL,
            reason: CloseReason::peer,
        }
    }

    /// Runs it to its end and says why it ended.
    pub(super) async fn run(mut self, mut datagrams: mpsc::Receiver<ToSession>) -> CloseReason {
        let mut batch = Vec::with_capacity(64);
        while let Some(deadline) = self.drain() {
            let mut timeout = deadline.min(self.next_report);
            if matches!(self.role, Role::Publishing { .. }) {
                timeout = timeout.min(self.last_media + self.silent_after);
            }
            let is_open = !matches!(self.role, Role::Ending);
            let shutdown = &self.gateway.shutdown;
            let wake = tokio::select! {
                biased;
                () = shutdown.cancelled(), if is_open => Wake::Shutdown,
                wake = self.role.wake(), if is_open => wake,
                count = datagrams.recv_many(&mut batch, 64) => Wake::Told((count > 0).then_some(ToSession::Repeated)),
                () = until(Some(timeout)) => Wake::Timeout,
            };
            let now = Instant::now();
            match wake {
                Wake::Told(None) => break,
                Wake::Told(Some(_)) => {
                    for told in batch.drain(..) {
                        match told {
                            ToSession::Datagram(datagram) => self.connection.handle_datagram(now, &datagram),
                            ToSession::Repeated => self.connection.handle_repeated_request(),
                        }
                    }
                }
                Wake::Timeout => {}
                Wake::Kicked(text) => self.close(now, CloseReason::kicked, &text),
                Wake::Entry(entry) => self.play(now, &entry),
                Wake::Shutdown => self.close(now, CloseReason::shutdown, "the server is restarting"),
            }
            self.connection.handle_timeout(now);
            if now >= self.next_report {
                self.next_report = now + REPORT_INTERVAL;
                self.report();
            }
            if matches!(self.role, Role::Publishing { .. }) && now >= self.last_media + self.silent_after {
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

    fn close(&mut self, now: Instant, reason: CloseReason, text: &str) {
        info!(reason = text, "session closed by the server");
        self.reason = reason;
        self.report();
        if let Role::Publishing { source, .. } = std::mem::replace(&mut self.role, Role::Ending) {
            source.close(arrival());
        }
        self.connection.close(now);
    }

    /// Carries out what the connection asks for; its deadline, or `None` at its end.
    fn drain(&mut self) -> Option<Instant> {
        loop {
            match self.connection.poll_output(Instant::now()) {
                Output::Send(datagram) => {
                    // What the system has no room for is lost like on the way, and asked for again.
                    let _ = self.socket.try_send_to(&datagram, self.peer);
                }
                Output::Event(Event::Data(payload)) => {
                    self.last_media = Instant::now();
                    let Role::Publishing { source, .. } = &mut self.role else { continue };
                    if let Err(text) = source.push(arrival(), &payload) {
                        self.close(Instant::now(), CloseReason::protocol_error, &text);
                    } else if source.ahead() > AHEAD_MAX {
                        let text = "the media's timestamps run ahead of real time: send in real time (ffmpeg: -re)";
                        self.close(Instant::now(), CloseReason::protocol_error, text);
                    }
                }
                Output::Event(Event::Lost(_)) => {} // the transport stream's own counters show where
                Output::Event(Event::Closed(reason)) => {
                    if self.reason == CloseReason::peer {
                        self.reason = match reason {
                            srt::CloseReason::Silent => CloseReason::timeout,
                            srt::CloseReason::Undecryptable => CloseReason::protocol_error,
                            srt::CloseReason::Peer | srt::CloseReason::Local => CloseReason::peer,
                        };
                    }
                    return None;
                }
                Output::Wait(deadline) => return deadline,
            }
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
            self.connection.send(now, payload);
        }
    }

    /// Hands figures to the stream and the metrics.
    fn report(&mut self) {
        let now = self.connection.stats();
        let before = std::mem::replace(&mut self.counted, now);
        count(&self.gateway.metrics, &before, &now);
        if let Role::Publishing { source, .. } = &mut self.role {
            source.report(Transport {
                rtt: now.rtt,
                latency: now.latency,
                buffer: now.receive_buffer,
                packets: now.received_packets,
                lost: now.lost,
                retransmitted: now.received_retransmitted,
                belated: now.belated,
                dropped: now.dropped,
                undecryptable: now.undecryptable,
                bytes_per_second: now.receive_bytes_per_second,
                continuity_errors: 0,
            });
            source.count(&self.gateway.metrics);
        }
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

/// What a caller may do.
enum Wish {
    Publish(crate::Grant),
    Play(Subscriber),
}

type Refusal = (RejectReason, RejectCode, String);

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
            Self::Playing { subscriber, .. } => Wake::Entry(subscriber.next().await),
            Self::Publishing { kicked, .. } => {
                let reason = kicked.wait_for(Option::is_some).await;
                Wake::Kicked(reason.ok().and_then(|reason| reason.clone()).unwrap_or_default())
            }
        }
    }
}
