//! Groups over two seeded networks at virtual time.

use std::time::{Duration, Instant};

use super::{Line, MILLI, Network};
use crate::{
    Caller, CallerConfig, CloseReason, Event, GROUP_BIT, Group, GroupKind, GroupOutput, Incoming, Listener, Membership,
    Progress, RejectCode, Settings,
};

const WAY: Line = Line { delay: Duration::from_millis(10), jitter: Duration::ZERO, loss_per_mille: 0 };

/// Both ends of a group, and its ways.
struct Bond {
    kind: GroupKind,
    settings: Settings,
    epoch: Instant,
    now: Instant,
    ways: Vec<Network>,
    ours: Option<Group>,
    theirs: Option<Group>,
    /// What came out there.
    events: Vec<Event>,
    /// Links that began or stopped to carry the stream, as the sender told.
    told: Vec<(u32, bool)>,
    sent: u32,
}

impl Bond {
    fn new(kind: GroupKind, latency: u64, lines: &[Line]) -> Self {
        let ways = (1u64..).zip(lines).map(|(seed, line)| Network::new(*line, seed)).collect();
        let settings = Settings { latency: Duration::from_millis(latency), ..Settings::default() };
        let now = Instant::now() + Duration::from_secs(100);
        Self {
            kind,
            settings,
            epoch: now,
            now,
            ways,
            ours: None,
            theirs: None,
            events: Vec::new(),
            told: Vec::new(),
            sent: 0,
        }
    }

    /// One more link, over the way of this number; our sockets have the numbers 10, 11, …, theirs 20, 21, ….
    fn link(&mut self, way: u32, weight: u16) {
        let group = Some(Membership { id: GROUP_BIT | 7, kind: self.kind.wire(), weight });
        let config = CallerConfig { settings: self.settings.clone(), group, ..CallerConfig::default() };
        let caller = Caller::new(self.now, config, 10 + way, 0x7fff_ffe0).expect("valid");
        let mut caller = caller.with_epoch(self.epoch);
        let door = Listener::new(self.now, [9; 32]);
        let place = usize::try_from(way).expect("small");
        loop {
            match caller.poll() {
                Progress::Send(datagram) => self.ways[place].send(self.now, 1, &datagram),
                Progress::Connected(connection) => {
                    match &mut self.ours {
                        None => self.ours = Some(Group::bonded(self.kind, *connection, weight)),
                        Some(group) => group.join(self.now, *connection, weight),
                    }
                    return;
                }
                Progress::Wait(_) => {
                    self.step();
                    let peer = "127.0.0.1:9".parse().expect("an address");
                    for (to, datagram) in std::iter::from_fn(|| self.ways[place].arrived(self.now)).collect::<Vec<_>>()
                    {
                        match (to, door.handle_datagram(self.now, peer, &datagram)) {
                            (0, _) => caller.handle_datagram(self.now, &datagram),
                            (_, Incoming::Reply(reply)) => self.ways[place].send(self.now, 0, &reply),
                            (_, Incoming::Request(request)) => {
                                assert_eq!(request.group(), group);
                                let connection =
                                    request.accept(self.now, 20 + way, Some(3), self.settings.clone()).expect("fits");
                                match &mut self.theirs {
                                    None => self.theirs = Some(Group::bonded(self.kind, connection, weight)),
                                    Some(group) => group.join(self.now, connection, weight),
                                }
                            }
                            _ => {}
                        }
                    }
                    caller.handle_timeout(self.now);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// A millisecond: links that stand carry on.
    fn step(&mut self) {
        self.now += MILLI;
        let now = self.now;
        for side in [0, 1] {
            let group = if side == 0 { &mut self.ours } else { &mut self.theirs };
            let Some(group) = group else { continue };
            group.handle_timeout(now);
            loop {
                match group.poll_output(now) {
                    GroupOutput::Send(id, datagram) => {
                        let way = usize::try_from(id % 10).expect("small");
                        self.ways[way].send(now, 1 - side, &datagram);
                    }
                    GroupOutput::Event(event) if side == 1 => self.events.push(event),
                    GroupOutput::LinkActive(id, is_active) if side == 0 => self.told.push((id, is_active)),
                    GroupOutput::Wait(deadline) => {
                        assert!(deadline.is_none_or(|deadline| deadline > now), "it would spin");
                        break;
                    }
                    _ => {}
                }
            }
        }
    }

    /// What is there by now is handed to its link.
    fn arrive(&mut self) {
        for way in 0..self.ways.len() {
            while let Some((to, datagram)) = self.ways[way].arrived(self.now) {
                let (group, base) = if to == 0 { (&mut self.ours, 10) } else { (&mut self.theirs, 20) };
                let id = base + u32::try_from(way).expect("small");
                group.as_mut().expect("stands").handle_datagram(self.now, id, &datagram);
            }
        }
    }

    /// Runs for a time; a numbered packet goes out each 2 ms.
    fn run(&mut self, millis: u32) {
        for step in 0..millis {
            if step % 2 == 0 {
                let mut payload = vec![0x55; 1316];
                payload[..4].copy_from_slice(&self.sent.to_be_bytes());
                assert!(self.ours.as_mut().expect("stands").send(self.now, &payload.into()));
                self.sent += 1;
            }
            self.step();
            self.arrive();
        }
    }

    /// Nothing more is sent, and all that is on its way arrives.
    fn settle(&mut self) {
        let sent = std::mem::replace(&mut self.sent, 0);
        for _ in 0..1000 {
            self.step();
            self.arrive();
        }
        self.sent = sent;
    }

    fn cut(&mut self, way: usize, is_cut: bool) {
        self.ways[way].cut = is_cut.then_some(1);
    }

    fn assert_all_came(&self) {
        let number = |event: &Event| match event {
            Event::Data(payload) => u32::from_be_bytes(payload[..4].try_into().expect("four")),
            other => panic!("{other:?}"),
        };
        let came: Vec<u32> = self.events.iter().map(number).collect();
        assert_eq!(came, (0..self.sent).collect::<Vec<_>>(), "each once, in order");
    }
}

#[test]
fn srt_07_broadcast_loses_nothing_when_one_path_goes_dark_and_then_the_other() {
    let slower = Line { delay: MILLI * 35, jitter: MILLI * 3, ..WAY };
    for lines in [[WAY, slower], [slower, WAY]] {
        let mut bond = Bond::new(GroupKind::Broadcast, 200, &lines);
        bond.link(0, 0);
        bond.run(500);
        bond.link(1, 0); // later: numbers and clock are those of the group
        bond.run(1000);
        for _ in 0..3 {
            bond.cut(0, true);
            bond.run(1500);
            bond.cut(0, false);
            bond.run(1000);
            bond.cut(1, true);
            bond.run(1500);
            bond.cut(1, false);
            bond.run(1000);
        }
        bond.settle();
        bond.assert_all_came();
        let stats = bond.theirs.as_ref().expect("stands").stats();
        assert!(stats.lost > 1000 && stats.dropped == 0, "{stats:?}");
    }
}

#[test]
fn srt_07_broadcast_mends_what_each_path_loses() {
    let lossy = Line { loss_per_mille: 100, delay: MILLI * 40, ..WAY };
    // Less than a round trip for anything to come again: the other path has to have it.
    let mut bond = Bond::new(GroupKind::Broadcast, 60, &[lossy, lossy]);
    bond.link(0, 0);
    bond.link(1, 0);
    bond.run(20_000);
    bond.settle();
    let lost: u64 = bond.events.iter().map(|event| if let Event::Lost(count) = event { *count } else { 0 }).sum();
    assert!(lost > 0 && lost < u64::from(bond.sent) / 50, "1 in 100 is lost on both: {lost} of {}", bond.sent);
}

#[test]
fn srt_07_a_backup_takes_over_within_the_latency_and_gives_back() {
    let mut bond = Bond::new(GroupKind::Backup, 200, &[WAY, WAY]);
    bond.link(0, 10);
    bond.link(1, 5);
    bond.run(1000);
    let carried = |bond: &Bond| bond.ours.as_ref().expect("stands").links().map(|(.., is)| is).collect::<Vec<_>>();
    assert_eq!(carried(&bond), [true, false], "the heavier alone");
    let sent = |bond: &Bond| bond.ways[1].bytes[1];
    let idle = sent(&bond);
    bond.run(1000);
    assert!(sent(&bond) < idle + 1000, "an idle link costs next to nothing: {} to {idle} {:?}", sent(&bond), bond.told);
    bond.cut(0, true);
    bond.run(2000);
    assert!(carried(&bond)[1], "the other has taken over");
    bond.cut(0, false);
    bond.run(3000);
    assert_eq!(carried(&bond), [true, false], "and given back");
    bond.settle();
    bond.assert_all_came();
    assert_eq!(bond.told.first(), Some(&(11, true)), "each change is told: {:?}", bond.told);
}

#[test]
fn a_path_that_stays_dark_is_closed_and_the_group_goes_on() {
    let mut bond = Bond::new(GroupKind::Broadcast, 120, &[WAY, WAY]);
    bond.link(0, 0);
    bond.link(1, 0);
    bond.run(100);
    bond.ways[0] = Network::new(Line { loss_per_mille: 1000, ..WAY }, 1);
    bond.run(6000);
    for group in [&bond.ours, &bond.theirs] {
        assert_eq!(group.as_ref().expect("stands").links().count(), 1);
    }
    bond.ways[0] = Network::new(WAY, 1);
    bond.ours.as_mut().expect("stands").close(bond.now);
    bond.settle();
    assert_eq!(bond.events.pop(), Some(Event::Closed(CloseReason::Peer)));
    bond.assert_all_came();
}

#[test]
fn groups_that_do_not_fit_are_refused() {
    let now = Instant::now();
    let peer = "127.0.0.1:9".parse().expect("an address");
    for (id, kind) in [(7, 1), (GROUP_BIT | 7, 3), (GROUP_BIT | 7, 0)] {
        let door = Listener::new(now, [9; 32]);
        let group = Some(Membership { id, kind, weight: 0 });
        let mut caller = Caller::new(now, CallerConfig { group, ..CallerConfig::default() }, 5, 1).expect("valid");
        let Progress::Send(induction) = caller.poll() else { panic!("it calls") };
        let Incoming::Reply(reply) = door.handle_datagram(now, peer, &induction) else { panic!("it answers") };
        caller.handle_datagram(now, &reply);
        let Progress::Send(conclusion) = caller.poll() else { panic!("it goes on") };
        let answer = door.handle_datagram(now, peer, &conclusion);
        assert!(matches!(answer, Incoming::Refused(RejectCode::GROUP, _)), "{answer:?}");
    }
}
