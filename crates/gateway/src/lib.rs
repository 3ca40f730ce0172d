//! Sockets of the contribution protocols, in and out, tied to the hub: RTMP, RTMPS, SRT, MPEG-TS over UDP, and HLS of
//! other servers.
//!
//! Sessions are sans-IO values of the protocol crates; here are their sockets, clocks and tasks. Every wait on a peer has
//! a limit, reading and writing run side by side, and a session that panics dies alone.

mod hls_pull;
mod rtmp_session;
mod sampling;
mod slate;
mod srt;
mod ts;
mod udp;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hub::{Arrival, Hub, Leg, Repairs};
use listen::{ConnectionLimits, Limits, accept_all};
use media::{AuthorizePlay, StreamKey, StreamName};
use telemetry::{CloseReason, Metrics, Protocol, RejectReason, RepairKind, catch_panic};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span, debug, info, info_span, warn};

pub use crate::hls_pull::HlsPull;
pub use crate::rtmp_session::RtmpPull;
pub use crate::sampling::SamplingSettings;
pub use crate::slate::{AlwaysOn, SlateSettings};
pub use crate::srt::{Direction, LINKS_MAX as SRT_LINKS_MAX, SrtCall, SrtLink, SrtSettings};
pub use crate::udp::UdpStream;

/// Between two attempts of what is tried again, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// What stood for so long was good: the next attempt comes soon.
const STOOD: Duration = Duration::from_secs(10);
/// How soon something is looked for again that is not there yet.
const LOOK: Duration = Duration::from_millis(250);

/// Time for a TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);

/// Who may publish what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The stream the key is for.
    pub stream: StreamName,
    /// Identifier of the key; not the key.
    pub key_id: String,
    /// The rank of the leg: 0 is preferred.
    pub rank: u8,
}

/// Looks a key up. The second argument is the stream name that the encoder gave beside the key, if it gave one. The error
/// is for people who look at their encoder's log.
pub type Authorize = dyn Fn(&StreamKey, Option<&StreamName>) -> Result<Grant, String> + Send + Sync;

/// Decides who gets in.
#[derive(Clone)]
pub struct Doors {
    /// To publish.
    pub publish: Arc<Authorize>,
    /// To play.
    pub play: Arc<AuthorizePlay>,
}

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doors").finish_non_exhaustive()
    }
}

/// What all sessions share.
#[derive(Clone)]
pub struct Gateway {
    hub: Arc<Hub>,
    doors: Doors,
    metrics: Metrics,
    limits: Limits,
    /// Which program of a transport stream is taken, by stream.
    programs: Arc<HashMap<StreamName, u16>>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    /// Set when publishers are to go elsewhere.
    draining: watch::Sender<Option<Draining>>,
}

/// Publishers are to go elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draining {
    /// Where to: an RTMP address for encoders that can be asked; none: to the same address again.
    pub to: Option<String>,
}

/// What publishers are told while the server drains.
pub(crate) const DRAINING: &str = "this server is about to stop: connect to another one, or again in a minute";

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway into `hub`; RTMP and RTMPS share the limits. Its tasks end when `shutdown` is cancelled.
    pub fn new(
        hub: Arc<Hub>,
        doors: Doors,
        limits: ConnectionLimits,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Self {
        let (limits, programs) = (Limits::new(limits), Arc::default());
        let draining = watch::Sender::new(None);
        Self { hub, doors, metrics, limits, programs, tracker: TaskTracker::new(), shutdown, draining }
    }

    /// Takes these programs (`program_number`) of transport streams that have several; without one, the first that has
    /// something to carry.
    #[must_use]
    pub fn with_programs(self, programs: HashMap<StreamName, u16>) -> Self {
        Self { programs: Arc::new(programs), ..self }
    }

    /// A transport stream that feeds a leg.
    fn ts_source(&self, leg: Leg) -> ts::TsSource {
        let program = self.programs.get(leg.stream().name()).copied();
        ts::TsSource::new(leg, program)
    }

    /// Serves RTMP on a listener, or RTMPS if there is an acceptor, until shutdown.
    pub fn serve_rtmp(&self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let gateway = self.clone();
        let protocol = if tls.is_some() { Protocol::rtmps } else { Protocol::rtmp };
        let accepting = accept_all(listener, self.shutdown.clone(), move |socket, peer| {
            gateway.spawn_rtmp(socket, peer, protocol, tls.clone());
        });
        self.tracker.spawn(accepting);
    }

    fn spawn_rtmp(&self, socket: TcpStream, peer: SocketAddr, protocol: Protocol, tls: Option<TlsAcceptor>) {
        let Some(place) = self.limits.enter(peer.ip()) else {
            debug!(%peer, protocol = protocol.as_str(), "too many connections: one was refused");
            self.metrics.rejected(RejectReason::limit);
            return;
        };
        let gateway = self.clone();
        let session = async move {
            let counted = gateway.metrics.session(protocol);
            let outcome = catch_panic(async {
                let hang_up = rtmp_session::HangUp::of(&socket);
                match tls {
                    None => rtmp_session::run(&gateway, socket, hang_up, peer, protocol).await,
                    Some(acceptor) => match in_time(TLS_TIMEOUT, acceptor.accept(socket)).await {
                        Ok(stream) => rtmp_session::run(&gateway, stream, hang_up, peer, protocol).await,
                        Err(error) => {
                            info!(%error, "TLS handshake failed");
                            CloseReason::network
                        }
                    },
                }
            })
            .await;
            counted.close(outcome.unwrap_or(CloseReason::panic));
            drop(place);
        };
        self.tracker.spawn(session.instrument(info_span!("session", %peer, protocol = protocol.as_str())));
    }

    /// Does something that ends, until shutdown: `once` answers whether there was something to do. Attempts that fail come more
    /// and more seldom.
    fn again_and_again<F: Future<Output = Result<bool, String>> + Send + 'static>(
        &self,
        span: Span,
        mut once: impl FnMut() -> F + Send + 'static,
    ) {
        let shutdown = self.shutdown.clone();
        let calling = async move {
            let mut pause = PAUSE_MIN;
            while !shutdown.is_cancelled() {
                let began = Instant::now();
                let next = match Box::pin(catch_panic(once())).await {
                    Ok(Ok(false)) => LOOK,
                    outcome => {
                        match outcome {
                            Ok(Ok(_)) => {}
                            Ok(Err(error)) => warn!(error, retry_ms = pause.as_millis(), "the call failed"),
                            Err(_) => warn!("the call's task panicked"),
                        }
                        pause = if began.elapsed() >= STOOD { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
                        pause
                    }
                };
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(next) => {}
                }
            }
        };
        self.tracker.spawn(calling.instrument(span));
    }

    /// Takes no new publisher from here on, and asks encoders that can be asked to connect anew.
    pub fn drain(&self, draining: Draining) {
        self.draining.send_replace(Some(draining));
    }

    /// Waits until all sessions have ended.
    pub async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// When the hub wants the source gone, and why. Cancel-safe.
pub(crate) async fn kicked(kicked: Option<&mut watch::Receiver<Option<String>>>) -> String {
    match kicked {
        Some(kicked) => {
            let reason = kicked.wait_for(Option::is_some).await;
            reason.ok().and_then(|reason| reason.clone()).unwrap_or_default()
        }
        None => std::future::pending().await,
    }
}

/// Adds what was repaired since the last time to the metrics.
pub(crate) fn count_repairs(metrics: &Metrics, leg: &Leg, counted: &mut Repairs) {
    let now = leg.repairs();
    if now == *counted {
        return;
    }
    let before = std::mem::replace(counted, now);
    for (kind, now, before) in [
        (RepairKind::jump, now.jumps, before.jumps),
        (RepairKind::disorder, now.disorder, before.disorder),
        (RepairKind::composition, now.composition, before.composition),
        (RepairKind::silence, now.silence, before.silence),
        (RepairKind::dropped_audio, now.dropped_audio, before.dropped_audio),
        (RepairKind::damaged, now.damaged, before.damaged),
    ] {
        metrics.repaired(kind, now - before);
    }
}

/// Both clocks, read at once.
pub(crate) fn arrival() -> Arrival {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Arrival { now: Instant::now(), utc_nanos: i64::try_from(utc.as_nanos()).unwrap_or(i64::MAX) }
}

/// A future with a limit; passing it is an error of its own.
pub(crate) async fn in_time<T>(limit: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
