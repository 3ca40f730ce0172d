//! Drives a follower over a client: the only place where it meets sockets and clocks.

use std::pin::pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::stream::{FuturesUnordered, StreamExt as _};

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
    client: &Client,
    follower: &mut Follower,
    until: Instant,
    tick: Duration,
    mut on_event: impl FnMut(&Follower, Option<&Event>),
) {
    // In one task: a viewer has at most a few requests at a time, and a task for each would cost more than it.
    let mut fetches = FuturesUnordered::new();
    let mut next_tick = Instant::now() + tick;
    let mut alarm = pin!(tokio::time::sleep_until(next_tick.into()));
    loop {
        let deadline = loop {
            match follower.poll_output() {
                Output::Fetch(fetch) => fetches.push(async move { (fetch.id, client.fetch(&fetch).await) }),
                Output::Event(event) => on_event(follower, Some(&event)),
                Output::Wait(deadline) => break deadline,
            }
        };
        if follower.is_done() {
            break;
        }
        let wake = deadline.into_iter().chain([until, next_tick]).min().unwrap_or(until).into();
        if alarm.deadline() != wake {
            alarm.as_mut().reset(wake);
        }
        let input = tokio::select! {
            biased;
            Some((id, outcome)) = fetches.next() => Input::Answered(id, outcome),
            () = alarm.as_mut() => Input::Timeout,
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
