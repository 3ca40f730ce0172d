//! An SRT caller's socket.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use srt::{Caller, CallerConfig, Connection, Event, Output, Progress};
use tokio::net::UdpSocket;

/// Callers of this process so far.
static CALLERS: AtomicU32 = AtomicU32::new(0);
const DATAGRAM_BYTES_MAX: usize = 2048;
/// Datagrams that are taken at once when several wait.
const BATCH: usize = 64;

/// A connection that was let in, and its socket.
pub(crate) struct SrtLink {
    socket: UdpSocket,
    pub(crate) connection: Connection,
}

/// The first address of a host and port.
///
/// # Errors
/// In words: the name is not known.
pub(crate) async fn resolve(server: &str) -> Result<SocketAddr, String> {
    let mut found = tokio::net::lookup_host(server).await.map_err(|error| format!("{server}: {error}"))?;
    found.next().ok_or_else(|| format!("{server} has no address"))
}

impl SrtLink {
    /// Connects.
    ///
    /// # Errors
    /// In words: refused, or no answer.
    pub(crate) async fn connect(server: SocketAddr, config: CallerConfig) -> Result<Self, String> {
        let own: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(own).await.map_err(|error| error.to_string())?;
        socket.connect(server).await.map_err(|error| error.to_string())?;
        // Callers of one process, and of several on one machine, are told apart.
        let number = CALLERS.fetch_add(1, Ordering::Relaxed);
        let id = (number.wrapping_mul(2_654_435_761) ^ std::process::id()) & 0x3fff_ffff | 1;
        let mut caller = Caller::new(Instant::now(), config, id, id).map_err(str::to_owned)?;
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        loop {
            let deadline = match caller.poll() {
                Progress::Send(datagram) => {
                    socket.send(&datagram).await.map_err(|error| error.to_string())?;
                    continue;
                }
                Progress::Connected(connection) => return Ok(Self { socket, connection: *connection }),
                Progress::Refused(code) => return Err(format!("refused: {code}")),
                Progress::Failed(text) => return Err(text.to_owned()),
                Progress::Wait(deadline) => deadline,
            };
            tokio::select! {
                received = socket.recv(&mut buffer) => {
                    let length = received.map_err(|error| error.to_string())?;
                    caller.handle_datagram(Instant::now(), buffer.get(..length).unwrap_or_default());
                }
                () = tokio::time::sleep_until(deadline.into()) => caller.handle_timeout(Instant::now()),
            }
        }
    }

    /// Sends what is to be sent and tells what happened; when to look again.
    pub(crate) fn flush(&mut self, mut on_event: impl FnMut(Event)) -> Option<Instant> {
        loop {
            match self.connection.poll_output(Instant::now()) {
                Output::Send(datagram) => {
                    let _ = self.socket.try_send(&datagram);
                }
                Output::Event(event) => on_event(event),
                Output::Wait(deadline) => return deadline,
            }
        }
    }

    /// Takes what comes, until something has come or the time is there.
    ///
    /// # Errors
    /// The socket broke.
    pub(crate) async fn receive(&mut self, until: Instant) -> Result<(), String> {
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        tokio::select! {
            biased;
            received = self.socket.recv(&mut buffer) => {
                let mut length = received.map_err(|error| error.to_string())?;
                for _ in 0..BATCH {
                    self.connection.handle_datagram(Instant::now(), buffer.get(..length).unwrap_or_default());
                    let Ok(next) = self.socket.try_recv(&mut buffer) else { break };
                    length = next;
                }
            }
            () = tokio::time::sleep_until(until.into()) => {}
        }
        self.connection.handle_timeout(Instant::now());
        Ok(())
    }

    /// Tells the peer that it is over.
    pub(crate) fn close(&mut self) {
        self.connection.close(Instant::now());
        let _ = self.flush(drop);
    }
}
