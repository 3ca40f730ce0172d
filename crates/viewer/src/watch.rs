//! Drives a follower over a client: the only place where it meets sockets and clocks.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;

use crate::client::Client;
use crate::follower::{Event, Follower, Input, Output};
use crate::playback::Moment;

/// The moment now, on both clocks.
pub fn moment() -> Moment {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment { now: Instant::now(), utc_nanos: i64::try_from(utc.as_nanos()).unwrap_or(i64::MAX) }
}

/// Watches until `until`, or until the stream is over. `on_event` is called for each event, and every `tick` without one.
pub async fn watch(
    client: &Arc<Client>,
    follower: &mut Follower,
    until: Instant,
    tick: Duration,
    mut on_event: impl FnMut(&Follower, Option<&Event>),
) {
    let mut fetches = JoinSet::new();
    let mut next_tick = Instant::now() + tick;
    while !follower.is_done() {
        let deadline = loop {
            match follower.poll_output() {
                Output::Fetch(fetch) => {
                    let client = Arc::clone(client);
                    fetches.spawn(async move { (fetch.id, client.fetch(&fetch).await) });
                }
                Output::Event(event) => on_event(follower, Some(&event)),
                Output::Wait(deadline) => break deadline,
            }
        };
        let wake = deadline.into_iter().chain([until, next_tick]).min().unwrap_or(until);
        let input = tokio::select! {
            Some(answered) = fetches.join_next() => {
                let Ok((id, outcome)) = answered else { continue }; // a task that panicked asked for nothing more
                Input::Answered(id, outcome)
            }
            () = tokio::time::sleep_until(wake.into()) => Input::Timeout,
        };
        let at = moment();
        follower.handle_input(at, input);
        if at.now >= next_tick {
            next_tick = at.now + tick;
            on_event(follower, None);
        }
        if at.now >= until {
            break;
        }
    }
}
