//! Readers that are too slow.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use telemetry::Metrics;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::reply::Bodies;

/// Time for the first bytes of a connection, whatever protocol they are.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes after which a connection has shown what it is: the HTTP/2 preface.
const FIRST_BYTES: usize = 24;
/// Span over which a reader's rate is judged.
const RATE_SPAN: Duration = Duration::from_secs(10);

/// A socket whose peer must take bytes at a minimum rate while bytes wait for it.
pub(crate) struct RateGuard<S> {
    socket: S,
    bytes_min: u64,
    /// Set while a write waits: when it is over, and what was taken since it was set.
    deadline: Option<Pin<Box<Sleep>>>,
    taken: u64,
    bodies: Arc<Bodies>,
    metrics: Metrics,
}

impl<S> RateGuard<S> {
    pub(crate) fn new(socket: S, bytes_per_second: u64, bodies: Arc<Bodies>, metrics: Metrics) -> Self {
        Self { socket, bytes_min: bytes_per_second * RATE_SPAN.as_secs(), deadline: None, taken: 0, bodies, metrics }
    }

    /// Judges a write that went through or waits.
    fn judge(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(count)) => {
                self.taken += count as u64;
                self.bodies.wrote(count);
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
        Pin::new(&mut self.socket).poll_read(context, buffer)
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

/// A connection, above TLS if there is any, whose first bytes must come in time: nothing else would end one that is silent.
pub(crate) struct FirstBytes<S> {
    socket: S,
    /// Bytes read so far, until it is known what the connection is, and when that must be.
    first: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S> FirstBytes<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self { socket, first: Some((0, Box::pin(tokio::time::sleep(FIRST_BYTES_TIMEOUT)))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytes<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstBytes<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
