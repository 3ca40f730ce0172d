//! SRT sockets: one for all peers of a port, and a task for each connection.

mod call;
mod session;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use media::StreamName;
use srt::{Incoming, Listener, Passphrase, RejectCode, Request, StreamId};
use telemetry::{CloseReason, Protocol, RejectReason, catch_panic};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tracing::{Instrument as _, debug, info, info_span, warn};

use crate::Gateway;
pub use call::{Direction, SrtCall};
use session::Session;

/// Largest datagram that is taken: a whole Ethernet frame.
const DATAGRAM_BYTES_MAX: usize = 1500;
/// Datagrams that are read before anything else gets a turn.
const BATCH: usize = 128;
/// Datagrams that may wait for a session: 1 s at 24 Mbit/s; more are dropped, and come again.
const SESSION_QUEUE: usize = 2048;
/// Sessions that have ended and wait to be forgotten; they wait in turn.
const ENDED_QUEUE: usize = 64;
/// Space that datagrams are read into before a new piece is taken.
const CHUNK_BYTES: usize = 256 << 10;

/// How SRT is spoken.
#[derive(Clone, Debug)]
pub struct SrtSettings {
    /// Time that lost packets have to come again; the peer may wish for more.
    pub latency: Duration,
    /// For every stream without one of its own; then encryption is a must.
    pub passphrase: Option<Passphrase>,
    /// By stream.
    pub passphrases: HashMap<StreamName, Passphrase>,
    /// What a caller wants that says nothing, as a stream identifier.
    pub default_stream_id: Option<String>,
    /// A source that sends no media for so long is disconnected.
    pub silent_after: Duration,
}

impl Default for SrtSettings {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(120),
            passphrase: None,
            passphrases: HashMap::new(),
            default_stream_id: None,
            silent_after: Duration::from_secs(5),
        }
    }
}

impl SrtSettings {
    fn passphrase(&self, stream: &StreamName) -> Option<&Passphrase> {
        self.passphrases.get(stream).or(self.passphrase.as_ref())
    }
}

/// What a session is told by the socket's task.
#[derive(Debug)]
enum ToSession {
    Datagram(Bytes),
    /// The peer repeats its request: the answer got lost.
    Repeated,
}

#[derive(Debug)]
struct Known {
    peer: SocketAddr,
    peer_id: u32,
    session: mpsc::Sender<ToSession>,
}

/// One port.
struct Port {
    gateway: Gateway,
    settings: Arc<SrtSettings>,
    socket: Arc<UdpSocket>,
    listener: Listener,
    /// By the number that we gave them.
    sessions: HashMap<u32, Known>,
    /// By address and the peer's own number.
    callers: HashMap<(SocketAddr, u32), u32>,
    ended: mpsc::Receiver<u32>,
    tell_ended: mpsc::Sender<u32>,
}

impl Gateway {
    /// Serves SRT on a socket until shutdown.
    pub fn serve_srt(&self, socket: UdpSocket, settings: SrtSettings) {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the system has randomness");
        let (tell_ended, ended) = mpsc::channel(ENDED_QUEUE);
        let port = Port {
            gateway: self.clone(),
            settings: Arc::new(settings),
            socket: Arc::new(socket),
            listener: Listener::new(Instant::now(), secret),
            sessions: HashMap::new(),
            callers: HashMap::new(),
            ended,
            tell_ended,
        };
        self.tracker.spawn(port.run());
    }
}

impl Port {
    async fn run(mut self) {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let shutdown = self.gateway.shutdown.clone();
        let mut is_stopping = false;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !is_stopping => is_stopping = true,
                Some(id) = self.ended.recv() => self.forget(id),
                readable = self.socket.readable() => match readable {
                    Ok(()) => self.read(&mut chunk, is_stopping),
                    Err(error) => {
                        warn!(%error, "the SRT socket failed");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
            if is_stopping && self.sessions.is_empty() {
                return;
            }
        }
    }

    fn forget(&mut self, id: u32) {
        if let Some(known) = self.sessions.remove(&id) {
            self.callers.remove(&(known.peer, known.peer_id));
        }
    }

    /// Reads what is there, up to a batch.
    fn read(&mut self, chunk: &mut BytesMut, is_stopping: bool) {
        for _ in 0..BATCH {
            if chunk.capacity() < DATAGRAM_BYTES_MAX {
                *chunk = BytesMut::with_capacity(CHUNK_BYTES);
            }
            let Ok((length, peer)) = self.socket.try_recv_buf_from(chunk) else { return };
            let datagram = chunk.split_to(length).freeze();
            match srt::destination(&datagram) {
                Some(0) => self.on_handshake(peer, &datagram, is_stopping),
                Some(id) => {
                    // A number alone proves nothing: the address must be that of the handshake.
                    if let Some(known) = self.sessions.get(&id).filter(|known| known.peer == peer)
                        && known.session.try_send(ToSession::Datagram(datagram)).is_err()
                    {
                        self.gateway.metrics.srt_queue_drops.inc();
                    }
                }
                None => {}
            }
        }
    }

    fn on_handshake(&mut self, peer: SocketAddr, datagram: &[u8], is_stopping: bool) {
        match self.listener.handle_datagram(Instant::now(), peer, datagram) {
            Incoming::Reply(reply) => self.send(peer, &reply),
            Incoming::Refused(code, reply) => {
                info!(%peer, reason = %code, "SRT handshake refused");
                self.gateway.metrics.rejected(RejectReason::protocol);
                self.send(peer, &reply);
            }
            Incoming::Request(request) => self.on_request(peer, *request, is_stopping),
            Incoming::Ignored => {}
        }
    }

    fn on_request(&mut self, peer: SocketAddr, request: Request, is_stopping: bool) {
        if let Some(known) = self.callers.get(&(peer, request.peer_id())).and_then(|id| self.sessions.get(id)) {
            let _ = known.session.try_send(ToSession::Repeated);
            return;
        }
        if is_stopping {
            return self.send(peer, &request.refuse(RejectCode::UNAVAILABLE));
        }
        let Some(place) = self.gateway.limits.enter(peer.ip()) else {
            debug!(%peer, "too many connections: one was refused");
            self.gateway.metrics.rejected(RejectReason::limit);
            return self.send(peer, &request.refuse(RejectCode::OVERLOAD));
        };
        let Some(id) = self.free_id() else { return };
        let (session, datagrams) = mpsc::channel(SESSION_QUEUE);
        let peer_id = request.peer_id();
        self.sessions.insert(id, Known { peer, peer_id, session });
        self.callers.insert((peer, peer_id), id);
        let (gateway, socket) = (self.gateway.clone(), Arc::clone(&self.socket));
        let (settings, ended) = (Arc::clone(&self.settings), self.tell_ended.clone());
        let task = async move {
            gateway.metrics.session_opened(Protocol::srt);
            let outcome = catch_panic(async {
                match Session::open(&gateway, &settings, socket, peer, id, request) {
                    Ok(session) => session.run(datagrams).await,
                    Err(reason) => reason,
                }
            });
            let outcome = Box::pin(outcome).await.unwrap_or(CloseReason::panic);
            gateway.metrics.session_closed(Protocol::srt, outcome);
            let _ = ended.send(id).await;
            drop(place);
        };
        self.gateway.tracker.spawn(task.instrument(info_span!("session", %peer, protocol = "srt")));
    }

    /// A number that is not in use.
    fn free_id(&self) -> Option<u32> {
        (0..16).find_map(|_| {
            let id = getrandom::u32().ok()? & 0x3fff_ffff;
            (id != 0 && !self.sessions.contains_key(&id)).then_some(id)
        })
    }

    fn send(&self, peer: SocketAddr, datagram: &[u8]) {
        // What the system has no room for is lost like on the way: the peer asks again.
        let _ = self.socket.try_send_to(datagram, peer);
    }
}

/// What a caller wants, from its stream identifier or the port's default.
fn wanted(request: &Request, settings: &SrtSettings) -> Result<(StreamName, StreamId), (RejectCode, String)> {
    let text = request.stream_id().filter(|text| !text.is_empty()).or(settings.default_stream_id.as_deref());
    let text = text.ok_or_else(|| {
        let help = "a stream identifier is needed, such as '#!::r=live/STREAM,m=publish,s=KEY' or 'publish:STREAM:KEY'";
        (RejectCode::BAD_REQUEST, help.to_owned())
    })?;
    let id = StreamId::parse(text).map_err(|error| (RejectCode::BAD_REQUEST, error.to_owned()))?;
    let name = id.resource.strip_prefix("live/").unwrap_or(&id.resource);
    let name = name.parse().map_err(|error: media::InvalidName| (RejectCode::BAD_REQUEST, error.to_string()))?;
    Ok((name, id))
}
