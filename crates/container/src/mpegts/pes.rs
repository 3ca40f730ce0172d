//! PES packets: header, timestamps, payload put together from transport packets.

use bytes::{Bytes, BytesMut};

use super::PES_BYTES_MAX;

/// Buffers begin with this much room; units are cut from them one behind the other.
const CHUNK_BYTES: usize = 64 * 1024;
/// Longest header: 9 bytes and what one length byte can say.
const HEADER_BYTES_MAX: usize = 9 + 255;

/// What an assembler has to say.
#[derive(Debug)]
pub(super) enum Output {
    Unit(Unit),
    /// `PES_scrambling_control` is set; the packet is passed over.
    Scrambled,
    /// The packet grew beyond its bound and was dropped.
    Oversized,
}

/// One PES packet with timestamps as they stood in it: 90 kHz, 33 bits.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) pts: Option<u64>,
    pub(super) dts: Option<u64>,
    pub(super) is_random_access: bool,
    pub(super) after_loss: bool,
    pub(super) is_damaged: bool,
    pub(super) payload: Bytes,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    is_random_access: bool,
    after_loss: bool,
    is_damaged: bool,
}

#[derive(Debug)]
enum State {
    /// Until a packet begins.
    Waiting,
    /// The header is not complete yet.
    Header { bytes: Vec<u8>, flags: Flags },
    /// Payload comes in.
    Payload { header: Header, flags: Flags },
}

/// Puts the PES packets of one PID together.
#[derive(Debug)]
pub(super) struct Assembler {
    state: State,
    buffer: BytesMut,
    /// Something was lost where no packet was open.
    is_lost: bool,
}

impl Assembler {
    pub(super) fn new() -> Self {
        Self { state: State::Waiting, buffer: BytesMut::new(), is_lost: false }
    }

    /// Bytes of payload in the open packet.
    pub(super) fn open_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Something was lost, or may have been, before the packet that comes next, which begins a PES packet or not.
    pub(super) fn on_loss(&mut self, starts_unit: bool, is_damaged: bool) {
        match &mut self.state {
            State::Header { flags, .. } | State::Payload { flags, .. } if is_damaged || !starts_unit => {
                flags.after_loss = true;
                flags.is_damaged |= is_damaged;
                self.is_lost |= starts_unit;
            }
            State::Waiting | State::Header { .. } | State::Payload { .. } => self.is_lost = true,
        }
    }

    /// Drops the open packet; the next unit is marked.
    pub(super) fn drop_open(&mut self) {
        self.state = State::Waiting;
        self.buffer = BytesMut::new();
        self.is_lost = true;
    }

    /// Takes the payload of a transport packet.
    pub(super) fn push(
        &mut self,
        payload: &[u8],
        starts_unit: bool,
        is_random_access: bool,
        on: &mut dyn FnMut(Output),
    ) {
        if starts_unit {
            self.flush(on);
            let flags = Flags { is_random_access, after_loss: std::mem::take(&mut self.is_lost), is_damaged: false };
            self.state = State::Header { bytes: Vec::new(), flags };
        }
        match &mut self.state {
            State::Waiting => {}
            State::Header { bytes, flags } => {
                let flags = *flags;
                let known = bytes.len();
                bytes.extend_from_slice(payload.get(..HEADER_BYTES_MAX - known).unwrap_or(payload));
                match Header::parse(bytes) {
                    Parsed::Incomplete => {}
                    Parsed::Header(header, _) if header.is_scrambled => {
                        self.drop_open();
                        on(Output::Scrambled);
                    }
                    Parsed::Header(header, end) => {
                        self.state = State::Payload { header, flags };
                        self.append(payload.get(end.saturating_sub(known)..).unwrap_or_default(), on);
                    }
                    Parsed::Invalid => self.drop_open(),
                    Parsed::NotMedia => self.state = State::Waiting,
                }
            }
            State::Payload { .. } => self.append(payload, on),
        }
    }

    fn append(&mut self, bytes: &[u8], on: &mut dyn FnMut(Output)) {
        let State::Payload { header, .. } = &self.state else { return };
        let room = header.payload_bytes.map_or(PES_BYTES_MAX + 1, |length| length).saturating_sub(self.buffer.len());
        let is_complete = header.payload_bytes.is_some() && bytes.len() >= room;
        let bytes = bytes.get(..room).unwrap_or(bytes);
        if self.buffer.capacity() - self.buffer.len() < bytes.len() {
            self.buffer.reserve(CHUNK_BYTES);
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() > PES_BYTES_MAX {
            self.drop_open();
            on(Output::Oversized);
        } else if is_complete {
            self.emit(on);
        }
    }

    /// Hands out the open packet: the next begins, or nothing more comes.
    pub(super) fn flush(&mut self, on: &mut dyn FnMut(Output)) {
        match &mut self.state {
            State::Payload { header, flags } => {
                // One that says its length would be out already.
                flags.is_damaged |= header.payload_bytes.is_some();
                flags.after_loss |= flags.is_damaged;
                self.emit(on);
            }
            State::Header { .. } => self.drop_open(),
            State::Waiting => {}
        }
    }

    fn emit(&mut self, on: &mut dyn FnMut(Output)) {
        let State::Payload { header, flags } = std::mem::replace(&mut self.state, State::Waiting) else { return };
        let payload = self.buffer.split().freeze();
        if payload.is_empty() {
            self.is_lost |= flags.after_loss;
            return;
        }
        on(Output::Unit(Unit {
            pts: header.pts,
            dts: header.dts,
            is_random_access: flags.is_random_access,
            after_loss: flags.after_loss,
            is_damaged: flags.is_damaged,
            payload,
        }));
    }
}

/// What of a PES header is used.
#[derive(Debug)]
struct Header {
    pts: Option<u64>,
    dts: Option<u64>,
    is_scrambled: bool,
    /// Bytes behind the header; `None` where the packet ends when the next begins.
    payload_bytes: Option<usize>,
}

enum Parsed {
    Incomplete,
    /// And where the payload begins.
    Header(Header, usize),
    Invalid,
    /// Padding and other streams without timestamps.
    NotMedia,
}

impl Header {
    /// spec: ISO/IEC 13818-1 §2.4.3.6
    fn parse(bytes: &[u8]) -> Parsed {
        let prefix = [0, 0, 1];
        if bytes.iter().zip(prefix).any(|(byte, expected)| *byte != expected) {
            return Parsed::Invalid;
        }
        if let Some(0xbc | 0xbe | 0xbf | 0xf0..=0xf2 | 0xf8 | 0xff) = bytes.get(3) {
            return Parsed::NotMedia;
        }
        let &[_, _, _, _, length_high, length_low, control, flags, header_length, ref rest @ ..] = bytes else {
            return Parsed::Incomplete;
        };
        if control & 0xc0 != 0x80 {
            return Parsed::Invalid;
        }
        let header_length = usize::from(header_length);
        let Some(fields) = rest.get(..header_length) else { return Parsed::Incomplete };
        let pts = if flags & 0x80 != 0 { timestamp(fields) } else { None };
        let dts = if flags & 0xc0 == 0xc0 { fields.get(5..).and_then(timestamp) } else { None };
        let payload_bytes = match usize::from(u16::from_be_bytes([length_high, length_low])) {
            0 => None,
            length => match length.checked_sub(3 + header_length) {
                Some(length) => Some(length),
                None => return Parsed::Invalid,
            },
        };
        let header = Self { pts, dts: dts.or(pts), is_scrambled: control & 0x30 != 0, payload_bytes };
        Parsed::Header(header, 9 + header_length)
    }
}

/// 33 bits between marker bits; `None` where a marker is missing. The four bits in front are not checked, since some
/// multiplexers set them wrong.
fn timestamp(fields: &[u8]) -> Option<u64> {
    let [b0, b1, b2, b3, b4] = fields.first_chunk::<5>()?.map(u64::from);
    (b0 & b2 & b4 & 1 == 1).then_some((b0 >> 1 & 7) << 30 | b1 << 22 | (b2 >> 1) << 15 | b3 << 7 | b4 >> 1)
}
