//! SRT connections that this server makes: to fetch a stream, or to send one on.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hub::{Publisher, StreamState};
use media::StreamName;
use srt::{
    Caller, CallerConfig, Cipher, Connection, Group, GroupKind, KeyLength, Membership, Passphrase, Progress,
    Rendezvous, Settings,
};
use telemetry::{CloseReason, Protocol};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span, warn};

use super::session::{Keeps, Path, Session};
use super::socket::{Buffers, Socket};
use super::{Linked, PLAYER_WINDOW_PACKETS, SESSION_QUEUE, ToSession};
use crate::{Gateway, PAUSE_MAX, PAUSE_MIN, arrival, rtmp_session::until};

/// Largest answer to a handshake.
const DATAGRAM_BYTES_MAX: usize = 1500;

/// Which way a call carries its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the other server into ours.
    Pull,
    /// From ours to the other.
    Push,
}

/// A call to another server, made again and again.
#[derive(Clone, Debug)]
pub struct SrtCall {
    /// Which way.
    pub direction: Direction,
    /// The stream here.
    pub stream: StreamName,
    /// Which of several it is, from 1: those are different encoders to whoever counts publishers of a key.
    pub row: usize,
    /// One, or several that carry the same.
    pub links: Vec<SrtLink>,
    /// What several links do.
    pub group: GroupKind,
    /// The other end calls as well, from the port that is called to this end's port of the same number; over one link only.
    pub is_rendezvous: bool,
    /// What is asked for there.
    pub stream_id: Option<String>,
    /// Shared with the other server.
    pub passphrase: Option<Passphrase>,
    /// Of the media's key.
    pub key_length: KeyLength,
    /// How the media is encrypted.
    pub cipher: Cipher,
    /// Time that lost packets have to come again.
    pub latency: Duration,
    /// A source that sends no media for so long is called anew.
    pub silent_after: Duration,
    /// The rank of the leg it makes: 0 is preferred.
    pub rank: u8,
}

/// One way to the other server.
#[derive(Clone, Debug)]
pub struct SrtLink {
    /// `host:port` of the other server.
    pub server: String,
    /// The address of this machine that it leaves from; `None`: the system's choice.
    pub from: Option<IpAddr>,
    /// Of main and backup, the heavier is preferred.
    pub weight: u16,
}

impl Gateway {
    /// Makes a call and repeats it whenever it ends, until shutdown.
    pub fn call_srt(&self, call: SrtCall) {
        let gateway = self.clone();
        let span = info_span!("call", stream = %call.stream, server = call.servers(), protocol = "srt");
        self.again_and_again(span, move || {
            let (gateway, call) = (gateway.clone(), call.clone());
            async move {
                if call.direction == Direction::Push && !is_there(&gateway, &call.stream) {
                    return Ok(false);
                }
                once(&gateway, &call).await.map(|()| true)
            }
        });
    }
}

fn is_there(gateway: &Gateway, name: &StreamName) -> bool {
    gateway.hub.stream(name).is_some_and(|stream| stream.state() != StreamState::Ended)
}

impl SrtCall {
    /// All servers, for people.
    fn servers(&self) -> String {
        self.links.iter().map(|link| link.server.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// What the links of a call have in common.
#[derive(Clone, Copy)]
struct Bond {
    /// The number of the group, where there are several links.
    group: Option<u32>,
    initial_seq: u32,
    epoch: Instant,
}

/// One call, from the handshake to its end.
async fn once(gateway: &Gateway, call: &SrtCall) -> Result<(), String> {
    let random = || getrandom::u32().map_err(|error| error.to_string());
    let group = if call.links.len() > 1 { Some(random()? | srt::GROUP_BIT) } else { None };
    let bond = Bond { group, initial_seq: random()?, epoch: Instant::now() };
    let (tell, mut told) = mpsc::channel(SESSION_QUEUE);
    let (tell_failure, mut failures) = mpsc::channel(call.links.len().max(1));
    let mut links = JoinSet::new();
    for (place, link) in call.links.clone().into_iter().enumerate() {
        let tell_failure = (place, tell_failure.clone());
        let keeping = keep(gateway.clone(), call.clone(), link, bond, tell.clone(), tell_failure);
        links.spawn(keeping.in_current_span());
    }
    drop((tell, tell_failure));
    let mut failed = HashSet::new();
    let first = loop {
        tokio::select! {
            first = told.recv() => match first {
                Some(ToSession::Linked(first)) => break *first,
                Some(_) => {}
                None => return Err("the links ended".into()),
            },
            Some((place, error)) = failures.recv() => {
                failed.insert(place);
                if failed.len() >= call.links.len() {
                    return Err(error);
                }
            }
            () = gateway.shutdown.cancelled() => return Ok(()),
        }
    };
    drop(failures);
    let counted = gateway.metrics.session(Protocol::srt);
    let reason = match open(gateway, call, first) {
        Ok(session) => {
            info!(direction = ?call.direction, "the call stands");
            session.run(told, None).await
        }
        Err(error) => {
            counted.close(CloseReason::rejected);
            return Err(error);
        }
    };
    counted.close(reason);
    match reason {
        CloseReason::shutdown => Ok(()),
        reason => Err(format!("it ended: {reason:?}")),
    }
}

/// Calls over one link, as often as it takes and as long as the session wants it.
async fn keep(
    gateway: Gateway,
    call: SrtCall,
    link: SrtLink,
    bond: Bond,
    tell: mpsc::Sender<ToSession>,
    (place, tell_failure): (usize, mpsc::Sender<(usize, String)>),
) {
    let mut pause = PAUSE_MIN;
    while !tell.is_closed() {
        match connect(&gateway, &call, &link, bond).await {
            Ok((socket, peer, connection)) => {
                let (socket, id, weight) = (Arc::new(socket), connection.id(), link.weight);
                let gone = CancellationToken::new();
                let reader = Keeps::Reader { _reader: gone.clone().drop_guard() };
                let path = Path { id, peer, socket: Arc::clone(&socket), _keeps: reader };
                if tell.send(ToSession::Linked(Box::new(Linked { path, connection, weight }))).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = gone.cancelled() => {}
                    () = read(&socket, peer, id, &tell) => {}
                }
                pause = PAUSE_MIN;
            }
            Err(error) => {
                if tell_failure.try_send((place, error.clone())).is_err() {
                    warn!(server = link.server, error, retry_ms = pause.as_millis(), "a link of the group failed");
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn open<'a>(gateway: &'a Gateway, call: &SrtCall, first: Linked) -> Result<Session<'a>, String> {
    let Linked { path, connection, weight } = first;
    let peer = path.peer;
    let group = match connection.peer_group() {
        None => Group::single(connection),
        Some(_) => Group::bonded(call.group, connection, weight),
    };
    let session = match call.direction {
        Direction::Pull if gateway.draining.borrow().is_some() => return Err("the server is about to stop".into()),
        Direction::Pull => {
            let publisher = Publisher {
                protocol: Protocol::srt.as_str(),
                peer: peer.to_string(),
                encoder: None,
                key_id: format!("pull {} from {}", call.row, call.servers()),
                rank: call.rank,
                is_fetched: true,
            };
            let leg = gateway.hub.publish(arrival(), &call.stream, publisher).map_err(|error| error.to_string())?;
            Session::publishing(gateway, path, group, leg, call.silent_after)
        }
        Direction::Push => {
            let stream = gateway.hub.stream(&call.stream).ok_or("the stream is gone")?;
            Session::playing(gateway, path, group, stream.subscribe())
        }
    };
    Ok(session)
}

async fn connect(
    gateway: &Gateway,
    call: &SrtCall,
    link: &SrtLink,
    bond: Bond,
) -> Result<(Socket, SocketAddr, Connection), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut found = tokio::net::lookup_host(&link.server).await.map_err(text)?;
    let like = |peer: &SocketAddr| link.from.is_none_or(|from| from.is_ipv4() == peer.is_ipv4());
    let peer = found.find(like).ok_or("the name has no address")?;
    let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let port = if call.is_rendezvous { peer.port() } else { 0 };
    let socket = UdpSocket::bind((link.from.unwrap_or(any), port)).await.map_err(text)?;
    let is_push = call.direction == Direction::Push;
    let defaults = Settings::default();
    let settings = Settings {
        latency: call.latency,
        passphrase: call.passphrase.clone(),
        key_length: call.key_length,
        cipher: call.cipher,
        window_packets: if is_push { PLAYER_WINDOW_PACKETS } else { defaults.window_packets },
        ..defaults
    };
    let group = bond.group.map(|id| Membership { id, kind: call.group.wire(), weight: link.weight });
    let config = CallerConfig { settings, stream_id: call.stream_id.clone(), group, ..CallerConfig::default() };
    let random = || getrandom::u32().map_err(|error| error.to_string());
    let (now, id) = (Instant::now(), (random()? & 0x3fff_ffff).max(1));
    let mut caller = if call.is_rendezvous {
        Calling::Rendezvous(Rendezvous::new(now, config, id, bond.initial_seq, random()?)?)
    } else {
        Calling::Caller(Caller::new(now, config, id, bond.initial_seq)?.with_epoch(bond.epoch))
    };
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    loop {
        let deadline = match caller.poll() {
            Progress::Send(datagram) => {
                socket.send_to(&datagram, peer).await.map_err(text)?;
                continue;
            }
            Progress::Connected(connection) => return Ok((Socket::new(socket).map_err(text)?, peer, *connection)),
            Progress::Refused(code) => return Err(format!("refused: {code}")),
            Progress::Failed(text) => return Err(text.to_owned()),
            Progress::Wait(deadline) => deadline,
        };
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let (length, from) = received.map_err(text)?;
                if from == peer {
                    caller.handle_datagram(Instant::now(), buffer.get(..length).unwrap_or_default());
                }
            }
            () = until(Some(deadline)) => caller.handle_timeout(Instant::now()),
            () = gateway.shutdown.cancelled() => return Err("the server is restarting".into()),
        }
    }
}

/// A call that is being made.
enum Calling {
    Caller(Caller),
    Rendezvous(Rendezvous),
}

impl Calling {
    fn poll(&mut self) -> Progress {
        match self {
            Self::Caller(caller) => caller.poll(),
            Self::Rendezvous(rendezvous) => rendezvous.poll(),
        }
    }

    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        match self {
            Self::Caller(caller) => caller.handle_datagram(now, datagram),
            Self::Rendezvous(rendezvous) => rendezvous.handle_datagram(now, datagram),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Caller(caller) => caller.handle_timeout(now),
            Self::Rendezvous(rendezvous) => rendezvous.handle_timeout(now),
        }
    }
}

/// Hands datagrams on until the socket fails.
async fn read(socket: &Socket, peer: SocketAddr, id: u32, tell: &mpsc::Sender<ToSession>) {
    let mut buffers = Buffers::new(1);
    while socket.readable().await.is_ok() {
        socket.receive(&mut buffers, |from, datagrams| {
            if from == peer {
                // A full queue is a full buffer of the network: the peer sends again.
                let _ = tell.try_send(ToSession::Datagrams(id, datagrams));
            }
        });
    }
}
