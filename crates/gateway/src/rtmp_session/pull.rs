//! Streams that are fetched from other servers over RTMP and RTMPS, again whenever they end. spec: RTMP 1.0 §7.2.2.1

use std::time::{Duration, Instant};

use hub::{AHEAD_MAX, Publisher};
use media::StreamName;
use rtmp::{Address, ClientConfig, ClientEvent, ClientInput, ClientSession, Media, Output, Role};
use telemetry::{CloseReason, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::{info, info_span};

use super::{PACE_GRACE, Publishing, READ_BYTES, WRITE_TIMEOUT, announcement};
use crate::{Gateway, arrival, count_repairs, in_time, kicked};

/// Most time to look up a name, to connect, and to agree on TLS, each.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Silence after which it is called anew.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// A stream that is fetched, again and again.
#[derive(Clone)]
pub struct RtmpPull {
    /// The stream here.
    pub stream: StreamName,
    /// Which of several it is, from 1: those are different encoders to whoever counts publishers of a key.
    pub row: usize,
    /// Where it is there.
    pub address: Address,
    /// For `rtmps`.
    pub tls: Option<TlsConnector>,
    /// The rank of the leg it makes: 0 is preferred.
    pub rank: u8,
}

impl std::fmt::Debug for RtmpPull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RtmpPull").field("stream", &self.stream).field("address", &self.address).finish_non_exhaustive()
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl Gateway {
    /// Fetches a stream, again whenever it ends, until shutdown.
    pub fn pull_rtmp(&self, pull: RtmpPull) {
        let protocol = if pull.address.is_tls { Protocol::rtmps } else { Protocol::rtmp };
        let span =
            info_span!("pull", stream = %pull.stream, server = pull.address.authority(), protocol = protocol.as_str());
        let gateway = self.clone();
        self.again_and_again(span, move || {
            let (gateway, pull) = (gateway.clone(), pull.clone());
            async move {
                let session = gateway.metrics.session(protocol);
                let outcome = once(&gateway, &pull, protocol).await;
                let reason = if outcome.is_ok() { CloseReason::shutdown } else { CloseReason::network };
                session.close(reason);
                outcome.map(|()| true)
            }
        });
    }
}

/// What woke the loop.
enum Wake {
    Read(std::io::Result<usize>),
    Timeout,
    Kicked(String),
    Shutdown,
}

/// From the connection to its end; fine is only shutdown.
async fn once(gateway: &Gateway, pull: &RtmpPull, protocol: Protocol) -> Result<(), String> {
    let mut socket = tokio::select! {
        () = gateway.shutdown.cancelled() => return Ok(()),
        socket = connect(pull) => socket?,
    };
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
    let Address { app, name, .. } = &pull.address;
    let (app, tc_url, name) = (app.clone(), pull.address.tc_url(), name.clone());
    let mut session = ClientSession::new(Instant::now(), ClientConfig { role: Role::Play, app, tc_url, name, nonce });
    let mut source: Option<Publishing> = None;
    let received = gateway.metrics.received_bytes(protocol);
    let mut buffer = vec![0; READ_BYTES];
    let mut heard = Instant::now();
    let outcome = loop {
        let deadline = match drive(gateway, pull, protocol, &mut session, &mut source, &mut *socket).await {
            Ok((deadline, has_media)) => {
                if has_media {
                    heard = Instant::now();
                }
                deadline
            }
            Err(error) => break Err(error),
        };
        if session.is_closed() {
            break Err("the stream ended there".into());
        }
        let mut orders = source.as_ref().map(|source| source.leg.kicked());
        let paced_until = source.as_ref().and_then(|source| source.paced_until).filter(|until| *until > Instant::now());
        let silent_at = paced_until.map_or(heard, |until| until + PACE_GRACE) + SILENT_AFTER;
        let wake_at = [deadline.filter(|_| paced_until.is_none()), paced_until, Some(silent_at)];
        let wake_at = wake_at.into_iter().flatten().min().unwrap_or(silent_at);
        let wake = tokio::select! {
            biased;
            () = gateway.shutdown.cancelled() => Wake::Shutdown,
            reason = kicked(orders.as_mut()) => Wake::Kicked(reason),
            read = socket.read(&mut buffer), if paced_until.is_none() => Wake::Read(read),
            () = tokio::time::sleep_until(wake_at.into()) => Wake::Timeout,
        };
        let input = match wake {
            Wake::Shutdown => break Ok(()),
            Wake::Kicked(reason) => break Err(reason),
            Wake::Read(Err(error)) => break Err(error.to_string()),
            Wake::Read(Ok(0)) => break Err("the other server closed the connection".into()),
            Wake::Read(Ok(count)) => {
                received.inc_by(count as u64);
                ClientInput::Received(buffer.get(..count).unwrap_or_default())
            }
            Wake::Timeout if silent_at <= Instant::now() => {
                break Err(format!("nothing came for {} s", SILENT_AFTER.as_secs()));
            }
            Wake::Timeout if deadline.is_some_and(|deadline| deadline <= Instant::now()) => ClientInput::Timeout,
            Wake::Timeout => continue,
        };
        if let Err(error) = session.handle_input(Instant::now(), input) {
            break Err(error.to_string());
        }
    };
    if let Some(mut source) = source {
        count_repairs(&gateway.metrics, &source.leg, &mut source.counted);
        source.leg.close(arrival());
    }
    // Other servers repeat the name, and it may be a key.
    outcome.map_err(|error| error.replace(pull.address.name.expose(), "(the stream)"))
}

/// Carries out what the session asks for; its deadline, and whether media came. A source that is paced is taken in unit by unit.
async fn drive(
    gateway: &Gateway,
    pull: &RtmpPull,
    protocol: Protocol,
    session: &mut ClientSession,
    source: &mut Option<Publishing>,
    socket: &mut dyn Duplex,
) -> Result<(Option<Instant>, bool), String> {
    let mut has_media = false;
    loop {
        if source.as_ref().and_then(|source| source.paced_until).is_some_and(|until| until > Instant::now()) {
            return Ok((None, has_media));
        }
        match session.poll_output() {
            Output::Send(bytes) => {
                in_time(WRITE_TIMEOUT, socket.write_all(&bytes)).await.map_err(|error| error.to_string())?;
            }
            Output::Event(ClientEvent::Started) => {
                info!("the other server plays");
                *source = Some(join(gateway, pull, protocol)?);
            }
            Output::Event(ClientEvent::Metadata(metadata)) => {
                if let Some(source) = source {
                    source.leg.announce(Instant::now(), announcement(&metadata));
                }
            }
            Output::Event(ClientEvent::Captured { time_nanos, info }) => {
                if let Some(source) = source {
                    source.leg.captured(arrival(), time_nanos, info.day_nanos, info.frames);
                }
            }
            Output::Event(ClientEvent::Media { time_nanos, media }) => {
                has_media = true;
                if let Some(source) = source {
                    take(gateway, source, time_nanos, media)?;
                }
            }
            Output::Event(ClientEvent::ReconnectRequested { .. }) => {
                return Err("the other server asks to connect anew".into());
            }
            Output::Wait(deadline) => return Ok((deadline, has_media)),
        }
    }
}

fn take(gateway: &Gateway, source: &mut Publishing, time_nanos: i64, media: Media) -> Result<(), String> {
    source.on_media(time_nanos, media).map_err(|error| error.to_string())?;
    count_repairs(&gateway.metrics, &source.leg, &mut source.counted);
    source.paced_until = source.leg.ahead().checked_sub(AHEAD_MAX).map(|extra| Instant::now() + extra);
    Ok(())
}

fn join(gateway: &Gateway, pull: &RtmpPull, protocol: Protocol) -> Result<Publishing, String> {
    if gateway.draining.borrow().is_some() {
        return Err(crate::DRAINING.into());
    }
    let publisher = Publisher {
        protocol: protocol.as_str(),
        peer: pull.address.authority(),
        encoder: None,
        key_id: format!("pull {} from {}", pull.row, pull.address.tc_url()), // the rest may be a key
        rank: pull.rank,
        is_fetched: true,
    };
    let leg = gateway.hub.publish(arrival(), &pull.stream, publisher).map_err(|error| error.to_string())?;
    Ok(Publishing::new(leg))
}

async fn connect(pull: &RtmpPull) -> Result<Box<dyn Duplex>, String> {
    let Address { host, port, is_tls, .. } = &pull.address;
    let step = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let found = in_time(STEP_TIMEOUT, tokio::net::lookup_host((&**host, *port))).await.map_err(step("its name"))?;
    let mut outcome = Err(format!("{host} has no address"));
    for address in found {
        outcome = in_time(STEP_TIMEOUT, TcpStream::connect(address)).await.map_err(step("connecting"));
        if outcome.is_ok() {
            break;
        }
    }
    let socket = outcome?;
    let _ = socket.set_nodelay(true);
    if !is_tls {
        return Ok(Box::new(socket));
    }
    let name = rustls::pki_types::ServerName::try_from(host.to_string()).map_err(|error| error.to_string())?;
    let connector = pull.tls.as_ref().ok_or("there is no TLS")?;
    Ok(Box::new(in_time(STEP_TIMEOUT, connector.connect(name, socket)).await.map_err(step("TLS"))?))
}
