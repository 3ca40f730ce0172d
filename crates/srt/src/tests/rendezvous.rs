//! Two ends that call each other, over a seeded network at virtual time.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Line, MILLI, Network, QUIET, pump, settings};
use crate::{CallerConfig, Connection, Event, Passphrase, Progress, RejectCode, Rendezvous, Settings};

fn config(settings: &Settings) -> CallerConfig {
    CallerConfig { settings: settings.clone(), ..CallerConfig::default() }
}

/// Both ends, the second so much later than the first.
fn meet(
    line: Line,
    seed: u64,
    settings: [&Settings; 2],
    cookies: [u32; 2],
    later: Duration,
) -> Result<(Instant, Network, [Connection; 2]), Vec<Progress>> {
    let began = Instant::now() + Duration::from_secs(100);
    let mut now = began;
    let mut network = Network::new(line, seed);
    let new = |now, at: usize| {
        let (id, seq) = if at == 0 { (70, 5) } else { (71, 0x7fff_ffff) };
        Rendezvous::new(now, config(settings[at]), id, seq, cookies[at]).expect("valid")
    };
    let mut ends = [Some(new(now, 0)), None];
    let mut connections: [Option<Connection>; 2] = [None, None];
    let (mut failures, mut last_step) = (Vec::new(), 40_000);
    for step in 0.. {
        if step == last_step {
            return Err(failures);
        }
        now += MILLI;
        if failures.is_empty() && now >= began + later && ends[1].is_none() && connections[1].is_none() {
            ends[1] = Some(new(now, 1));
        }
        while let Some((to, datagram)) = network.arrived(now) {
            match (&mut connections[to], &mut ends[to]) {
                (Some(connection), _) => connection.handle_datagram(now, &datagram),
                (None, Some(end)) => end.handle_datagram(now, &datagram),
                (None, None) => {}
            }
        }
        for at in 0..2 {
            if let Some(connection) = &mut connections[at] {
                pump(now, &mut network, connection, 1 - at, &mut Vec::new());
            }
            let before = failures.len();
            let Some(end) = &mut ends[at] else { continue };
            end.handle_timeout(now);
            loop {
                match end.poll() {
                    Progress::Send(datagram) => network.send(now, 1 - at, &datagram),
                    Progress::Connected(connection) => connections[at] = Some(*connection),
                    Progress::Wait(_) => break,
                    failed => {
                        failures.push(failed);
                        last_step = last_step.min(step + 1000);
                        break;
                    }
                }
            }
            if connections[at].is_some() || failures.len() > before {
                ends[at] = None;
            }
        }
        if let [Some(_), Some(_)] = &connections {
            return Ok((now, network, connections.map(|connection| connection.expect("there"))));
        }
    }
    unreachable!("the steps are counted")
}

#[test]
fn two_ends_meet_whoever_is_first_and_asks_and_whatever_is_lost_and_both_ways_carry() {
    let secret = Some(Passphrase::new("correct horse").expect("long enough"));
    let settings = Settings { passphrase: secret, ..settings(200) };
    let lossy = Line { loss_per_mille: 300, ..QUIET };
    for (seed, line) in [QUIET].into_iter().chain([lossy; 20]).enumerate() {
        // libsrt compares cookies by their difference in 32 bits.
        for cookies in [[9, 4], [4, 9], [0x8000_0010, 0x7fff_fff0], [0x7fff_fff0, 0x8000_0010]] {
            for later in [Duration::ZERO, MILLI * 3, Duration::from_secs(2)] {
                let seed = u64::try_from(seed).expect("small");
                let met = meet(line, seed, [&settings; 2], cookies, later);
                let (mut now, mut network, mut ends) = met.expect("they meet");
                network.line = QUIET;
                let mut events = [Vec::new(), Vec::new()];
                for step in 0..1500u32 {
                    now += MILLI;
                    if step < 100 {
                        for end in &mut ends {
                            assert!(end.send(now, Bytes::copy_from_slice(&step.to_be_bytes())));
                        }
                    }
                    while let Some((to, datagram)) = network.arrived(now) {
                        ends[to].handle_datagram(now, &datagram);
                    }
                    for (at, end) in ends.iter_mut().enumerate() {
                        pump(now, &mut network, end, 1 - at, &mut events[at]);
                    }
                }
                let expected = |step: u32| Event::Data(Bytes::copy_from_slice(&step.to_be_bytes()));
                for came in events {
                    let expected: Vec<Event> = (0..100).map(expected).collect();
                    assert_eq!(came, expected, "seed {seed}, {cookies:?}, {later:?}");
                }
            }
        }
    }
}

#[test]
fn ends_that_do_not_fit_refuse_each_other() {
    let [right, wrong, none] = [Some("0123456789"), Some("0123456780"), None].map(|text| Settings {
        passphrase: text.map(|text| Passphrase::new(text).expect("long enough")),
        ..settings(120)
    });
    for (settings, code) in [([&right, &wrong], RejectCode::BAD_SECRET), ([&right, &none], RejectCode::UNSECURE)] {
        for cookies in [[9, 4], [4, 9]] {
            let refused = meet(QUIET, 1, settings, cookies, Duration::ZERO).err().expect("they do not fit");
            let codes: Vec<_> =
                refused.iter().filter(|end| matches!(end, Progress::Refused(found) if *found == code)).collect();
            assert_eq!(codes.len(), 2, "both know why: {refused:?}");
        }
    }
    let same = meet(QUIET, 1, [&right, &right], [5, 5], Duration::ZERO).err().expect("nobody asks");
    assert!(matches!(same.first(), Some(Progress::Failed(_))), "{same:?}");
}
