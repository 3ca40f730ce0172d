//! Connections that carry the same stream over several paths; a group of one is a plain connection.
//! SRT-07. spec: draft-sharabayko-srt-01 §3.2.1.3.1

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::connection::{CloseReason, Connection, Event, Stats};
use crate::receive::Progress;

/// Set in the numbers of groups, never in those of sockets.
pub const GROUP_BIT: u32 = 1 << 30;
/// A link that holds unacknowledged packets and hears nothing for so long is not trusted.
/// As libsrt has it (`SRTO_GROUPMINSTABLETIMEO`).
const UNSTABLE_MIN: Duration = Duration::from_millis(60);
/// A link that carries nothing is heard once a second; after so long without it is not trusted.
const IDLE_UNSTABLE: Duration = Duration::from_millis(2500);
/// The better link must have been good for so long before the other is let go.
const RETURN_AFTER: Duration = Duration::from_secs(1);
/// Packets that are kept for a link that takes over.
const PAST_PACKETS_MAX: usize = 25_600;
/// And for how long beyond the latency.
const PAST_MARGIN: Duration = Duration::from_secs(1);

/// What the links of a group do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupKind {
    /// All carry everything.
    #[default]
    Broadcast,
    /// The heaviest that works carries everything; another takes over with what was not acknowledged.
    Backup,
}

impl GroupKind {
    /// From the number in a handshake; `None` for what is not known.
    pub fn from_wire(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Broadcast),
            2 => Some(Self::Backup),
            _ => None,
        }
    }

    /// The number in a handshake; see [`crate::Membership`].
    pub fn wire(self) -> u8 {
        match self {
            Self::Broadcast => 1,
            Self::Backup => 2,
        }
    }
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum GroupOutput {
    /// Send a datagram over the link of this number.
    Send(u32, Bytes),
    /// Something happened to the stream.
    Event(Event),
    /// A link is gone, and others are left.
    LinkClosed(u32, CloseReason),
    /// A link carries the stream from now on, or does not.
    LinkActive(u32, bool),
    /// Nothing until then, or until a datagram comes; `None`: it is over.
    Wait(Option<Instant>),
}

#[derive(Debug)]
struct Link {
    connection: Connection,
    weight: u16,
    /// It carries what is sent, since then.
    active_since: Option<Instant>,
}

impl Link {
    /// When it is no longer to be trusted.
    fn unstable_at(&self) -> Instant {
        let sender = &self.connection.sender;
        let heard = self.connection.last_heard();
        match sender.waiting_since() {
            None => heard + IDLE_UNSTABLE,
            // What has been sent just now cannot have been answered.
            Some(since) => {
                let since = self.active_since.map_or(since, |active| active.max(since));
                let patience = sender.rtt.bound().max(UNSTABLE_MIN);
                // A way that is dark in one direction is heard and acknowledges nothing new.
                let stuck = since + patience.max(self.connection.latency() / 2);
                (heard.max(since) + patience).min(stuck)
            }
        }
    }
}

#[derive(Debug)]
struct Past {
    index: u64,
    made: Instant,
    stamp: u32,
    payload: Bytes,
}

/// One or several connections with the same peer, seen as one.
#[derive(Debug)]
pub struct Group {
    kind: GroupKind,
    /// There may be more links than this one.
    is_bonded: bool,
    links: Vec<Link>,
    epoch: Instant,
    /// The peer's number of it.
    theirs: Option<u32>,
    last_data: Instant,
    /// The next that comes out, counted without wrap.
    next: u64,
    /// The next that is sent.
    send_next: u64,
    /// What was sent and may be needed on another link.
    past: VecDeque<Past>,
    told: VecDeque<GroupOutput>,
    /// Packets that no link brought in time.
    dropped: u64,
    /// Figures of links that are gone.
    gone: Stats,
    is_over: bool,
}

impl Group {
    /// A connection alone.
    pub fn single(connection: Connection) -> Self {
        Self::new(GroupKind::Broadcast, connection, 0, false)
    }

    /// The first link of several.
    pub fn bonded(kind: GroupKind, connection: Connection, weight: u16) -> Self {
        Self::new(kind, connection, weight, true)
    }

    fn new(kind: GroupKind, connection: Connection, weight: u16, is_bonded: bool) -> Self {
        let (epoch, next, send_next) = (connection.epoch(), connection.receiver.next(), connection.sender.end());
        let active_since = Some(connection.last_heard());
        let (theirs, last_data) = (connection.peer_group(), connection.last_data());
        Self {
            theirs,
            last_data,
            kind,
            is_bonded,
            links: vec![Link { connection, weight, active_since }],
            epoch,
            next,
            send_next,
            past: VecDeque::new(),
            told: VecDeque::new(),
            dropped: 0,
            gone: Stats::default(),
            is_over: false,
        }
    }

    /// One more link. The peer's clock and numbers are those of the others.
    pub fn join(&mut self, now: Instant, mut connection: Connection, weight: u16) {
        if let Some(first) = self.links.first() {
            connection.join(&first.connection);
        }
        self.links.push(Link { connection, weight, active_since: None });
        if self.kind == GroupKind::Broadcast {
            self.activate(now, self.links.len() - 1);
        } else {
            self.balance(now);
        }
    }

    /// The numbers of the links, what each saw, and whether it carries what is sent.
    pub fn links(&self) -> impl Iterator<Item = (u32, Stats, bool)> {
        self.links.iter().map(|link| (link.connection.id(), link.connection.stats(), link.active_since.is_some()))
    }

    /// The peer's number of the group.
    pub fn peer_group(&self) -> Option<u32> {
        self.theirs
    }

    /// When media came last over any link; at first, when the first was made.
    pub fn last_data(&self) -> Instant {
        self.last_data
    }

    /// The latency that both ends agreed on, for what comes.
    pub fn latency(&self) -> Duration {
        self.links.iter().map(|link| link.connection.latency()).max().unwrap_or_default()
    }

    /// Figures of all links together; times are those of the first link, and what is dropped is what no link brought.
    pub fn stats(&self) -> Stats {
        let mut links = self.links.iter().map(|link| link.connection.stats());
        let Some(first) = links.next() else { return Stats { dropped: self.dropped, ..self.gone } };
        let mut all = first;
        for link in links {
            all.add(&link);
        }
        all.add(&self.gone);
        if self.is_bonded {
            all.dropped = self.dropped;
        }
        all
    }

    fn link(&mut self, id: u32) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.connection.id() == id)
    }

    /// The peer repeats its request to the listener: the answer got lost.
    pub fn handle_repeated_request(&mut self, now: Instant, id: u32) {
        if let Some(link) = self.link(id) {
            link.connection.handle_repeated_request(now);
        }
    }

    /// Takes a datagram that names a link.
    pub fn handle_datagram(&mut self, now: Instant, id: u32, datagram: &[u8]) {
        let Some(link) = self.link(id) else { return };
        let before = link.connection.receiver.counts.packets;
        link.connection.handle_datagram(now, datagram);
        if link.connection.receiver.counts.packets > before {
            self.last_data = now;
        }
        if self.links.len() > 1 {
            let progress = self.links.iter().map(|link| link.connection.receiver.progress());
            let furthest = progress.fold(Progress::default(), Progress::max);
            let [first, others @ ..] = self.links.as_mut_slice() else { return };
            first.connection.receiver.keep_up(furthest);
            for link in others {
                link.connection.receiver.follow(&first.connection.receiver, furthest);
            }
        }
    }

    /// Does what is due. Call it when the time of [`GroupOutput::Wait`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        for link in &mut self.links {
            link.connection.handle_timeout(now);
        }
        if self.kind == GroupKind::Backup {
            self.balance(now);
        }
    }

    /// Sends a payload of at most 1,456 bytes; `false` where too much waits to be acknowledged, or it is too large.
    pub fn send(&mut self, now: Instant, payload: &Bytes) -> bool {
        if self.kind == GroupKind::Backup {
            self.balance(now);
        }
        if !self.is_bonded {
            return self.links.first_mut().is_some_and(|link| link.connection.send(now, payload.clone()));
        }
        let stamp = crate::connection::timestamp(self.epoch, now);
        let past = Past { index: self.send_next, made: now, stamp, payload: payload.clone() };
        let mut is_sent = false;
        for link in self.links.iter_mut().filter(|link| link.active_since.is_some()) {
            is_sent |= put(now, &mut link.connection, &past);
        }
        if is_sent {
            self.send_next += 1;
            self.past.push_back(past);
            self.forget_past(now);
        }
        is_sent
    }

    /// Lets go of what the peer has, or would not wait for.
    fn forget_past(&mut self, now: Instant) {
        let acknowledged = self.links.iter().filter(|link| link.active_since.is_some());
        let acknowledged = acknowledged.map(|link| link.connection.sender.first()).max().unwrap_or(0);
        let kept = self.latency() + PAST_MARGIN;
        while self.past.front().is_some_and(|past| past.index < acknowledged || now > past.made + kept)
            || self.past.len() > PAST_PACKETS_MAX
        {
            self.past.pop_front();
        }
    }

    /// A link carries the stream from now on, beginning with what the peer may not have yet.
    fn activate(&mut self, now: Instant, at: usize) {
        self.forget_past(now);
        let begin = self.past.front().map_or(self.send_next, |past| past.index);
        let Some(link) = self.links.get_mut(at).filter(|link| link.active_since.is_none()) else { return };
        link.connection.sender.restart(now, begin);
        for past in &self.past {
            put(now, &mut link.connection, past);
        }
        link.active_since = Some(now);
        self.told.push_back(GroupOutput::LinkActive(link.connection.id(), true));
    }

    /// Main and backup: who carries the stream.
    fn balance(&mut self, now: Instant) {
        let stable = |link: &Link| !link.connection.is_closed() && now < link.unstable_at();
        // The first of the heaviest: `max_by_key` would take the last.
        let best = self.links.iter().enumerate().rev().filter(|(_, link)| stable(link));
        let Some(best) = best.max_by_key(|(_, link)| link.weight).map(|(at, _)| at) else {
            // None can be trusted: all of them may be better than one.
            return (0..self.links.len()).for_each(|at| self.activate(now, at));
        };
        let Some(link) = self.links.get(best) else { return };
        match link.active_since {
            None => self.activate(now, best),
            Some(since) if now >= since + RETURN_AFTER => {
                for (at, link) in self.links.iter_mut().enumerate() {
                    if at != best && link.active_since.take().is_some() {
                        self.told.push_back(GroupOutput::LinkActive(link.connection.id(), false));
                    }
                }
            }
            Some(_) => {}
        }
    }

    /// Ends all links; the peer is told.
    pub fn close(&mut self, now: Instant) {
        for link in &mut self.links {
            link.connection.close(now);
        }
    }

    /// What to do next. Call it until it says [`GroupOutput::Wait`].
    pub fn poll_output(&mut self, now: Instant) -> GroupOutput {
        if let Some(told) = self.told.pop_front() {
            return told;
        }
        for link in &mut self.links {
            if let Some(datagram) = link.connection.poll_send(now) {
                return GroupOutput::Send(link.connection.id(), datagram);
            }
        }
        if let Some(event) = self.poll_received(now) {
            return GroupOutput::Event(event);
        }
        if let Some(closed) = self.poll_closed() {
            return closed;
        }
        GroupOutput::Wait(self.links.iter().filter_map(|link| link.connection.deadline()).min())
    }

    /// In the order of the numbers: the first that is due on any link.
    fn poll_received(&mut self, now: Instant) -> Option<Event> {
        loop {
            let ready = self.links.iter().enumerate();
            let ready = ready.filter_map(|(at, link)| Some((link.connection.receiver.peek(now)?, at)));
            let (index, at) = ready.min()?;
            if index > self.next {
                if let Some(payload) = self.links.iter().find_map(|link| link.connection.receiver.payload(self.next)) {
                    // Another link has it, for a little later.
                    self.next += 1;
                    return Some(Event::Data(payload));
                }
                let held = self.links.iter().filter_map(|link| link.connection.receiver.first_from(self.next));
                let found = held.min().unwrap_or(index);
                let lost = found - std::mem::replace(&mut self.next, found);
                self.dropped += lost;
                return Some(Event::Lost(lost));
            }
            let payload = self.links.get_mut(at)?.connection.receiver.take_first()?;
            if index == self.next {
                self.next += 1;
                return Some(Event::Data(payload));
            }
        }
    }

    fn poll_closed(&mut self) -> Option<GroupOutput> {
        if self.is_over {
            return None;
        }
        let closed = |(at, link): (usize, &mut Link)| link.connection.poll_closed().map(|reason| (at, reason));
        let (at, reason) = self.links.iter_mut().enumerate().find_map(closed)?;
        if self.links.len() == 1 {
            self.is_over = true;
            return Some(GroupOutput::Event(Event::Closed(reason)));
        }
        let link = self.links.remove(at);
        self.gone.add(&link.connection.stats());
        Some(GroupOutput::LinkClosed(link.connection.id(), reason))
    }
}

/// Hands a payload to a link under its number.
fn put(now: Instant, connection: &mut Connection, past: &Past) -> bool {
    if !connection.is_sendable(&past.payload) {
        return false;
    }
    if connection.sender.end() != past.index {
        connection.sender.restart(now, past.index);
    }
    connection.sender.push(now, past.made, past.stamp, past.payload.clone())
}
