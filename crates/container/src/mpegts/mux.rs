//! The multiplexer: from access units to the packets of one program.

use bytes::{BufMut, BytesMut};

use super::{PACKET_BYTES, PID_NULL, PID_PAT, SYNC_BYTE, StreamKind, psi};

const PROGRAM_NUMBER: u16 = 1;
const PID_MAP: u16 = 0x1000;
const PID_FIRST: u16 = 0x100;
/// More streams than this are left out: the map stays far below its 1024 bytes.
const STREAMS_MAX: usize = 32;
/// Bytes of a packet behind its header.
const BODY_BYTES: usize = PACKET_BYTES - 4;

/// 90 kHz: the clock runs this far behind the decode times, for the decoder to fill its buffer.
const DELAY: i64 = 9000;
/// 90 kHz: tables are due after this, so that with units up to 100 ms apart they come every 400 ms.
const TABLES_AFTER: u64 = 27_000;
/// 90 kHz: longest distance of clock references, 40 ms. spec: ETSI TR 101 290 §5.2.2, 2.3 as it was first
const PCR_EVERY: i64 = 3600;
/// 90 kHz: a longer step, or one back, is signalled as a discontinuity.
const STEP_MAX: i64 = 900_000;

/// Writes a transport stream of one program with constant tables and no stuffing packets.
///
/// The first video stream carries the clock, or the first stream where there is no video. The clock is 100 ms behind
/// the decode times; where units lie further apart than 40 ms, packets with only a clock reference come between.
#[derive(Debug)]
pub struct Muxer {
    streams: Vec<MuxStream>,
    pcr_stream: usize,
    tables: [u8; 2],
    /// Of the map: grows when the streams change, 5 bits.
    version: u8,
    /// Decode time at which the tables were written.
    tables_at: Option<u64>,
    /// The last clock reference, 90 kHz.
    last_pcr: Option<i64>,
    /// The last decode time of the stream that carries the clock: no reference lies beyond it.
    clock_limit: i64,
}

#[derive(Debug)]
struct MuxStream {
    kind: StreamKind,
    pid: u16,
    counter: u8,
}

/// What the adaptation field says, stuffing aside.
#[derive(Clone, Copy, Debug, Default)]
struct Adaptation {
    discontinuity: bool,
    random_access: bool,
    /// 90 kHz.
    pcr: Option<i64>,
}

impl Muxer {
    /// A program of these streams, at most 32. Splice information and unknown kinds keep their place, but are neither
    /// listed nor written.
    pub fn new(streams: &[StreamKind]) -> Self {
        let mut muxer = Self {
            streams: Vec::new(),
            pcr_stream: 0,
            tables: [0; 2],
            version: 31,
            tables_at: None,
            last_pcr: None,
            clock_limit: i64::MIN,
        };
        muxer.set_streams(streams);
        muxer
    }

    /// Changes the streams of the program: the map comes with the next unit, in a version of its own. The counters of the
    /// places that stay go on. The same streams as before change nothing.
    pub fn set_streams(&mut self, streams: &[StreamKind]) {
        let kinds = self.streams.iter().map(|stream| &stream.kind);
        if !self.streams.is_empty() && kinds.eq(streams.iter().take(STREAMS_MAX)) {
            return;
        }
        let before = std::mem::take(&mut self.streams);
        let counter = |at: usize| before.get(at).map_or(0, |stream| stream.counter);
        self.streams = (PID_FIRST..PID_MAP)
            .zip(streams.iter().take(STREAMS_MAX).enumerate())
            .map(|(pid, (at, kind))| MuxStream { kind: *kind, pid, counter: counter(at) })
            .collect();
        let listed = |stream: &MuxStream| stream_type(stream.kind).is_some();
        let video = self.streams.iter().position(|stream| stream.kind.is_video());
        self.pcr_stream = video.or_else(|| self.streams.iter().position(listed)).unwrap_or_default();
        self.version = (self.version + 1) & 31;
        self.tables_at = None;
    }

    /// Appends one access unit in one PES packet, and the tables where they are due.
    ///
    /// `stream` is the place in the list given to [`Muxer::new`]; a unit of a place that is not there or not written is
    /// left out. Times are in ticks of 90 kHz and are written modulo 2^33. `payload` is Annex B, an ADTS frame, or Opus
    /// with control header; its slices are written one behind the other.
    pub fn write<'a>(
        &mut self,
        stream: usize,
        pts_90k: u64,
        dts_90k: u64,
        is_random_access: bool,
        payload: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>,
        out: &mut BytesMut,
    ) {
        let payload = payload.into_iter();
        let Some(kind) = self.streams.get(stream).map(|stream| stream.kind) else { return };
        if stream_type(kind).is_none() {
            return;
        }
        let is_due = self.tables_at.is_none_or(|last| dts_90k.abs_diff(last) >= TABLES_AFTER);
        if is_due || (is_random_access && kind.is_video()) {
            self.write_tables(out);
            self.tables_at = Some(dts_90k);
        }
        let mut adaptation = self.clock(stream == self.pcr_stream, dts_90k.cast_signed(), out);
        adaptation.random_access = is_random_access;
        let payload_bytes = payload.clone().map(<[u8]>::len).sum();
        let (header, header_bytes) = pes_header(kind, pts_90k, dts_90k, payload_bytes);
        let header = header.get(..header_bytes).unwrap_or_default();
        if let Some(stream) = self.streams.get_mut(stream) {
            write_packets(out, stream, adaptation, header, payload_bytes, payload);
        }
    }

    /// The reference that goes with a unit; references that are due before it are written as packets of their own.
    fn clock(&mut self, is_pcr_stream: bool, dts: i64, out: &mut BytesMut) -> Adaptation {
        let mut value = dts.saturating_sub(DELAY);
        if is_pcr_stream {
            self.clock_limit = dts;
        } else {
            value = value.min(self.clock_limit);
        }
        let mut adaptation = Adaptation::default();
        let step = self.last_pcr.map(|last| value.saturating_sub(last));
        let is_jump = step.is_some_and(|step| !(-STEP_MAX..=STEP_MAX).contains(&step));
        if !is_jump {
            while let Some(last) = self.last_pcr.filter(|last| value - last > PCR_EVERY) {
                self.write_pcr(last + PCR_EVERY, out);
            }
        }
        if is_pcr_stream && (is_jump || self.last_pcr.is_none_or(|last| value > last)) {
            adaptation.discontinuity = is_jump;
            adaptation.pcr = Some(value);
            self.last_pcr = Some(value);
        }
        adaptation
    }

    /// A packet with nothing but a clock reference; the counter stands still. spec: ISO/IEC 13818-1 §2.4.3.3
    fn write_pcr(&mut self, pcr: i64, out: &mut BytesMut) {
        self.last_pcr = Some(pcr);
        let Some(stream) = self.streams.get(self.pcr_stream) else { return };
        let adaptation = Adaptation { pcr: Some(pcr), ..Adaptation::default() };
        out.put_u8(SYNC_BYTE);
        out.put_u16(stream.pid);
        out.put_u8(0x20 | (stream.counter.wrapping_sub(1) & 15));
        adaptation.put(BODY_BYTES, out);
    }

    /// spec: ISO/IEC 13818-1 §2.4.4.3, §2.4.4.8
    fn write_tables(&mut self, out: &mut BytesMut) {
        let mut body = BytesMut::with_capacity(PACKET_BYTES);
        body.put_u16(PROGRAM_NUMBER);
        body.put_u16(0xe000 | PID_MAP);
        let [pat_counter, map_counter] = &mut self.tables;
        write_section(out, PID_PAT, pat_counter, (0, 0), &body);
        body.clear();
        let pcr_pid = self.streams.get(self.pcr_stream).map_or(PID_NULL, |stream| stream.pid);
        body.put_u16(0xe000 | pcr_pid);
        body.put_u16(0xf000);
        for stream in &self.streams {
            let Some(stream_type) = stream_type(stream.kind) else { continue };
            body.put_u8(stream_type);
            body.put_u16(0xe000 | stream.pid);
            match stream.kind {
                // spec: Opus in MPEG-TS §4.2
                StreamKind::Opus { channels } => {
                    body.put_slice(b"\xf0\x0a\x05\x04Opus\x7f\x02\x80");
                    body.put_u8(channels);
                }
                StreamKind::Klv => body.put_slice(b"\xf0\x06\x05\x04KLVA"),
                _ => body.put_u16(0xf000),
            }
        }
        write_section(out, PID_MAP, map_counter, (2, self.version), &body);
    }
}

/// spec: ISO/IEC 13818-1 table 2-34; SCTE 35 and unknown kinds are not written
fn stream_type(kind: StreamKind) -> Option<u8> {
    match kind {
        StreamKind::H264 => Some(0x1b),
        StreamKind::H265 => Some(0x24),
        StreamKind::AacAdts => Some(0x0f),
        StreamKind::AacLatm => Some(0x11),
        StreamKind::Opus { .. } | StreamKind::Klv => Some(0x06),
        StreamKind::Ac3 => Some(0x81),
        StreamKind::Eac3 => Some(0x87),
        StreamKind::MpegAudio => Some(0x03),
        StreamKind::Mpeg2Video => Some(0x02),
        StreamKind::Scte35 | StreamKind::Other => None,
    }
}

/// A section that is the only one of its table, in packets of its own.
fn write_section(out: &mut BytesMut, pid: u16, counter: &mut u8, (table_id, version): (u8, u8), body: &[u8]) {
    let mut section = BytesMut::with_capacity(1 + 8 + body.len() + 4);
    section.put_slice(&[0, table_id]); // pointer_field
    section.put_u16(0xb000 | u16::try_from(5 + body.len() + 4).unwrap_or_default());
    section.put_u16(PROGRAM_NUMBER); // and the number of the transport stream
    section.put_slice(&[0xc1 | version << 1, 0, 0]);
    section.put_slice(body);
    section.put_u32(psi::crc(section.get(1..).unwrap_or_default()));
    for (index, part) in section.chunks(BODY_BYTES).enumerate() {
        out.put_u8(SYNC_BYTE);
        out.put_u16(if index == 0 { 0x4000 } else { 0 } | pid);
        out.put_u8(0x10 | *counter);
        *counter = (*counter + 1) & 15;
        out.put_slice(part);
        out.put_bytes(0xff, BODY_BYTES - part.len());
    }
}

/// The header of a PES packet and its length. spec: ISO/IEC 13818-1 §2.4.3.6
fn pes_header(kind: StreamKind, pts: u64, dts: u64, payload_bytes: usize) -> ([u8; 19], usize) {
    let mut header = [0; 19];
    let has_dts = pts != dts;
    let (flags, fields) = if has_dts { (0xc0, 10) } else { (0x80, 5) };
    let stream_id: u8 = match kind {
        _ if kind.is_video() => 0xe0,
        StreamKind::AacAdts | StreamKind::AacLatm | StreamKind::MpegAudio => 0xc0,
        _ => 0xbd,
    };
    // 0: until the next begins, which is for video alone, but no sound is so long.
    let length = u16::try_from(3 + usize::from(fields) + payload_bytes).unwrap_or_default();
    let mut writer = header.as_mut_slice();
    writer.put_slice(&[0, 0, 1, stream_id]);
    writer.put_u16(length);
    writer.put_slice(&[0x84, flags, fields]); // the payload begins with an access unit
    writer.put_slice(&timestamp(flags >> 2, pts));
    if has_dts {
        writer.put_slice(&timestamp(0x10, dts));
    }
    (header, 9 + usize::from(fields))
}

/// 33 bits between marker bits, the four bits in front from `prefix`. spec: ISO/IEC 13818-1 §2.4.3.7
fn timestamp(prefix: u8, time: u64) -> [u8; 5] {
    let bits = (time >> 30 & 7) << 33 | (time >> 15 & 0x7fff) << 17 | (time & 0x7fff) << 1;
    let [_, _, _, head, rest @ ..] = (bits | 1 << 32 | 1 << 16 | 1).to_be_bytes();
    let [b1, b2, b3, b4] = rest;
    [head | prefix, b1, b2, b3, b4]
}

impl Adaptation {
    /// Bytes without stuffing; none where there is nothing to say.
    fn len(self) -> usize {
        match self {
            Self { pcr: Some(_), .. } => 8,
            Self { discontinuity: false, random_access: false, .. } => 0,
            Self { .. } => 2,
        }
    }

    /// Appends the field, stuffed to `bytes` in all. spec: ISO/IEC 13818-1 §2.4.3.4
    fn put(self, bytes: usize, out: &mut BytesMut) {
        let Some(length) = bytes.checked_sub(1) else { return };
        let end = out.len() + bytes;
        out.put_u8(u8::try_from(length).unwrap_or_default());
        if length > 0 {
            let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
            out.put_u8(
                flag(self.discontinuity, 0x80) | flag(self.random_access, 0x40) | flag(self.pcr.is_some(), 0x10),
            );
            if let Some(pcr) = self.pcr {
                let base = pcr.rem_euclid(1 << 33).cast_unsigned();
                let [_, _, field @ ..] = (base << 15 | 0x7e00).to_be_bytes(); // reserved bits, extension 0
                out.put_slice(&field);
            }
        }
        out.put_bytes(0xff, end.saturating_sub(out.len()));
    }
}

/// Spreads a PES packet over transport packets; the last is filled by its adaptation field.
fn write_packets<'a>(
    out: &mut BytesMut,
    stream: &mut MuxStream,
    mut adaptation: Adaptation,
    header: &[u8],
    payload_bytes: usize,
    mut payload: impl Iterator<Item = &'a [u8]>,
) {
    let mut slice = header;
    let mut left = header.len() + payload_bytes;
    let mut start = 0x4000;
    out.reserve((left / BODY_BYTES + 2) * PACKET_BYTES);
    while left > 0 {
        let body = left.min(BODY_BYTES - adaptation.len());
        let field = BODY_BYTES - body;
        out.put_u8(SYNC_BYTE);
        out.put_u16(std::mem::take(&mut start) | stream.pid);
        out.put_u8(if field > 0 { 0x30 } else { 0x10 } | stream.counter);
        stream.counter = (stream.counter + 1) & 15;
        adaptation.put(field, out);
        adaptation = Adaptation::default();
        left -= body;
        let mut room = body;
        while room > 0 {
            if slice.is_empty() {
                match payload.next() {
                    Some(next) => slice = next,
                    None => return,
                }
            }
            let (now, later) = slice.split_at(room.min(slice.len()));
            out.put_slice(now);
            slice = later;
            room -= now.len();
        }
    }
}
