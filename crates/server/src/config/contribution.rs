//! What comes and goes over SRT and UDP.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use gateway::{Direction, HlsPull, RtmpPull, SRT_LINKS_MAX, SrtCall, SrtLink, SrtSettings, UdpStream};
use media::StreamName;
use serde::{Deserialize, Serialize};

use super::{ConfigError, range};

/// `[srt]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SrtTable {
    /// Time that lost packets have to come again, 20–8000 ms; the larger wish of both ends counts. Four round trips or more.
    pub latency_ms: u64,
    /// Encrypts every stream that has no passphrase of its own, 10–79 bytes; then nobody gets in without. `env:NAME` takes it
    /// from the environment, `file:PATH` from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<String>,
    /// By stream, likewise.
    pub passphrases: BTreeMap<String, String>,
    /// What a caller means that sends no stream identifier: one in full, such as `publish:STREAM:KEY`; `env:` and `file:` as
    /// above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_stream_id: Option<String>,
    /// A source that sends no media for so long is disconnected, 1–60 s.
    pub silent_seconds: u64,
    /// `[[srt.pull]]`: streams that are fetched from other servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pull: Vec<SrtCallTable>,
    /// `[[srt.push]]`: streams that are sent on to other servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub push: Vec<SrtCallTable>,
}

/// `[rtmp]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RtmpTable {
    /// `[[rtmp.pull]]`: streams that are fetched from other servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pull: Vec<RtmpPullTable>,
}

/// `[[rtmp.pull]]`: a stream that is fetched, again whenever it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RtmpPullTable {
    /// The stream here.
    pub stream: String,
    /// `rtmp://HOST[:PORT]/APP/STREAM`, or `rtmps`; `env:NAME` takes it from the environment, `file:PATH` from a file.
    pub url: String,
    /// Takes any certificate of the other server: for trials.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_tls: bool,
    /// The rank of the leg; 0, the default, is preferred, a higher one is a backup.
    #[serde(skip_serializing_if = "is_best")]
    pub rank: u8,
}

/// `[[hls.pull]]`: a stream that is fetched, again whenever it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HlsPullTable {
    /// The stream here.
    pub stream: String,
    /// `http://HOST[:PORT]/PATH` of the playlist, or `https`; `env:NAME` takes it from the environment, `file:PATH` from a file.
    pub url: String,
    /// A play key, shown to that server as a bearer token; `env:` and `file:` likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Which variant, counted from 0 in the order of the playlist; without it the one with the highest bit rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<usize>,
    /// Takes any certificate of the other server: for trials.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_tls: bool,
    /// The rank of the leg; 0, the default, is preferred, a higher one is a backup.
    #[serde(skip_serializing_if = "is_best")]
    pub rank: u8,
}

/// What is fetched over HLS.
pub(super) fn hls_pulls(rows: &[HlsPullTable]) -> Result<Vec<HlsPull>, ConfigError> {
    const KEY: &str = "hls.pull";
    let wrong = |error: String| ConfigError::Secret { key: KEY, error };
    let pull = |(number, row): (usize, &HlsPullTable)| {
        let url = secret(KEY, &row.url)?;
        Ok(HlsPull {
            stream: row.stream.parse().map_err(|error: media::InvalidName| wrong(error.to_string()))?,
            row: number + 1,
            url: url.parse().map_err(|error: viewer::url::UrlError| wrong(format!("the address: {}", error.why())))?,
            key: row.key.as_deref().map(|key| secret(KEY, key)).transpose()?,
            variant: row.variant,
            is_insecure: row.insecure_tls,
            rank: rank(KEY, row.rank)?,
        })
    };
    rows.iter().enumerate().map(pull).collect()
}

impl HlsPullTable {
    /// Without what is secret: a key may stand in the address.
    pub(super) fn redact(&mut self) {
        let shown =
            |url: viewer::Url| format!("http{}://{}/(not shown)", if url.is_https { "s" } else { "" }, url.authority());
        self.url = self.url.parse().map_or_else(|_| "(set, not shown)".into(), shown);
        self.key = self.key.take().map(|_| "(set, not shown)".into());
    }
}

impl RtmpTable {
    /// What is fetched.
    pub(super) fn pulls(&self) -> Result<Vec<RtmpPull>, ConfigError> {
        const KEY: &str = "rtmp.pull";
        let wrong = |error: String| ConfigError::Secret { key: KEY, error };
        let pull = |(number, row): (usize, &RtmpPullTable)| {
            let url = secret(KEY, &row.url)?;
            let address: rtmp::Address = url.parse().map_err(|error: rtmp::AddressError| wrong(error.to_string()))?;
            let tls = viewer::tls_connector(viewer::HttpVersion::Http1, row.insecure_tls).map_err(wrong);
            Ok(RtmpPull {
                stream: row.stream.parse().map_err(|error: media::InvalidName| wrong(error.to_string()))?,
                row: number + 1,
                tls: if address.is_tls { Some(tls?) } else { None },
                address,
                rank: rank(KEY, row.rank)?,
            })
        };
        self.pull.iter().enumerate().map(pull).collect()
    }

    /// Without what is secret.
    pub(super) fn redact(&mut self) {
        for row in &mut self.pull {
            row.url = row
                .url
                .parse()
                .map_or_else(|_| "(set, not shown)".into(), |address: rtmp::Address| address.tc_url() + "/(not shown)");
        }
    }
}

/// `[[srt.pull]]` and `[[srt.push]]`: a call to another server, repeated when it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SrtCallTable {
    /// The stream here.
    pub stream: String,
    /// `host:port` of the other server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// In place of `server`: several ways that carry the same, `{ server = "host:port", from = "ADDRESS", weight = 1 }`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<SrtLinkTable>,
    /// What several links do: `broadcast` (all carry everything; the default) or `backup` (the heaviest that works does).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupMode>,
    /// `caller` (the default), or `rendezvous`: the other end calls as well, each from the port that it calls, so that firewalls
    /// which let only answers in do for both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<CallMode>,
    /// What is asked for there; `env:` and `file:` as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<String>,
    /// Shared with the other server; likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<String>,
    /// Of the media's key: 128, 192 or 256. Default 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_bits: Option<u64>,
    /// `ctr` (the default), or `gcm`, which needs libsrt 1.5.4 or newer there: what was changed on the way is thrown away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher: Option<CipherMode>,
    /// Time that lost packets have to come again. Default: that of `[srt]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// In: the rank of the leg; 0, the default, is preferred, a higher one is a backup.
    #[serde(skip_serializing_if = "is_best")]
    pub rank: u8,
}

/// How a call is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CipherMode {
    /// AES in counter mode.
    Ctr,
    /// AES-GCM.
    Gcm,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallMode {
    /// This end.
    Caller,
    /// Both ends.
    Rendezvous,
}

/// What several links do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupMode {
    /// All carry everything.
    Broadcast,
    /// The heaviest that works carries everything.
    Backup,
}

/// One of several ways to another server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SrtLinkTable {
    /// `host:port` of the other server.
    pub server: String,
    /// The address of this machine that it leaves from. Default: the system's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// Of main and backup, the heavier is preferred.
    #[serde(skip_serializing_if = "is_zero")]
    pub weight: u16,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(weight: &u16) -> bool {
    *weight == 0
}

/// Slates come after all sources.
fn rank(key: &'static str, rank: u8) -> Result<u8, ConfigError> {
    range(key, rank.into(), 0, 99).map(|_| rank)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_best(rank: &u8) -> bool {
    *rank == 0
}

impl SrtCallTable {
    fn links(&self) -> Result<Vec<SrtLink>, String> {
        let alone = SrtLinkTable { server: self.server.clone(), ..SrtLinkTable::default() };
        let links = match (self.server.is_empty(), self.links.is_empty()) {
            (false, true) => std::slice::from_ref(&alone),
            (true, false) => &self.links,
            (false, false) => return Err("there is server and links: write one of them".into()),
            (true, true) => return Err("the server is missing: write server = \"host:port\"".into()),
        };
        if links.len() > 1 && self.mode == Some(CallMode::Rendezvous) {
            return Err("a rendezvous has one link: write server = \"host:port\", or mode = \"caller\"".into());
        }
        if links.len() > SRT_LINKS_MAX {
            return Err(format!("there are {} links: at most {SRT_LINKS_MAX} go", links.len()));
        }
        let link = |link: &SrtLinkTable| {
            let has_port = link.server.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            if !has_port {
                return Err(format!("server is '{}': write host:port", link.server));
            }
            Ok(SrtLink { server: link.server.clone(), from: link.from, weight: link.weight })
        };
        links.iter().map(link).collect()
    }
}

impl Default for SrtTable {
    fn default() -> Self {
        Self {
            latency_ms: 120,
            passphrase: None,
            passphrases: BTreeMap::new(),
            default_stream_id: None,
            silent_seconds: 5,
            pull: Vec::new(),
            push: Vec::new(),
        }
    }
}

impl SrtTable {
    pub(super) fn settings(&self) -> Result<SrtSettings, ConfigError> {
        let mut passphrases = HashMap::new();
        for (stream, text) in &self.passphrases {
            const KEY: &str = "srt.passphrases";
            let name = stream.parse().map_err(|error: media::InvalidName| ConfigError::Secret {
                key: KEY,
                error: format!("'{stream}': {error}"),
            })?;
            passphrases.insert(name, passphrase(KEY, text)?);
        }
        let default = self.default_stream_id.as_deref();
        Ok(SrtSettings {
            latency: Duration::from_millis(range("srt.latency_ms", self.latency_ms, 20, 8000)?),
            passphrase: self.passphrase.as_deref().map(|text| passphrase("srt.passphrase", text)).transpose()?,
            passphrases,
            default_stream_id: default.map(|text| secret("srt.default_stream_id", text)).transpose()?,
            silent_after: Duration::from_secs(range("srt.silent_seconds", self.silent_seconds, 1, 60)?),
        })
    }
}

/// `[mpegts]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MpegtsTable {
    /// By stream: the program (`program_number`) that is taken where its transport stream has several. Default: the first that
    /// has something to carry.
    pub programs: BTreeMap<String, u16>,
}

impl MpegtsTable {
    pub(super) fn programs(&self) -> Result<HashMap<StreamName, u16>, ConfigError> {
        let of = |(stream, program): (&String, &u16)| {
            let wrong = |error| ConfigError::Secret { key: "mpegts.programs", error };
            if *program == 0 {
                return Err(wrong(format!("the program of '{stream}' is 0, which is no program: write 1 to 65535")));
            }
            let name = stream.parse().map_err(|error: media::InvalidName| wrong(format!("'{stream}': {error}")))?;
            Ok((name, *program))
        };
        self.programs.iter().map(of).collect()
    }
}

/// `[udp]`: MPEG-TS over plain UDP, for networks that are one's own: whoever can send to the address is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UdpTable {
    /// `[[udp.input]]`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub input: Vec<UdpStreamTable>,
    /// `[[udp.output]]`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<UdpStreamTable>,
}

/// `[[udp.input]]` and `[[udp.output]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdpStreamTable {
    /// The stream here.
    pub stream: String,
    /// In: an address of this machine, or a multicast group. Out: where it is sent.
    pub address: SocketAddr,
    /// In: address of the network interface whose multicast is joined. Default: the system's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Ipv4Addr>,
    /// In: the rank of the leg; 0, the default, is preferred, a higher one is a backup.
    #[serde(default, skip_serializing_if = "is_best")]
    pub rank: u8,
}

impl UdpTable {
    /// What is received, and what is sent.
    pub(super) fn streams(&self, silent_seconds: u64) -> Result<(Vec<UdpStream>, Vec<UdpStream>), ConfigError> {
        let of = |key, list: &[UdpStreamTable]| {
            let stream = |row: &UdpStreamTable| {
                let wrong = |error: media::InvalidName| ConfigError::Secret { key, error: error.to_string() };
                let stream = row.stream.parse().map_err(wrong)?;
                Ok(UdpStream {
                    stream,
                    address: row.address,
                    interface: row.interface,
                    silent_after: Duration::from_secs(silent_seconds),
                    rank: rank(key, row.rank)?,
                })
            };
            list.iter().map(stream).collect::<Result<Vec<_>, _>>()
        };
        Ok((of("udp.input", &self.input)?, of("udp.output", &self.output)?))
    }
}

impl SrtTable {
    /// Calls to other servers.
    pub(super) fn calls(&self) -> Result<Vec<SrtCall>, ConfigError> {
        let pull = self.pull.iter().map(|call| ("srt.pull", Direction::Pull, call));
        let push = self.push.iter().map(|call| ("srt.push", Direction::Push, call));
        let mut calls = Vec::new();
        for (row, (key, direction, call)) in (1..).zip(pull.chain(push)) {
            let wrong = |error: String| ConfigError::Secret { key, error };
            let bits = usize::try_from(range(key, call.key_bits.unwrap_or(128), 128, 256)?).unwrap_or(0);
            let latency_ms = range(key, call.latency_ms.unwrap_or(self.latency_ms), 20, 8000)?;
            calls.push(SrtCall {
                direction,
                row,
                stream: call.stream.parse().map_err(|error: media::InvalidName| wrong(error.to_string()))?,
                links: call.links().map_err(wrong)?,
                group: match call.group.unwrap_or(GroupMode::Broadcast) {
                    GroupMode::Broadcast => srt::GroupKind::Broadcast,
                    GroupMode::Backup => srt::GroupKind::Backup,
                },
                is_rendezvous: call.mode == Some(CallMode::Rendezvous),
                stream_id: call.stream_id.as_deref().map(|text| secret(key, text)).transpose()?,
                passphrase: call.passphrase.as_deref().map(|text| passphrase(key, text)).transpose()?,
                key_length: srt::KeyLength::from_bytes(bits / 8)
                    .ok_or_else(|| wrong(format!("key_bits is {bits}: write 128, 192 or 256")))?,
                cipher: match call.cipher.unwrap_or(CipherMode::Ctr) {
                    CipherMode::Ctr => srt::Cipher::AesCtr,
                    CipherMode::Gcm => srt::Cipher::AesGcm,
                },
                latency: Duration::from_millis(latency_ms),
                silent_after: Duration::from_secs(self.silent_seconds),
                rank: rank(key, call.rank)?,
            });
        }
        Ok(calls)
    }

    /// Without what is secret.
    pub(super) fn redact(&mut self) {
        const HIDDEN: &str = "(set, not shown)";
        let calls = self.pull.iter_mut().chain(&mut self.push);
        let of_calls = calls.flat_map(|call| [&mut call.stream_id, &mut call.passphrase]);
        for text in of_calls.chain([&mut self.passphrase, &mut self.default_stream_id]).flatten() {
            HIDDEN.clone_into(text);
        }
        self.passphrases.values_mut().for_each(|text| HIDDEN.clone_into(text));
    }
}

fn passphrase(key: &'static str, text: &str) -> Result<srt::Passphrase, ConfigError> {
    let text = secret(key, text)?;
    srt::Passphrase::new(&text).map_err(|error| ConfigError::Secret { key, error: error.to_string() })
}

/// A secret as it is written, or where `env:` and `file:` say it is.
pub(super) fn secret(key: &'static str, text: &str) -> Result<String, ConfigError> {
    let found = match (text.strip_prefix("env:"), text.strip_prefix("file:")) {
        (Some(name), _) => std::env::var(name).map_err(|error| format!("{name}: {error}")),
        (_, Some(path)) => std::fs::read_to_string(path)
            .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| format!("{path}: {error}")),
        _ => Ok(text.to_owned()),
    };
    found.map_err(|error| ConfigError::Secret { key, error })
}
