//! SRT sockets: one for all peers of a port, and a task for each connection.

mod call;
mod session;
mod socket;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use listen::Place;
use media::StreamName;
use srt::{Incoming, Listener, Passphrase, RejectCode, Request, StreamId};
use telemetry::{CloseReason, Protocol, RejectReason, catch_panic};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tracing::{Instrument as _, debug, info, info_span, warn};

use crate::Gateway;
pub use call::{Direction, SrtCall, SrtLink};
use session::{Path, Session};
pub(crate) use socket::grow_buffers;
use socket::{Buffers, Datagrams, Socket};

/// Peers whose datagrams are read in one system call.
const PEERS_AT_ONCE: usize = 16;
/// Batches of datagrams that may wait for a session; more are dropped, and come again.
const SESSION_QUEUE: usize = 2048;
/// Sessions that have ended and wait to be forgotten; they wait in turn.
const ENDED_QUEUE: usize = 64;

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

/// Links of one group.
pub const LINKS_MAX: usize = 8;
/// Packets that are held of a peer that only plays, and has nothing to send.
const PLAYER_WINDOW_PACKETS: u64 = 32;

impl SrtSettings {
    /// Of a connection for this stream.
    fn of(&self, stream: &StreamName, is_publisher: bool) -> srt::Settings {
        let defaults = srt::Settings::default();
        srt::Settings {
            latency: self.latency,
            passphrase: self.passphrases.get(stream).or(self.passphrase.as_ref()).cloned(),
            window_packets: if is_publisher { defaults.window_packets } else { PLAYER_WINDOW_PACKETS },
            ..defaults
        }
    }
}

/// What a session is told by the socket's task.
#[derive(Debug)]
enum ToSession {
    /// Datagrams for a link.
    Datagrams(u32, Datagrams),
    /// The peer repeats the request for a link: the answer got lost.
    Repeated(u32),
    /// The peer wants another link for its group.
    Join(Box<Joining>),
    /// One more link that this end has called.
    Linked(Box<Linked>),
}

/// One more link that this end has called.
#[derive(Debug)]
struct Linked {
    path: Path,
    connection: srt::Connection,
    weight: u16,
}

/// One more link of a group.
#[derive(Debug)]
struct Joining {
    peer: SocketAddr,
    id: u32,
    request: Request,
    place: Place,
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
    socket: Arc<Socket>,
    listener: Listener,
    /// By the number that we gave them.
    sessions: HashMap<u32, Known>,
    /// By address and the peer's own number.
    callers: HashMap<(SocketAddr, u32), u32>,
    /// By the peer's number of the group.
    groups: HashMap<u32, mpsc::Sender<ToSession>>,
    ended: mpsc::Receiver<u32>,
    tell_ended: mpsc::Sender<u32>,
}

impl Gateway {
    /// Serves SRT on a socket until shutdown.
    ///
    /// # Errors
    /// The system does not let the socket be used like that.
    pub fn serve_srt(&self, socket: UdpSocket, settings: SrtSettings) -> std::io::Result<()> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the system has randomness");
        let (tell_ended, ended) = mpsc::channel(ENDED_QUEUE);
        let port = Port {
            gateway: self.clone(),
            settings: Arc::new(settings),
            socket: Arc::new(Socket::new(socket)?),
            listener: Listener::new(Instant::now(), secret),
            sessions: HashMap::new(),
            callers: HashMap::new(),
            groups: HashMap::new(),
            ended,
            tell_ended,
        };
        self.tracker.spawn(port.run());
        Ok(())
    }
}

impl Port {
    async fn run(mut self) {
        let mut buffers = Buffers::new(PEERS_AT_ONCE);
        let shutdown = self.gateway.shutdown.clone();
        let mut is_stopping = false;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !is_stopping => is_stopping = true,
                Some(id) = self.ended.recv() => self.forget(id),
                readable = self.socket.readable() => match readable {
                    Ok(()) => self.read(&mut buffers, is_stopping),
                    Err(error) => {
                        warn!(%error, "the SRT socket failed");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
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
        // With it goes what nobody told: a request that waited in its queue.
        self.sessions.retain(|_, known| !known.session.is_closed());
        self.callers.retain(|_, id| self.sessions.contains_key(id));
        self.groups.retain(|_, session| !session.is_closed());
    }

    fn read(&mut self, buffers: &mut Buffers, is_stopping: bool) {
        let socket = Arc::clone(&self.socket);
        socket.receive(buffers, |peer, Datagrams { bytes, each, at }| {
            for (id, run) in runs(&bytes, each) {
                if id == 0 {
                    for datagram in run.chunks(each) {
                        self.on_handshake(peer, datagram, is_stopping);
                    }
                // A number alone proves nothing: the address must be that of the handshake.
                } else if let Some(known) = self.sessions.get(&id).filter(|known| known.peer == peer)
                    && known.session.try_send(ToSession::Datagrams(id, Datagrams { bytes: run, each, at })).is_err()
                {
                    self.gateway.metrics.srt_queue_drops.inc();
                }
            }
        });
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
        if let Some(id) = self.callers.get(&(peer, request.peer_id()))
            && let Some(known) = self.sessions.get(id)
        {
            let _ = known.session.try_send(ToSession::Repeated(*id));
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
        let (peer_id, group) = (request.peer_id(), request.group());
        let joining = Joining { peer, id, request, place };
        let known = group.and_then(|group| self.groups.get(&group.id)).filter(|session| !session.is_closed()).cloned();
        let session = match known {
            Some(session) => {
                if session.try_send(ToSession::Join(Box::new(joining))).is_err() {
                    return; // it asks again
                }
                session
            }
            None => self.open(joining),
        };
        if let Some(group) = group {
            self.groups.insert(group.id, session.clone());
        }
        self.sessions.insert(id, Known { peer, peer_id, session });
        self.callers.insert((peer, peer_id), id);
    }

    /// Begins a session.
    fn open(&self, joining: Joining) -> mpsc::Sender<ToSession> {
        let (session, datagrams) = mpsc::channel(SESSION_QUEUE);
        let (gateway, socket) = (self.gateway.clone(), Arc::clone(&self.socket));
        let (settings, ended) = (Arc::clone(&self.settings), self.tell_ended.clone());
        let (peer, id) = (joining.peer, joining.id);
        let task = async move {
            let counted = gateway.metrics.session(Protocol::srt);
            let mut left = vec![id];
            let outcome = catch_panic(async {
                match Session::open(&gateway, &settings, socket, joining) {
                    Ok(session) => session.run(datagrams, Some((&ended, &mut left))).await,
                    Err(reason) => reason,
                }
            });
            counted.close(Box::pin(outcome).await.unwrap_or(CloseReason::panic));
            for id in left {
                let _ = ended.send(id).await;
            }
        };
        self.gateway.tracker.spawn(task.instrument(info_span!("session", %peer, protocol = "srt")));
        session
    }

    /// A number that is not in use.
    fn free_id(&self) -> Option<u32> {
        (0..16).find_map(|_| {
            let id = getrandom::u32().ok()? & 0x3fff_ffff;
            (id != 0 && !self.sessions.contains_key(&id)).then_some(id)
        })
    }

    fn send(&self, peer: SocketAddr, datagram: &[u8]) {
        self.socket.send(peer, datagram);
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

/// Datagrams that follow each other and are for the same link, with its number.
fn runs(bytes: &Bytes, each: usize) -> Vec<(u32, Bytes)> {
    let mut runs: Vec<(u32, Bytes)> = Vec::new();
    let mut begin = 0;
    let mut of = None;
    for at in (0..bytes.len()).step_by(each) {
        let datagram = bytes.get(at..(at + each).min(bytes.len())).unwrap_or_default();
        let id = srt::destination(datagram);
        if id != of {
            runs.extend(of.map(|id| (id, bytes.slice(begin..at))));
            (of, begin) = (id, at);
        }
    }
    runs.extend(of.map(|id| (id, bytes.slice(begin..))));
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_that_came_together_go_where_each_belongs() {
        let datagram = |id: u32, length: usize| [&[0; 12][..], &id.to_be_bytes(), &vec![7; length - 16]].concat();
        let all = [datagram(5, 20), datagram(5, 20), datagram(0, 20), datagram(5, 20), datagram(6, 18)].concat();
        let found: Vec<(u32, usize)> = runs(&all.into(), 20).iter().map(|(id, run)| (*id, run.len())).collect();
        assert_eq!(found, [(5, 40), (0, 20), (5, 20), (6, 18)]);
        assert!(runs(&Bytes::from_static(b"too short"), 9).is_empty());
    }
}
