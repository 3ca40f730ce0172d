//! Limits of the HTTP side: connections, and readers that are too slow.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use telemetry::Metrics;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};

use crate::DeliveryConfig;

/// Time for the first bytes of a connection, whatever protocol they are.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes after which a connection has shown what it is: the HTTP/2 preface.
const FIRST_BYTES: usize = 24;
/// Span over which a reader's rate is judged.
const RATE_SPAN: Duration = Duration::from_secs(10);

/// Counts connections.
#[derive(Debug)]
pub(crate) struct Limits {
    connections: Arc<Semaphore>,
    per_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    per_address_max: usize,
    pub(crate) blocked: Semaphore,
}

/// A place among the connections; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: tokio::sync::OwnedSemaphorePermit,
    address: IpAddr,
    per_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Limits {
    pub(crate) fn new(config: &DeliveryConfig) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(config.connections_max)),
            per_address: Arc::default(),
            per_address_max: config.connections_per_address_max,
            blocked: Semaphore::new(config.blocked_requests_max),
        }
    }

    /// A place for a connection from `address`, if there is one.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Place> {
        let permit = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        let mut counts = self.per_address.lock();
        let count = counts.entry(address).or_default();
        if *count >= self.per_address_max && !address.is_loopback() {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place { _permit: permit, address, per_address: Arc::clone(&self.per_address) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.per_address.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// A socket whose peer must take bytes at a minimum rate while bytes wait for it.
pub(crate) struct RateGuard<S> {
    socket: S,
    bytes_min: u64,
    /// Set while a write waits: when it is over, and what was taken since it was set.
    deadline: Option<Pin<Box<Sleep>>>,
    taken: u64,
    /// Bytes read so far, until it is known what the connection is, and when that must be.
    first: Option<(usize, Pin<Box<Sleep>>)>,
    metrics: Metrics,
}

impl<S> RateGuard<S> {
    pub(crate) fn new(socket: S, bytes_per_second: u64, metrics: Metrics) -> Self {
        Self {
            socket,
            bytes_min: bytes_per_second * RATE_SPAN.as_secs(),
            deadline: None,
            taken: 0,
            first: Some((0, Box::pin(tokio::time::sleep(FIRST_BYTES_TIMEOUT)))),
            metrics,
        }
    }

    /// Judges a write that went through or waits.
    fn judge(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(count)) => {
                self.taken += count as u64;
                let is_over = self.deadline.as_ref().is_some_and(|deadline| deadline.is_elapsed());
                if self.taken >= self.bytes_min || is_over {
                    (self.deadline, self.taken) = (None, 0);
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let deadline = self.deadline.get_or_insert_with(|| {
                    self.taken = 0;
                    Box::pin(tokio::time::sleep(RATE_SPAN))
                });
                if deadline.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                if self.taken >= self.bytes_min {
                    self.taken = 0;
                    deadline.as_mut().reset(Instant::now() + RATE_SPAN);
                    let _ = deadline.as_mut().poll(context);
                    return Poll::Pending;
                }
                self.metrics.http_slow_readers.inc();
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RateGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        if let Some((count, timeout)) = &mut self.first {
            *count += buffer.filled().len() - before;
            if *count >= FIRST_BYTES {
                self.first = None;
            } else if read.is_pending() && timeout.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RateGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(context);
        if flushed.is_ready() && self.taken == 0 {
            self.deadline = None; // nothing waits: an idle connection is not a slow one
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_its_share_of_connections_and_loopback_all() {
        let config = DeliveryConfig { connections_max: 5, connections_per_address_max: 2, ..DeliveryConfig::default() };
        let limits = Limits::new(&config);
        let (viewer, other, proxy) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), [127, 0, 0, 1].into());
        let first = limits.enter(viewer);
        let held = [limits.enter(viewer), limits.enter(other)];
        assert!(first.is_some() && held.iter().all(Option::is_some));
        assert!(limits.enter(viewer).is_none(), "it has its share");
        drop(first);
        let held = [limits.enter(viewer), limits.enter(proxy), limits.enter(proxy), limits.enter(proxy)];
        assert_eq!(held.iter().filter(|place| place.is_some()).count(), 3, "five in all");
    }
}
