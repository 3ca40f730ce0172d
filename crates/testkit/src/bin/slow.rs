//! Viewers that read slowly: each asks for a resource again and again and takes so many bytes a second.
//!   slow SERVER PATH COUNT BYTES-PER-SECOND SECONDS
#![expect(clippy::print_stdout, reason = "this is the command line")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// What the system may hold for a reader: else a whole segment would hide there.
const RECEIVE_BUFFER_BYTES: u32 = 8 << 10;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, path, count, rate, seconds] = arguments.as_slice() else {
        eprintln!("slow SERVER PATH COUNT BYTES-PER-SECOND SECONDS");
        std::process::exit(2);
    };
    let server: SocketAddr = server.parse().expect("an address");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (count, rate, until) = (number(count), number(rate), Instant::now() + Duration::from_secs(number(seconds)));
    let (taken, closed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let request: Arc<str> = format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").into();
    let mut tasks = JoinSet::new();
    for index in 0..count {
        let (request, taken, closed) = (Arc::clone(&request), Arc::clone(&taken), Arc::clone(&closed));
        tasks.spawn(async move {
            tokio::time::sleep(Duration::from_millis(index * 1000 / count)).await;
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).expect("a small buffer");
            let mut socket = socket.connect(server).await.expect("connects");
            // As many requests as can be sent: there is always something to read.
            socket.write_all(request.repeat(4).as_bytes()).await.expect("writes");
            let mut buffer = vec![0; usize::try_from(rate / 10).expect("small").max(1)];
            while Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let bytes = socket.read(&mut buffer).await.unwrap_or(0);
                if bytes == 0 {
                    closed.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                taken.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    println!(
        "{} bytes taken, {} connections closed by the server",
        taken.load(Ordering::Relaxed),
        closed.load(Ordering::Relaxed)
    );
}
