//! What server and client have in common: handshake, chunks, control messages, the queue of what to do.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use media::TrackKind;

use crate::amf0::{self, Value};
use crate::chunk::{ChunkReader, ChunkWriter, Message, MessageHead};
use crate::message::{CommandMessage, type_id};
use crate::{Error, Violation};

/// Chunk size we send with: few headers, and a message of sound never waits long behind one of pictures.
const SEND_CHUNK_SIZE: u32 = 60_000;
/// Acknowledgement window we ask for. spec: RTMP 1.0 §5.4.4
const WINDOW_BYTES: u32 = 2_500_000;
/// spec: RTMP 1.0 §5.4
const CONTROL_CHUNK_STREAM: u8 = 2;
const COMMAND_CHUNK_STREAM: u8 = 3;
const AUDIO_CHUNK_STREAM: u8 = 4;
const DATA_CHUNK_STREAM: u8 = 5;
const VIDEO_CHUNK_STREAM: u8 = 6;

/// What the session asks of its owner. Drain until `Wait`.
#[must_use]
#[derive(Debug)]
pub enum Output<E> {
    /// Write these bytes, in this order.
    Send(Bytes),
    /// Tell the application.
    Event(E),
    /// Drained: nothing to do before input, or before this instant.
    Wait(Option<Instant>),
}

/// What passed through a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes from the peer, handshake included.
    pub received_bytes: u64,
    /// Bytes to the peer, handshake included.
    pub sent_bytes: u64,
    /// Whole messages from the peer.
    pub received_messages: u64,
}

/// Message plumbing under a session of either role.
#[derive(Debug)]
pub(crate) struct Link<E> {
    reader: ChunkReader,
    writer: ChunkWriter,
    out: BytesMut,
    events: VecDeque<E>,
    /// Bytes after which the peer wants an acknowledgement. spec: RTMP 1.0 §5.4.4
    peer_window: Option<u64>,
    acknowledged: u64,
    pub(crate) stats: Stats,
}

impl<E> Link<E> {
    pub(crate) fn new() -> Self {
        Self {
            reader: ChunkReader::new(),
            writer: ChunkWriter::new(),
            out: BytesMut::new(),
            events: VecDeque::new(),
            peer_window: None,
            acknowledged: 0,
            stats: Stats::default(),
        }
    }

    /// Messages may be as long as media is.
    pub(crate) fn allow_media(&mut self) {
        self.reader.allow_media();
    }

    pub(crate) fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    pub(crate) fn push(&mut self, event: E) {
        self.events.push_back(event);
    }

    /// Counts bytes and acknowledges them in time.
    pub(crate) fn on_received(&mut self, count: usize) {
        self.stats.received_bytes += u64::try_from(count).unwrap_or(u64::MAX);
        // Half the window, so that a peer which stops at a full one never does.
        if self.peer_window.is_some_and(|window| self.stats.received_bytes - self.acknowledged >= window / 2) {
            self.acknowledged = self.stats.received_bytes;
            let sequence = u32::try_from(self.acknowledged & 0xffff_ffff).unwrap_or(0);
            self.control(type_id::ACKNOWLEDGEMENT, &sequence.to_be_bytes());
        }
    }

    /// The next message that is not link business.
    pub(crate) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Error> {
        while let Some(message) = self.reader.read(input)? {
            self.stats.received_messages += 1;
            if !self.handle_control(&message)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Protocol control and user control messages; false for others. spec: RTMP 1.0 §5.4, §6.2
    fn handle_control(&mut self, message: &Message) -> Result<bool, Violation> {
        let short = Violation::ShortControl { type_id: message.type_id };
        let number = |at: usize| {
            let field = message.payload.get(at..at + 4).and_then(|field| field.try_into().ok());
            field.map(u32::from_be_bytes).ok_or(short)
        };
        match message.type_id {
            type_id::SET_CHUNK_SIZE => self.reader.set_chunk_size(number(0)?)?,
            type_id::ABORT => self.reader.abort(number(0)?),
            type_id::WINDOW_ACK_SIZE => self.peer_window = Some(u64::from(number(0)?.max(1))),
            // spec: RTMP 1.0 §7.1.7: answer a ping request (6) with a ping response (7) that echoes its time
            type_id::USER_CONTROL if message.payload.starts_with(&[0, 6]) => {
                let time = number(2)?;
                self.user_control(7, time);
            }
            type_id::USER_CONTROL | type_id::ACKNOWLEDGEMENT | type_id::SET_PEER_BANDWIDTH => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Sends chunk size, window and bandwidth.
    pub(crate) fn announce(&mut self) {
        self.control(type_id::WINDOW_ACK_SIZE, &WINDOW_BYTES.to_be_bytes());
        let mut bandwidth = BytesMut::new();
        bandwidth.put_u32(WINDOW_BYTES);
        bandwidth.put_u8(2); // dynamic
        self.control(type_id::SET_PEER_BANDWIDTH, &bandwidth);
        self.control(type_id::SET_CHUNK_SIZE, &SEND_CHUNK_SIZE.to_be_bytes());
        self.writer.set_chunk_size(usize::try_from(SEND_CHUNK_SIZE).unwrap_or(4096));
    }

    fn control(&mut self, type_id: u8, payload: &[u8]) {
        let head = MessageHead { type_id, stream_id: 0, timestamp: 0 };
        self.writer.write(&mut self.out, CONTROL_CHUNK_STREAM, &head, &[payload]);
    }

    /// spec: RTMP 1.0 §7.1.7
    pub(crate) fn user_control(&mut self, event: u16, value: u32) {
        let mut payload = BytesMut::new();
        payload.put_u16(event);
        payload.put_u32(value);
        self.control(type_id::USER_CONTROL, &payload);
    }

    pub(crate) fn command(&mut self, stream_id: u32, name: &str, transaction: f64, arguments: &[Value]) {
        let payload = CommandMessage::encode(name, transaction, arguments);
        let head = MessageHead { type_id: type_id::COMMAND_AMF0, stream_id, timestamp: 0 };
        self.writer.write(&mut self.out, COMMAND_CHUNK_STREAM, &head, &[&payload]);
    }

    /// One audio or video message. spec: RTMP 1.0 §7.1.4, §7.1.5
    pub(crate) fn media(&mut self, track: TrackKind, stream_id: u32, timestamp: u32, body: &[&[u8]]) {
        let (chunk_stream, type_id) = match track {
            TrackKind::Audio => (AUDIO_CHUNK_STREAM, type_id::AUDIO),
            TrackKind::Video => (VIDEO_CHUNK_STREAM, type_id::VIDEO),
        };
        self.writer.write(&mut self.out, chunk_stream, &MessageHead { type_id, stream_id, timestamp }, body);
    }

    /// One data message of AMF 0 values. spec: RTMP 1.0 §7.1.2
    pub(crate) fn data(&mut self, stream_id: u32, timestamp: u32, values: &[Value]) {
        let head = MessageHead { type_id: type_id::DATA_AMF0, stream_id, timestamp };
        let mut payload = BytesMut::new();
        values.iter().for_each(|value| amf0::encode(&mut payload, value));
        self.writer.write(&mut self.out, DATA_CHUNK_STREAM, &head, &[&payload]);
    }

    /// Bytes to send come before events, events before waiting.
    pub(crate) fn poll(&mut self, deadline: Option<Instant>) -> Output<E> {
        if !self.out.is_empty() {
            let bytes = self.out.split().freeze();
            self.stats.sent_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            return Output::Send(bytes);
        }
        self.events.pop_front().map_or(Output::Wait(deadline), Output::Event)
    }
}
