//! Media playlists: what they list, when a request for one is answered, how they are written.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use media::TrackKind;

use crate::utc::format_utc;

/// Most bytes that are held for one rendition, whatever the window says: 66 s at 200 Mbit/s.
const HELD_BYTES_MAX: usize = 1650 << 20;
/// Segments at the live edge that list their parts. Three target durations (LL-06) are the limit; some readers count
/// segments instead, and players need no more than lies behind PART-HOLD-BACK.
const PART_SEGMENTS: usize = 3;
/// Nanoseconds of a second.
const SECOND: i64 = 1_000_000_000;

/// An initialization segment and the name it is fetched by, which follows from its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct InitSegment {
    /// File name.
    pub name: String,
    /// The bytes.
    pub data: Bytes,
}

/// A published part. It never changes.
#[derive(Clone, Debug)]
pub struct Part {
    /// Nanoseconds.
    pub duration: i64,
    /// It holds a random access point. spec: rfc8216bis §4.4.4.9
    pub is_independent: bool,
    /// `moof` and `mdat`, copied together once: a frame is a slice of its own no more, and each of a thousand viewers gets
    /// one slice instead of one for each frame.
    pub data: Bytes,
}

/// A segment, open or complete.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Media sequence number.
    pub number: u64,
    /// A decoder must start anew here.
    pub is_discontinuity: bool,
    /// There is no media: EXT-X-GAP.
    pub is_gap: bool,
    /// Nothing will be added.
    pub is_complete: bool,
    /// UTC of its start, nanoseconds since 1970.
    pub utc_nanos: i64,
    /// Nanoseconds so far.
    pub duration: i64,
    /// What initializes a decoder for it.
    pub init: Arc<InitSegment>,
    /// Its parts.
    pub parts: Vec<Part>,
    /// All of them in few pieces, once it is complete.
    pub whole: Vec<Bytes>,
}

/// Parts are joined into pieces of up to so many bytes. Larger ones gain nothing in the socket, and blocks of many megabytes
/// that come and go leave holes in the heap: an hour of 60 Mbit/s held a third more memory with them.
const PIECE_BYTES_MAX: usize = 3 << 19;

impl Segment {
    /// Puts small parts together into pieces, of which each part is a slice from now on. A body of one piece is written at
    /// once, and one of ten in ten steps.
    fn join(&mut self) {
        let mut rest = &mut self.parts[..];
        while !rest.is_empty() {
            let mut size = 0;
            let fitting = rest.iter().take_while(|part| {
                size += part.data.len();
                size <= PIECE_BYTES_MAX
            });
            let count = fitting.count().max(1);
            let (run, after) = rest.split_at_mut(count);
            rest = after;
            if let [alone] = run {
                self.whole.push(alone.data.clone());
                continue;
            }
            let mut piece = BytesMut::with_capacity(run.iter().map(|part| part.data.len()).sum());
            run.iter().for_each(|part| piece.extend_from_slice(&part.data));
            let mut piece = piece.freeze();
            self.whole.push(piece.clone());
            for part in run {
                part.data = piece.split_to(part.data.len());
            }
        }
    }

    /// Bytes of all parts.
    pub fn size(&self) -> usize {
        self.parts.iter().map(|part| part.data.len()).sum()
    }
}

/// Durations that never change in a playlist's life; in nanoseconds, since a track's timescale may change in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// EXT-X-TARGETDURATION in seconds.
    pub target_duration: i64,
    /// PART-TARGET in nanoseconds.
    pub part_target: i64,
    /// PART-HOLD-BACK in nanoseconds, the same in all playlists.
    pub part_hold_back_nanos: i64,
    /// Shortest content that is listed, in nanoseconds.
    pub window_nanos: i64,
}

/// What a request asks for. spec: rfc8216bis §6.2.5
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `_HLS_msn`
    pub msn: Option<u64>,
    /// `_HLS_part`
    pub part: Option<u64>,
    /// `_HLS_skip`
    pub skip: bool,
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Answer with the playlist as it is.
    Reply,
    /// Hold it until the playlist changes.
    Block,
    /// LL-13, LL-14: answer 400.
    Refuse(&'static str),
}

/// What a media file name stands for.
#[derive(Debug)]
pub enum Resource {
    /// These bytes, in order. They never change.
    Ready(Vec<Bytes>),
    /// The hinted part: hold the request until the playlist changes.
    Hinted,
    /// Nothing of that name, or not any more.
    NotFound,
}

/// Where another rendition stands. spec: rfc8216bis §4.4.5.4
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Number of the last segment, the open one included.
    pub msn: u64,
    /// Index of its last part.
    pub part: Option<u64>,
}

/// One rendition's playlist.
#[derive(Debug)]
pub struct MediaPlaylist {
    track: TrackKind,
    targets: Targets,
    segments: VecDeque<Segment>,
    /// Removed segments that must stay fetchable, with the media time at which they go. LL-05
    tail: VecDeque<(i64, Segment)>,
    discontinuity_sequence: u64,
    /// Nanoseconds of media published so far.
    published_nanos: i64,
    is_ended: bool,
    /// A player could start when a segment was completed.
    was_playable: bool,
    /// Counts changes.
    revision: u64,
    /// Parts published so far.
    parts: u64,
    /// Parts that had to be longer than PART-TARGET.
    violations: u64,
}

impl MediaPlaylist {
    /// An empty playlist.
    pub(crate) fn new(track: TrackKind, targets: Targets, discontinuity_sequence: u64) -> Self {
        Self {
            track,
            targets,
            segments: VecDeque::new(),
            tail: VecDeque::new(),
            discontinuity_sequence,
            published_nanos: 0,
            is_ended: false,
            was_playable: false,
            revision: 0,
            parts: 0,
            violations: 0,
        }
    }

    /// Counts changes: what was rendered at one revision stays true for it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What is listed.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &Segment> + ExactSizeIterator {
        self.segments.iter()
    }

    /// The durations that never change.
    pub fn targets(&self) -> Targets {
        self.targets
    }

    /// Parts published so far.
    pub fn parts(&self) -> u64 {
        self.parts
    }

    /// Parts longer than PART-TARGET (LL-09): holes and changed frame rates.
    pub fn violations(&self) -> u64 {
        self.violations
    }

    /// Whether EXT-X-ENDLIST is there.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Bytes of media held, listed and in the tail.
    pub fn held_bytes(&self) -> usize {
        self.segments.iter().chain(self.tail.iter().map(|(_, segment)| segment)).map(Segment::size).sum()
    }

    /// EXT-X-DISCONTINUITY-SEQUENCE and the discontinuities still listed.
    pub fn discontinuities(&self) -> u64 {
        self.discontinuity_sequence + self.segments.iter().filter(|segment| segment.is_discontinuity).count() as u64
    }

    /// A segment begins; the one before is complete.
    pub(crate) fn begin(&mut self, segment: Segment) {
        debug_assert!(self.segments.back().is_none_or(|last| last.is_complete && last.number + 1 == segment.number));
        self.segments.push_back(segment);
        self.revision += 1;
    }

    /// The open segment gets a part.
    pub(crate) fn add_part(&mut self, part: Part) {
        let Some(open) = self.segments.back_mut().filter(|segment| !segment.is_complete) else { return };
        self.parts += 1;
        self.violations += u64::from(part.duration > self.targets.part_target);
        open.duration += part.duration;
        self.published_nanos += part.duration;
        open.parts.push(part);
        self.revision += 1;
    }

    /// The open segment is complete. One without media becomes a gap of `gap_duration`.
    pub(crate) fn complete(&mut self, gap_duration: i64) {
        let Some(open) = self.segments.back_mut().filter(|segment| !segment.is_complete) else { return };
        open.is_complete = true;
        open.join();
        if open.parts.is_empty() {
            (open.is_gap, open.duration) = (true, gap_duration.max(1));
            self.published_nanos += open.duration;
        }
        self.revision += 1;
        self.was_playable = self.is_playable();
        self.trim();
    }

    /// Nothing was shown so far, and its times were wrong by `nanos`.
    pub(crate) fn shift_utc(&mut self, nanos: i64) {
        self.segments.iter_mut().for_each(|segment| segment.utc_nanos += nanos);
    }

    /// A part is shorter than it should be, lest it grow too long.
    pub(crate) fn count_violation(&mut self) {
        self.violations += 1;
    }

    /// LL-04: the playlist is over.
    pub(crate) fn end(&mut self) {
        self.is_ended = true;
        self.revision += 1;
    }

    /// The first segment is not listed any more.
    fn take_first(&mut self) -> Option<Segment> {
        let removed = self.segments.pop_front()?;
        self.discontinuity_sequence += u64::from(removed.is_discontinuity);
        Some(removed)
    }

    fn listed_nanos(&self) -> i64 {
        self.segments.iter().map(|segment| segment.duration).sum()
    }

    /// Removes what the window does not need (LL-05), to a tenth of a second, so that renditions whose segments differ by a
    /// frame remove the same. Keeps it fetchable for its duration plus the playlist's.
    fn trim(&mut self) {
        let listed = self.listed_nanos();
        let mut held = self.held_bytes();
        while held > HELD_BYTES_MAX && (!self.tail.is_empty() || self.segments.len() > 3) {
            let oldest = self.tail.pop_front().map(|(_, segment)| segment).or_else(|| self.take_first());
            held -= oldest.map_or(held, |segment| segment.size());
        }
        let mut listed = listed.min(self.listed_nanos());
        while let Some(first) = self.segments.front() {
            let nanos = first.duration;
            if listed - nanos < self.targets.window_nanos - SECOND / 10 || !first.is_complete {
                break;
            }
            let Some(removed) = self.take_first() else { break };
            self.tail.push_back((self.published_nanos + nanos + listed, removed));
            listed -= nanos;
        }
        while self.tail.front().is_some_and(|(until, _)| *until <= self.published_nanos) {
            self.tail.pop_front();
        }
    }

    /// Where this rendition stands; `None` while it is empty.
    pub fn position(&self) -> Option<Position> {
        let with_media = self.segments.iter().rev().find(|segment| segment.is_complete || !segment.parts.is_empty())?;
        let part = self.part_count(with_media).checked_sub(1);
        Some(Position { msn: with_media.number, part })
    }

    /// Parts that a segment has in the playlist. Those of a gap are not there either: without them, who asks for what follows the last part
    /// (hls.js 1.7.4) asks for what is in the playlist already, and takes the answer for a playlist that stands still.
    fn part_count(&self, segment: &Segment) -> u64 {
        let gaps = if segment.is_gap { segment.duration.unsigned_abs().div_ceil(self.part_target_nanos()) } else { 0 };
        segment.parts.len() as u64 + gaps
    }

    fn part_target_nanos(&self) -> u64 {
        self.targets.part_target.unsigned_abs().max(1)
    }

    /// A player can start: a complete segment (some players take a playlist without one for an error), and no less than
    /// PART-HOLD-BACK, behind which it begins. Once it could, it can, even if nothing but gaps is left.
    pub fn is_playable(&self) -> bool {
        self.is_ended
            || self.was_playable
            || self.listed_nanos() >= self.targets.part_hold_back_nanos
                && self.segments.iter().any(|segment| segment.is_complete && !segment.is_gap)
    }

    /// What to do with a request now. spec: rfc8216bis §6.2.5.2 (LL-12 to LL-16)
    pub fn decide(&self, directives: Directives) -> Decision {
        if self.is_ended {
            return Decision::Reply; // LL-16
        }
        let Some(msn) = directives.msn else {
            return match directives.part {
                Some(_) => Decision::Refuse("_HLS_part needs _HLS_msn"), // LL-13
                None if self.is_playable() => Decision::Reply,
                None => Decision::Block,
            };
        };
        let Some(last) = self.segments.back() else { return Decision::Block };
        let (open, parts) =
            if last.is_complete { (last.number + 1, 0) } else { (last.number, last.parts.len() as u64) };
        if msn > open + 1 {
            return Decision::Refuse("_HLS_msn is too far ahead"); // LL-14
        }
        let Some(part) = directives.part else {
            return if msn < open { Decision::Reply } else { Decision::Block };
        };
        if msn < open {
            // A part past the end of a segment is part 0 of the next one.
            let is_past = self.segments.iter().find(|segment| segment.number == msn);
            let is_past = is_past.is_some_and(|segment| part >= self.part_count(segment));
            return if !is_past || msn + 1 < open || parts > 0 { Decision::Reply } else { Decision::Block };
        }
        let ahead = if msn == open { part.saturating_sub(parts) } else { part };
        if ahead > self.advance_limit() {
            return Decision::Refuse("_HLS_part is too far ahead"); // LL-14
        }
        if msn == open && part < parts { Decision::Reply } else { Decision::Block }
    }

    /// Parts that may be asked for ahead of time. spec: rfc8216bis §6.2.5.2
    fn advance_limit(&self) -> u64 {
        let part_nanos = self.targets.part_target.max(1);
        u64::try_from((3 * SECOND + part_nanos - 1) / part_nanos).unwrap_or(3).max(3)
    }

    /// The file name of a segment.
    fn segment_name(&self, number: u64) -> String {
        format!("{}{number}.m4s", self.prefix())
    }

    fn part_name(&self, number: u64, index: usize) -> String {
        format!("{}{number}.{index}.m4s", self.prefix())
    }

    fn prefix(&self) -> char {
        match self.track {
            TrackKind::Video => 'v',
            TrackKind::Audio => 'a',
        }
    }

    /// What a file name stands for now.
    pub fn resource(&self, name: &str) -> Resource {
        let held = || self.segments.iter().chain(self.tail.iter().map(|(_, segment)| segment));
        let Some(rest) = name.strip_prefix(self.prefix()) else { return Resource::NotFound };
        if rest.starts_with('-') {
            let init = held().find(|segment| segment.init.name == name);
            return init.map_or(Resource::NotFound, |segment| Resource::Ready(vec![segment.init.data.clone()]));
        }
        let Some(numbers) = rest.strip_suffix(".m4s") else { return Resource::NotFound };
        let (number, index) = match numbers.split_once('.') {
            Some((number, index)) => (canonical(number), Some(canonical(index))),
            None => (canonical(numbers), None),
        };
        let Some(number) = number else { return Resource::NotFound };
        let segment = held().find(|segment| segment.number == number);
        let Some(index) = index else {
            return match segment.filter(|segment| segment.is_complete && !segment.is_gap) {
                Some(segment) => Resource::Ready(segment.whole.clone()),
                None => Resource::NotFound,
            };
        };
        let Some(index) = index.and_then(|index| usize::try_from(index).ok()) else { return Resource::NotFound };
        if let Some(part) = segment.and_then(|segment| segment.parts.get(index)) {
            return Resource::Ready(vec![part.data.clone()]);
        }
        if self.hint() == Some((number, index)) && !self.is_ended { Resource::Hinted } else { Resource::NotFound }
    }

    /// Number and index of the part that comes next. LL-18: at most one
    fn hint(&self) -> Option<(u64, usize)> {
        let last = self.segments.back()?;
        Some(if last.is_complete { (last.number + 1, 0) } else { (last.number, last.parts.len()) })
    }

    /// Writes the playlist; `report` is the other rendition's name and position.
    /// spec: rfc8216bis §4.4.3, §4.4.4, §4.4.5
    pub fn render(&self, skip: bool, report: Option<(&str, Position)>) -> String {
        let mut out = String::with_capacity(4096);
        let target = self.targets.target_duration;
        let skip_until = 6 * target;
        let skipped = if skip && !self.is_ended { self.skippable(skip_until * SECOND) } else { 0 };
        // LL-23: 9 is what EXT-X-SKIP needs, and the playlist offers it
        let _ = write!(out, "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:{target}\n");
        let _ = writeln!(
            out,
            "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL={skip_until}.0,HOLD-BACK={}.0,PART-HOLD-BACK={}",
            3 * target,
            seconds(self.targets.part_hold_back_nanos)
        );
        let part_target = seconds(self.targets.part_target);
        let _ = writeln!(out, "#EXT-X-PART-INF:PART-TARGET={part_target}");
        let first = self.segments.front().map_or(0, |segment| segment.number);
        let _ = write!(
            out,
            "#EXT-X-MEDIA-SEQUENCE:{first}\n#EXT-X-DISCONTINUITY-SEQUENCE:{}\n",
            self.discontinuity_sequence
        );
        if skipped > 0 {
            let _ = writeln!(out, "#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}");
        }
        let mut from_end = self.listed_nanos();
        let mut init: Option<&Arc<InitSegment>> = None;
        for (index, segment) in self.segments.iter().enumerate() {
            let is_near =
                index + PART_SEGMENTS >= self.segments.len() || from_end <= 3 * self.targets.part_hold_back_nanos;
            let lists_parts = is_near && from_end <= 3 * target * SECOND && !self.is_ended; // LL-06
            from_end -= segment.duration;
            let needs_map = init != Some(&segment.init) || segment.is_discontinuity;
            init = Some(&segment.init);
            if index >= skipped {
                self.render_segment(&mut out, segment, needs_map, lists_parts);
            }
        }
        if self.is_ended {
            out.push_str("#EXT-X-ENDLIST\n");
            return out;
        }
        if let Some((number, index)) = self.hint() {
            let _ = writeln!(out, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{}\"", self.part_name(number, index));
        }
        if let Some((name, position)) = report {
            let _ = write!(out, "#EXT-X-RENDITION-REPORT:URI=\"{name}\",LAST-MSN={}", position.msn);
            if let Some(part) = position.part {
                let _ = write!(out, ",LAST-PART={part}");
            }
            out.push('\n');
        }
        out
    }

    /// LL-19: what belongs to a segment comes before its first part.
    fn render_segment(&self, out: &mut String, segment: &Segment, needs_map: bool, lists_parts: bool) {
        if !segment.is_complete && segment.parts.is_empty() {
            return;
        }
        if segment.is_discontinuity {
            out.push_str("#EXT-X-DISCONTINUITY\n");
        }
        if needs_map {
            let _ = writeln!(out, "#EXT-X-MAP:URI=\"{}\"", segment.init.name);
        }
        let _ = writeln!(out, "#EXT-X-PROGRAM-DATE-TIME:{}", format_utc(segment.utc_nanos));
        for (index, part) in segment.parts.iter().enumerate().filter(|_| lists_parts) {
            let duration = seconds(part.duration);
            let _ = write!(out, "#EXT-X-PART:DURATION={duration},URI=\"{}\"", self.part_name(segment.number, index));
            out.push_str(if part.is_independent { ",INDEPENDENT=YES\n" } else { "\n" });
        }
        if segment.is_gap && lists_parts {
            self.render_gaps(out, segment);
        }
        if segment.is_complete {
            if segment.is_gap {
                out.push_str("#EXT-X-GAP\n");
            }
            let duration = seconds(segment.duration);
            let _ = write!(out, "#EXTINF:{duration},\n{}\n", self.segment_name(segment.number));
        }
    }

    /// Parts that are missing, each as long as the others or as a part may be. spec: rfc8216bis §4.4.4.9 (GAP)
    fn render_gaps(&self, out: &mut String, segment: &Segment) {
        let count = self.part_count(segment);
        let length = u64::try_from(segment.duration).unwrap_or(0);
        for index in 0..count {
            let duration = length * (index + 1) / count - length * index / count;
            let (duration, number) = (seconds(i64::try_from(duration).unwrap_or(0)), segment.number);
            let name = self.part_name(number, usize::try_from(index).unwrap_or(0));
            let _ = writeln!(out, "#EXT-X-PART:DURATION={duration},URI=\"{name}\",GAP=YES");
        }
    }

    /// Segments at the front that a delta update leaves out. spec: rfc8216bis §6.2.5.1 (LL-17)
    fn skippable(&self, boundary_nanos: i64) -> usize {
        let mut from_end = self.listed_nanos();
        self.segments
            .iter()
            .take_while(|segment| {
                from_end -= segment.duration;
                segment.is_complete && from_end >= boundary_nanos
            })
            .count()
    }
}

/// A number written the one way it is listed: no sign, no leading zeros.
fn canonical(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (text == "0" || !text.starts_with(['0', '+'])).then_some(number)
}

/// Seconds with five decimals, rounded to the nearest.
pub(crate) fn seconds(nanos: i64) -> String {
    let units = (nanos + 5_000) / 10_000;
    format!("{}.{:05}", units / 100_000, units % 100_000)
}

#[cfg(test)]
mod tests;
