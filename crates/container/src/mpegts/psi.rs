//! Tables: PAT and PMT, and the sections they come in. spec: ISO/IEC 13818-1 §2.4.4

use bytes::{Bytes, BytesMut};

use super::{ElementaryStream, StreamKind};

/// Largest section. spec: ISO/IEC 13818-1 §2.4.4.11
const SECTION_BYTES_MAX: usize = 4096 + 3;
/// Elementary streams of a program that are looked at.
const STREAMS_MAX: usize = 64;
/// Programs of a stream that are looked at.
const PROGRAMS_MAX: usize = 256;

/// Puts sections together from the packets of one PID.
#[derive(Debug, Default)]
pub(super) struct Sections {
    buffer: BytesMut,
    /// The beginning of a section was seen.
    is_started: bool,
}

impl Sections {
    /// Forgets what is not whole: something is missing.
    pub(super) fn reset(&mut self) {
        self.buffer.clear();
        self.is_started = false;
    }

    /// Takes a packet's payload; `sections` gets each whole section.
    pub(super) fn push(&mut self, payload: &[u8], is_start: bool, mut sections: impl FnMut(&Bytes)) {
        let mut fresh = payload;
        if is_start {
            // spec: ISO/IEC 13818-1 §2.4.4.1: the end of the section before stands in front
            let Some((pointer, rest)) = payload.split_first() else { return };
            let Some((end, begin)) = rest.split_at_checked(usize::from(*pointer)) else { return self.reset() };
            if self.is_started {
                self.buffer.extend_from_slice(end);
                self.take(&mut sections);
            }
            self.buffer.clear();
            self.is_started = true;
            fresh = begin;
        }
        if !self.is_started || self.buffer.len() + fresh.len() > 2 * SECTION_BYTES_MAX {
            return self.reset();
        }
        self.buffer.extend_from_slice(fresh);
        self.take(&mut sections);
    }

    fn take(&mut self, sections: &mut impl FnMut(&Bytes)) {
        while let &[table, high, low, ..] = self.buffer.as_ref() {
            if table == 0xff {
                return self.reset(); // stuffing to the end of the packet
            }
            let length = 3 + (usize::from(high & 0x0f) << 8 | usize::from(low));
            if self.buffer.len() < length {
                return;
            }
            sections(&self.buffer.split_to(length).freeze());
        }
    }
}

/// CRC-32 as tables have it: 0 over a whole section. spec: ISO/IEC 13818-1 annex A
pub(super) fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        let mut crc = crc ^ u32::from(*byte) << 24;
        for _ in 0..8 {
            crc = if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 };
        }
        crc
    })
}

/// A section's header and its body, without the checksum. `None` where it is damaged or not in force yet.
struct Section<'a> {
    table: u8,
    /// Which program, or which stream.
    id: u16,
    version: u8,
    number: u8,
    last_number: u8,
    body: &'a [u8],
}

fn section(bytes: &[u8]) -> Option<Section<'_>> {
    let &[table, flags, _, id_high, id_low, version, number, last_number, ref rest @ ..] = bytes else { return None };
    let body = rest.get(..rest.len().checked_sub(4)?)?;
    let (has_syntax, is_current) = (flags & 0x80 != 0, version & 1 == 1);
    (has_syntax && is_current).then_some(Section {
        table,
        id: u16::from_be_bytes([id_high, id_low]),
        version: version >> 1 & 0x1f,
        number,
        last_number,
        body,
    })
}

/// Where the programs are. spec: ISO/IEC 13818-1 §2.4.4.4
#[derive(Debug, Default)]
pub(super) struct Pat {
    version: Option<(u16, u8)>,
    /// Number of a program and the PID of its PMT, of the sections that came.
    programs: Vec<(u8, u16, u16)>,
    sections_missing: Vec<u8>,
}

impl Pat {
    /// Takes a section whose checksum is right; true when the table is whole and differs from what it was.
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        let Some(section) = section(bytes).filter(|section| section.table == 0) else { return false };
        let identity = Some((section.id, section.version));
        if self.version != identity {
            self.version = identity;
            self.programs.clear();
            self.sections_missing = (0..=section.last_number).collect();
        }
        let Some(at) = self.sections_missing.iter().position(|number| *number == section.number) else { return false };
        self.sections_missing.swap_remove(at);
        for entry in section.body.chunks_exact(4) {
            if let &[number_high, number_low, pid_high, pid_low] = entry
                && self.programs.len() < PROGRAMS_MAX
            {
                let number = u16::from_be_bytes([number_high, number_low]);
                let pid = u16::from_be_bytes([pid_high & 0x1f, pid_low]);
                if number != 0 {
                    self.programs.push((section.number, number, pid));
                }
            }
        }
        self.sections_missing.is_empty()
    }

    /// Number and PMT of the wanted program, or of the first.
    pub(super) fn program(&mut self, wanted: Option<u16>) -> Option<(u16, u16)> {
        self.programs.sort_by_key(|(section, ..)| *section);
        let mut programs = self.programs.iter().map(|(_, number, pid)| (*number, *pid));
        programs.find(|(number, _)| wanted.is_none_or(|wanted| wanted == *number))
    }
}

/// A program map. spec: ISO/IEC 13818-1 §2.4.4.8
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pmt {
    pub(super) program: u16,
    pub(super) pcr_pid: u16,
    pub(super) streams: Vec<ElementaryStream>,
}

impl Pmt {
    /// From a section whose checksum is right.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let section = section(bytes).filter(|section| section.table == 2)?;
        let &[pcr_high, pcr_low, info_high, info_low, ref rest @ ..] = section.body else { return None };
        let info = usize::from(info_high & 0x0f) << 8 | usize::from(info_low);
        let mut rest = rest.get(info..)?;
        let mut streams = Vec::new();
        while let &[stream_type, pid_high, pid_low, info_high, info_low, ref after @ ..] = rest {
            let info = usize::from(info_high & 0x0f) << 8 | usize::from(info_low);
            let (descriptors, after) = after.split_at_checked(info)?;
            rest = after;
            if streams.len() < STREAMS_MAX {
                streams.push(ElementaryStream {
                    pid: u16::from_be_bytes([pid_high & 0x1f, pid_low]),
                    stream_type,
                    kind: kind(stream_type, descriptors),
                    language: language(descriptors),
                });
            }
        }
        let pcr_pid = u16::from_be_bytes([pcr_high & 0x1f, pcr_low]);
        Some(Self { program: section.id, pcr_pid, streams })
    }
}

/// Tag and content of each descriptor. spec: ISO/IEC 13818-1 §2.6
fn descriptors(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let &[tag, length, ref rest @ ..] = bytes else { return None };
        let (content, after) = rest.split_at_checked(usize::from(length))?;
        bytes = after;
        Some((tag, content))
    })
}

fn language(info: &[u8]) -> Option<[u8; 3]> {
    let (_, content) = descriptors(info).find(|(tag, _)| *tag == 0x0a)?;
    content.first_chunk::<3>().copied()
}

/// spec: ISO/IEC 13818-1 table 2-34; private data by its descriptors: ETSI EN 300 468 §6, registrations of SMPTE RA
fn kind(stream_type: u8, info: &[u8]) -> StreamKind {
    match stream_type {
        0x01 | 0x02 => StreamKind::Mpeg2Video,
        0x03 | 0x04 => StreamKind::MpegAudio,
        0x0f => StreamKind::AacAdts,
        0x11 => StreamKind::AacLatm,
        0x15 => StreamKind::Klv,
        0x1b => StreamKind::H264,
        0x24 => StreamKind::H265,
        0x81 => StreamKind::Ac3,
        0x84 | 0x87 => StreamKind::Eac3,
        0x86 => StreamKind::SpliceInfo,
        0x06 => private_kind(info),
        _ => StreamKind::Other,
    }
}

fn private_kind(info: &[u8]) -> StreamKind {
    let registered = |name: &[u8]| descriptors(info).any(|(tag, content)| tag == 0x05 && content.starts_with(name));
    let has = |wanted: u8| descriptors(info).any(|(tag, _)| tag == wanted);
    if registered(b"Opus") {
        // spec: Opus in MPEG-TS §4.2: the extension descriptor 0x7f, 0x80, and then the code
        let code = descriptors(info).find_map(|(tag, content)| match content {
            [0x80, code, ..] if tag == 0x7f => Some(*code),
            _ => None,
        });
        return StreamKind::Opus { channel_config: code.unwrap_or(2) };
    }
    match () {
        () if registered(b"HEVC") => StreamKind::H265,
        () if registered(b"KLVA") => StreamKind::Klv,
        () if registered(b"AC-3") || has(0x6a) => StreamKind::Ac3,
        () if registered(b"EAC3") || has(0x7a) => StreamKind::Eac3,
        () => StreamKind::Other,
    }
}
