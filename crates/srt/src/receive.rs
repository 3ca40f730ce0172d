//! The receiving side: what has come, what is missing, when it is due. spec: draft-sharabayko-srt-01 §4.5–4.8

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::packet::{Ack, Data, Seq};

/// Packets that are held at most: the window that the peer is told.
pub(crate) const WINDOW_PACKETS: u64 = 25_600;
/// So many packets before the first after a pause may have been overtaken by it.
const OVERTAKEN_MAX: u64 = 128;
/// No stamp of a peer holds a packet for longer than the latency and this.
const HOLD_MARGIN: Duration = Duration::from_secs(1);
/// Between two full acknowledgements. spec: draft-sharabayko-srt-01 §4.8.1
pub(crate) const ACK_INTERVAL: Duration = Duration::from_millis(10);
/// Packets after which a light acknowledgement is sent in between.
const LIGHT_ACK_PACKETS: u32 = 64;
/// A missing packet is not asked for again sooner. spec: draft-sharabayko-srt-01 §4.8.2
const NAK_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// Acknowledgements whose answer is still waited for.
const ACKS_OPEN_MAX: usize = 128;
/// Samples of the peer's clock that make one estimate, and the smallest difference that counts.
const DRIFT_SAMPLES: u32 = 500;
const DRIFT_MIN_MICROS: i64 = 5000;

#[derive(Debug)]
struct Slot {
    due: Instant,
    payload: Bytes,
}

/// Counts of what came. spec of the names: SRT statistics
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Packets that were found missing, each counted once.
    pub(crate) lost: u64,
    pub(crate) retransmitted: u64,
    /// Came after their time or twice.
    pub(crate) belated: u64,
    pub(crate) duplicate: u64,
    /// Never came in time.
    pub(crate) dropped: u64,
    pub(crate) undecryptable: u64,
    /// Came and found no room.
    pub(crate) overflow: u64,
}

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    Payload(Bytes),
    /// So many packets are missing here.
    Lost(u64),
}

/// When the peer's clock showed what, on ours.
#[derive(Clone, Copy, Debug)]
struct Clock {
    at: Instant,
    /// The stamp at that time, counted without wrap.
    stamp: u64,
}

/// How far a receiver has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    next: u64,
    stamp: u64,
}

impl Progress {
    pub(crate) fn max(self, other: Self) -> Self {
        Self { next: self.next.max(other.next), stamp: self.stamp.max(other.stamp) }
    }
}

impl Clock {
    fn read(&self, stamp: u64) -> Instant {
        let apart = Duration::from_micros(stamp.abs_diff(self.stamp));
        if stamp >= self.stamp { self.at + apart } else { self.at.checked_sub(apart).unwrap_or(self.at) }
    }
}

#[derive(Debug)]
pub(crate) struct Receiver {
    /// The next to be delivered, counted without wrap.
    next: u64,
    slots: VecDeque<Option<Slot>>,
    /// The first of the slots that holds a packet.
    first_filled: Option<u64>,
    /// What is missing, and when it was asked for last.
    missing: BTreeMap<u64, Instant>,
    /// When something missing was asked for, the longest ago.
    asked_first: Option<Instant>,
    window: u64,
    latency: Duration,
    clock: Clock,
    last_timestamp: u64,
    /// Round trip when the clock was read first: half of what it grows since is no drift.
    rtt_first: Option<Duration>,
    drift: Drift,
    last_data: Instant,
    /// The next packet may be any: before it nothing is missing.
    may_jump: bool,
    /// Where the other links of the group are.
    jumps_near: u64,
    acks: VecDeque<(u32, Instant)>,
    ack_number: u32,
    /// What was acknowledged last, and when.
    acked: Option<(u64, Instant)>,
    since_light: u32,
    rtt: Rtt,
    rate: Rate,
    pairs: Pairs,
    pub(crate) counts: Received,
}

/// Round trip time, smoothed. spec: draft-sharabayko-srt-01 §4.10
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rtt {
    pub(crate) micros: u32,
    pub(crate) var_micros: u32,
    is_measured: bool,
}

impl Default for Rtt {
    fn default() -> Self {
        Self { micros: 100_000, var_micros: 50_000, is_measured: false }
    }
}

impl Rtt {
    pub(crate) fn add(&mut self, sample: Duration) {
        let sample = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX).min(60_000_000);
        if self.is_measured {
            self.var_micros = (3 * self.var_micros + self.micros.abs_diff(sample)) / 4;
            self.micros = (7 * self.micros + sample) / 8;
        } else {
            (self.micros, self.var_micros, self.is_measured) = (sample, sample / 2, true);
        }
    }

    /// As the peer reports it.
    pub(crate) fn set(&mut self, micros: u32, var_micros: u32) {
        (self.micros, self.var_micros) = (micros.min(60_000_000), var_micros.min(60_000_000));
        self.is_measured = true;
    }

    pub(crate) fn is_measured(&self) -> bool {
        self.is_measured
    }

    pub(crate) fn smooth(&self) -> Duration {
        Duration::from_micros(self.micros.into())
    }

    /// With four deviations: an answer that takes longer will not come.
    pub(crate) fn bound(&self) -> Duration {
        Duration::from_micros(u64::from(self.micros) + 4 * u64::from(self.var_micros))
    }
}

/// Difference between the peer's clock and ours, from the stamps of its packets. spec: draft-sharabayko-srt-01 §4.7
#[derive(Clone, Copy, Debug, Default)]
struct Drift {
    sum_micros: i64,
    samples: u32,
}

/// Packets and bytes of the last whole second.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    began: Option<Instant>,
    packets: u32,
    bytes: u32,
    last: (u32, u32),
}

impl Rate {
    fn add(&mut self, now: Instant, bytes: usize) {
        let began = *self.began.get_or_insert(now);
        if now.saturating_duration_since(began) >= Duration::from_secs(1) {
            self.last = (self.packets, self.bytes);
            (self.began, self.packets, self.bytes) = (Some(now), 0, 0);
        }
        self.packets += 1;
        self.bytes = self.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}

/// Capacity of the line: every sixteenth packet and the one behind it leave back to back, and the narrowest place on their way
/// draws them apart. spec: draft-sharabayko-srt-01 §5.2.1.2
#[derive(Clone, Debug, Default)]
struct Pairs {
    first: Option<(u64, u32, Instant)>,
    /// The last distances, the newest last.
    micros: VecDeque<u64>,
}

/// Packets whose stamps lie no further apart left together.
const TOGETHER_MICROS: u32 = 100;
/// Pairs that are remembered, and how many tell something.
const PAIRS_MAX: usize = 16;
const PAIRS_MIN: usize = 4;

impl Pairs {
    /// `stamp`: when it left. Only those that left together tell: a source may have had nothing more to send.
    fn add(&mut self, now: Instant, index: u64, stamp: u32) {
        match (index & 15, self.first) {
            (0, _) => self.first = Some((index, stamp, now)),
            (1, Some((first, left, at)))
                if first + 1 == index && now > at && stamp.wrapping_sub(left) <= TOGETHER_MICROS =>
            {
                if self.micros.len() == PAIRS_MAX {
                    self.micros.pop_front();
                }
                let apart = now.saturating_duration_since(at).as_micros();
                self.micros.push_back(u64::try_from(apart).unwrap_or(u64::MAX).max(1));
            }
            _ => {}
        }
    }

    /// Packets per second; 0 until it is known. Far outliers do not count.
    fn packets_per_second(&self) -> u32 {
        if self.micros.len() < PAIRS_MIN {
            return 0;
        }
        let mut sorted: Vec<u64> = self.micros.iter().copied().collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(1).max(1);
        let near = sorted.iter().filter(|micros| (median.div_ceil(8)..=median.saturating_mul(8)).contains(*micros));
        let (sum, count) = near.fold((0u64, 0u64), |(sum, count), micros| (sum.saturating_add(*micros), count + 1));
        u32::try_from(1_000_000 * count / sum.max(1)).unwrap_or(u32::MAX)
    }
}

impl Receiver {
    /// `timestamp`: what the peer's clock showed when it was received, at `now`; at most `window` packets are held.
    pub(crate) fn new(now: Instant, first: Seq, timestamp: u32, latency: Duration, window: u64) -> Self {
        // Counted from the second lap, so that nothing before it is below zero.
        let (next, stamp) = ((1 << 31) + u64::from(first.value()), (1 << 32) + u64::from(timestamp));
        Self {
            next,
            slots: VecDeque::new(),
            first_filled: None,
            missing: BTreeMap::new(),
            asked_first: None,
            window,
            latency,
            clock: Clock { at: now, stamp },
            last_timestamp: stamp,
            rtt_first: None,
            drift: Drift::default(),
            last_data: now,
            may_jump: false,
            jumps_near: 0,
            acks: VecDeque::new(),
            ack_number: 0,
            acked: None,
            since_light: 0,
            rtt: Rtt::default(),
            rate: Rate::default(),
            pairs: Pairs::default(),
            counts: Received::default(),
        }
    }

    /// When a packet with media came last; at first, when the connection was made.
    pub(crate) fn last_data(&self) -> Instant {
        self.last_data
    }

    /// Joins the other receivers of its group: the same clock, numbers counted alike. What came before is no loss.
    pub(crate) fn join(&mut self, other: &Self) {
        (self.clock, self.last_timestamp) = (other.clock, other.last_timestamp);
        let first = Seq::of(self.next).unwrapped(other.end()).unwrap_or(self.next);
        // A link that takes over begins with what the others did not acknowledge, before its own first number.
        self.next = first.min(other.next);
        self.may_jump = true;
    }

    /// How far this end has come: packets, and the peer's stamps, counted without wrap.
    pub(crate) fn progress(&self) -> Progress {
        Progress { next: self.next, stamp: self.last_timestamp }
    }

    /// The receivers of a group have one clock, and count in the same lap also where nothing came for hours.
    pub(crate) fn follow(&mut self, first: &Self, furthest: Progress) {
        self.clock = first.clock;
        self.keep_up(furthest);
    }

    /// See [`Receiver::follow`].
    pub(crate) fn keep_up(&mut self, furthest: Progress) {
        self.last_timestamp = self.last_timestamp.max(furthest.stamp);
        // Not `next`: nothing is acknowledged that did not come over this link.
        self.jumps_near = furthest.next;
    }

    /// The first packet that is held from this number on.
    pub(crate) fn first_from(&self, index: u64) -> Option<u64> {
        let first = self.first_filled?.max(index);
        let place = usize::try_from(first.checked_sub(self.next)?).ok()?;
        let found = self.slots.iter().skip(place).position(Option::is_some)?;
        Some(first + found as u64)
    }

    /// The sender has stopped for a while: where it goes on nothing is missing.
    pub(crate) fn pause(&mut self) {
        self.may_jump = self.first_filled.is_none();
    }

    /// The number of the next that comes out and is due, and whether those before it are missing.
    pub(crate) fn peek(&self, now: Instant) -> Option<u64> {
        let first = self.first_filled?;
        self.filled(first).is_some_and(|slot| slot.due <= now).then_some(first)
    }

    fn filled(&self, index: u64) -> Option<&Slot> {
        let place = usize::try_from(index.checked_sub(self.next)?).ok()?;
        self.slots.get(place).and_then(Option::as_ref)
    }

    /// The next that comes out, counted without wrap.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Takes the first that is held, and gives up what is missing before it.
    pub(crate) fn take_first(&mut self) -> Option<Bytes> {
        let first = self.first_filled?;
        if first > self.next {
            self.give_up(first - self.next);
        }
        let slot = self.slots.pop_front().flatten()?;
        self.next += 1;
        // Looked for once for each gap, not once for each packet.
        let gap = self.slots.iter().position(Option::is_some);
        self.first_filled = gap.map(|gap| self.next + gap as u64);
        Some(slot.payload)
    }

    /// What is held of this number, due or not.
    pub(crate) fn payload(&self, index: u64) -> Option<Bytes> {
        self.filled(index).map(|slot| slot.payload.clone())
    }

    pub(crate) fn rtt(&self) -> Rtt {
        self.rtt
    }

    /// One behind the highest that has come or was found missing.
    fn end(&self) -> u64 {
        self.next + self.slots.len() as u64
    }

    /// All before this have come.
    fn contiguous(&self) -> u64 {
        self.missing.first_key_value().map_or(self.end(), |(index, _)| *index)
    }

    /// Media time that is held.
    pub(crate) fn held(&self) -> Duration {
        match (self.due(), self.slots.back()) {
            (Some(first), Some(Some(last))) => last.due.saturating_duration_since(first),
            _ => Duration::ZERO,
        }
    }

    /// What the line could carry, in bits per second with packets as large as those of the last second; 0 until it is known.
    pub(crate) fn capacity_bits_per_second(&self) -> u64 {
        let (packets, bytes) = self.rate.last;
        let packet_bits = u64::from(bytes) * 8 / u64::from(packets.max(1));
        u64::from(self.pairs.packets_per_second()) * packet_bits
    }

    pub(crate) fn bytes_per_second(&self) -> u32 {
        self.rate.last.1
    }

    /// Our clock at a stamp of the peer's. spec: draft-sharabayko-srt-01 §4.5.1: the stamp wraps after 71 minutes
    fn at(&mut self, timestamp: u32) -> Instant {
        let behind = timestamp.wrapping_sub(u32::try_from(self.last_timestamp & 0xffff_ffff).unwrap_or(0));
        let unwrapped = if behind < 1 << 31 {
            self.last_timestamp + u64::from(behind)
        } else {
            self.last_timestamp.saturating_sub(u64::from(behind.wrapping_neg()))
        };
        self.last_timestamp = self.last_timestamp.max(unwrapped);
        self.clock.read(unwrapped)
    }

    /// Takes a packet whose payload is plain; returns the range that it showed to be missing.
    pub(crate) fn on_data(&mut self, now: Instant, data: &Data<'_>, payload: Bytes) -> Option<(Seq, Seq)> {
        self.counts.packets += 1;
        self.counts.bytes += payload.len() as u64;
        self.counts.retransmitted += u64::from(data.is_retransmitted);
        self.rate.add(now, payload.len());
        self.since_light += 1;
        self.last_data = now;
        let due = (self.at(data.timestamp) + self.latency).min(now + self.latency + HOLD_MARGIN);
        let near = if self.may_jump { self.end().max(self.jumps_near) } else { self.end() };
        let index = data.seq.unwrapped(near)?;
        if !data.is_retransmitted {
            self.pairs.add(now, index, data.timestamp);
        }
        if index < self.next {
            self.counts.belated += 1;
            return None;
        }
        // After a pause, or behind a gap that nothing ends: what is between will not come any more.
        let is_beyond = index >= self.next + self.window;
        let jumps = self.first_filled.is_none() && (is_beyond || std::mem::take(&mut self.may_jump));
        if jumps {
            self.counts.dropped += if is_beyond { index - self.next } else { 0 };
            self.slots.clear();
            self.missing.clear();
            // Datagrams overtake each other: a few that were sent before may still come.
            self.next = self.next.max(index - OVERTAKEN_MAX.min(index));
        } else if is_beyond {
            self.counts.overflow += 1;
            return None;
        }
        let end = self.end();
        if index >= end {
            for lost in end..index {
                self.slots.push_back(None);
                self.missing.insert(lost, now);
            }
            self.asked_first = self.asked_first.or((index > end).then_some(now));
            self.slots.push_back(Some(Slot { due, payload }));
            self.first_filled = self.first_filled.or(Some(index));
            if jumps || index == end {
                return None;
            }
            self.counts.lost += index - end;
            return Some((Seq::of(end), Seq::of(index - 1)));
        }
        let place = usize::try_from(index - self.next).ok().and_then(|at| self.slots.get_mut(at));
        match place {
            Some(place @ None) => {
                *place = Some(Slot { due, payload });
                self.missing.remove(&index);
                self.first_filled = Some(self.first_filled.map_or(index, |first| first.min(index)));
            }
            _ => self.counts.duplicate += 1,
        }
        None
    }

    /// What the peer will not send any more.
    pub(crate) fn on_drop_request(&mut self, first: Seq, last: Seq) {
        let (Some(first), Some(last)) = (first.unwrapped(self.end()), last.unwrapped(self.end())) else { return };
        let last = last.min(self.next + self.window - 1);
        while self.end() <= last {
            self.slots.push_back(None);
            self.counts.lost += 1;
        }
        let gone: Vec<u64> = self.missing.range(first..last.saturating_add(1).max(first)).map(|(at, _)| *at).collect();
        for index in gone {
            self.missing.remove(&index);
        }
    }

    /// The next that is due. Where something is missing, once what follows is due it is too late for it.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Delivered> {
        let gap = self.peek(now)? - self.next;
        if gap > 0 {
            self.give_up(gap);
            return Some(Delivered::Lost(gap));
        }
        self.take_first().map(Delivered::Payload)
    }

    fn give_up(&mut self, gap: u64) {
        self.slots.drain(..usize::try_from(gap).unwrap_or(0).min(self.slots.len()));
        self.next += gap;
        self.missing = self.missing.split_off(&self.next);
        self.counts.dropped += gap;
    }

    /// When the next is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.first_filled.and_then(|first| self.filled(first)).map(|slot| slot.due)
    }

    /// A missing packet is asked for again several times a round trip: a report may get lost as well, and a peer that has sent
    /// the packet already does not send it again because of a second report.
    fn ask_again_after(&self) -> Duration {
        let bound = Duration::from_micros(u64::from(self.rtt.micros) + 2 * u64::from(self.rtt.var_micros));
        (bound / 4).max(NAK_INTERVAL_MIN)
    }

    /// When something missing is to be asked for again.
    pub(crate) fn nak_at(&self) -> Option<Instant> {
        if self.missing.is_empty() {
            return None;
        }
        self.asked_first.map(|asked| asked + self.ask_again_after())
    }

    /// What is missing and was not asked for lately, as ranges. spec: draft-sharabayko-srt-01 §4.8.2
    pub(crate) fn due_naks(&mut self, now: Instant) -> Vec<(Seq, Seq)> {
        let after = self.ask_again_after();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut first = None;
        for (index, asked) in &mut self.missing {
            if *asked + after <= now {
                *asked = now;
                match ranges.last_mut() {
                    Some((_, last)) if *last + 1 == *index => *last = *index,
                    _ => ranges.push((*index, *index)),
                }
            }
            first = Some(first.map_or(*asked, |first: Instant| first.min(*asked)));
        }
        self.asked_first = first;
        ranges.into_iter().map(|(first, last)| (Seq::of(first), Seq::of(last))).collect()
    }

    /// A full acknowledgement, if there is something new to say or the last may have got lost.
    pub(crate) fn full_ack(&mut self, now: Instant) -> Option<Ack> {
        let next = self.contiguous();
        if let Some((acked, at)) = self.acked
            && acked == next
            && (self.acks.is_empty() || now < at + self.rtt.bound())
        {
            return None;
        }
        self.acked = Some((next, now));
        self.ack_number = self.ack_number.wrapping_add(1).max(1);
        if self.acks.len() >= ACKS_OPEN_MAX {
            self.acks.pop_front();
        }
        self.acks.push_back((self.ack_number, now));
        self.since_light = 0;
        let (packets_per_second, bytes_per_second) = self.rate.last;
        let room = self.window.saturating_sub(self.slots.len() as u64).max(2);
        Some(Ack {
            number: self.ack_number,
            next: Seq::of(next).value(),
            rtt_micros: Some(self.rtt.micros),
            rtt_var_micros: self.rtt.var_micros,
            room: u32::try_from(room).unwrap_or(u32::MAX),
            packets_per_second,
            capacity_packets_per_second: self.pairs.packets_per_second(),
            bytes_per_second,
        })
    }

    /// spec: draft-sharabayko-srt-01 §3.2.4.1: many packets between two full ones
    pub(crate) fn light_ack(&mut self) -> Option<Ack> {
        if self.since_light < LIGHT_ACK_PACKETS {
            return None;
        }
        self.since_light = 0;
        Some(Ack { number: 0, next: Seq::of(self.contiguous()).value(), ..Ack::default() })
    }

    /// The peer saw an acknowledgement: a round trip, and what its clock says.
    pub(crate) fn on_ack_ack(&mut self, now: Instant, number: u32, timestamp: u32) {
        while let Some((open, sent)) = self.acks.front().copied() {
            if open.wrapping_sub(number) < 1 << 31 && open != number {
                return; // answered before, or never sent
            }
            self.acks.pop_front();
            if open == number {
                self.rtt.add(now.saturating_duration_since(sent));
                self.note_clock(now, timestamp);
                return;
            }
        }
    }

    /// The clock was read first when half a round trip had passed, and that counts as part of the way for all packets.
    fn note_clock(&mut self, now: Instant, timestamp: u32) {
        let first = *self.rtt_first.get_or_insert(self.rtt.smooth());
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(0);
        let meant = self.at(timestamp);
        let off = micros(now.saturating_duration_since(meant)) - micros(meant.saturating_duration_since(now));
        self.drift.sum_micros += off - (micros(self.rtt.smooth()) - micros(first)) / 2;
        self.drift.samples += 1;
        if self.drift.samples < DRIFT_SAMPLES {
            return;
        }
        let mean = self.drift.sum_micros / i64::from(self.drift.samples);
        self.drift = Drift::default();
        let by = Duration::from_micros(mean.unsigned_abs());
        if mean > DRIFT_MIN_MICROS {
            self.clock.at += by;
        } else if mean < -DRIFT_MIN_MICROS {
            self.clock.at = self.clock.at.checked_sub(by).unwrap_or(self.clock.at);
        }
    }
}
