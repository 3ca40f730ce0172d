//! The ring of recent GOPs and the entries in it.

use std::collections::VecDeque;
use std::sync::Arc;

use media::{AccessUnit, AudioConfig, CodecConfig, TrackKind, VideoConfig};

/// Most bytes of payload in a ring: 8 s at 60 Mbit/s.
const BYTES_MAX: usize = 64 << 20;
/// Longest span of a ring: more than the longest GOP that is not called broken (10 s).
const SPAN_NANOS_MAX: i64 = 10_000_000_000;
/// Most entries, whatever their size: 10 s of 240 pictures and 400 frames of sound a second.
const ENTRIES_MAX: usize = 6400;

/// The tracks of a program. Another `Arc` means that a decoder must start anew: a discontinuity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracks {
    /// Configuration of the picture.
    pub video: Option<VideoConfig>,
    /// Configuration of the sound.
    pub audio: Option<AudioConfig>,
}

impl Tracks {
    /// The configuration of one track.
    pub fn config(&self, track: TrackKind) -> Option<CodecConfig> {
        match track {
            TrackKind::Video => self.video.clone().map(CodecConfig::Video),
            TrackKind::Audio => self.audio.clone().map(CodecConfig::Audio),
        }
    }

    pub(crate) fn set(&mut self, config: CodecConfig) {
        match config {
            CodecConfig::Video(video) => self.video = Some(video),
            CodecConfig::Audio(audio) => self.audio = Some(audio),
        }
    }
}

/// What happens in a program.
#[derive(Debug)]
pub enum Item {
    /// One access unit in program time.
    Unit(AccessUnit),
    /// No leg delivers: nothing will come for a while.
    Lost,
    /// The program is over.
    End,
}

/// One thing in the ring.
#[derive(Debug)]
pub struct Entry {
    /// When it arrived: nanoseconds since 1970, UTC.
    pub arrival_utc_nanos: i64,
    /// The tracks it belongs to.
    pub tracks: Arc<Tracks>,
    /// What it is.
    pub item: Item,
}

impl Entry {
    fn payload_bytes(&self) -> usize {
        if let Item::Unit(unit) = &self.item { unit.payload.len() } else { 0 }
    }

    /// A subscriber can start here.
    fn is_start(&self) -> bool {
        let Item::Unit(unit) = &self.item else { return false };
        unit.is_random_access && (unit.track == TrackKind::Video || self.tracks.video.is_none())
    }
}

/// A bounded window on a program; each entry has a number that is never used again.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    entries: VecDeque<Arc<Entry>>,
    /// Number of the entry at the front.
    first: u64,
    bytes: usize,
    /// Numbers of the entries where a subscriber can start.
    starts: VecDeque<u64>,
}

/// What a cursor finds.
#[derive(Debug)]
pub(crate) enum Found {
    Entry(Arc<Entry>),
    /// Nothing yet.
    Nothing,
    /// Its place is gone; it goes on at this number.
    Behind(u64),
}

impl Ring {
    /// Number the next entry will have.
    pub(crate) fn head(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Where a new subscriber starts: the newest random access point, or the head if there is none.
    pub(crate) fn latest_start(&self) -> u64 {
        self.starts.back().copied().unwrap_or_else(|| self.head())
    }

    /// Number of the oldest entry.
    pub(crate) fn oldest(&self) -> u64 {
        self.first
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        if entry.is_start() {
            self.starts.push_back(self.head());
        }
        self.bytes += entry.payload_bytes();
        self.entries.push_back(Arc::new(entry));
        while self.is_over() {
            // Whole GOPs go; only a GOP that is too large by itself is cut.
            let until = self.starts.iter().find(|start| **start > self.first).copied().unwrap_or(self.first + 1);
            while self.first < until {
                self.drop_front();
            }
        }
        debug_assert!(self.starts.front().is_none_or(|start| *start >= self.first), "starts lie in the ring");
    }

    fn is_over(&self) -> bool {
        let (Some(front), Some(back)) = (self.entries.front(), self.entries.back()) else { return false };
        self.bytes > BYTES_MAX
            || self.entries.len() > ENTRIES_MAX
            || back.arrival_utc_nanos.saturating_sub(front.arrival_utc_nanos) > SPAN_NANOS_MAX && self.entries.len() > 1
    }

    fn drop_front(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        self.bytes -= entry.payload_bytes();
        if self.starts.front() == Some(&self.first) {
            self.starts.pop_front();
        }
        self.first += 1;
    }

    pub(crate) fn get(&self, number: u64) -> Found {
        let Some(index) = number.checked_sub(self.first) else { return Found::Behind(self.latest_start()) };
        let entry = usize::try_from(index).ok().and_then(|index| self.entries.get(index));
        entry.map_or(Found::Nothing, |entry| Found::Entry(Arc::clone(entry)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use media::{Dts, Pts};

    use super::*;

    fn push(ring: &mut Ring, tracks: &Arc<Tracks>, second: i64, is_random_access: bool, size: usize) {
        let item = Item::Unit(AccessUnit {
            track: TrackKind::Video,
            dts: Dts(second),
            pts: Pts(second),
            duration: None,
            is_random_access,
            payload: Bytes::from(vec![0; size]).into(),
        });
        ring.push(Entry { arrival_utc_nanos: second * 1_000_000_000, tracks: Arc::clone(tracks), item });
    }

    #[test]
    fn a_slow_cursor_goes_on_at_the_newest_random_access_point() {
        let (mut ring, tracks) = (Ring::default(), Arc::new(Tracks::default()));
        for second in 0..30 {
            push(&mut ring, &tracks, second, second % 4 == 0, 10);
        }
        assert_eq!(ring.oldest(), 20, "whole GOPs were dropped: {}", ring.oldest());
        assert!(matches!(ring.get(3), Found::Behind(28)));
        assert!(matches!(ring.get(29), Found::Entry(_)));
        assert!(matches!(ring.get(30), Found::Nothing));
    }

    #[test]
    fn bytes_are_bounded_even_without_random_access_points() {
        let (mut ring, tracks) = (Ring::default(), Arc::new(Tracks::default()));
        for _ in 0..100 {
            push(&mut ring, &tracks, 1, false, 1 << 20);
        }
        assert!(ring.bytes <= BYTES_MAX);
        assert_eq!(ring.head(), 100);
    }
}
