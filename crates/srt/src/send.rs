//! The sending side: what is not acknowledged yet, what to send again, what comes too late.
//! spec: draft-sharabayko-srt-01 §4.4, §4.6, §4.8

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::packet::{Ack, Seq};
use crate::receive::Rtt;

/// Packets that are kept until they are acknowledged, at most.
const BUFFER_PACKETS_MAX: usize = 25_600;
/// What is older than the latency, and this, is given up. spec: draft-sharabayko-srt-01 §4.6
const TOO_LATE_MIN: Duration = Duration::from_secs(1);
const TOO_LATE_MARGIN: Duration = Duration::from_millis(20);
/// Bytes that may be sent again at once although the overhead is used up.
const BURST_BYTES: u64 = 64 << 10;

#[derive(Debug)]
struct Slot {
    payload: Bytes,
    timestamp: u32,
    made: Instant,
    sent: Instant,
    has_been_repeated: bool,
    /// It waits to be sent again.
    is_wanted: bool,
}

/// Counts of what went out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) retransmitted: u64,
    /// Reported missing by the peer.
    pub(crate) lost: u64,
    /// Given up.
    pub(crate) dropped: u64,
}

/// A packet to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) seq: Seq,
    pub(crate) message: u32,
    pub(crate) timestamp: u32,
    pub(crate) is_retransmitted: bool,
    pub(crate) payload: Bytes,
}

#[derive(Debug)]
pub(crate) struct Sender {
    /// The oldest that is not acknowledged, counted without wrap.
    first: u64,
    initial: u64,
    slots: VecDeque<Slot>,
    /// Slots from here on were never sent.
    fresh: usize,
    again: BTreeSet<u64>,
    pub(crate) rtt: Rtt,
    too_late: Duration,
    overhead_percent: u64,
    /// Bytes that may be sent again.
    allowance: u64,
    last_progress: Instant,
    pub(crate) counts: Sent,
}

impl Sender {
    pub(crate) fn new(now: Instant, first: Seq, latency: Duration, overhead_percent: u8) -> Self {
        let first = (1 << 31) + u64::from(first.value());
        Self {
            first,
            initial: first,
            slots: VecDeque::new(),
            fresh: 0,
            again: BTreeSet::new(),
            rtt: Rtt::default(),
            too_late: latency.max(TOO_LATE_MIN) + TOO_LATE_MARGIN,
            overhead_percent: overhead_percent.into(),
            allowance: BURST_BYTES,
            last_progress: now,
            counts: Sent::default(),
        }
    }

    /// Takes a payload that was made at `made`; `false` where too much waits already.
    pub(crate) fn push(&mut self, now: Instant, made: Instant, timestamp: u32, payload: Bytes) -> bool {
        if self.slots.len() >= BUFFER_PACKETS_MAX {
            self.counts.dropped += 1;
            return false;
        }
        self.allowance = (self.allowance + payload.len() as u64 * self.overhead_percent / 100)
            .min(BURST_BYTES.max(self.counts.bytes / 8));
        if self.slots.is_empty() {
            self.last_progress = now;
        }
        let slot = Slot { payload, timestamp, made, sent: now, has_been_repeated: false, is_wanted: false };
        self.slots.push_back(slot);
        true
    }

    /// The number that the next payload gets, counted without wrap.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// The oldest that is not acknowledged.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Lets go of everything; the next payload gets this number. SRT-07: links of a group carry the same numbers
    pub(crate) fn restart(&mut self, now: Instant, index: u64) {
        self.slots.clear();
        self.again.clear();
        (self.first, self.fresh, self.last_progress) = (index, 0, now);
    }

    /// The next packet: what is missing at the peer goes first.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Outgoing> {
        while let Some(index) = self.again.first().copied() {
            let Some(place) = index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()) else {
                self.again.pop_first();
                continue;
            };
            let Some(slot) = self.slots.get_mut(place) else {
                self.again.pop_first();
                continue;
            };
            let length = slot.payload.len() as u64;
            if self.allowance < length {
                break;
            }
            self.again.pop_first();
            self.allowance -= length;
            (slot.sent, slot.has_been_repeated, slot.is_wanted) = (now, true, false);
            self.counts.retransmitted += 1;
            return Some(self.outgoing(index, place, true));
        }
        let place = self.fresh;
        let slot = self.slots.get_mut(place)?;
        slot.sent = now;
        self.fresh += 1;
        self.counts.packets += 1;
        self.counts.bytes += slot.payload.len() as u64;
        Some(self.outgoing(self.first + place as u64, place, false))
    }

    fn outgoing(&self, index: u64, place: usize, is_retransmitted: bool) -> Outgoing {
        let (timestamp, payload) =
            self.slots.get(place).map_or((0, Bytes::new()), |slot| (slot.timestamp, slot.payload.clone()));
        let message = self.message(index);
        Outgoing { seq: Seq::of(index), message, timestamp, is_retransmitted, payload }
    }

    pub(crate) fn on_ack(&mut self, now: Instant, ack: &Ack) {
        let Some(next) = Seq::new(ack.next).unwrapped(self.first) else { return };
        let sent_until = self.first + self.fresh as u64;
        if next > self.first && next <= sent_until {
            let count = usize::try_from(next - self.first).unwrap_or(0);
            self.forget(count);
            self.last_progress = now;
        }
        if let Some(rtt) = ack.rtt_micros {
            self.rtt.set(rtt, ack.rtt_var_micros);
        }
    }

    /// Lets go of the oldest.
    fn forget(&mut self, count: usize) {
        self.slots.drain(..count.min(self.slots.len()));
        self.first += count as u64;
        self.fresh = self.fresh.saturating_sub(count);
        self.again = self.again.split_off(&self.first);
    }

    /// What is reported missing is sent again; what is not here any more comes back as a range, for the peer to know.
    pub(crate) fn on_nak(&mut self, now: Instant, ranges: &[(Seq, Seq)]) -> Option<(u32, Seq, Seq)> {
        let sent_until = self.first + self.fresh as u64;
        let mut gone: Option<(u64, u64)> = None;
        let mut looks = self.fresh; // the peer may name the same packets again and again
        for (first, last) in ranges {
            let (Some(first), Some(last)) = (first.unwrapped(self.first), last.unwrapped(self.first)) else { continue };
            if first < self.first && first <= last {
                let last = last.min(self.first - 1);
                gone = Some(gone.map_or((first, last), |(low, high)| (low.min(first), high.max(last))));
            }
            for index in first.max(self.first)..last.saturating_add(1).min(sent_until) {
                let place = usize::try_from(index - self.first).ok();
                let Some(slot) = place.and_then(|place| self.slots.get_mut(place)) else { break };
                let Some(left) = looks.checked_sub(1) else { break };
                looks = left;
                // The report may have crossed with what it asks for.
                let crossed = slot.has_been_repeated && now.saturating_duration_since(slot.sent) < self.rtt.smooth();
                if !crossed && !std::mem::replace(&mut slot.is_wanted, true) {
                    self.again.insert(index);
                    self.counts.lost += 1;
                }
            }
        }
        let (first, last) = gone?;
        Some((self.message(first), Seq::of(first), Seq::of(last)))
    }

    fn message(&self, index: u64) -> u32 {
        u32::try_from((index.saturating_sub(self.initial) + 1) & 0x03ff_ffff).unwrap_or(1)
    }

    /// Gives up what the peer would throw away; the range, for the peer to know.
    pub(crate) fn drop_too_late(&mut self, now: Instant) -> Option<(u32, Seq, Seq)> {
        let is_late = |slot: &Slot| now.saturating_duration_since(slot.made) > self.too_late;
        let count = self.slots.iter().take(self.fresh).take_while(|slot| is_late(slot)).count();
        if count == 0 {
            return None;
        }
        let (first, last) = (self.first, self.first + count as u64 - 1);
        self.counts.dropped += count as u64;
        self.forget(count);
        self.last_progress = now;
        let message = self.message(first);
        Some((message, Seq::of(first), Seq::of(last)))
    }

    /// Where nothing was acknowledged for long the last packets may be lost, which no report tells: one is sent again.
    pub(crate) fn probe_tail(&mut self, now: Instant) {
        if self.fresh > 0 && now >= self.last_progress + self.patience() {
            // What waits for its turn already will show the loss as well.
            if self.again.is_empty()
                && let Some(slot) = self.slots.get_mut(self.fresh - 1)
            {
                slot.is_wanted = true;
                self.again.insert(self.first + self.fresh as u64 - 1);
            }
            self.last_progress = now;
        }
    }

    fn patience(&self) -> Duration {
        self.rtt.bound() + Duration::from_millis(30)
    }

    /// When to look again without a packet from the peer.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        (self.fresh > 0).then(|| self.last_progress + self.patience())
    }

    /// When the oldest that is not acknowledged was made.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.slots.front().map(|slot| slot.made)
    }

    /// Packets that are not acknowledged.
    pub(crate) fn held(&self) -> usize {
        self.slots.len()
    }
}
