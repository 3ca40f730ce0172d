//! `switch` and `events`: legs and what happened to them.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use clap::{Args, ValueEnum};
use control::{DrainRequest, EventView, StreamView};
use hyper::Method;
use media::StreamName;

use super::StateArgs;
use server::LocalClient;

/// What is done with a leg.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Action {
    /// Go on with it, at its next random access point, or stay with it, while it is healthy.
    Switch,
    /// Hold the stream on it while it is connected; another one feeds it while that one is silent.
    Pin,
    /// Take it out.
    Disable,
    /// Let it take part again.
    Enable,
}

#[derive(Debug, Args)]
pub(super) struct SwitchArgs {
    /// Name of the stream.
    stream: StreamName,
    /// Number of the leg.
    leg: Option<u64>,
    /// What to do with the leg.
    #[arg(long = "do", value_name = "WHAT", requires = "leg", default_value = "switch")]
    action: Action,
    /// Let go of the leg that the stream is held on.
    #[arg(long, conflicts_with = "leg")]
    unpin: bool,
    #[command(flatten)]
    state: StateArgs,
}

pub(super) async fn switch(args: SwitchArgs) -> anyhow::Result<()> {
    let client = LocalClient::connect(&args.state.state).await?;
    let path = format!("/api/v1/streams/{}", args.stream);
    let change = match (args.leg, args.unpin) {
        (None, true) => serde_json::json!({ "action": "unpin" }),
        (None, false) => {
            let stream: StreamView = client.call(Method::GET, &path, String::new()).await?;
            write!(io::stdout(), "{}", leg_table(&stream))?;
            return Ok(());
        }
        (Some(leg), _) => {
            let action = match args.action {
                Action::Switch => "switch",
                Action::Pin => "pin",
                Action::Disable => "disable",
                Action::Enable => "enable",
            };
            serde_json::json!({ "action": action, "leg": leg })
        }
    };
    client.call::<()>(Method::POST, &format!("{path}/legs"), change.to_string()).await?;
    Ok(())
}

/// The legs of a stream, for people.
fn leg_table(stream: &StreamView) -> String {
    use std::fmt::Write as _;
    let mut out = format!(
        "{:>4} {:<9} {:<8} {:>4} {:<6} {:<24} {:>8} {:>9}\n",
        "LEG", "STATE", "ROLE", "RANK", "BY", "FROM", "KBIT/S", "SILENT MS"
    );
    for leg in &stream.legs {
        let pinned = if stream.pinned == Some(leg.id) { " pinned" } else { "" };
        let silent = leg.silent_ms.map_or_else(String::new, |silent| silent.to_string());
        let _ = writeln!(
            out,
            "{:>4} {:<9} {:<8} {:>4} {:<6} {:<24} {:>8} {silent:>9}{pinned}",
            leg.id,
            leg.state,
            leg.role,
            leg.rank,
            leg.publisher.protocol,
            leg.publisher.peer,
            leg.bits_per_second / 1000,
        );
        if let Some(weakness) = &leg.weakness {
            let _ = writeln!(out, "     {weakness}");
        }
    }
    if stream.legs.is_empty() {
        out.push_str("no legs\n");
    }
    out
}

pub(super) async fn end(stream: &StreamName, state: &Path) -> anyhow::Result<()> {
    let client = LocalClient::connect(state).await?;
    client.call::<()>(Method::DELETE, &format!("/api/v1/streams/{stream}"), String::new()).await?;
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// Where encoders with Enhanced RTMP are asked to go [default: to the same address again, where a
    /// load balancer leads them elsewhere].
    #[arg(long, value_name = "rtmp://HOST:PORT/live")]
    to: Option<String>,
    /// Seconds that publishers have.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    timeout: u64,
    /// End all broadcasts (ENDLIST); without, they go on after the next start.
    #[arg(long)]
    end: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Returns when the server has stopped.
pub(super) async fn drain(args: DrainArgs) -> anyhow::Result<()> {
    let request = DrainRequest { to: args.to, timeout_seconds: Some(args.timeout), end: args.end };
    let client = LocalClient::connect(&args.state.state).await?;
    client.call::<()>(Method::POST, "/api/v1/drain", serde_json::to_string(&request)?).await?;
    while LocalClient::connect(&args.state.state).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Of this stream only.
    stream: Option<StreamName>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

pub(super) async fn events(args: EventsArgs) -> anyhow::Result<()> {
    let client = LocalClient::connect(&args.state.state).await?;
    let stream = args.stream.map_or_else(String::new, |stream| format!("&stream={stream}"));
    let path = format!("/api/v1/events?limit={}{stream}", args.limit);
    let mut events: Vec<EventView> = client.call(Method::GET, &path, String::new()).await?;
    events.reverse();
    if args.json {
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&events)?)?;
        return Ok(());
    }
    for event in events {
        let figures = event.gap_ms.zip(event.units_lost);
        let figures = figures.map_or_else(String::new, |(gap, lost)| format!(" [gap {gap} ms, {lost} pictures lost]"));
        let (seconds, millis) = (event.utc_ms / 1000, event.utc_ms % 1000);
        writeln!(io::stdout(), "{seconds}.{millis:03} {} {}: {}{figures}", event.stream, event.kind, event.text)?;
    }
    Ok(())
}
