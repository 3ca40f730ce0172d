//! HTTP/1.1 and HTTP/2 as players use them: few connections, kept open; each step is timed.

mod tls;

use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use flate2::read::GzDecoder;
use hls::read::{ByteRange, Outside, PLAYLIST_BYTES_MAX, Playlist};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::uri::{self, Authority, Scheme};
use hyper::{Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::follower::{Answer, Fetch, Timing, What};
use crate::url::Url;

/// Connections to one server over HTTP/1.1, as browsers have them.
const HTTP1_CONNECTIONS_MAX: usize = 6;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Window of an HTTP/2 stream, and of a connection: browsers give that much.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 12 << 20;
/// Largest body that is kept.
const BODY_BYTES_MAX: usize = 256 << 20;
/// What the client calls itself.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("throughline-viewer/", env!("CARGO_PKG_VERSION")));
/// Playlists that are remembered as read, so that viewers who get the same bytes read them once.
const KNOWN_PLAYLISTS_MAX: usize = 4096;

/// A TLS client with the system's certificates, or with none checked.
///
/// # Errors
/// The system's cryptography cannot be used.
pub fn tls_connector(version: HttpVersion, is_insecure: bool) -> Result<TlsConnector, String> {
    tls::connector(version, is_insecure)
}

/// Which HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/2 where TLS agrees on it, else HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1
    Http1,
    /// HTTP/2, over TLS or with prior knowledge.
    Http2,
}

/// How requests are made.
#[derive(Clone, Copy, Debug)]
pub struct ClientSettings {
    /// Which HTTP.
    pub version: HttpVersion,
    /// Takes any certificate: for local trials.
    pub is_insecure: bool,
    /// Most time for a request; a held one takes up to three target durations.
    pub timeout: Duration,
    /// Asks for compressed playlists.
    pub is_compressed: bool,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self { version: HttpVersion::Auto, is_insecure: false, timeout: Duration::from_secs(30), is_compressed: true }
    }
}

/// What all clients of a process share: settings, TLS, and playlists that were read already.
pub struct Shared {
    settings: ClientSettings,
    /// What is shown, and the server that it is for: no other gets it.
    authorization: Option<(Url, HeaderValue)>,
    tls: TlsConnector,
    known: Mutex<HashMap<u64, Arc<Playlist>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Shared {
    /// `key`: a stream's play key, shown as a bearer token to the server of this address and to no other.
    ///
    /// # Errors
    /// The system's certificates cannot be read, or the key holds what no header field can.
    pub fn new(settings: ClientSettings, key: Option<(&Url, &str)>) -> Result<Arc<Self>, String> {
        let tls = tls::connector(settings.version, settings.is_insecure)?;
        let shown = |key| HeaderValue::try_from(format!("Bearer {key}")).map_err(|error| error.to_string());
        let authorization = key.map(|(url, key)| Ok::<_, String>((url.clone(), shown(key)?))).transpose()?;
        Ok(Arc::new(Self { settings, authorization, tls, known: Mutex::default() }))
    }

    /// Reads a playlist, or finds that it was read before.
    fn playlist(&self, received: &Received, multivariant: Option<&Playlist>) -> Result<Arc<Playlist>, String> {
        let mut hasher = DefaultHasher::new();
        received.body.hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(known) = self.known.lock().get(&hash) {
            return Ok(Arc::clone(known));
        }
        let text = plain(&received.body, received.is_gzip())?;
        let outside = outside(&received.url, multivariant);
        let playlist = Arc::new(Playlist::parse_with(&text, outside).map_err(|error| error.to_string())?);
        if text.windows(13).any(|text| text == b"#EXT-X-DEFINE") {
            return Ok(playlist); // it depends on more than its text
        }
        let mut known = self.known.lock();
        if known.len() >= KNOWN_PLAYLISTS_MAX {
            known.clear();
        }
        known.insert(hash, Arc::clone(&playlist));
        Ok(playlist)
    }
}

/// What the variables of a playlist may be taken from.
pub(crate) fn outside<'a>(url: &'a Url, multivariant: Option<&'a Playlist>) -> Outside<'a> {
    let imports = match multivariant {
        Some(Playlist::Multivariant(list)) => Some(&list.variables),
        _ => None,
    };
    Outside { query: url.path.split_once('?').map_or("", |(_, query)| query), imports }
}

/// A body without its compression.
pub(crate) fn plain(body: &Bytes, is_gzip: bool) -> Result<Bytes, String> {
    if !is_gzip {
        return Ok(body.clone());
    }
    let mut text = Vec::new();
    let limit = PLAYLIST_BYTES_MAX as u64 + 1;
    GzDecoder::new(&body[..]).take(limit).read_to_end(&mut text).map_err(|error| format!("gzip: {error}"))?;
    Ok(text.into())
}

type Sender2 = http2::SendRequest<Empty<Bytes>>;

/// An HTTP/1.1 connection. Whoever uses it drives it: a task for each would cost as much as the request.
struct Connection1 {
    sender: http1::SendRequest<Empty<Bytes>>,
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    has_ended: bool,
}

impl Connection1 {
    /// Whether the server has left it open while nobody used it.
    async fn is_open(&mut self) -> bool {
        poll_fn(|context| {
            self.has_ended = self.has_ended || self.driver.as_mut().poll(context).is_ready();
            if self.has_ended {
                return Poll::Ready(false);
            }
            self.sender.poll_ready(context).map(|ready| ready.is_ok())
        })
        .await
    }

    /// Carries out an exchange on the connection; `None` where the connection ended before it was done.
    async fn exchange<T>(&mut self, work: impl AsyncFnOnce(&mut http1::SendRequest<Empty<Bytes>>) -> T) -> Option<T> {
        let mut work = pin!(work(&mut self.sender));
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            if self.has_ended {
                return Poll::Ready(None);
            }
            self.has_ended = self.driver.as_mut().poll(context).is_ready();
            // It may have brought what the exchange waits for.
            match work.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if self.has_ended => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

/// Connections to one server.
struct Pool {
    host: Box<str>,
    port: u16,
    is_https: bool,
    /// Host and port as a request names them, and the scheme.
    authority: Authority,
    host_header: HeaderValue,
    multiplexed: tokio::sync::Mutex<Option<Sender2>>,
    idle: Mutex<Vec<Connection1>>,
    places: Semaphore,
}

/// One viewer's connections.
pub struct Client {
    shared: Arc<Shared>,
    pools: Mutex<Vec<Arc<Pool>>>,
    /// Drives the connections; they end with the client.
    connections: Mutex<JoinSet<()>>,
}

/// A connection to send one request over.
enum Lease<'a> {
    One(Connection1, tokio::sync::SemaphorePermit<'a>),
    Two(Sender2),
}

/// An answer with everything in it.
#[derive(Debug)]
pub struct Received {
    /// Where it came from, after redirects.
    pub url: Url,
    /// Redirects that were followed.
    pub redirects: usize,
    /// Status code.
    pub status: u16,
    /// HTTP/2.
    pub is_http_2: bool,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body as sent; empty where it was counted only.
    pub body: Bytes,
    /// Bytes of the body.
    pub bytes: u64,
    /// Steps.
    pub timing: Timing,
}

impl Received {
    /// The value of a header field, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn is_gzip(&self) -> bool {
        self.header("content-encoding") == "gzip"
    }
}

impl Client {
    /// Without a connection yet.
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), pools: Mutex::default(), connections: Mutex::default() }
    }

    /// What a follower asks for.
    ///
    /// # Errors
    /// In words: the server cannot be reached, does not speak HTTP, or does not answer in time.
    pub async fn fetch(&self, fetch: &Fetch) -> Result<Answer, String> {
        Ok(self.fetch_with_body(fetch, fetch.what == What::Playlist).await?.0)
    }

    /// Likewise, and the body, where it is to be kept.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn fetch_with_body(&self, fetch: &Fetch, keep: bool) -> Result<(Answer, Bytes), String> {
        let received = self.get(&fetch.url, fetch.range, keep).await?;
        let is_playlist = fetch.what == What::Playlist && received.status == 200;
        let playlist = is_playlist.then(|| self.shared.playlist(&received, fetch.multivariant.as_deref()));
        let answer = Answer {
            url: received.url.clone(),
            status: received.status,
            timing: received.timing,
            bytes: received.bytes,
            playlist,
            cache_hit: cache_hit(&received),
            age_seconds: received.header("age").parse().ok(),
        };
        Ok((answer, received.body))
    }

    /// One GET; the body is kept, or counted.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn get(&self, url: &Url, range: Option<ByteRange>, keep: bool) -> Result<Received, String> {
        let limit = self.shared.settings.timeout;
        let answered = tokio::time::timeout(limit, self.follow(url, range, keep)).await;
        answered
            .unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
            .map_err(|error| format!("{url}: {error}"))
    }

    async fn follow(&self, url: &Url, range: Option<ByteRange>, keep: bool) -> Result<Received, String> {
        let mut url = url.clone();
        for redirects in 0..=REDIRECTS_MAX {
            let mut received = self.exchange(&url, range, keep).await?;
            let location = received.header("location");
            if !matches!(received.status, 301 | 302 | 303 | 307 | 308) || location.is_empty() {
                received.redirects = redirects;
                return Ok(received);
            }
            url = url.resolve(location).map_err(|error| error.to_string())?;
        }
        Err("too many redirects".into())
    }

    async fn exchange(&self, url: &Url, range: Option<ByteRange>, keep: bool) -> Result<Received, String> {
        let mut timing = Timing::default();
        let pool = self.pool(url)?;
        let mut lease = self.lease(&pool, &mut timing).await?;
        let asked = Instant::now();
        let is_http_2 = matches!(lease, Lease::Two(_));
        let request = self.request(&pool, url, range, is_http_2)?;
        let (head, (body, bytes), first_byte) = match &mut lease {
            Lease::One(connection, _) => {
                let work = async |sender: &mut http1::SendRequest<_>| {
                    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
                    let first_byte = asked.elapsed();
                    Ok::<_, String>((head, read_body(body, keep).await?, first_byte))
                };
                connection.exchange(work).await.unwrap_or_else(|| Err("the connection was closed".into()))?
            }
            Lease::Two(sender) => {
                let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
                let first_byte = asked.elapsed();
                (head, read_body(body, keep).await?, first_byte)
            }
        };
        (timing.first_byte, timing.total) = (first_byte, asked.elapsed());
        if let Lease::One(connection, _permit) = lease {
            pool.idle.lock().push(connection);
        }
        let (url, status, headers) = (url.clone(), head.status.as_u16(), head.headers);
        Ok(Received { url, redirects: 0, status, is_http_2, headers, body, bytes, timing })
    }

    fn request(
        &self,
        pool: &Pool,
        url: &Url,
        range: Option<ByteRange>,
        is_http_2: bool,
    ) -> Result<Request<Empty<Bytes>>, String> {
        let mut target = uri::Parts::default();
        target.path_and_query = Some((*url.path).try_into().map_err(|error: uri::InvalidUri| error.to_string())?);
        if is_http_2 {
            target.scheme = Some(if url.is_https { Scheme::HTTPS } else { Scheme::HTTP });
            target.authority = Some(pool.authority.clone());
        }
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from_parts(target).map_err(|error| error.to_string())?;
        let headers = request.headers_mut();
        if !is_http_2 {
            headers.insert(header::HOST, pool.host_header.clone());
        }
        headers.insert(header::USER_AGENT, AGENT);
        if self.shared.settings.is_compressed {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let is_meant =
            |server: &Url| (server.is_https, &server.host, server.port) == (url.is_https, &url.host, url.port);
        if let Some((_, authorization)) = self.shared.authorization.as_ref().filter(|(server, _)| is_meant(server)) {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        if let Some(range) = range {
            let end =
                range.length.map_or(String::new(), |length| range.start.saturating_add(length.max(1) - 1).to_string());
            let value = HeaderValue::try_from(format!("bytes={}-{end}", range.start));
            headers.insert(header::RANGE, value.expect("digits are a valid value"));
        }
        Ok(request)
    }

    fn pool(&self, url: &Url) -> Result<Arc<Pool>, String> {
        let mut pools = self.pools.lock();
        let same = |pool: &&Arc<Pool>| (&pool.host, pool.port, pool.is_https) == (&url.host, url.port, url.is_https);
        if let Some(known) = pools.iter().find(same) {
            return Ok(Arc::clone(known));
        }
        let authority = url.authority();
        let pool = Arc::new(Pool {
            host: url.host.clone(),
            port: url.port,
            is_https: url.is_https,
            host_header: HeaderValue::from_str(&authority).map_err(|error| error.to_string())?,
            authority: authority.parse().map_err(|error: uri::InvalidUri| error.to_string())?,
            multiplexed: tokio::sync::Mutex::default(),
            idle: Mutex::default(),
            places: Semaphore::new(HTTP1_CONNECTIONS_MAX),
        });
        pools.push(Arc::clone(&pool));
        Ok(pool)
    }

    /// A connection that is free, or shared, or new.
    async fn lease<'a>(&self, pool: &'a Pool, timing: &mut Timing) -> Result<Lease<'a>, String> {
        let is_multiplexed = match self.shared.settings.version {
            HttpVersion::Http2 => true,
            HttpVersion::Http1 => false,
            HttpVersion::Auto => pool.is_https,
        };
        if is_multiplexed {
            // Whoever comes while a connection is being made waits for it.
            let mut known = pool.multiplexed.lock().await;
            if let Some(sender) = known.as_ref().filter(|sender| !sender.is_closed()) {
                return Ok(Lease::Two(sender.clone()));
            }
            *known = None;
            if pool.idle.lock().is_empty() {
                match Box::pin(self.connect(pool, timing)).await? {
                    Connection::Two(sender) => {
                        *known = Some(sender.clone());
                        return Ok(Lease::Two(sender));
                    }
                    Connection::One(connection) => pool.idle.lock().push(connection),
                }
            }
        }
        let permit = pool.places.acquire().await.map_err(|error| error.to_string())?;
        loop {
            let Some(mut connection) = pool.idle.lock().pop() else { break };
            if connection.is_open().await {
                return Ok(Lease::One(connection, permit));
            }
        }
        // In a box: it is rare, and would make every request's future larger.
        match Box::pin(self.connect(pool, timing)).await? {
            Connection::One(connection) => Ok(Lease::One(connection, permit)),
            Connection::Two(sender) => Ok(Lease::Two(sender)),
        }
    }

    async fn connect(&self, pool: &Pool, timing: &mut Timing) -> Result<Connection, String> {
        let began = Instant::now();
        let addresses = tokio::net::lookup_host((&*pool.host, pool.port)).await;
        let addresses: Vec<SocketAddr> =
            addresses.map_err(|error| format!("the name '{}' is not known: {error}", pool.host))?.collect();
        timing.dns = began.elapsed();
        let began = Instant::now();
        let socket = TcpStream::connect(&addresses[..]).await.map_err(|error| format!("cannot connect: {error}"))?;
        let _ = socket.set_nodelay(true);
        timing.tcp = began.elapsed();
        if !pool.is_https {
            return self.handshake(socket, self.shared.settings.version == HttpVersion::Http2).await;
        }
        let began = Instant::now();
        let name = ServerName::try_from(pool.host.to_string()).map_err(|error| error.to_string())?;
        let stream = self
            .shared
            .tls
            .connect(name, socket)
            .await
            .map_err(|error| format!("TLS: {error}; a certificate for local trials needs --insecure"))?;
        timing.tls = began.elapsed();
        let is_http_2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.handshake(stream, is_http_2).await
    }

    async fn handshake(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        is_http_2: bool,
    ) -> Result<Connection, String> {
        let io = TokioIo::new(stream);
        if !is_http_2 {
            let (sender, driver) = http1::handshake(io).await.map_err(|error| error.to_string())?;
            let driver = Box::pin(async move { drop(driver.await) });
            return Ok(Connection::One(Connection1 { sender, driver, has_ended: false }));
        }
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let (sender, driver) = builder.handshake(io).await.map_err(|error| error.to_string())?;
        let mut known = self.connections.lock();
        while known.try_join_next().is_some() {}
        known.spawn(async move { drop(driver.await) });
        Ok(Connection::Two(sender))
    }
}

enum Connection {
    One(Connection1),
    Two(Sender2),
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn broken(error: hyper::Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

async fn read_body(mut body: Incoming, keep: bool) -> Result<(Bytes, u64), String> {
    let (mut kept, mut bytes) = (BytesMut::new(), 0u64);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the body broke off after {bytes} bytes: {error}"))?;
        if let Ok(data) = frame.into_data() {
            bytes += data.len() as u64;
            if keep {
                if kept.len() + data.len() > BODY_BYTES_MAX {
                    return Err(format!("the body has more than {BODY_BYTES_MAX} bytes"));
                }
                kept.extend_from_slice(&data);
            }
        }
    }
    Ok((kept.freeze(), bytes))
}

/// What caches say of themselves: Varnish, Squid, nginx, Apache Traffic Server, and the larger CDNs.
fn cache_hit(received: &Received) -> Option<bool> {
    let varnish = received.header("x-varnish");
    if !varnish.is_empty() {
        return Some(varnish.contains(' '));
    }
    ["x-cache", "cf-cache-status", "x-cache-status", "cache-status", "cdn-cache"].iter().find_map(|name| {
        let value = received.header(name).to_ascii_lowercase();
        let is_hit = value.contains("hit");
        (is_hit || value.contains("miss") || value.contains("expired") || value.contains("fwd=")).then_some(is_hit)
    })
}
