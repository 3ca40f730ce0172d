//! The health of a transport stream: what ETSI TR 101 290 counts, as far as bytes without arrival times tell.

/// 27 MHz.
const TICKS_PER_MS: u64 = 27_000;
/// The clock reference counts modulo this. spec: ISO/IEC 13818-1 §2.4.2.2
const PCR_MODULUS: u64 = (1 << 33) * 300;
/// spec: ETSI TR 101 290 §5.2.1, 1.3.a and 1.5.a
const TABLE_GAP_MAX: u64 = 500 * TICKS_PER_MS;
/// The usual value. spec: ETSI TR 101 290 §5.2.1, 1.6
const PID_GAP_MAX: u64 = 5000 * TICKS_PER_MS;
/// spec: ETSI TR 101 290 §5.2.2, 2.3.a and 2.3.b
const PCR_GAP_MAX: u64 = 100 * TICKS_PER_MS;
/// A longer step is taken as a jump of the clock, not as time that passed.
const PCR_STEP_MAX: u64 = 10_000 * TICKS_PER_MS;
/// spec: ETSI TR 101 290 §5.2.2, 2.5
const PTS_GAP_MAX: u64 = 700 * TICKS_PER_MS;

/// Counters of errors, first and second priority, since the beginning.
///
/// The demultiplexer has no clock. Times are measured with the clock references of the chosen program: what needs a
/// time counts nothing before the first of them. `PCR_accuracy_error` (2.4) is left out: it takes the arrival time of
/// each bit, which an IP network does not preserve. Continuity is checked for PAT, CAT, program maps and the streams
/// of the chosen program. What is missing for long is counted again each time the limit has passed once more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// 1.1: two or more sync bytes in a row were wrong.
    pub sync_loss: u64,
    /// 1.2: sync bytes that were wrong.
    pub sync_byte_error: u64,
    /// 1.3.a: no PAT for 500 ms, another table on its PID, or its packets scrambled.
    pub pat_error: u64,
    /// 1.4: packets lost, out of order, or sent more than twice.
    pub continuity_count_error: u64,
    /// 1.5.a: no map of the chosen program for 500 ms, or its packets scrambled.
    pub pmt_error: u64,
    /// 1.6: no packet of a video or audio stream for 5 s.
    pub pid_error: u64,
    /// 2.1: packets that the receiver before us marked as damaged; they are dropped.
    pub transport_error: u64,
    /// 2.2: sections with a wrong CRC; they are dropped.
    pub crc_error: u64,
    /// 2.3.a: more than 100 ms between two clock references.
    pub pcr_repetition_error: u64,
    /// 2.3.b: two clock references in a row differ by less than 0 or more than 100 ms, and no discontinuity is
    /// signalled. Without arrival times a late reference counts here and above, a jump back or of over 10 s only here.
    pub pcr_discontinuity_indicator_error: u64,
    /// 2.5: more than 700 ms between two presentation times of a video or audio stream.
    pub pts_error: u64,
    /// 2.6: a stream is scrambled and there was no CAT, or another table came on its PID.
    pub cat_error: u64,
    /// Packets in all.
    pub packets: u64,
    /// Packets that only fill.
    pub null_packets: u64,
    /// Packets that are scrambled.
    pub scrambled_packets: u64,
    /// PES packets dropped because they passed a bound.
    pub oversized_units: u64,
    /// Events left out because nobody polled.
    pub events_left_out: u64,
}

/// Time by the clock references of the chosen program.
#[derive(Debug, Default)]
pub(super) struct Clock {
    last_pcr: Option<u64>,
    /// 27 MHz since the first reference.
    now: u64,
}

impl Clock {
    /// A reference came; counts what is wrong with it. spec: ISO/IEC 13818-1 §2.4.2.2, §2.7.2
    pub(super) fn on_pcr(&mut self, pcr: u64, is_discontinuity: bool, health: &mut Health) {
        let Some(last) = self.last_pcr.replace(pcr) else { return };
        if is_discontinuity {
            return;
        }
        let step = (pcr + PCR_MODULUS - last) % PCR_MODULUS;
        if step > PCR_GAP_MAX {
            health.pcr_discontinuity_indicator_error += 1;
        }
        if step <= PCR_STEP_MAX {
            health.pcr_repetition_error += u64::from(step > PCR_GAP_MAX);
            self.now = self.now.saturating_add(step);
        }
    }

    /// Another PID carries the references now, or packets were lost: the next one is not compared.
    pub(super) fn restart(&mut self) {
        self.last_pcr = None;
    }

    /// A timer that begins now.
    pub(super) fn timer(&self) -> Timer {
        Timer(self.now)
    }
}

/// The time at which something was last seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer(u64);

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    Table,
    Pid,
    Pts,
}

impl Timer {
    /// 1 when the time is over, and begins anew; 0 before.
    pub(super) fn expired(&mut self, clock: &Clock, wait: Wait) -> u64 {
        let limit = match wait {
            Wait::Table => TABLE_GAP_MAX,
            Wait::Pid => PID_GAP_MAX,
            Wait::Pts => PTS_GAP_MAX,
        };
        let is_over = clock.now.saturating_sub(self.0) > limit;
        if is_over {
            self.0 = clock.now;
        }
        u64::from(is_over)
    }
}
