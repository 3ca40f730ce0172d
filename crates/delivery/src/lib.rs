//! HTTP delivery: the origin of HLS and LL-HLS, and the player page.
//!
//! One task per stream feeds the packager from the hub; requests read what it published. A playlist is rendered at the
//! first request after a change and shared by all who wait. Media URLs are the same for every viewer.

mod channel;
mod guard;
mod http;
mod pages;
mod reply;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hls::PackagerConfig;
use hub::{Hub, Stream, StreamState};
use listen::{ConnectionLimits, Limits};
use media::{AuthorizePlay, StreamName};
use parking_lot::RwLock;
use telemetry::{Metrics, catch_panic};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info_span};

pub use channel::{Channel, ChannelStatus};

use channel::Outcome;

/// Before a packager that failed begins anew.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Where a broadcast stands: what must survive a restart so that a name is used once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EraRecord {
    /// Names the broadcast in the URLs of its media.
    pub broadcast: String,
    /// No segment above this number was ever published.
    pub highest_number: u64,
    /// Discontinuities so far.
    pub discontinuities: u64,
    /// ENDLIST was written: the next broadcast is another one.
    pub is_ended: bool,
}

/// A save that is under way; it is over when the record is safe.
pub type Saving = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Keeps era records. Implemented over a database, and over memory in tests.
pub trait EraStore: Send + Sync {
    /// The record of a stream, if there is one.
    fn load(&self, stream: &StreamName) -> Option<EraRecord>;
    /// Saves the record of a stream.
    fn save(&self, stream: &StreamName, record: EraRecord) -> Saving;
}

/// Settings of delivery.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryConfig {
    /// Settings of every packager.
    pub packager: PackagerConfig,
    /// Most connections, both listeners together.
    pub connections: ConnectionLimits,
    /// Most requests held at once.
    pub blocked_requests_max: usize,
    /// Slowest reader that is tolerated, in bytes per second, while bytes wait for it.
    pub read_rate_min_bytes_per_second: u64,
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            packager: PackagerConfig::default(),
            connections: ConnectionLimits { max: 18_000, per_address_max: 2048 },
            blocked_requests_max: 50_000,
            read_rate_min_bytes_per_second: 2000,
        }
    }
}

/// What delivery works with.
pub struct Surroundings {
    /// The streams.
    pub hub: Arc<Hub>,
    /// Keeps era records.
    pub eras: Arc<dyn EraStore>,
    /// Decides who may watch.
    pub authorize: Arc<AuthorizePlay>,
    /// Counts.
    pub metrics: Metrics,
    /// Ends all tasks when it is cancelled.
    pub shutdown: CancellationToken,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// Delivery of all streams.
#[derive(Clone)]
pub struct Delivery {
    inner: Arc<Inner>,
}

struct Inner {
    config: DeliveryConfig,
    hub: Arc<Hub>,
    eras: Arc<dyn EraStore>,
    authorize: Arc<AuthorizePlay>,
    metrics: Metrics,
    /// The channels of each stream, the current one last.
    channels: RwLock<HashMap<StreamName, Vec<Arc<Channel>>>>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    limits: Limits,
    /// Places for requests that are held.
    blocked: Semaphore,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").finish_non_exhaustive()
    }
}

impl Delivery {
    /// Delivery of the streams of a hub.
    pub fn new(config: DeliveryConfig, surroundings: Surroundings) -> Self {
        let Surroundings { hub, eras, authorize, metrics, shutdown } = surroundings;
        let (limits, blocked) = (Limits::new(config.connections), Semaphore::new(config.blocked_requests_max));
        let (channels, tracker) = (RwLock::default(), TaskTracker::new());
        Self {
            inner: Arc::new(Inner {
                config,
                hub,
                eras,
                authorize,
                metrics,
                channels,
                shutdown,
                tracker,
                limits,
                blocked,
            }),
        }
    }

    /// Packages every stream from the moment it begins, viewers or not.
    pub fn start(&self) {
        let delivery = self.clone();
        self.inner.tracker.spawn(async move {
            let mut added = delivery.inner.hub.watch_added();
            loop {
                added.borrow_and_update();
                for stream in delivery.inner.hub.streams() {
                    delivery.open(&stream);
                }
                tokio::select! {
                    _ = added.changed() => {}
                    () = delivery.inner.shutdown.cancelled() => return,
                }
            }
        });
    }

    /// Begins packaging a stream that is not packaged yet.
    fn open(&self, stream: &Arc<Stream>) {
        let mut channels = self.inner.channels.write();
        let of_stream = channels.entry(stream.name().clone()).or_default();
        if of_stream.iter().any(|channel| channel.is_fed_by(stream)) {
            return;
        }
        let mut record = self.inner.eras.load(stream.name());
        if let (Some(record), Some(older)) = (&mut record, of_stream.last()) {
            // The stream before is ending at this very moment, and its record may not say so yet.
            record.is_ended |= older.is_of_another(stream);
            older.supersede();
        }
        let channel = Arc::new(Channel::new(stream, self.inner.config.packager, record));
        of_stream.push(Arc::clone(&channel));
        drop(channels);
        let (delivery, name) = (self.clone(), stream.name().clone());
        let span = info_span!("channel", stream = %name);
        self.inner.tracker.spawn(
            async move {
                let inner = &delivery.inner;
                let outcome = catch_panic(channel.run(&*inner.eras, &inner.metrics, &inner.shutdown)).await;
                if outcome.is_err() {
                    tracing::error!("the packager panicked; it begins anew");
                }
                if matches!(outcome, Ok(Outcome::Ended)) {
                    // LL-22: an ended playlist stays one window, and its segments one window longer.
                    let window = Duration::from_nanos(u64::try_from(channel.window_nanos()).unwrap_or(0));
                    delivery.pause(window).await;
                    channel.withdraw();
                    delivery.pause(window).await;
                    delivery.remove(&name, &channel);
                } else if !inner.shutdown.is_cancelled() {
                    inner.metrics.hls_restarts.inc();
                    delivery.remove(&name, &channel);
                    delivery.pause(RESTART_PAUSE).await;
                    if let Some(stream) = inner.hub.stream(&name).filter(|stream| stream.state() != StreamState::Ended)
                    {
                        delivery.open(&stream);
                    }
                }
            }
            .instrument(span),
        );
    }

    async fn pause(&self, duration: Duration) {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = self.inner.shutdown.cancelled() => {}
        }
    }

    fn remove(&self, name: &StreamName, channel: &Arc<Channel>) {
        let mut channels = self.inner.channels.write();
        if let Some(of_stream) = channels.get_mut(name) {
            of_stream.retain(|other| !Arc::ptr_eq(other, channel));
            if of_stream.is_empty() {
                channels.remove(name);
            }
        }
    }

    /// The current channel of a stream.
    pub fn channel(&self, name: &StreamName) -> Option<Arc<Channel>> {
        self.inner.channels.read().get(name)?.last().filter(|channel| !channel.is_withdrawn()).cloned()
    }

    fn channel_of_broadcast(&self, name: &StreamName, broadcast: &str) -> Option<Arc<Channel>> {
        let channels = self.inner.channels.read();
        channels.get(name)?.iter().rev().find(|channel| channel.broadcast() == broadcast).cloned()
    }

    /// Figures of all channels, by stream.
    pub fn channels(&self) -> Vec<(StreamName, ChannelStatus)> {
        let channels = self.inner.channels.read();
        let current = channels.iter().filter_map(|(name, list)| Some((name.clone(), list.last()?.status())));
        let mut statuses: Vec<_> = current.collect();
        statuses.sort_by(|a, b| a.0.cmp(&b.0));
        statuses
    }

    /// Waits until all tasks have ended.
    pub async fn finished(&self) {
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
    }
}
