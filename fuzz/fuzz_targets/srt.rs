//! SRT datagrams to a listener and to a connection, encrypted and not: never a panic, and nothing sent back to a stranger
//! that is longer than what came.
#![no_main]
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use srt::{Caller, CallerConfig, Connection, Incoming, Listener, Output, Passphrase, Progress, Settings, StreamId};

fn connected(now: Instant, settings: &Settings, listener: &Listener, peer: SocketAddr) -> Option<Connection> {
    let config = CallerConfig { settings: settings.clone(), stream_id: Some("publish:a:b".into()), ..CallerConfig::default() };
    let mut caller = Caller::new(now, config, 7, 1).ok()?;
    loop {
        let Progress::Send(datagram) = caller.poll() else { return None };
        match listener.handle_datagram(now, peer, &datagram) {
            Incoming::Reply(reply) => caller.handle_datagram(now, &reply),
            Incoming::Request(request) => return request.accept(now, 9, settings.clone()).ok(),
            _ => return None,
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut now = Instant::now();
    let peer: SocketAddr = ([127, 0, 0, 1], 9).into();
    let listener = Listener::new(now, [1; 32]);
    let Some((mode, mut rest)) = data.split_first() else { return };
    let passphrase = (mode & 1 == 1).then(|| Passphrase::new("0123456789").expect("long enough"));
    let settings = Settings { passphrase, ..Settings::default() };
    let mut connection = connected(now, &settings, &listener, peer).expect("connects");
    // Each datagram: its length, the milliseconds before it, its bytes.
    while let Some((&[length, millis], after)) = rest.split_first_chunk::<2>() {
        let (datagram, after) = after.split_at(usize::from(length).min(after.len()));
        rest = after;
        now += Duration::from_millis(millis.into());
        match listener.handle_datagram(now, peer, datagram) {
            Incoming::Reply(reply) => assert!(reply.len() <= datagram.len()),
            Incoming::Request(request) => {
                let _ = request.stream_id().map(StreamId::parse);
            }
            Incoming::Refused(..) | Incoming::Ignored => {}
        }
        connection.handle_datagram(now, datagram);
        connection.handle_timeout(now);
        while !matches!(connection.poll_output(now), Output::Wait(_)) {}
    }
});
