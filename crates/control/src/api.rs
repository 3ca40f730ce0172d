//! The API: `/api/v1/…`, `/healthz`, `/readyz`, `/metrics`.

mod continuity;
mod views;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use hub::Hub;
use media::{Playback, StreamName};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::{OpenApi, ToSchema};

pub use continuity::EventView;
pub use views::{LegView, StreamView};

use crate::store::{KeyPurpose, KeyRecord, Store, StoreError};

/// What delivery says of a stream.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct DeliveryFigures {
    /// Media sequence number of the live edge.
    pub media_sequence: u64,
    /// Segments listed.
    pub segments: usize,
    /// Bytes of media held in memory.
    pub held_bytes: usize,
    /// Discontinuities of the broadcast.
    pub discontinuities: u64,
    /// Requests that wait for the next part.
    pub blocked_requests: usize,
}

/// Everything the API reads and changes.
#[derive(Clone)]
pub struct Api {
    /// Streams.
    pub hub: Arc<Hub>,
    /// Keys.
    pub store: Arc<Store>,
    /// The first event that is not in the store yet.
    pub events_kept: tokio::sync::watch::Receiver<u64>,
    /// Renders all metrics as text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Figures of delivery, by stream.
    pub delivery: Arc<dyn Fn() -> HashMap<StreamName, DeliveryFigures> + Send + Sync>,
    /// The server takes streams and viewers.
    pub ready: Arc<AtomicBool>,
    /// Work that goes on when its client has left.
    pub tasks: TaskTracker,
    /// Ends answers that would go on for ever.
    pub stopped: CancellationToken,
    /// Begins to drain the server; the last wish counts.
    pub drain: tokio::sync::watch::Sender<Option<DrainRequest>>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

/// A key, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// Names the key.
    pub id: String,
    /// The stream it is for.
    pub stream: String,
    /// Seconds since 1970, UTC.
    pub created_utc: i64,
    /// What it is good for.
    pub purpose: KeyPurpose,
    /// The rank of legs that come with it: 0 is preferred.
    pub rank: u8,
    /// The secret: only in the answer that makes the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl From<KeyRecord> for KeyView {
    fn from(record: KeyRecord) -> Self {
        let KeyRecord { id, stream, created_utc, purpose, rank } = record;
        Self { id, stream: stream.to_string(), created_utc, purpose, rank, key: None }
    }
}

/// The stream a new key is for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewKeyRequest {
    /// 1–64 of a–z A–Z 0–9 . _ -
    stream: String,
    /// To publish, if nothing is said.
    #[serde(default)]
    purpose: KeyPurpose,
    /// The rank of legs that come with it: 0, the preferred one, if nothing is said.
    #[serde(default)]
    rank: u8,
}

/// Highest rank of a source: slates come after all of them.
const RANK_MAX: u8 = 99;

/// How a server is emptied and stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrainRequest {
    /// Where publishers are to go that can be asked (Enhanced RTMP): `rtmp://HOST:PORT/live`. Without, to the same address again.
    pub to: Option<String>,
    /// How long they have, in seconds; 60 if nothing is said.
    pub timeout_seconds: Option<u64>,
    /// End all broadcasts (ENDLIST) instead of letting them go on after the next start.
    pub end: bool,
}

/// Who may watch a stream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlaybackView {
    /// `open`: everybody; `key`: who has a play key.
    pub playback: String,
}

/// What went wrong, in words.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct ErrorBody {
    error: String,
}

fn error(status: StatusCode, text: impl Into<String>) -> Response {
    (status, Json(ErrorBody { error: text.into() })).into_response()
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Throughline", description = "Live-streaming infrastructure: streams and keys."),
    paths(
        list_streams,
        get_stream,
        continuity::change_legs,
        end_stream,
        drain,
        continuity::list_events,
        continuity::follow_events,
        get_playback,
        set_playback,
        list_keys,
        create_key,
        revoke_key,
        healthz,
        readyz
    ),
    components(schemas(
        StreamView,
        DrainRequest,
        EventView,
        continuity::LegChange,
        PlaybackView,
        KeyView,
        KeyPurpose,
        NewKeyRequest,
        ErrorBody
    ))
)]
struct Description;

/// The OpenAPI description, as it is committed in `docs/openapi.json`.
pub fn openapi_json() -> String {
    let mut text = Description::openapi().to_pretty_json().expect("the description has no maps with odd keys");
    text.push('\n');
    text
}

impl Api {
    /// Serves the operations listener until `stopped`: the API wants the operator's token.
    pub async fn serve(self, listener: TcpListener, stopped: CancellationToken) {
        let guarded = api_routes().route_layer(axum::middleware::from_fn_with_state(self.clone(), require_token));
        let router = open_routes().merge(guarded).with_state(self);
        let _ = axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned()).await;
    }

    /// Serves the socket in the state directory until `stopped`: who can open it is the operator.
    pub async fn serve_local(self, listener: UnixListener, stopped: CancellationToken) {
        let router = open_routes().merge(api_routes()).with_state(self);
        let _ = axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned()).await;
    }
}

fn open_routes() -> Router<Api> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/openapi.json", get(openapi))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "no such path; see /api/v1/openapi.json") })
}

fn api_routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/streams", get(list_streams))
        .route("/api/v1/streams/{name}", get(get_stream).delete(end_stream))
        .route("/api/v1/drain", post(drain))
        .route("/api/v1/streams/{name}/playback", get(get_playback).put(set_playback))
        .route("/api/v1/streams/{name}/legs", post(continuity::change_legs))
        .route("/api/v1/events", get(continuity::list_events))
        .route("/api/v1/events/live", get(continuity::follow_events))
        .route("/api/v1/keys", get(list_keys).post(create_key))
        .route("/api/v1/keys/{id}", delete(revoke_key))
}

async fn require_token(State(api): State<Api>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) else {
        let mut response = error(StatusCode::UNAUTHORIZED, "send the operator's token as 'Authorization: Bearer …'");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        return response;
    };
    if api.store.is_operator_token(token) {
        next.run(request).await
    } else {
        error(StatusCode::FORBIDDEN, "this is not the operator's token")
    }
}

/// The process is alive.
#[utoipa::path(get, path = "/healthz", responses((status = 200, description = "alive")))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// The server takes streams and viewers.
#[utoipa::path(get, path = "/readyz", responses((status = 200, description = "ready"), (status = 503, description = "starting or stopping")))]
async fn readyz(State(api): State<Api>) -> Response {
    if api.ready.load(Ordering::Relaxed) {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn metrics(State(api): State<Api>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], (api.metrics)()).into_response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi_json()).into_response()
}

/// All streams.
#[utoipa::path(get, path = "/api/v1/streams", responses((status = 200, body = Vec<StreamView>)))]
async fn list_streams(State(api): State<Api>) -> Json<Vec<StreamView>> {
    let mut figures = (api.delivery)();
    let now = Instant::now();
    let views = api.hub.streams().into_iter().map(|stream| {
        let delivery = figures.remove(stream.name()).unwrap_or_default();
        StreamView::new(stream.status(now), api.store.playback(stream.name()), delivery)
    });
    Json(views.collect())
}

/// One stream.
#[utoipa::path(get, path = "/api/v1/streams/{name}", params(("name" = String, Path, description = "stream name")),
    responses((status = 200, body = StreamView), (status = 404, body = ErrorBody)))]
async fn get_stream(State(api): State<Api>, Path(name): Path<String>) -> Response {
    let found = name.parse().ok().and_then(|name: StreamName| api.hub.stream(&name));
    let Some(stream) = found else { return error(StatusCode::NOT_FOUND, format!("there is no stream '{name}' now")) };
    let delivery = (api.delivery)().remove(stream.name()).unwrap_or_default();
    let playback = api.store.playback(stream.name());
    Json(StreamView::new(stream.status(Instant::now()), playback, delivery)).into_response()
}

/// Ends a broadcast: its playlist is complete (ENDLIST) and its publishers are disconnected.
#[utoipa::path(delete, path = "/api/v1/streams/{name}", params(("name" = String, Path, description = "stream name")),
    responses((status = 204, description = "ended"), (status = 404, body = ErrorBody)))]
async fn end_stream(State(api): State<Api>, Path(name): Path<String>) -> Response {
    let is_ended = name.parse::<StreamName>().is_ok_and(|name| api.hub.end(continuity::now(), &name));
    if is_ended {
        StatusCode::NO_CONTENT.into_response()
    } else {
        error(StatusCode::NOT_FOUND, format!("there is no stream '{name}' now"))
    }
}

/// Takes no new publisher, asks those that are there to go elsewhere, waits until they have gone, and stops the server.
#[utoipa::path(post, path = "/api/v1/drain", request_body = DrainRequest,
    responses((status = 202, description = "begun; the server stops when it is empty or the time is over")))]
async fn drain(State(api): State<Api>, Json(request): Json<DrainRequest>) -> StatusCode {
    api.ready.store(false, Ordering::Relaxed);
    api.drain.send_replace(Some(request));
    StatusCode::ACCEPTED
}

/// Who may watch a stream, whether it is there now or not.
#[utoipa::path(get, path = "/api/v1/streams/{name}/playback", params(("name" = String, Path, description = "stream name")),
    responses((status = 200, body = PlaybackView), (status = 400, body = ErrorBody)))]
async fn get_playback(State(api): State<Api>, Path(name): Path<String>) -> Response {
    match name.parse::<StreamName>() {
        Ok(stream) => Json(PlaybackView { playback: api.store.playback(&stream).to_string() }).into_response(),
        Err(invalid) => error(StatusCode::BAD_REQUEST, invalid.to_string()),
    }
}

/// Says who may watch a stream. It holds for who comes from now on; who watches already goes on.
#[utoipa::path(put, path = "/api/v1/streams/{name}/playback", params(("name" = String, Path, description = "stream name")),
    request_body = PlaybackView, responses((status = 200, body = PlaybackView), (status = 400, body = ErrorBody)))]
async fn set_playback(State(api): State<Api>, Path(name): Path<String>, Json(request): Json<PlaybackView>) -> Response {
    let (stream, playback) = match (name.parse::<StreamName>(), request.playback.parse::<Playback>()) {
        (Ok(stream), Ok(playback)) => (stream, playback),
        (Err(invalid), _) => return error(StatusCode::BAD_REQUEST, invalid.to_string()),
        (_, Err(invalid)) => return error(StatusCode::BAD_REQUEST, invalid.to_string()),
    };
    match api.store.set_playback(stream, playback).await {
        Ok(()) => Json(request).into_response(),
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, failure.to_string()),
    }
}

/// All keys, without their secrets.
#[utoipa::path(get, path = "/api/v1/keys", responses((status = 200, body = Vec<KeyView>)))]
async fn list_keys(State(api): State<Api>) -> Json<Vec<KeyView>> {
    Json(api.store.keys().into_iter().map(KeyView::from).collect())
}

/// Makes a key. The answer is the only one that shows it.
#[utoipa::path(post, path = "/api/v1/keys", request_body = NewKeyRequest,
    responses((status = 201, body = KeyView), (status = 400, body = ErrorBody)))]
async fn create_key(State(api): State<Api>, Json(request): Json<NewKeyRequest>) -> Response {
    let stream = match request.stream.parse::<StreamName>() {
        Ok(stream) => stream,
        Err(invalid) => return error(StatusCode::BAD_REQUEST, invalid.to_string()),
    };
    if request.rank > RANK_MAX {
        return error(StatusCode::BAD_REQUEST, format!("the rank is {}: write 0 to {RANK_MAX}", request.rank));
    }
    match api.store.create_key(stream, request.purpose, request.rank).await {
        Ok(new) => {
            let key = Some(new.secret.expose().to_owned());
            (StatusCode::CREATED, Json(KeyView { key, ..new.record.into() })).into_response()
        }
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, failure.to_string()),
    }
}

/// Revokes a key and ends the session that was let in with it.
#[utoipa::path(delete, path = "/api/v1/keys/{id}", params(("id" = String, Path, description = "identifier of the key")),
    responses((status = 204, description = "revoked"), (status = 404, body = ErrorBody)))]
async fn revoke_key(State(api): State<Api>, Path(id): Path<String>) -> Response {
    let wanted = id.clone();
    // In a task of its own: a client that leaves must not leave the publisher in.
    let revoking = api.tasks.spawn(async move {
        let revoked = api.store.revoke_key(&wanted).await;
        if let Ok(Some(record)) = &revoked
            && let Some(stream) = api.hub.stream(&record.stream)
        {
            stream.kick_key(&record.id, "the stream key was revoked");
        }
        revoked
    });
    match revoking.await.unwrap_or(Err(StoreError::Closed)) {
        Ok(Some(_)) => StatusCode::NO_CONTENT.into_response(),
        Ok(None) => error(StatusCode::NOT_FOUND, format!("there is no key '{id}'")),
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, failure.to_string()),
    }
}
