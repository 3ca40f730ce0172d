//! `probe`, `check` and `load`: the synthetic viewer from the command line.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use viewer::Url;
use viewer::client::{ClientSettings, HttpVersion, Shared};
use viewer::direct::{self, Place, SrtPlace};
use viewer::follower::{Choice, PlayerSettings};
use viewer::load::{
    Audience, LoadSettings, PublishReport, PublishTarget, SrtTarget, publishers, srt_publishers, viewers,
};
use viewer::probe::{Line, Thresholds, probe, probe_direct};

/// Time beyond three target durations that an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// `90`, `90s`, `500ms`, `2m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| format!("'{text}' is no time: write 500ms, 90s, 2m or 1h"))?;
    let millis = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    millis.map(Duration::from_millis).ok_or_else(|| format!("'{text}' is no time: write 500ms, 90s, 2m or 1h"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Http {
    /// HTTP/2 where TLS agrees on it, else HTTP/1.1.
    Auto,
    /// HTTP/1.1.
    #[value(name = "1")]
    One,
    /// HTTP/2, without TLS by prior knowledge.
    #[value(name = "2")]
    Two,
}

/// How the stream is reached and played.
#[derive(Debug, Args)]
pub(super) struct PlayArgs {
    /// Which HTTP.
    #[arg(long, value_enum, default_value = "auto")]
    http: Http,
    /// Take any certificate: for local trials.
    #[arg(long)]
    insecure: bool,
    /// Play key, where the stream asks for one.
    #[arg(long, env = "THROUGHLINE_PLAY_KEY", value_name = "KEY", hide_env_values = true)]
    key: Option<String>,
    /// Segments only, as players without low latency do.
    #[arg(long)]
    plain: bool,
    /// Stay on one variant, counted from 0; without it the bandwidth decides.
    #[arg(long, value_name = "N")]
    variant: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl PlayArgs {
    pub(super) fn shared(&self, url: &Url) -> anyhow::Result<Arc<Shared>> {
        let version = match self.http {
            Http::Auto => HttpVersion::Auto,
            Http::One => HttpVersion::Http1,
            Http::Two => HttpVersion::Http2,
        };
        let settings = ClientSettings { version, is_insecure: self.insecure, timeout: TIMEOUT, is_compressed: true };
        Shared::new(settings, self.key.as_deref().map(|key| (url, key))).map_err(anyhow::Error::msg)
    }

    /// The same place, with the play key.
    fn direct(&self, place: &Place) -> anyhow::Result<Place> {
        self.has_only_what_rtmp_and_srt_know()?;
        Ok(self.key.as_deref().map_or_else(|| place.clone(), |key| place.with_key(key)))
    }

    fn has_only_what_rtmp_and_srt_know(&self) -> anyhow::Result<()> {
        let other =
            [("--http", self.http != Http::Auto), ("--plain", self.plain), ("--variant", self.variant.is_some())];
        match other.into_iter().find(|(_, is_set)| *is_set) {
            Some((option, _)) => bail!("{option} is for HTTP: leave it out with RTMP and SRT"),
            None => Ok(()),
        }
    }

    fn player(&self) -> PlayerSettings {
        PlayerSettings {
            low_latency: !self.plain,
            variant: self.variant.map_or(Choice::Bandwidth, Choice::Number),
            ..PlayerSettings::default()
        }
    }
}

/// What is watched.
#[derive(Clone, Debug)]
enum Watched {
    Http(Url),
    Direct(Place),
}

impl std::str::FromStr for Watched {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let scheme = text.split("://").next().unwrap_or_default().to_ascii_lowercase();
        match scheme.as_str() {
            "rtmp" | "rtmps" | "srt" => text.parse().map(Self::Direct),
            "http" | "https" => text.parse().map(Self::Http).map_err(|error: viewer::url::UrlError| error.to_string()),
            _ => Err("write http://, https://, rtmp://, rtmps:// or srt:// before it".into()),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// Address of the multivariant playlist, or of a media playlist; or rtmp://HOST/APP/STREAM, srt://HOST:PORT?streamid=….
    url: Watched,
    /// How long to watch.
    #[arg(long = "for", value_name = "TIME", value_parser = duration, default_value = "60s")]
    duration: Duration,
    /// Where this runs, for the report.
    #[arg(long, value_name = "PLACE")]
    location: Option<String>,
    #[command(flatten)]
    play: PlayArgs,
    /// Fail if the first picture takes longer.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    startup_max: Option<Duration>,
    /// Fail if 95 of 100 measurements of latency exceed this.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    latency_max: Option<Duration>,
    /// Fail if latency grows by more milliseconds in a minute.
    #[arg(long, value_name = "MS")]
    latency_slope_max: Option<u64>,
    /// Fail if it runs dry more often.
    #[arg(long, value_name = "N")]
    stalls_max: Option<u64>,
    /// Fail if it stands still for longer in all.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    stalled_max: Option<Duration>,
    /// Fail if more is missing, broken or refused.
    #[arg(long, value_name = "N")]
    errors_max: Option<u64>,
}

/// Watches a stream; false if it did not go as well as it must.
pub(super) async fn run_probe(args: ProbeArgs) -> anyhow::Result<bool> {
    let live = io::stderr().is_terminal();
    let tell = |line: &Line| {
        // Nobody may be reading.
        let _ = match (live, line.is_status) {
            (true, true) => write!(io::stderr(), "\r\x1b[K{}", line.text),
            (true, false) => writeln!(io::stderr(), "\r\x1b[K{}", line.text),
            (false, false) => writeln!(io::stderr(), "{}", line.text),
            (false, true) => Ok(()),
        };
    };
    let mut report = match &args.url {
        Watched::Http(url) => {
            let shared = args.play.shared(url)?;
            probe(&shared, url, args.play.player(), args.duration, tell).await
        }
        Watched::Direct(place) => {
            let place = args.play.direct(place)?;
            probe_direct(&place, args.play.insecure, direct::BUFFER, args.duration, tell).await
        }
    };
    if live {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    report.location = args.location;
    report.judge(&Thresholds {
        startup: args.startup_max,
        latency: args.latency_max,
        latency_slope_ms: args.latency_slope_max,
        stalls: args.stalls_max,
        stalled: args.stalled_max,
        errors: args.errors_max,
    });
    if args.play.json {
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(io::stdout(), "{}", report.summary())?;
    }
    Ok(report.exceeded.is_empty())
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Address of the multivariant playlist, or of a media playlist.
    url: Url,
    /// How long to look.
    #[arg(long = "for", value_name = "TIME", value_parser = duration, default_value = "60s")]
    duration: Duration,
    /// Take any certificate: for local trials.
    #[arg(long)]
    insecure: bool,
    /// Play key, where the stream asks for one.
    #[arg(long, env = "THROUGHLINE_PLAY_KEY", value_name = "KEY", hide_env_values = true)]
    key: Option<String>,
    /// Print JSON.
    #[arg(long, conflicts_with = "junit")]
    json: bool,
    /// Print test results for a CI: JUnit's XML.
    #[arg(long)]
    junit: bool,
}

/// Looks whether a stream keeps the rules; false if not.
pub(super) async fn run_check(args: CheckArgs) -> anyhow::Result<bool> {
    let settings = ClientSettings { is_insecure: args.insecure, timeout: TIMEOUT, ..ClientSettings::default() };
    let shared = Shared::new(settings, args.key.as_deref().map(|key| (&args.url, key))).map_err(anyhow::Error::msg)?;
    let report = viewer::check::check(&shared, &args.url, args.duration).await;
    if args.json {
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    } else if args.junit {
        write!(io::stdout(), "{}", report.junit())?;
    } else {
        write!(io::stdout(), "{}", report.summary())?;
    }
    Ok(report.is_good())
}

#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// What is watched (http, https, or rtmp, rtmps, srt; several are shared out evenly), or where is published (rtmp://HOST/APP,
    /// srt://HOST:PORT; {n} is the publisher's number).
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,
    /// So many viewers.
    #[arg(long, value_name = "N", conflicts_with = "publishers", required_unless_present = "publishers")]
    viewers: Option<u32>,
    /// So many publishers.
    #[arg(long, value_name = "N")]
    publishers: Option<u32>,
    /// FLV file that publishers replay.
    #[arg(long, value_name = "FILE", requires = "publishers")]
    clip: Option<PathBuf>,
    /// File with a stream key, or stream identifier, for each publisher, one a line; '-' is standard input.
    #[arg(long, value_name = "FILE", requires = "publishers")]
    keys: Option<PathBuf>,
    /// Viewers come spread over this time.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    ramp: Duration,
    /// How long, after the last viewer has come.
    #[arg(long = "for", value_name = "TIME", value_parser = duration, default_value = "2m")]
    duration: Duration,
    #[command(flatten)]
    play: PlayArgs,
}

/// Puts load on a server; false if anybody was refused or never began.
pub(super) async fn run_load(args: LoadArgs) -> anyhow::Result<bool> {
    if let Some(count) = args.publishers {
        return run_publishers(args, count).await;
    }
    let watched: Vec<Watched> =
        args.urls.iter().map(|url| url.parse()).collect::<Result<_, _>>().map_err(anyhow::Error::msg)?;
    let (mut urls, mut places) = (Vec::new(), Vec::new());
    for one in watched {
        match one {
            Watched::Http(url) => urls.push(url),
            Watched::Direct(place) => places.push(args.play.direct(&place)?),
        }
    }
    let audience = match (urls.first(), places.is_empty()) {
        (Some(first), true) => Audience::Http(args.play.shared(first)?, urls),
        (None, false) => Audience::Direct(places, args.play.insecure),
        (Some(_), false) => bail!("viewers watch over HTTP, or over RTMP and SRT, but not both in one run"),
        (None, true) => bail!("an address is needed"),
    };
    let settings = LoadSettings {
        viewers: args.viewers.unwrap_or(1).clamp(1, 1_000_000),
        ramp: args.ramp,
        duration: args.duration,
        player: args.play.player(),
    };
    let live = io::stderr().is_terminal();
    let report = viewers(audience, settings, |came, stalls| {
        if live {
            let _ = write!(io::stderr(), "\r\x1b[K{came} viewers, {stalls} stalls so far");
        }
    })
    .await;
    if live {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    if args.play.json {
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(io::stdout(), "{}", report.summary())?;
    }
    Ok(report.began == report.viewers)
}

async fn run_publishers(args: LoadArgs, count: u32) -> anyhow::Result<bool> {
    args.play.has_only_what_rtmp_and_srt_know()?;
    let [url] = args.urls.as_slice() else { bail!("publishers send to one address") };
    if let Some(rest) = url.strip_prefix("srt://") {
        return run_srt_publishers(&args, rest, count).await;
    }
    let rest = url.strip_prefix("rtmp://").context("publishers send to rtmp://HOST[:PORT]/APP[/KEY]")?;
    let (host, path) = rest.split_once('/').context("the address names no application: rtmp://HOST[:PORT]/APP")?;
    let server = if host.contains(':') { host.to_owned() } else { format!("{host}:1935") };
    let clip = args.clip.context("--clip names the FLV file to replay")?;
    let (app, keys) = match &args.keys {
        Some(file) => (path.trim_end_matches('/').to_owned(), lines(file)?),
        None => {
            let (app, key) =
                path.rsplit_once('/').context("without --keys the address ends with a stream key: APP/KEY")?;
            (app.to_owned(), (0..count).map(|index| key.replace("{n}", &index.to_string())).collect())
        }
    };
    if keys.len() < count as usize {
        bail!("{count} publishers need as many stream keys; there are {}", keys.len());
    }
    let keys = keys.into_iter().take(count as usize).collect();
    let report =
        publishers(&PublishTarget { server, app, keys }, &clip, args.duration).await.map_err(anyhow::Error::msg)?;
    tell(&report, args.play.json)
}

/// A stream identifier in each line, or one in the address; the latency in milliseconds.
async fn run_srt_publishers(args: &LoadArgs, rest: &str, count: u32) -> anyhow::Result<bool> {
    let SrtPlace { server, stream_id, settings } = SrtPlace::parse(rest).map_err(anyhow::Error::msg)?;
    let clip = args.clip.as_ref().context("--clip names the FLV file to replay")?;
    let stream_ids = match (&args.keys, stream_id) {
        (Some(file), _) => lines(file)?,
        (None, Some(id)) => (0..count).map(|index| id.replace("{n}", &index.to_string())).collect(),
        (None, None) => bail!("without --keys the address has a stream identifier: srt://HOST:PORT?streamid=publish:…"),
    };
    if stream_ids.len() < count as usize {
        bail!("{count} publishers need as many stream identifiers; there are {}", stream_ids.len());
    }
    let stream_ids = stream_ids.into_iter().take(count as usize).collect();
    let target = SrtTarget { server, stream_ids, settings };
    let report = srt_publishers(&target, clip, args.duration).await.map_err(anyhow::Error::msg)?;
    tell(&report, args.play.json)
}

/// The lines of a file that are not empty; '-' is standard input.
fn lines(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = if file.as_os_str() == "-" {
        io::read_to_string(io::stdin())?
    } else {
        std::fs::read_to_string(file).with_context(|| file.display().to_string())?
    };
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn tell(report: &PublishReport, json: bool) -> anyhow::Result<bool> {
    if json {
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        writeln!(
            io::stdout(),
            "{} of {} publishers to the end, {} ms behind at most",
            report.completed,
            report.publishers,
            report.behind_ms_max
        )?;
        for failure in &report.failures {
            writeln!(io::stdout(), "a publisher ended: {failure}")?;
        }
    }
    Ok(report.completed == report.publishers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        for (text, millis) in [("90", 90_000), ("90s", 90_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1.5s", "1d", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
