//! Packets on the wire. spec: draft-sharabayko-srt-01 §3

use bytes::{BufMut, Bytes, BytesMut};

use crate::Error;

/// Bytes of the header that every packet has.
pub(crate) const HEADER_BYTES: usize = 16;
/// Largest datagram that is made: fits an Ethernet frame with IPv4 and UDP headers.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 1456 + HEADER_BYTES;
/// Ranges of lost packets in one report.
const RANGES_MAX: usize = 180;

/// A sequence number of 31 bits; order is by the shorter way around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seq(u32);

impl Seq {
    pub(crate) const MASK: u32 = 0x7fff_ffff;

    pub(crate) fn new(value: u32) -> Self {
        Self(value & Self::MASK)
    }

    pub(crate) fn value(self) -> u32 {
        self.0
    }

    /// The number that stands for a count that never wraps.
    pub(crate) fn of(index: u64) -> Self {
        Self(u32::try_from(index & u64::from(Self::MASK)).unwrap_or(0))
    }

    /// The count nearest to `near` whose number this is; `None` where it would be before 0.
    pub(crate) fn unwrapped(self, near: u64) -> Option<u64> {
        const HALF: u32 = 1 << 30;
        let ahead = self.0.wrapping_sub(Self::of(near).0) & Self::MASK;
        if ahead < HALF { near.checked_add(ahead.into()) } else { near.checked_sub((Self::MASK - ahead + 1).into()) }
    }
}

/// The header of a data packet as it was when the packet was sent for the first time.
/// spec: draft-sharabayko-srt-01 §3.1: the flag R marks a repeated one
pub(crate) fn once(datagram: &[u8]) -> [u8; HEADER_BYTES] {
    const REPEATED: u8 = 0x04;
    let mut header: [u8; HEADER_BYTES] = datagram.first_chunk().copied().unwrap_or_default();
    if let Some(flags) = header.get_mut(4) {
        *flags &= !REPEATED;
    }
    header
}

/// Where a packet is for: the socket it names, 0 for a listener. `None`: too short.
pub fn destination(datagram: &[u8]) -> Option<u32> {
    word(datagram, 12)
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?).and_then(|four| four.try_into().ok()).map(u32::from_be_bytes)
}

/// A packet as it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Data(Data<'a>),
    Control { body: Control<'a>, timestamp: u32 },
}

/// spec: draft-sharabayko-srt-01 §3.1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Data<'a> {
    pub(crate) seq: Seq,
    /// 0: not encrypted, 1: even key, 2: odd key.
    pub(crate) key: u8,
    pub(crate) is_retransmitted: bool,
    pub(crate) timestamp: u32,
    pub(crate) payload: &'a [u8],
}

/// spec: draft-sharabayko-srt-01 §3.2
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Control<'a> {
    Handshake(&'a [u8]),
    KeepAlive,
    Ack(Ack),
    /// First and last of each lost range.
    Nak(Vec<(Seq, Seq)>),
    Shutdown,
    AckAck(u32),
    DropRequest(Seq, Seq),
    /// Key material: a request or its answer.
    KeyRequest(&'a [u8]),
    KeyResponse(&'a [u8]),
    /// What we need not understand.
    Other,
}

/// spec: draft-sharabayko-srt-01 §3.2.4
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ack {
    /// Counts full acknowledgements; 0 in a light one, which has only `next`.
    pub(crate) number: u32,
    /// All before this have come.
    pub(crate) next: u32,
    pub(crate) rtt_micros: Option<u32>,
    pub(crate) rtt_var_micros: u32,
    /// Packets there is room for.
    pub(crate) room: u32,
    pub(crate) packets_per_second: u32,
    pub(crate) capacity_packets_per_second: u32,
    pub(crate) bytes_per_second: u32,
}

const HANDSHAKE: u16 = 0;
const KEEP_ALIVE: u16 = 1;
const ACK: u16 = 2;
const NAK: u16 = 3;
const SHUTDOWN: u16 = 5;
const ACK_ACK: u16 = 6;
const DROP_REQUEST: u16 = 7;
const USER_DEFINED: u16 = 0x7fff;
const KEY_REQUEST: u16 = 3;
const KEY_RESPONSE: u16 = 4;

/// Reads a packet.
pub(crate) fn parse(datagram: &[u8]) -> Result<Packet<'_>, Error> {
    let [first, second, timestamp] = [0, 4, 8].map(|at| word(datagram, at));
    let (Some(first), Some(second), Some(timestamp)) = (first, second, timestamp) else {
        return Err(Error::Truncated);
    };
    let body = datagram.get(HEADER_BYTES..).ok_or(Error::Truncated)?;
    if first >> 31 == 0 {
        return Ok(Packet::Data(Data {
            seq: Seq::new(first),
            key: u8::try_from(second >> 27 & 3).unwrap_or(0),
            is_retransmitted: second >> 26 & 1 == 1,
            timestamp,
            payload: body,
        }));
    }
    let kind = u16::try_from(first >> 16 & 0x7fff).unwrap_or(0);
    let subtype = u16::try_from(first & 0xffff).unwrap_or(0);
    let body = match kind {
        HANDSHAKE => Control::Handshake(body),
        KEEP_ALIVE => Control::KeepAlive,
        ACK => Control::Ack(parse_ack(second, body)?),
        NAK => Control::Nak(parse_ranges(body)?),
        SHUTDOWN => Control::Shutdown,
        ACK_ACK => Control::AckAck(second),
        DROP_REQUEST => {
            let (first, last) = (word(body, 0).ok_or(Error::Truncated)?, word(body, 4).ok_or(Error::Truncated)?);
            Control::DropRequest(Seq::new(first), Seq::new(last))
        }
        USER_DEFINED if subtype == KEY_REQUEST => Control::KeyRequest(body),
        USER_DEFINED if subtype == KEY_RESPONSE => Control::KeyResponse(body),
        _ => Control::Other,
    };
    Ok(Packet::Control { body, timestamp })
}

fn parse_ack(number: u32, body: &[u8]) -> Result<Ack, Error> {
    let next = word(body, 0).ok_or(Error::Truncated)? & Seq::MASK;
    let field = |at| word(body, at).unwrap_or(0);
    Ok(Ack {
        number,
        next,
        rtt_micros: word(body, 4),
        rtt_var_micros: field(8),
        room: word(body, 12).unwrap_or(u32::MAX),
        packets_per_second: field(16),
        capacity_packets_per_second: field(20),
        bytes_per_second: field(24),
    })
}

/// spec: draft-sharabayko-srt-01 §3.2.5
fn parse_ranges(body: &[u8]) -> Result<Vec<(Seq, Seq)>, Error> {
    let mut ranges = Vec::new();
    let mut words = body.chunks_exact(4).filter_map(|four| word(four, 0));
    while let Some(first) = words.next() {
        let last = if first >> 31 == 1 { words.next().ok_or(Error::Truncated)? } else { first };
        if last >> 31 == 1 {
            return Err(Error::Invalid("a range of lost packets"));
        }
        if ranges.len() < 2 * RANGES_MAX {
            ranges.push((Seq::new(first), Seq::new(last)));
        }
    }
    Ok(ranges)
}

fn control_header(kind: u16, subtype: u16, info: u32, timestamp: u32, to: u32) -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put_u16(0x8000 | kind);
    out.put_u16(subtype);
    out.put_u32(info);
    out.put_u32(timestamp);
    out.put_u32(to);
    out
}

/// A data packet; its payload may be encrypted in place behind [`HEADER_BYTES`].
pub(crate) fn data(data: &Data<'_>, message: u32, to: u32) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + data.payload.len());
    out.put_u32(data.seq.value());
    // A message of one packet, in live mode not in order.
    let flags = 3 << 30 | u32::from(data.key & 3) << 27 | u32::from(data.is_retransmitted) << 26;
    out.put_u32(flags | message & 0x03ff_ffff);
    out.put_u32(data.timestamp);
    out.put_u32(to);
    out.put_slice(data.payload);
    out
}

pub(crate) fn handshake(body: &[u8], timestamp: u32, to: u32) -> Bytes {
    let mut out = control_header(HANDSHAKE, 0, 0, timestamp, to);
    out.put_slice(body);
    out.freeze()
}

pub(crate) fn keep_alive(timestamp: u32, to: u32) -> Bytes {
    empty(KEEP_ALIVE, 0, timestamp, to)
}

pub(crate) fn shutdown(timestamp: u32, to: u32) -> Bytes {
    empty(SHUTDOWN, 0, timestamp, to)
}

pub(crate) fn ack_ack(number: u32, timestamp: u32, to: u32) -> Bytes {
    empty(ACK_ACK, number, timestamp, to)
}

/// Packets without a body carry four bytes of padding, as libsrt sends them.
fn empty(kind: u16, info: u32, timestamp: u32, to: u32) -> Bytes {
    let mut out = control_header(kind, 0, info, timestamp, to);
    out.put_u32(0);
    out.freeze()
}

pub(crate) fn ack(ack: &Ack, timestamp: u32, to: u32) -> Bytes {
    let mut out = control_header(ACK, 0, ack.number, timestamp, to);
    out.put_u32(ack.next);
    if let Some(rtt) = ack.rtt_micros {
        out.put_u32(rtt);
        out.put_u32(ack.rtt_var_micros);
        out.put_u32(ack.room);
        out.put_u32(ack.packets_per_second);
        out.put_u32(ack.capacity_packets_per_second);
        out.put_u32(ack.bytes_per_second);
    }
    out.freeze()
}

/// A report of the first ranges; none of them is empty.
pub(crate) fn nak(ranges: &[(Seq, Seq)], timestamp: u32, to: u32) -> Bytes {
    let mut out = control_header(NAK, 0, 0, timestamp, to);
    for (first, last) in ranges.iter().take(RANGES_MAX) {
        if first == last {
            out.put_u32(first.value());
        } else {
            out.put_u32(1 << 31 | first.value());
            out.put_u32(last.value());
        }
    }
    out.freeze()
}

pub(crate) fn drop_request(message: u32, first: Seq, last: Seq, timestamp: u32, to: u32) -> Bytes {
    let mut out = control_header(DROP_REQUEST, 0, message & 0x03ff_ffff, timestamp, to);
    out.put_u32(first.value());
    out.put_u32(last.value());
    out.freeze()
}

pub(crate) fn key_request(material: &[u8], timestamp: u32, to: u32) -> Bytes {
    key_message(KEY_REQUEST, material, timestamp, to)
}

pub(crate) fn key_response(material: &[u8], timestamp: u32, to: u32) -> Bytes {
    key_message(KEY_RESPONSE, material, timestamp, to)
}

fn key_message(subtype: u16, material: &[u8], timestamp: u32, to: u32) -> Bytes {
    let mut out = control_header(USER_DEFINED, subtype, 0, timestamp, to);
    out.put_slice(material);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_unwrap_the_shorter_way() {
        for (near, value, expected) in [
            (5, 7, Some(7)),
            (7, 5, Some(5)),
            (0, Seq::MASK, None),
            (u64::from(Seq::MASK), 0, Some(1 << 31)),
            (1 << 31, Seq::MASK, Some(u64::from(Seq::MASK))),
            ((5 << 31) + 3, 1, Some((5 << 31) + 1)),
        ] {
            assert_eq!(Seq::new(value).unwrapped(near), expected, "{value} near {near}");
        }
    }

    #[test]
    fn packets_read_back() {
        let sent = Data { seq: Seq::new(9), key: 2, is_retransmitted: true, timestamp: 77, payload: b"abc" };
        let bytes = data(&sent, 1, 5);
        assert_eq!(parse(&bytes), Ok(Packet::Data(sent)));
        assert_eq!(destination(&bytes), Some(5));

        let ranges = [(Seq::new(1), Seq::new(1)), (Seq::new(4), Seq::new(9))];
        let Ok(Packet::Control { body: Control::Nak(read), timestamp: 3 }) = parse(&nak(&ranges, 3, 5)) else {
            panic!("a report");
        };
        assert_eq!(read, ranges);

        let full = Ack { number: 3, next: 8, rtt_micros: Some(100), rtt_var_micros: 5, room: 99, ..Ack::default() };
        let Ok(Packet::Control { body: Control::Ack(read), .. }) = parse(&ack(&full, 3, 5)) else { panic!("an ack") };
        assert_eq!(read, full);
    }

    #[test]
    fn every_cut_is_an_error_or_another_packet() {
        let whole = nak(&[(Seq::new(4), Seq::new(9))], 3, 5);
        assert_eq!(parse(&whole[..20]), Err(Error::Truncated), "a range without its end");
        for end in 0..HEADER_BYTES {
            assert_eq!(parse(&whole[..end]), Err(Error::Truncated), "{end} bytes");
        }
    }
}
