//! The media listener: HTTP/1.1 and HTTP/2, routes, limits.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hls::Directives;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use listen::accept_all;
use media::{PlayRefusal, Playback, StreamKey, StreamName, TrackKind};
use telemetry::{HttpClass, catch_panic};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::channel::{Answer, Rendered, Waiting};
use crate::guard::{FirstBytes, RateGuard};
use crate::reply::{Bodies, Caching, Reply, Slices};
use crate::{Delivery, pages};

const PLAYLIST_TYPE: &str = "application/vnd.apple.mpegurl";
/// Time for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// Most HTTP/2 streams of one connection: a player holds two or three.
const STREAMS_MAX: u32 = 64;
/// Time for a TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection looks whether a body is overdue.
const OVERDUE_INTERVAL: Duration = Duration::from_secs(5);
const TOO_MANY_WAIT: &str = "too many requests wait";
const RESTARTING: &str = "the server is restarting";
/// After a 503, come back in this time.
const RETRY_AFTER_SECONDS: u32 = 1;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Delivery {
    /// Serves HTTP on a listener, or HTTPS if there is an acceptor, until shutdown.
    pub fn serve(&self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let delivery = self.clone();
        let accepting = accept_all(listener, self.inner.shutdown.clone(), move |socket, peer| {
            delivery.spawn_connection(socket, peer, tls.clone());
        });
        self.inner.tracker.spawn(accepting);
    }

    fn spawn_connection(&self, socket: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
        let Some(place) = self.inner.limits.enter(peer.ip()) else {
            self.inner.metrics.http_refused_connections.inc();
            return;
        };
        let delivery = self.clone();
        self.inner.tracker.spawn(async move {
            let _place = place;
            delivery.inner.metrics.http_connections.inc();
            // Below TLS, so that what waits in its buffers is judged too.
            let rate = delivery.inner.config.read_rate_min_bytes_per_second;
            let bodies = Arc::new(Bodies::default());
            let guarded = RateGuard::new(socket, rate, Arc::clone(&bodies), delivery.inner.metrics.clone());
            let served = catch_panic(async {
                let serving = match tls {
                    None => Some(delivery.serve_connection(guarded, bodies)),
                    Some(acceptor) => delivery.accept_tls(acceptor, guarded, bodies).await,
                };
                if let Some(serving) = serving {
                    serving.await;
                }
            });
            if served.await.is_err() {
                warn!("a connection's task panicked");
            }
            delivery.inner.metrics.http_connections.dec();
        });
    }

    /// Boxed, so that what a handshake needs is held for its time only.
    fn accept_tls(
        &self,
        acceptor: TlsAcceptor,
        socket: RateGuard<TcpStream>,
        bodies: Arc<Bodies>,
    ) -> Boxed<Option<Boxed<()>>> {
        let delivery = self.clone();
        Box::pin(async move {
            let accepted = tokio::time::timeout(TLS_TIMEOUT, acceptor.accept(socket)).await;
            accepted.ok()?.ok().map(|stream| delivery.serve_connection(stream, bodies))
        })
    }

    /// No `async fn`: such a future would hold the socket and the connection once for every place they are moved to.
    fn serve_connection(
        &self,
        socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        bodies: Arc<Bodies>,
    ) -> Boxed<()> {
        let (delivery, watched) = (self.clone(), Arc::clone(&bodies));
        let service = service_fn(move |request| {
            let (delivery, watched) = (delivery.clone(), Arc::clone(&watched));
            async move {
                let rate = delivery.inner.config.read_rate_min_bytes_per_second;
                let response = delivery.respond(request).await;
                Ok::<_, Infallible>(response.map(|body| body.watched(&watched, rate)))
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX))
            .keep_alive_interval(Duration::from_secs(20));
        let connection = builder.serve_connection(TokioIo::new(FirstBytes::new(socket)), service).into_owned();
        let mut connection = Box::pin(connection);
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let mut looks = tokio::time::interval(OVERDUE_INTERVAL);
            let mut stopping = false;
            loop {
                tokio::select! {
                    ended = connection.as_mut() => {
                        if let Err(error) = ended {
                            debug!(%error, "connection ended");
                        }
                        return;
                    }
                    () = inner.shutdown.cancelled(), if !stopping => {
                        stopping = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    _ = looks.tick() => if bodies.is_overdue(inner.config.read_rate_min_bytes_per_second) {
                        inner.metrics.http_slow_readers.inc();
                        return;
                    },
                }
            }
        })
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Slices> {
        let (class, response) = self.route(&request).await;
        let status = response.status().as_u16();
        let metrics = &self.inner.metrics;
        metrics.http_request(class, status);
        metrics.http_sent_bytes.inc_by(response.body().len());
        if request.method() == Method::HEAD { response.map(|_| Slices::default()) } else { response }
    }

    async fn route(&self, request: &Request<Incoming>) -> (HttpClass, Response<Slices>) {
        let headers = request.headers();
        if request.method() == Method::OPTIONS {
            return (HttpClass::other, preflight());
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let reply = Reply::error(StatusCode::METHOD_NOT_ALLOWED, Caching::Never, "use GET or HEAD");
            let mut response = reply.into_response(headers, false);
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
            return (HttpClass::other, response);
        }
        let mut segments = request.uri().path().trim_start_matches('/').split('/');
        let path = (segments.next(), segments.next(), segments.next(), segments.next(), segments.next());
        let (class, reply) = match path {
            (Some("live"), Some(stream), Some("index.m3u8"), None, None) => {
                (HttpClass::multivariant, self.multivariant(stream, request).await)
            }
            (Some("live"), Some(stream), Some(broadcast), Some(file), None) => {
                return self.of_broadcast(request, stream, broadcast, file).await;
            }
            (Some("watch"), Some(stream), None, None, None) if stream.parse::<StreamName>().is_ok() => {
                (HttpClass::page, pages::page(accepts_gzip(request)))
            }
            (Some(""), None, None, None, None) => (HttpClass::page, pages::page(accepts_gzip(request))),
            (Some("assets"), Some(file), None, None, None) => {
                let reply = pages::file(&format!("assets/{file}"), accepts_gzip(request));
                (HttpClass::page, reply.unwrap_or_else(not_found))
            }
            (Some(file @ ("throughline-player.js" | "favicon.svg")), None, None, None, None) => {
                (HttpClass::page, pages::file(file, accepts_gzip(request)).unwrap_or_else(not_found))
            }
            _ => (HttpClass::other, not_found()),
        };
        (class, reply.into_response(headers, false))
    }

    fn waiting(&self) -> Waiting<'_> {
        let inner = &self.inner;
        Waiting { shutdown: &inner.shutdown, places: &inner.blocked, metrics: &inner.metrics }
    }

    /// Held while the stream has begun and there is too little of it for a player to start.
    ///
    /// Where a stream is not open to everybody, this is where it is guarded: below are names that nobody guesses, the same
    /// for every viewer and for every cache.
    async fn multivariant(&self, stream: &str, request: &Request<Incoming>) -> Reply {
        let no_stream = |caching| Reply::error(StatusCode::NOT_FOUND, caching, "there is no such stream now");
        let Ok(name) = stream.parse::<StreamName>() else { return no_stream(Caching::Seconds(1)) };
        let caching = match (self.inner.authorize)(&name, play_key(request).as_ref()) {
            Ok(Playback::Open) => Caching::Seconds(1),
            Ok(Playback::Key) => Caching::Never,
            Err(refusal) => return refused(refusal),
        };
        let Some(channel) = self.channel(&name) else { return no_stream(caching) };
        match channel.multivariant(self.waiting()).await {
            Answer::Ready(rendered) => playlist_reply(rendered, accepts_gzip(request), caching),
            Answer::Stopping => unavailable(RESTARTING),
            Answer::Busy => unavailable(TOO_MANY_WAIT),
            _ => unavailable("the stream has begun, and too little of it is there to start"),
        }
    }

    async fn of_broadcast(
        &self,
        request: &Request<Incoming>,
        stream: &str,
        broadcast: &str,
        file: &str,
    ) -> (HttpClass, Response<Slices>) {
        let headers = request.headers();
        let channel = stream.parse().ok().and_then(|name: StreamName| self.channel_of_broadcast(&name, broadcast));
        let track = match file {
            "video.m3u8" => Some(TrackKind::Video),
            "audio.m3u8" => Some(TrackKind::Audio),
            _ => None,
        };
        let class = if track.is_some() { HttpClass::playlist } else { HttpClass::media };
        let channel = channel.filter(|channel| track.is_none() || !channel.is_withdrawn()); // LL-22
        let target = self.inner.config.packager.target_duration();
        let Some(channel) = channel else {
            let reply = if track.is_some() { no_playlist(request, target) } else { not_found() };
            return (class, reply.into_response(headers, false));
        };
        let reply = if let Some(track) = track {
            match parse_directives(request.uri().query().unwrap_or_default()) {
                Err(text) => Reply::error(StatusCode::BAD_REQUEST, Caching::Seconds(4 * target), text),
                Ok(directives) => {
                    // An answer to directives never changes; without them it is true for about a part.
                    let caching = Caching::Seconds(if directives.msn.is_some() { 6 * target } else { 1 });
                    match channel.playlist(track, directives, self.waiting()).await {
                        Answer::Ready(rendered) => playlist_reply(rendered, accepts_gzip(request), caching),
                        Answer::Early(rendered) => playlist_reply(rendered, accepts_gzip(request), Caching::Never),
                        Answer::Refused(text) => {
                            Reply::error(StatusCode::BAD_REQUEST, Caching::Seconds(4 * target), text)
                        }
                        Answer::NotFound => no_playlist(request, target),
                        Answer::TimedOut => unavailable("nothing new for three target durations"), // LL-15
                        Answer::Busy => unavailable(TOO_MANY_WAIT),
                        Answer::Stopping => unavailable(RESTARTING),
                    }
                }
            }
        } else {
            match channel.media(file, self.waiting()).await {
                Answer::Ready(slices) => {
                    let mut reply = Reply::ok("video/mp4", Caching::Immutable, Slices::new(slices));
                    reply.etag = Some(format!("\"{broadcast}-{file}\""));
                    reply
                }
                Answer::NotFound | Answer::Refused(_) | Answer::Early(_) => not_found(),
                Answer::TimedOut => unavailable("nothing new for three target durations"),
                Answer::Busy => unavailable(TOO_MANY_WAIT),
                Answer::Stopping => unavailable(RESTARTING),
            }
        };
        let allows_range = track.is_none() && request.method() == Method::GET;
        (class, reply.into_response(headers, allows_range))
    }
}

fn playlist_reply(rendered: Rendered, gzip: bool, caching: Caching) -> Reply {
    let Rendered { plain, gzip: compressed, etag } = rendered;
    let body = Slices::new([if gzip { compressed } else { plain }]);
    Reply { etag: Some(etag), is_gzip: gzip, varies: true, ..Reply::ok(PLAYLIST_TYPE, caching, body) }
}

/// spec: RFC 6750 §2.1, §3; in the query for players that send no headers
fn play_key(request: &Request<Incoming>) -> Option<StreamKey> {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let in_header = header.and_then(|value| value.strip_prefix("Bearer "));
    let in_query = || request.uri().query()?.split('&').find_map(|pair| pair.strip_prefix("key="));
    in_header.or_else(in_query).map(StreamKey::new)
}

fn refused(refusal: PlayRefusal) -> Reply {
    let reply = Reply::error(StatusCode::UNAUTHORIZED, Caching::Never, &refusal.to_string());
    let challenge = match refusal {
        PlayRefusal::KeyNeeded => "Bearer",
        PlayRefusal::WrongKey => "Bearer error=\"invalid_token\"",
    };
    Reply { challenge: Some(challenge), ..reply }
}

fn not_found() -> Reply {
    Reply::error(StatusCode::NOT_FOUND, Caching::Seconds(1), "not found")
}

/// Longer with directives, whose answer never changes. Without, a second: after a restart, players ask before the encoder is back, and what a
/// cache keeps from then they get for as long. CACHE-01, table B.3 (which allows a target duration)
fn no_playlist(request: &Request<Incoming>, target_seconds: i64) -> Reply {
    let blocks = request.uri().query().is_some_and(|query| query.contains("_HLS_msn="));
    Reply { caching: Caching::Seconds(if blocks { 4 * target_seconds } else { 1 }), ..not_found() }
}

fn unavailable(text: &str) -> Reply {
    let reply = Reply::error(StatusCode::SERVICE_UNAVAILABLE, Caching::Never, text);
    Reply { retry_after_seconds: Some(RETRY_AFTER_SECONDS), ..reply }
}

/// spec: Fetch §3.2: players on other origins ask before they send Range or CMCD headers
fn preflight() -> Response<Slices> {
    let mut response = Response::new(Slices::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "Authorization, Range, If-None-Match, CMCD-Object, CMCD-Request, CMCD-Session, CMCD-Status",
        ),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

fn accepts_gzip(request: &Request<Incoming>) -> bool {
    let accepted = request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.unwrap_or_default().split(',').any(|coding| {
        let mut fields = coding.split(';').map(str::trim);
        fields.next() == Some("gzip") && !fields.any(|field| matches!(field, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// Reads the directives; other parameters are left alone. spec: rfc8216bis §6.2.5
fn parse_directives(query: &str) -> Result<Directives, &'static str> {
    let mut directives = Directives::default();
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let number = value.parse::<u64>().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()));
        match name {
            "_HLS_msn" => directives.msn = Some(number.ok_or("_HLS_msn is no number")?),
            "_HLS_part" => directives.part = Some(number.ok_or("_HLS_part is no number")?),
            "_HLS_skip" => directives.skip = matches!(value, "YES" | "v2"),
            _ => {}
        }
    }
    Ok(directives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_and_garbage_is_refused() {
        let expected = Directives { msn: Some(7), part: Some(0), skip: true };
        assert_eq!(parse_directives("_HLS_msn=7&_HLS_part=0&_HLS_skip=v2&x=y"), Ok(expected));
        assert_eq!(parse_directives(""), Ok(Directives::default()));
        for bad in ["_HLS_msn=", "_HLS_msn=-1", "_HLS_msn=+1", "_HLS_part=1e3", "_HLS_msn=99999999999999999999"] {
            assert!(parse_directives(bad).is_err(), "{bad}");
        }
    }
}
