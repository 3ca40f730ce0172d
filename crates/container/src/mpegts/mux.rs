//! From units to packets. spec: ISO/IEC 13818-1 §2.4.3

use bytes::{BufMut, BytesMut};

use super::psi::crc;
use super::{PACKET_BYTES, PID_PAT, SYNC_BYTE, StreamKind};

const PROGRAM: u16 = 1;
const PID_PMT: u16 = 0x1000;
const PID_FIRST: u16 = 0x100;
/// Tables come at least so often, in 1/90,000 s. spec: ETSI TR 101 290 §5.2.1 wants 500 ms
const TABLE_INTERVAL: i64 = 36_000;
/// The clock reference lies so far before the decode time: what a receiver buffers.
const CLOCK_LEAD: i64 = 9000;
/// Added to every time, so that no clock reference is below zero.
const START: i64 = 90_000;
const TIME_MASK: i64 = (1 << 33) - 1;

/// Writes a transport stream of one program. Pictures are Annex B access units, AAC comes in ADTS, Opus with its control
/// header.
#[derive(Debug)]
pub struct Muxer {
    streams: Vec<StreamKind>,
    counters: Vec<u8>,
    table_counters: [u8; 2],
    tables_at: Option<i64>,
    clock_at: Option<i64>,
}

impl Muxer {
    /// One program with these streams.
    pub fn new(streams: &[StreamKind]) -> Self {
        let counters = vec![0; streams.len()];
        Self { streams: streams.to_vec(), counters, table_counters: [0; 2], tables_at: None, clock_at: None }
    }

    /// The stream that carries the clock: the picture, or else the first.
    fn clock_stream(&self) -> usize {
        self.streams.iter().position(|kind| kind.is_video()).unwrap_or(0)
    }

    fn pid(stream: usize) -> u16 {
        PID_FIRST + u16::try_from(stream).unwrap_or(0)
    }

    /// Appends the packets of a unit of a stream, by its index. Times are in 1/90,000 s and may be below zero by less than a
    /// second.
    pub fn write(
        &mut self,
        stream: usize,
        pts: i64,
        dts: i64,
        is_random_access: bool,
        payload: &[u8],
        out: &mut BytesMut,
    ) {
        let Some(kind) = self.streams.get(stream).copied() else { return };
        let (pts, dts) = (pts + START, dts + START);
        let is_start = is_random_access && kind.is_video();
        if is_start || self.tables_at.is_none_or(|at| !(0..TABLE_INTERVAL).contains(&(dts - at))) {
            self.tables_at = Some(dts);
            self.write_tables(out);
        }
        let carries_clock = stream == self.clock_stream();
        let is_clock_due = kind.is_video() || self.clock_at.is_none_or(|at| !(0..3600).contains(&(dts - at)));
        let clock = (carries_clock && is_clock_due).then_some(dts - CLOCK_LEAD);
        self.clock_at = if clock.is_some() { Some(dts) } else { self.clock_at };
        let header = pes_header(kind, pts, dts, payload.len());
        let Some(counter) = self.counters.get_mut(stream) else { return };
        let mut rest: [&[u8]; 2] = [&header, payload];
        let mut is_first = true;
        while rest.iter().any(|slice| !slice.is_empty()) {
            let head = Head {
                pid: Self::pid(stream),
                is_start: is_first,
                is_random_access: is_first && is_start,
                clock: clock.filter(|_| is_first),
                counter,
            };
            head.write(&mut rest, out);
            is_first = false;
        }
    }

    fn write_tables(&mut self, out: &mut BytesMut) {
        let mut pat = BytesMut::new();
        pat.put_u16(PROGRAM);
        pat.put_u16(0xe000 | PID_PMT);
        let mut pmt = BytesMut::new();
        pmt.put_u16(0xe000 | Self::pid(self.clock_stream()));
        pmt.put_u16(0xf000);
        for (index, kind) in self.streams.iter().enumerate() {
            let (stream_type, descriptors) = describe(*kind);
            pmt.put_u8(stream_type);
            pmt.put_u16(0xe000 | Self::pid(index));
            pmt.put_u16(0xf000 | u16::try_from(descriptors.len()).unwrap_or(0));
            pmt.put_slice(&descriptors);
        }
        let [pat_counter, pmt_counter] = &mut self.table_counters;
        for (pid, table, id, body, counter) in
            [(PID_PAT, 0, 1, pat, pat_counter), (PID_PMT, 2, PROGRAM, pmt, pmt_counter)]
        {
            let mut section = BytesMut::new();
            section.put_u8(0); // pointer
            section.put_u8(table);
            section.put_u16(0xb000 | u16::try_from(body.len() + 9).unwrap_or(0));
            section.put_u16(id);
            section.put_slice(&[0xc1, 0, 0]); // version 0, in force, the only section
            section.put_slice(&body);
            let sum = crc(section.get(1..).unwrap_or_default());
            section.put_u32(sum);
            section.resize(PACKET_BYTES - 4, 0xff);
            let head = Head { pid, is_start: true, is_random_access: false, clock: None, counter };
            head.write(&mut [&section, &[]], out);
        }
    }
}

/// Type and descriptors of a stream in the PMT.
fn describe(kind: StreamKind) -> (u8, Vec<u8>) {
    match kind {
        StreamKind::H264 => (0x1b, Vec::new()),
        StreamKind::H265 => (0x24, b"\x05\x04HEVC".to_vec()),
        StreamKind::AacAdts => (0x0f, Vec::new()),
        StreamKind::AacLatm => (0x11, Vec::new()),
        StreamKind::Opus { channel_config } => (0x06, [&b"\x05\x04Opus\x7f\x02\x80"[..], &[channel_config]].concat()),
        StreamKind::Ac3 => (0x81, b"\x05\x04AC-3".to_vec()),
        StreamKind::Eac3 => (0x87, b"\x05\x04EAC3".to_vec()),
        StreamKind::MpegAudio => (0x03, Vec::new()),
        StreamKind::Mpeg2Video => (0x02, Vec::new()),
        StreamKind::SpliceInfo => (0x86, Vec::new()),
        StreamKind::Klv => (0x06, b"\x05\x04KLVA".to_vec()),
        StreamKind::Other => (0x06, Vec::new()),
    }
}

fn pes_header(kind: StreamKind, pts: i64, dts: i64, payload: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(19);
    let stream_id = match kind {
        StreamKind::Opus { .. } | StreamKind::Ac3 | StreamKind::Eac3 | StreamKind::Klv | StreamKind::Other => 0xbd,
        _ if kind.is_video() => 0xe0,
        _ => 0xc0,
    };
    let has_dts = dts != pts;
    let times = if has_dts { 10u8 } else { 5 };
    let length = u16::try_from(3 + usize::from(times) + payload).unwrap_or(0); // 0: to the next start, pictures only
    out.put_slice(&[0, 0, 1, stream_id]);
    out.put_u16(length);
    out.put_slice(&[0x84, if has_dts { 0xc0 } else { 0x80 }, times]); // aligned
    put_time(&mut out, if has_dts { 3 } else { 2 }, pts);
    if has_dts {
        put_time(&mut out, 1, dts);
    }
    out
}

fn put_time(out: &mut BytesMut, mark: u8, time: i64) {
    let time = time & TIME_MASK;
    let byte = |value: i64| u8::try_from(value & 0xff).unwrap_or(0);
    out.put_u8(mark << 4 | byte(time >> 29 & 0x0e) | 1);
    out.put_slice(&[byte(time >> 22), byte(time >> 14) | 1, byte(time >> 7), byte(time << 1) | 1]);
}

/// What stands before the payload of a packet.
struct Head<'a> {
    pid: u16,
    is_start: bool,
    is_random_access: bool,
    clock: Option<i64>,
    counter: &'a mut u8,
}

impl Head<'_> {
    /// Writes one packet with as much of `rest` as fits.
    fn write(self, rest: &mut [&[u8]; 2], out: &mut BytesMut) {
        let start = out.len();
        let mut field = BytesMut::new();
        if self.clock.is_some() || self.is_random_access {
            field.put_u8(u8::from(self.is_random_access) << 6 | u8::from(self.clock.is_some()) << 4);
        }
        if let Some(clock) = self.clock {
            let clock = clock & TIME_MASK;
            field.put_u32(u32::try_from(clock >> 1).unwrap_or(0));
            field.put_u16(u16::try_from(clock & 1).unwrap_or(0) << 15 | 0x7e00);
        }
        let left: usize = rest.iter().map(|slice| slice.len()).sum();
        let header = 4 + if field.is_empty() { 0 } else { 1 + field.len() };
        let stuffing = (PACKET_BYTES - header).saturating_sub(left);
        let has_field = !field.is_empty() || stuffing > 0;
        out.put_u8(SYNC_BYTE);
        out.put_u16(u16::from(self.is_start) << 14 | self.pid);
        out.put_u8(if has_field { 0x30 } else { 0x10 } | *self.counter);
        *self.counter = (*self.counter + 1) & 0x0f;
        if has_field {
            // The length byte is the first byte of stuffing, and the flags the second, where there was no field.
            let length = field.len() + stuffing - usize::from(field.is_empty());
            out.put_u8(u8::try_from(length).unwrap_or(0));
            if field.is_empty() && length > 0 {
                field.put_u8(0);
            }
            let filled = field.len();
            out.put_slice(&field);
            out.put_bytes(0xff, length - filled);
        }
        let mut room = (start + PACKET_BYTES).saturating_sub(out.len());
        for slice in rest {
            let (now, later) = slice.split_at(room.min(slice.len()));
            out.put_slice(now);
            room -= now.len();
            *slice = later;
        }
        debug_assert_eq!(out.len() - start, PACKET_BYTES, "one packet");
    }
}
