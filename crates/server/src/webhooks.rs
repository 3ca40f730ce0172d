//! Events, told to other programs: signed, in order, tried again. spec: Standard Webhooks §Signature scheme

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use control::EventView;
use hmac::{Hmac, Mac as _};
use http_body_util::{BodyExt as _, Full, Limited};
use hub::{Event, EventLog};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use media::StreamName;
use rustls::pki_types::ServerName;
use sha2::Sha256;
use telemetry::{Metrics, WebhookOutcome};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use viewer::{HttpVersion, Url, tls_connector};

/// Events that are taken at once.
const BATCH: usize = 64;
/// Longest that one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// Waits between attempts; after the last one the event is given up.
const WAITS: [u64; 6] = [1, 5, 30, 120, 600, 1800];
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Where events are told.
#[derive(Clone)]
pub struct Webhook {
    /// The address.
    pub url: Url,
    /// The key of signatures: 24 to 64 bytes.
    pub secret: Vec<u8>,
    /// Kinds of events; none means those of streams (`stream.*`).
    pub events: BTreeSet<String>,
    /// Of these streams only; none means of all.
    pub streams: BTreeSet<StreamName>,
    /// The address may be one of a private network.
    pub allows_private: bool,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("host", &self.url.host).finish_non_exhaustive()
    }
}

/// How an attempt went.
enum Attempt {
    Taken,
    /// The receiver wants nothing any more.
    Gone,
    Failed(String),
}

/// Tells events to one address until the server has stopped. What waits is bounded by the log: what falls out of it is counted.
pub(crate) fn tell(
    webhook: Webhook,
    log: Arc<EventLog>,
    metrics: Metrics,
    stopped: CancellationToken,
) -> impl Future<Output = ()> {
    let from = *log.watch().borrow(); // now, and not when the task first runs
    async move {
        tokio::select! {
            () = tell_all(&webhook, &log, from, &metrics) => {}
            () = stopped.cancelled() => {}
        }
    }
}

async fn tell_all(webhook: &Webhook, log: &EventLog, mut next: u64, metrics: &Metrics) {
    let mut changed = log.watch();
    loop {
        changed.borrow_and_update();
        let events = log.since(next, BATCH);
        let Some(first) = events.first() else {
            if changed.changed().await.is_err() {
                return;
            }
            continue;
        };
        let missed = first.number.saturating_sub(next);
        if missed > 0 {
            metrics.webhook(WebhookOutcome::missed, missed);
            warn!(host = %webhook.url.host, missed, "events were not told: the receiver is too slow or fails");
        }
        for event in &events {
            next = event.number + 1;
            if webhook.wants(event) && !webhook.deliver(event, metrics).await {
                return;
            }
        }
    }
}

impl Webhook {
    fn wants(&self, event: &Event) -> bool {
        let kind = event.kind.as_str();
        let wants_kind = if self.events.is_empty() { kind.starts_with("stream.") } else { self.events.contains(kind) };
        wants_kind && (self.streams.is_empty() || self.streams.contains(&event.stream))
    }

    /// Until it was taken or is given up; false where the receiver wants nothing any more.
    async fn deliver(&self, event: &Event, metrics: &Metrics) -> bool {
        let id = format!("evt_{}", event.number);
        let body = payload(event);
        for wait in WAITS.iter().map(Some).chain([None]) {
            let attempt = tokio::time::timeout(ATTEMPT_TIMEOUT, self.attempt(&id, body.clone())).await;
            let error = match attempt {
                Ok(Attempt::Taken) => {
                    metrics.webhook(WebhookOutcome::delivered, 1);
                    return true;
                }
                Ok(Attempt::Gone) => {
                    warn!(host = %self.url.host, "the receiver of events answers 410: it is told nothing until the next start");
                    metrics.webhook(WebhookOutcome::given_up, 1);
                    return false;
                }
                Ok(Attempt::Failed(error)) => error,
                Err(_) => format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs()),
            };
            metrics.webhook(WebhookOutcome::failed, 1);
            let Some(wait) = wait else { break };
            info!(host = %self.url.host, id, error, seconds = wait, "an event was not taken: again later");
            tokio::time::sleep(jittered(Duration::from_secs(*wait))).await;
        }
        warn!(host = %self.url.host, id, "an event is given up");
        metrics.webhook(WebhookOutcome::given_up, 1);
        true
    }

    async fn attempt(&self, id: &str, body: Bytes) -> Attempt {
        match self.post(id, body).await {
            Ok(status) if status.is_success() => Attempt::Taken,
            Ok(StatusCode::GONE) => Attempt::Gone,
            Ok(status) => Attempt::Failed(format!("answered {status}")),
            Err(error) => Attempt::Failed(error),
        }
    }

    async fn post(&self, id: &str, body: Bytes) -> Result<StatusCode, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let (host, port) = (&*self.url.host, self.url.port);
        let plain = host.trim_matches(['[', ']']);
        let found = tokio::net::lookup_host((plain, port)).await.map_err(|error| text(&error))?;
        // The address that is looked at is the one that is called.
        let (good, bad): (Vec<_>, Vec<_>) = found.partition(|address| self.allows_private || is_public(address.ip()));
        let address = good.first().ok_or_else(|| match bad.first() {
            Some(private) => format!("{private} is no public address: set allow_private where that is meant"),
            None => format!("{host} has no address"),
        })?;
        let socket = TcpStream::connect(address).await.map_err(|error| text(&error))?;
        if !self.url.is_https {
            return self.exchange(socket, id, body).await;
        }
        let name = ServerName::try_from(plain.to_owned()).map_err(|error| text(&error))?;
        let tls = tls_connector(HttpVersion::Http1, false)?;
        let socket = tls.connect(name, socket).await.map_err(|error| text(&error))?;
        self.exchange(socket, id, body).await
    }

    async fn exchange(
        &self,
        socket: impl AsyncRead + AsyncWrite + Unpin + Send,
        id: &str,
        body: Bytes,
    ) -> Result<StatusCode, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let signature = self.sign(id, now, &body)?;
        let request = Request::post(&*self.url.path)
            .header("host", format!("{}:{}", self.url.host, self.url.port))
            .header("content-type", "application/json")
            .header("user-agent", concat!("Throughline/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", id)
            .header("webhook-timestamp", now.to_string())
            .header("webhook-signature", signature)
            .body(Full::new(body))
            .map_err(|error| text(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(|error| text(&error))?;
        let mut exchange = Box::pin(async {
            let answer = sender.send_request(request).await.map_err(|error| text(&error))?;
            let status = answer.status();
            let _ = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await; // a polite end
            Ok(status)
        });
        tokio::select! {
            status = &mut exchange => status,
            _ = connection => exchange.await, // the answer, or why there is none
        }
    }

    fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> Result<String, String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).map_err(|error| error.to_string())?;
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        Ok(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
    }
}

fn payload(event: &Event) -> Bytes {
    let data = EventView::from(event);
    let timestamp = hls::format_utc(event.utc_nanos);
    serde_json::json!({ "type": event.kind.as_str(), "timestamp": timestamp, "data": data }).to_string().into()
}

/// Up to a fifth more or less, so that many that failed together do not come together.
fn jittered(wait: Duration) -> Duration {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    wait.mul_f64(0.8 + 0.4 * f64::from(nanos % 1_000_000) / 1_000_000.0)
}

/// Whether anybody on the internet could have it: not this machine, not a private network, not a link.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let is_shared = first == 100 && (64..128).contains(&second); // RFC 6598
            let is_benchmark = first == 198 && matches!(second, 18 | 19);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation()
                || first == 0
                || first >= 240
                || is_shared
                || is_benchmark)
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public(v4.into()),
            // Only what is given out for the internet, less what leads to other addresses: 6to4, Teredo, documentation.
            None => {
                let [first, second, ..] = v6.segments();
                first & 0xe000 == 0x2000 && first != 0x2002 && !(first == 0x2001 && (second == 0 || second == 0x0db8))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use hub::{Arrival, Hub, HubConfig, Publisher};
    use telemetry::registry::Registry;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A server whose legs' comings are told to `port` of this machine, and its metrics.
    struct Bench {
        hub: Hub,
        registry: Registry,
        told: tokio::task::JoinHandle<()>,
    }

    impl Bench {
        fn new(port: u16) -> Self {
            let mut registry = Registry::default();
            let (hub, metrics) = (Hub::new(HubConfig::default()), Metrics::register(&mut registry));
            let webhook = Webhook {
                url: format!("http://127.0.0.1:{port}/").parse().expect("an address"),
                secret: vec![1; 32],
                events: BTreeSet::from(["leg.joined".to_owned()]),
                streams: BTreeSet::new(),
                allows_private: true,
            };
            let told = tokio::spawn(tell(webhook, Arc::clone(hub.events()), metrics, CancellationToken::new()));
            Self { hub, registry, told }
        }

        /// So many legs come and go.
        fn come(&self, count: usize) {
            for _ in 0..count {
                let at = Arrival { now: Instant::now(), utc_nanos: 0 };
                let leg = self.hub.publish(at, &"show".parse().expect("a name"), Publisher::default()).expect("let in");
                leg.close(at);
            }
        }

        fn count(&self, outcome: &str) -> u64 {
            let mut text = String::new();
            telemetry::encoding::text::encode(&mut text, &self.registry).expect("to memory");
            let line = format!("webhooks_total{{outcome=\"{outcome}\"}} ");
            text.lines().find_map(|known| known.strip_prefix(&line)).map_or(0, |count| count.parse().expect("a number"))
        }
    }

    /// Takes one event, and answers when `answer` comes.
    async fn take(listener: &TcpListener, answer: impl Future<Output = &'static str>) {
        let (mut socket, _) = listener.accept().await.expect("somebody comes");
        let _ = socket.read(&mut [0; 4096]).await.expect("it asks");
        let answer = format!("HTTP/1.1 {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", answer.await);
        socket.write_all(answer.as_bytes()).await.expect("it listens");
    }

    #[tokio::test]
    async fn what_a_slow_receiver_misses_is_counted_and_410_is_the_last_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut bench = Bench::new(listener.local_addr().expect("bound").port());
        bench.come(1);
        take(&listener, async {
            bench.come(3000); // half as many events again as the log keeps
            "204 No Content"
        })
        .await;
        take(&listener, async { "410 Gone" }).await;
        let Bench { told, .. } = &mut bench;
        told.await.expect("it ends");
        let [delivered, given_up, failed] = ["delivered", "given_up", "failed"].map(|outcome| bench.count(outcome));
        assert_eq!((delivered, given_up, failed), (1, 1, 0));
        assert!(bench.count("missed") > 1000, "{}", bench.count("missed"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_nobody_takes_is_given_up_after_the_last_wait() {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound").port();
        let bench = Bench::new(closed);
        let began = tokio::time::Instant::now();
        bench.come(1);
        while bench.count("given_up") == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(bench.count("failed"), 1 + WAITS.len() as u64);
        let waited: u64 = WAITS.iter().sum();
        let range = Duration::from_secs(waited * 8 / 10)..Duration::from_secs(waited * 12 / 10 + 15 * 8);
        assert!(range.contains(&began.elapsed()), "{:?}", began.elapsed());
        assert!(!bench.told.is_finished(), "the next one may be taken");
    }

    #[test]
    fn signatures_are_those_of_the_standards_example() {
        let secret = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let url = "https://example.com/hook".parse().expect("an address");
        let (events, streams) = (BTreeSet::new(), BTreeSet::new());
        let webhook = Webhook { url, secret, events, streams, allows_private: false };
        let body = br#"{"test": 2432232314}"#;
        let signature = webhook.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body).expect("signs");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn only_public_addresses_are_public() {
        for private in ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"]
        {
            assert!(!is_public(private.parse().expect("an address")), "{private}");
        }
        for private in ["::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1", "2002:a00:1::1", "64:ff9b::a00:1"] {
            assert!(!is_public(private.parse().expect("an address")), "{private}");
        }
        for public in ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
    }
}
