//! A UDP socket that takes and gives datagrams in batches.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Room for what the system puts together of one peer: 64 datagrams of a whole frame.
const BUFFER_BYTES: usize = 64 << 10;
/// System calls that are made before anything else gets a turn.
const ROUNDS: usize = 4;
/// What goes out in one system call at most.
const SEND_BYTES_MAX: usize = 60_000;

/// What the system may hold for a socket: a keyframe of each of some hundred streams.
const SYSTEM_BUFFER_BYTES: usize = 8 << 20;

/// Beyond its limit the system lets only root go; what it gives is good enough for few streams.
pub(crate) fn grow_buffers(socket: &UdpSocket) {
    use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
    use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force};
    let _ = set_socket_recv_buffer_size_force(socket, SYSTEM_BUFFER_BYTES)
        .or_else(|_| set_socket_recv_buffer_size(socket, SYSTEM_BUFFER_BYTES));
    let _ = set_socket_send_buffer_size_force(socket, SYSTEM_BUFFER_BYTES)
        .or_else(|_| set_socket_send_buffer_size(socket, SYSTEM_BUFFER_BYTES));
}

/// A socket.
#[derive(Debug)]
pub(super) struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// Nothing waits longer for being read.
const AGE_MAX: Duration = Duration::from_secs(1);

/// Datagrams that came together.
#[derive(Clone, Debug)]
pub(super) struct Datagrams {
    /// One behind the other.
    pub(super) bytes: Bytes,
    /// The length of all but the last.
    pub(super) each: usize,
    /// When they came.
    pub(super) at: Instant,
}

/// Where datagrams are read into.
pub(super) struct Buffers {
    bytes: Vec<Vec<u8>>,
    metas: Vec<RecvMeta>,
}

impl Buffers {
    /// Room for so many peers at once.
    pub(super) fn new(count: usize) -> Self {
        let count = count.clamp(1, quinn_udp::BATCH_SIZE);
        Self { bytes: vec![vec![0; BUFFER_BYTES]; count], metas: vec![RecvMeta::default(); count] }
    }
}

/// Datagrams of the same length but the last, which go to one peer together.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: BytesMut,
    each: usize,
    is_full: bool,
}

impl Outgoing {
    /// Adds a datagram; `false` where it does not fit behind the others.
    pub(super) fn push(&mut self, datagram: &[u8], count_max: usize) -> bool {
        if self.bytes.is_empty() {
            (self.each, self.is_full) = (datagram.len(), false);
        } else if self.is_full
            || datagram.len() > self.each
            || self.bytes.len() + datagram.len() > SEND_BYTES_MAX.min(self.each * count_max)
        {
            return false;
        }
        self.is_full |= datagram.len() < self.each;
        self.bytes.extend_from_slice(datagram);
        true
    }
}

impl Socket {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
        let state = UdpSocketState::new((&socket).into())?;
        grow_buffers(&socket);
        // A way with small frames must not swallow what is too large for it: routers may cut it up.
        let _ = set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT);
        Ok(Self { socket, state })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Reads what is there, up to a limit: each call is told the peer, and what came of it at once.
    pub(super) fn receive(&self, buffers: &mut Buffers, mut take: impl FnMut(SocketAddr, Datagrams)) {
        for _ in 0..ROUNDS {
            let read = self.socket.try_io(Interest::READABLE, || {
                let mut slices: Vec<IoSliceMut<'_>> =
                    buffers.bytes.iter_mut().map(|bytes| IoSliceMut::new(bytes)).collect();
                self.state.recv((&self.socket).into(), &mut slices, &mut buffers.metas)
            });
            let Ok(count) = read else { return };
            let (now, clock) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
            for (bytes, meta) in buffers.bytes.iter().zip(&buffers.metas).take(count) {
                let Some(bytes) = bytes.get(..meta.len).filter(|bytes| !bytes.is_empty()) else { continue };
                // When the system had it, not when it was read. A clock that was set is not believed.
                let age = meta.timestamp.and_then(|at| clock.checked_sub(at)).filter(|age| *age < AGE_MAX);
                let at = age.and_then(|age| now.checked_sub(age)).unwrap_or(now);
                take(meta.addr, Datagrams { bytes: Bytes::copy_from_slice(bytes), each: meta.stride.max(1), at });
            }
            if count < buffers.metas.len() {
                return;
            }
        }
    }

    /// Most datagrams that go out together.
    pub(super) fn together_max(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// What the system has no room for is lost like on the way, and asked for again.
    pub(super) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        self.transmit(to, datagram, None);
    }

    /// Sends what was put together, and forgets it.
    pub(super) fn send_together(&self, to: SocketAddr, outgoing: &mut Outgoing) {
        if !outgoing.bytes.is_empty() {
            let each = (outgoing.bytes.len() > outgoing.each).then_some(outgoing.each);
            self.transmit(to, &outgoing.bytes, each);
            outgoing.bytes.clear();
        }
    }

    fn transmit(&self, destination: SocketAddr, contents: &[u8], segment_size: Option<usize>) {
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        let sent = self.socket.try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), &transmit));
        let Some(each) =
            segment_size.filter(|_| sent.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock))
        else {
            return;
        };
        // The device cannot cut it up: one by one.
        for contents in contents.chunks(each) {
            self.transmit(destination, contents, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_datagrams_of_one_length_and_a_shorter_last_go_together() {
        let mut outgoing = Outgoing::default();
        assert!(outgoing.push(&[1; 100], 64) && outgoing.push(&[2; 100], 64));
        assert!(!outgoing.push(&[3; 101], 64), "longer than the first");
        assert!(outgoing.push(&[3; 40], 64), "the last may be shorter");
        assert!(!outgoing.push(&[4; 40], 64), "nothing comes behind the last");
        let mut outgoing = Outgoing::default();
        let fitting = (0..100).take_while(|_| outgoing.push(&[0; 1332], 64)).count();
        assert_eq!(fitting, SEND_BYTES_MAX / 1332);
        let mut outgoing = Outgoing::default();
        assert!(outgoing.push(&[0; 1332], 1) && !outgoing.push(&[0; 1332], 1), "where the system cannot, one by one");
    }

    #[tokio::test]
    async fn what_goes_out_together_arrives_one_by_one() {
        let bind = || async { Socket::new(UdpSocket::bind("127.0.0.1:0").await.expect("free")).expect("a socket") };
        let (ours, theirs) = (bind().await, bind().await);
        let to = theirs.socket.local_addr().expect("bound");
        ours.socket.writable().await.expect("it works");
        let mut outgoing = Outgoing::default();
        for number in 0..20u8 {
            if !outgoing.push(&[number; 1332], ours.together_max()) {
                ours.send_together(to, &mut outgoing);
                assert!(outgoing.push(&[number; 1332], ours.together_max()));
            }
        }
        ours.send_together(to, &mut outgoing);
        ours.send(to, &[99; 16]);
        let mut came = Vec::new();
        while came.last() != Some(&(99, 16)) {
            theirs.readable().await.expect("it works");
            theirs.receive(&mut Buffers::new(4), |_, Datagrams { bytes, each, at }| {
                assert!(at <= Instant::now() && at.elapsed() < AGE_MAX);
                came.extend(bytes.chunks(each).map(|datagram| (datagram[0], datagram.len())));
            });
        }
        let expected: Vec<(u8, usize)> = (0..20).map(|number| (number, 1332)).chain([(99, 16)]).collect();
        assert_eq!(came, expected);
    }
}
