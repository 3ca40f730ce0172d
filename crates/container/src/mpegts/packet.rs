//! One transport packet: header and adaptation field.

use super::{PACKET_BYTES, SYNC_BYTE};

/// The fields of a packet that are used.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are bits of the header, each with a meaning of its own")]
pub(super) struct Packet<'a> {
    pub(super) pid: u16,
    pub(super) transport_error: bool,
    /// `payload_unit_start_indicator`.
    pub(super) starts_unit: bool,
    pub(super) is_scrambled: bool,
    /// `continuity_counter`, 4 bits.
    pub(super) counter: u8,
    pub(super) discontinuity: bool,
    pub(super) random_access: bool,
    /// 27 MHz, below 2^33 × 300.
    pub(super) pcr: Option<u64>,
    pub(super) payload: Option<&'a [u8]>,
}

/// Reads a packet; `None` where its fields contradict each other. spec: ISO/IEC 13818-1 §2.4.3.2
pub(super) fn parse(bytes: &[u8; PACKET_BYTES]) -> Option<Packet<'_>> {
    let [SYNC_BYTE, high, low, control, rest @ ..] = bytes else { return None };
    let mut packet = Packet {
        pid: u16::from(high & 0x1f) << 8 | u16::from(*low),
        transport_error: high & 0x80 != 0,
        starts_unit: high & 0x40 != 0,
        is_scrambled: control & 0xc0 != 0,
        counter: control & 0x0f,
        discontinuity: false,
        random_access: false,
        pcr: None,
        payload: None,
    };
    let mut rest: &[u8] = rest;
    if control & 0x20 != 0 {
        let (length, after) = rest.split_first()?;
        let (field, after) = after.split_at_checked(usize::from(*length))?;
        rest = after;
        read_adaptation_field(field, &mut packet);
    }
    if control & 0x10 != 0 && !rest.is_empty() {
        packet.payload = Some(rest);
    }
    Some(packet)
}

/// spec: ISO/IEC 13818-1 §2.4.3.4
fn read_adaptation_field(field: &[u8], packet: &mut Packet<'_>) {
    let Some((flags, rest)) = field.split_first() else { return };
    packet.discontinuity = flags & 0x80 != 0;
    packet.random_access = flags & 0x40 != 0;
    if flags & 0x10 != 0
        && let Some(&[b0, b1, b2, b3, b4, b5]) = rest.first_chunk()
    {
        let base = u64::from(u32::from_be_bytes([b0, b1, b2, b3])) << 1 | u64::from(b4 >> 7);
        let extension = u64::from(b4 & 1) << 8 | u64::from(b5);
        packet.pcr = Some(base * 300 + extension.min(299));
    }
}
