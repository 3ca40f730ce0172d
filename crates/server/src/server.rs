//! Start and stop.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use control::{Api, DeliveryFigures, DrainRequest, EraRow, KeyPurpose, Store};
use delivery::{Delivery, EraRecord, EraStore, Saving, Surroundings};
use gateway::{
    Doors, Draining, Gateway, Grant, HlsPull, RtmpPull, SamplingSettings, SlateSettings, SrtCall, UdpStream,
};
use hub::{Arrival, Hub};
use media::{PlayRefusal, Playback, StreamKey, StreamName};
use serde::{Deserialize, Serialize};
use telemetry::Metrics;
use telemetry::encoding::text::encode;
use telemetry::registry::Registry;
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::{Config, Listen};
use crate::event_follower::EventFollower;
use crate::local::SOCKET;
use crate::passed_sockets::PassedSockets;
use crate::stream_metrics::StreamMetrics;
use crate::tls::Certificate;
use crate::webhooks::{self, Webhook};

/// How often the hub looks at its clocks.
const HUB_TICK: Duration = Duration::from_millis(50);

/// A file that has the time of the last sign of life, and how often there is one.
const ALIVE: &str = "alive";
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// Time that publishers have to go, where an operator says nothing.
const DRAIN_SECONDS: u64 = 60;
/// Time that players have to fetch a playlist that has ended: two target durations and a little.
const LAST_PLAYLIST: Duration = Duration::from_secs(6);
/// Time within the grace time for the operations side, which ends last.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The addresses in use, as they are written to `addresses.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// HTTPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<SocketAddr>,
    /// RTMP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtmp: Option<SocketAddr>,
    /// RTMPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtmps: Option<SocketAddr>,
    /// SRT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srt: Option<SocketAddr>,
    /// Operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<SocketAddr>,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    addresses: Addresses,
    state: PathBuf,
    first_token: Option<String>,
    ready: Arc<AtomicBool>,
    /// Cancelled first: nothing new is taken.
    draining: CancellationToken,
    gateway: Gateway,
    hub: Arc<Hub>,
    drain: watch::Receiver<Option<DrainRequest>>,
    delivery: Delivery,
    /// Ends the operations side, last.
    stopped: CancellationToken,
    tracker: TaskTracker,
    grace: Duration,
    /// Keeps a second server off the state directory.
    _lock: StateLock,
}

struct Eras(Arc<Store>);

impl EraStore for Eras {
    fn load(&self, stream: &StreamName) -> Option<EraRecord> {
        let row = self.0.era(stream)?;
        Some(EraRecord {
            broadcast: row.broadcast,
            highest_number: row.highest_number,
            discontinuities: row.discontinuities,
            is_ended: row.is_ended,
        })
    }

    fn save(&self, stream: &StreamName, record: EraRecord) -> Saving {
        let row = EraRow {
            broadcast: record.broadcast,
            highest_number: record.highest_number,
            discontinuities: record.discontinuities,
            is_ended: record.is_ended,
        };
        let saving = self.0.save_era(stream, row);
        Box::pin(async move { saving.await.map_err(|error| error.to_string()) })
    }
}

fn may_publish(store: &Store, key: &StreamKey, stream: Option<&StreamName>) -> Result<Grant, String> {
    let Some(record) = store.find_key(key) else {
        return Err("this stream key is not valid; make one with 'throughline key create STREAM'".into());
    };
    match stream {
        Some(wanted) if *wanted != record.stream => Err("this stream key is for another stream".into()),
        _ if record.purpose == KeyPurpose::Play => Err("this key is for watching, not for publishing".into()),
        _ => Ok(Grant { stream: record.stream, key_id: record.id, rank: record.rank }),
    }
}

fn may_play(store: &Store, stream: &StreamName, key: Option<&StreamKey>) -> Result<Playback, PlayRefusal> {
    let playback = store.playback(stream);
    match (playback, key) {
        (Playback::Open, _) => Ok(playback),
        (Playback::Key, None) => Err(PlayRefusal::KeyNeeded),
        (Playback::Key, Some(key)) => {
            let record = store.find_key(key).ok_or(PlayRefusal::WrongKey)?;
            let fits = record.purpose == KeyPurpose::Play && record.stream == *stream;
            if fits { Ok(playback) } else { Err(PlayRefusal::WrongKey) }
        }
    }
}

fn doors(store: &Arc<Store>) -> Doors {
    let (to_publish, to_play) = (Arc::clone(store), Arc::clone(store));
    Doors {
        publish: Arc::new(move |key, stream| may_publish(&to_publish, key, stream)),
        play: Arc::new(move |stream, key| may_play(&to_play, stream, key)),
    }
}

/// The state directory, taken for this process; it ends with the process, however that ends.
#[derive(Debug)]
pub struct StateLock {
    _file: std::fs::File,
}

impl StateLock {
    /// Takes the directory, and makes it if it is not there.
    ///
    /// # Errors
    /// Another process has it, or it cannot be made.
    pub fn take(state: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let shown = || state.display().to_string();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state).with_context(shown)?;
        let file = std::fs::File::create(state.join("lock")).with_context(shown)?;
        file.try_lock().with_context(|| format!("another server uses the state directory {}", state.display()))?;
        Ok(Self { _file: file })
    }
}

/// Raises the number of files this process may open to what the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit of open files cannot be raised");
    }
}

async fn bind(passed: &mut PassedSockets, name: &str, listen: Listen) -> anyhow::Result<Option<TcpListener>> {
    if let Some(listener) = passed.tcp(name, listen) {
        return TcpListener::from_std(listener).map(Some).with_context(|| format!("the socket passed for {name}"));
    }
    let Listen::At(address) = listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    listener.map(Some).with_context(|| format!("cannot listen on {address} for {name}"))
}

async fn bind_datagrams(passed: &mut PassedSockets, name: &str, listen: Listen) -> anyhow::Result<Option<UdpSocket>> {
    if let Some(socket) = passed.udp(name, listen) {
        return UdpSocket::from_std(socket).map(Some).with_context(|| format!("the socket passed for {name}"));
    }
    let Listen::At(address) = listen else { return Ok(None) };
    let socket = UdpSocket::bind(address).await;
    socket.map(Some).with_context(|| format!("cannot listen on {address} (UDP) for {name}"))
}

/// Where the server listens.
struct Sockets {
    http: Option<TcpListener>,
    https: Option<TcpListener>,
    rtmp: Option<TcpListener>,
    rtmps: Option<TcpListener>,
    srt: Option<UdpSocket>,
    ops: Option<TcpListener>,
}

impl Sockets {
    async fn bind(config: &Config, mut passed: PassedSockets) -> anyhow::Result<Self> {
        let from = &mut passed;
        let sockets = Self {
            http: bind(from, "http", config.http).await?,
            https: bind(from, "https", config.https).await?,
            rtmp: bind(from, "rtmp", config.rtmp).await?,
            rtmps: bind(from, "rtmps", config.rtmps).await?,
            srt: bind_datagrams(from, "srt", config.srt).await?,
            ops: bind(from, "ops", config.ops).await?,
        };
        passed.finish()?;
        Ok(sockets)
    }

    fn addresses(&self) -> Addresses {
        let local = |listener: &Option<TcpListener>| listener.as_ref().and_then(|socket| socket.local_addr().ok());
        Addresses {
            http: local(&self.http),
            https: local(&self.https),
            rtmp: local(&self.rtmp),
            rtmps: local(&self.rtmps),
            srt: self.srt.as_ref().and_then(|socket| socket.local_addr().ok()),
            ops: local(&self.ops),
        }
    }
}

impl Server {
    /// Binds every address, then starts everything. Nothing is started if an address is taken.
    ///
    /// # Errors
    /// An address is taken, the state directory or the certificate cannot be used.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_on(config, PassedSockets::default()).await
    }

    /// The same, on sockets that were passed where there are any.
    ///
    /// # Errors
    /// As [`Server::start`]; and a socket was passed that nothing listens on.
    pub async fn start_on(config: Config, passed: PassedSockets) -> anyhow::Result<Self> {
        raise_file_limit();
        let lock = StateLock::take(&config.state)?;
        let store = Arc::new(Store::open(&config.state)?);
        let sockets = Sockets::bind(&config, passed).await?;
        let addresses = sockets.addresses();
        let Sockets { http, https, rtmp, rtmps, srt, ops } = sockets;
        let certificate = match (&https, &rtmps) {
            (None, None) => None,
            _ => Some(Certificate::load(config.certificate.as_ref(), &config.state)?),
        };
        let (draining, stopped, tracker) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let mut registry = Registry::with_prefix("throughline");
        let metrics = Metrics::register(&mut registry);
        let hub = Arc::new(Hub::new(config.hub).with_events_from(store.next_event().await?));
        let doors = doors(&store);
        let authorize = Arc::clone(&doors.play);
        let gateway = Gateway::new(Arc::clone(&hub), doors, config.rtmp_connections, metrics.clone(), draining.clone())
            .with_programs(config.programs);
        let (eras, streams, shutdown) = (Arc::new(Eras(Arc::clone(&store))), Arc::clone(&hub), draining.clone());
        let follower = EventFollower::new(&hub, &store, metrics.clone());
        let webhooks = webhooks(config.webhooks, &hub, &metrics, &stopped);
        hub.resume(outages(&store, &config.state).await?);
        let surroundings = Surroundings { hub: streams, eras, authorize, metrics, shutdown };
        let delivery = Delivery::new(config.delivery, surroundings);
        registry.register_collector(Box::new(StreamMetrics::new(Arc::clone(&hub), delivery.clone())));

        delivery.start();
        if let Some(listener) = http {
            delivery.serve(listener, None);
        }
        if let Some(listener) = rtmp {
            gateway.serve_rtmp(listener, None);
        }
        if let Some(socket) = srt {
            gateway.serve_srt(socket, config.srt_settings).context("cannot serve SRT")?;
        }
        let (lookers, fetched) = ((config.slates, config.sampling), (config.rtmp_pulls, config.hls_pulls));
        start_configured(&gateway, config.udp, fetched, config.srt_calls, lookers).await?;
        if let Some(certificate) = certificate {
            serve_tls(&certificate, (https, rtmps), &delivery, &gateway)?;
            tracker.spawn(certificate.watch(draining.clone()));
        }
        tracker.spawn(run_clock(Arc::clone(&hub), config.state.join(ALIVE), draining.clone()));
        let ready = Arc::new(AtomicBool::new(true));
        let events_kept = follower.kept();
        tracker.spawn(follower.run(stopped.clone()));
        webhooks.into_iter().for_each(|webhook| drop(tracker.spawn(webhook)));
        let (drain, drain_wanted) = watch::channel(None);
        let api = make_api(&hub, (&store, events_kept), registry, &delivery, &ready, (&tracker, &stopped, drain));
        serve_operations(api, ops, &config.state, &stopped, &tracker)?;
        let first_token = store.first_operator_token().await?;
        write_addresses(&config.state, &addresses)?;
        let (state, grace) = (config.state, config.shutdown_grace);
        Ok(Self {
            addresses,
            state,
            first_token,
            ready,
            draining,
            gateway,
            hub,
            drain: drain_wanted,
            delivery,
            stopped,
            tracker,
            grace,
            _lock: lock,
        })
    }

    /// The addresses in use.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The operator's token, at the first start only.
    pub fn first_token(&self) -> Option<&str> {
        self.first_token.as_deref()
    }

    /// Waits until an operator has asked to drain, and publishers have gone or the time is over. Cancel-safe until then.
    pub async fn drained(&mut self) {
        if self.drain.wait_for(Option::is_some).await.is_err() {
            return std::future::pending().await;
        }
        let began = Instant::now();
        let publishers = || self.hub.streams().iter().filter(|stream| stream.has_publisher()).count();
        let mut told = None;
        let request = loop {
            let request = self.drain.borrow_and_update().clone().unwrap_or_default(); // the last wish counts
            let timeout = Duration::from_secs(request.timeout_seconds.unwrap_or(DRAIN_SECONDS));
            if told.as_ref() != Some(&request) {
                info!(seconds = timeout.as_secs(), "draining: no new publishers");
                self.gateway.drain(Draining { to: request.to.clone() });
                told = Some(request.clone());
            }
            if publishers() == 0 || began.elapsed() >= timeout {
                break request;
            }
            tokio::time::sleep(HUB_TICK).await;
        };
        info!(left = publishers(), "drained");
        if request.end {
            let streams = self.hub.streams();
            for stream in &streams {
                self.hub.end(arrival(), stream.name());
            }
            if !streams.is_empty() {
                tokio::time::sleep(LAST_PLAYLIST).await; // players fetch the complete playlist
            }
        }
    }

    /// Stops: takes nothing new, tells everybody, saves where broadcasts stand, and ends within the grace time.
    /// No playlist is ended: they go on after the next start.
    pub async fn stop(self) {
        info!("stopping");
        self.ready.store(false, Ordering::Relaxed);
        self.draining.cancel();
        let (began, last) = (Instant::now(), self.grace.min(LAST_ANSWERS));
        let drained = tokio::time::timeout(self.grace.saturating_sub(last), async {
            self.gateway.finished().await;
            self.delivery.finished().await;
        });
        if drained.await.is_err() {
            warn!("connections were still open after the grace time");
        }
        self.stopped.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(self.grace.saturating_sub(began.elapsed()), self.tracker.wait()).await;
        let _ = std::fs::remove_file(self.state.join("addresses.json"));
        let _ = std::fs::remove_file(self.state.join(SOCKET));
        info!("stopped");
    }
}

/// What is served over TLS.
fn serve_tls(
    certificate: &Arc<Certificate>,
    (https, rtmps): (Option<TcpListener>, Option<TcpListener>),
    delivery: &Delivery,
    gateway: &Gateway,
) -> anyhow::Result<()> {
    if let Some(listener) = https {
        let tls = certificate.server_config(&[b"h2", b"http/1.1"])?;
        delivery.serve(listener, Some(TlsAcceptor::from(tls)));
    }
    if let Some(listener) = rtmps {
        gateway.serve_rtmp(listener, Some(TlsAcceptor::from(certificate.server_config(&[])?)));
    }
    Ok(())
}

/// Sources and destinations that the configuration names, and what stands in for them and looks at them.
async fn start_configured(
    gateway: &Gateway,
    (inputs, outputs): (Vec<UdpStream>, Vec<UdpStream>),
    (rtmp_pulls, hls_pulls): (Vec<RtmpPull>, Vec<HlsPull>),
    calls: Vec<SrtCall>,
    (slates, sampling): (Option<SlateSettings>, Option<SamplingSettings>),
) -> anyhow::Result<()> {
    slates.into_iter().for_each(|slates| gateway.run_slates(slates));
    sampling.into_iter().for_each(|sampling| gateway.run_sampling(sampling));
    for input in inputs {
        let address = input.address;
        gateway.receive_udp(input).await.with_context(|| format!("cannot receive on {address} (UDP)"))?;
    }
    for output in outputs {
        gateway.send_udp(output).await.context("cannot send over UDP")?;
    }
    rtmp_pulls.into_iter().for_each(|pull| gateway.pull_rtmp(pull));
    hls_pulls.into_iter().for_each(|pull| gateway.pull_hls(pull));
    calls.into_iter().for_each(|call| gateway.call_srt(call));
    Ok(())
}

fn make_api(
    hub: &Arc<Hub>,
    (store, events_kept): (&Arc<Store>, watch::Receiver<u64>),
    registry: Registry,
    delivery: &Delivery,
    ready: &Arc<AtomicBool>,
    (tasks, stopped, drain): (&TaskTracker, &CancellationToken, watch::Sender<Option<DrainRequest>>),
) -> Api {
    let figures = delivery.clone();
    let delivery = move || {
        let channels = figures.channels().into_iter();
        let figures = channels.map(|(name, status)| {
            let figures = DeliveryFigures {
                media_sequence: status.media_sequence,
                segments: status.segments,
                held_bytes: status.held_bytes,
                discontinuities: status.discontinuities,
                blocked_requests: status.blocked_requests,
            };
            (name, figures)
        });
        figures.collect::<HashMap<_, _>>()
    };
    let metrics = move || {
        let mut text = String::new();
        // Writing to a string fails only where a collector is broken; then the scrape is cut short and seen.
        let _ = encode(&mut text, &registry);
        text
    };
    Api {
        hub: Arc::clone(hub),
        store: Arc::clone(store),
        events_kept,
        metrics: Arc::new(metrics),
        delivery: Arc::new(delivery),
        ready: Arc::clone(ready),
        tasks: tasks.clone(),
        stopped: stopped.clone(),
        drain,
    }
}

fn serve_operations(
    api: Api,
    ops: Option<TcpListener>,
    state: &Path,
    stopped: &CancellationToken,
    tracker: &TaskTracker,
) -> anyhow::Result<()> {
    let path = state.join(SOCKET);
    let _ = std::fs::remove_file(&path); // left by a process that was killed
    let socket = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, owner_only)?;
    tracker.spawn(api.clone().serve_local(socket, stopped.clone()));
    if let Some(listener) = ops {
        tracker.spawn(api.serve(listener, stopped.clone()));
    }
    Ok(())
}

/// Both clocks, read at once.
fn arrival() -> Arrival {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Arrival { now: Instant::now(), utc_nanos: i64::try_from(utc.as_nanos()).unwrap_or(i64::MAX) }
}

/// Lets the hub look at its clocks, and leaves the time, so that a server that is killed can be told from when on it was away.
async fn run_clock(hub: Arc<Hub>, alive: PathBuf, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(HUB_TICK);
    let first = tokio::time::Instant::now() + SIGN_OF_LIFE; // what the last one told is kept by then
    let mut signs = tokio::time::interval_at(first, SIGN_OF_LIFE);
    let mut writing: Option<JoinHandle<()>> = None;
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    signs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => hub.tick(arrival()),
            _ = signs.tick() => {
                // A disk that hangs must not hold up the hub; without a sign, less is told.
                if writing.as_ref().is_none_or(JoinHandle::is_finished) {
                    let (alive, now) = (alive.clone(), arrival().utc_nanos.to_string());
                    let draft = alive.with_extension("new");
                    writing = Some(tokio::task::spawn_blocking(move || {
                        drop(std::fs::write(&draft, now).and_then(|()| std::fs::rename(&draft, &alive)));
                    }));
                }
            }
            () = shutdown.cancelled() => return,
        }
    }
}

/// They tell what happens from here on.
fn webhooks(
    webhooks: Vec<Webhook>,
    hub: &Hub,
    metrics: &Metrics,
    stopped: &CancellationToken,
) -> Vec<impl Future<Output = ()> + use<>> {
    let tell = |webhook| webhooks::tell(webhook, Arc::clone(hub.events()), metrics.clone(), stopped.clone());
    webhooks.into_iter().map(tell).collect()
}

/// What the server before this one lost by ending, and what it had lost before.
async fn outages(store: &Store, state: &Path) -> anyhow::Result<Vec<hub::Outage>> {
    let alive = std::fs::read_to_string(state.join(ALIVE)).ok().and_then(|text| text.trim().parse::<i64>().ok());
    let unended = store.unended().await?.into_iter();
    let outage = |(stream, is_told, nanos): (_, _, i64)| {
        let utc_nanos = if is_told { nanos } else { alive?.max(nanos) };
        Some(hub::Outage { stream, utc_nanos, is_told })
    };
    Ok(unended.filter_map(outage).collect())
}

/// Written whole or not at all, so that who waits for it never reads half.
fn write_addresses(state: &Path, addresses: &Addresses) -> anyhow::Result<()> {
    let (path, draft) = (state.join("addresses.json"), state.join("addresses.json.new"));
    std::fs::write(&draft, serde_json::to_vec_pretty(addresses)?)?;
    std::fs::rename(&draft, &path).with_context(|| path.display().to_string())
}
