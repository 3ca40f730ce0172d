//! Finding packets in a stream of bytes: 188, 192 (four bytes of time stamp between) or 204 (parity between) apart.

use super::{PACKET_BYTES, SYNC_BYTE};

/// Distances between sync bytes, the usual one first.
const STRIDES: [usize; 3] = [PACKET_BYTES, 192, 204];
/// Good sync bytes in a row that make a lock. spec: ETSI TR 101 290 §5.2.1
const SYNCS: usize = 5;
/// Bytes that decide about a candidate at any stride.
const LOOK_AHEAD: usize = (SYNCS - 1) * 204 + 1;

/// What the framer comes upon.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found<'a> {
    Packet(&'a [u8; PACKET_BYTES]),
    /// One packet without its sync byte; the next has it.
    BadSync,
    /// Two bad sync bytes in a row: the search begins anew.
    Lost,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Searching,
    /// `skip` bytes lie before the next sync byte.
    Locked {
        stride: usize,
        skip: usize,
    },
}

/// What one look at the buffer gave: bytes used up and what was found, or the length that is needed to decide.
enum Step<'a> {
    Used(usize, Option<Found<'a>>),
    Need(usize),
}

/// Cuts bytes into packets. Decisions depend on the bytes alone, never on how they were cut into pieces.
#[derive(Debug)]
pub(super) struct Framer {
    state: State,
    /// Bytes that could not be decided on yet: below [`LOOK_AHEAD`].
    carry: Vec<u8>,
}

impl Framer {
    pub(super) fn new() -> Self {
        Self { state: State::Searching, carry: Vec::new() }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], mut on: impl FnMut(Found<'_>)) {
        while !self.carry.is_empty() {
            match self.state.step(&self.carry, false) {
                Step::Used(count, found) => {
                    if let Some(found) = found {
                        on(found);
                    }
                    self.carry.drain(..count.min(self.carry.len()));
                }
                Step::Need(length) => {
                    let missing = length.saturating_sub(self.carry.len()).max(1);
                    let (now, later) = bytes.split_at(missing.min(bytes.len()));
                    if now.is_empty() {
                        return;
                    }
                    self.carry.extend_from_slice(now);
                    bytes = later;
                }
            }
        }
        loop {
            match self.state.step(bytes, false) {
                Step::Used(count, found) => {
                    if let Some(found) = found {
                        on(found);
                    }
                    bytes = bytes.get(count..).unwrap_or_default();
                }
                Step::Need(_) => break self.carry.extend_from_slice(bytes),
            }
        }
    }

    /// No more bytes come: decides by what is there.
    pub(super) fn finish(&mut self, mut on: impl FnMut(Found<'_>)) {
        let carry = std::mem::take(&mut self.carry);
        let mut bytes = carry.as_slice();
        while !bytes.is_empty() {
            let (count, found) = match self.state.step(bytes, true) {
                Step::Used(count, found) => (count, found),
                Step::Need(_) => (bytes.len(), None),
            };
            if let Some(found) = found {
                on(found);
            }
            bytes = bytes.get(count..).unwrap_or_default();
        }
        self.state = State::Searching;
    }
}

impl State {
    fn step<'a>(&mut self, bytes: &'a [u8], is_end: bool) -> Step<'a> {
        let Some(first) = bytes.first() else { return Step::Need(1) };
        match self {
            Self::Searching => self.search(bytes, is_end),
            Self::Locked { skip, .. } if *skip > 0 => {
                let count = (*skip).min(bytes.len());
                *skip -= count;
                Step::Used(count, None)
            }
            Self::Locked { stride, skip } if *first == SYNC_BYTE => match bytes.first_chunk() {
                Some(packet) => {
                    *skip = *stride - PACKET_BYTES;
                    Step::Used(PACKET_BYTES, Some(Found::Packet(packet)))
                }
                None => Step::Need(PACKET_BYTES),
            },
            Self::Locked { stride, .. } => match bytes.get(*stride) {
                Some(&SYNC_BYTE) => Step::Used(*stride, Some(Found::BadSync)),
                Some(_) => {
                    *self = Self::Searching;
                    Step::Used(1, Some(Found::Lost))
                }
                None => Step::Need(*stride + 1),
            },
        }
    }

    fn search<'a>(&mut self, bytes: &'a [u8], is_end: bool) -> Step<'a> {
        match bytes.iter().position(|byte| *byte == SYNC_BYTE) {
            None => return Step::Used(bytes.len(), None),
            Some(0) => {}
            Some(garbage) => return Step::Used(garbage, None),
        }
        if bytes.len() < LOOK_AHEAD && !is_end {
            return Step::Need(LOOK_AHEAD);
        }
        let is_sync = |at: usize| bytes.get(at).map_or(is_end, |byte| *byte == SYNC_BYTE);
        let stride = STRIDES.into_iter().find(|stride| (0..SYNCS).all(|index| is_sync(index * stride)));
        match stride {
            Some(stride) => {
                *self = Self::Locked { stride, skip: 0 };
                Step::Used(0, None)
            }
            None => Step::Used(1, None),
        }
    }
}
