//! Many requests that wait for one part: how far apart their answers are.
//!   blocked SERVER PLAYLIST-PATH COUNT ROUNDS
//! Each round asks COUNT times, on connections of their own, for the part after the next, and tells how long after the first
//! answer the others were whole.
#![expect(clippy::print_stdout, reason = "this is the command line")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use testkit::http::get;
use testkit::playlist::Playlist;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// Reads one answer to its end; when its last byte came.
async fn answer(socket: &mut TcpStream) -> Instant {
    let mut bytes = Vec::with_capacity(8192);
    loop {
        let count = socket.read_buf(&mut bytes).await.expect("reads");
        assert!(count > 0, "the connection ended early");
        let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        assert!(text.starts_with("http/1.1 200"), "{text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        if bytes.len() >= head + 4 + length.unwrap_or(0usize) {
            return Instant::now();
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, path, count, rounds] = arguments.as_slice() else {
        eprintln!("blocked SERVER PLAYLIST-PATH COUNT ROUNDS");
        std::process::exit(2);
    };
    let server: SocketAddr = server.parse().expect("an address");
    let (count, rounds): (usize, usize) = (count.parse().expect("a number"), rounds.parse().expect("a number"));
    let mut sockets = Vec::new();
    for _ in 0..count {
        let socket = TcpStream::connect(server).await.expect("connects");
        let _ = socket.set_nodelay(true);
        sockets.push(socket);
    }
    let mut spreads = Vec::new();
    for _ in 0..rounds {
        let playlist = Playlist::parse(get(server, path).await.text());
        let (msn, part) = playlist.whole.next_position();
        let request: Arc<str> =
            format!("GET {path}?_HLS_msn={msn}&_HLS_part={} HTTP/1.1\r\nhost: bench\r\n\r\n", part + 2).into();
        let ready = Arc::new(Barrier::new(count));
        let mut tasks = JoinSet::new();
        for mut socket in sockets.drain(..) {
            let (request, ready) = (Arc::clone(&request), Arc::clone(&ready));
            tasks.spawn(async move {
                socket.write_all(request.as_bytes()).await.expect("writes");
                ready.wait().await; // all have asked before anybody listens
                let at = answer(&mut socket).await;
                (at, socket)
            });
        }
        let mut times = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let (at, socket) = done.expect("no panic");
            times.push(at);
            sockets.push(socket);
        }
        let (first, last) = (times.iter().min().expect("some"), times.iter().max().expect("some"));
        spreads.push(last.duration_since(*first));
    }
    spreads.sort();
    let shown: Vec<String> = spreads.iter().map(|spread: &Duration| spread.as_millis().to_string()).collect();
    println!("{count} requests for one part, last answer after the first, ms, by round: {}", shown.join(" "));
}
