//! Program specific information: sections and their CRC, the association and the map of programs.

use std::collections::BTreeMap;

use super::{ElementaryStream, StreamKind};

/// Longest section of PAT, CAT and PMT. spec: ISO/IEC 13818-1 §2.4.4.3
pub(super) const PSI_BYTES_MAX: usize = 1024;
/// Longest private section; splice information is one. spec: ISO/IEC 13818-1 §2.4.4.10
pub(super) const PRIVATE_BYTES_MAX: usize = 4096;

const CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut rest: &mut [u32] = &mut table;
    let mut value = 0u32;
    while let Some((entry, after)) = rest.split_first_mut() {
        let mut crc = value << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000_0000 == 0 { crc << 1 } else { crc << 1 ^ 0x04c1_1db7 };
            bit += 1;
        }
        *entry = crc;
        value += 1;
        rest = after;
    }
    table
}

/// CRC-32 of a section; 0 over a section with its own CRC. spec: ISO/IEC 13818-1 annex A
pub(super) fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        let [top, ..] = (crc ^ u32::from(*byte) << 24).to_be_bytes();
        crc << 8 ^ CRC_TABLE.get(usize::from(top)).copied().unwrap_or_default()
    })
}

/// Puts the sections of one PID together. spec: ISO/IEC 13818-1 §2.4.4.1
#[derive(Debug)]
pub(super) struct SectionReader {
    buffer: Vec<u8>,
    is_active: bool,
    bytes_max: usize,
}

impl SectionReader {
    /// Sections longer than `bytes_max` are passed over.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { buffer: Vec::new(), is_active: false, bytes_max }
    }

    /// Forgets the section in progress.
    pub(super) fn reset(&mut self) {
        self.buffer.clear();
        self.is_active = false;
    }

    /// Takes the payload of a packet and hands out each section that is complete, its CRC unchecked.
    pub(super) fn push(&mut self, payload: &[u8], starts_unit: bool, mut on: impl FnMut(&[u8])) {
        if !starts_unit {
            return self.append(payload, &mut on);
        }
        let begin = payload.split_first().and_then(|(pointer, rest)| rest.split_at_checked(usize::from(*pointer)));
        let Some((tail, rest)) = begin else { return self.reset() };
        self.append(tail, &mut on);
        self.reset();
        self.is_active = true;
        self.append(rest, &mut on);
    }

    fn append(&mut self, bytes: &[u8], on: &mut impl FnMut(&[u8])) {
        if !self.is_active {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        while let &[table_id, high, low, ..] = self.buffer.as_slice() {
            let end = 3 + (usize::from(high & 0x0f) << 8 | usize::from(low));
            if table_id == 0xff || end > self.bytes_max {
                return self.reset(); // stuffing to the end of the packet, or nonsense
            }
            let Some(section) = self.buffer.get(..end) else { return };
            on(section);
            self.buffer.drain(..end);
        }
        if self.buffer.first() == Some(&0xff) {
            self.reset();
        }
    }
}

/// What all tables begin with, and their body without CRC.
#[derive(Debug)]
pub(super) struct Table<'a> {
    pub(super) id: u8,
    /// `transport_stream_id` or `program_number`.
    pub(super) extension: u16,
    pub(super) version: u8,
    pub(super) is_current: bool,
    pub(super) section: u8,
    pub(super) last_section: u8,
    pub(super) body: &'a [u8],
}

/// Reads the head of a section; `None` for one without it. The CRC was checked before.
pub(super) fn table(section: &[u8]) -> Option<Table<'_>> {
    let &[id, syntax, _, high, low, version, section_number, last_section, ref rest @ ..] = section else {
        return None;
    };
    if syntax & 0x80 == 0 {
        return None;
    }
    Some(Table {
        id,
        extension: u16::from_be_bytes([high, low]),
        version: version >> 1 & 0x1f,
        is_current: version & 1 != 0,
        section: section_number,
        last_section,
        body: rest.get(..rest.len().checked_sub(4)?)?,
    })
}

/// The program association in its sections.
#[derive(Debug, Default)]
pub(super) struct Association {
    key: Option<(u16, u8, u8)>,
    /// At most 256 sections of 253 programs.
    sections: BTreeMap<u8, Vec<(u16, u16)>>,
}

impl Association {
    /// Takes a current section; returns all programs (number and PID of the map) when it completes the table.
    /// spec: ISO/IEC 13818-1 §2.4.4.3
    pub(super) fn push(&mut self, table: &Table<'_>) -> Option<Vec<(u16, u16)>> {
        let key = (table.extension, table.version, table.last_section);
        if self.key != Some(key) {
            self.key = Some(key);
            self.sections.clear();
        }
        let programs = table
            .body
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&[n1, n0, p1, p0]| (u16::from_be_bytes([n1, n0]), u16::from_be_bytes([p1 & 0x1f, p0])));
        // Number 0 is the network table.
        self.sections.insert(table.section, programs.filter(|(number, _)| *number != 0).collect());
        let is_complete = self.sections.len() == usize::from(table.last_section) + 1;
        is_complete.then(|| self.sections.values().flatten().copied().collect())
    }
}

/// A program map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProgramMap {
    pub(super) version: u8,
    pub(super) pcr_pid: u16,
    pub(super) streams: Vec<ElementaryStream>,
}

impl ProgramMap {
    /// Reads the body of a map; a damaged end is left out. spec: ISO/IEC 13818-1 §2.4.4.9
    pub(super) fn parse(table: &Table<'_>) -> Option<Self> {
        let &[pcr_high, pcr_low, info_high, info_low, ref rest @ ..] = table.body else { return None };
        let info_length = usize::from(u16::from_be_bytes([info_high & 0x0f, info_low]));
        let (info, mut rest) = rest.split_at_checked(info_length)?;
        let is_hdmv = descriptors(info).any(|(tag, body)| tag == REGISTRATION && body.starts_with(b"HDMV"));
        let mut streams: Vec<ElementaryStream> = Vec::new();
        while let &[stream_type, pid_high, pid_low, length_high, length_low, ref after @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([length_high & 0x0f, length_low]));
            let Some((info, after)) = after.split_at_checked(length) else { break };
            rest = after;
            let pid = u16::from_be_bytes([pid_high & 0x1f, pid_low]);
            if streams.iter().all(|stream| stream.pid != pid) {
                let language = descriptors(info).find(|(tag, _)| *tag == LANGUAGE);
                streams.push(ElementaryStream {
                    pid,
                    stream_type,
                    kind: kind(stream_type, info, is_hdmv),
                    language: language.and_then(|(_, body)| body.first_chunk().copied()),
                });
            }
        }
        let pcr_pid = u16::from_be_bytes([pcr_high & 0x1f, pcr_low]);
        Some(Self { version: table.version, pcr_pid, streams })
    }

    /// Holds a stream that the codec crate can read.
    pub(super) fn is_carried(&self) -> bool {
        self.streams.iter().any(|stream| stream.kind.is_carried())
    }
}

// spec: ISO/IEC 13818-1 table 2-45; ETSI EN 300 468 table 12
const REGISTRATION: u8 = 0x05;
const LANGUAGE: u8 = 0x0a;
const METADATA: u8 = 0x26;
const DVB_AC3: u8 = 0x6a;
const DVB_EAC3: u8 = 0x7a;
const EXTENSION: u8 = 0x7f;
/// Of the Opus descriptor. spec: Opus in MPEG-TS §4.2
const EXTENSION_OPUS: u8 = 0x80;

fn descriptors(mut info: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let &[tag, length, ref rest @ ..] = info else { return None };
        let (body, rest) = rest.split_at_checked(usize::from(length))?;
        info = rest;
        Some((tag, body))
    })
}

/// spec: ISO/IEC 13818-1 table 2-34
fn kind(stream_type: u8, info: &[u8], is_hdmv: bool) -> StreamKind {
    match stream_type {
        0x01 | 0x02 => StreamKind::Mpeg2Video,
        0x03 | 0x04 => StreamKind::MpegAudio,
        0x06 => private_kind(info),
        0x0f => StreamKind::AacAdts,
        0x11 => StreamKind::AacLatm,
        0x15 => {
            let is_id3 = |(tag, body): (u8, &[u8])| tag == METADATA && body.windows(4).any(|word| word == b"ID3 ");
            if descriptors(info).any(is_id3) { StreamKind::Other } else { StreamKind::Klv }
        }
        0x1b => StreamKind::H264,
        0x24 => StreamKind::H265,
        0x81 => StreamKind::Ac3,
        // Blu-ray uses 0x86 for DTS-HD and says so by its registration.
        0x86 if !is_hdmv => StreamKind::Scte35,
        0x87 => StreamKind::Eac3,
        _ => StreamKind::Other,
    }
}

/// A stream of private data is what its descriptors say.
fn private_kind(info: &[u8]) -> StreamKind {
    let by_registration = descriptors(info).find_map(|(tag, body)| match (tag, body) {
        (REGISTRATION, [b'O', b'p', b'u', b's', ..]) => opus_kind(info),
        (REGISTRATION, [b'K', b'L', b'V', b'A', ..]) => Some(StreamKind::Klv),
        (REGISTRATION, [b'H', b'E', b'V', b'C', ..]) => Some(StreamKind::H265),
        (REGISTRATION, [b'A', b'C', b'-', b'3', ..]) | (DVB_AC3, _) => Some(StreamKind::Ac3),
        (REGISTRATION, [b'E', b'A', b'C', b'3', ..]) | (DVB_EAC3, _) => Some(StreamKind::Eac3),
        _ => None,
    });
    by_registration.unwrap_or(StreamKind::Other)
}

/// Channel configurations above 8 are mappings of their own and not carried. spec: Opus in MPEG-TS §4.2
fn opus_kind(info: &[u8]) -> Option<StreamKind> {
    let code = descriptors(info).find_map(|(tag, body)| match (tag, body) {
        (EXTENSION, [EXTENSION_OPUS, code, ..]) => Some(*code),
        _ => None,
    });
    match code.unwrap_or(2) {
        0 => Some(StreamKind::Opus { channels: 2 }),
        channels @ 1..=8 => Some(StreamKind::Opus { channels }),
        _ => None,
    }
}
