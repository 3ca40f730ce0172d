//! Two ends over a seeded network at virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::packet::{self, Control, Data, Packet, Seq};
use crate::receive::{Receiver, WINDOW_PACKETS};
use crate::send::Sender;
use crate::{
    Caller, CallerConfig, Cipher, CloseReason, Connection, Event, Incoming, KeyLength, Listener, Output, Passphrase,
    Progress, RejectCode, Settings,
};

mod group;
mod rendezvous;

const MILLI: Duration = Duration::from_millis(1);

/// Numbers that look random and are the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn happens(&mut self, per_mille: u64) -> bool {
        self.next() % 1000 < per_mille
    }
}

#[derive(Clone, Copy)]
struct Line {
    delay: Duration,
    jitter: Duration,
    loss_per_mille: u64,
}

/// When it arrives, its number, where, and what.
type OnWay = (Instant, u64, usize, Vec<u8>);

/// Datagrams on their way, by the time they arrive.
struct Network {
    line: Line,
    random: Random,
    on_way: BinaryHeap<Reverse<OnWay>>,
    count: u64,
    bytes: [u64; 2],
    /// A direction that carries nothing.
    cut: Option<usize>,
}

impl Network {
    fn new(line: Line, seed: u64) -> Self {
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Self { line, random, on_way: BinaryHeap::new(), count: 0, bytes: [0; 2], cut: None }
    }

    fn send(&mut self, now: Instant, to: usize, datagram: &[u8]) {
        self.bytes[to] += datagram.len() as u64;
        if self.cut == Some(to) || self.random.happens(self.line.loss_per_mille) {
            return;
        }
        let jitter = u64::try_from(self.line.jitter.as_micros()).expect("short");
        let extra = Duration::from_micros(if jitter == 0 { 0 } else { self.random.next() % jitter });
        self.count += 1;
        self.on_way.push(Reverse((now + self.line.delay + extra, self.count, to, datagram.to_vec())));
    }

    fn arrived(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        let Reverse((at, ..)) = self.on_way.peek()?;
        if *at > now {
            return None;
        }
        let Reverse((.., to, datagram)) = self.on_way.pop()?;
        Some((to, datagram))
    }
}

const QUIET: Line = Line { delay: Duration::from_millis(5), jitter: Duration::ZERO, loss_per_mille: 0 };

/// What a listener does with whom.
fn connect(
    now: &mut Instant,
    network: &mut Network,
    caller: CallerConfig,
    listener: &Settings,
) -> Result<(Connection, Connection), RejectCode> {
    let door = Listener::new(*now, [7; 32]);
    let peer: SocketAddr = "127.0.0.1:9".parse().expect("an address");
    let mut calling = Caller::new(*now, caller, 77, 0x7fff_fff0).expect("valid");
    let (mut called, mut connected): (Option<Connection>, Option<Connection>) = (None, None);
    for _ in 0..20_000 {
        while connected.is_none() {
            match calling.poll() {
                Progress::Send(datagram) => network.send(*now, 1, &datagram),
                Progress::Connected(connection) => connected = Some(*connection),
                Progress::Refused(code) => return Err(code),
                Progress::Failed(text) => panic!("{text}"),
                Progress::Wait(_) => break,
            }
        }
        if let Some(connection) = &mut called {
            pump(*now, network, connection, 0, &mut Vec::new());
        }
        if let (Some(_), Some(ours)) = (&called, connected.take()) {
            return Ok((ours, called.take().expect("there")));
        }
        *now += MILLI;
        while let Some((to, datagram)) = network.arrived(*now) {
            match (to, &mut called) {
                (0, _) => calling.handle_datagram(*now, &datagram),
                (_, Some(connection)) if crate::destination(&datagram) == Some(0) => {
                    connection.handle_repeated_request(*now);
                }
                (_, Some(connection)) => connection.handle_datagram(*now, &datagram),
                (_, None) => match door.handle_datagram(*now, peer, &datagram) {
                    Incoming::Reply(reply) | Incoming::Refused(_, reply) => network.send(*now, 0, &reply),
                    Incoming::Request(request) => match request.accept(*now, 99, None, listener.clone()) {
                        Ok(connection) => called = Some(connection),
                        Err((_, reply)) => network.send(*now, 0, &reply),
                    },
                    Incoming::Ignored => {}
                },
            }
        }
        calling.handle_timeout(*now);
    }
    panic!("never connected");
}

/// Carries out what a connection wants; datagrams go to `to`.
fn pump(now: Instant, network: &mut Network, connection: &mut Connection, to: usize, events: &mut Vec<Event>) {
    connection.handle_timeout(now);
    loop {
        match connection.poll_output(now) {
            Output::Send(datagram) => network.send(now, to, &datagram),
            Output::Event(event) => events.push(event),
            Output::Wait(deadline) => {
                let is_to_come = deadline.is_none_or(|deadline| deadline > now);
                assert!(is_to_come, "who waits for a time that has passed would wait for ever, or not at all");
                return;
            }
        }
    }
}

struct Run {
    events: Vec<(Duration, Event)>,
    sender: crate::Stats,
    receiver: crate::Stats,
    /// Bytes on the wire from the sender for each of the media's, in per mille.
    overhead: u64,
}

/// The caller sends `packets`, one each 2 ms (5.2 Mbit/s); every payload says its number and when it was made.
fn run(line: Line, seed: u64, settings: &Settings, packets: u32, cut: Option<(u32, u32)>) -> Run {
    let mut now = Instant::now() + Duration::from_secs(100);
    let mut network = Network::new(line, seed);
    let caller =
        CallerConfig { settings: settings.clone(), timeout: Duration::from_secs(30), ..CallerConfig::default() };
    let (mut ours, mut theirs) = connect(&mut now, &mut network, caller, settings).expect("connects");
    network.bytes = [0; 2];
    let began = now;
    let (mut events, mut all) = (Vec::new(), Vec::new());
    for step in 0..packets * 2 + 2000 {
        now += MILLI;
        if step % 2 == 0 && step / 2 < packets {
            let mut payload = vec![0x55; 1316];
            payload[..4].copy_from_slice(&(step / 2).to_be_bytes());
            assert!(ours.send(now, payload.into()));
        }
        network.cut = cut.filter(|(from, to)| (*from..*to).contains(&(step / 2))).map(|_| 1);
        while let Some((to, datagram)) = network.arrived(now) {
            if to == 0 { ours.handle_datagram(now, &datagram) } else { theirs.handle_datagram(now, &datagram) }
        }
        pump(now, &mut network, &mut ours, 1, &mut Vec::new());
        pump(now, &mut network, &mut theirs, 0, &mut events);
        all.extend(events.drain(..).map(|event| (now - began, event)));
    }
    let overhead = network.bytes[1] * 1000 / (u64::from(packets) * 1332);
    Run { events: all, sender: ours.stats(), receiver: theirs.stats(), overhead }
}

impl Run {
    /// Numbers of the payloads that came, and how late each was.
    fn numbers(&self) -> Vec<(u32, Duration)> {
        let number = |payload: &Bytes| u32::from_be_bytes(payload[..4].try_into().expect("four"));
        let came = self.events.iter().filter_map(|(at, event)| match event {
            Event::Data(payload) => Some((number(payload), *at - MILLI * (2 * number(payload) + 1))),
            _ => None,
        });
        came.collect()
    }

    fn lost(&self) -> u64 {
        self.events.iter().map(|(_, event)| if let Event::Lost(count) = event { *count } else { 0 }).sum()
    }
}

fn settings(latency: u64) -> Settings {
    Settings { latency: Duration::from_millis(latency), ..Settings::default() }
}

#[test]
fn everything_arrives_in_order_after_the_latency() {
    let run = run(QUIET, 1, &settings(120), 1000, None);
    let numbers = run.numbers();
    assert_eq!(numbers.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
    let late = |(_, late): &(u32, Duration)| *late;
    let (least, most) = (numbers.iter().map(late).min(), numbers.iter().map(late).max());
    let (least, most) = (least.expect("some"), most.expect("some"));
    assert!(least >= MILLI * 118 && most <= MILLI * 132, "{least:?} to {most:?}");
    assert!(run.receiver.rtt >= MILLI * 9 && run.receiver.rtt <= MILLI * 13, "{:?}", run.receiver.rtt);
}

#[test]
fn at_two_percent_loss_and_eight_round_trips_nothing_is_lost() {
    let line = Line { delay: MILLI * 25, jitter: MILLI * 4, loss_per_mille: 20 };
    for seed in 0..20 {
        let run = run(line, seed, &settings(400), 3000, None);
        assert_eq!((run.lost(), run.numbers().len()), (0, 3000), "seed {seed}: {:?}", run.receiver);
    }
}

#[test]
fn at_ten_percent_loss_and_four_round_trips_hardly_anything_is_lost() {
    let line = Line { delay: MILLI * 50, jitter: Duration::ZERO, loss_per_mille: 100 };
    let (mut lost, mut sent, mut overhead) = (0, 0, 0);
    for seed in 0..20 {
        let run = run(line, seed, &settings(400), 5000, None);
        lost += run.lost();
        sent += 5000;
        overhead += run.overhead;
    }
    println!("{lost} of {sent} lost, {} per mille on the wire", overhead / 20);
    assert!(lost * 10_000 <= 2 * sent, "{lost} of {sent}");
}

#[test]
fn a_hole_that_cannot_be_filled_is_told_and_the_stream_goes_on() {
    let run = run(QUIET, 3, &settings(120), 2000, Some((500, 900)));
    let numbers = run.numbers();
    let expected = 2000 - run.lost();
    assert_eq!(numbers.len() as u64, expected);
    assert!(run.lost() > 200 && run.lost() <= 400, "{} lost", run.lost());
    assert_eq!(numbers.last().map(|(number, _)| *number), Some(1999));
}

#[test]
fn every_key_length_carries_and_keys_change_under_way() {
    let line = Line { delay: MILLI * 10, jitter: MILLI, loss_per_mille: 30 };
    let lengths = [KeyLength::Aes128, KeyLength::Aes192, KeyLength::Aes256];
    let ciphers = [Cipher::AesCtr, Cipher::AesGcm];
    for (cipher, key_length) in ciphers.into_iter().flat_map(|cipher| lengths.map(|length| (cipher, length))) {
        let passphrase = Some(Passphrase::new("correct horse").expect("long enough"));
        let settings = Settings { passphrase, key_length, cipher, refresh_packets: 300, ..settings(300) };
        let run = run(line, 5, &settings, 3000, None);
        assert_eq!((run.numbers().len(), run.lost()), (3000, 0), "{key_length:?}: {:?}", run.receiver);
        assert!(run.numbers().iter().all(|(number, _)| *number < 3000));
        assert_eq!(run.receiver.undecryptable, 0);
        assert!(run.sender.sent_packets >= 3000);
    }
}

#[test]
fn srt_02_and_06_passphrases_that_do_not_fit_are_refused_by_code() {
    let with = |text: Option<&str>| Settings {
        passphrase: text.map(|text| Passphrase::new(text).expect("long enough")),
        ..Settings::default()
    };
    for (caller, listener, code) in [
        (Some("0123456789"), Some("0123456780"), RejectCode::BAD_SECRET),
        (Some("0123456789"), None, RejectCode::UNSECURE),
        (None, Some("0123456789"), RejectCode::UNSECURE),
    ] {
        let mut now = Instant::now();
        let config = CallerConfig { settings: with(caller), ..CallerConfig::default() };
        let refused = connect(&mut now, &mut Network::new(QUIET, 1), config, &with(listener)).err();
        assert_eq!(refused, Some(code));
    }
}

#[test]
fn a_lossy_handshake_is_repeated() {
    let line = Line { loss_per_mille: 400, ..QUIET };
    for seed in 0..30 {
        let mut now = Instant::now();
        let config = CallerConfig { timeout: Duration::from_mins(1), ..CallerConfig::default() };
        connect(&mut now, &mut Network::new(line, seed), config, &Settings::default()).expect("connects");
    }
}

#[test]
fn a_peer_that_falls_silent_is_given_up_and_one_that_leaves_is_played_to_its_end() {
    let mut now = Instant::now();
    let mut network = Network::new(QUIET, 1);
    let (mut ours, mut theirs) =
        connect(&mut now, &mut network, CallerConfig::default(), &Settings::default()).expect("connects");
    assert!(ours.send(now, Bytes::from_static(b"last words")));
    pump(now, &mut network, &mut ours, 1, &mut Vec::new());
    ours.close(now);
    pump(now, &mut network, &mut ours, 1, &mut Vec::new());
    let mut events = Vec::new();
    for _ in 0..300 {
        now += MILLI;
        while let Some((_, datagram)) = network.arrived(now) {
            theirs.handle_datagram(now, &datagram);
        }
        pump(now, &mut network, &mut theirs, 0, &mut events);
    }
    assert_eq!(events, [Event::Data(Bytes::from_static(b"last words")), Event::Closed(CloseReason::Peer)]);

    let (_, mut alone) =
        connect(&mut now, &mut network, CallerConfig::default(), &Settings::default()).expect("connects");
    let mut events = Vec::new();
    for _ in 0..5200 {
        now += MILLI;
        pump(now, &mut network, &mut alone, 0, &mut events);
    }
    assert_eq!(events, [Event::Closed(CloseReason::Silent)]);
}

#[test]
fn a_listener_answers_with_no_more_than_it_got_and_keeps_nothing() {
    let now = Instant::now();
    let door = Listener::new(now, [3; 32]);
    let peer: SocketAddr = "192.0.2.1:5".parse().expect("an address");
    let mut caller = Caller::new(now, CallerConfig::default(), 5, 1).expect("valid");
    let Progress::Send(induction) = caller.poll() else { panic!("it calls") };
    let Incoming::Reply(reply) = door.handle_datagram(now, peer, &induction) else { panic!("it answers") };
    assert!(reply.len() <= induction.len());
    caller.handle_datagram(now, &reply);
    let Progress::Send(conclusion) = caller.poll() else { panic!("it goes on") };
    let elsewhere: SocketAddr = "192.0.2.2:5".parse().expect("an address");
    assert!(matches!(door.handle_datagram(now, elsewhere, &conclusion), Incoming::Ignored), "the cookie is not theirs");
    let later = now + Duration::from_secs(121);
    assert!(matches!(door.handle_datagram(later, peer, &conclusion), Incoming::Ignored), "the cookie is too old");
    assert!(matches!(door.handle_datagram(now, peer, &conclusion), Incoming::Request(_)));
}

#[test]
fn noise_in_place_of_any_packet_changes_nothing_for_the_rest() {
    let mut random = Random(99);
    let mut now = Instant::now();
    let mut network = Network::new(QUIET, 1);
    let (_, mut theirs) =
        connect(&mut now, &mut network, CallerConfig::default(), &Settings::default()).expect("connects");
    for _ in 0..20_000 {
        let length = usize::try_from(random.next() % 64).expect("small");
        let mut noise: Vec<u8> = (0..length).map(|_| random.next().to_le_bytes()[0]).collect();
        if let Some(first) = noise.first_mut() {
            *first |= 0x80; // control packets, which do most
            noise.get_mut(1).into_iter().for_each(|kind| *kind %= 8);
        }
        if noise.get(1) == Some(&5) {
            continue; // a shutdown is what it says
        }
        now += Duration::from_micros(100);
        theirs.handle_datagram(now, &noise);
        pump(now, &mut network, &mut theirs, 0, &mut Vec::new());
    }
}

#[test]
fn a_line_that_loses_nearly_everything_keeps_to_the_overhead_and_never_spins() {
    let line = Line { delay: MILLI * 20, jitter: MILLI * 5, loss_per_mille: 600 };
    for seed in 0..4 {
        let run = run(line, seed, &settings(300), 1500, None);
        assert!(run.numbers().len() > 300, "{:?}", run.receiver);
        assert!(run.overhead < 1400, "{} per mille on the wire", run.overhead);
    }
}

#[test]
fn the_delay_stays_what_was_agreed_on_however_long_the_way() {
    let line = Line { delay: MILLI * 50, jitter: Duration::ZERO, loss_per_mille: 0 };
    let run = run(line, 1, &settings(120), 15_000, None);
    let late: Vec<Duration> = run.numbers().iter().map(|(_, late)| *late).collect();
    let (least, most) = (late.iter().min().expect("some"), late.iter().max().expect("some"));
    assert!(*least >= MILLI * 168 && *most <= MILLI * 182, "latency and way: {least:?} to {most:?}");
}

fn data(seq: u32, timestamp: u32) -> Data<'static> {
    Data { seq: Seq::new(seq), key: 0, is_retransmitted: false, timestamp, payload: b"" }
}

#[test]
fn a_peer_that_has_been_up_for_an_hour_is_played_in_its_time() {
    let now = Instant::now();
    let stamp = 3_600_000_000;
    let mut receiver = Receiver::new(now, Seq::new(1), stamp, MILLI * 120, WINDOW_PACKETS);
    receiver.on_data(now, &data(1, stamp), Bytes::new());
    assert_eq!(receiver.due(), Some(now + MILLI * 120));
    // Over the end of the stamp, 71 minutes after its beginning.
    let later = now + Duration::from_mins(15);
    assert!(receiver.poll(later).is_some());
    receiver.on_data(later, &data(2, stamp.wrapping_add(900_000_000)), Bytes::new());
    assert_eq!(receiver.due(), Some(later + MILLI * 120));
}

#[test]
fn no_stamp_holds_a_packet_for_long() {
    let now = Instant::now();
    let mut receiver = Receiver::new(now, Seq::new(1), 0, MILLI * 120, WINDOW_PACKETS);
    for step in 1u32..10 {
        receiver.on_data(now, &data(0, step.wrapping_mul(0x7fff_fff0)), Bytes::new());
    }
    receiver.on_data(now, &data(1, 0), Bytes::new());
    assert!(receiver.due().is_some_and(|due| due <= now + Duration::from_secs(2)));
}

#[test]
fn behind_a_gap_larger_than_the_window_it_goes_on() {
    let now = Instant::now();
    let mut receiver = Receiver::new(now, Seq::new(1), 0, MILLI * 120, WINDOW_PACKETS);
    receiver.on_data(now, &data(1, 0), Bytes::from_static(b"before"));
    assert!(receiver.poll(now + MILLI * 120).is_some());
    receiver.on_data(now, &data(40_000, 1000), Bytes::from_static(b"after"));
    assert_eq!(receiver.take_first().as_deref(), Some(&b"after"[..]));
    assert_eq!(receiver.counts.lost, 0, "what is given up is not asked for");
    assert!(receiver.counts.dropped >= 39_998 && receiver.nak_at().is_none(), "{:?}", receiver.counts);
}

#[test]
fn a_report_that_names_everything_again_and_again_costs_one_look_at_each() {
    let now = Instant::now();
    let mut sender = Sender::new(now, Seq::new(0), MILLI * 120, 25);
    for _ in 0..20_000 {
        assert!(sender.push(now, now, 0, Bytes::from_static(b"x")));
        assert!(sender.poll(now).is_some());
    }
    let all = (Seq::new(0), Seq::new(19_999));
    let began = Instant::now();
    for _ in 0..100 {
        assert!(sender.on_nak(now, &[all; 180]).is_none());
    }
    assert_eq!(sender.counts.lost, 20_000, "each counts once until it is sent again");
    assert!(began.elapsed() < Duration::from_secs(5), "360 million looks would take longer: {:?}", began.elapsed());
}

#[test]
fn what_is_asked_for_and_gone_is_told_to_be_gone() {
    let now = Instant::now();
    let mut sender = Sender::new(now, Seq::new(5), MILLI * 120, 25);
    sender.restart(now, (1 << 31) + 10);
    let told = sender.on_nak(now, &[(Seq::new(6), Seq::new(12))]);
    assert_eq!(told.map(|(_, first, last)| (first.value(), last.value())), Some((6, 9)));
}

#[test]
fn a_connection_that_its_peer_left_can_be_closed_at_once() {
    let mut now = Instant::now();
    let mut network = Network::new(QUIET, 1);
    let (mut ours, mut theirs) =
        connect(&mut now, &mut network, CallerConfig::default(), &settings(8000)).expect("connects");
    assert!(ours.send(now, Bytes::from_static(b"last words")));
    pump(now, &mut network, &mut ours, 1, &mut Vec::new());
    ours.close(now);
    pump(now, &mut network, &mut ours, 1, &mut Vec::new());
    now += MILLI * 100;
    while let Some((_, datagram)) = network.arrived(now) {
        theirs.handle_datagram(now, &datagram);
    }
    let mut events = Vec::new();
    pump(now, &mut network, &mut theirs, 0, &mut events);
    assert_eq!(events, [], "the last words are still to be said");
    theirs.close(now);
    pump(now, &mut network, &mut theirs, 0, &mut events);
    assert_eq!(events, [Event::Closed(CloseReason::Local)]);
}

#[test]
fn a_repeated_answer_is_stamped_anew() {
    let mut now = Instant::now();
    let mut network = Network::new(QUIET, 1);
    let (_, mut theirs) =
        connect(&mut now, &mut network, CallerConfig::default(), &Settings::default()).expect("connects");
    while !matches!(theirs.poll_output(now), Output::Wait(_)) {}
    now += Duration::from_secs(1);
    theirs.handle_repeated_request(now);
    let Output::Send(answer) = theirs.poll_output(now) else { panic!("it answers") };
    let Ok(Packet::Control { body: Control::Handshake(_), timestamp }) = packet::parse(&answer) else {
        panic!("a handshake")
    };
    assert!(timestamp >= 1_000_000, "{timestamp}");
}

#[test]
fn encryption_is_not_left_by_material_of_any_wrong_length_nor_by_plain_packets() {
    let passphrase = Passphrase::new("correct horse").expect("long enough");
    let settings = Settings { passphrase: Some(passphrase.clone()), ..settings(120) };
    let mut now = Instant::now();
    let mut network = Network::new(QUIET, 1);
    let caller = CallerConfig { settings: settings.clone(), ..CallerConfig::default() };
    let (mut ours, mut theirs) = connect(&mut now, &mut network, caller, &settings).expect("connects");
    let material =
        crate::crypto::Keys::generate(Cipher::AesCtr, KeyLength::Aes128).and_then(|keys| keys.material(&passphrase));
    let material = material.expect("random");
    for length in 0..material.len() {
        theirs.handle_datagram(now, &packet::key_request(&material[..length], 0, theirs.id()));
    }
    assert_eq!(theirs.stats().malformed, u64::try_from(material.len()).expect("small"));
    // A packet in plain, under a number that is expected.
    let plain = Data { payload: b"downgrade", ..data(0x7fff_fff0, 0) };
    theirs.handle_datagram(now, &packet::data(&plain, 1, theirs.id()));
    assert_eq!((theirs.stats().undecryptable, theirs.stats().received_packets), (1, 0));
    assert!(ours.send(now, Bytes::from_static(b"secret")));
    let mut events = Vec::new();
    for _ in 0..200 {
        now += MILLI;
        pump(now, &mut network, &mut ours, 1, &mut Vec::new());
        while let Some((to, datagram)) = network.arrived(now) {
            assert!(!datagram.windows(6).any(|window| window == b"secret"));
            if to == 1 { theirs.handle_datagram(now, &datagram) } else { ours.handle_datagram(now, &datagram) }
        }
        pump(now, &mut network, &mut theirs, 0, &mut events);
    }
    assert_eq!(events, [Event::Data(Bytes::from_static(b"secret"))]);
}

#[test]
fn a_link_that_was_idle_for_hours_counts_and_tells_time_as_the_others_do() {
    let now = Instant::now();
    let (latency, window) = (MILLI * 120, WINDOW_PACKETS);
    let mut busy = Receiver::new(now, Seq::new(1), 0, latency, window);
    let mut idle = Receiver::new(now, Seq::new(1), 0, latency, window);
    idle.join(&busy);
    // Three hours at ten packets a second: the stamp wraps twice, once while nothing came over the idle link.
    let mut at = now;
    for seq in 1..108_000u32 {
        at += MILLI * 100;
        busy.on_data(at, &data(seq, seq.wrapping_mul(100_000)), Bytes::new());
        while busy.poll(at).is_some() {}
        idle.follow(&busy, busy.progress());
    }
    let seq = 108_000u32;
    at += MILLI * 100;
    idle.on_data(at, &data(seq, seq.wrapping_mul(100_000)), Bytes::from_static(b"here"));
    assert_eq!(idle.due(), Some(at + latency));
    assert_eq!(idle.peek(at + latency), Some((1 << 31) + u64::from(seq)));
}

#[test]
fn a_packet_from_far_ahead_costs_no_more_than_another() {
    let mut now = Instant::now();
    let mut network = Network::new(QUIET, 1);
    let (_, theirs) = connect(&mut now, &mut network, CallerConfig::default(), &Settings::default()).expect("connects");
    let id = theirs.id();
    let mut group = crate::Group::single(theirs);
    let began = Instant::now();
    for step in 1..50u32 {
        let ahead = data(0x7fff_fff0u32.wrapping_add(step.wrapping_mul(0x0fff_ffff)) & Seq::MASK, 0);
        let datagram = packet::data(&Data { payload: b"far", ..ahead }, 1, id);
        group.handle_datagram(now, id, &datagram);
        now += MILLI * 130;
        group.handle_timeout(now);
        while !matches!(group.poll_output(now), crate::GroupOutput::Wait(_)) {}
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?} for 50 packets", began.elapsed());
}

#[test]
fn pairs_of_packets_tell_what_the_line_could_carry() {
    let now = Instant::now();
    let mut receiver = Receiver::new(now, Seq::new(0), 0, MILLI * 120, WINDOW_PACKETS);
    let mut at = now;
    for seq in 0..4000u32 {
        // A thousand packets a second; those of a pair lie 200 µs apart, as 5,000 a second would, and some far from it.
        let late = if seq % 160 == 1 { 50 } else { 1 };
        at += match seq % 32 {
            1 => Duration::from_micros(200) * late,
            17 => MILLI * 7,
            _ => MILLI,
        };
        // Every second pair did not leave together: the source had no more.
        let stamp = if seq % 32 == 17 { 5000 } else { 0 };
        receiver.on_data(at, &data(seq, stamp), vec![0; 1316].into());
        while receiver.take_first().is_some() {}
    }
    let capacity = receiver.capacity_bits_per_second();
    assert!((50_000_000..55_000_000).contains(&capacity), "5,000 packets of 1,316 bytes: {capacity}");
}
