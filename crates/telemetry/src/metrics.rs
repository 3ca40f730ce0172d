//! Every metric that is not read from somewhere else at the time of a scrape.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// How something came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are named")]
pub enum Protocol {
    /// RTMP over TCP.
    rtmp,
    /// RTMP over TLS.
    rtmps,
    /// SRT.
    srt,
    /// MPEG-TS over plain UDP.
    udp,
    /// HLS and LL-HLS of another server, fetched.
    hls,
}

impl Protocol {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::rtmp => "rtmp",
            Self::rtmps => "rtmps",
            Self::srt => "srt",
            Self::udp => "udp",
            Self::hls => "hls",
        }
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are named")]
pub enum CloseReason {
    /// The peer said goodbye or closed.
    peer,
    /// The peer broke the protocol.
    protocol_error,
    /// The peer was too slow.
    timeout,
    /// The network failed.
    network,
    /// It was refused.
    rejected,
    /// Replaced, revoked, ended by the operator.
    kicked,
    /// The server stops.
    shutdown,
    /// A bug.
    panic,
}

/// Why a publish or play was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are named")]
pub enum RejectReason {
    /// No key or a wrong one.
    unauthorized,
    /// The stream has a healthy publisher.
    busy,
    /// The server is about to stop.
    draining,
    /// A limit of the server.
    limit,
    /// No such stream to play.
    not_found,
    /// The peer speaks what is not spoken here, or cannot be understood.
    protocol,
}

/// What became of SRT packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are named")]
pub enum SrtCount {
    /// Came, repeated ones included.
    received,
    /// Were missing at first.
    lost,
    /// Came again.
    received_again,
    /// Came too late.
    belated,
    /// Never came: missing in the media.
    dropped,
    /// Could not be decrypted.
    undecryptable,
    /// Could not be read.
    malformed,
    /// Sent for the first time.
    sent,
    /// Sent again.
    sent_again,
    /// Given up before the peer had them.
    given_up,
}

/// What is wrong with a transport stream: ETSI TR 101 290.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are named")]
pub enum TsError {
    /// 1.1
    sync_loss,
    /// 1.2
    sync_byte,
    /// 1.3
    pat,
    /// 1.4
    continuity_count,
    /// 1.5
    pmt,
    /// 1.6
    pid,
    /// 2.1
    transport,
    /// 2.2
    crc,
    /// 2.3a
    pcr_repetition,
    /// 2.3b
    pcr_discontinuity,
    /// 2.5
    pts,
    /// 2.6
    cat,
    /// A unit was too large and left out.
    oversized_unit,
}

impl TsError {
    /// As it is written in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::sync_loss => "sync_loss",
            Self::sync_byte => "sync_byte",
            Self::pat => "pat",
            Self::continuity_count => "continuity_count",
            Self::pmt => "pmt",
            Self::pid => "pid",
            Self::transport => "transport",
            Self::crc => "crc",
            Self::pcr_repetition => "pcr_repetition",
            Self::pcr_discontinuity => "pcr_discontinuity",
            Self::pts => "pts",
            Self::cat => "cat",
            Self::oversized_unit => "oversized_unit",
        }
    }
}

/// What stands beside picture and sound in a transport stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are named")]
pub enum TsMarker {
    /// SCTE 35 sections.
    scte35,
    /// KLV units.
    klv,
}

/// A repair of the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are named")]
pub enum RepairKind {
    /// Timestamps jumped.
    jump,
    /// DTS did not increase.
    disorder,
    /// PTS before DTS, or impossibly far behind.
    composition,
    /// Silence stood in.
    silence,
    /// Sound came twice or too late.
    dropped_audio,
    /// A unit could not be read.
    damaged,
}

/// Why a stream changed the leg that feeds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are named")]
pub enum SwitchReason {
    /// It was the first.
    joined,
    /// The one before closed.
    closed,
    /// The one before was silent.
    silent,
    /// The one before delivered, and something was wrong with what it brought.
    degraded,
    /// Back to a preferred one.
    preferred,
    /// A source in place of the slate.
    recovered,
    /// The one before was no copy any more.
    parted,
    /// An operator said so.
    operator,
}

/// What became of an event that another program was to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are named")]
pub enum WebhookOutcome {
    /// It was taken.
    delivered,
    /// An attempt failed.
    failed,
    /// No attempt is left.
    given_up,
    /// It fell out of memory before its turn.
    missed,
}

/// What became of a look at what a leg brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are named")]
pub enum SampleOutcome {
    /// It was decoded.
    decoded,
    /// It could not be.
    failed,
}

/// What an HTTP request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are named")]
pub enum HttpClass {
    /// Multivariant playlist.
    multivariant,
    /// Media playlist.
    playlist,
    /// Segment, part or initialization segment.
    media,
    /// Player page and its files.
    page,
    /// Anything else.
    other,
}

/// Protocol of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct IngestLabels {
    /// How it came in.
    pub protocol: Protocol,
}

/// Protocol and end of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SessionLabels {
    /// How it came in.
    pub protocol: Protocol,
    /// Why it ended.
    pub reason: CloseReason,
}

/// Kind of a repair.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RepairLabels {
    kind: RepairKind,
}

/// Reason of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectLabels {
    reason: RejectReason,
}

/// Outcome of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    outcome: WebhookOutcome,
}

/// Outcome of a look.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SampleLabels {
    outcome: SampleOutcome,
}

/// Reason of a switch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SwitchLabels {
    reason: SwitchReason,
}

/// What became of SRT packets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SrtLabels {
    what: SrtCount,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MarkerLabels {
    kind: TsMarker,
}

/// What is wrong with a transport stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TsLabels {
    error: TsError,
}

/// Class and status of an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HttpLabels {
    /// What it was for.
    pub class: HttpClass,
    /// Status code.
    pub status: u16,
}

/// A session that was counted when it opened. Its end is counted when it closes, or is dropped, which a panic does.
#[derive(Debug)]
#[must_use = "its end is counted when it is dropped"]
pub struct OpenSession {
    closed: Family<SessionLabels, Counter>,
    protocol: Protocol,
    reason: CloseReason,
}

impl OpenSession {
    /// Ended, for this reason.
    pub fn close(mut self, reason: CloseReason) {
        self.reason = reason;
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let labels = SessionLabels { protocol: self.protocol, reason: self.reason };
        self.closed.get_or_create(&labels).inc();
    }
}

/// Handles of all metrics; cheap to clone where a stage keeps its own.
#[derive(Clone, Debug)]
pub struct Metrics {
    sessions_opened: Family<IngestLabels, Counter>,
    sessions_closed: Family<SessionLabels, Counter>,
    received_bytes: Family<IngestLabels, Counter>,
    rejected: Family<RejectLabels, Counter>,
    repairs: Family<RepairLabels, Counter>,
    srt_packets: Family<SrtLabels, Counter>,
    ts_errors: Family<TsLabels, Counter>,
    ts_markers: Family<MarkerLabels, Counter>,
    http_requests: Family<HttpLabels, Counter>,
    switches: Family<SwitchLabels, Counter>,
    webhooks: Family<WebhookLabels, Counter>,
    samples: Family<SampleLabels, Counter>,
    /// Program time without a picture at a switch.
    pub switch_gap_seconds: Histogram,
    /// Events that could not be kept.
    pub events_lost: Counter,
    /// SRT datagrams dropped because their session was too slow.
    pub srt_queue_drops: Counter,
    /// Bytes of response bodies.
    pub http_sent_bytes: Counter,
    /// Connections that are open.
    pub http_connections: Gauge,
    /// Connections refused: there are too many.
    pub http_refused_connections: Counter,
    /// Connections cut off for reading too slowly.
    pub http_slow_readers: Counter,
    /// Requests held until their part is there.
    pub http_blocked_requests: Gauge,
    /// How long requests were held.
    pub http_blocked_seconds: Histogram,
    /// Parts published.
    pub hls_parts: Counter,
    /// From the arrival of a part's last access unit to its publication.
    pub hls_part_publish_delay_seconds: Histogram,
    /// Times a packager was too slow and skipped GOPs.
    pub hls_skipped: Counter,
    /// Times a packager failed and began anew.
    pub hls_restarts: Counter,
}

impl Metrics {
    /// Declares everything in `registry`, whose prefix is `throughline`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::new();
        let m = &metrics;
        registry.register("ingest_sessions_opened", "Sessions that connected", m.sessions_opened.clone());
        registry.register("ingest_sessions_closed", "Sessions that ended, by reason", m.sessions_closed.clone());
        registry.register(
            "ingest_received_bytes",
            "Bytes from publishers, all layers included",
            m.received_bytes.clone(),
        );
        registry.register("ingest_rejected", "Publishes and plays that were refused, by reason", m.rejected.clone());
        registry.register("timeline_repairs", "Repairs of encoders' timestamps, by kind", m.repairs.clone());
        registry.register("srt_packets", "SRT packets, by what became of them", m.srt_packets.clone());
        registry.register(
            "srt_queue_drops",
            "SRT datagrams dropped because their session was too slow",
            m.srt_queue_drops.clone(),
        );
        registry.register("ts_errors", "Errors of transport streams, as in ETSI TR 101 290", m.ts_errors.clone());
        registry.register("ts_markers", "SCTE 35 sections and KLV units in transport streams", m.ts_markers.clone());
        registry.register("http_requests", "HTTP requests answered, by class and status", m.http_requests.clone());
        registry.register("http_sent_bytes", "Bytes of HTTP response bodies", m.http_sent_bytes.clone());
        registry.register("http_connections", "HTTP connections that are open", m.http_connections.clone());
        registry.register(
            "http_refused_connections",
            "HTTP connections refused because there are too many",
            m.http_refused_connections.clone(),
        );
        registry.register(
            "http_slow_readers",
            "HTTP connections cut off for reading too slowly",
            m.http_slow_readers.clone(),
        );
        registry.register(
            "http_blocked_requests",
            "HTTP requests held until their part is there",
            m.http_blocked_requests.clone(),
        );
        registry.register("http_blocked_seconds", "How long HTTP requests were held", m.http_blocked_seconds.clone());
        registry.register("hls_parts", "HLS parts published", m.hls_parts.clone());
        registry.register(
            "hls_part_publish_delay_seconds",
            "From the arrival of the access unit that completes a part to its publication",
            m.hls_part_publish_delay_seconds.clone(),
        );
        registry.register("hls_skipped", "Times a packager was too slow and skipped whole GOPs", m.hls_skipped.clone());
        registry.register("hls_restarts", "Times a packager failed and began anew", m.hls_restarts.clone());
        metrics.register_continuity(registry);
        metrics
    }

    fn new() -> Self {
        let buckets = |list: &'static [f64]| Histogram::new(list.iter().copied());
        Self {
            sessions_opened: Family::default(),
            sessions_closed: Family::default(),
            received_bytes: Family::default(),
            rejected: Family::default(),
            repairs: Family::default(),
            srt_packets: Family::default(),
            ts_errors: Family::default(),
            ts_markers: Family::default(),
            http_requests: Family::default(),
            switches: Family::default(),
            samples: Family::default(),
            webhooks: Family::default(),
            switch_gap_seconds: buckets(&[0.01, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0]),
            events_lost: Counter::default(),
            srt_queue_drops: Counter::default(),
            http_sent_bytes: Counter::default(),
            http_connections: Gauge::default(),
            http_refused_connections: Counter::default(),
            http_slow_readers: Counter::default(),
            http_blocked_requests: Gauge::default(),
            http_blocked_seconds: buckets(&[0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8]),
            hls_parts: Counter::default(),
            hls_part_publish_delay_seconds: buckets(&[0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0]),
            hls_skipped: Counter::default(),
            hls_restarts: Counter::default(),
        }
    }

    fn register_continuity(&self, registry: &mut Registry) {
        registry.register("samples", "Looks at what a leg brings, by outcome", self.samples.clone());
        registry.register("switches", "Times a stream changed the leg that feeds it, by reason", self.switches.clone());
        registry.register(
            "switch_gap_seconds",
            "Program time without a picture at a switch",
            self.switch_gap_seconds.clone(),
        );
        registry.register("webhooks", "Events for other programs, by what became of them", self.webhooks.clone());
        registry.register("events_lost", "Events that could not be kept", self.events_lost.clone());
    }

    /// A session connected; that it ended is counted by what is returned.
    pub fn session(&self, protocol: Protocol) -> OpenSession {
        self.sessions_opened.get_or_create(&IngestLabels { protocol }).inc();
        OpenSession { closed: self.sessions_closed.clone(), protocol, reason: CloseReason::panic }
    }

    /// The counter of bytes received by this protocol, to be kept.
    pub fn received_bytes(&self, protocol: Protocol) -> Counter {
        self.received_bytes.get_or_create_owned(&IngestLabels { protocol })
    }

    /// A publish or play was refused.
    pub fn rejected(&self, reason: RejectReason) {
        self.rejected.get_or_create(&RejectLabels { reason }).inc();
    }

    /// The timeline repaired something `count` times.
    pub fn repaired(&self, kind: RepairKind, count: u64) {
        if count > 0 {
            self.repairs.get_or_create(&RepairLabels { kind }).inc_by(count);
        }
    }

    /// So many SRT packets fared so.
    pub fn srt_packets(&self, what: SrtCount, count: u64) {
        if count > 0 {
            self.srt_packets.get_or_create(&SrtLabels { what }).inc_by(count);
        }
    }

    /// Markers of a transport stream.
    pub fn ts_markers(&self, kind: TsMarker, count: u64) {
        if count > 0 {
            self.ts_markers.get_or_create(&MarkerLabels { kind }).inc_by(count);
        }
    }

    /// So many errors of transport streams.
    pub fn ts_error(&self, error: TsError, count: u64) {
        if count > 0 {
            self.ts_errors.get_or_create(&TsLabels { error }).inc_by(count);
        }
    }

    /// So many events for other programs fared so.
    pub fn webhook(&self, outcome: WebhookOutcome, count: u64) {
        self.webhooks.get_or_create(&WebhookLabels { outcome }).inc_by(count);
    }

    /// A leg was looked at.
    pub fn sampled(&self, outcome: SampleOutcome) {
        self.samples.get_or_create(&SampleLabels { outcome }).inc();
    }

    /// A stream changed its leg.
    pub fn switched(&self, reason: SwitchReason) {
        self.switches.get_or_create(&SwitchLabels { reason }).inc();
    }

    /// A request was answered.
    pub fn http_request(&self, class: HttpClass, status: u16) {
        self.http_requests.get_or_create(&HttpLabels { class, status }).inc();
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_session_that_nobody_closed_panicked() {
        let metrics = Metrics::register(&mut Registry::with_prefix("throughline"));
        let closed =
            |reason| metrics.sessions_closed.get_or_create(&SessionLabels { protocol: Protocol::rtmp, reason }).get();
        metrics.session(Protocol::rtmp).close(CloseReason::peer);
        drop(metrics.session(Protocol::rtmp));
        assert_eq!((closed(CloseReason::peer), closed(CloseReason::panic)), (1, 1));
    }

    /// `docs/metrics.md` as it follows from the declarations above. Figures of streams and of the process are read at a
    /// scrape and stand in the part that is written by hand.
    fn document() -> String {
        let mut registry = Registry::with_prefix("throughline");
        let metrics = Metrics::register(&mut registry);
        // A family without a member is not written.
        metrics.session(Protocol::rtmp).close(CloseReason::peer);
        metrics.received_bytes(Protocol::rtmp);
        metrics.srt_packets(SrtCount::received, 1);
        metrics.ts_error(TsError::crc, 1);
        metrics.ts_markers(TsMarker::klv, 1);
        metrics.rejected(RejectReason::busy);
        metrics.repaired(RepairKind::jump, 1);
        metrics.http_request(HttpClass::page, 200);
        metrics.switched(SwitchReason::silent);
        metrics.sampled(SampleOutcome::decoded);
        metrics.webhook(WebhookOutcome::delivered, 1);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("to memory");
        let mut out = String::from("| metric | type | meaning |\n| --- | --- | --- |\n");
        let mut help = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                help = rest.split_once(' ').map_or("", |(_, help)| help.trim_end_matches('.'));
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                let suffix = if kind == "counter" { "_total" } else { "" };
                writeln!(out, "| `{name}{suffix}` | {kind} | {help} |").expect("to memory");
            }
        }
        out
    }

    #[test]
    fn the_document_lists_every_metric() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let (before, after) = committed.split_once("<!-- generated -->\n").expect("the mark is there");
        let expected = format!("{before}<!-- generated -->\n{}", document());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, expected).expect("writes");
        } else {
            assert_eq!(after, document(), "run: UPDATE_DOCS=1 cargo test -p throughline-telemetry");
        }
    }
}
