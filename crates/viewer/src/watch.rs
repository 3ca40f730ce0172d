//! Drives a follower over a client: the only place where it meets sockets and clocks.

use std::collections::HashMap;
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
    let mut ids = HashMap::new();
    let mut next_tick = Instant::now() + tick;
    loop {
        let deadline = loop {
            match follower.poll_output() {
                Output::Fetch(fetch) => {
                    let client = Arc::clone(client);
                    let id = fetch.id;
                    let task = fetches.spawn(async move { client.fetch(&fetch).await });
                    ids.insert(task.id(), id);
                }
                Output::Event(event) => on_event(follower, Some(&event)),
                Output::Wait(deadline) => break deadline,
            }
        };
        if follower.is_done() {
            break;
        }
        let wake = deadline.into_iter().chain([until, next_tick]).min().unwrap_or(until);
        let input = tokio::select! {
            Some(answered) = fetches.join_next_with_id() => {
                let (task, outcome) = match answered {
                    Ok((task, outcome)) => (task, outcome),
                    Err(error) => (error.id(), Err(format!("the request's task ended: {error}"))),
                };
                let Some(id) = ids.remove(&task) else { continue };
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
    follower.finish(moment());
    on_event(follower, None);
}
