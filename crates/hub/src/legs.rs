//! The legs of a stream, as the stream sees them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::observe::{Advice, Observed};
use crate::program::{CopyFigures, Program};
use crate::report::{Link, Marker, Publisher, SLATE_RANK, Transport};
use crate::sample::Newest;
use crate::standby::Standby;
use crate::timeline::Repairs;
use crate::vitals::Shown;

/// How a leg does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegState {
    /// It is connected and has brought nothing yet.
    Waiting,
    /// It delivers.
    Healthy,
    /// It has just fallen silent, or it delivers and something is wrong with what it brings.
    Suspect,
    /// It is connected and has long been silent, or its peer has closed.
    Dead,
    /// An operator has taken it out.
    Disabled,
}

impl LegState {
    /// The word for it in the API and in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Disabled => "disabled",
        }
    }
}

/// What a leg does for the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegRole {
    /// It feeds the program, and leads where several do.
    Feeding,
    /// It feeds the program as a copy of the leg that leads.
    Copy,
    /// It stands by.
    Standby,
}

impl LegRole {
    /// The word for it in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Feeding => "feeding",
            Self::Copy => "copy",
            Self::Standby => "standby",
        }
    }
}

/// A leg as the API shows it.
#[derive(Clone, Debug)]
pub struct LegStatus {
    /// Its number within the stream; never used again.
    pub id: u64,
    /// Who sends it.
    pub publisher: Publisher,
    /// How it does.
    pub state: LegState,
    /// What it does.
    pub role: LegRole,
    /// Since it connected.
    pub connected_for: Duration,
    /// Since the last media, where there was any.
    pub silent_for: Option<Duration>,
    /// What it really sends.
    pub observed: Observed,
    /// What is wrong with what it brings, in words.
    pub weakness: Option<String>,
    /// Repairs of its timeline.
    pub repairs: Repairs,
    /// What the network did, where the protocol tells.
    pub transport: Option<Transport>,
    /// How it compares to the other copies, where there are any.
    pub copy: Option<CopyFigures>,
    /// By how many nanoseconds its last picture came after it was captured, by the encoder's clock, where the encoder tells; negative
    /// where that clock is ahead.
    pub capture_delay_nanos: Option<i64>,
}

/// Silence that is suspect of a leg whose interval of pictures is not known, since it has brought one.
const FIRST_SILENCE: Duration = Duration::from_millis(1250);
/// A leg that is silent for this many times the silence that makes it suspect is dead.
const DEAD: u32 = 4;

/// Whether a leg is too far from the program, which carries the same encode.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Apart {
    Near,
    /// Seen so first, and last.
    Since {
        first: Instant,
        last: Instant,
    },
    Told,
}

#[derive(Debug)]
pub(crate) struct LegRecord {
    pub(crate) id: u64,
    pub(crate) publisher: Publisher,
    /// Of any track.
    pub(crate) last_media: Option<Instant>,
    last_picture: Option<Instant>,
    /// Usual interval of its pictures; none before there were two.
    interval: Option<Duration>,
    /// Its session is gone, and the next look at the clocks removes it.
    pub(crate) is_gone: bool,
    /// The peer has closed its side, and what it sent before is still being taken in.
    pub(crate) has_hung_up: bool,
    pub(crate) is_disabled: bool,
    pub(crate) began: Instant,
    /// Since when it has delivered without a break.
    pub(crate) healthy_since: Option<Instant>,
    /// As it was told last.
    pub(crate) state: LegState,
    pub(crate) standby: Standby,
    /// What is wrong with what it brings, in words.
    pub(crate) weakness: Option<String>,
    /// When its stamps jumped last.
    pub(crate) broke_at: Option<Instant>,
    pub(crate) apart: Apart,
    /// What it has shown lately.
    pub(crate) shown: Shown,
    /// What is wrong with it when it is looked at and listened to.
    pub(crate) seen: Option<String>,
    /// What was not looked at yet, where somebody does.
    pub(crate) newest: Newest,
    pub(crate) observed: Observed,
    pub(crate) repairs: Repairs,
    pub(crate) transport: Option<Transport>,
    pub(crate) capture_delay_nanos: Option<i64>,
    pub(crate) links: Vec<Link>,
    pub(crate) markers: VecDeque<Marker>,
    pub(crate) ts_errors: Vec<(&'static str, u64)>,
    pub(crate) problems: Vec<Advice>,
    /// Ends the session, with a reason.
    pub(crate) kick: watch::Sender<Option<String>>,
}

impl LegRecord {
    pub(crate) fn new(id: u64, publisher: Publisher, now: Instant, kick: watch::Sender<Option<String>>) -> Self {
        Self {
            id,
            publisher,
            last_media: None,
            last_picture: None,
            interval: None,
            is_gone: false,
            has_hung_up: false,
            is_disabled: false,
            began: now,
            healthy_since: None,
            state: LegState::Waiting,
            standby: Standby::new(now),
            weakness: None,
            broke_at: None,
            apart: Apart::Near,
            shown: Shown::NOTHING,
            seen: None,
            newest: Newest::default(),
            observed: Observed::default(),
            repairs: Repairs::default(),
            transport: None,
            capture_delay_nanos: None,
            links: Vec::new(),
            markers: VecDeque::new(),
            ts_errors: Vec::new(),
            problems: Vec::new(),
            kick,
        }
    }

    /// It has delivered media that reaches until then, and pictures among it usually come at this interval.
    pub(crate) fn on_media(&mut self, now: Instant, until: Instant, has_picture: bool, interval: Option<Duration>) {
        self.last_media = Some(until);
        self.interval = interval;
        if has_picture {
            self.last_picture = Some(until);
        }
        self.healthy_since.get_or_insert(now);
    }

    /// How long nothing has come: no picture, if it ever brought one. Since it connected, where nothing ever came.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_picture.or(self.last_media).unwrap_or(self.began))
    }

    /// Longest silence that is usual for it: three times the interval of its pictures.
    pub(crate) fn usual_silence(&self) -> Duration {
        let first = if self.last_picture.is_some() { FIRST_SILENCE } else { Duration::ZERO };
        self.interval.map_or(first, |interval| 3 * interval)
    }

    /// How long a program that it leads waits for it.
    pub(crate) fn patience(&self) -> Duration {
        if self.interval.is_some() { self.usual_silence() } else { DEAD * self.usual_silence() }
    }

    /// How it does, where silence of `suspect_after` is suspect.
    pub(crate) fn health(&self, now: Instant, suspect_after: Duration) -> LegState {
        let suspect_after = suspect_after.max(self.usual_silence());
        if self.is_disabled {
            LegState::Disabled
        } else if self.last_media.is_none() {
            LegState::Waiting
        } else if self.has_hung_up || self.is_gone || self.silence(now) >= DEAD * suspect_after {
            LegState::Dead
        } else if self.weakness.is_some() || self.silence(now) >= suspect_after {
            LegState::Suspect
        } else {
            LegState::Healthy
        }
    }

    /// Whether something comes of it, good or bad.
    pub(crate) fn delivers(&self, now: Instant, suspect_after: Duration) -> bool {
        let suspect_after = suspect_after.max(self.usual_silence());
        let is_silent = self.has_hung_up || self.is_gone || self.silence(now) >= suspect_after;
        !self.is_disabled && self.last_media.is_some() && !is_silent
    }

    /// It is no source but what is shown without one.
    pub(crate) fn is_slate(&self) -> bool {
        self.publisher.rank == SLATE_RANK
    }

    /// `rtmp from 192.0.2.1:5000`.
    pub(crate) fn describe(&self) -> String {
        if self.is_slate() {
            return format!("leg {} (slate)", self.id);
        }
        format!("leg {} ({} from {})", self.id, self.publisher.protocol, self.publisher.peer)
    }

    pub(crate) fn status(&self, now: Instant, program: &Program) -> LegStatus {
        let role = match program.leader() {
            Some(leader) if leader == self.id => LegRole::Feeding,
            _ if program.is_fed_by(self.id) => LegRole::Copy,
            _ => LegRole::Standby,
        };
        LegStatus {
            id: self.id,
            publisher: self.publisher.clone(),
            state: self.state,
            role,
            connected_for: now.saturating_duration_since(self.began),
            silent_for: self.last_media.map(|last| now.saturating_duration_since(last)),
            observed: self.observed.clone(),
            weakness: self.weakness.clone(),
            repairs: self.repairs,
            transport: self.transport,
            copy: program.copy_figures(self.id),
            capture_delay_nanos: self.capture_delay_nanos,
        }
    }
}
