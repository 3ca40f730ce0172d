//! From packets to units. spec: ISO/IEC 13818-1 §2.4.3

use std::collections::{HashMap, VecDeque};

use bytes::{Buf as _, Bytes, BytesMut};

use super::health::{Health, Watch};
use super::psi::{Pat, Pmt, Sections, crc};
use super::{ElementaryStream, PACKET_BYTES, PID_NULL, PID_PAT, SYNC_BYTE, StreamKind};

/// Distances between sync bytes: plain, with four bytes of arrival time in front (M2TS), with error correction behind.
const STRIDES: [usize; 3] = [PACKET_BYTES, 192, 204];
/// Largest unit: a keyframe at 200 Mbit/s.
const UNIT_BYTES_MAX: usize = 16 << 20;
const PID_CAT: u16 = 1;

/// What to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DemuxerConfig {
    /// `program_number`; `None`: the first of the PAT.
    pub program: Option<u16>,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The program's streams, at first and whenever they change; none when it is gone.
    Program {
        /// `program_number`.
        number: u16,
        /// In the order of the PMT.
        streams: Vec<ElementaryStream>,
    },
    /// A unit of a listed stream.
    Unit(PesUnit),
    /// A SCTE 35 section, its checksum included.
    SpliceInfo {
        /// Where it came.
        pid: u16,
        /// From `table_id` to the checksum, which is right.
        section: Bytes,
    },
    /// A stream is scrambled from here on, and cannot be read.
    Scrambled {
        /// Which.
        pid: u16,
    },
}

/// The payload of a PES packet: for pictures an access unit, for sound some frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PesUnit {
    /// Which stream.
    pub pid: u16,
    /// Presentation time in 1/90,000 s, without wraps.
    pub pts: Option<i64>,
    /// Decode time likewise; the presentation time where there is none.
    pub dts: Option<i64>,
    /// The multiplexer says that a decoder can start here.
    pub is_random_access: bool,
    /// Packets of it are missing, or between it and the one before.
    pub after_loss: bool,
    /// The bytes.
    pub payload: Bytes,
}

/// What is known of one PID.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Default)]
struct Pid {
    counter: Option<u8>,
    /// The last packet came twice, which is once more than it must.
    was_doubled: bool,
    is_scrambled: bool,
    /// Packets were missing since the last whole unit.
    after_loss: bool,
    is_random_access: bool,
    sections: Sections,
    /// From the start code on; empty between units.
    unit: BytesMut,
    /// Bytes of the unit with its header, where it says.
    unit_bytes: Option<usize>,
    is_oversized: bool,
}

/// Takes a transport stream apart. Feed it with [`Demuxer::push`], take what comes with [`Demuxer::poll`].
#[derive(Debug, Default)]
pub struct Demuxer {
    config: DemuxerConfig,
    /// Bytes that are no whole packet yet.
    rest: Vec<u8>,
    /// Distance between sync bytes; `None` while it is looked for.
    stride: Option<usize>,
    /// Bytes between the last packet and the next.
    skip: usize,
    bad_sync: u32,
    pat: Pat,
    pmt_pid: Option<u16>,
    pmt: Option<Pmt>,
    pids: HashMap<u16, Pid>,
    /// The latest time, to which others are near.
    last_time: Option<i64>,
    watch: Watch,
    events: VecDeque<Event>,
}

impl Demuxer {
    /// Nothing read yet.
    pub fn new(config: DemuxerConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// How the stream is.
    pub fn health(&self) -> &Health {
        &self.watch.health
    }

    /// What came next.
    pub fn poll(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Takes bytes, cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.rest.is_empty() {
            let used = self.consume(bytes);
            self.rest.extend_from_slice(bytes.get(used..).unwrap_or_default());
            return;
        }
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(bytes);
        let used = self.consume(&rest);
        rest.drain(..used);
        self.rest = rest;
    }

    /// Nothing more will come: units that end with the next one are whole.
    pub fn finish(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        if self.stride.is_none() && rest.len() == PACKET_BYTES && rest.first() == Some(&SYNC_BYTE) {
            self.on_packet(&rest);
        }
        let mut streams: Vec<u16> = self.pmt.iter().flat_map(|pmt| &pmt.streams).map(|stream| stream.pid).collect();
        streams.dedup();
        for pid in streams {
            self.end_unit(pid);
        }
    }

    /// Takes whole packets; how many bytes it took.
    fn consume(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let skipped = self.skip.min(bytes.len() - at);
            at += skipped;
            self.skip -= skipped;
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(stride) = self.stride else {
                match find_sync(rest) {
                    Some((offset, stride)) => {
                        at += offset;
                        self.stride = stride;
                        if stride.is_none() {
                            return at;
                        }
                    }
                    None => return at,
                }
                continue;
            };
            let Some(packet) = rest.get(..PACKET_BYTES) else { return at };
            if packet.first() == Some(&SYNC_BYTE) {
                self.bad_sync = 0;
                self.on_packet(packet);
            } else {
                self.bad_sync += 1;
                self.watch.health.sync_byte_error += 1;
                if self.bad_sync > 1 {
                    self.lose_sync();
                    continue;
                }
            }
            at += PACKET_BYTES;
            self.skip = stride - PACKET_BYTES;
        }
    }

    /// spec: ETSI TR 101 290 §5.2.1, 1.1: two bad sync bytes one after the other
    fn lose_sync(&mut self) {
        self.watch.health.sync_loss += 1;
        (self.stride, self.bad_sync) = (None, 0);
        for pid in self.pids.values_mut() {
            pid.lose();
        }
    }

    fn on_packet(&mut self, packet: &[u8]) {
        let &[_, flags, pid_low, control, ref rest @ ..] = packet else { return };
        self.watch.health.packets += 1;
        if flags & 0x80 != 0 {
            self.watch.health.transport_error += 1;
            return;
        }
        let number = u16::from_be_bytes([flags & 0x1f, pid_low]);
        if number == PID_NULL {
            self.watch.health.null_packets += 1;
            return;
        }
        let (has_field, has_payload) = (control & 0x20 != 0, control & 0x10 != 0);
        let (field, payload) = match rest.split_first() {
            Some((length, after)) if has_field => {
                let Some(split) = after.split_at_checked(usize::from(*length)) else { return };
                split
            }
            _ => (&[][..], rest),
        };
        let says_discontinuity = field.first().is_some_and(|flags| flags & 0x80 != 0);
        self.watch.on_packet(number);
        if self.pmt.as_ref().is_some_and(|pmt| pmt.pcr_pid == number)
            && let Some(pcr) = clock_reference(field)
        {
            self.watch.on_pcr(pcr, says_discontinuity);
        }
        let is_table = number == PID_PAT || number == PID_CAT || Some(number) == self.pmt_pid;
        let kind = self.kind(number);
        if !is_table && kind.is_none() {
            return;
        }
        let pid = self.pids.entry(number).or_default();
        if says_discontinuity {
            (pid.counter, pid.after_loss) = (None, true);
        }
        if !has_payload || !pid.count(control & 0x0f, &mut self.watch.health) {
            return;
        }
        if control & 0xc0 != 0 {
            self.watch.health.scrambled_packets += 1;
            self.watch.health.cat_error += u64::from(!self.watch.has_cat);
            self.watch.health.pat_error += u64::from(number == PID_PAT);
            if !std::mem::replace(&mut pid.is_scrambled, true) {
                self.events.push_back(Event::Scrambled { pid: number });
            }
            return;
        }
        pid.is_scrambled = false;
        let is_start = flags & 0x40 != 0;
        let is_random_access = field.first().is_some_and(|flags| flags & 0x40 != 0);
        match kind {
            _ if is_table => self.on_table(number, payload, is_start),
            Some(StreamKind::SpliceInfo) => self.on_splice_info(number, payload, is_start),
            Some(StreamKind::Other | StreamKind::Mpeg2Video) | None => {}
            Some(_) => self.on_media(number, payload, is_start, is_random_access),
        }
    }

    fn kind(&self, number: u16) -> Option<StreamKind> {
        let streams = self.pmt.iter().flat_map(|pmt| &pmt.streams);
        streams.into_iter().find(|stream| stream.pid == number).map(|stream| stream.kind)
    }

    fn on_table(&mut self, number: u16, payload: &[u8], is_start: bool) {
        let Some(pid) = self.pids.get_mut(&number) else { return };
        let mut whole = Vec::new();
        let mut sections = std::mem::take(&mut pid.sections);
        sections.push(payload, is_start, |section| whole.push(section.clone()));
        pid.sections = sections;
        for section in whole {
            if crc(&section) != 0 {
                self.watch.health.crc_error += 1;
            } else if number == PID_PAT {
                self.on_pat(&section);
            } else if number == PID_CAT {
                self.watch.has_cat = true;
            } else {
                self.on_pmt(&section);
            }
        }
    }

    fn on_pat(&mut self, section: &[u8]) {
        self.watch.on_pat();
        if !self.pat.take(section) {
            return;
        }
        let program = self.pat.program(self.config.program);
        if program.map(|(_, pid)| pid) == self.pmt_pid {
            return;
        }
        self.pmt_pid = program.map(|(_, pid)| pid);
        if let Some(old) = self.pmt.take().filter(|_| program.is_none()) {
            self.events.push_back(Event::Program { number: old.program, streams: Vec::new() });
        }
    }

    fn on_pmt(&mut self, section: &[u8]) {
        let Some(pmt) = Pmt::parse(section) else { return };
        // Several programs may have their tables on one PID.
        let is_ours = self.pat.program(self.config.program).is_some_and(|(number, _)| number == pmt.program);
        if !is_ours {
            return;
        }
        self.watch.on_pmt();
        if self.pmt.as_ref() == Some(&pmt) {
            return;
        }
        let listed = |pid: u16| pmt.streams.iter().any(|stream| stream.pid == pid);
        let pmt_pid = self.pmt_pid;
        self.pids.retain(|pid, _| *pid == PID_PAT || *pid == PID_CAT || Some(*pid) == pmt_pid || listed(*pid));
        let watched = pmt.streams.iter().filter(|stream| stream.kind.is_video() || stream.kind.is_audio());
        self.watch.expect(watched.map(|stream| stream.pid));
        self.events.push_back(Event::Program { number: pmt.program, streams: pmt.streams.clone() });
        self.pmt = Some(pmt);
    }

    fn on_splice_info(&mut self, number: u16, payload: &[u8], is_start: bool) {
        let Some(pid) = self.pids.get_mut(&number) else { return };
        let mut sections = std::mem::take(&mut pid.sections);
        sections.push(payload, is_start, |section| {
            if crc(section) != 0 {
                self.watch.health.crc_error += 1;
            } else if section.first() == Some(&0xfc) {
                self.events.push_back(Event::SpliceInfo { pid: number, section: section.clone() });
            }
        });
        if let Some(pid) = self.pids.get_mut(&number) {
            pid.sections = sections;
        }
    }

    fn on_media(&mut self, number: u16, payload: &[u8], is_start: bool, is_random_access: bool) {
        if is_start {
            self.end_unit(number);
            if let Some(pid) = self.pids.get_mut(&number) {
                pid.is_random_access = is_random_access;
            }
        }
        let Some(pid) = self.pids.get_mut(&number) else { return };
        if !is_start && pid.unit.is_empty() {
            return; // its beginning is missing, or it is whole already
        }
        if pid.unit.len() + payload.len() > UNIT_BYTES_MAX {
            self.watch.health.oversized_units += u64::from(!std::mem::replace(&mut pid.is_oversized, true));
            pid.unit.clear();
            pid.after_loss = true;
            return;
        }
        pid.unit.extend_from_slice(payload);
        if pid.unit_bytes.is_none()
            && let &[_, _, _, _, high, low, ..] = pid.unit.as_ref()
        {
            let length = usize::from(u16::from_be_bytes([high, low]));
            pid.unit_bytes = (length > 0).then_some(6 + length);
        }
        if pid.unit_bytes.is_some_and(|bytes| pid.unit.len() >= bytes) {
            self.end_unit(number);
        }
    }

    /// The unit is whole, or as whole as it gets.
    fn end_unit(&mut self, number: u16) {
        let Some(pid) = self.pids.get_mut(&number) else { return };
        let mut unit = std::mem::take(&mut pid.unit);
        let wanted = pid.unit_bytes.take();
        pid.is_oversized = false;
        if unit.is_empty() {
            return;
        }
        let after_loss = std::mem::take(&mut pid.after_loss) || wanted.is_some_and(|wanted| unit.len() < wanted);
        unit.truncate(wanted.unwrap_or(unit.len()));
        let is_random_access = std::mem::take(&mut pid.is_random_access);
        let Some((header_bytes, pts, dts)) = pes_header(&unit) else {
            pid.after_loss = true;
            return;
        };
        let dts = dts.or(pts).map(|time| self.unwrapped(time));
        let pts = pts.map(|time| near(time, dts.unwrap_or(0)));
        if pts.is_some() {
            self.watch.on_pts(number);
        }
        unit.advance(header_bytes);
        let payload = unit.freeze();
        self.events.push_back(Event::Unit(PesUnit { pid: number, pts, dts, is_random_access, after_loss, payload }));
    }

    fn unwrapped(&mut self, time: i64) -> i64 {
        let unwrapped = self.last_time.map_or(time, |last| near(time, last));
        self.last_time = Some(unwrapped);
        unwrapped
    }
}

impl Pid {
    /// Checks the counter; false for a packet that came before. spec: ISO/IEC 13818-1 §2.4.3.3
    fn count(&mut self, counter: u8, health: &mut Health) -> bool {
        let Some(last) = self.counter.replace(counter) else { return true };
        if counter == last {
            if !std::mem::replace(&mut self.was_doubled, true) {
                return false;
            }
            health.continuity_count_error += 1;
            return false;
        }
        self.was_doubled = false;
        if counter != (last + 1) & 0x0f {
            health.continuity_count_error += 1;
            self.lose();
        }
        true
    }

    fn lose(&mut self) {
        self.after_loss = true;
        self.sections.reset();
    }
}

/// Where packets begin and how far apart they are: two sync bytes at one of the distances. `None` where more bytes are
/// needed to tell; a distance of `None`: nothing before the offset.
fn find_sync(bytes: &[u8]) -> Option<(usize, Option<usize>)> {
    const LOOK: usize = 204;
    let mut offset = 0;
    loop {
        let rest = bytes.get(offset..)?;
        let at = rest.iter().position(|byte| *byte == SYNC_BYTE);
        let Some(at) = at else { return (!bytes.is_empty()).then_some((bytes.len(), None)) };
        offset += at;
        let rest = bytes.get(offset..)?;
        if rest.len() <= LOOK {
            return (offset > 0).then_some((offset, None));
        }
        let stride = STRIDES.into_iter().find(|stride| rest.get(*stride) == Some(&SYNC_BYTE));
        if stride.is_some() {
            return Some((offset, stride));
        }
        offset += 1;
    }
}

/// 27 MHz ticks. spec: ISO/IEC 13818-1 §2.4.3.5
fn clock_reference(field: &[u8]) -> Option<i64> {
    let (flags, rest) = field.split_first()?;
    let (high, rest) = rest.split_first_chunk::<4>()?;
    let &[middle, low, ..] = rest else { return None };
    let base = i64::from(u32::from_be_bytes(*high)) << 1 | i64::from(middle >> 7);
    let extension = i64::from(middle & 1) << 8 | i64::from(low);
    (flags & 0x10 != 0).then_some(base * 300 + extension)
}

/// Bytes of the header, PTS and DTS. spec: ISO/IEC 13818-1 §2.4.3.6
fn pes_header(unit: &[u8]) -> Option<(usize, Option<i64>, Option<i64>)> {
    let &[0, 0, 1, _, _, _, marks, flags, length, ref rest @ ..] = unit else { return None };
    let is_readable = marks & 0xc0 == 0x80 && marks & 0x30 == 0; // not scrambled
    let header_bytes = 9 + usize::from(length);
    if !is_readable || unit.len() < header_bytes {
        return None;
    }
    let pts = (flags & 0x80 != 0 && length >= 5).then(|| timestamp(rest)).flatten();
    let dts = (flags & 0xc0 == 0xc0 && length >= 10).then(|| timestamp(rest.get(5..)?)).flatten();
    Some((header_bytes, pts, dts))
}

fn timestamp(bytes: &[u8]) -> Option<i64> {
    let bytes = bytes.first_chunk::<5>()?.map(i64::from);
    let [top, second, third, fourth, last] = bytes;
    Some((top >> 1 & 7) << 30 | second << 22 | (third >> 1) << 15 | fourth << 7 | last >> 1)
}

/// The value of 33 bits that is nearest to `to`.
fn near(time: i64, to: i64) -> i64 {
    const WRAP: i64 = 1 << 33;
    let step = (time - to).rem_euclid(WRAP);
    to + if step >= WRAP / 2 { step - WRAP } else { step }
}
