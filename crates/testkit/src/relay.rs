//! A bad network for real programs: a relay for datagrams that loses, delays, reorders and repeats them by a seed, and can be
//! cut.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// What the network does to a datagram, in either direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    /// One way.
    pub delay: Duration,
    /// Up to so much more, each datagram by itself: they overtake each other.
    pub jitter: Duration,
    /// Of 1,000 so many are lost.
    pub loss_per_mille: u64,
    /// So many are lost one after the other, when one is.
    pub burst: u64,
    /// Of 1,000 so many come twice.
    pub duplicate_per_mille: u64,
}

/// Numbers that look random and are the same for the same seed: xorshift64.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next one; the state must not be 0.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Counts of a relay.
#[derive(Debug, Default)]
pub struct Counts {
    /// Datagrams from callers to the server, and their bytes.
    pub forward: AtomicU64,
    /// See [`Counts::forward`].
    pub forward_bytes: AtomicU64,
    /// Datagrams that were lost, in both directions.
    pub lost: AtomicU64,
}

/// A running relay; it ends when dropped.
#[derive(Debug)]
pub struct Relay {
    /// Where callers send.
    pub address: SocketAddr,
    /// What passed.
    pub counts: Arc<Counts>,
    /// Nothing passes while it is set.
    pub cut: Arc<AtomicBool>,
    ways: [Arc<Mutex<Way>>; 2],
    _tasks: JoinSet<()>,
}

/// One direction of the line.
#[derive(Debug)]
struct Way {
    line: Line,
    random: Random,
    burst_left: u64,
}

impl Way {
    /// When copies of the next datagram arrive; none if it is lost.
    fn arrivals(&mut self, now: Instant) -> Vec<Instant> {
        if self.burst_left > 0 {
            self.burst_left -= 1;
            return Vec::new();
        }
        if self.random.draw() % 1000 < self.line.loss_per_mille {
            self.burst_left = self.line.burst.saturating_sub(1);
            return Vec::new();
        }
        let copies = 1 + u64::from(self.random.draw() % 1000 < self.line.duplicate_per_mille);
        let jitter = u64::try_from(self.line.jitter.as_micros()).unwrap_or(0);
        let arrival = |random: &mut Random| {
            let extra = if jitter == 0 { 0 } else { random.draw() % jitter };
            now + self.line.delay + Duration::from_micros(extra)
        };
        (0..copies).map(|_| arrival(&mut self.random)).collect()
    }
}

impl Relay {
    /// Starts one to `server` on the loopback interface.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(server: SocketAddr, line: Line, seed: u64) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
        let address = front.local_addr().expect("bound");
        let (counts, cut) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let way = |salt| {
            let random = Random((seed.wrapping_add(salt)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            Arc::new(Mutex::new(Way { line, random, burst_left: 0 }))
        };
        let (there, back) = (way(1), way(2));
        let mut tasks = JoinSet::new();
        let ways = [Arc::clone(&there), Arc::clone(&back)];
        let (all_counts, all_cut) = (Arc::clone(&counts), Arc::clone(&cut));
        tasks.spawn(async move {
            let mut callers: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            let mut returning = JoinSet::new();
            let mut buffer = [0; 2048];
            loop {
                let Ok((length, caller)) = front.recv_from(&mut buffer).await else { continue };
                all_counts.forward.fetch_add(1, Ordering::Relaxed);
                all_counts.forward_bytes.fetch_add(length as u64, Ordering::Relaxed);
                let socket = match callers.get(&caller) {
                    Some(socket) => Arc::clone(socket),
                    None => {
                        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
                        socket.connect(server).await.expect("connects");
                        callers.insert(caller, Arc::clone(&socket));
                        let (from, to, back) = (Arc::clone(&socket), Arc::clone(&front), Arc::clone(&back));
                        let (counts, cut) = (Arc::clone(&all_counts), Arc::clone(&all_cut));
                        returning.spawn(async move {
                            let mut buffer = [0; 2048];
                            while let Ok(length) = from.recv(&mut buffer).await {
                                pass(&back, &counts, &cut, buffer[..length].to_vec(), Arc::clone(&to), Some(caller))
                                    .await;
                            }
                        });
                        socket
                    }
                };
                pass(&there, &all_counts, &all_cut, buffer[..length].to_vec(), socket, None).await;
            }
        });
        Self { address, counts, cut, ways, _tasks: tasks }
    }

    /// From now on so many of 1,000 are lost, in both directions.
    pub async fn set_loss(&self, per_mille: u64) {
        for way in &self.ways {
            way.lock().await.line.loss_per_mille = per_mille;
        }
    }
}

/// Sends a datagram on at its time, as often as the line has it.
async fn pass(
    way: &Mutex<Way>,
    counts: &Counts,
    cut: &AtomicBool,
    datagram: Vec<u8>,
    socket: Arc<UdpSocket>,
    to: Option<SocketAddr>,
) {
    let arrivals = way.lock().await.arrivals(Instant::now());
    if arrivals.is_empty() || cut.load(Ordering::Relaxed) {
        counts.lost.fetch_add(1, Ordering::Relaxed);
        return;
    }
    for at in arrivals {
        let (socket, datagram) = (Arc::clone(&socket), datagram.clone());
        tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            let _ = match to {
                Some(to) => socket.send_to(&datagram, to).await,
                None => socket.send(&datagram).await,
            };
        });
    }
}
