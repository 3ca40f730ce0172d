//! A bad network for datagrams, as a program.
//!   relay SERVER DELAY-MS JITTER-MS LOSS-PER-MILLE SEED     prints its address; each second what has passed
#![expect(clippy::print_stdout, reason = "this is the command line")]

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use testkit::relay::{Line, Relay};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, numbers @ ..] = arguments.as_slice() else {
        eprintln!("relay SERVER DELAY-MS JITTER-MS LOSS-PER-MILLE SEED");
        std::process::exit(2);
    };
    let server: SocketAddr = server.parse().expect("an address");
    let numbers: Vec<u64> = numbers.iter().map(|text| text.parse().expect("a number")).collect();
    let [delay, jitter, loss_per_mille, seed] = numbers[..] else { panic!("four numbers") };
    let millis = Duration::from_millis;
    let line = Line { delay: millis(delay), jitter: millis(jitter), loss_per_mille, ..Line::default() };
    let relay = Relay::start(server, line, seed).await;
    println!("{}", relay.address);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        println!("{} {}", count(&relay.counts.forward), count(&relay.counts.forward_bytes));
    }
}
