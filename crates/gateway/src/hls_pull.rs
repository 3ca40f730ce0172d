//! Streams that are fetched from other servers over HLS and LL-HLS, again whenever they end. spec: rfc8216bis §6.3
//!
//! The player of the [`viewer`] decides what is asked for and when; what it would play is handed on to a leg instead, in real time: as far
//! behind the edge as the other server wants players to be, its segments make no gaps.

mod pacer;
mod pieces;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use container::fmp4::read::Record;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hls::read::ByteRange;
use hub::{Announcement, Leg, Publisher, Repairs, Transport};
use media::StreamName;
use telemetry::{CloseReason, Protocol};
use tokio::sync::watch;
use tracing::{debug, info, info_span};
use viewer::Url;
use viewer::client::{Client, ClientSettings, Shared};
use viewer::follower::{Answer, Choice, Event, Fetch, Follower, Input, Output, PlayerSettings, What};
use viewer::watch::moment;

use self::pacer::Pacer;
use self::pieces::{Piece, Reader, Timed};
use crate::ts::TsSource;
use crate::{Gateway, arrival, count_repairs, kicked};

/// Most time for a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time without media after which it is called anew; at least three times the longest segment.
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// Failures before the first media after which it is called anew.
const FAILURES_MAX: u32 = 3;
/// Most bytes that wait until they are due.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// How often figures are handed on.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// The picture's playlist, and that of sound which has one of its own.
const TRACKS: usize = 2;

/// A stream that is fetched, again and again.
#[derive(Clone, Debug)]
pub struct HlsPull {
    /// The stream here.
    pub stream: StreamName,
    /// Which of several it is, from 1: those are different encoders to whoever counts publishers of a key.
    pub row: usize,
    /// The playlist there, of either kind.
    pub url: Url,
    /// A key that is shown to that server as a bearer token.
    pub key: Option<String>,
    /// Which variant, counted from 0; none: the one with the highest bit rate.
    pub variant: Option<usize>,
    /// Takes any certificate: for trials.
    pub is_insecure: bool,
    /// The rank of the leg it makes: 0 is preferred.
    pub rank: u8,
}

impl Gateway {
    /// Fetches a stream, again whenever it ends, until shutdown.
    pub fn pull_hls(&self, pull: HlsPull) {
        let span = info_span!("pull", stream = %pull.stream, server = pull.url.authority(), protocol = "hls");
        let gateway = self.clone();
        self.again_and_again(span, move || {
            let (gateway, pull) = (gateway.clone(), pull.clone());
            async move {
                let session = gateway.metrics.session(Protocol::hls);
                let outcome = once(&gateway, &pull).await;
                let reason = if outcome.is_ok() { CloseReason::shutdown } else { CloseReason::network };
                session.close(reason);
                outcome.map(|()| true).map_err(|error| without_secrets(&error))
            }
        });
    }
}

/// A text in which addresses end with the server, and other words at a question mark: the rest may be a key.
fn without_secrets(text: &str) -> String {
    let word = |word: &str| {
        let colon = if word.ends_with(':') { ":" } else { "" };
        match word.split_once("://") {
            Some((scheme, rest)) => {
                let server = rest.split(['/', '?']).next().unwrap_or_default().trim_end_matches(':');
                format!("{scheme}://{server}/…{colon}")
            }
            None if word.contains('?') => format!("{}{colon}", word.split('?').next().unwrap_or_default()),
            None => word.to_owned(),
        }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Where media goes.
enum Sink {
    /// Units.
    Leg {
        leg: Box<Leg>,
        counted: Repairs,
    },
    Ts(Box<TsSource>),
}

/// One connection to the other server, from its playlist to the leg.
struct Pull<'a> {
    gateway: &'a Gateway,
    config: &'a HlsPull,
    readers: [Reader; TRACKS],
    /// Sound has a playlist of its own.
    has_rendition: bool,
    pacer: Pacer,
    /// By when they are due, and in the order in which they came.
    waiting: BTreeMap<(Instant, u64), Piece>,
    waiting_bytes: usize,
    next: u64,
    sink: Option<Sink>,
    kicked: Option<watch::Receiver<Option<String>>>,
    report_at: Instant,
    /// Answers to requests before this one are not wanted any more.
    stale_before: u64,
    newest: u64,
    heard: Instant,
    silent_after: Duration,
    failures: u32,
    /// Segments in a row that could not be read.
    unreadable: u32,
    problem: String,
    /// Where playback is to begin.
    begin: Option<i64>,
}

/// From the playlist to the end of the stream; fine is only shutdown.
async fn once(gateway: &Gateway, pull: &HlsPull) -> Result<(), String> {
    if gateway.draining.borrow().is_some() {
        return Err(crate::DRAINING.into());
    }
    let settings = ClientSettings {
        is_insecure: pull.is_insecure,
        timeout: REQUEST_TIMEOUT,
        is_compressed: false,
        ..ClientSettings::default()
    };
    let shared = Shared::new(settings, pull.key.as_deref().map(|key| (&pull.url, key)))?;
    let client = Client::new(&shared);
    let variant = pull.variant.map_or(Choice::Best, Choice::Number);
    let settings = PlayerSettings { variant, samples_max: 2, ..PlayerSettings::default() };
    let mut follower = Follower::new(moment(), pull.url.clone(), settings);
    let mut state = Pull::new(gateway, pull);
    let outcome = follow(&client, &mut follower, &mut state).await;
    state.close();
    outcome
}

async fn follow(client: &Client, follower: &mut Follower, state: &mut Pull<'_>) -> Result<(), String> {
    let received = state.gateway.metrics.received_bytes(Protocol::hls);
    let mut fetches = FuturesUnordered::new();
    loop {
        let deadline = loop {
            match follower.poll_output() {
                Output::Fetch(fetch) => {
                    state.on_fetch(&fetch);
                    fetches.push(async move {
                        let outcome = client.fetch_with_body(&fetch, true).await;
                        (fetch, outcome)
                    });
                }
                Output::Event(event) => state.on_event(&event)?,
                Output::Wait(deadline) => break deadline,
            }
        };
        if follower.is_done() && state.waiting.is_empty() {
            return Err("the stream ended there".into());
        }
        if state.sink.is_none() && state.waiting.is_empty() && follower.has_end() {
            return Err("it is over there, or a recording: only live streams are fetched".into());
        }
        state.begin = follower.start();
        let silent_at = state.heard + state.silent_after;
        let due = state.waiting.first_key_value().map(|((due, _), _)| *due);
        let silent = Some(silent_at).filter(|_| due.is_none());
        let wake = [deadline.filter(|_| !follower.is_done()), due, silent].into_iter().flatten().min();
        let input = tokio::select! {
            biased;
            () = state.gateway.shutdown.cancelled() => return Ok(()),
            reason = kicked(state.kicked.as_mut()) => return Err(reason),
            Some((fetch, outcome)) = fetches.next() => {
                if let Ok((answer, _)) = &outcome {
                    received.inc_by(answer.bytes);
                }
                Input::Answered(fetch.id, state.on_answered(&fetch, outcome)?)
            }
            () = tokio::time::sleep_until(wake.unwrap_or(silent_at).into()) => Input::Timeout,
        };
        let at = moment();
        follower.handle_input(at, input);
        state.hand_on(at.now)?;
        if at.now >= state.heard + state.silent_after && state.waiting.is_empty() {
            let seconds = state.silent_after.as_secs();
            return Err(format!("no media for {seconds} s {}", state.problem).trim_end().to_owned());
        }
    }
}

/// The bytes that were asked for, of a server that sent all of them.
fn cut(body: Bytes, range: Option<ByteRange>) -> Bytes {
    let Some(ByteRange { start, length }) = range else { return body };
    let end = length.map_or(body.len() as u64, |length| start.saturating_add(length)).min(body.len() as u64);
    let place = |at: u64| usize::try_from(at.min(end)).unwrap_or(body.len());
    body.slice(place(start)..place(end))
}

impl<'a> Pull<'a> {
    fn new(gateway: &'a Gateway, pull: &'a HlsPull) -> Self {
        let now = Instant::now();
        Self {
            gateway,
            config: pull,
            readers: Default::default(),
            has_rendition: false,
            pacer: Pacer::default(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            next: 0,
            sink: None,
            kicked: None,
            report_at: now,
            stale_before: 0,
            newest: 0,
            heard: now,
            silent_after: SILENT_AFTER,
            failures: 0,
            unreadable: 0,
            problem: String::new(),
            begin: None,
        }
    }

    fn on_fetch(&mut self, fetch: &Fetch) {
        self.newest = fetch.id;
        if let What::Init { track } | What::Media { track, .. } = fetch.what {
            self.has_rendition |= track > 0;
        }
    }

    fn on_event(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Failed(text) => {
                debug!(reason = without_secrets(text), "a request failed");
                self.failures += 1;
                if self.sink.is_none() && self.failures >= FAILURES_MAX {
                    return Err(text.clone());
                }
                self.problem = format!("({text})");
            }
            Event::WentLive => {
                info!("too far behind: on at the live edge");
                self.stale_before = self.newest + 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps the body of an answer, and passes on the rest.
    fn on_answered(
        &mut self,
        fetch: &Fetch,
        outcome: Result<(Answer, Bytes), String>,
    ) -> Result<Result<Answer, String>, String> {
        let (answer, body) = match outcome {
            Ok(answered) => answered,
            Err(text) => return Ok(Err(text)),
        };
        if !matches!(answer.status, 200 | 206) || fetch.id < self.stale_before {
            return Ok(Ok(answer));
        }
        match fetch.what {
            What::Playlist => {}
            What::Init { track } => {
                let Some(reader) = self.readers.get_mut(track) else { return Ok(Ok(answer)) };
                reader.init(&body)?;
            }
            What::Media { track, start, duration } => {
                let Some(reader) = self.readers.get_mut(track) else { return Ok(Ok(answer)) };
                let body = cut(body, fetch.range.filter(|_| answer.status == 200));
                let pieces = match reader.media(&body, duration, track > 0 || !self.has_rendition) {
                    Ok(pieces) => pieces,
                    Err(text) if self.unreadable < FAILURES_MAX => {
                        debug!(reason = text, "a segment is left out");
                        (self.unreadable, self.problem) = (self.unreadable + 1, format!("({text})"));
                        return Ok(Ok(answer));
                    }
                    Err(text) => return Err(text),
                };
                (self.heard, self.failures, self.unreadable) = (Instant::now(), 0, 0);
                let long = Duration::from_nanos(u64::try_from(duration).unwrap_or(0)).saturating_mul(3);
                self.silent_after = self.silent_after.max(long.min(10 * SILENT_AFTER));
                self.keep(track, start, pieces)?;
            }
        }
        Ok(Ok(answer))
    }

    /// What is to be handed on when it is due.
    fn keep(&mut self, track: usize, start: i64, pieces: Vec<Timed>) -> Result<(), String> {
        let now = Instant::now();
        self.pacer.on_media(now, start, self.begin);
        for (after, piece) in pieces {
            self.waiting_bytes += piece.len();
            let due = self.pacer.due(now, track, start.saturating_add(after));
            self.waiting.insert((due, self.next), piece);
            self.next += 1;
        }
        if self.waiting_bytes > WAITING_BYTES_MAX {
            return Err(format!("more than {} MiB wait to be played: that is no live stream", WAITING_BYTES_MAX >> 20));
        }
        Ok(())
    }

    /// Hands on what is due.
    fn hand_on(&mut self, now: Instant) -> Result<(), String> {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            let piece = entry.remove();
            self.waiting_bytes -= piece.len();
            self.take(piece)?;
        }
        if now >= self.report_at {
            self.report_at = now + REPORT_INTERVAL;
            match &mut self.sink {
                Some(Sink::Leg { leg, counted }) => count_repairs(&self.gateway.metrics, leg, counted),
                Some(Sink::Ts(source)) => {
                    source.report(Transport::default(), Vec::new());
                    source.count(&self.gateway.metrics);
                }
                None => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, piece: Piece) -> Result<(), String> {
        let at = arrival();
        if self.sink.is_none() {
            let mut leg = self.join()?;
            if !matches!(piece, Piece::Packets(_)) {
                let [main, _] = &self.readers;
                let (video, audio) = (main.has_video(), self.has_rendition || main.has_audio());
                leg.announce(at.now, Announcement { video, audio, ..Announcement::default() });
            }
            self.kicked = Some(leg.kicked());
            info!("the other server plays");
            self.sink = Some(match piece {
                Piece::Packets(_) => Sink::Ts(Box::new(self.gateway.ts_source(leg))),
                _ => Sink::Leg { leg: Box::new(leg), counted: Repairs::default() },
            });
        }
        let damaged = |error: codec::Error| error.to_string();
        match (self.sink.as_mut(), piece) {
            (Some(Sink::Ts(source)), Piece::Packets(packets)) => source.push(at, &packets)?,
            (Some(Sink::Leg { leg, .. }), piece) => match piece {
                Piece::Record(Record::Video(codec, record)) => leg.video_config(at, codec, &record).map_err(damaged)?,
                Piece::Record(Record::Audio(codec, record)) => leg.audio_config(at, codec, &record).map_err(damaged)?,
                Piece::Video { time_nanos, offset_nanos, is_key, data } => {
                    leg.video_unit(at, time_nanos, offset_nanos, is_key, &data);
                }
                Piece::Audio { codec, time_nanos, data } => leg.audio_unit(at, codec, time_nanos, data),
                Piece::Packets(_) => {
                    return Err(
                        "its sound is a transport stream of its own: choose a variant that has sound in it".into()
                    );
                }
            },
            _ => return Err("it changed between fragmented MP4 and MPEG-TS".into()),
        }
        Ok(())
    }

    fn join(&self) -> Result<Leg, String> {
        let Url { is_https, .. } = self.config.url;
        let scheme = if is_https { "https" } else { "http" };
        let publisher = Publisher {
            protocol: Protocol::hls.as_str(),
            peer: self.config.url.authority(),
            encoder: None,
            key_id: format!("pull {} from {scheme}://{}", self.config.row, self.config.url.authority()), // the rest may be a key
            rank: self.config.rank,
            is_fetched: true,
        };
        self.gateway.hub.publish(arrival(), &self.config.stream, publisher).map_err(|error| error.to_string())
    }

    fn close(self) {
        match self.sink {
            Some(Sink::Leg { leg, mut counted }) => {
                count_repairs(&self.gateway.metrics, &leg, &mut counted);
                leg.close(arrival());
            }
            Some(Sink::Ts(mut source)) => {
                source.count(&self.gateway.metrics);
                source.close(arrival());
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_whole_file_the_range_is_taken() {
        let body = Bytes::from_static(b"0123456789");
        let range = |start, length| Some(ByteRange { start, length });
        assert_eq!(cut(body.clone(), range(2, Some(3))), "234");
        assert_eq!(cut(body.clone(), range(8, None)), "89");
        assert_eq!(cut(body.clone(), range(20, Some(3))), "");
        assert_eq!(cut(body, range(5, Some(u64::MAX))), "56789");
    }

    #[test]
    fn what_may_be_a_key_is_not_told() {
        let told = without_secrets("http://a:80/secret/b.m3u8?key=secret: status 403 ('s?x=secret' https://a?secret");
        assert_eq!(told, "http://a:80/…: status 403 ('s https://a/…");
    }
}
