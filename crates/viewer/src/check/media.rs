//! Rules that the bytes of media keep or break: times, random access points, what initializes a decoder.

use std::collections::BTreeMap;

use container::fmp4::read::{Run, Track, read_fragments, read_init};

use super::Findings;

/// EXTINF has five decimals, and a timescale may not divide a second.
const TOLERANCE_NANOS: i64 = 1_500_000;

const ROUNDING_NANOS: i64 = 500_000;

/// What was learned of one rendition's media.
#[derive(Debug, Default)]
pub(super) struct Media {
    tracks: Vec<Track>,
    /// Where each track goes on, by its id.
    ends: BTreeMap<u32, u64>,
    /// EXTINF and media so far, in nanoseconds.
    listed: i64,
    lasted: i64,
    items: i64,
}

/// A part or segment that was fetched.
pub(super) struct Fetched<'a> {
    pub(super) name: &'a str,
    pub(super) bytes: &'a [u8],
    /// As the playlist has it, nanoseconds.
    pub(super) duration: i64,
    /// INDEPENDENT=YES; none: it is a whole segment.
    pub(super) independent: Option<bool>,
    /// Media time may begin anew.
    pub(super) is_discontinuity: bool,
    pub(super) line: u32,
}

impl Media {
    /// Reads what initializes a decoder; `codecs` are those of the variants.
    pub(super) fn init(&mut self, bytes: &[u8], codecs: &[String], found: &mut Findings) {
        match read_init(bytes) {
            Err(error) => {
                found.expect(false, "SYNTAX", 0, || format!("the initialization segment cannot be read: {error}"));
            }
            Ok(tracks) => {
                for codec in tracks.iter().filter_map(|track| track.codec_string.as_deref()) {
                    let is_listed = codecs.is_empty() || codecs.iter().any(|listed| listed.eq_ignore_ascii_case(codec));
                    found.expect(is_listed, "AUTH-11", 0, || {
                        format!("the initialization segment says {codec}, and CODECS {}", codecs.join(","))
                    });
                }
                self.tracks = tracks;
            }
        }
    }

    pub(super) fn has_init(&self) -> bool {
        !self.tracks.is_empty()
    }

    fn is_video(&self, id: u32) -> bool {
        self.tracks.iter().any(|track| track.id == id && track.handler == *b"vide")
    }

    fn nanos(&self, run: &Run) -> i64 {
        let scale = self.tracks.iter().find(|track| track.id == run.track).map_or(1, |track| track.timescale.max(1));
        i64::try_from(u128::from(run.duration()) * 1_000_000_000 / u128::from(scale)).unwrap_or(i64::MAX)
    }

    /// The longest sample in nanoseconds: one frame.
    fn frame(&self, runs: &[Run]) -> i64 {
        let longest = runs.iter().filter_map(|run| {
            let scale = self.tracks.iter().find(|track| track.id == run.track)?.timescale.max(1);
            let ticks = run.samples.iter().map(|sample| sample.duration).max()?;
            Some(i64::from(ticks) * 1_000_000_000 / i64::from(scale))
        });
        longest.max().unwrap_or(0)
    }

    /// Looks at a part or segment that follows the one before. A rendition is looked at by its parts, or by its segments.
    pub(super) fn look(&mut self, fetched: &Fetched<'_>, is_sequence: bool, found: &mut Findings) {
        if fetched.bytes.first() == Some(&0x47) {
            let whole =
                fetched.bytes.len().is_multiple_of(188) && fetched.bytes.chunks(188).all(|packet| packet[0] == 0x47);
            return found.expect(whole, "SYNTAX", fetched.line, || format!("{} is no whole MPEG-TS", fetched.name));
        }
        let runs = match read_fragments(&self.tracks, fetched.bytes) {
            Ok(runs) => runs,
            Err(error) => {
                return found
                    .expect(false, "SYNTAX", fetched.line, || format!("{} cannot be read: {error}", fetched.name));
            }
        };
        if is_sequence {
            self.follow(fetched, &runs, found);
        }
        self.random_access(fetched, &runs, found);
    }

    fn follow(&mut self, fetched: &Fetched<'_>, runs: &[Run], found: &mut Findings) {
        for run in runs {
            let after = self.ends.insert(run.track, run.decode_time.wrapping_add(run.duration()));
            if let Some(after) = after.filter(|_| !fetched.is_discontinuity) {
                let (start, name) = (run.decode_time, fetched.name);
                found.expect(start == after, "AUTH-03", fetched.line, || {
                    format!("{name} begins at {start}, and the media before it ended at {after}")
                });
            }
        }
        let lasts = runs.first().map_or(0, |first| {
            runs.iter().filter(|run| run.track == first.track).map(|run| self.nanos(run)).fold(0, i64::saturating_add)
        });
        self.listed = self.listed.saturating_add(fetched.duration);
        self.lasted = self.lasted.saturating_add(lasts);
        self.items += 1;
        let apart = lasts.saturating_sub(fetched.duration).saturating_abs();
        let all = self.lasted.saturating_sub(self.listed).saturating_abs();
        let frame = self.frame(runs).max(TOLERANCE_NANOS);
        // Durations may be written to the millisecond: half of one for each.
        let rounding = self.items * ROUNDING_NANOS;
        found.expect(apart <= frame && all <= frame + rounding, "AUTH-03", fetched.line, || {
            format!(
                "{} lasts {} ms, and the playlist says {} ms; {} ms apart so far",
                fetched.name,
                lasts / 1_000_000,
                fetched.duration / 1_000_000,
                all / 1_000_000
            )
        });
    }

    fn random_access(&self, fetched: &Fetched<'_>, runs: &[Run], found: &mut Findings) {
        let Some(first) = runs.iter().find(|run| self.is_video(run.track)) else { return };
        let begins = first.samples.first().is_some_and(|sample| sample.is_sync);
        let name = fetched.name;
        match fetched.independent {
            None => {
                found.expect(begins, "AUTH-01", fetched.line, || format!("{name} begins with no random access point"));
            }
            Some(is_marked) => {
                let video = runs.iter().filter(|run| self.is_video(run.track));
                let holds = video.flat_map(|run| &run.samples).any(|sample| sample.is_sync);
                found.expect(!is_marked || begins, "LL-10", fetched.line, || {
                    format!("{name} is INDEPENDENT, and begins with no random access point")
                });
                found.expect(is_marked || !holds, "LL-10", fetched.line, || {
                    format!("{name} holds a random access point and is not INDEPENDENT")
                });
            }
        }
    }

    /// Another initialization follows: numbers and times go on as they are.
    pub(super) fn forget_times(&mut self) {
        self.ends.clear();
    }
}
