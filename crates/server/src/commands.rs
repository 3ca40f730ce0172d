//! What the command line offers.

mod continuity;
mod viewing;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use control::{KeyPurpose, KeyView, PlaybackView, StreamView};
use hyper::Method;
use media::{Playback, StreamName};
use server::config::{Config, ConfigFile, Listen, LogFormatName};
use server::{Local, LocalClient, PassedSockets, Server};
use telemetry::{LogFormat, init_logging};
use tokio::signal::unix::{SignalKind, signal};

/// How often `status` refreshes.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Live-streaming infrastructure: one well-tested path from camera to viewer.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(ServeArgs),
    /// Make, list and revoke keys. Works whether the server runs or not.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Show or say who may watch a stream. Works whether the server runs or not.
    Playback {
        /// Name of the stream.
        stream: StreamName,
        /// 'open': everybody; 'key': who has a play key. Without it, what holds now is printed.
        playback: Option<Playback>,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Show the streams of the running server.
    Status {
        #[command(flatten)]
        state: StateArgs,
        /// Print once as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say which leg feeds a stream of the running server. Without a leg, its legs are shown.
    Switch(continuity::SwitchArgs),
    /// End a broadcast of the running server: its playlist is complete then, and its publishers are disconnected.
    End {
        /// Name of the stream.
        stream: StreamName,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Empty the running server and stop it: no new publishers, and those that can be asked go elsewhere.
    Drain(continuity::DrainArgs),
    /// Show what happened to the streams of the running server, the newest last.
    Events(continuity::EventsArgs),
    /// Look at configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Watch a stream as a player does, and say what a viewer felt. Any server.
    Probe(viewing::ProbeArgs),
    /// Check a live stream against the rules of HLS and LL-HLS. Any server.
    Check(viewing::CheckArgs),
    /// Put load on a server: many viewers, or many publishers. Any server.
    Load(viewing::LoadArgs),
    /// Print the `OpenAPI` description of the API.
    Openapi,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Configuration file (TOML).
    #[arg(long, env = "THROUGHLINE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// State directory [default: throughline-data].
    #[arg(long, env = "THROUGHLINE_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// HTTP address, or 'off' [default: 0.0.0.0:8080].
    #[arg(long, env = "THROUGHLINE_HTTP", value_name = "ADDR")]
    http: Option<Listen>,
    /// HTTPS address, or 'off'; without a certificate one for local trials is made.
    #[arg(long, env = "THROUGHLINE_HTTPS", value_name = "ADDR")]
    https: Option<Listen>,
    /// RTMP address, or 'off' [default: 0.0.0.0:1935].
    #[arg(long, env = "THROUGHLINE_RTMP", value_name = "ADDR")]
    rtmp: Option<Listen>,
    /// RTMPS address, or 'off'; as for HTTPS.
    #[arg(long, env = "THROUGHLINE_RTMPS", value_name = "ADDR")]
    rtmps: Option<Listen>,
    /// SRT listens here (UDP), or 'off'.
    #[arg(long, env = "THROUGHLINE_SRT", value_name = "ADDR")]
    srt: Option<Listen>,
    /// Operations address: API, metrics, health [default: 127.0.0.1:9090].
    #[arg(long, env = "THROUGHLINE_OPS", value_name = "ADDR")]
    ops: Option<Listen>,
    /// Log filter, such as 'info' or 'debug'.
    #[arg(long, env = "THROUGHLINE_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// Log lines as JSON.
    #[arg(long, env = "THROUGHLINE_LOG_JSON")]
    log_json: bool,
}

#[derive(Debug, Args)]
struct StateArgs {
    /// State directory of the server.
    #[arg(long, env = "THROUGHLINE_STATE", value_name = "DIR", default_value = "throughline-data")]
    state: PathBuf,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key for a stream and print it, alone, on standard output.
    Create {
        /// Name of the stream.
        stream: StreamName,
        /// For watching the stream where it is not open, instead of publishing it.
        #[arg(long)]
        play: bool,
        /// Rank of the legs that come with it: 0 is preferred, a higher one is a backup.
        #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "play", value_parser = clap::value_parser!(u8).range(0..100))]
        rank: u8,
        #[command(flatten)]
        state: StateArgs,
    },
    /// List keys, without their secrets.
    List {
        #[command(flatten)]
        state: StateArgs,
    },
    /// Revoke a key by its identifier; who publishes with it is thrown out.
    Revoke {
        /// Identifier from the list.
        id: String,
        #[command(flatten)]
        state: StateArgs,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective configuration, or what is wrong and where. Takes what `serve` takes.
    Check(ServeArgs),
}

/// Does what the command line says; false where it looked at something and it was not good.
pub(crate) fn run(cli: Cli) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match cli.command {
        Command::Probe(args) => return runtime.block_on(viewing::run_probe(args)),
        Command::Check(args) => return runtime.block_on(viewing::run_check(args)),
        Command::Load(args) => return runtime.block_on(viewing::run_load(args)),
        Command::Serve(args) => runtime.block_on(serve(args)),
        Command::Key(command) => runtime.block_on(key(command)),
        Command::Playback { stream, playback: wanted, state } => {
            runtime.block_on(playback(stream, wanted, &state.state))
        }
        Command::Status { state, json } => runtime.block_on(status(&state.state, json)),
        Command::Switch(args) => runtime.block_on(continuity::switch(args)),
        Command::End { stream, state } => runtime.block_on(continuity::end(&stream, &state.state)),
        Command::Drain(args) => runtime.block_on(continuity::drain(args)),
        Command::Events(args) => runtime.block_on(continuity::events(args)),
        Command::Config(ConfigCommand::Check(args)) => check(args),
        Command::Openapi => {
            write!(io::stdout(), "{}", control::openapi_json())?;
            Ok(())
        }
    }
    .map(|()| true)
}

/// The file, with what flags and environment say above it; and what the rest of the program sees.
fn load(args: ServeArgs) -> anyhow::Result<(ConfigFile, Config)> {
    let mut file = args.config.as_deref().map(ConfigFile::load).transpose()?.unwrap_or_default();
    file.state = args.state.or(file.state);
    let listen = &mut file.listen;
    listen.http = args.http.or(listen.http);
    listen.https = args.https.or(listen.https);
    listen.rtmp = args.rtmp.or(listen.rtmp);
    listen.rtmps = args.rtmps.or(listen.rtmps);
    listen.srt = args.srt.or(listen.srt);
    listen.ops = args.ops.or(listen.ops);
    file.log.filter = args.log.unwrap_or(file.log.filter);
    if args.log_json {
        file.log.format = LogFormatName::Json;
    }
    let config = Config::try_from(file.clone()).map_err(|error| match &args.config {
        Some(path) => error.located(path),
        None => error,
    })?;
    Ok((file, config))
}

fn check(args: ServeArgs) -> anyhow::Result<()> {
    let (file, _) = load(args)?;
    write!(io::stdout(), "{}", toml::to_string(&file.effective().redacted())?)?;
    Ok(())
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let passed = PassedSockets::take()?;
    let (file, config) = load(args)?;
    let format = if file.log.format == LogFormatName::Json { LogFormat::Json } else { LogFormat::Text };
    init_logging(format, &file.log.filter).map_err(|error| anyhow::anyhow!("log filter: {error}"))?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut server = Server::start_on(config, passed).await?;
    let addresses = server.addresses();
    for (name, address) in [
        ("http", addresses.http),
        ("https", addresses.https),
        ("rtmp", addresses.rtmp),
        ("rtmps", addresses.rtmps),
        ("srt", addresses.srt),
        ("ops", addresses.ops),
    ] {
        if let Some(address) = address {
            let _ = writeln!(io::stdout(), "{name} {address}"); // nobody may be reading
        }
    }
    if let Some(token) = server.first_token() {
        // Whatever the log filter says, and in its form.
        let line = match format {
            LogFormat::Text => format!("operator token, shown this once: {token}"),
            LogFormat::Json => {
                serde_json::json!({ "level": "INFO", "message": "operator token, shown this once", "token": token })
                    .to_string()
            }
        };
        let _ = writeln!(io::stderr(), "{line}");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = server.drained() => {}
    }
    server.stop().await;
    Ok(())
}

async fn key(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create { stream, play, rank, state } => {
            let purpose = if play { KeyPurpose::Play } else { KeyPurpose::Publish };
            let secret = match Local::reach(&state.state).await? {
                Local::Server(client) => {
                    let body =
                        serde_json::json!({ "stream": stream.as_str(), "purpose": purpose, "rank": rank }).to_string();
                    let view: KeyView = client.call(Method::POST, "/api/v1/keys", body).await?;
                    view.key.context("the server did not show the key")?
                }
                Local::Store(store, _lock) => store.create_key(stream, purpose, rank).await?.secret.expose().to_owned(),
            };
            writeln!(io::stdout(), "{secret}")?;
        }
        KeyCommand::List { state } => {
            let keys: Vec<KeyView> = match Local::reach(&state.state).await? {
                Local::Server(client) => client.call(Method::GET, "/api/v1/keys", String::new()).await?,
                Local::Store(store, _lock) => store.keys().into_iter().map(KeyView::from).collect(),
            };
            writeln!(io::stdout(), "{:<10} {:<24} {:<8} {:<4} CREATED (UTC, SECONDS)", "ID", "STREAM", "FOR", "RANK")?;
            for KeyView { id, stream, purpose, rank, created_utc, .. } in keys {
                writeln!(io::stdout(), "{id:<10} {stream:<24} {:<8} {rank:<4} {created_utc}", purpose.as_str())?;
            }
        }
        KeyCommand::Revoke { id, state } => match Local::reach(&state.state).await? {
            Local::Server(client) => client.call(Method::DELETE, &format!("/api/v1/keys/{id}"), String::new()).await?,
            Local::Store(store, _lock) => {
                let revoked = store.revoke_key(&id).await?;
                revoked.with_context(|| format!("there is no key '{id}'"))?;
            }
        },
    }
    Ok(())
}

async fn playback(stream: StreamName, wanted: Option<Playback>, state: &Path) -> anyhow::Result<()> {
    let now = match Local::reach(state).await? {
        Local::Server(client) => {
            let path = format!("/api/v1/streams/{stream}/playback");
            let view: PlaybackView = match wanted {
                Some(wanted) => {
                    let body = serde_json::json!({ "playback": wanted.as_str() }).to_string();
                    client.call(Method::PUT, &path, body).await?
                }
                None => client.call(Method::GET, &path, String::new()).await?,
            };
            view.playback
        }
        Local::Store(store, _lock) => {
            if let Some(wanted) = wanted {
                store.set_playback(stream.clone(), wanted).await?;
            }
            store.playback(&stream).to_string()
        }
    };
    writeln!(io::stdout(), "{now}")?;
    Ok(())
}

async fn status(state: &Path, json: bool) -> anyhow::Result<()> {
    let live = io::stdout().is_terminal() && !json;
    loop {
        let client = LocalClient::connect(state).await?;
        if json {
            let value: serde_json::Value = client.call(Method::GET, "/api/v1/streams", String::new()).await?;
            writeln!(io::stdout(), "{value:#}")?;
            return Ok(());
        }
        let streams: Vec<StreamView> = client.call(Method::GET, "/api/v1/streams", String::new()).await?;
        let table = status_table(&streams);
        if !live {
            write!(io::stdout(), "{table}")?;
            return Ok(());
        }
        write!(io::stdout(), "\x1b[2J\x1b[H{table}\nCtrl-C ends this view.\n")?; // clear, home
        io::stdout().flush()?;
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
}

fn status_table(streams: &[StreamView]) -> String {
    use std::fmt::Write as _;
    let mut out = format!(
        "{:<20} {:<9} {:>8} {:<24} {:>11} {:<20} ADVICE\n",
        "STREAM", "STATE", "LIVE FOR", "PICTURE", "KBIT/S", "SOUND"
    );
    for stream in streams {
        let live_for = stream.live_seconds.map_or_else(String::new, |seconds| {
            format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
        });
        let picture = stream.video.as_ref().map_or_else(
            || "none".into(),
            |video| format!("{} {}x{} {:.2}", video.codec, video.width, video.height, video.frames_per_second),
        );
        let sound = stream.audio.as_ref().map_or_else(
            || "none".into(),
            |audio| format!("{} {} Hz {} ch", audio.codec, audio.sample_rate, audio.channels),
        );
        let bits = stream.video.as_ref().map_or(0, |video| video.bits_per_second)
            + stream.audio.as_ref().map_or(0, |audio| audio.bits_per_second);
        let advice: Vec<&str> = stream.advice.iter().map(|advice| advice.code.as_str()).collect();
        let _ = writeln!(
            out,
            "{:<20} {:<9} {live_for:>8} {picture:<24} {:>11} {sound:<20} {}",
            stream.name,
            stream.state,
            bits / 1000,
            advice.join(", ")
        );
    }
    if streams.is_empty() {
        out.push_str("no streams\n");
    }
    out
}
