//! SRT datagrams to a listener, to the links of a group and to a rendezvous, encrypted and not: never a panic, and nothing sent
//! back to a stranger that is longer than what came.
#![no_main]
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use srt::{
    Caller, CallerConfig, Cipher, Connection, GROUP_BIT, Group, GroupKind, GroupOutput, Incoming, Listener, Membership,
    Passphrase, Progress, Rendezvous, Settings, StreamId,
};

fn connected(
    now: Instant,
    id: u32,
    group: Option<Membership>,
    settings: &Settings,
    listener: &Listener,
    peer: SocketAddr,
) -> Option<Connection> {
    let stream_id = Some("publish:a:b".into());
    let config = CallerConfig { settings: settings.clone(), stream_id, group, ..CallerConfig::default() };
    let mut caller = Caller::new(now, config, 7, 1).ok()?;
    loop {
        let Progress::Send(datagram) = caller.poll() else { return None };
        match listener.handle_datagram(now, peer, &datagram) {
            Incoming::Reply(reply) => caller.handle_datagram(now, &reply),
            Incoming::Request(request) => return request.accept(now, id, group.map(|_| 3), settings.clone()).ok(),
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
    let cipher = if mode & 2 == 2 { Cipher::AesGcm } else { Cipher::AesCtr };
    let settings = Settings { passphrase, cipher, ..Settings::default() };
    let kind = if mode & 4 == 4 { GroupKind::Backup } else { GroupKind::Broadcast };
    let member = Some(Membership { id: GROUP_BIT | 5, kind: kind.wire(), weight: 1 });
    let link = |id, group| connected(now, id, group, &settings, &listener, peer).expect("connects");
    let mut group = if mode & 8 == 8 {
        let mut group = Group::bonded(kind, link(9, member), 1);
        group.join(now, link(10, member), 2);
        group
    } else {
        Group::single(link(9, None))
    };
    let config = CallerConfig { settings: settings.clone(), ..CallerConfig::default() };
    let mut rendezvous = Rendezvous::new(now, config, 11, 1, u32::from(*mode) + 1).expect("valid");
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
        rendezvous.handle_datagram(now, datagram);
        rendezvous.handle_timeout(now);
        while !matches!(rendezvous.poll(), Progress::Wait(_)) {}
        group.handle_datagram(now, 9 + u32::from(millis & 1), datagram);
        group.send(now, &Bytes::from_static(b"payload"));
        group.handle_timeout(now);
        while !matches!(group.poll_output(now), GroupOutput::Wait(_)) {}
    }
});
