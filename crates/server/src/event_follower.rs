//! Events on their way from the hub: into the log, the metrics and the store.

use std::sync::Arc;
use std::time::Duration;

use control::{EventView, Store};
use hub::{Event, EventKind, EventLog, Hub, SwitchReason};
use telemetry::Metrics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Events that are taken at once.
const BATCH: usize = 256;
/// After a failure of the store: events stay in memory meanwhile, as far as there is room.
const RETRY: Duration = Duration::from_secs(1);

/// Follows the hub's events.
pub(crate) struct EventFollower {
    log: Arc<EventLog>,
    store: Arc<Store>,
    metrics: Metrics,
    /// The next event.
    next: u64,
    /// The first that was neither logged nor counted yet.
    unseen: u64,
    /// Tells which is the first that is not in the store yet.
    kept: watch::Sender<u64>,
}

impl EventFollower {
    /// From here on: before anything can happen.
    pub(crate) fn new(hub: &Hub, store: &Arc<Store>, metrics: Metrics) -> Self {
        let log = Arc::clone(hub.events());
        let next = *log.watch().borrow();
        Self { log, store: Arc::clone(store), metrics, next, unseen: next, kept: watch::Sender::new(next) }
    }

    /// The first event that is not in the store yet.
    pub(crate) fn kept(&self) -> watch::Receiver<u64> {
        self.kept.subscribe()
    }

    /// Until the server has stopped; then what is left.
    pub(crate) async fn run(mut self, stopped: CancellationToken) {
        let mut changed = self.log.watch();
        loop {
            changed.borrow_and_update();
            let is_kept = self.keep().await;
            if stopped.is_cancelled() {
                return;
            }
            tokio::select! {
                _ = changed.changed(), if is_kept => {}
                () = tokio::time::sleep(RETRY), if !is_kept => {}
                () = stopped.cancelled() => {}
            }
        }
    }

    /// Takes what there is; false where the store failed.
    async fn keep(&mut self) -> bool {
        loop {
            let events = self.log.since(self.next, BATCH);
            let (Some(first), Some(last)) = (events.first(), events.last()) else { return true };
            let missed = first.number.saturating_sub(self.next);
            if missed > 0 {
                self.metrics.events_lost.inc_by(missed);
                warn!(missed, "events could not be kept: the store is too slow or fails");
                self.next = first.number;
            }
            for event in events.iter().filter(|event| event.number >= self.unseen) {
                self.tell(event);
            }
            self.unseen = last.number + 1;
            let rows = events.iter().map(|event| EventView::from(&**event)).collect();
            if let Err(error) = self.store.add_events(rows).await {
                warn!(%error, "events cannot be kept yet");
                return false;
            }
            self.next = last.number + 1;
            self.kept.send_replace(self.next);
        }
    }

    fn tell(&self, event: &Event) {
        let (stream, kind, text) = (&event.stream, event.kind.as_str(), event.text.as_str());
        let is_bad =
            matches!(event.kind, EventKind::Lost | EventKind::SlateMissing | EventKind::LegRefused | EventKind::Parted);
        if is_bad {
            warn!(%stream, kind, "{text}");
        } else {
            info!(%stream, kind, "{text}");
        }
        if let Some(reason) = event.reason {
            self.metrics.switched(match reason {
                SwitchReason::Joined => telemetry::SwitchReason::joined,
                SwitchReason::Closed => telemetry::SwitchReason::closed,
                SwitchReason::Silent => telemetry::SwitchReason::silent,
                SwitchReason::Degraded => telemetry::SwitchReason::degraded,
                SwitchReason::Preferred => telemetry::SwitchReason::preferred,
                SwitchReason::Parted => telemetry::SwitchReason::parted,
                SwitchReason::Recovered => telemetry::SwitchReason::recovered,
                SwitchReason::Operator => telemetry::SwitchReason::operator,
            });
        }
        if let Some(gap) = event.gap.filter(|_| event.kind == EventKind::Switched) {
            self.metrics.switch_gap_seconds.observe(gap.as_secs_f64());
        }
    }
}
