//! Chunks: RTMP 1.0 §5.3. Messages are cut into chunks and put together again.

use bytes::{BufMut, Bytes, BytesMut};

use crate::Violation;

/// Longest message that is taken: a 4K key frame at 60 Mbit/s stays below 4 MiB.
const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Longest message before a publish was accepted; twice as much may be unfinished, over all chunk streams.
const COMMAND_BYTES_MAX: usize = 512 << 10;
/// Most chunk streams of one connection; real encoders use 3 to 8.
const CHUNK_STREAMS_MAX: usize = 64;
/// What is reserved at once for a message whose length the peer only announced.
const RESERVE_BYTES: usize = 64 << 10;
/// spec: RTMP 1.0 §5.4.1
const DEFAULT_CHUNK_SIZE: usize = 128;

/// A whole message. spec: RTMP 1.0 §6.1
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) type_id: u8,
    pub(crate) stream_id: u32,
    /// Milliseconds, 32 bits that wrap.
    pub(crate) timestamp: u32,
    pub(crate) payload: Bytes,
}

/// What later chunks of a chunk stream refer to.
#[derive(Debug)]
struct ChunkStream {
    id: u32,
    timestamp: u32,
    /// What a type 3 chunk that begins a message adds.
    delta: u32,
    length: usize,
    type_id: u8,
    stream_id: u32,
    /// The last header had an extended timestamp with this value.
    extended: Option<u32>,
    unfinished: Vec<u8>,
}

#[derive(Debug)]
enum Phase {
    /// Collecting a chunk header.
    Header,
    /// Copying payload of the chunk stream at `index`.
    Payload { index: usize, left: usize },
}

/// Puts messages together from bytes that may be cut anywhere.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    chunk_size: usize,
    /// Longest message that is taken now.
    message_bytes_max: usize,
    streams: Vec<ChunkStream>,
    phase: Phase,
    /// The header so far: at most 3 + 11 + 4 bytes.
    head: Vec<u8>,
    /// Bytes that were taken for a header and are none; read before the input.
    pushed_back: Vec<u8>,
    unfinished_bytes: usize,
}

/// How far a step came.
enum Step {
    Done,
    Starved,
    Message(Message),
}

/// A header as it lies on the wire.
struct Header {
    format: u8,
    id: u32,
    /// The three-byte field, or the extended timestamp.
    timestamp: u32,
    extended: bool,
    length: usize,
    type_id: u8,
    stream_id: u32,
}

impl ChunkReader {
    pub(crate) fn new() -> Self {
        Self {
            chunk_size: DEFAULT_CHUNK_SIZE,
            message_bytes_max: COMMAND_BYTES_MAX,
            streams: Vec::new(),
            phase: Phase::Header,
            head: Vec::with_capacity(18),
            pushed_back: Vec::new(),
            unfinished_bytes: 0,
        }
    }

    /// From now on messages may be as long as media is: who sends them has been let in.
    pub(crate) fn allow_media(&mut self) {
        self.message_bytes_max = MESSAGE_BYTES_MAX;
    }

    /// spec: RTMP 1.0 §5.4.1: 1 to 2³¹ − 1; beyond the longest message it makes no difference
    pub(crate) fn set_chunk_size(&mut self, size: u32) -> Result<(), Violation> {
        if size == 0 || size > 0x7fff_ffff {
            return Err(Violation::ChunkSize { got: size });
        }
        self.chunk_size = usize::try_from(size).unwrap_or(MESSAGE_BYTES_MAX).min(MESSAGE_BYTES_MAX);
        Ok(())
    }

    /// spec: RTMP 1.0 §5.4.2
    pub(crate) fn abort(&mut self, id: u32) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) {
            self.unfinished_bytes -= stream.unfinished.len();
            stream.unfinished = Vec::new();
        }
    }

    /// Takes bytes from the front of `input` until a message is whole or nothing is left.
    pub(crate) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Violation> {
        loop {
            let pushed_back = std::mem::take(&mut self.pushed_back);
            let step = if pushed_back.is_empty() {
                self.step(input)?
            } else {
                let mut rest = &pushed_back[..];
                let step = self.step(&mut rest)?;
                self.pushed_back.extend_from_slice(rest);
                if matches!(step, Step::Starved) { Step::Done } else { step }
            };
            match step {
                Step::Done => {}
                Step::Starved => return Ok(None),
                Step::Message(message) => return Ok(Some(message)),
            }
        }
    }

    /// Reads on until a header, a chunk or the input ends.
    fn step(&mut self, input: &mut &[u8]) -> Result<Step, Violation> {
        let Phase::Payload { index, left } = self.phase else {
            return Ok(if self.read_header(input)? { Step::Done } else { Step::Starved });
        };
        let stream = self.streams.get_mut(index).expect("the header found or made it");
        let (piece, rest) = input.split_at(left.min(input.len()));
        *input = rest;
        self.unfinished_bytes += piece.len();
        let limit = 2 * self.message_bytes_max;
        if self.unfinished_bytes > limit {
            return Err(Violation::TooMuchUnfinished { limit });
        }
        append(&mut stream.unfinished, piece, stream.length);
        let left = left - piece.len();
        if left > 0 {
            self.phase = Phase::Payload { index, left };
            return Ok(Step::Starved);
        }
        self.phase = Phase::Header;
        if stream.unfinished.len() < stream.length {
            return Ok(Step::Done);
        }
        self.unfinished_bytes -= stream.length;
        let payload = std::mem::take(&mut stream.unfinished).into();
        let &mut ChunkStream { type_id, stream_id, timestamp, .. } = stream;
        Ok(Step::Message(Message { type_id, stream_id, timestamp, payload }))
    }

    /// Collects a header; true once it is whole and the phase is `Payload`.
    fn read_header(&mut self, input: &mut &[u8]) -> Result<bool, Violation> {
        loop {
            let needed = self.header_length();
            if self.head.len() >= needed {
                break;
            }
            let (piece, rest) = input.split_at(input.len().min(needed - self.head.len()));
            self.head.extend_from_slice(piece);
            *input = rest;
            if self.head.len() < needed {
                return Ok(false);
            }
        }
        let header = self.parse_header();
        let index = self.find_or_add(&header)?;
        let mut head = std::mem::take(&mut self.head);
        let not_header = self.apply(index, &header)?;
        let stream = self.streams.get(index).expect("just found");
        let left = (stream.length - stream.unfinished.len()).min(self.chunk_size);
        self.phase = Phase::Payload { index, left };
        if not_header {
            // Some encoders leave the extended timestamp out of continuation chunks: these four bytes are payload.
            let extension = head.split_off(head.len() - 4);
            let taken = extension.len().min(left);
            let piece = extension.get(..taken).unwrap_or_default();
            let stream = self.streams.get_mut(index).expect("just found");
            append(&mut stream.unfinished, piece, stream.length);
            self.unfinished_bytes += taken;
            self.phase = Phase::Payload { index, left: left - taken };
            self.pushed_back = extension.get(taken..).unwrap_or_default().to_vec();
        }
        head.clear();
        self.head = head;
        Ok(true)
    }

    /// Bytes the header has, as far as it is known. spec: RTMP 1.0 §5.3.1
    fn header_length(&self) -> usize {
        let Some(&first) = self.head.first() else { return 1 };
        let basic = basic_length(first);
        let message = [11, 7, 3, 0].into_iter().nth(usize::from(first >> 6)).unwrap_or(0);
        let without_extension = basic + message;
        if self.head.len() < without_extension {
            return without_extension;
        }
        let extended = if message > 0 {
            self.head.get(basic..basic + 3) == Some(&[0xff; 3])
        } else {
            self.stream(chunk_stream_id(&self.head)).is_some_and(|stream| stream.extended.is_some())
        };
        without_extension + if extended { 4 } else { 0 }
    }

    fn stream(&self, id: u32) -> Option<&ChunkStream> {
        self.streams.iter().find(|stream| stream.id == id)
    }

    fn parse_header(&self) -> Header {
        let first = self.head.first().copied().unwrap_or_default();
        let fields = self.head.get(basic_length(first)..).unwrap_or_default();
        let number = |range: std::ops::Range<usize>| {
            fields.get(range).unwrap_or_default().iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte))
        };
        let format = first >> 6;
        let id = chunk_stream_id(&self.head);
        let fixed = [11, 7, 3, 0].into_iter().nth(usize::from(format)).unwrap_or(0);
        let extended = fields.len() > fixed;
        Header {
            format,
            id,
            timestamp: if extended { number(fixed..fixed + 4) } else { number(0..fixed.min(3)) },
            extended,
            length: usize::try_from(number(3..6)).unwrap_or(usize::MAX),
            type_id: fields.get(6).copied().unwrap_or_default(),
            stream_id: fields.get(7..11).and_then(|id| id.try_into().ok()).map_or(0, u32::from_le_bytes),
        }
    }

    fn find_or_add(&mut self, header: &Header) -> Result<usize, Violation> {
        if let Some(index) = self.streams.iter().position(|stream| stream.id == header.id) {
            return Ok(index);
        }
        // spec: RTMP 1.0 §5.3.1.2: a chunk stream begins with type 0; librtmp begins with 1 on some streams
        if header.format > 1 {
            return Err(Violation::NoPreviousChunk { chunk_stream: header.id });
        }
        if self.streams.len() == CHUNK_STREAMS_MAX {
            return Err(Violation::TooManyChunkStreams { limit: CHUNK_STREAMS_MAX });
        }
        let (timestamp, delta, length, type_id, stream_id) = (0, 0, 0, 0, 0);
        let unfinished = Vec::new();
        self.streams.push(ChunkStream {
            id: header.id,
            timestamp,
            delta,
            length,
            type_id,
            stream_id,
            extended: None,
            unfinished,
        });
        Ok(self.streams.len() - 1)
    }

    /// Brings the chunk stream up to date; true if what looked like an extended timestamp is payload.
    fn apply(&mut self, index: usize, header: &Header) -> Result<bool, Violation> {
        let message_bytes_max = self.message_bytes_max;
        let stream = self.streams.get_mut(index).expect("just found");
        if header.format == 3 {
            let continues = !stream.unfinished.is_empty();
            let not_header = header.extended && continues && stream.extended != Some(header.timestamp);
            if !continues {
                stream.timestamp = stream.timestamp.wrapping_add(stream.delta);
            }
            return Ok(not_header);
        }
        self.unfinished_bytes -= stream.unfinished.len(); // a new header drops what was unfinished
        stream.unfinished = Vec::new();
        stream.extended = header.extended.then_some(header.timestamp);
        if header.format == 0 {
            (stream.timestamp, stream.delta) = (header.timestamp, 0);
            stream.stream_id = header.stream_id;
        } else {
            stream.delta = header.timestamp;
            stream.timestamp = stream.timestamp.wrapping_add(header.timestamp);
        }
        if header.format < 2 {
            let limit = message_bytes_max;
            if header.length > limit {
                return Err(Violation::MessageTooLong { length: header.length, limit });
            }
            (stream.length, stream.type_id) = (header.length, header.type_id);
        }
        Ok(false)
    }

    #[cfg(test)]
    fn check_invariants(&self) {
        let unfinished: usize = self.streams.iter().map(|stream| stream.unfinished.len()).sum();
        assert_eq!(unfinished, self.unfinished_bytes);
        assert!(self.head.len() <= 18 && self.streams.len() <= CHUNK_STREAMS_MAX);
    }
}

/// Grows with what has arrived, never by what was announced; ends with no spare capacity.
fn append(unfinished: &mut Vec<u8>, piece: &[u8], length: usize) {
    if unfinished.capacity() - unfinished.len() < piece.len() {
        let target = length.min((2 * unfinished.len()).max(RESERVE_BYTES)).max(unfinished.len() + piece.len());
        unfinished.reserve_exact(target - unfinished.len());
    }
    unfinished.extend_from_slice(piece);
}

fn basic_length(first: u8) -> usize {
    match first & 0x3f {
        0 => 2,
        1 => 3,
        _ => 1,
    }
}

/// spec: RTMP 1.0 §5.3.1.1
fn chunk_stream_id(head: &[u8]) -> u32 {
    let byte = |index: usize| u32::from(head.get(index).copied().unwrap_or_default());
    match byte(0) & 0x3f {
        0 => byte(1) + 64,
        1 => byte(2) * 256 + byte(1) + 64,
        id => id,
    }
}

/// Cuts messages into chunks: a type 0 header for each message, type 3 for what follows.
#[derive(Debug)]
pub(crate) struct ChunkWriter {
    chunk_size: usize,
}

impl ChunkWriter {
    pub(crate) fn new() -> Self {
        Self { chunk_size: DEFAULT_CHUNK_SIZE }
    }

    /// From now on, after the message that announces it.
    pub(crate) fn set_chunk_size(&mut self, size: usize) {
        self.chunk_size = size;
    }

    /// Appends one message on chunk stream `id` (2–63), its payload given in slices.
    pub(crate) fn write(&self, out: &mut BytesMut, id: u8, message: &MessageHead, payload: &[&[u8]]) {
        debug_assert!((2..64).contains(&id), "one-byte basic headers only");
        let length: usize = payload.iter().map(|slice| slice.len()).sum();
        let extended = message.timestamp >= 0x00ff_ffff;
        out.reserve(length + 16 + length / self.chunk_size * 5);
        out.put_u8(id);
        out.put_uint(u64::from(message.timestamp.min(0x00ff_ffff)), 3);
        out.put_uint(u64::try_from(length).unwrap_or(u64::MAX), 3);
        out.put_u8(message.type_id);
        out.put_u32_le(message.stream_id);
        if extended {
            out.put_u32(message.timestamp);
        }
        let mut room = self.chunk_size;
        for slice in payload {
            let mut rest = *slice;
            while !rest.is_empty() {
                if room == 0 {
                    out.put_u8(0xc0 | id);
                    if extended {
                        out.put_u32(message.timestamp);
                    }
                    room = self.chunk_size;
                }
                let (piece, tail) = rest.split_at(room.min(rest.len()));
                out.put_slice(piece);
                room -= piece.len();
                rest = tail;
            }
        }
    }
}

/// What the header of a message says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageHead {
    pub(crate) type_id: u8,
    pub(crate) stream_id: u32,
    pub(crate) timestamp: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(reader: &mut ChunkReader, bytes: &[u8], piece: usize) -> Result<Vec<Message>, Violation> {
        let mut messages = Vec::new();
        for mut input in bytes.chunks(piece) {
            while let Some(message) = reader.read(&mut input)? {
                messages.push(message);
            }
            reader.check_invariants();
        }
        Ok(messages)
    }

    fn sample() -> (BytesMut, Vec<Message>) {
        let (mut out, mut messages, writer) = (BytesMut::new(), Vec::new(), ChunkWriter::new());
        for (length, timestamp) in [(0usize, 0), (1, 40), (128, 0x00ff_fffe), (129, 0x00ff_ffff), (1000, u32::MAX)] {
            let payload: Vec<u8> = (0..length).map(|byte| u8::try_from(byte % 251).expect("small")).collect();
            writer.write(&mut out, 4, &MessageHead { type_id: 9, stream_id: 1, timestamp }, &[&payload]);
            if length > 0 {
                messages.push(Message { type_id: 9, stream_id: 1, timestamp, payload: payload.into() });
            }
        }
        (out, messages)
    }

    #[test]
    fn messages_read_back_however_the_bytes_are_cut() {
        let (bytes, mut expected) = sample();
        expected.insert(0, Message { type_id: 9, stream_id: 1, timestamp: 0, payload: Bytes::new() });
        for piece in [1, 2, 3, 7, 128, 5000] {
            assert_eq!(read_all(&mut ChunkReader::new(), &bytes, piece), Ok(expected.clone()), "pieces of {piece}");
        }
    }

    #[test]
    fn continuation_without_the_extended_timestamp_is_understood() {
        let mut bytes = BytesMut::new();
        bytes.put_slice(&[4, 0xff, 0xff, 0xff, 0, 0, 130, 9, 1, 0, 0, 0, 1, 0, 0, 0]);
        bytes.put_slice(&[7; 128]);
        bytes.put_slice(&[0xc4, 8, 8]);
        bytes.put_slice(&[0x84, 0, 0, 1]); // and a type 2 chunk right behind it
        bytes.put_slice(&[9; 128]);
        bytes.put_slice(&[0xc4, 9, 9]);

        let messages = read_all(&mut ChunkReader::new(), &bytes, 1).expect("valid");
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].payload[128..], [8, 8]);
        assert_eq!(messages[1].timestamp, 0x0100_0001);
    }

    #[test]
    fn bad_chunk_sizes_are_refused() {
        let mut reader = ChunkReader::new();
        assert_eq!(reader.set_chunk_size(0), Err(Violation::ChunkSize { got: 0 }));
        assert_eq!(reader.set_chunk_size(1 << 31), Err(Violation::ChunkSize { got: 1 << 31 }));
        assert_eq!(reader.set_chunk_size((1 << 31) - 1), Ok(()));
    }

    #[test]
    fn a_message_of_sixteen_mebibytes_is_refused_before_it_arrives() {
        let mut reader = ChunkReader::new();
        reader.allow_media();
        let header = [4, 0, 0, 0, 0xff, 0xff, 0xff, 9, 1, 0, 0, 0];
        assert!(matches!(read_all(&mut reader, &header, 99), Err(Violation::MessageTooLong { length: 0xff_ffff, .. })));
    }

    #[test]
    fn sixty_half_messages_are_refused_when_they_grow_too_large() {
        let mut reader = ChunkReader::new();
        reader.allow_media();
        reader.set_chunk_size(1 << 20).expect("valid");
        let half = vec![0; 1 << 20];
        let mut outcome = Ok(None);
        for id in 3..63u8 {
            let header = [id, 0, 0, 0, 0x20, 0, 0, 9, 1, 0, 0, 0];
            outcome = reader.read(&mut &header[..]).and_then(|_| reader.read(&mut &half[..]));
            if outcome.is_err() {
                break;
            }
        }
        assert_eq!(outcome, Err(Violation::TooMuchUnfinished { limit: 2 * MESSAGE_BYTES_MAX }));
    }

    #[test]
    fn a_continuation_of_nothing_is_refused() {
        assert_eq!(
            read_all(&mut ChunkReader::new(), &[0xc9, 1, 2], 9),
            Err(Violation::NoPreviousChunk { chunk_stream: 9 })
        );
    }
}
