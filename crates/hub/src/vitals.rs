//! How well a leg does, by what it brings: its own usual rates are the measure, and limits to leave a verdict lie further out than
//! those to enter it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::report::Transport;
use crate::timeline::Repairs;

/// Looks that a verdict is drawn from, half a second each.
const LOOKS: usize = 4;
/// Looks for the bit rate: pictures differ in size.
const BIT_LOOKS: usize = 8;
/// Looks for the sound: two more, so that others whose sound has stopped as well are known to have none.
const SOUND_LOOKS: usize = LOOKS + 2;
/// Looks after which the usual rates are known.
const SETTLED: u32 = 10;
/// A look that is shorter says nothing.
const LOOK_MIN: Duration = Duration::from_millis(100);
/// Repairs within [`LOOKS`] from which time, or the units, are called bad.
const REPAIRS_MIN: u64 = 8;
/// Pictures that must be usual within [`LOOKS`] before their absence says anything.
const PICTURES_MIN: f64 = 8.0;
/// Frames of sound that must be usual within [`LOOKS`] before their absence says anything.
const SOUND_MIN: f64 = 8.0;
/// Packets lost within [`LOOKS`] from which the transport may be called bad.
const LOST_MIN: u64 = 10;

/// What is wrong with a leg that delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weakness {
    /// Fewer than half of its usual pictures.
    FrameRate,
    /// Less than a tenth of its usual bits.
    BitRate,
    /// Stamps that go backwards, jump, or cannot be.
    Disorder,
    /// Units that cannot be read.
    Damage,
    /// One packet in a hundred never came.
    Loss,
    /// No sound at all, where there was some.
    NoSound,
}

/// What came within a look.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    seconds: f64,
    pictures: u64,
    sound: u64,
    bytes: u64,
    disorder: u64,
    damaged: u64,
    packets: u64,
    lost: u64,
}

/// A rate that rises quickly and falls slowly, so that what goes down bit by bit is still seen to be down.
#[derive(Clone, Copy, Debug, Default)]
struct Usual {
    rate: f64,
    looks: u32,
}

impl Usual {
    fn observe(&mut self, rate: f64) {
        if self.rate <= 0.0 && rate > 0.0 {
            self.looks = 0; // that there was nothing says nothing of what is usual
        }
        self.looks = self.looks.saturating_add(1);
        if self.looks <= SETTLED {
            self.rate += (rate - self.rate) / f64::from(self.looks);
            return;
        }
        let rate = rate.min(self.rate * 1.25); // what was held up and comes at once is no rate
        self.rate += (rate - self.rate) / if rate > self.rate { 8.0 } else { 240.0 };
    }

    /// The part of the usual that this is; all of it where the usual is not known, or too little to say by a few seconds.
    fn part(&self, count: u64, seconds: f64, least: f64) -> f64 {
        let is_known = self.looks >= SETTLED && self.rate * seconds >= least;
        if is_known { rate(count, seconds) / self.rate } else { 1.0 }
    }
}

/// What a source has shown lately.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shown {
    /// The part of its usual bits that its pictures have.
    pub(crate) bits: f64,
    /// It brings sound.
    pub(crate) is_heard: bool,
}

impl Shown {
    /// Of a source of which nothing is known.
    pub(crate) const NOTHING: Self = Self { bits: 1.0, is_heard: false };

    /// The fewest bits of several, and whether any of them is heard.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { bits: self.bits.min(other.bits), is_heard: self.is_heard || other.is_heard }
    }
}

/// Measures one leg.
#[derive(Debug)]
pub(crate) struct Vitals {
    since: Instant,
    now: Look,
    looks: VecDeque<Look>,
    before: (Repairs, Transport),
    pictures: Usual,
    sound: Usual,
    bits: Usual,
    verdict: Option<Weakness>,
}

impl Vitals {
    pub(crate) fn new(now: Instant) -> Self {
        let (looks, before) = (VecDeque::new(), Default::default());
        let [pictures, sound, bits] = [Usual::default(); 3];
        Self { since: now, now: Look::default(), looks, before, pictures, sound, bits, verdict: None }
    }

    /// One picture of so many bytes.
    pub(crate) fn on_picture(&mut self, bytes: usize) {
        self.now.pictures += 1;
        self.now.bytes += bytes as u64;
    }

    /// One frame of sound that the source brought.
    pub(crate) fn on_sound(&mut self) {
        self.now.sound += 1;
    }

    /// Another encode of sound begins.
    pub(crate) fn restart_sound(&mut self) {
        self.sound = Usual::default();
    }

    /// Another encode of pictures begins: what was usual is so no more.
    pub(crate) fn restart(&mut self) {
        (self.pictures, self.bits, self.verdict) = (Usual::default(), Usual::default(), None);
        self.looks.clear();
    }

    /// What it has shown lately.
    pub(crate) fn shown(&self) -> Shown {
        Shown { bits: self.bits(), is_heard: self.sum(LOOKS).sound > 0 }
    }

    fn bits(&self) -> f64 {
        let longer = self.sum(BIT_LOOKS);
        self.bits.part(longer.bytes, longer.seconds, 1.0)
    }

    /// Draws a verdict; what is wrong, with the evidence in words. `others` are the other sources of the stream that
    /// deliver: what all of the stream show at about the same time is the programme.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        repairs: Repairs,
        transport: Transport,
        others: Option<Shown>,
    ) -> Option<(Weakness, String)> {
        let passed = now.saturating_duration_since(self.since);
        if passed >= LOOK_MIN {
            self.since = now;
            let (old, was) = std::mem::replace(&mut self.before, (repairs, transport));
            let times = |repairs: Repairs| repairs.disorder + repairs.composition + repairs.jumps;
            let look = Look {
                seconds: passed.as_secs_f64(),
                disorder: times(repairs).saturating_sub(times(old)),
                damaged: repairs.damaged.saturating_sub(old.damaged),
                packets: transport.packets.saturating_sub(was.packets),
                lost: (transport.dropped + transport.undecryptable).saturating_sub(was.dropped + was.undecryptable),
                ..std::mem::take(&mut self.now)
            };
            if self.looks.len() == BIT_LOOKS {
                self.looks.pop_front();
            }
            self.looks.push_back(look);
            self.judge(others);
            if self.verdict.is_none() {
                self.pictures.observe(rate(look.pictures, look.seconds));
                self.sound.observe(rate(look.sound, look.seconds));
            }
            if self.verdict.is_none() || self.verdict == Some(Weakness::BitRate) && others.is_none() {
                self.bits.observe(rate(look.bytes, look.seconds));
            }
        }
        self.verdict.map(|verdict| (verdict, self.evidence(verdict)))
    }

    fn judge(&mut self, others: Option<Shown>) {
        let recent = self.sum(LOOKS);
        let is = |weakness| self.verdict == Some(weakness);
        let pictures = self.pictures.part(recent.pictures, recent.seconds, PICTURES_MIN);
        // In silence an encoder may send a frame now and then: that is sound.
        let spoken = self.sum(SOUND_LOOKS);
        let is_told = self.looks.len() >= SOUND_LOOKS && others.is_none_or(|others| others.is_heard);
        let sound = if is_told { self.sound.part(spoken.sound, spoken.seconds, SOUND_MIN) } else { 1.0 };
        let bits = self.bits() / others.map_or(1.0, |others| others.bits.clamp(0.01, 1.0));
        let repairs_min = |weakness| if is(weakness) { 1 } else { REPAIRS_MIN };
        let (lost_min, one_in) = if is(Weakness::Loss) { (1, 1000) } else { (LOST_MIN, 100) };
        self.verdict = if recent.disorder >= repairs_min(Weakness::Disorder) {
            Some(Weakness::Disorder)
        } else if recent.damaged >= repairs_min(Weakness::Damage) {
            Some(Weakness::Damage)
        } else if recent.lost >= lost_min && recent.lost * one_in >= recent.packets + recent.lost {
            Some(Weakness::Loss)
        } else if pictures < if is(Weakness::FrameRate) { 0.8 } else { 0.5 } {
            Some(Weakness::FrameRate)
        } else if bits < if is(Weakness::BitRate) { 0.25 } else { 0.1 } {
            Some(Weakness::BitRate)
        } else if sound < if is(Weakness::NoSound) { 0.25 } else { 0.01 } {
            Some(Weakness::NoSound)
        } else {
            None
        };
    }

    fn sum(&self, looks: usize) -> Look {
        let mut sum = Look::default();
        for look in self.looks.iter().rev().take(looks) {
            sum.seconds += look.seconds;
            sum.pictures += look.pictures;
            sum.sound += look.sound;
            sum.bytes += look.bytes;
            sum.disorder += look.disorder;
            sum.damaged += look.damaged;
            sum.packets += look.packets;
            sum.lost += look.lost;
        }
        sum
    }

    fn evidence(&self, weakness: Weakness) -> String {
        let (recent, longer) = (self.sum(LOOKS), self.sum(BIT_LOOKS));
        let seconds = recent.seconds;
        match weakness {
            Weakness::FrameRate => {
                let rate = rate(recent.pictures, seconds);
                format!("{rate:.1} pictures a second where {:.1} are usual", self.pictures.rate)
            }
            Weakness::BitRate => {
                let kilobits = |bytes_per_second: f64| bytes_per_second * 8.0 / 1000.0;
                let rate = kilobits(rate(longer.bytes, longer.seconds));
                format!("{rate:.0} kbit/s of pictures where {:.0} are usual", kilobits(self.bits.rate))
            }
            Weakness::Disorder => format!("{} timestamps out of order within {seconds:.1} s", recent.disorder),
            Weakness::Damage => format!("{} units that cannot be read within {seconds:.1} s", recent.damaged),
            Weakness::NoSound => format!("no sound for {:.1} s", self.sum(SOUND_LOOKS).seconds),
            Weakness::Loss => {
                format!("{} of {} packets lost within {seconds:.1} s", recent.lost, recent.packets + recent.lost)
            }
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of seconds")]
fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        vitals: Vitals,
        now: Instant,
        repairs: Repairs,
        transport: Transport,
        others: Option<Shown>,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            let (repairs, transport) = (Repairs::default(), Transport::default());
            let mut bench = Self {
                vitals: Vitals::new(now),
                now,
                repairs,
                transport,
                others: Some(Shown { bits: 1.0, is_heard: true }),
            };
            assert_eq!(bench.run(20, 15, 10_000), None);
            bench
        }

        /// So many looks with so many pictures each.
        fn run(&mut self, looks: usize, pictures: usize, bytes: usize) -> Option<Weakness> {
            let mut verdict = None;
            for _ in 0..looks {
                (0..pictures).for_each(|_| self.vitals.on_picture(bytes));
                self.transport.packets += 500;
                self.now += Duration::from_millis(500);
                verdict =
                    self.vitals.look(self.now, self.repairs, self.transport, self.others).map(|(weakness, _)| weakness);
            }
            verdict
        }
    }

    #[test]
    fn half_the_pictures_is_weak_until_most_are_back() {
        let mut bench = Bench::new();
        assert_eq!(bench.run(4, 8, 10_000), None);
        assert_eq!(bench.run(4, 6, 10_000), Some(Weakness::FrameRate));
        assert_eq!(bench.run(100, 10, 10_000), Some(Weakness::FrameRate), "two thirds do not end it");
        assert_eq!(bench.run(4, 14, 10_000), None);
    }

    #[test]
    fn what_goes_down_bit_by_bit_is_seen_too() {
        let mut bench = Bench::new();
        let found =
            (1..=15).rev().find_map(|pictures| bench.run(20, pictures, 10_000).map(|weakness| (pictures, weakness)));
        assert!(matches!(found, Some((4..=8, Weakness::FrameRate))), "{found:?}");
    }

    #[test]
    fn a_burst_after_a_stall_does_not_become_usual() {
        let mut bench = Bench::new();
        for _ in 0..10 {
            bench.run(4, 0, 0);
            bench.run(1, 75, 10_000);
            bench.run(10, 15, 10_000);
        }
        assert_eq!(bench.run(4, 15, 10_000), None);
    }

    #[test]
    fn bits_disorder_damage_and_loss_are_named() {
        let mut bench = Bench::new();
        assert_eq!(bench.run(8, 15, 1_200), None, "a still picture");
        assert_eq!(bench.run(8, 15, 500), Some(Weakness::BitRate));
        assert_eq!(bench.run(8, 15, 10_000), None);
        bench.repairs.disorder += 9;
        assert_eq!(bench.run(1, 15, 10_000), Some(Weakness::Disorder));
        assert_eq!(bench.run(4, 15, 10_000), None);
        bench.repairs.damaged += 9;
        assert_eq!(bench.run(1, 15, 10_000), Some(Weakness::Damage));
        assert_eq!(bench.run(4, 15, 10_000), None);
        bench.transport.dropped += 9;
        assert_eq!(bench.run(4, 15, 10_000), None, "too few to say");
        bench.transport.dropped += 40;
        assert_eq!(bench.run(1, 15, 10_000), Some(Weakness::Loss));
        assert_eq!(bench.run(4, 15, 10_000), None);
    }

    #[test]
    fn fewer_bits_are_no_fault_where_all_have_fewer_nor_for_ever_where_there_is_one() {
        let mut bench = Bench::new();
        bench.others = Some(Shown { bits: 0.2, is_heard: true }); // it has come a little later there
        assert_eq!(bench.run(60, 15, 500), None, "the picture stands still");
        let mut bench = Bench::new();
        assert_eq!(bench.run(1000, 15, 500), Some(Weakness::BitRate), "a preferred leg must not come back like this");
        bench.others = Some(Shown { bits: 0.45, is_heard: true });
        assert_eq!(bench.run(60, 15, 500), Some(Weakness::BitRate), "nor in a calm scene");
        let mut bench = Bench::new();
        bench.others = None;
        assert_eq!(bench.run(60, 15, 500), Some(Weakness::BitRate));
        assert_eq!(bench.run(600, 15, 500), None, "it is what this encoder sends now");
    }

    #[test]
    fn sound_that_stops_is_named_and_sound_that_is_seldom_or_never_was_is_not() {
        let mut bench = Bench::new();
        assert_eq!(bench.run(20, 15, 10_000), None, "it never was there");
        let speak = |bench: &mut Bench, looks: usize, frames: usize| {
            let each = (0..looks).map(|_| {
                (0..frames).for_each(|_| bench.vitals.on_sound());
                bench.run(1, 15, 10_000)
            });
            each.last().flatten()
        };
        bench.vitals.restart_sound();
        assert_eq!(speak(&mut bench, 20, 23), None);
        assert_eq!(speak(&mut bench, 20, 2), None, "silence that is not sent");
        assert_eq!(speak(&mut bench, 20, 23), None);
        assert_eq!(speak(&mut bench, 5, 0), None, "not yet");
        assert_eq!(speak(&mut bench, 1, 0), Some(Weakness::NoSound));
        assert_eq!(speak(&mut bench, 5, 2), Some(Weakness::NoSound), "crackling is not its end");
        assert_eq!(speak(&mut bench, 6, 23), None);
        bench.others = Some(Shown { bits: 1.0, is_heard: false });
        assert_eq!(speak(&mut bench, 20, 0), None, "nobody has sound");
        bench.others = None;
        assert_eq!(speak(&mut bench, 1, 0), Some(Weakness::NoSound), "for whoever looks for the reason");

        let mut bench = Bench::new();
        bench.vitals.restart_sound();
        assert_eq!(speak(&mut bench, 40, 0), None);
        assert_eq!(speak(&mut bench, 20, 23), None, "late");
        assert_eq!(speak(&mut bench, 6, 0), Some(Weakness::NoSound));
    }

    #[test]
    fn one_picture_in_three_seconds_is_usual_for_whom_it_is() {
        let now = Instant::now();
        let mut vitals = Vitals::new(now);
        for look in 1..200_u32 {
            if look % 6 == 0 {
                vitals.on_picture(10_000);
            }
            let found =
                vitals.look(now + look * Duration::from_millis(500), Repairs::default(), Transport::default(), None);
            assert_eq!(found.map(|(weakness, _)| weakness), None, "look {look}");
        }
    }
}
