//! Counters of an input's health. spec: ETSI TR 101 290 §5.2.1, §5.2.2

use std::collections::HashMap;

/// Times are measured with the program's own clock reference, in its 27 MHz.
const SECOND: i64 = 27_000_000;
const TABLE_INTERVAL_MAX: i64 = SECOND / 2;
const PID_INTERVAL_MAX: i64 = 5 * SECOND;
const PCR_INTERVAL_MAX: i64 = SECOND / 10;
const PCR_JUMP_MAX: i64 = SECOND;
const PTS_INTERVAL_MAX: i64 = SECOND * 7 / 10;

/// Errors of priority 1 and 2. The accuracy of clock references cannot be told from datagrams, whose arrival jitters, and is
/// not here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Packets, null packets included.
    pub packets: u64,
    /// Null packets.
    pub null_packets: u64,
    /// 1.1: synchronisation was lost.
    pub sync_loss: u64,
    /// 1.2: a packet did not begin with 0x47.
    pub sync_byte_error: u64,
    /// 1.3: no PAT for half a second, or it is scrambled.
    pub pat_error: u64,
    /// 1.4: packets missing, doubled or out of order.
    pub continuity_count_error: u64,
    /// 1.5: no PMT for half a second.
    pub pmt_error: u64,
    /// 1.6: nothing of a listed picture or sound for 5 s.
    pub pid_error: u64,
    /// 2.1: the packet itself says that it is damaged.
    pub transport_error: u64,
    /// 2.2: a table's checksum is wrong.
    pub crc_error: u64,
    /// 2.3a: clock references more than 100 ms apart.
    pub pcr_repetition_error: u64,
    /// 2.3b: a clock reference jumped without saying so.
    pub pcr_discontinuity_indicator_error: u64,
    /// 2.5: no presentation time for 700 ms.
    pub pts_error: u64,
    /// 2.6: scrambled packets without a conditional access table.
    pub cat_error: u64,
    /// Scrambled packets.
    pub scrambled_packets: u64,
    /// Units that were too large and left out.
    pub oversized_units: u64,
}

/// Looks at the clock reference, and at what should have come by then.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) health: Health,
    /// The clock, without its jumps.
    now: i64,
    last_pcr: Option<i64>,
    pat_at: i64,
    pmt_at: i64,
    pids: HashMap<u16, Seen>,
    pub(super) has_cat: bool,
}

#[derive(Debug)]
struct Seen {
    packet_at: i64,
    pts_at: i64,
    has_pts: bool,
}

impl Watch {
    pub(super) fn on_pat(&mut self) {
        self.pat_at = self.now;
    }

    pub(super) fn on_pmt(&mut self) {
        self.pmt_at = self.now;
    }

    /// Pictures and sounds that are listed from now on.
    pub(super) fn expect(&mut self, pids: impl Iterator<Item = u16>) {
        let now = self.now;
        let fresh = |pid| (pid, Seen { packet_at: now, pts_at: now, has_pts: false });
        self.pids = pids.map(fresh).collect();
    }

    pub(super) fn on_packet(&mut self, pid: u16) {
        if let Some(seen) = self.pids.get_mut(&pid) {
            seen.packet_at = self.now;
        }
    }

    pub(super) fn on_pts(&mut self, pid: u16) {
        if let Some(seen) = self.pids.get_mut(&pid) {
            (seen.pts_at, seen.has_pts) = (self.now, true);
        }
    }

    /// A clock reference of the program, of 42 bits.
    pub(super) fn on_pcr(&mut self, pcr: i64, says_discontinuity: bool) {
        const WRAP: i64 = (1 << 33) * 300;
        if let Some(last) = self.last_pcr.replace(pcr) {
            let step = (pcr - last + WRAP / 2).rem_euclid(WRAP) - WRAP / 2;
            if !(0..=PCR_JUMP_MAX).contains(&step) {
                self.health.pcr_discontinuity_indicator_error += u64::from(!says_discontinuity);
                return; // nothing can be measured over a jump
            }
            if !says_discontinuity {
                self.health.pcr_repetition_error += u64::from(step > PCR_INTERVAL_MAX);
                self.now += step;
            }
        }
        self.look();
    }

    /// Counts once what is late, and then once for each further time that it does not come.
    fn look(&mut self) {
        let now = self.now;
        let late = |since: &mut i64, limit: i64| {
            let is_late = now - *since > limit;
            if is_late {
                *since = now;
            }
            u64::from(is_late)
        };
        self.health.pat_error += late(&mut self.pat_at, TABLE_INTERVAL_MAX);
        self.health.pmt_error += late(&mut self.pmt_at, TABLE_INTERVAL_MAX);
        for seen in self.pids.values_mut() {
            self.health.pid_error += late(&mut seen.packet_at, PID_INTERVAL_MAX);
            if seen.has_pts {
                self.health.pts_error += late(&mut seen.pts_at, PTS_INTERVAL_MAX);
            }
        }
    }
}
