//! An RTMP publisher over our own client session: sends exactly what it is told, or replays a clip.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::{StreamKey, TrackKind};
pub use rtmp::FrameInfo;
use rtmp::{ClientCommand, ClientConfig, ClientEvent, ClientInput, ClientSession, Metadata, Output, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Between the last tag of a file and its first one when it is sent again.
const FRAME_MS: u32 = 33;
/// A tag of time 0 that is longer holds media, not the description of a codec.
const HEADER_BYTES_MAX: usize = 128;

/// A publisher that was let in.
#[derive(Debug)]
pub struct Publisher {
    socket: TcpStream,
    session: ClientSession,
    /// Server, application, key.
    place: (SocketAddr, String, String),
    /// The server wants it elsewhere: where. Empty: at the same place again.
    asked_to_move: Option<String>,
}

impl Publisher {
    /// Connects and publishes.
    ///
    /// # Errors
    /// The server's words where it refused, or what broke.
    pub async fn connect(server: SocketAddr, app: &str, key: &str) -> Result<Self, String> {
        let socket = TcpStream::connect(server).await.map_err(|error| error.to_string())?;
        let config = ClientConfig {
            role: Role::Publish,
            app: app.into(),
            tc_url: format!("rtmp://{server}/{app}"),
            name: StreamKey::new(key),
            nonce: [5; 32],
        };
        let place = (server, app.to_owned(), key.to_owned());
        let session = ClientSession::new(Instant::now(), config);
        let mut publisher = Self { socket, session, place, asked_to_move: None };
        loop {
            if publisher.flush().await? {
                return Ok(publisher);
            }
            let mut buffer = [0; 4096];
            let count = publisher.socket.read(&mut buffer).await.map_err(|error| error.to_string())?;
            let input = if count == 0 { ClientInput::Eof } else { ClientInput::Received(&buffer[..count]) };
            publisher.session.handle_input(Instant::now(), input).map_err(|error| error.to_string())?;
        }
    }

    /// Writes what the session has; true once publishing has begun.
    async fn flush(&mut self) -> Result<bool, String> {
        let mut started = false;
        loop {
            match self.session.poll_output() {
                Output::Send(bytes) => self.socket.write_all(&bytes).await.map_err(|error| error.to_string())?,
                Output::Event(ClientEvent::Started) => started = true,
                Output::Event(ClientEvent::ReconnectRequested { tc_url }) => {
                    self.asked_to_move = Some(tc_url.unwrap_or_default());
                }
                Output::Event(_) => {}
                Output::Wait(_) => return Ok(started),
            }
        }
    }

    /// Sends one audio or video message.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(&mut self, track: TrackKind, timestamp_ms: u32, body: Bytes) -> Result<(), String> {
        self.command(ClientCommand::SendMedia { track, timestamp_ms, body }).await
    }

    /// Sends `onMetaData`.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn describe(&mut self, metadata: Metadata) -> Result<(), String> {
        self.command(ClientCommand::SendMetadata(metadata)).await
    }

    /// Sends `onFI`: when the picture of this time was captured.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn captured(&mut self, timestamp_ms: u32, info: FrameInfo) -> Result<(), String> {
        self.command(ClientCommand::SendFrameInfo { timestamp_ms, info }).await
    }

    /// Sends the tags of a file over and over in real time, and answers the server, for `duration`. Returns how far it
    /// fell behind its clock.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn replay(mut self, tags: &[Tag], duration: Duration) -> Result<Duration, String> {
        let (mut behind, mut buffer) = (Duration::ZERO, [0; 4096]);
        let length_ms = tags.last().map_or(0, |tag| tag.timestamp_ms + FRAME_MS);
        let began = tokio::time::Instant::now();
        for round in 0u32.. {
            // What describes the codecs stands at the front, and is sent once.
            for tag in tags.iter().filter(|tag| round == 0 || tag.timestamp_ms > 0 || tag.body.len() > HEADER_BYTES_MAX)
            {
                let timestamp_ms = round * length_ms + tag.timestamp_ms;
                let at = began + Duration::from_millis(timestamp_ms.into());
                while tokio::time::Instant::now() < at {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => break,
                        count = self.socket.read(&mut buffer) => {
                            let count = count.map_err(|error| error.to_string())?;
                            if count == 0 {
                                return Err("the server closed the connection".into());
                            }
                            let input = ClientInput::Received(&buffer[..count]);
                            self.session.handle_input(Instant::now(), input).map_err(|error| error.to_string())?;
                            self.flush().await?;
                        }
                    }
                }
                if began.elapsed() >= duration {
                    return self.close().await.map(|()| behind);
                }
                behind = behind.max(at.elapsed());
                if tag.is_keyframe() && self.asked_to_move.is_some() {
                    self.move_on(tags).await;
                }
                self.send(tag.track, timestamp_ms, tag.body.clone()).await?;
            }
        }
        Ok(behind)
    }

    /// Connects anew as the server has asked, and leaves this connection; where that cannot be, it stays and tries again at the
    /// next keyframe. spec: Enhanced RTMP v2, reconnect request
    async fn move_on(&mut self, tags: &[Tag]) {
        let (server, app, key) = &self.place;
        let to = self.asked_to_move.clone();
        let host = to.as_deref().and_then(|url| url.strip_prefix("rtmp://")?.split('/').next()?.parse().ok());
        let Ok(mut next) = Self::connect(host.unwrap_or(*server), app, key).await else { return };
        for tag in tags.iter().filter(|tag| tag.timestamp_ms == 0 && tag.body.len() <= HEADER_BYTES_MAX) {
            if next.send(tag.track, 0, tag.body.clone()).await.is_err() {
                return;
            }
        }
        let before = std::mem::replace(self, next);
        let _ = before.close().await;
    }

    /// Ends the stream properly.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn close(mut self) -> Result<(), String> {
        self.command(ClientCommand::Close).await
    }

    async fn command(&mut self, command: ClientCommand) -> Result<(), String> {
        self.session.handle_input(Instant::now(), ClientInput::Command(command)).map_err(|error| error.to_string())?;
        self.flush().await.map(drop)
    }

    /// Reads until the server closes; its words, if it had any.
    pub async fn closing_words(mut self) -> String {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer).await {
                Ok(0) | Err(_) => return String::new(),
                Ok(count) => {
                    let input = ClientInput::Received(&buffer[..count]);
                    if let Err(error) = self.session.handle_input(Instant::now(), input) {
                        return error.to_string();
                    }
                }
            }
        }
    }
}

/// One tag of an FLV file.
#[derive(Clone, Debug)]
pub struct Tag {
    /// Audio or video.
    pub track: TrackKind,
    /// Milliseconds.
    pub timestamp_ms: u32,
    /// The body.
    pub body: Bytes,
}

impl Tag {
    /// A picture that a decoder can start with. spec: FLV 10.1 §E.4.3.1; in Enhanced RTMP the top bit is set beside
    fn is_keyframe(&self) -> bool {
        self.track == TrackKind::Video && self.body.first().is_some_and(|first| first >> 4 & 7 == 1)
    }
}

/// The audio and video tags of an FLV file.
pub fn read_flv(file: &Bytes) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut rest = file.slice(13.min(file.len())..); // header and first back pointer
    while rest.len() >= 11 {
        let length = usize::from(rest[1]) << 16 | usize::from(rest[2]) << 8 | usize::from(rest[3]);
        if rest.len() < 11 + length {
            break;
        }
        let timestamp_ms = u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]]);
        let body = rest.slice(11..11 + length);
        match rest[0] {
            8 => tags.push(Tag { track: TrackKind::Audio, timestamp_ms, body }),
            9 => tags.push(Tag { track: TrackKind::Video, timestamp_ms, body }),
            _ => {}
        }
        rest = rest.slice((11 + length + 4).min(rest.len())..);
    }
    tags
}
