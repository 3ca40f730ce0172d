//! The demultiplexer: from bytes to the units of one program.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::continuity::{Continuity, Order};
use super::framing::{Found, Framer};
use super::health::{Clock, Health, Timer, Wait};
use super::packet::{self, Packet};
use super::pes::{Assembler, Output, Unit};
use super::psi::{self, Association, PRIVATE_BYTES_MAX, PSI_BYTES_MAX, ProgramMap, SectionReader};
use super::{
    ElementaryStream, Event, OPEN_BYTES_MAX, PACKET_BYTES, PID_CAT, PID_NULL, PID_PAT, PesUnit, QUEUE_BYTES_MAX,
    QUEUE_EVENTS_MAX, StreamKind,
};

/// Programs whose maps are looked at until one is chosen.
const CANDIDATES_MAX: usize = 64;
/// Bits of a timestamp. spec: ISO/IEC 13818-1 §2.4.3.7
const TIMESTAMP_BITS: u32 = 33;

/// What a demultiplexer is to take.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemuxerConfig {
    /// The `program_number`. `None` takes the first program of the PAT with a stream that is carried; one whose map
    /// does not come is passed over when the map of a later one comes a second time. Where no program has such a
    /// stream the first is taken, so that its streams can be named.
    pub program: Option<u16>,
}

/// Takes a transport stream apart.
///
/// Any split of the input gives the same events. A PES packet that says its length comes out with its last byte, one
/// that does not when the next begins.
#[derive(Debug)]
pub struct Demuxer {
    framer: Framer,
    core: Core,
}

impl Demuxer {
    /// Waits for the first packets.
    pub fn new(config: DemuxerConfig) -> Self {
        Self { framer: Framer::new(), core: Core::new(config) }
    }

    /// Takes the next bytes; poll to `None` after each call, or events are left out in the end.
    pub fn push(&mut self, bytes: &[u8]) {
        let Self { framer, core } = self;
        framer.push(bytes, |found| core.on_found(found));
    }

    /// The next event, if there is one.
    pub fn poll(&mut self) -> Option<Event> {
        let event = self.core.queue.events.pop_front()?;
        self.core.queue.bytes = self.core.queue.bytes.saturating_sub(payload_bytes(&event));
        Some(event)
    }

    /// No more bytes come: the last units of all streams come out.
    pub fn finish(&mut self) {
        let Self { framer, core } = self;
        framer.finish(|found| core.on_found(found));
        for index in 0..core.streams.len() {
            core.with_stream(index, |assembler, on| assembler.flush(on));
        }
    }

    /// What was wrong so far.
    pub fn health(&self) -> &Health {
        &self.core.health
    }
}

/// What waits to be polled.
#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, event: Event, health: &mut Health) {
        let bytes = self.bytes.saturating_add(payload_bytes(&event));
        if self.events.len() >= QUEUE_EVENTS_MAX || bytes > QUEUE_BYTES_MAX {
            health.events_left_out += 1;
            return;
        }
        self.bytes = bytes;
        self.events.push_back(event);
    }
}

fn payload_bytes(event: &Event) -> usize {
    match event {
        Event::Unit(PesUnit { payload, .. }) | Event::Klv { payload, .. } => payload.len(),
        Event::Scte35 { section, .. } => section.len(),
        Event::Program { .. } | Event::Scrambled { .. } => 0,
    }
}

/// A PID that carries tables.
#[derive(Debug)]
struct TablePid {
    continuity: Continuity,
    reader: SectionReader,
}

impl TablePid {
    fn new() -> Self {
        Self { continuity: Continuity::default(), reader: SectionReader::new(PSI_BYTES_MAX) }
    }

    /// Takes a packet and gives the sections that end in it.
    fn sections(&mut self, packet: &Packet<'_>, health: &mut Health) -> Vec<Vec<u8>> {
        let mut sections = Vec::new();
        match self.continuity.check(packet, health) {
            Order::Repeated | Order::Empty => return sections,
            Order::Broken => self.reader.reset(),
            Order::Next | Order::Marked => {}
        }
        let payload = packet.payload.unwrap_or_default();
        self.reader.push(payload, packet.starts_unit, |section| {
            if psi::crc(section) == 0 {
                sections.push(section.to_vec());
            } else {
                health.crc_error += 1;
            }
        });
        sections
    }
}

/// A program that may be chosen.
#[derive(Debug)]
struct Candidate {
    number: u16,
    pid: u16,
    map: Option<ProgramMap>,
}

/// The program that was chosen.
#[derive(Debug)]
struct Program {
    number: u16,
    pid: u16,
    map: ProgramMap,
}

#[derive(Debug)]
enum Selection {
    /// In the order of the PAT.
    Choosing(Vec<Candidate>),
    Chosen(Program),
}

#[derive(Debug)]
enum Content {
    Pes(Assembler),
    Sections(SectionReader),
    /// Not read, but watched.
    Ignored,
}

#[derive(Debug)]
struct Stream {
    pid: u16,
    kind: StreamKind,
    continuity: Continuity,
    content: Content,
    is_scrambled: bool,
    seen: Timer,
    presented: Timer,
}

impl Stream {
    fn new(stream: &ElementaryStream, clock: &Clock) -> Self {
        let content = match stream.kind {
            StreamKind::Scte35 => Content::Sections(SectionReader::new(PRIVATE_BYTES_MAX)),
            StreamKind::Other => Content::Ignored,
            _ => Content::Pes(Assembler::new()),
        };
        Self {
            pid: stream.pid,
            kind: stream.kind,
            continuity: Continuity::default(),
            content,
            is_scrambled: false,
            seen: clock.timer(),
            presented: clock.timer(),
        }
    }

    fn is_media(&self) -> bool {
        self.kind.is_video() || self.kind.is_audio()
    }
}

/// Everything behind the framing.
#[derive(Debug)]
struct Core {
    config: DemuxerConfig,
    queue: Queue,
    health: Health,
    clock: Clock,
    association: Association,
    pat: TablePid,
    cat: TablePid,
    has_cat: bool,
    maps: BTreeMap<u16, TablePid>,
    selection: Selection,
    streams: Vec<Stream>,
    /// Payload in unfinished PES packets.
    open_bytes: usize,
    /// The last decode time, unwrapped.
    last_time: Option<i64>,
    pat_seen: Timer,
    map_seen: Timer,
}

impl Core {
    fn new(config: DemuxerConfig) -> Self {
        Self {
            config,
            queue: Queue::default(),
            health: Health::default(),
            clock: Clock::default(),
            association: Association::default(),
            pat: TablePid::new(),
            cat: TablePid::new(),
            has_cat: false,
            maps: BTreeMap::new(),
            selection: Selection::Choosing(Vec::new()),
            streams: Vec::new(),
            open_bytes: 0,
            last_time: None,
            pat_seen: Timer::default(),
            map_seen: Timer::default(),
        }
    }

    fn on_found(&mut self, found: Found<'_>) {
        match found {
            Found::Packet(bytes) => self.on_packet(bytes),
            Found::BadSync => {
                self.health.packets += 1;
                self.health.sync_byte_error += 1;
            }
            Found::Lost => {
                self.health.sync_byte_error += 2;
                self.health.sync_loss += 1;
                self.clock.restart();
                // Any number of packets may be missing: the counters prove nothing.
                for table in self.maps.values_mut().chain([&mut self.pat, &mut self.cat]) {
                    table.continuity.announce();
                    table.reader.reset();
                }
                for stream in &mut self.streams {
                    stream.continuity.announce();
                    match &mut stream.content {
                        Content::Pes(assembler) => assembler.on_loss(false, true),
                        Content::Sections(reader) => reader.reset(),
                        Content::Ignored => {}
                    }
                }
            }
        }
    }

    fn on_packet(&mut self, bytes: &[u8; PACKET_BYTES]) {
        self.health.packets += 1;
        let Some(packet) = packet::parse(bytes) else { return };
        if packet.transport_error {
            // spec: ETSI TR 101 290 §5.2.2, 2.1: nothing else of the packet counts
            self.health.transport_error += 1;
            return;
        }
        if packet.pid == PID_NULL {
            self.health.null_packets += 1;
            return;
        }
        self.health.scrambled_packets += u64::from(packet.is_scrambled);
        match packet.pid {
            PID_PAT => self.on_pat_packet(&packet),
            PID_CAT => self.on_cat_packet(&packet),
            pid if self.maps.contains_key(&pid) => self.on_map_packet(&packet),
            pid => {
                if let Some(index) = self.streams.iter().position(|stream| stream.pid == pid) {
                    self.on_stream_packet(index, &packet);
                }
            }
        }
        if let (Some(pcr), Selection::Chosen(program)) = (packet.pcr, &self.selection)
            && program.map.pcr_pid == packet.pid
        {
            self.clock.on_pcr(pcr, packet.discontinuity, &mut self.health);
            self.check_timers();
        }
    }

    fn check_timers(&mut self) {
        let Self { clock, health, .. } = self;
        health.pat_error += self.pat_seen.expired(clock, Wait::Table);
        health.pmt_error += self.map_seen.expired(clock, Wait::Table);
        for stream in self.streams.iter_mut().filter(|stream| stream.is_media()) {
            health.pid_error += stream.seen.expired(clock, Wait::Pid);
            health.pts_error += stream.presented.expired(clock, Wait::Pts);
        }
    }

    fn on_pat_packet(&mut self, packet: &Packet<'_>) {
        if packet.is_scrambled {
            self.health.pat_error += 1;
            return;
        }
        for section in self.pat.sections(packet, &mut self.health) {
            let Some(table) = psi::table(&section).filter(|table| table.id == 0) else {
                self.health.pat_error += 1;
                continue;
            };
            self.pat_seen = self.clock.timer();
            if table.is_current
                && let Some(programs) = self.association.push(&table)
            {
                self.on_programs(&programs);
            }
        }
    }

    fn on_cat_packet(&mut self, packet: &Packet<'_>) {
        for section in self.cat.sections(packet, &mut self.health) {
            if section.first() == Some(&1) {
                self.has_cat = true;
            } else {
                self.health.cat_error += 1;
            }
        }
    }

    fn on_map_packet(&mut self, packet: &Packet<'_>) {
        let is_chosen = matches!(&self.selection, Selection::Chosen(program) if program.pid == packet.pid);
        if packet.is_scrambled {
            self.health.pmt_error += u64::from(is_chosen);
            return;
        }
        let Some(pid) = self.maps.get_mut(&packet.pid) else { return };
        for section in pid.sections(packet, &mut self.health) {
            // Private sections may share the PID.
            let Some(table) = psi::table(&section).filter(|table| table.id == 2 && table.is_current) else { continue };
            if let Some(map) = ProgramMap::parse(&table) {
                self.on_map(packet.pid, table.extension, map);
            }
        }
    }

    /// The PAT is complete: which maps to look at.
    fn on_programs(&mut self, programs: &[(u16, u16)]) {
        if let Selection::Chosen(program) = &mut self.selection {
            match programs.iter().find(|(number, _)| *number == program.number) {
                Some((_, pid)) => program.pid = *pid,
                None => self.lose_program(),
            }
        }
        let wanted: Vec<u16> = match &mut self.selection {
            Selection::Chosen(program) => vec![program.pid],
            Selection::Choosing(candidates) => {
                let mut known = std::mem::take(candidates);
                let wanted = programs.iter().filter(|(number, _)| self.config.program.is_none_or(|it| it == *number));
                *candidates = wanted
                    .take(CANDIDATES_MAX)
                    .map(|&(number, pid)| {
                        let map = known.iter_mut().find(|it| (it.number, it.pid) == (number, pid));
                        Candidate { number, pid, map: map.and_then(|it| it.map.take()) }
                    })
                    .collect();
                candidates.iter().map(|candidate| candidate.pid).collect()
            }
        };
        self.maps.retain(|pid, _| wanted.contains(pid));
        for pid in wanted {
            self.maps.entry(pid).or_insert_with(TablePid::new);
        }
    }

    fn lose_program(&mut self) {
        let Selection::Chosen(program) = std::mem::replace(&mut self.selection, Selection::Choosing(Vec::new())) else {
            return;
        };
        self.retain_streams(&[]);
        self.clock.restart();
        let event = Event::Program { number: program.number, streams: Vec::new() };
        self.queue.push(event, &mut self.health);
    }

    fn on_map(&mut self, pid: u16, number: u16, map: ProgramMap) {
        match &mut self.selection {
            Selection::Chosen(program) if program.number == number && program.pid == pid => {
                self.map_seen = self.clock.timer();
                if program.map != map {
                    program.map = map;
                    self.on_new_map();
                }
            }
            Selection::Chosen(_) => {}
            Selection::Choosing(candidates) => {
                let Some(candidate) = candidates.iter_mut().find(|it| it.number == number && it.pid == pid) else {
                    return;
                };
                let is_repeated = candidate.map.replace(map).is_some();
                let Some(index) = choose(candidates, is_repeated) else { return };
                let Candidate { number, pid, map: Some(map) } = candidates.swap_remove(index) else { return };
                self.selection = Selection::Chosen(Program { number, pid, map });
                self.maps.retain(|map_pid, _| *map_pid == pid);
                self.map_seen = self.clock.timer();
                self.on_new_map();
            }
        }
    }

    /// The chosen map is new or has changed.
    fn on_new_map(&mut self) {
        let Selection::Chosen(program) = &self.selection else { return };
        let (number, streams) = (program.number, program.map.streams.clone());
        self.clock.restart();
        self.retain_streams(&streams);
        self.queue.push(Event::Program { number, streams }, &mut self.health);
    }

    /// Keeps the state of streams that go on; what the others have in hand comes out first.
    fn retain_streams(&mut self, streams: &[ElementaryStream]) {
        let goes_on = |stream: &Stream| streams.iter().any(|it| it.pid == stream.pid && it.kind == stream.kind);
        for index in 0..self.streams.len() {
            if self.streams.get(index).is_some_and(|stream| !goes_on(stream)) {
                self.with_stream(index, |assembler, on| assembler.flush(on));
            }
        }
        let mut known = std::mem::take(&mut self.streams);
        known.retain(goes_on);
        self.streams = streams
            .iter()
            .map(|stream| match known.iter().position(|it| it.pid == stream.pid) {
                Some(index) => known.swap_remove(index),
                None => Stream::new(stream, &self.clock),
            })
            .collect();
    }

    fn on_stream_packet(&mut self, index: usize, packet: &Packet<'_>) {
        let Some(stream) = self.streams.get_mut(index) else { return };
        stream.seen = self.clock.timer();
        let order = stream.continuity.check(packet, &mut self.health);
        match (order, &mut stream.content) {
            (Order::Repeated, _) => return,
            (Order::Broken, Content::Pes(assembler)) => assembler.on_loss(packet.starts_unit, true),
            (Order::Marked, Content::Pes(assembler)) => assembler.on_loss(packet.starts_unit, false),
            (Order::Broken, Content::Sections(reader)) => reader.reset(),
            _ => {}
        }
        let Some(payload) = packet.payload else { return };
        if packet.is_scrambled {
            self.on_scrambled(index);
        } else if let Content::Sections(reader) = &mut stream.content {
            let (pid, health, queue) = (stream.pid, &mut self.health, &mut self.queue);
            stream.is_scrambled = false;
            // spec: SCTE 35 §9.6: table_id
            reader.push(payload, packet.starts_unit, |section| match section.first() {
                _ if psi::crc(section) != 0 => health.crc_error += 1,
                Some(0xfc) => queue.push(Event::Scte35 { pid, section: Bytes::copy_from_slice(section) }, health),
                _ => {}
            });
        } else {
            self.with_stream(index, |assembler, on| {
                assembler.push(payload, packet.starts_unit, packet.random_access, on);
            });
        }
    }

    fn on_scrambled(&mut self, index: usize) {
        let Some(stream) = self.streams.get_mut(index) else { return };
        match &mut stream.content {
            Content::Pes(assembler) => {
                self.open_bytes = self.open_bytes.saturating_sub(assembler.open_bytes());
                assembler.drop_open();
            }
            Content::Sections(reader) => reader.reset(),
            Content::Ignored => {}
        }
        if !std::mem::replace(&mut stream.is_scrambled, true) {
            self.health.cat_error += u64::from(!self.has_cat);
            let pid = stream.pid;
            self.queue.push(Event::Scrambled { pid }, &mut self.health);
        }
    }

    /// Lets an assembler work, and makes events of what it says.
    fn with_stream(&mut self, index: usize, work: impl FnOnce(&mut Assembler, &mut dyn FnMut(Output))) {
        let Some(stream) = self.streams.get_mut(index) else { return };
        let Content::Pes(assembler) = &mut stream.content else { return };
        let before = assembler.open_bytes();
        let mut outputs = Vec::new();
        work(assembler, &mut |output| outputs.push(output));
        self.open_bytes = (self.open_bytes + assembler.open_bytes()).saturating_sub(before);
        if self.open_bytes > OPEN_BYTES_MAX {
            self.open_bytes = self.open_bytes.saturating_sub(assembler.open_bytes());
            assembler.drop_open();
            self.health.oversized_units += 1;
        }
        for output in outputs {
            match output {
                Output::Unit(unit) => self.on_unit(index, unit),
                Output::Scrambled => self.on_scrambled(index),
                Output::Oversized => self.health.oversized_units += 1,
            }
        }
    }

    fn on_unit(&mut self, index: usize, unit: Unit) {
        let dts = unit.dts.map(|dts| self.unwrap(dts));
        let pts = unit.pts.zip(dts).map(|(pts, dts)| nearest(dts, pts));
        self.last_time = dts.or(self.last_time);
        let Some(stream) = self.streams.get_mut(index) else { return };
        stream.is_scrambled = false;
        if pts.is_some() {
            stream.presented = self.clock.timer();
        }
        let pid = stream.pid;
        let event = match stream.kind {
            StreamKind::Klv => Event::Klv { pid, pts, payload: unit.payload },
            _ => Event::Unit(PesUnit {
                pid,
                pts,
                dts,
                is_random_access: unit.is_random_access,
                after_loss: unit.after_loss,
                is_damaged: unit.is_damaged,
                payload: unit.payload,
            }),
        };
        self.queue.push(event, &mut self.health);
    }

    fn unwrap(&self, time: u64) -> i64 {
        match self.last_time {
            Some(last) => nearest(last, time),
            None => time.cast_signed(),
        }
    }
}

/// The value that has the 33 bits of `time` and lies nearest to `reference`.
fn nearest(reference: i64, time: u64) -> i64 {
    const UNUSED: u32 = i64::BITS - TIMESTAMP_BITS;
    // The difference modulo 2^33, its sign in the highest bit.
    let difference = time.cast_signed().wrapping_sub(reference) << UNUSED >> UNUSED;
    reference.saturating_add(difference)
}

/// Which candidate to take, if that can be said.
fn choose(candidates: &[Candidate], is_repeated: bool) -> Option<usize> {
    let carried = candidates.iter().position(|it| it.map.as_ref().is_some_and(ProgramMap::is_carried));
    let missing = candidates.iter().position(|it| it.map.is_none());
    match (carried, missing) {
        (Some(carried), Some(missing)) if missing < carried && !is_repeated => None,
        (Some(carried), _) => Some(carried),
        (None, Some(_)) if !is_repeated => None,
        (None, _) => candidates.iter().position(|it| it.map.is_some()),
    }
}
