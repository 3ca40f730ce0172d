//! SRT connections that this server makes: to fetch a stream, or to send one on.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hub::{Publisher, StreamState};
use media::StreamName;
use srt::{Caller, CallerConfig, Connection, KeyLength, Passphrase, Progress, Settings};
use telemetry::{CloseReason, Protocol, catch_panic};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tracing::{Instrument as _, info, info_span, warn};

use super::session::Session;
use super::{DATAGRAM_BYTES_MAX, SESSION_QUEUE, ToSession};
use crate::{Gateway, rtmp_session::until};

/// Between two attempts, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A connection that stood for so long was a good one: the next attempt comes soon.
const STOOD: Duration = Duration::from_secs(10);
/// How often a stream that is to be sent on is looked for.
const LOOK: Duration = Duration::from_millis(250);

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
    /// `host:port` of the other server.
    pub server: String,
    /// What is asked for there.
    pub stream_id: Option<String>,
    /// Shared with the other server.
    pub passphrase: Option<Passphrase>,
    /// Of the media's key.
    pub key_length: KeyLength,
    /// Time that lost packets have to come again.
    pub latency: Duration,
    /// A source that sends no media for so long is called anew.
    pub silent_after: Duration,
}

impl Gateway {
    /// Makes a call and repeats it whenever it ends, until shutdown.
    pub fn call_srt(&self, call: SrtCall) {
        let gateway = self.clone();
        let span = info_span!("call", stream = %call.stream, server = call.server, protocol = "srt");
        let calling = async move {
            let mut pause = PAUSE_MIN;
            while !gateway.shutdown.is_cancelled() {
                if call.direction == Direction::Push && !is_there(&gateway, &call.stream) {
                    wait(&gateway, LOOK).await;
                    continue;
                }
                let began = Instant::now();
                let outcome = Box::pin(catch_panic(once(&gateway, &call))).await;
                match outcome {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => warn!(error, retry_ms = pause.as_millis(), "the call failed"),
                    Err(_) => warn!("the call's task panicked"),
                }
                pause = if began.elapsed() >= STOOD { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
                wait(&gateway, pause).await;
            }
        };
        self.tracker.spawn(calling.instrument(span));
    }
}

fn is_there(gateway: &Gateway, name: &StreamName) -> bool {
    gateway.hub.stream(name).is_some_and(|stream| stream.state() != StreamState::Ended)
}

async fn wait(gateway: &Gateway, pause: Duration) {
    tokio::select! {
        () = gateway.shutdown.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

/// One call, from the handshake to its end.
async fn once(gateway: &Gateway, call: &SrtCall) -> Result<(), String> {
    let mut found = tokio::net::lookup_host(&call.server).await.map_err(|error| error.to_string())?;
    let peer = found.next().ok_or("the name has no address")?;
    let any: SocketAddr =
        if peer.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = Arc::new(UdpSocket::bind(any).await.map_err(|error| error.to_string())?);
    let connection = connect(gateway, call, &socket, peer).await?;
    gateway.metrics.session_opened(Protocol::srt);
    let opened = open(gateway, call, Arc::clone(&socket), peer, connection);
    let reason = match opened {
        Ok(session) => {
            info!(direction = ?call.direction, "the call stands");
            let (datagrams, received) = mpsc::channel(SESSION_QUEUE);
            tokio::select! {
                reason = session.run(received) => reason,
                () = read(&socket, peer, &datagrams) => CloseReason::network,
            }
        }
        Err(error) => {
            gateway.metrics.session_closed(Protocol::srt, CloseReason::rejected);
            return Err(error);
        }
    };
    gateway.metrics.session_closed(Protocol::srt, reason);
    match reason {
        CloseReason::shutdown => Ok(()),
        reason => Err(format!("it ended: {reason:?}")),
    }
}

fn open<'a>(
    gateway: &'a Gateway,
    call: &SrtCall,
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
    connection: Connection,
) -> Result<Session<'a>, String> {
    let session = match call.direction {
        Direction::Pull => {
            let publisher = Publisher {
                protocol: Protocol::srt.as_str(),
                peer: peer.to_string(),
                encoder: None,
                key_id: format!("pull from {}", call.server),
            };
            let leg =
                gateway.hub.publish(Instant::now(), &call.stream, publisher).map_err(|error| error.to_string())?;
            Session::publishing(gateway, socket, peer, connection, leg, call.silent_after)
        }
        Direction::Push => {
            let stream = gateway.hub.stream(&call.stream).ok_or("the stream is gone")?;
            Session::playing(gateway, socket, peer, connection, stream.subscribe())
        }
    };
    Ok(session)
}

async fn connect(
    gateway: &Gateway,
    call: &SrtCall,
    socket: &UdpSocket,
    peer: SocketAddr,
) -> Result<Connection, String> {
    let settings = Settings {
        latency: call.latency,
        passphrase: call.passphrase.clone(),
        key_length: call.key_length,
        ..Settings::default()
    };
    let config = CallerConfig { settings, stream_id: call.stream_id.clone(), ..CallerConfig::default() };
    let random = || getrandom::u32().map_err(|error| error.to_string());
    let id = (random()? & 0x3fff_ffff).max(1);
    let mut caller = Caller::new(Instant::now(), config, id, random()?).map_err(str::to_owned)?;
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    loop {
        let deadline = match caller.poll() {
            Progress::Send(datagram) => {
                socket.send_to(&datagram, peer).await.map_err(|error| error.to_string())?;
                continue;
            }
            Progress::Connected(connection) => return Ok(*connection),
            Progress::Refused(code) => return Err(format!("refused: {code}")),
            Progress::Failed(text) => return Err(text.to_owned()),
            Progress::Wait(deadline) => deadline,
        };
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let (length, from) = received.map_err(|error| error.to_string())?;
                if from == peer {
                    caller.handle_datagram(Instant::now(), buffer.get(..length).unwrap_or_default());
                }
            }
            () = until(Some(deadline)) => caller.handle_timeout(Instant::now()),
            () = gateway.shutdown.cancelled() => return Err("the server is restarting".into()),
        }
    }
}

/// Hands datagrams on until the socket fails.
async fn read(socket: &UdpSocket, peer: SocketAddr, datagrams: &mpsc::Sender<ToSession>) {
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        if from == peer {
            let datagram = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
            // A full queue is a full buffer of the network: the peer sends again.
            let _ = datagrams.try_send(ToSession::Datagram(datagram));
        }
    }
}
