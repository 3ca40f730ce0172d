//! Legs and events: what the operator sees and does when a source fails.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use hub::{Arrival, Event, EventLog};
use media::StreamName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{Api, error};

/// Longest wait for events that happened just now and are not in the store yet.
const KEPT_TIME: Duration = Duration::from_millis(500);
/// Most events in one answer.
const LIMIT_MAX: u32 = 1000;
/// Between two signs of life where nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One thing that happened to a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Counts up, over restarts too, at each of which it leaves some out.
    pub number: i64,
    /// When, in milliseconds since 1970, UTC.
    pub utc_ms: i64,
    /// Whose.
    pub stream: String,
    /// `leg.joined`, `leg.left`, `leg.state`, `leg.refused`, `leg.repaired`, `leg.apart`, `slate.missing`, `stream.switched`, `stream.merged`, `stream.parted`,
    /// `stream.filled`, `stream.hole`, `stream.live`, `stream.lost`, `stream.ended`, `operator`.
    pub kind: String,
    /// The leg it is about, where it is about one.
    pub leg: Option<i64>,
    /// Why, for a switch: `joined`, `closed`, `silent`, `degraded`, `preferred`, `recovered` (from the slate), `parted`, `operator`.
    pub reason: Option<String>,
    /// What was seen, in words.
    pub text: String,
    /// Program time without a picture, for a switch and a hole; time without media, where it flows again.
    pub gap_ms: Option<i64>,
    /// Pictures that are missing in the program, for a switch and a hole.
    pub units_lost: Option<i64>,
}

impl From<&Event> for EventView {
    fn from(event: &Event) -> Self {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Self {
            number: number(event.number),
            utc_ms: event.utc_nanos / 1_000_000,
            stream: event.stream.to_string(),
            kind: event.kind.as_str().into(),
            leg: event.leg.map(number),
            reason: event.reason.map(|reason| reason.as_str().into()),
            text: event.text.clone(),
            gap_ms: event.gap.map(|gap| i64::try_from(gap.as_millis()).unwrap_or(i64::MAX)),
            units_lost: event.units_lost.map(number),
        }
    }
}

/// Which events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Of this stream only.
    stream: Option<String>,
    /// With lower numbers: to page backwards.
    before: Option<i64>,
    /// At most so many, 1–1,000.
    limit: Option<u32>,
}

fn name(text: Option<&String>) -> Result<Option<StreamName>, media::InvalidName> {
    text.map(|text| text.parse()).transpose()
}

/// Events that are kept, the newest first.
#[utoipa::path(get, path = "/api/v1/events", params(
        ("stream" = Option<String>, Query, description = "of this stream only"),
        ("before" = Option<i64>, Query, description = "with lower numbers: to page backwards"),
        ("limit" = Option<u32>, Query, description = "at most so many, 1–1,000; 100 if nothing is said")),
    responses((status = 200, body = Vec<EventView>), (status = 400, body = super::ErrorBody)))]
pub(super) async fn list_events(State(api): State<Api>, Query(wanted): Query<Wanted>) -> Response {
    let stream = match name(wanted.stream.as_ref()) {
        Ok(stream) => stream,
        Err(invalid) => return error(StatusCode::BAD_REQUEST, invalid.to_string()),
    };
    let limit = wanted.limit.unwrap_or(100).clamp(1, LIMIT_MAX);
    // What has happened is in the answer, unless the store is slow.
    let (head, mut kept) = (*api.hub.events().watch().borrow(), api.events_kept.clone());
    let _ = tokio::time::timeout(KEPT_TIME, kept.wait_for(|kept| *kept >= head)).await;
    match api.store.events(stream, wanted.before, limit).await {
        Ok(events) => Json(events).into_response(),
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, failure.to_string()),
    }
}

/// Which events are followed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Followed {
    /// Of this stream only.
    stream: Option<String>,
}

/// Events as they happen, as server-sent events; `Last-Event-ID` goes on after that one, as far as they are still in memory.
#[utoipa::path(get, path = "/api/v1/events/live", params(("stream" = Option<String>, Query, description = "of this stream only")),
    responses((status = 200, description = "text/event-stream; the data of each event is an EventView"),
        (status = 400, body = super::ErrorBody)))]
pub(super) async fn follow_events(
    State(api): State<Api>,
    Query(followed): Query<Followed>,
    headers: HeaderMap,
) -> Response {
    let stream = match name(followed.stream.as_ref()) {
        Ok(stream) => stream,
        Err(invalid) => return error(StatusCode::BAD_REQUEST, invalid.to_string()),
    };
    let log = Arc::clone(api.hub.events());
    let changed = log.watch();
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let head = *changed.borrow();
    // A number that was never given is of another life of this server.
    let next = last.filter(|last| *last < head).map_or(head, |last| last + 1);
    let follower = Follower { log, changed, next, stream, stopped: api.stopped.clone() };
    let body = stream::unfold(follower, |mut follower| async move {
        let text = follower.next().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), follower))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(body)).into_response()
}

struct Follower {
    log: Arc<EventLog>,
    changed: watch::Receiver<u64>,
    next: u64,
    stream: Option<StreamName>,
    stopped: CancellationToken,
}

impl Follower {
    /// The next events, or a sign of life; `None` when the server stops.
    async fn next(&mut self) -> Option<String> {
        loop {
            self.changed.borrow_and_update();
            let events = self.log.since(self.next, 100);
            self.next = events.last().map_or(self.next, |event| event.number + 1);
            let is_wanted = |event: &&Arc<Event>| self.stream.as_ref().is_none_or(|stream| *stream == event.stream);
            let text: String = events.iter().filter(is_wanted).map(|event| message(event)).collect();
            if !text.is_empty() {
                return Some(text);
            }
            if !events.is_empty() {
                continue;
            }
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(":\n\n".into()),
                () = self.stopped.cancelled() => return None,
            }
        }
    }
}

/// spec: HTML Living Standard §9.2.6
fn message(event: &Event) -> String {
    let view = EventView::from(event);
    let data = serde_json::to_string(&view).unwrap_or_default(); // one line: JSON escapes line feeds
    format!("id: {}\nevent: {}\ndata: {data}\n\n", view.number, view.kind)
}

/// Both clocks, read at once.
pub(super) fn now() -> Arrival {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Arrival { now: Instant::now(), utc_nanos: i64::try_from(utc.as_nanos()).unwrap_or(i64::MAX) }
}

/// What is to be done with the legs of a stream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum LegChange {
    /// Hold the stream on a leg while that is connected; another one feeds it while that one is silent.
    Pin {
        /// Its number.
        leg: u64,
    },
    /// Let go of it.
    Unpin {},
    /// Go on with a leg, at its next random access point, or stay with it, while it is healthy.
    Switch {
        /// Its number.
        leg: u64,
    },
    /// Take a leg out.
    Disable {
        /// Its number.
        leg: u64,
    },
    /// Let a leg take part again.
    Enable {
        /// Its number.
        leg: u64,
    },
}

/// Pins, switches, takes out a leg.
#[utoipa::path(post, path = "/api/v1/streams/{name}/legs", params(("name" = String, Path, description = "stream name")),
    request_body = LegChange,
    responses((status = 204, description = "done, or wanted as soon as it can be"), (status = 404, body = super::ErrorBody)))]
pub(super) async fn change_legs(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(change): Json<LegChange>,
) -> Response {
    let found = name.parse().ok().and_then(|name: StreamName| api.hub.stream(&name));
    let Some(stream) = found else { return error(StatusCode::NOT_FOUND, format!("there is no stream '{name}' now")) };
    let at = now();
    let outcome = match change {
        LegChange::Pin { leg } => stream.pin(at, Some(leg)),
        LegChange::Unpin {} => stream.pin(at, None),
        LegChange::Switch { leg } => stream.switch_to(at, leg),
        LegChange::Disable { leg } => stream.set_disabled(at, leg, true),
        LegChange::Enable { leg } => stream.set_disabled(at, leg, false),
    };
    match outcome {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(unknown) => error(StatusCode::NOT_FOUND, unknown.to_string()),
    }
}
