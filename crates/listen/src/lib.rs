//! What every TCP listener does: accept, and refuse who comes too often.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Pause after `accept` failed (usually: no file descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Hands every connection to `take`, until shutdown.
pub async fn accept_all(
    listener: TcpListener,
    shutdown: CancellationToken,
    mut take: impl FnMut(TcpStream, SocketAddr),
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                let _ = socket.set_nodelay(true);
                take(socket, peer);
            }
            Err(error) => {
                warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In all.
    pub max: usize,
    /// From one IPv4 address or one IPv6 network of 64 bits. Loopback is exempt, since reverse proxies live there.
    pub per_address_max: usize,
}

/// Counts connections; clones count together.
#[derive(Clone, Debug)]
pub struct Limits {
    connections: Arc<Semaphore>,
    per_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    per_address_max: usize,
}

/// A place among the connections; dropping it frees it.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    address: IpAddr,
    per_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Limits {
    /// No connection yet.
    pub fn new(limits: ConnectionLimits) -> Self {
        let connections = Arc::new(Semaphore::new(limits.max));
        Self { connections, per_address: Arc::default(), per_address_max: limits.per_address_max }
    }

    /// A place for a connection from `address`, if there is one.
    pub fn enter(&self, address: IpAddr) -> Option<Place> {
        let permit = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        let address = network(address);
        let mut counts = self.per_address.lock();
        let count = counts.get(&address).copied().unwrap_or(0);
        if count >= self.per_address_max && !address.is_loopback() {
            return None;
        }
        counts.insert(address, count + 1);
        drop(counts);
        Some(Place { _permit: permit, address, per_address: Arc::clone(&self.per_address) })
    }
}

/// What one customer of a provider has: an IPv4 address, or an IPv6 network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        other => other,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits::new(ConnectionLimits { max: 5, per_address_max: 2 })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_address_has_its_share_and_gets_it_back() {
        let limits = limits();
        let one = limits.enter(address("192.0.2.1")).expect("free");
        let _two = limits.enter(address("::ffff:192.0.2.1")).expect("free: the same address in other letters");
        assert!(limits.enter(address("192.0.2.1")).is_none());
        assert!(limits.enter(address("192.0.2.2")).is_some());
        drop(one);
        assert!(limits.enter(address("192.0.2.1")).is_some());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let limits = limits();
        let _places = [limits.enter(address("2001:db8::1")), limits.enter(address("2001:db8::2"))].map(Option::unwrap);
        assert!(limits.enter(address("2001:db8::3")).is_none());
        assert!(limits.enter(address("2001:db8:0:1::3")).is_some());
    }

    #[test]
    fn loopback_has_no_share_but_counts_among_all() {
        let limits = limits();
        let places: Vec<_> = (0..5).map(|_| limits.enter(address("127.0.0.1")).expect("free")).collect();
        assert!(limits.enter(address("::1")).is_none() && limits.enter(address("192.0.2.1")).is_none());
        drop(places);
        assert!(limits.per_address.lock().is_empty(), "nothing is remembered of who left");
    }
}
