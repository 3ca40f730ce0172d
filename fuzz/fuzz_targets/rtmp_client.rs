//! A client session: never a panic.
#![no_main]
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use rtmp::{ClientConfig, ClientInput, ClientSession, Output, Role};

fuzz_target!(|data: &[u8]| {
    let now = Instant::now();
    let config = ClientConfig {
        role: if data.len() % 2 == 0 { Role::Publish } else { Role::Play },
        app: "live".into(),
        tc_url: "rtmp://127.0.0.1/live".into(),
        name: media::StreamKey::new("key"),
        nonce: [0; 32],
    };
    let mut session = ClientSession::new(now, config);
    let hello = [&[3][..], &[0; 3072]].concat();
    if session.handle_input(now, ClientInput::Received(&hello)).is_ok() {
        let _ = session.handle_input(now, ClientInput::Received(data));
    }
    while !matches!(session.poll_output(), Output::Wait(_)) {}
});
