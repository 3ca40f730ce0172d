//! What happened to streams: a bounded log that anybody can follow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use media::StreamName;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Events that are kept in memory.
const EVENTS_MAX: usize = 4096;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A leg connected.
    LegJoined,
    /// A leg is gone.
    LegLeft,
    /// The state of a leg changed.
    LegState,
    /// A publisher was turned away.
    LegRefused,
    /// The time of a leg had to be repaired.
    LegRepaired,
    /// A leg carries the same encode as the program, too far ahead or behind for the one to fill what the other lacks.
    LegApart,
    /// Another leg feeds the program.
    Switched,
    /// Two legs were found to carry the same encode: either may fail from now on without loss.
    Merged,
    /// Legs that carried the same encode no longer do.
    Parted,
    /// What one leg lacked another one brought.
    Filled,
    /// Pictures are missing that no leg brought.
    Hole,
    /// Media flows again, or for the first time.
    Live,
    /// No leg delivers.
    Lost,
    /// No leg delivers, and no slate can stand in.
    SlateMissing,
    /// The stream is over.
    Ended,
    /// An operator did something.
    Operator,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::LegJoined,
        Self::LegLeft,
        Self::LegState,
        Self::LegRefused,
        Self::LegRepaired,
        Self::LegApart,
        Self::Switched,
        Self::Merged,
        Self::Parted,
        Self::Filled,
        Self::Hole,
        Self::Live,
        Self::Lost,
        Self::SlateMissing,
        Self::Ended,
        Self::Operator,
    ];

    /// The word for it in the API, in webhooks and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LegJoined => "leg.joined",
            Self::LegLeft => "leg.left",
            Self::LegState => "leg.state",
            Self::LegRefused => "leg.refused",
            Self::LegRepaired => "leg.repaired",
            Self::LegApart => "leg.apart",
            Self::Switched => "stream.switched",
            Self::Merged => "stream.merged",
            Self::Parted => "stream.parted",
            Self::Filled => "stream.filled",
            Self::Hole => "stream.hole",
            Self::Live => "stream.live",
            Self::Lost => "stream.lost",
            Self::SlateMissing => "slate.missing",
            Self::Ended => "stream.ended",
            Self::Operator => "operator",
        }
    }
}

/// Why the program changed its leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SwitchReason {
    /// It was the first, or nobody fed the program.
    Joined,
    /// The leg before closed its connection.
    Closed,
    /// The leg before was silent.
    Silent,
    /// The leg before delivered, and something was wrong with what it brought.
    Degraded,
    /// A preferred leg has been healthy for the hold-down time.
    Preferred,
    /// A source is there again, in place of the slate.
    Recovered,
    /// The leg before is no copy any more of the one that goes on.
    Parted,
    /// An operator said so.
    Operator,
}

impl SwitchReason {
    /// The word for it in the API and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Degraded => "degraded",
            Self::Preferred => "preferred",
            Self::Recovered => "recovered",
            Self::Parted => "parted",
            Self::Operator => "operator",
        }
    }
}

/// One thing that happened to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counts up over the whole process.
    pub number: u64,
    /// When, in nanoseconds of UTC.
    pub utc_nanos: i64,
    /// Whose.
    pub stream: StreamName,
    /// What kind of thing.
    pub kind: EventKind,
    /// The leg it is about, where it is about one.
    pub leg: Option<u64>,
    /// Why, for a switch.
    pub reason: Option<SwitchReason>,
    /// What was seen, in words.
    pub text: String,
    /// Program time without a picture, for a switch and a hole; time without media, where it flows again.
    pub gap: Option<Duration>,
    /// Pictures that are missing in the program, for a switch and a hole: the gap in usual intervals.
    pub units_lost: Option<u64>,
}

/// An event before it has a number and a name.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) kind: EventKind,
    pub(crate) leg: Option<u64>,
    pub(crate) reason: Option<SwitchReason>,
    pub(crate) text: String,
    pub(crate) gap: Option<Duration>,
    pub(crate) units_lost: Option<u64>,
}

impl Draft {
    pub(crate) fn new(kind: EventKind, leg: Option<u64>, text: impl Into<String>) -> Self {
        Self { kind, leg, reason: None, text: text.into(), gap: None, units_lost: None }
    }
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Arc<Event>>,
    next: u64,
}

/// The last events of all streams. Adding one never waits; who follows too slowly misses the oldest and sees it by the numbers.
#[derive(Debug, Default)]
pub struct EventLog {
    kept: Mutex<Kept>,
    head: watch::Sender<u64>,
}

impl EventLog {
    /// A log whose first event has this number.
    pub(crate) fn starting_at(next: u64) -> Self {
        Self { kept: Mutex::new(Kept { next, ..Kept::default() }), head: watch::Sender::new(next) }
    }

    pub(crate) fn add(&self, utc_nanos: i64, stream: &StreamName, draft: Draft) {
        let Draft { kind, leg, reason, text, gap, units_lost } = draft;
        let mut kept = self.kept.lock();
        let number = kept.next;
        kept.next += 1;
        let stream = stream.clone();
        let event = Event { number, utc_nanos, stream, kind, leg, reason, text, gap, units_lost };
        kept.events.push_back(Arc::new(event));
        if kept.events.len() > EVENTS_MAX {
            kept.events.pop_front();
        }
        drop(kept);
        self.head.send_replace(number + 1);
    }

    /// Events with `number` and above, the oldest first, at most `limit`.
    pub fn since(&self, number: u64, limit: usize) -> Vec<Arc<Event>> {
        let kept = self.kept.lock();
        let first = kept.events.front().map_or(0, |event| event.number);
        let skip = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
        kept.events.iter().skip(skip).take(limit).cloned().collect()
    }

    /// The number the next event will have; changes with each.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }
}

/// What goes on is told so long after it was told last, and twice as long each time, up to the longest.
const TOLD_FIRST: Duration = Duration::from_secs(10);
const TOLD_LONGEST: Duration = Duration::from_hours(1);

/// Which figures are known to whoever follows the events.
#[derive(Debug)]
pub(crate) struct Told<T> {
    figures: T,
    at: Option<Instant>,
    pause: Duration,
}

impl<T: Default> Default for Told<T> {
    fn default() -> Self {
        Self { figures: T::default(), at: None, pause: TOLD_FIRST }
    }
}

impl<T: PartialEq> Told<T> {
    /// What was told last, where there is something new and it is to be told, once in a while.
    pub(crate) fn news(&mut self, now: Instant, figures: T) -> Option<T> {
        let quiet = self.at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        if figures == self.figures || quiet < self.pause {
            return None;
        }
        let goes_on = quiet < 2 * self.pause;
        self.pause = if goes_on { (2 * self.pause).min(TOLD_LONGEST) } else { TOLD_FIRST };
        self.at = Some(now);
        Some(std::mem::replace(&mut self.figures, figures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_numbers_tell_what_was_missed() {
        let (log, name) = (EventLog::default(), "a".parse().expect("a name"));
        for _ in 0..EVENTS_MAX + 10 {
            log.add(0, &name, Draft::new(EventKind::Live, None, "text"));
        }
        let events = log.since(3, 5);
        assert_eq!(events.iter().map(|event| event.number).collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
        assert!(log.since(EVENTS_MAX as u64 + 10, 5).is_empty());
        assert_eq!(*log.watch().borrow(), EVENTS_MAX as u64 + 10);
    }
}
