//! Puts the access units of one track into parts.
//!
//! One unit is always held back: only the next one tells how long it lasts, and whether it was the last of its segment,
//! so that a part and the segment it ends appear together and no hint is broken.

use bytes::{Bytes, BytesMut};
use container::fmp4::{self, Sample};
use media::{AccessUnit, CodecConfig, FrameRate, Timescale, TrackKind};

use crate::playlist::Part;

/// PART-TARGET over the length of a full part, in percent: room for stamps that jitter, within the 85 % of LL-09.
pub(crate) const PART_TARGET_PERCENT: u32 = 108;

/// Largest part: 1 s at 200 Mbit/s.
const PART_BYTES_MAX: usize = 25 << 20;
/// Most samples of a part: 1 s of 400 frames of sound, and room.
const PART_SAMPLES_MAX: usize = 1024;

/// Collects samples until a part is full.
#[derive(Debug)]
pub(crate) struct Assembler {
    config: CodecConfig,
    held: Option<Held>,
    samples: Vec<Sample>,
    payload: Vec<Bytes>,
    duration: i64,
    part_start: i64,
    is_independent: bool,
    last_duration: i64,
    longest_duration: i64,
    bytes: usize,
    /// Of the samples of the last part.
    average_duration: i64,
    /// Written decode time − DTS: makes `tfdt` equal the PTS of the random access point.
    shift: i64,
    /// The segment and the part that come next.
    number: u64,
    index: u32,
}

#[derive(Debug)]
struct Held {
    unit: AccessUnit,
    decode_time: i64,
}

impl Assembler {
    pub(crate) fn new(config: CodecConfig) -> Self {
        Self {
            config,
            held: None,
            samples: Vec::new(),
            payload: Vec::new(),
            duration: 0,
            part_start: 0,
            is_independent: false,
            last_duration: 0,
            longest_duration: 0,
            bytes: 0,
            average_duration: 0,
            shift: 0,
            number: 0,
            index: 0,
        }
    }

    pub(crate) fn config(&self) -> &CodecConfig {
        &self.config
    }

    /// Ticks the last sample lasted; 0 before the first.
    pub(crate) fn last_duration(&self) -> i64 {
        self.last_duration
    }

    /// The frame rate of the last part: the declared one if it fits, else the common one that is nearest.
    pub(crate) fn frame_rate(&self) -> Option<FrameRate> {
        let CodecConfig::Video(video) = &self.config else { return None };
        let average = self.average_duration;
        let near = |rate: &FrameRate| {
            let frame = rate.frame_duration(Timescale::VIDEO);
            (frame - average).abs() * 50 <= average
        };
        let common = FrameRate::COMMON.into_iter().filter(near);
        let nearest = common.min_by_key(|rate| (rate.frame_duration(Timescale::VIDEO) - average).abs());
        video.frame_rate.filter(near).or(nearest).or_else(|| FrameRate::from_frame_duration(average, Timescale::VIDEO))
    }

    /// Whether the pending part has reached about `target` ticks: one more sample would lie farther away.
    pub(crate) fn reached(&self, target: i64) -> bool {
        !self.samples.is_empty() && self.duration + self.last_duration / 2 >= target
    }

    /// Whether the pending part grows too long by the held unit, which ends at `until`.
    pub(crate) fn would_overflow(&self, until: i64, part_target: i64) -> bool {
        let held = self.held.as_ref().map_or(0, |held| until - held.decode_time);
        !self.samples.is_empty() && self.duration + held > part_target
    }

    /// Whether the pending part is as large as parts get, however short.
    pub(crate) fn is_large(&self) -> bool {
        self.bytes > PART_BYTES_MAX || self.samples.len() >= PART_SAMPLES_MAX
    }

    /// Whether the part is long enough (LL-09: 85 %) and another sample like the last would make it too long.
    pub(crate) fn is_full(&self, part_target: i64) -> bool {
        let is_long_enough = self.duration * 100 >= part_target * 85;
        !self.samples.is_empty() && is_long_enough && self.duration + self.last_duration > part_target
    }

    /// Where the held unit lies, on the written decode time.
    pub(crate) fn held_start(&self) -> Option<i64> {
        self.held.as_ref().map(|held| held.decode_time)
    }

    /// The written decode time `unit` has if nothing new begins with it.
    pub(crate) fn decode_time(&self, unit: &AccessUnit) -> i64 {
        unit.dts.0 + self.shift
    }

    /// The held unit ends at `until`: it becomes a sample.
    pub(crate) fn release(&mut self, until: i64) {
        let Some(Held { unit, decode_time }) = self.held.take() else { return };
        let duration = (until - decode_time).max(1);
        if self.samples.is_empty() {
            self.part_start = decode_time;
        }
        self.samples.push(Sample {
            duration: u32::try_from(duration).unwrap_or(u32::MAX),
            size: u32::try_from(unit.payload.len()).unwrap_or(u32::MAX),
            composition_offset: i32::try_from(unit.pts.0 - decode_time).unwrap_or(0),
            is_sync: unit.is_random_access,
        });
        self.bytes += unit.payload.len();
        self.payload.extend(unit.payload.slices().cloned());
        self.is_independent |= unit.is_random_access;
        self.duration += duration;
        self.last_duration = duration;
        self.longest_duration = self.longest_duration.max(duration);
    }

    /// The held unit ends, and nobody knows what follows: as long as the one before, or as its codec says.
    /// Returns where it ends.
    pub(crate) fn release_alone(&mut self) -> Option<i64> {
        let until = self.held.as_ref()?.decode_time + self.nominal_duration();
        self.release(until);
        Some(until)
    }

    /// How long the held unit lasts as far as anybody knows.
    pub(crate) fn nominal_duration(&self) -> i64 {
        let guess =
            if self.last_duration > 0 { self.last_duration } else { i64::from(self.config.timescale().hz()) / 30 };
        self.held.as_ref().and_then(|held| held.unit.duration).map_or(guess, i64::from)
    }

    /// Holds the next unit.
    pub(crate) fn hold(&mut self, unit: AccessUnit) {
        debug_assert!(self.held.is_none(), "released before the next one is held");
        let decode_time = self.decode_time(&unit);
        self.held = Some(Held { unit, decode_time });
    }

    /// A segment begins at the random access point `unit`: from here on decode times are shifted so that its own equals
    /// its PTS, unless that would go back behind `end`.
    pub(crate) fn align(&mut self, unit: &AccessUnit, end: Option<i64>) {
        let shift = unit.pts.0 - unit.dts.0;
        if end.is_none_or(|end| unit.dts.0 + shift > end) {
            self.shift = shift;
        }
    }

    /// Parts from here on belong to segment `number`.
    pub(crate) fn begin_segment(&mut self, number: u64) {
        (self.number, self.index) = (number, 0);
    }

    /// The pending samples as a part.
    pub(crate) fn take_part(&mut self) -> Option<Part> {
        if self.samples.is_empty() {
            return None;
        }
        // Derived from number and index alone, so that twins write the same.
        let sequence = u32::try_from(self.number.wrapping_mul(64) & 0xffff_ffff).unwrap_or(0).wrapping_add(self.index);
        let start = u64::try_from(self.part_start).unwrap_or(0);
        let header = fmp4::fragment_header(&self.config, sequence, start, &self.samples);
        let mut data = BytesMut::with_capacity(header.len() + self.bytes);
        data.extend_from_slice(&header);
        self.payload.drain(..).for_each(|slice| data.extend_from_slice(&slice));
        let data = data.freeze();
        let is_independent = self.is_independent && self.config.kind() == TrackKind::Video;
        let is_independent = is_independent || self.config.kind() == TrackKind::Audio;
        let duration = self.config.timescale().nanos(self.duration);
        let part = Part { duration, is_independent, data };
        self.average_duration = self.duration / i64::try_from(self.samples.len()).unwrap_or(1);
        self.samples.clear();
        (self.duration, self.is_independent, self.longest_duration, self.bytes) = (0, false, 0, 0);
        self.index += 1;
        Some(part)
    }

    /// PART-TARGET that fits the pending part; `target` is what it should be about. A hole in the very first part must not
    /// set the measure: then the declared rate does, or the target itself.
    pub(crate) fn part_target(&self, target: i64) -> i64 {
        let count = i64::try_from(self.samples.len()).unwrap_or(1);
        let declared = match &self.config {
            CodecConfig::Video(video) => video.frame_rate.map(|rate| rate.frame_duration(Timescale::VIDEO)),
            CodecConfig::Audio(audio) => Some(i64::from(audio.samples_per_unit)),
        };
        let shortest = self.samples.iter().map(|sample| i64::from(sample.duration)).min().unwrap_or(0);
        let usual = declared.unwrap_or(shortest).max(1);
        let is_runt = self.duration + usual / 2 < target;
        let full = if self.longest_duration > 3 * usual.max(shortest) || is_runt {
            (target + usual / 2) / usual * usual
        } else {
            (count * self.longest_duration).max(self.duration)
        };
        full.max(usual) * i64::from(PART_TARGET_PERCENT) / 100
    }
}
