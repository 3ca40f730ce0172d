//! A server session: never a panic, and one input cut into any pieces gives the same outputs.
#![no_main]
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use rtmp::{Command, Event, Input, Output, ServerConfig, ServerSession};

/// Everything the session says, as text; it lets everybody in.
fn run(now: Instant, data: &[u8], piece: usize) -> String {
    let mut session = ServerSession::new(now, ServerConfig::default());
    let (mut sent, mut events) = (Vec::new(), String::new());
    let mut failed = None;
    let mut feed: Vec<Vec<u8>> = vec![[&[3][..], &[0; 3072]].concat()];
    feed.extend(data.chunks(piece).map(<[u8]>::to_vec));
    for bytes in feed {
        if failed.is_none() {
            failed = session.handle_input(now, Input::Received(&bytes)).err();
        }
        loop {
            match session.poll_output() {
                Output::Send(bytes) => sent.extend_from_slice(&bytes),
                Output::Event(event) => {
                    let asks = matches!(event, Event::PublishRequested { .. } | Event::PlayRequested { .. });
                    events += &format!("{event:?}\n");
                    if asks && failed.is_none() {
                        failed = session.handle_input(now, Input::Command(Command::Accept)).err();
                    }
                }
                Output::Wait(_) => break,
            }
        }
    }
    // Acknowledgements depend on when bytes came, so only what was understood is compared.
    format!("{events}{failed:?}{}", session.is_closed())
}

fuzz_target!(|data: &[u8]| {
    let now = Instant::now();
    let whole = run(now, data, usize::MAX.min(data.len().max(1)));
    assert_eq!(whole, run(now, data, 1 + data.len() / 3));
    assert_eq!(whole, run(now, data, 7));
});
