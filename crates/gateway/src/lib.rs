//! Sockets of the contribution protocols, in and out, tied to the hub. RTMP and RTMPS so far.
//!
//! Sessions are sans-IO values of the protocol crates; here are their sockets, clocks and tasks. Every wait on a peer has
//! a limit, reading and writing run side by side, and a session that panics dies alone.

mod rtmp_session;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hub::{Arrival, Hub};
use media::{AuthorizePlay, StreamKey, StreamName};
use telemetry::{CloseReason, Metrics, Protocol, catch_panic};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info, info_span, warn};

/// Most RTMP connections at once, both listeners together: 2,000 streams with a standby each, and some that monitor.
const CONNECTIONS_MAX: usize = 4500;
/// Time for a TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after `accept` failed (usually: no file descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Who may publish what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The stream the key is for.
    pub stream: StreamName,
    /// Identifier of the key; not the key.
    pub key_id: String,
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
    connections: Arc<Semaphore>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway into `hub`. Its tasks end when `shutdown` is cancelled.
    pub fn new(hub: Arc<Hub>, doors: Doors, metrics: Metrics, shutdown: CancellationToken) -> Self {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { hub, doors, metrics, connections, tracker: TaskTracker::new(), shutdown }
    }

    /// Serves RTMP on a listener, or RTMPS if there is an acceptor, until shutdown.
    pub fn serve_rtmp(&self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let gateway = self.clone();
        let protocol = if tls.is_some() { Protocol::rtmps } else { Protocol::rtmp };
        self.tracker.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = gateway.shutdown.cancelled() => return,
                };
                match accepted {
                    Ok((socket, peer)) => gateway.spawn_rtmp(socket, peer, protocol, tls.clone()),
                    Err(error) => {
                        warn!(protocol = protocol.as_str(), %error, "accept failed");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                }
            }
        });
    }

    fn spawn_rtmp(&self, socket: TcpStream, peer: SocketAddr, protocol: Protocol, tls: Option<TlsAcceptor>) {
        let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
            warn!(%peer, protocol = protocol.as_str(), "too many connections: one was refused");
            return;
        };
        let gateway = self.clone();
        let session = async move {
            gateway.metrics.session_opened(protocol);
            let _ = socket.set_nodelay(true);
            let outcome = catch_panic(async {
                match tls {
                    None => rtmp_session::run(&gateway, socket, peer, protocol).await,
                    Some(acceptor) => match in_time(TLS_TIMEOUT, acceptor.accept(socket)).await {
                        Ok(stream) => rtmp_session::run(&gateway, stream, peer, protocol).await,
                        Err(error) => {
                            info!(%error, "TLS handshake failed");
                            CloseReason::network
                        }
                    },
                }
            })
            .await;
            gateway.metrics.session_closed(protocol, outcome.unwrap_or(CloseReason::panic));
            drop(permit);
        };
        self.tracker.spawn(session.instrument(info_span!("session", %peer, protocol = protocol.as_str())));
    }

    /// Waits until all sessions have ended.
    pub async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
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
