//! One RTMP connection: the shell around a session.

mod pull;

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use container::flv::Content;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hub::{AHEAD_MAX, Announcement, Entry, Item, Leg, Publisher, Repairs, StreamState, Subscriber, Tracks};
use media::{FrameRate, StreamKey, StreamName, TrackKind};
use rtmp::{Command, Event, Input, Media, Metadata, Output, Rejection, ServerConfig, ServerSession};
use telemetry::prometheus_metrics::counter::Counter;
use telemetry::{CloseReason, Protocol, RejectReason};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Sleep;
use tracing::{debug, info, warn};

use crate::{Draining, Gateway, arrival, count_repairs, in_time};

pub use pull::RtmpPull;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// Bytes that may wait to be written before nothing more is taken in: 1 s at 8 Mbit/s.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// Longest time without a single byte written while bytes wait.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the last bytes to leave, and for the peer to see them.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// After a source was paced, the time it has to send again.
const PACE_GRACE: Duration = Duration::from_secs(5);

/// What the session does for the hub.
enum Role {
    Undecided,
    Publishing(Box<Publishing>),
    Playing { subscriber: Subscriber, tracks: Option<Arc<Tracks>>, waits_for: Option<TrackKind> },
}

struct Publishing {
    leg: Leg,
    counted: Repairs,
    /// The first track seen of each kind is the stream.
    tracks: [Option<u8>; 2],
    paced_until: Option<Instant>,
}

struct Connection<'a> {
    gateway: &'a Gateway,
    peer: SocketAddr,
    protocol: Protocol,
    session: ServerSession,
    role: Role,
    unsent: BytesMut,
    received: Counter,
    reason: CloseReason,
    /// When reading went on after the last time the source was paced.
    resumed_at: Option<Instant>,
    orders: Orders,
}

/// What others have for the session: each is looked at when it has come, and not with everything that is read.
type Orders = FuturesUnordered<BoxFuture<'static, Wake>>;

/// Sees that the peer has closed its side while what it sent before is not read yet.
#[derive(Debug)]
pub(crate) struct HangUp {
    copy: Option<std::net::TcpStream>,
    /// From when it is asked for the first time: until then what arrives wakes nobody twice.
    watched: Option<TcpStream>,
}

impl HangUp {
    /// Watches the socket beside whoever reads it.
    pub(crate) fn of(socket: &TcpStream) -> Self {
        let copy = socket.as_fd().try_clone_to_owned().map(std::net::TcpStream::from);
        Self { copy: copy.ok(), watched: None }
    }

    /// When the peer has closed. Cancel-safe.
    async fn seen(&mut self) {
        if let Some(copy) = self.copy.take() {
            self.watched = TcpStream::from_std(copy).ok();
        }
        if let Some(socket) = &self.watched {
            while let Ok(ready) = socket.ready(Interest::READABLE).await {
                if ready.is_read_closed() {
                    return;
                }
                // What is there is for somebody else: wait until there is more.
                let _ = socket.try_io(Interest::READABLE, || Err::<(), _>(std::io::ErrorKind::WouldBlock.into()));
            }
        }
        std::future::pending::<()>().await;
    }
}

/// Runs one connection to its end and says why it ended.
pub(crate) async fn run(
    gateway: &Gateway,
    socket: impl AsyncRead + AsyncWrite + Unpin,
    hang_up: HangUp,
    peer: SocketAddr,
    protocol: Protocol,
) -> CloseReason {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).expect("the system has randomness");
    let config = ServerConfig { nonce, ..ServerConfig::default() };
    let mut connection = Connection {
        gateway,
        peer,
        protocol,
        session: ServerSession::new(Instant::now(), config),
        role: Role::Undecided,
        unsent: BytesMut::new(),
        received: gateway.metrics.received_bytes(protocol),
        reason: CloseReason::peer,
        resumed_at: None,
        orders: Orders::new(),
    };
    connection.renew_orders();
    connection.drive(socket, hang_up).await;
    connection.end();
    connection.reason
}

/// What woke the loop.
enum Wake {
    Read(std::io::Result<usize>),
    Written(std::io::Result<usize>),
    Entry(Arc<Entry>),
    Kicked(String),
    Drain(watch::Receiver<Option<Draining>>),
    Timeout,
    HungUp,
    Shutdown,
}

/// A timer that is set anew only where it would ring too late: a deadline that is put off with everything that is read costs nothing.
#[derive(Debug)]
struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// At `deadline`, or before it. Cancel-safe.
    async fn until(&mut self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return std::future::pending().await };
        if self.0.is_elapsed() || self.0.deadline() > deadline.into() {
            self.0.as_mut().reset(deadline.into());
        }
        self.0.as_mut().await;
    }
}

impl Connection<'_> {
    async fn drive(&mut self, socket: impl AsyncRead + AsyncWrite + Unpin, mut hang_up: HangUp) {
        let mut has_hung_up = false;
        let (mut reader, mut writer) = tokio::io::split(socket);
        let mut buffer = vec![0; READ_BYTES];
        let mut write_deadline = None;
        let mut alarm = Alarm(Box::pin(tokio::time::sleep(Duration::ZERO)));
        loop {
            let deadline = self.drain();
            if self.session.is_closed() && self.unsent.is_empty() {
                self.end();
                let _ = in_time(CLOSE_TIMEOUT, writer.shutdown()).await;
                // What the peer still sends is read and dropped: closing with it unread would reset the connection,
                // and the peer might never see why.
                let drained = async { while matches!(reader.read(&mut buffer).await, Ok(count) if count > 0) {} };
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, drained).await;
                return;
            }
            write_deadline = if self.unsent.is_empty() {
                None
            } else {
                write_deadline.or_else(|| Some(Instant::now() + WRITE_TIMEOUT))
            };
            let may_read = !self.session.is_closed() && self.unsent.len() < UNSENT_BYTES_MAX && !self.is_paced();
            let is_open = !self.session.is_closed();
            // While we do not read, the peer cannot be late.
            let deadline = deadline.filter(|_| may_read || is_open && !self.is_paced());
            let deadline =
                deadline.map(|deadline| self.resumed_at.map_or(deadline, |at| deadline.max(at + PACE_GRACE)));
            let timeout = [deadline, write_deadline, self.paced_until()].into_iter().flatten().min();
            let takes_more = is_open && self.unsent.len() < UNSENT_BYTES_MAX;
            // What ends a session comes first, so that no flood can keep it alive.
            let wake = tokio::select! {
                biased;
                Some(order) = self.orders.next(), if is_open => order,
                entry = self.role.entry(), if takes_more => Wake::Entry(entry),
                () = alarm.until(timeout) => Wake::Timeout,
                () = hang_up.seen(), if !has_hung_up && self.is_paced() => Wake::HungUp,
                written = writer.write(&self.unsent), if !self.unsent.is_empty() => Wake::Written(written),
                read = reader.read(&mut buffer), if may_read => Wake::Read(read),
            };
            match wake {
                Wake::Written(Ok(count)) if count > 0 => {
                    self.unsent.advance(count);
                    write_deadline = None;
                }
                Wake::Written(_) => return self.fail(CloseReason::network, "the peer does not take bytes"),
                Wake::Timeout if write_deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                    return self.fail(CloseReason::timeout, "the peer stopped reading");
                }
                Wake::Read(Err(error)) => return self.fail(CloseReason::network, &error.to_string()),
                Wake::Read(Ok(0)) => self.input(Input::Eof),
                Wake::Read(Ok(count)) => {
                    self.received.inc_by(count as u64);
                    self.input(Input::Received(buffer.get(..count).unwrap_or_default()));
                }
                Wake::Entry(entry) => self.send_entry(&entry),
                Wake::Kicked(reason) => self.close(CloseReason::kicked, reason),
                Wake::Drain(draining) => self.ask_to_reconnect(draining),
                Wake::Timeout if self.is_paced() => {}
                Wake::Timeout if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                    self.input(Input::Timeout);
                }
                Wake::Timeout => {}
                Wake::HungUp => {
                    has_hung_up = true;
                    if let Role::Publishing(publishing) = &self.role {
                        publishing.leg.hang_up();
                    }
                }
                Wake::Shutdown => self.close(CloseReason::shutdown, "the server is restarting".into()),
            }
        }
    }

    fn ask_to_reconnect(&mut self, mut draining: watch::Receiver<Option<Draining>>) {
        let tc_url = draining.borrow_and_update().clone().unwrap_or_default().to;
        let description = "the server is about to stop".into();
        self.input(Input::Command(Command::Reconnect { tc_url, description }));
        self.orders.push(drain(draining).boxed());
    }

    /// Listens to the server alone: what it had published is over, or has not begun.
    fn renew_orders(&mut self) {
        let shutdown = self.gateway.shutdown.clone();
        self.orders = Orders::from_iter([shutdown.cancelled_owned().map(|()| Wake::Shutdown).boxed()]);
    }

    fn is_paced(&self) -> bool {
        self.paced_until().is_some_and(|until| until > Instant::now())
    }

    fn paced_until(&self) -> Option<Instant> {
        let Role::Publishing(publishing) = &self.role else { return None };
        publishing.paced_until.filter(|until| *until > Instant::now())
    }

    fn fail(&mut self, reason: CloseReason, text: &str) {
        self.reason = reason;
        debug!(error = text, "connection failed");
    }

    fn close(&mut self, reason: CloseReason, text: String) {
        info!(reason = text, "session closed by the server");
        self.reason = reason;
        self.input(Input::Command(Command::Close(text)));
    }

    fn input(&mut self, input: Input<'_>) {
        if let Err(error) = self.session.handle_input(Instant::now(), input) {
            self.reason = match error {
                rtmp::Error::UnknownApp { .. } => {
                    self.gateway.metrics.rejected(RejectReason::not_found);
                    CloseReason::rejected
                }
                rtmp::Error::PeerMisbehaved(_) | rtmp::Error::Unsupported(_) => CloseReason::protocol_error,
                _ => CloseReason::timeout,
            };
            info!(%error, "session failed");
        }
    }

    /// Carries out what the session asks for; returns its deadline. A source that is paced is taken in unit by unit, so that
    /// one read that holds an hour of sound does not bring an hour.
    fn drain(&mut self) -> Option<Instant> {
        loop {
            if self.is_paced() && !self.session.is_closed() {
                return None;
            }
            match self.session.poll_output() {
                Output::Send(bytes) => self.unsent.extend_from_slice(&bytes),
                Output::Event(event) => self.on_event(event),
                Output::Wait(deadline) => return deadline,
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::PublishRequested { path, name } => self.on_publish(&path, &name),
            Event::PlayRequested { path, name } => self.on_play(&path, &name),
            Event::Metadata(metadata) => {
                if let Role::Publishing(publishing) = &mut self.role {
                    publishing.leg.announce(Instant::now(), announcement(&metadata));
                }
            }
            Event::Captured { time_nanos, info } => {
                if let Role::Publishing(publishing) = &mut self.role {
                    publishing.leg.captured(arrival(), time_nanos, info.day_nanos, info.frames);
                }
            }
            Event::Media { time_nanos, media } => self.on_media(time_nanos, media),
            Event::Damaged => {
                if let Role::Publishing(publishing) = &mut self.role {
                    publishing.leg.count_damaged();
                }
            }
            Event::PublishEnded => self.end(), // at once: the connection stays until the peer closes it
        }
    }

    fn on_publish(&mut self, path: &str, name: &StreamKey) {
        let draining = self.gateway.draining.subscribe();
        if draining.borrow().is_some() {
            return self.reject(RejectReason::draining, Rejection::BadName(crate::DRAINING.into()));
        }
        let outcome = self.authorize(path, name).and_then(|grant| {
            let publisher = Publisher {
                protocol: self.protocol.as_str(),
                peer: self.peer.to_string(),
                encoder: None,
                key_id: grant.key_id,
                rank: grant.rank,
                is_fetched: false,
            };
            self.gateway.hub.publish(arrival(), &grant.stream, publisher).map_err(|error| {
                let reason = if error.is_busy() { RejectReason::busy } else { RejectReason::limit };
                (reason, Rejection::BadName(error.to_string()))
            })
        });
        // The key may have been revoked in between, too early for this leg to be thrown out with it.
        let outcome = outcome.and_then(|leg| match self.authorize(path, name) {
            Ok(_) => Ok(leg),
            Err(refusal) => {
                leg.close(arrival());
                Err(refusal)
            }
        });
        match outcome {
            Ok(leg) => {
                info!(stream = %leg.stream().name(), "publisher joined");
                let mut kicked = leg.kicked();
                self.orders.push(async move { Wake::Kicked(crate::kicked(Some(&mut kicked)).await) }.boxed());
                self.orders.push(drain(draining).boxed());
                let publishing = Publishing::new(leg);
                self.role = Role::Publishing(Box::new(publishing));
                self.input(Input::Command(Command::Accept));
            }
            Err((reason, rejection)) => self.reject(reason, rejection),
        }
    }

    /// The key is the stream key, or follows the stream's name as `?key=`; the name may also be in the path.
    fn authorize(&self, path: &str, name: &StreamKey) -> Result<crate::Grant, (RejectReason, Rejection)> {
        let unauthorized = |text: String| (RejectReason::unauthorized, Rejection::Unauthorized(text));
        let (before, in_query) = split_key(name);
        let (stream, key) = match in_query {
            Some(key) => (if path.is_empty() { before } else { path }, key),
            None => (path, before),
        };
        if key.is_empty() {
            return Err(unauthorized("a stream key is needed: put it into the encoder's stream key field".into()));
        }
        let stream = match stream {
            "" => None,
            text => Some(text.parse::<StreamName>().map_err(|error| unauthorized(error.to_string()))?),
        };
        (self.gateway.doors.publish)(&StreamKey::new(key), stream.as_ref()).map_err(unauthorized)
    }

    /// Where the stream is not open to everybody, a play key follows its name as `?key=`.
    fn on_play(&mut self, path: &str, name: &StreamKey) {
        let (before, key) = split_key(name);
        let key = key.map(StreamKey::new);
        let wanted = if path.is_empty() { before } else { path }.parse::<StreamName>().ok();
        if let Some(wanted) = &wanted
            && let Err(refusal) = (self.gateway.doors.play)(wanted, key.as_ref())
        {
            return self.reject(RejectReason::unauthorized, Rejection::PlayUnauthorized(refusal.to_string()));
        }
        let stream = wanted.and_then(|name| self.gateway.hub.stream(&name));
        let Some(stream) = stream.filter(|stream| stream.state() != StreamState::Ended) else {
            // What the peer asked for is not repeated: it may be a key.
            return self.reject(RejectReason::not_found, Rejection::NotFound("there is no such stream now".into()));
        };
        info!(stream = %stream.name(), "player joined");
        self.role = Role::Playing { subscriber: stream.subscribe(), tracks: None, waits_for: None };
        self.input(Input::Command(Command::Accept));
    }

    fn reject(&mut self, reason: RejectReason, rejection: Rejection) {
        warn!(reason = rejection.description(), "refused");
        self.gateway.metrics.rejected(reason);
        self.reason = CloseReason::rejected;
        self.input(Input::Command(Command::Reject(rejection)));
    }

    fn on_media(&mut self, time_nanos: i64, media: Media) {
        let Role::Publishing(publishing) = &mut self.role else { return };
        if let Err(error) = publishing.on_media(time_nanos, media) {
            self.close(CloseReason::protocol_error, error.to_string());
            return;
        }
        let Role::Publishing(publishing) = &mut self.role else { return };
        count_repairs(&self.gateway.metrics, &publishing.leg, &mut publishing.counted);
        let ahead = publishing.leg.ahead();
        publishing.paced_until = ahead.checked_sub(AHEAD_MAX).map(|extra| Instant::now() + extra);
        self.resumed_at = publishing.paced_until.or(self.resumed_at);
    }

    /// To a player: configurations when they change, and units from a random access point on.
    fn send_entry(&mut self, entry: &Entry) {
        let Role::Playing { tracks, waits_for, .. } = &mut self.role else { return };
        let unit = match &entry.item {
            Item::Unit(unit) => unit,
            Item::Lost => return,
            Item::End => return self.close(CloseReason::peer, "the stream ended".into()),
        };
        let is_new = tracks.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &entry.tracks));
        if is_new {
            *tracks = Some(Arc::clone(&entry.tracks));
            *waits_for = entry.tracks.video.is_some().then_some(TrackKind::Video);
        }
        if waits_for.is_some_and(|track| unit.track == track && unit.is_random_access) {
            *waits_for = None;
        }
        let is_waiting = waits_for.is_some();
        if is_new {
            self.session.send_metadata(&Metadata {
                has_video: entry.tracks.video.is_some(),
                has_audio: entry.tracks.audio.is_some(),
                video_codec_id: entry.tracks.config(TrackKind::Video).as_ref().map(rtmp::codec_id),
                audio_codec_id: entry.tracks.config(TrackKind::Audio).as_ref().map(rtmp::codec_id),
                ..Metadata::default()
            });
            for track in [TrackKind::Video, TrackKind::Audio] {
                if let Some(config) = entry.tracks.config(track) {
                    self.input(Input::Command(Command::SendConfig(config)));
                }
            }
        }
        if !is_waiting && let Some(config) = entry.tracks.config(unit.track) {
            self.input(Input::Command(Command::SendUnit(config, unit.clone())));
        }
    }

    fn end(&mut self) {
        let Role::Publishing(mut publishing) = std::mem::replace(&mut self.role, Role::Undecided) else { return };
        self.renew_orders();
        count_repairs(&self.gateway.metrics, &publishing.leg, &mut publishing.counted);
        info!(stream = %publishing.leg.stream().name(), reason = ?self.reason, "publisher left");
        publishing.leg.close(arrival());
    }
}

/// When the server's state changes towards its end. It lives longer than the session.
async fn drain(mut draining: watch::Receiver<Option<Draining>>) -> Wake {
    if draining.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    Wake::Drain(draining)
}

impl Publishing {
    fn new(leg: Leg) -> Self {
        Self { leg, counted: Repairs::default(), tracks: [None; 2], paced_until: None }
    }

    fn on_media(&mut self, time_nanos: i64, media: Media) -> Result<(), codec::Error> {
        let at = arrival();
        match media {
            Media::Video(packet) if *self.tracks[0].get_or_insert(packet.track_id) == packet.track_id => {
                match packet.content {
                    Content::Config(record) => self.leg.video_config(at, packet.codec, &record)?,
                    Content::Unit { is_key, composition_offset_ms, data } => {
                        let offset_nanos = i64::from(composition_offset_ms) * 1_000_000;
                        self.leg.video_unit(at, time_nanos, offset_nanos, is_key, &data);
                    }
                    Content::Ignored => {}
                }
            }
            Media::Audio(packet) if *self.tracks[1].get_or_insert(packet.track_id) == packet.track_id => {
                match packet.content {
                    Content::Config(record) => self.leg.audio_config(at, packet.codec, &record)?,
                    Content::Unit { data, .. } => self.leg.audio_unit(at, packet.codec, time_nanos, data),
                    Content::Ignored => {}
                }
            }
            Media::Video(_) | Media::Audio(_) => {} // the ladder will use the other tracks
        }
        Ok(())
    }
}

impl Role {
    /// What the hub has for a player. Cancel-safe.
    async fn entry(&mut self) -> Arc<Entry> {
        match self {
            Self::Playing { subscriber, .. } => subscriber.next().await,
            Self::Undecided | Self::Publishing(_) => std::future::pending().await,
        }
    }
}

/// What stands before the query, and the key in it.
fn split_key(name: &StreamKey) -> (&str, Option<&str>) {
    let (before, query) = name.expose().split_once('?').unwrap_or((name.expose(), ""));
    (before, query.split('&').find_map(|pair| pair.strip_prefix("key=")))
}

fn announcement(metadata: &Metadata) -> Announcement {
    // Declared rates are decimals: 29.97 means 30000/1001.
    let frame_rate = metadata.frame_rate.and_then(|declared| {
        let close = |rate: &FrameRate| {
            let millihertz = f64::from(u32::try_from(rate.millihertz()).unwrap_or(u32::MAX));
            (millihertz - declared * 1000.0).abs() < 10.0
        };
        FrameRate::COMMON.into_iter().find(close)
    });
    Announcement {
        video: metadata.has_video,
        audio: metadata.has_audio,
        frame_rate,
        audio_sample_rate: metadata.audio_sample_rate,
        audio_channels: metadata.audio_channels,
        encoder: metadata.encoder.clone(),
    }
}

pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
