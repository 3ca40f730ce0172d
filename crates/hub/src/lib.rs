//! The hub: streams, legs, the timeline, the switch, the program, the ring of recent GOPs.
//!
//! Everything that comes in becomes a [`Leg`]; everything that goes out reads through a [`Subscriber`]. The hub knows no
//! protocol and is told the time.
//!
//! Invariants: publishing appends and wakes, it never waits and never loops over subscribers; program DTS strictly
//! increases per track; a slow subscriber skips whole GOPs. The one lock per stream guards O(1) appends and reads.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod copies;
mod event;
mod leg;
mod legs;
mod observe;
mod program;
mod report;
mod ring;
mod sample;
mod standby;
mod stream;
mod switch;
mod timeline;
mod vitals;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use media::StreamName;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub use copies::CopyStats;
use event::Draft;
pub use event::{Event, EventKind, EventLog, SwitchReason};
pub use leg::{AHEAD_MAX, Announcement, Leg};
pub use legs::{LegRole, LegState, LegStatus};
pub use observe::{Advice, Observed, lint};
pub use program::{Arrival, CopyFigures, Holes, ProgramStats};
pub use report::{Link, Marker, MarkerKind, Publisher, SLATE_RANK, Transport};
pub use ring::{Entry, Item, Tracks};
pub use sample::Sample;
pub use stream::{PublishError, SecondPublisher, Stream, StreamState, StreamStatus, Subscriber};
pub use switch::UnknownLeg;
pub use timeline::{Repaired, Repairs, Timeline};

/// Settings of the hub.
#[derive(Clone, Copy, Debug)]
pub struct HubConfig {
    /// Silence after which another leg takes over; longer for legs whose units lie further apart.
    pub takeover_after: Duration,
    /// Silence of all sources after which the loss is signalled to viewers.
    pub silent_after: Duration,
    /// How long a stream without a source is kept before it ends.
    pub hold: Duration,
    /// Most streams at once.
    pub streams_max: usize,
    /// What a second publisher with the same key is.
    pub second_publisher: SecondPublisher,
    /// How long a unit waits behind a hole that another copy of the encode may fill.
    pub merge_window: Duration,
    /// When the units of copies are emitted.
    pub merge_mode: MergeMode,
    /// Whether the newest of each leg is kept for whoever decodes it: [`Stream::samples`].
    pub keeps_samples: bool,
    /// How long a preferred leg must have been healthy before the program returns to it.
    pub hold_down: Duration,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            takeover_after: Duration::from_millis(500),
            silent_after: Duration::from_secs(2),
            hold: Duration::from_mins(1),
            streams_max: 2000,
            second_publisher: SecondPublisher::Backup,
            merge_window: Duration::from_millis(200),
            merge_mode: MergeMode::Swift,
            keeps_samples: false,
            hold_down: Duration::from_secs(10),
        }
    }
}

/// When the units of legs that carry the same encode are emitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MergeMode {
    /// As soon as the first copy is there: losing the leg that is ahead costs the skew, once.
    #[default]
    Swift,
    /// When the slower copy is due, up to [`HubConfig::merge_window`] later (SMPTE ST 2022-7): losing either leg changes nothing.
    Steady,
}

/// A stream that had not ended when the server before this one did.
#[derive(Clone, Debug)]
pub struct Outage {
    /// Which.
    pub stream: StreamName,
    /// Until when media flowed, in nanoseconds of UTC.
    pub utc_nanos: i64,
    /// There is an event of it.
    pub is_told: bool,
}

/// All streams of a process.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    streams: RwLock<HashMap<StreamName, Arc<Stream>>>,
    /// Counts up whenever a stream is added.
    added: watch::Sender<u64>,
    events: Arc<EventLog>,
    outages: Mutex<HashMap<StreamName, i64>>,
}

impl Hub {
    /// A hub without streams.
    pub fn new(config: HubConfig) -> Self {
        let (streams, outages) = (RwLock::default(), Mutex::default());
        Self { config, streams, added: watch::Sender::new(0), events: Arc::default(), outages }
    }

    /// Begins the numbers of events there, so that none is used twice.
    #[must_use]
    pub fn with_events_from(self, number: u64) -> Self {
        Self { events: Arc::new(EventLog::starting_at(number)), ..self }
    }

    /// Goes on after a server that ended. What it lost and could not say is told, and how long nothing was when media flows again.
    pub fn resume(&self, outages: Vec<Outage>) {
        for Outage { stream, utc_nanos, is_told } in outages {
            if !is_told {
                let text = "the server ended; its last sign of life is of then";
                self.events.add(utc_nanos, &stream, Draft::new(EventKind::Lost, None, text));
            }
            self.outages.lock().insert(stream, utc_nanos);
        }
    }

    /// A stream that begins, or goes on after the server was away.
    fn begin(&self, name: &StreamName) -> Arc<Stream> {
        let away_since = self.outages.lock().remove(name);
        Arc::new(Stream::new(name.clone(), self.config, Arc::clone(&self.events), away_since))
    }

    /// What happened to the streams.
    pub fn events(&self) -> &Arc<EventLog> {
        &self.events
    }

    /// The stream of that name, if it is there.
    pub fn stream(&self, name: &StreamName) -> Option<Arc<Stream>> {
        self.streams.read().get(name).cloned()
    }

    /// All streams, by name.
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        let mut streams: Vec<_> = self.streams.read().values().cloned().collect();
        streams.sort_by(|a, b| a.name().cmp(b.name()));
        streams
    }

    /// Changes when a stream is added.
    pub fn watch_added(&self) -> watch::Receiver<u64> {
        self.added.subscribe()
    }

    /// A source for the stream `name`; the stream begins if it is not there.
    ///
    /// # Errors
    /// Somebody else publishes and is healthy, or there are too many streams.
    pub fn publish(&self, at: Arrival, name: &StreamName, publisher: Publisher) -> Result<Leg, PublishError> {
        let mut streams = self.streams.write();
        if let Some(stream) = streams.get(name).filter(|stream| stream.state() != StreamState::Ended) {
            return stream.add_leg(at, publisher);
        }
        if streams.len() >= self.config.streams_max {
            return Err(PublishError::TooManyStreams(self.config.streams_max));
        }
        let stream = self.begin(name);
        let leg = stream.add_leg(at, publisher)?;
        streams.insert(name.clone(), stream);
        drop(streams);
        self.added.send_modify(|count| *count += 1);
        Ok(leg)
    }

    /// A stream that is there whether somebody publishes or not: it is not ended for want of a source.
    ///
    /// # Errors
    /// There are too many streams.
    pub fn declare(&self, name: &StreamName) -> Result<Arc<Stream>, PublishError> {
        let mut streams = self.streams.write();
        if let Some(stream) = streams.get(name) {
            stream.keep();
            return Ok(Arc::clone(stream));
        }
        if streams.len() >= self.config.streams_max {
            return Err(PublishError::TooManyStreams(self.config.streams_max));
        }
        let stream = self.begin(name);
        stream.keep();
        streams.insert(name.clone(), Arc::clone(&stream));
        drop(streams);
        self.added.send_modify(|count| *count += 1);
        Ok(stream)
    }

    /// Looks at the clocks of all streams; call it every 50 ms or so. What happens is told in the events.
    pub fn tick(&self, at: Arrival) {
        for stream in self.streams().into_iter().filter(|stream| stream.tick(at)) {
            let mut streams = self.streams.write();
            if streams.get(stream.name()).is_some_and(|known| Arc::ptr_eq(known, &stream)) {
                streams.remove(stream.name());
            }
        }
    }

    /// The operator ends a stream; false if there is none of that name.
    pub fn end(&self, at: Arrival, name: &StreamName) -> bool {
        let Some(stream) = self.streams.write().remove(name) else { return false };
        stream.end(at);
        true
    }
}

#[cfg(test)]
mod tests;
