//! Configuration: what an operator writes, and what the rest of the program sees.
//!
//! The tables are parsed with unknown keys refused, then turned into [`Config`], in which every value is usable. Flags and
//! environment variables win over the file.

mod contribution;
mod sampling;
mod slate;
mod webhook;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::webhooks::Webhook;
use delivery::DeliveryConfig;
use gateway::{HlsPull, RtmpPull, SamplingSettings, SlateSettings, SrtCall, SrtSettings, UdpStream};
use hls::PackagerConfig;
use hub::{HubConfig, MergeMode, SecondPublisher};
use listen::ConnectionLimits;
use serde::{Deserialize, Serialize};

pub use contribution::{
    CallMode, CipherMode, GroupMode, HlsPullTable, MpegtsTable, RtmpPullTable, RtmpTable, SrtCallTable, SrtLinkTable,
    SrtTable, UdpStreamTable, UdpTable,
};

use contribution::hls_pulls;

pub use sampling::SamplingTable;
pub use slate::{AlwaysOnTable, SlateTable};
pub use webhook::WebhookTable;

/// The configuration file as an operator writes it. Units are part of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// Directory for keys, tokens and what must survive a restart.
    pub state: Option<PathBuf>,
    /// `[log]`
    pub log: LogTable,
    /// `[listen]`
    pub listen: ListenTable,
    /// `[tls]`
    pub tls: TlsTable,
    /// `[rtmp]`
    pub rtmp: RtmpTable,
    /// `[srt]`
    pub srt: SrtTable,
    /// `[udp]`
    pub udp: UdpTable,
    /// `[mpegts]`
    pub mpegts: MpegtsTable,
    /// `[streams]`
    pub streams: StreamsTable,
    /// `[sampling]`
    pub sampling: SamplingTable,
    /// `[slate]`
    pub slate: SlateTable,
    /// `[[always_on]]`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub always_on: Vec<AlwaysOnTable>,
    /// `[[webhook]]`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhook: Vec<WebhookTable>,
    /// `[hls]`
    pub hls: HlsTable,
    /// `[limits]`
    pub limits: LimitsTable,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogTable {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a tracing directive.
    pub filter: String,
    /// `text` or `json`.
    pub format: LogFormatName,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormatName {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Default for LogTable {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormatName::Text }
    }
}

/// `[listen]`: addresses; `"off"` for none, port 0 for a free one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenTable {
    /// HTTP: playlists, media, player page. Default `0.0.0.0:8080`.
    pub http: Option<Listen>,
    /// HTTPS with HTTP/2. Default `0.0.0.0:8443` where `[tls]` names a certificate, else off.
    pub https: Option<Listen>,
    /// RTMP. Default `0.0.0.0:1935`.
    pub rtmp: Option<Listen>,
    /// RTMPS. Default `0.0.0.0:1936` where `[tls]` names a certificate, else off.
    pub rtmps: Option<Listen>,
    /// SRT, over UDP. Default `0.0.0.0:8890`.
    pub srt: Option<Listen>,
    /// Operations: API, metrics, health. Default `127.0.0.1:9090`.
    pub ops: Option<Listen>,
}

/// A listening address, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// Not at all.
    Off,
    /// Here.
    At(SocketAddr),
}

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let address = text.parse().map_err(|_| {
            format!(
                "'{text}' is no address: write host:port with a numeric host, such as \"127.0.0.1:8080\", or \"off\""
            )
        })?;
        Ok(Self::At(address))
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        match listen {
            Listen::Off => "off".into(),
            Listen::At(address) => address.to_string(),
        }
    }
}

/// `[tls]`: without a certificate, one for local trials is made when a TLS listener is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsTable {
    /// PEM file with the certificate chain; read again when it changes.
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key.
    pub key: Option<PathBuf>,
}

/// `[streams]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamsTable {
    /// How long a stream without a source keeps its playlist, 0–86,400 s.
    pub hold_seconds: u64,
    /// Silence after which another leg takes over, 100–60,000 ms; longer for pictures that lie further apart.
    pub takeover_after_ms: u64,
    /// Silence of a connected source after which its loss is signalled, 500–60,000 ms.
    pub silent_after_ms: u64,
    /// Most streams at once, 1–10,000.
    pub streams_max: usize,
    /// What a second publisher with the same key is: `backup`, `take-over`, `refuse`.
    pub second_publisher: SecondPublisherName,
    /// How long a unit waits behind a hole that another copy of the encode may fill, 50–5,000 ms.
    pub merge_window_ms: u64,
    /// When units of copies are sent on: `swift`, `steady`.
    pub merge_mode: MergeModeName,
    /// How long a preferred leg must have been healthy before the stream returns to it, 0–3,600 s.
    pub hold_down_seconds: u64,
}

impl StreamsTable {
    fn hub(&self) -> Result<HubConfig, ConfigError> {
        let millis = |key, got, low, high| range(key, got, low, high).map(Duration::from_millis);
        let seconds = |key, got, low, high| range(key, got, low, high).map(Duration::from_secs);
        Ok(HubConfig {
            keeps_samples: false, // [sampling] says
            takeover_after: millis("streams.takeover_after_ms", self.takeover_after_ms, 100, 60_000)?,
            silent_after: millis("streams.silent_after_ms", self.silent_after_ms, 500, 60_000)?,
            hold: seconds("streams.hold_seconds", self.hold_seconds, 0, 86_400)?,
            streams_max: count("streams.streams_max", self.streams_max, 10_000)?,
            second_publisher: match self.second_publisher {
                SecondPublisherName::Backup => SecondPublisher::Backup,
                SecondPublisherName::TakeOver => SecondPublisher::TakeOver,
                SecondPublisherName::Refuse => SecondPublisher::Refuse,
            },
            merge_window: millis("streams.merge_window_ms", self.merge_window_ms, 50, 5000)?,
            merge_mode: match self.merge_mode {
                MergeModeName::Swift => MergeMode::Swift,
                MergeModeName::Steady => MergeMode::Steady,
            },
            hold_down: seconds("streams.hold_down_seconds", self.hold_down_seconds, 0, 3600)?,
        })
    }
}

/// What a second publisher with the same key is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecondPublisherName {
    /// It takes over when the first one fails.
    #[default]
    Backup,
    /// It takes over at once; the first one is disconnected.
    TakeOver,
    /// It is refused while the first one delivers.
    Refuse,
}

/// When units of legs that carry the same encode are sent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MergeModeName {
    /// As soon as the first copy is there.
    #[default]
    Swift,
    /// When the slower copy is due.
    Steady,
}

impl Default for StreamsTable {
    fn default() -> Self {
        Self {
            hold_seconds: 60,
            takeover_after_ms: 500,
            silent_after_ms: 2000,
            streams_max: 2000,
            second_publisher: SecondPublisherName::Backup,
            merge_window_ms: 200,
            merge_mode: MergeModeName::Swift,
            hold_down_seconds: 10,
        }
    }
}

/// `[hls]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HlsTable {
    /// `default`: PART-HOLD-BACK about 1 s. `lan`: three times PART-TARGET, for networks without jitter.
    pub profile: HlsProfile,
    /// Length of a part, 100–1,000 ms. Shorter parts are less delay and more requests.
    pub part_target_ms: u64,
    /// Length of a segment, 1,000–6,000 ms.
    pub segment_target_ms: u64,
    /// Shortest content of a playlist, up to 3,600 s; eight target durations are kept in any case. Costs memory.
    pub window_seconds: u64,
    /// `[[hls.pull]]`: streams that are fetched from other servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pull: Vec<HlsPullTable>,
}

/// How close to the live edge players stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HlsProfile {
    /// For the internet.
    #[default]
    Default,
    /// For a local network.
    Lan,
}

impl Default for HlsTable {
    fn default() -> Self {
        Self {
            profile: HlsProfile::Default,
            part_target_ms: 200,
            segment_target_ms: 2000,
            window_seconds: 32,
            pull: Vec::new(),
        }
    }
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsTable {
    /// Most HTTP connections, 1–1,000,000.
    pub http_connections_max: usize,
    /// Most HTTP connections from one IPv4 address or one IPv6 network of 64 bits; loopback is exempt.
    pub http_connections_per_address_max: usize,
    /// Most RTMP and RTMPS connections, 1–1,000,000: publishers, their standbys, and tools that play.
    pub rtmp_connections_max: usize,
    /// Most RTMP and RTMPS connections from one IPv4 address or one IPv6 network of 64 bits; loopback is exempt.
    pub rtmp_connections_per_address_max: usize,
    /// Most HTTP requests held at once.
    pub blocked_requests_max: usize,
    /// Slowest HTTP reader that is tolerated while bytes wait for it.
    pub read_rate_min_bytes_per_second: u64,
    /// How long a stop may take before connections are cut, 0–300 s.
    pub shutdown_grace_seconds: u64,
}

impl LimitsTable {
    fn rtmp_connections(&self) -> Result<ConnectionLimits, ConfigError> {
        Ok(ConnectionLimits {
            max: count("limits.rtmp_connections_max", self.rtmp_connections_max, 1_000_000)?,
            per_address_max: count(
                "limits.rtmp_connections_per_address_max",
                self.rtmp_connections_per_address_max,
                1_000_000,
            )?,
        })
    }
}

impl Default for LimitsTable {
    fn default() -> Self {
        let delivery = DeliveryConfig::default();
        Self {
            http_connections_max: delivery.connections.max,
            http_connections_per_address_max: delivery.connections.per_address_max,
            rtmp_connections_max: 4500,
            rtmp_connections_per_address_max: 512,
            blocked_requests_max: delivery.blocked_requests_max,
            read_rate_min_bytes_per_second: delivery.read_rate_min_bytes_per_second,
            shutdown_grace_seconds: 10,
        }
    }
}

/// Checked configuration: every value that exists is usable.
#[derive(Clone, Debug)]
pub struct Config {
    /// State directory.
    pub state: PathBuf,
    /// HTTP.
    pub http: Listen,
    /// HTTPS.
    pub https: Listen,
    /// RTMP.
    pub rtmp: Listen,
    /// RTMPS.
    pub rtmps: Listen,
    /// SRT.
    pub srt: Listen,
    /// How SRT is spoken.
    pub srt_settings: SrtSettings,
    /// Streams that are fetched over RTMP.
    pub rtmp_pulls: Vec<RtmpPull>,
    /// Streams that are fetched over HLS.
    pub hls_pulls: Vec<HlsPull>,
    /// SRT calls to other servers.
    pub srt_calls: Vec<SrtCall>,
    /// Streams over plain UDP, in and out.
    pub udp: (Vec<UdpStream>, Vec<UdpStream>),
    /// By stream: which program of its transport stream is taken.
    pub programs: HashMap<media::StreamName, u16>,
    /// Whether the legs are looked at.
    pub sampling: Option<SamplingSettings>,
    /// What viewers see while nobody publishes.
    pub slates: Option<SlateSettings>,
    /// Programs that are told what happens.
    pub webhooks: Vec<Webhook>,
    /// Operations.
    pub ops: Listen,
    /// Certificate and key, if they are named.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The hub's settings.
    pub hub: HubConfig,
    /// Most RTMP and RTMPS connections.
    pub rtmp_connections: ConnectionLimits,
    /// Delivery's settings.
    pub delivery: DeliveryConfig,
    /// How long a stop may take.
    pub shutdown_grace: Duration,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file does not parse; the text has line, column and the line itself.
    #[error("{path}: {error}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// A value is out of range.
    #[error("{key} is {got}: write a value from {low} to {high}")]
    Range {
        /// The key.
        key: &'static str,
        /// What it is.
        got: u64,
        /// Lowest.
        low: u64,
        /// Highest.
        high: u64,
    },
    /// A secret cannot be had, or is none; it is not repeated.
    #[error("{key}: {error}")]
    Secret {
        /// The key.
        key: &'static str,
        /// What is wrong.
        error: String,
    },
    /// Only one of two that belong together.
    #[error("[tls] needs both certificate and key, or neither")]
    HalfTls,
    /// The log filter cannot be read.
    #[error("log.filter is '{got}': {error}; write error, warn, info, debug or trace")]
    LogFilter {
        /// What it is.
        got: String,
        /// Why.
        error: String,
    },
    /// What is wrong, and where it stands in the file.
    #[error("{path}, line {line}, column {column}: {error}")]
    At {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What.
        error: Box<ConfigError>,
    },
}

impl ConfigError {
    /// The key in the file that is to blame, if one is.
    fn key(&self) -> Option<&'static str> {
        match self {
            Self::Range { key, .. } | Self::Secret { key, .. } => Some(key),
            Self::HalfTls => Some("tls"),
            Self::LogFilter { .. } => Some("log.filter"),
            Self::Unreadable { .. } | Self::Syntax { .. } | Self::At { .. } => None,
        }
    }

    /// The same with the place in the file, where the file says something about the key.
    #[must_use]
    pub fn located(self, path: &Path) -> Self {
        let place = self.key().zip(std::fs::read_to_string(path).ok()).and_then(|(key, text)| place_of(&text, key));
        match place {
            Some((line, column)) => Self::At { path: path.into(), line, column, error: Box::new(self) },
            None => self,
        }
    }
}

/// Line and column of the value of a key such as `hls.part_target_ms`.
fn place_of(text: &str, key: &str) -> Option<(usize, usize)> {
    let root = toml::de::DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut span = None;
    for name in key.split('.') {
        let (_, value) = table.iter().find(|(known, _)| known.get_ref() == name)?;
        span = Some(value.span());
        if let toml::de::DeValue::Table(inside) = value.get_ref() {
            table = inside;
        }
    }
    let before = text.get(..span?.start)?;
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Some((before.matches('\n').count() + 1, before.get(line_start..)?.chars().count() + 1))
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read or parsed; the message says line, column and what is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.into(), error })?;
        toml::from_str(&text).map_err(|error| ConfigError::Syntax { path: path.into(), error: Box::new(error) })
    }

    /// Without passphrases and keys: to be shown.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        self.rtmp.redact();
        self.hls.pull.iter_mut().for_each(HlsPullTable::redact);
        self.srt.redact();
        self.webhook.iter_mut().for_each(WebhookTable::redact);
        self
    }

    /// The same with every default written out.
    #[must_use]
    pub fn effective(mut self) -> Self {
        let has_certificate = self.tls.certificate.is_some();
        let at = |host: [u8; 4], port: u16| Listen::At(SocketAddr::from((host, port)));
        let with_tls = |port| if has_certificate { at([0; 4], port) } else { Listen::Off };
        self.state.get_or_insert_with(|| "throughline-data".into());
        self.listen.http.get_or_insert(at([0; 4], 8080));
        self.listen.https.get_or_insert(with_tls(8443));
        self.listen.rtmp.get_or_insert(at([0; 4], 1935));
        self.listen.rtmps.get_or_insert(with_tls(1936));
        self.listen.srt.get_or_insert(at([0; 4], 8890));
        self.listen.ops.get_or_insert(at([127, 0, 0, 1], 9090));
        self
    }
}

impl TryFrom<ConfigFile> for Config {
    type Error = ConfigError;

    fn try_from(file: ConfigFile) -> Result<Self, ConfigError> {
        let file = file.effective();
        telemetry::check_filter(&file.log.filter)
            .map_err(|error| ConfigError::LogFilter { got: file.log.filter.clone(), error })?;
        let millis = |key, got, low, high| range(key, got, low, high).map(Duration::from_millis);
        let seconds = |key, got, low, high| range(key, got, low, high).map(Duration::from_secs);
        let hls = &file.hls;
        let part_target = millis("hls.part_target_ms", hls.part_target_ms, 100, 1000)?;
        let packager = PackagerConfig {
            part_target,
            segment_target: millis("hls.segment_target_ms", hls.segment_target_ms, 1000, 6000)?,
            window: seconds("hls.window_seconds", hls.window_seconds, 0, 3600)?,
            part_hold_back: match hls.profile {
                HlsProfile::Default => Duration::from_secs(1),
                HlsProfile::Lan => Duration::ZERO, // the packager keeps three times PART-TARGET in any case
            },
        };
        let sampling = file.sampling.settings(&file.slate)?;
        let hub = HubConfig { keeps_samples: sampling.is_some(), ..file.streams.hub()? };
        let limits = &file.limits;
        let connections = |key, got| count(key, got, 1_000_000);
        let delivery = DeliveryConfig {
            packager,
            connections: ConnectionLimits {
                max: connections("limits.http_connections_max", limits.http_connections_max)?,
                per_address_max: connections(
                    "limits.http_connections_per_address_max",
                    limits.http_connections_per_address_max,
                )?,
            },
            blocked_requests_max: count("limits.blocked_requests_max", limits.blocked_requests_max, 1_000_000)?,
            read_rate_min_bytes_per_second: range(
                "limits.read_rate_min_bytes_per_second",
                limits.read_rate_min_bytes_per_second,
                0,
                1_000_000,
            )?,
        };
        let certificate = match (file.tls.certificate, file.tls.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(ConfigError::HalfTls),
        };
        let listen = |listen: Option<Listen>| listen.unwrap_or(Listen::Off);
        let state = file.state.unwrap_or_default();
        Ok(Self {
            webhooks: file.webhook.iter().map(WebhookTable::webhook).collect::<Result<_, _>>()?,
            sampling,
            slates: file.slate.settings(&file.always_on, &state)?,
            state,
            http: listen(file.listen.http),
            https: listen(file.listen.https),
            rtmp: listen(file.listen.rtmp),
            rtmps: listen(file.listen.rtmps),
            srt: listen(file.listen.srt),
            srt_settings: file.srt.settings()?,
            rtmp_pulls: file.rtmp.pulls()?,
            hls_pulls: hls_pulls(&file.hls.pull)?,
            srt_calls: file.srt.calls()?,
            udp: file.udp.streams(file.srt.silent_seconds)?,
            programs: file.mpegts.programs()?,
            ops: listen(file.listen.ops),
            certificate,
            hub,
            rtmp_connections: limits.rtmp_connections()?,
            delivery,
            shutdown_grace: seconds("limits.shutdown_grace_seconds", limits.shutdown_grace_seconds, 0, 300)?,
        })
    }
}

fn range(key: &'static str, got: u64, low: u64, high: u64) -> Result<u64, ConfigError> {
    if (low..=high).contains(&got) { Ok(got) } else { Err(ConfigError::Range { key, got, low, high }) }
}

fn count(key: &'static str, got: usize, high: u64) -> Result<usize, ConfigError> {
    range(key, got as u64, 1, high).map(|_| got)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        match toml::from_str::<ConfigFile>(text) {
            Err(error) => error.to_string(),
            Ok(file) => Config::try_from(file).expect_err("a mistake").to_string(),
        }
    }

    #[test]
    fn mistakes_are_shown_where_they_are() {
        for (text, parts) in [
            ("[hls]\npart_target = 200\n", &["line 2, column 1", "unknown field `part_target`", "part_target_ms"][..]),
            ("[listen]\nhttp = \"8080\"\n", &["line 2, column 8", "write host:port"]),
            ("[hls]\nwindow_seconds = \"32\"\n", &["line 2, column 18", "invalid type"]),
            ("[hls\n", &["line 1"]),
            ("[hls]\npart_target_ms = 20\n", &["hls.part_target_ms is 20", "from 100 to 1000"]),
            ("[tls]\ncertificate = \"a.pem\"\n", &["needs both"]),
        ] {
            let message = error(text);
            assert!(parts.iter().all(|part| message.contains(part)), "{text}: {message}");
        }
    }

    #[test]
    fn values_that_cannot_be_used_are_shown_where_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("throughline.toml");
        for (text, parts) in [
            (
                "# mine\n[hls]\npart_target_ms = 20\n",
                &["line 3, column 18", "hls.part_target_ms is 20", "from 100 to"][..],
            ),
            ("[log]\nfilter = \"a=b=c\"\n", &["line 2, column 10", "log.filter is 'a=b=c'", "write error, warn"]),
            ("hls.window_seconds = 99999\n", &["line 1, column 22", "hls.window_seconds"]),
            ("[tls]\nkey = \"a.pem\"\n", &["line 1, column 1", "needs both"]),
        ] {
            std::fs::write(&path, text).expect("writes");
            let error = ConfigFile::load(&path).and_then(Config::try_from).expect_err("a mistake");
            let message = error.located(&path).to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{text}: {message}");
        }
    }

    #[test]
    fn the_shipped_files_load_and_the_reference_names_every_default() {
        let load = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config").join(name);
            ConfigFile::load(&path).expect("loads")
        };
        Config::try_from(load("example.toml")).expect("is usable");
        assert_eq!(load("reference.toml"), ConfigFile::default().effective());
    }

    #[test]
    fn what_config_check_prints_loads_again() {
        let effective = ConfigFile::default().effective();
        let text = toml::to_string(&effective).expect("serializes");
        assert_eq!(toml::from_str::<ConfigFile>(&text).expect("loads"), effective);
    }
}
