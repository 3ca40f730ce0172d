//! A path for TCP between an encoder and a server that can be cut, and that can stand still.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::programs::{Program, is_there};

/// How the path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Everything passes.
    Open,
    /// Nothing passes, connections stay: a black hole.
    Still,
}

/// A relay for TCP; it ends when dropped.
#[derive(Debug)]
pub struct Cable {
    /// Where the encoder connects.
    pub address: SocketAddr,
    state: watch::Sender<State>,
    /// Counts up when all connections are cut.
    cuts: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

impl Cable {
    /// Relays connections to `server`.
    ///
    /// # Panics
    /// No port is free.
    pub async fn to(server: SocketAddr) -> Self {
        Self::with_delay(server, Duration::ZERO).await
    }

    /// Likewise; what is sent to the server arrives so much later.
    ///
    /// # Panics
    /// No port is free.
    pub async fn with_delay(server: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("is bound");
        let (state, watched) = watch::channel(State::Open);
        let (cuts, cut) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((inner, _)) = listener.accept().await {
                let (state, cut) = (watched.clone(), cut.clone());
                connections.spawn(async move {
                    if let Ok(outer) = TcpStream::connect(server).await {
                        relay(inner, outer, (state, cut), delay).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, state, cuts, _tasks: tasks }
    }

    /// Ends all connections, as a process does that is killed.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Nothing passes until [`Cable::resume`]; what is sent meanwhile waits.
    pub fn hold(&self) {
        self.state.send_replace(State::Still);
    }

    /// Everything passes again.
    pub fn resume(&self) {
        self.state.send_replace(State::Open);
    }

    /// Holds for so long.
    pub async fn stall(&self, duration: Duration) {
        self.hold();
        tokio::time::sleep(duration).await;
        self.resume();
    }

    /// The kernel loses so many of 1,000 packets between encoder and path, both ways, for so long; TCP sends them again.
    ///
    /// # Panics
    /// The caller is not root, or nftables is not installed.
    pub async fn lose(&self, per_mille: u64, duration: Duration) {
        let port = self.address.port();
        let table = format!("inet throughline_cable_{port}");
        // The port leaves the set by itself, should this program be killed meanwhile.
        let rules = format!(
            "add table {table}
            add set {table} lossy {{ type inet_service; flags timeout; }}
            add chain {table} arriving {{ type filter hook input priority 0; }}
            add rule {table} arriving tcp dport @lossy numgen random mod 1000 < {per_mille} drop
            add rule {table} arriving tcp sport @lossy numgen random mod 1000 < {per_mille} drop
            add element {table} lossy {{ {port} timeout {}ms }}",
            duration.as_millis()
        );
        filter(&rules).await;
        tokio::time::sleep(duration).await;
        filter(&format!("delete table {table}")).await;
    }
}

/// Whether the kernel loses packets for this program: it is root, and nftables is installed.
pub async fn can_lose() -> bool {
    is_there(NFT) && Program::start(NFT, ["list tables"]).finish().await.0
}

const NFT: &str = "/usr/sbin/nft";

/// Tells the kernel's packet filter.
async fn filter(rules: &str) {
    let (is_done, _, error) = Program::start(NFT, [rules]).finish().await;
    assert!(is_done, "packets are lost by nftables, which needs root: {error}");
}

async fn relay(
    inner: TcpStream,
    outer: TcpStream,
    (state, mut cut): (watch::Receiver<State>, watch::Receiver<u64>),
    delay: Duration,
) {
    cut.borrow_and_update();
    let (from_inner, to_inner) = inner.into_split();
    let (from_outer, to_outer) = outer.into_split();
    tokio::select! {
        () = pass(from_inner, to_outer, state.clone(), delay) => {}
        () = pass(from_outer, to_inner, state, Duration::ZERO) => {}
        _ = cut.changed() => {}
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    delay: Duration,
) {
    // What is on its way: when it arrives, and the bytes. Without a delay nothing is: who does not read holds up who sends.
    let (sender, arriving) = mpsc::channel(if delay.is_zero() { 1 } else { 64 });
    let read = async move {
        let mut buffer = vec![0; 16 << 10];
        loop {
            if state.wait_for(|state| *state == State::Open).await.is_err() {
                return;
            }
            let Ok(count) = from.read(&mut buffer).await else { return };
            // What was read when the path closed waits with it.
            if count == 0 || state.wait_for(|state| *state == State::Open).await.is_err() {
                return;
            }
            let bytes = buffer.get(..count).unwrap_or_default().to_vec();
            if sender.send((Instant::now() + delay, bytes)).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write(to, arriving));
}

async fn write(mut to: impl AsyncWrite + Unpin, mut arriving: mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Some((at, bytes)) = arriving.recv().await {
        tokio::time::sleep_until(at).await;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
