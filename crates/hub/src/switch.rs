//! Which leg feeds the program: decided by what the legs bring, by rank, and by the operator. Every decision has a reason.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::event::{Draft, EventKind, SwitchReason};
use crate::legs::{Apart, LegRecord, LegState};
use crate::program::{Arrival, Joined};
use crate::stream::{Shared, Stream};

/// Returns to a preferred leg within [`FLAP_TIME`]; more wait.
const RETURNS_MAX: usize = 3;
const FLAP_TIME: Duration = Duration::from_mins(2);

/// After a jump the sound of a leg may move by a frame for half a second, and eight more tell where it lies.
const SETTLE_TIME: Duration = Duration::from_millis(700);

/// A copy is recognised within this time, also in silence (90 pictures): before, a weak leg gives way to nobody. What copies lack they fill
/// in for each other; a cut would leave out what is on its way over the slower one.
const LIKENESS_TIME: Duration = Duration::from_secs(4);

/// Copies that have been too far apart for so long are told.
const APART_TIME: Duration = Duration::from_secs(5);

/// How the last leg that led was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Nobody led.
    Nobody,
    /// It closed; its last media came then.
    Closed { leg: u64, since: Instant },
}

/// There is no such leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream has no leg {0}; `throughline switch STREAM` lists them")]
pub struct UnknownLeg(pub u64);

/// Whether it would have been recognised by now if it were a copy, or was.
fn is_known(shared: &Shared, leg: &LegRecord, now: Instant) -> bool {
    let since = leg.healthy_since.max(leg.broke_at);
    let for_long = since.is_some_and(|since| now.saturating_duration_since(since) >= LIKENESS_TIME);
    for_long || shared.program.is_fed_by(leg.id)
}

impl Stream {
    /// Changes the leg that leads, if there is a reason and a leg that can.
    pub(crate) fn consider(&self, shared: &mut Shared, at: Arrival) {
        if shared.forced.is_some() && shared.forced == shared.program.leader() {
            shared.chosen = shared.forced.take(); // it leads already, and stays
        }
        for (target, reason) in self.targets(shared, at.now) {
            if self.switch(shared, at, target, reason) {
                return;
            }
        }
    }

    /// The legs that should lead, the best first: one that has no random access point yet must not stand in the way of another.
    fn targets(&self, shared: &Shared, now: Instant) -> Vec<(u64, SwitchReason)> {
        let suspect_after = self.suspect_after();
        let is_healthy = |leg: &LegRecord| leg.health(now, suspect_after) == LegState::Healthy;
        let leader = shared.program.leader();
        let leading = leader.and_then(|id| shared.leg(id));
        let delivers = |leg: &LegRecord| leg.delivers(now, suspect_after);
        let leads_well = leading.is_some_and(delivers);
        let mut targets = Vec::new();
        for wanted in [shared.forced, shared.pinned].into_iter().flatten() {
            if shared.leg(wanted).is_some_and(delivers) {
                if leader == Some(wanted) {
                    return targets;
                }
                targets.push((wanted, SwitchReason::Operator));
            }
        }
        if leads_well && !targets.is_empty() {
            return targets;
        }
        let others = || shared.legs.iter().filter(|leg| Some(leg.id) != leader && delivers(leg));
        if !leads_well {
            let reason = match (leading, shared.cause) {
                (Some(leg), _) if leg.is_disabled => SwitchReason::Operator,
                (Some(leg), _) if leg.has_hung_up => SwitchReason::Closed,
                (Some(_), _) => SwitchReason::Silent,
                (None, Cause::Closed { .. }) => SwitchReason::Closed,
                (None, Cause::Nobody) => SwitchReason::Joined,
            };
            let mut best: Vec<&LegRecord> = others().collect();
            best.sort_by_key(|leg| {
                let is_alike = shared.program.likeness(leg.id, &leg.standby).is_some();
                let is_copy = shared.program.is_fed_by(leg.id);
                (
                    leg.is_slate(),
                    leg.weakness.is_some(),
                    !is_copy,
                    !is_alike,
                    leg.publisher.rank,
                    Reverse(leg.last_media),
                )
            });
            targets.extend(best.into_iter().map(|leg| (leg.id, reason)));
            return targets;
        }
        let Some(leading) = leading else { return targets };
        if leading.weakness.is_some() && shared.chosen != leader {
            let is_better = |leg: &&LegRecord| is_healthy(leg) && !leg.is_slate() && is_known(shared, leg, now);
            let mut best: Vec<&LegRecord> = others().filter(is_better).collect();
            best.sort_by_key(|leg| (leg.publisher.rank, leg.id));
            targets.extend(best.into_iter().map(|leg| (leg.id, SwitchReason::Degraded)));
            return targets;
        }
        let flaps = shared.returns.iter().filter(|then| now.saturating_duration_since(**then) < FLAP_TIME).count();
        let (reason, hold_down) = if leading.is_slate() {
            (SwitchReason::Recovered, Duration::ZERO)
        } else if flaps < RETURNS_MAX && shared.chosen != leader {
            (SwitchReason::Preferred, self.config.hold_down)
        } else {
            return targets;
        };
        let is_steady =
            |leg: &&LegRecord| leg.healthy_since.is_some_and(|since| now.saturating_duration_since(since) >= hold_down);
        let mut best: Vec<&LegRecord> =
            others().filter(|leg| leg.publisher.rank < leading.publisher.rank).filter(is_steady).collect();
        best.sort_by_key(|leg| (leg.publisher.rank, leg.id));
        targets.extend(best.into_iter().map(|leg| (leg.id, reason)));
        targets
    }

    /// Makes a leg lead; whether it could.
    fn switch(&self, shared: &mut Shared, at: Arrival, target: u64, reason: SwitchReason) -> bool {
        let before = shared.program.leader();
        let since_last = shared.program.last_arrival().map(|last| at.now.saturating_duration_since(last));
        let joined = if shared.program.is_fed_by(target) {
            shared.program.lead(target);
            None
        } else {
            let Shared { program, legs, .. } = shared;
            let Some(leg) = legs.iter_mut().find(|leg| leg.id == target) else { return false };
            let likeness = program.likeness(target, &leg.standby);
            let before: Vec<u64> = program.feeds().collect();
            let Some(joined) = program.join(at, target, &mut leg.standby, likeness) else { return false };
            for leg in legs.iter_mut().filter(|leg| before.contains(&leg.id) && !program.is_fed_by(leg.id)) {
                leg.standby.has_fed = true;
            }
            Some(joined)
        };
        let text = self.describe_switch(shared, at.now, (before, target, reason), joined, since_last);
        let gap = joined.map_or(Some(Duration::ZERO), |joined| joined.gap);
        let units_lost = joined.map_or(Some(0), |joined| joined.gap.map(|_| joined.lost));
        self.tell(
            at,
            Draft { reason: Some(reason), gap, units_lost, ..Draft::new(EventKind::Switched, Some(target), text) },
        );
        if reason == SwitchReason::Preferred {
            shared.returns.push_back(at.now);
            if shared.returns.len() > RETURNS_MAX {
                shared.returns.pop_front();
            }
        }
        // Where an operator put the stream it stays, while that leg is healthy.
        shared.chosen = shared.forced.take_if(|forced| *forced == target);
        shared.cause = Cause::Nobody;
        self.after_change(shared, at, None);
        true
    }

    /// A switch in words: which leg, why, and what it cost.
    fn describe_switch(
        &self,
        shared: &Shared,
        now: Instant,
        (before, target, reason): (Option<u64>, u64, SwitchReason),
        joined: Option<Joined>,
        since_last: Option<Duration>,
    ) -> String {
        let leg = shared.leg(target).map(LegRecord::describe).unwrap_or_default();
        let mut text = format!("{leg} feeds the program");
        let _ = match (reason, before, shared.cause) {
            (SwitchReason::Silent, Some(id), _) => {
                let silence = shared.leg(id).map_or(Duration::ZERO, |leg| leg.silence(now)).as_millis();
                write!(text, ": leg {id} was silent for {silence} ms")
            }
            (SwitchReason::Closed, _, Cause::Closed { leg, since }) => {
                let passed = now.saturating_duration_since(since).as_millis();
                write!(text, ": leg {leg} closed, {passed} ms after its last media")
            }
            (SwitchReason::Closed, Some(id), _) => write!(text, ": the peer of leg {id} closed"),
            (SwitchReason::Degraded, Some(id), _) => {
                let evidence = shared.leg(id).and_then(|leg| leg.weakness.as_deref()).unwrap_or_default();
                write!(text, ": leg {id} brought {evidence}")
            }
            (SwitchReason::Preferred, ..) => {
                let hold_down = self.config.hold_down.as_secs();
                write!(text, ": it is preferred and has been healthy for {hold_down} s")
            }
            (SwitchReason::Operator, ..) => write!(text, ": an operator said so"),
            _ => Ok(()),
        };
        let squeezed = joined.map_or(0, |joined| joined.squeezed);
        if joined.is_none_or(|joined| joined.is_copy) {
            text.push_str("; it carries the same encode");
        } else if squeezed > 0 {
            let _ = write!(text, "; {squeezed} pictures of its GOP were caught up");
        }
        if joined.is_some_and(|joined| joined.is_by_capture) {
            text.push_str("; aligned by the times of capture");
        }
        if let Some(passed) = since_last {
            let _ = write!(text, "; {} ms since the last picture arrived", passed.as_millis());
        }
        text
    }

    /// The legs that feed the program may have changed: those that do not are looked at for likeness. Where a leg led that does not
    /// any more, for this reason, and a copy of it goes on, that is told.
    pub(crate) fn after_change(&self, shared: &mut Shared, at: Arrival, led: Option<SwitchReason>) {
        if let (Some(reason), Some(next)) = (led, shared.program.leader()) {
            let leg = shared.leg(next).map(LegRecord::describe).unwrap_or_default();
            let text = format!("{leg} carries on: it carries the same encode");
            let (gap, units_lost, reason) = (Some(Duration::ZERO), Some(0), Some(reason));
            self.tell(at, Draft { reason, gap, units_lost, ..Draft::new(EventKind::Switched, Some(next), text) });
            (shared.cause, shared.chosen) = (Cause::Nobody, None);
        }
        let Shared { program, legs, .. } = shared;
        legs.iter().for_each(|leg| program.add_candidate(leg.id));
    }

    /// Looks whether a leg that stands by carries what the program carries; then it feeds it too.
    pub(crate) fn look_for_copies(&self, shared: &mut Shared, at: Arrival, id: u64) {
        let Shared { program, legs, .. } = shared;
        let Some(leg) = legs.iter_mut().find(|leg| leg.id == id && !leg.is_disabled) else { return };
        if leg.broke_at.is_some_and(|then| at.now.saturating_duration_since(then) < SETTLE_TIME) {
            return;
        }
        let Some(shifts) = program.leader().and_then(|_| program.likeness(id, &leg.standby)) else { return };
        let lead = program.lead_of(shifts, &leg.standby);
        if lead.saturating_sub(program.lag()) > program.reach(self.config.merge_window, &leg.standby) {
            let what = "ahead of the program: it stands by, and fills no holes. Raise that, or lower the latency of the other path";
            self.note_apart(leg, at, lead, what);
            return; // what it has kept is used when it is needed
        }
        if leg.weakness.is_some() && lead > self.config.merge_window / 2 {
            return; // what it lacks would come too late over the others
        }
        program.add_copy(at, id, &mut leg.standby, shifts);
        let text = format!("{} carries the same encode: either may fail without loss", leg.describe());
        self.tell(at, Draft::new(EventKind::Merged, Some(id), text));
    }

    /// Looks for copies that come too late to fill what the others lack.
    pub(crate) fn look_for_late_copies(&self, shared: &mut Shared, at: Arrival) {
        let Shared { program, legs, .. } = shared;
        let (late, suspect_after): (Vec<u64>, _) = (program.laggards().collect(), self.suspect_after());
        for leg in legs.iter_mut().filter(|leg| late.contains(&leg.id) && leg.delivers(at.now, suspect_after)) {
            let Some(figures) = program.copy_figures(leg.id) else { continue };
            let what = "late: when the others die it goes on, that much later, and it fills none of their holes. Raise that, or lower its latency";
            self.note_apart(leg, at, figures.late, what);
        }
    }

    /// A leg that carries the same encode is so far from the program: told where it goes on, once.
    fn note_apart(&self, leg: &mut LegRecord, at: Arrival, apart: Duration, what: &str) {
        let first = match leg.apart {
            Apart::Told => return,
            Apart::Since { first, last } if at.now.saturating_duration_since(last) < APART_TIME / 2 => first,
            Apart::Since { .. } | Apart::Near => at.now,
        };
        if at.now.saturating_duration_since(first) < APART_TIME {
            leg.apart = Apart::Since { first, last: at.now };
            return;
        }
        leg.apart = Apart::Told;
        let (apart, window) = (apart.as_millis(), self.config.merge_window.as_millis());
        let text = format!(
            "{} carries the same encode {apart} ms (more than streams.merge_window_ms, {window}) {what}",
            leg.describe()
        );
        self.tell(at, Draft::new(EventKind::LegApart, Some(leg.id), text));
    }

    /// A leg brings something else than the others that were its copies.
    pub(crate) fn look_for_strangers(&self, shared: &mut Shared, at: Arrival) {
        while let Some(id) = shared.program.parted() {
            self.part(shared, at, id, ("other pictures at the same times", SwitchReason::Parted));
        }
    }

    /// A weak leg that feeds the program keeps out the pictures of a copy that is well and comes too late to fill what is missing.
    pub(crate) fn look_for_weak_copies(&self, shared: &mut Shared, at: Arrival) {
        let suspect_after = self.suspect_after();
        let is_well = |leg: &&LegRecord| leg.health(at.now, suspect_after) == LegState::Healthy;
        let late: Vec<u64> = shared.program.laggards().collect();
        if !shared.legs.iter().filter(is_well).any(|leg| late.contains(&leg.id)) {
            return;
        }
        let kept = [shared.pinned, shared.chosen]; // an operator wants its pictures all the same
        let is_weak = |leg: &&LegRecord| leg.weakness.is_some() && !late.contains(&leg.id);
        let weak = shared.legs.iter().filter(is_weak).filter(|leg| !kept.contains(&Some(leg.id)));
        let weak: Vec<u64> = weak.map(|leg| leg.id).filter(|leg| shared.program.is_fed_by(*leg)).collect();
        for id in weak {
            self.part(shared, at, id, ("what it lacks comes too late over the others", SwitchReason::Degraded));
        }
    }

    /// The stamps of a leg jumped: where it lies beside the others is not known any more. One that is alone goes on all the same.
    pub(crate) fn on_jump(&self, shared: &mut Shared, at: Arrival, id: u64) {
        shared.leg_mut(id).into_iter().for_each(|leg| leg.broke_at = Some(at.now));
        let suspect_after = self.suspect_after();
        let goes_on = |other: u64| shared.leg(other).is_some_and(|leg| leg.delivers(at.now, suspect_after));
        if !shared.program.is_fed_by(id) {
            shared.program.unlearn(id);
        } else if shared.program.feeds().any(|other| other != id && goes_on(other)) {
            self.part(shared, at, id, ("its timestamps jumped", SwitchReason::Parted));
        }
    }

    fn part(&self, shared: &mut Shared, at: Arrival, id: u64, (why, reason): (&str, SwitchReason)) {
        let led = (shared.program.leader() == Some(id)).then_some(reason);
        let leg = shared.leg(id).map(LegRecord::describe).unwrap_or_default();
        self.tell(at, Draft::new(EventKind::Parted, Some(id), format!("{leg} is no copy any more: {why}")));
        shared.program.forget(at, id);
        if let Some(leg) = shared.leg_mut(id) {
            leg.standby.clear();
        }
        self.after_change(shared, at, led);
    }

    /// Tells of legs whose health changed.
    pub(crate) fn note_health(&self, shared: &mut Shared, at: Arrival) {
        let suspect_after = self.suspect_after();
        let Shared { legs, chosen, forced, .. } = shared;
        for leg in legs {
            let state = leg.health(at.now, suspect_after);
            if matches!(state, LegState::Suspect | LegState::Dead) {
                leg.healthy_since = None;
            }
            if std::mem::replace(&mut leg.state, state) == state {
                continue;
            }
            if state != LegState::Healthy {
                // One that was not well when it was chosen stays.
                chosen.take_if(|chosen| *chosen == leg.id);
                forced.take_if(|forced| *forced == leg.id);
            }
            let evidence = match state {
                LegState::Dead if leg.has_hung_up => ": its peer has closed".into(),
                LegState::Suspect if leg.silence(at.now) < suspect_after => {
                    leg.weakness.as_ref().map(|text| format!(": {text}")).unwrap_or_default()
                }
                LegState::Suspect | LegState::Dead => format!(": nothing for {} ms", leg.silence(at.now).as_millis()),
                _ => String::new(),
            };
            let text = format!("{} is {}{evidence}", leg.describe(), state.as_str());
            self.tell(at, Draft::new(EventKind::LegState, Some(leg.id), text));
        }
    }

    // ---- the operator

    /// Holds the stream on a leg while that is connected (another one feeds it while that one is silent), or lets go of it.
    ///
    /// # Errors
    /// There is no such leg.
    pub fn pin(&self, at: Arrival, leg: Option<u64>) -> Result<(), UnknownLeg> {
        let text = leg.map_or("the stream is not held on a leg any more".into(), |leg| format!("held on leg {leg}"));
        self.operate(at, leg, text, |shared| {
            (shared.forced, shared.pinned, shared.chosen) = (None, leg, None);
        })
    }

    /// Wants the stream on a leg, at its next random access point, and while it is healthy.
    ///
    /// # Errors
    /// There is no such leg.
    pub fn switch_to(&self, at: Arrival, leg: u64) -> Result<(), UnknownLeg> {
        self.operate(at, Some(leg), format!("leg {leg} is wanted"), |shared| {
            (shared.forced, shared.pinned) = (Some(leg), None);
        })
    }

    /// Takes a leg out, or lets it take part again.
    ///
    /// # Errors
    /// There is no such leg.
    pub fn set_disabled(&self, at: Arrival, leg: u64, is_disabled: bool) -> Result<(), UnknownLeg> {
        let text = format!("leg {leg} is {}", if is_disabled { "taken out" } else { "let in again" });
        self.operate(at, Some(leg), text, |shared| {
            if let Some(record) = shared.leg_mut(leg) {
                record.is_disabled = is_disabled;
            }
            let led = shared.program.leader() == Some(leg);
            if is_disabled && shared.program.is_fed_by(leg) {
                shared.program.forget(at, leg);
                self.after_change(shared, at, led.then_some(SwitchReason::Operator));
            }
        })
    }

    fn operate(
        &self,
        at: Arrival,
        leg: Option<u64>,
        text: String,
        change: impl FnOnce(&mut Shared),
    ) -> Result<(), UnknownLeg> {
        let mut shared = self.lock();
        if let Some(unknown) = leg.filter(|leg| !shared.has_leg(*leg)) {
            return Err(UnknownLeg(unknown));
        }
        self.tell(at, Draft::new(EventKind::Operator, leg, text));
        self.emitting(&mut shared, at, |shared| {
            change(shared);
            self.after_change(shared, at, None);
            self.note_health(shared, at);
            self.consider(shared, at);
        });
        Ok(())
    }
}
