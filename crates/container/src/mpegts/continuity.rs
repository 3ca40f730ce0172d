//! Continuity counters: what is missing, what came twice.

use super::health::Health;
use super::packet::Packet;

/// How a packet follows the one before it on its PID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Its payload goes on where the last ended.
    Next,
    /// A discontinuity is signalled, but the counter goes on.
    Marked,
    /// Packets are missing before it.
    Broken,
    /// It came before.
    Repeated,
    /// It has no payload.
    Empty,
}

/// The counter of one PID. spec: ISO/IEC 13818-1 §2.4.3.3
#[derive(Debug, Default)]
pub(super) struct Continuity {
    last: Option<Last>,
    /// A discontinuity was signalled in a packet without payload: the next counter may be any.
    is_announced: bool,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    counter: u8,
    fingerprint: u64,
    is_repeated: bool,
}

impl Continuity {
    pub(super) fn check(&mut self, packet: &Packet<'_>, health: &mut Health) -> Order {
        let Some(payload) = packet.payload else {
            // The counter does not advance without payload.
            self.is_announced |= packet.discontinuity;
            return Order::Empty;
        };
        let next = Last { counter: packet.counter, fingerprint: fingerprint(payload), is_repeated: false };
        let is_flagged = std::mem::take(&mut self.is_announced) || packet.discontinuity;
        let Some(last) = self.last.replace(next) else {
            return if is_flagged { Order::Marked } else { Order::Next };
        };
        if next.counter == last.counter && next.fingerprint == last.fingerprint {
            // Two are allowed, more are an error.
            health.continuity_count_error += u64::from(last.is_repeated);
            self.last = Some(Last { is_repeated: true, ..last });
            return Order::Repeated;
        }
        match (next.counter == (last.counter + 1) & 15, is_flagged) {
            (true, false) => Order::Next,
            (true, true) => Order::Marked,
            (false, true) => Order::Broken,
            (false, false) => {
                health.continuity_count_error += 1;
                Order::Broken
            }
        }
    }

    /// The stream was lost and found again: the next counter may be any.
    pub(super) fn announce(&mut self) {
        self.is_announced = true;
    }
}

/// Tells payloads apart without keeping them. Not a hash for adversaries: one who finds a collision loses a packet of
/// the own stream.
fn fingerprint(payload: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = payload.as_chunks::<8>();
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(FACTOR).rotate_left(29);
    let hash = words.iter().fold(FACTOR, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    rest.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::super::packet::parse;
    use super::*;

    fn check(continuity: &mut Continuity, health: &mut Health, counter: u8, fill: u8) -> Order {
        let mut bytes = [fill; 188];
        bytes[..4].copy_from_slice(&[0x47, 1, 0, 0x10 | counter]);
        continuity.check(&parse(&bytes).expect("valid"), health)
    }

    #[test]
    fn a_packet_may_come_twice_but_not_three_times() {
        let (mut continuity, mut health) = (Continuity::default(), Health::default());
        assert_eq!(check(&mut continuity, &mut health, 15, 1), Order::Next);
        assert_eq!(check(&mut continuity, &mut health, 15, 1), Order::Repeated);
        assert_eq!(health.continuity_count_error, 0);
        assert_eq!(check(&mut continuity, &mut health, 15, 1), Order::Repeated);
        assert_eq!(health.continuity_count_error, 1);
        assert_eq!(check(&mut continuity, &mut health, 0, 2), Order::Next, "the counter wraps");
        assert_eq!(check(&mut continuity, &mut health, 0, 3), Order::Broken, "same counter, other payload");
        assert_eq!(check(&mut continuity, &mut health, 2, 3), Order::Broken);
        assert_eq!(health.continuity_count_error, 3);
    }
}
