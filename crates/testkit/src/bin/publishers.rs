//! Many RTMP publishers that replay one FLV file over and over, in real time, on one thread.
//!   publishers SERVER CLIP.flv SECONDS < keys     one key a line, one publisher a key
//! Prints how many were let in and how far the slowest fell behind its clock.
#![expect(clippy::print_stdout, reason = "this is the command line")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use testkit::publisher::{Publisher, Tag, read_flv};
use tokio::task::JoinSet;

/// Publishers begin spread over this time, so that their keyframes do not come all at once.
const SPREAD: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, clip, seconds] = arguments.as_slice() else {
        eprintln!("publishers SERVER CLIP.flv SECONDS < keys");
        std::process::exit(2);
    };
    let server: SocketAddr = server.parse().expect("an address");
    let duration = Duration::from_secs(seconds.parse().expect("seconds"));
    let tags: &'static [Tag] = read_flv(&Bytes::from(std::fs::read(clip).expect("a readable clip"))).leak();
    let keys = std::io::read_to_string(std::io::stdin()).expect("keys");
    let keys: Vec<String> = keys.lines().map(str::to_owned).collect();
    let count = u32::try_from(keys.len()).expect("few");
    let mut publishers = JoinSet::new();
    for (index, key) in (0u32..).zip(keys) {
        publishers.spawn(async move {
            tokio::time::sleep(SPREAD * index / count).await;
            Publisher::connect(server, "live", &key).await?.replay(tags, duration).await
        });
    }
    let (mut done, mut behind) = (0, Duration::ZERO);
    while let Some(outcome) = publishers.join_next().await {
        match outcome.expect("no panic") {
            Ok(late) => (done, behind) = (done + 1, behind.max(late)),
            Err(error) => eprintln!("a publisher ended: {error}"),
        }
    }
    println!("{done} of {count} publishers to the end, {} ms behind at most", behind.as_millis());
}
