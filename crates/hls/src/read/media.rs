//! Media playlists. spec: rfc8216bis §4.4.3 to §4.4.5

use std::sync::Arc;

use super::attributes::Attributes;
use super::{Fault, Faults, date, name_of, seconds, whole};

/// Bytes of a resource, from the first to before the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// How many. A hint may leave it open.
    pub length: Option<u64>,
}

/// EXT-X-MAP: what initializes a decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Where it is.
    pub uri: Box<str>,
    /// Which bytes of it.
    pub range: Option<ByteRange>,
    /// The line of the tag.
    pub line: u32,
}

/// EXT-X-PART.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it is.
    pub uri: Box<str>,
    /// Which bytes of it.
    pub range: Option<ByteRange>,
    /// Nanoseconds.
    pub duration: i64,
    /// INDEPENDENT=YES
    pub is_independent: bool,
    /// GAP=YES
    pub is_gap: bool,
    /// The line of the tag.
    pub line: u32,
}

/// A segment, or the parts of one that is not complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Media sequence number.
    pub number: u64,
    /// Where it is; none while it is not complete.
    pub uri: Option<Box<str>>,
    /// Which bytes of it.
    pub range: Option<ByteRange>,
    /// EXTINF in nanoseconds; 0 while it is not complete.
    pub duration: i64,
    /// EXT-X-DISCONTINUITY
    pub is_discontinuity: bool,
    /// EXT-X-GAP
    pub is_gap: bool,
    /// What initializes a decoder; none if nothing does, or if a delta update left the tag out.
    pub map: Option<Arc<Map>>,
    /// EXT-X-PROGRAM-DATE-TIME in nanoseconds since 1970, where the tag is.
    pub date: Option<i64>,
    /// EXT-X-KEY names a method.
    pub is_encrypted: bool,
    /// Its parts.
    pub parts: Vec<Part>,
    /// A tag of the segment came after its first part. LL-19
    pub tag_after_part: Option<u32>,
    /// The line of EXTINF, or of the first part.
    pub line: u32,
}

impl Segment {
    /// EXTINF, or the parts so far, in nanoseconds.
    pub fn length(&self) -> i64 {
        if self.uri.is_some() { self.duration } else { self.parts_length() }
    }

    /// The parts so far, in nanoseconds.
    pub fn parts_length(&self) -> i64 {
        self.parts.iter().map(|part| part.duration).sum()
    }
}

/// TYPE of a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintKind {
    /// The next part.
    Part,
    /// The next initialization segment.
    Map,
}

/// EXT-X-PRELOAD-HINT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// What is hinted at.
    pub kind: HintKind,
    /// Where it will be.
    pub uri: Box<str>,
    /// Which bytes of it.
    pub range: Option<ByteRange>,
    /// The line of the tag.
    pub line: u32,
}

/// EXT-X-RENDITION-REPORT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenditionReport {
    /// The other rendition's playlist.
    pub uri: Box<str>,
    /// LAST-MSN
    pub msn: Option<u64>,
    /// LAST-PART
    pub part: Option<u64>,
    /// The line of the tag.
    pub line: u32,
}

/// EXT-X-DATERANGE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DateRange {
    /// ID
    pub id: Box<str>,
    /// START-DATE in nanoseconds since 1970.
    pub start: Option<i64>,
    /// All attributes as they stand there.
    pub text: Box<str>,
    /// The line of the tag.
    pub line: u32,
}

/// EXT-X-SERVER-CONTROL; times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerControl {
    /// CAN-BLOCK-RELOAD=YES
    pub can_block_reload: bool,
    /// CAN-SKIP-UNTIL
    pub can_skip_until: Option<i64>,
    /// CAN-SKIP-DATERANGES=YES
    pub can_skip_date_ranges: bool,
    /// HOLD-BACK
    pub hold_back: Option<i64>,
    /// PART-HOLD-BACK
    pub part_hold_back: Option<i64>,
    /// The line of the tag; 0 if there is none.
    pub line: u32,
}

/// EXT-X-PLAYLIST-TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaylistKind {
    /// Grows, and nothing is removed.
    Event,
    /// Does not change.
    Vod,
}

/// A media playlist, whole or a delta update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaPlaylist {
    /// EXT-X-VERSION; 1 where it is not said.
    pub version: u64,
    /// EXT-X-TARGETDURATION in seconds; 0 where it is not said.
    pub target_duration: u64,
    /// PART-TARGET in nanoseconds.
    pub part_target: Option<i64>,
    /// What the server can do.
    pub control: ServerControl,
    /// EXT-X-MEDIA-SEQUENCE
    pub media_sequence: u64,
    /// EXT-X-DISCONTINUITY-SEQUENCE, where the tag is.
    pub discontinuity_sequence: Option<u64>,
    /// EXT-X-PLAYLIST-TYPE
    pub kind: Option<PlaylistKind>,
    /// EXT-X-INDEPENDENT-SEGMENTS
    pub has_independent_segments: bool,
    /// SKIPPED-SEGMENTS, where EXT-X-SKIP is.
    pub skipped: Option<u64>,
    /// What is listed; the last may be incomplete.
    pub segments: Vec<Segment>,
    /// Hints.
    pub hints: Vec<Hint>,
    /// Where other renditions stand.
    pub reports: Vec<RenditionReport>,
    /// Date ranges.
    pub date_ranges: Vec<DateRange>,
    /// EXT-X-ENDLIST
    pub is_ended: bool,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

impl MediaPlaylist {
    /// Number and index of the last part, or of the last segment if it has none.
    pub fn edge(&self) -> Option<(u64, Option<u64>)> {
        let last = self.segments.last()?;
        Some((last.number, (last.parts.len() as u64).checked_sub(1)))
    }

    /// What comes next: for a blocking reload. spec: rfc8216bis §6.2.5.2
    pub fn next_position(&self) -> (u64, u64) {
        match self.segments.last() {
            None => (self.media_sequence, 0),
            Some(last) if last.uri.is_some() => (last.number + 1, 0),
            Some(last) => (last.number, last.parts.len() as u64),
        }
    }

    /// The listed segment of a number.
    pub fn segment(&self, number: u64) -> Option<&Segment> {
        let first = self.segments.first()?.number;
        self.segments.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// Segments that are complete.
    pub fn complete(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.uri.is_some())
    }

    /// All that is listed, in nanoseconds.
    pub fn length(&self) -> i64 {
        self.segments.iter().map(Segment::length).sum()
    }

    /// EXT-X-TARGETDURATION in nanoseconds.
    pub fn target_nanos(&self) -> i64 {
        i64::try_from(self.target_duration).unwrap_or(i64::MAX / 1_000_000_000).saturating_mul(1_000_000_000)
    }

    /// The hinted part.
    pub fn part_hint(&self) -> Option<&Hint> {
        self.hints.iter().find(|hint| hint.kind == HintKind::Part)
    }

    /// This delta update with what it left out, from the playlist before; itself if it is none. `None` if the playlist
    /// before does not reach back so far. spec: rfc8216bis §6.3.7
    #[must_use]
    pub fn completed_by(&self, earlier: &Self) -> Option<Self> {
        let Some(skipped) = self.skipped else { return Some(self.clone()) };
        let until = self.media_sequence.checked_add(skipped)?;
        let kept = earlier.segments.iter().filter(|one| (self.media_sequence..until).contains(&one.number));
        let mut segments: Vec<Segment> = kept.filter(|one| one.uri.is_some()).cloned().collect();
        if segments.len() as u64 != skipped {
            return None;
        }
        for segment in &mut segments {
            segment.parts.clear();
        }
        let mut map = segments.last().and_then(|last| last.map.clone());
        for segment in &self.segments {
            map = segment.map.clone().or(map);
            segments.push(Segment { map: map.clone(), ..segment.clone() });
        }
        Some(Self { segments, skipped: None, ..self.clone() })
    }
}

struct Reader {
    playlist: MediaPlaylist,
    faults: Faults,
    current: Segment,
    map: Option<Arc<Map>>,
    is_encrypted: bool,
    /// Where a range without a start begins: the resource, and the byte after the last.
    after: (Box<str>, u64),
    segment_range: Option<(Option<u64>, u64)>,
    next: u64,
    has_inf: bool,
}

pub(super) fn parse(text: &str, faults: Faults) -> MediaPlaylist {
    let mut reader = Reader {
        playlist: MediaPlaylist { version: 1, ..MediaPlaylist::default() },
        faults,
        current: Segment::default(),
        map: None,
        is_encrypted: false,
        after: ("".into(), 0),
        segment_range: None,
        next: 0,
        has_inf: false,
    };
    for (number, line) in (1u32..).zip(text.lines()) {
        if line.starts_with("#EXT") {
            reader.tag(number, line);
        } else if !line.starts_with('#') && !line.trim().is_empty() {
            reader.uri(number, line.trim());
        }
    }
    reader.finish()
}

impl Reader {
    fn tag(&mut self, line: u32, text: &str) {
        let value = text.split_once(':').map_or("", |(_, value)| value);
        let playlist = &mut self.playlist;
        match name_of(text) {
            "#EXT-X-VERSION" => {
                playlist.version =
                    self.faults.expect(line, value.parse().ok(), "EXT-X-VERSION is no number").unwrap_or(1);
            }
            "#EXT-X-TARGETDURATION" => {
                let seconds = whole(value).filter(|seconds| *seconds <= 86_400);
                let seconds = self.faults.expect(line, seconds, "EXT-X-TARGETDURATION is no whole number");
                playlist.target_duration = seconds.unwrap_or(0);
            }
            "#EXT-X-MEDIA-SEQUENCE" => {
                let number = self.faults.expect(line, whole(value), "EXT-X-MEDIA-SEQUENCE is no number");
                playlist.media_sequence = number.unwrap_or(0);
                self.next = playlist.media_sequence;
            }
            "#EXT-X-DISCONTINUITY-SEQUENCE" => {
                let number = whole(value);
                playlist.discontinuity_sequence =
                    self.faults.expect(line, number, "EXT-X-DISCONTINUITY-SEQUENCE is no number");
            }
            "#EXT-X-PLAYLIST-TYPE" => {
                playlist.kind = match value {
                    "EVENT" => Some(PlaylistKind::Event),
                    "VOD" => Some(PlaylistKind::Vod),
                    _ => self.faults.expect(line, None, "EXT-X-PLAYLIST-TYPE is neither EVENT nor VOD"),
                }
            }
            "#EXT-X-INDEPENDENT-SEGMENTS" => playlist.has_independent_segments = true,
            "#EXT-X-ENDLIST" => playlist.is_ended = true,
            "#EXT-X-DISCONTINUITY" => self.of_segment(line, |segment| segment.is_discontinuity = true),
            "#EXT-X-GAP" => self.current.is_gap = true,
            "#EXT-X-BYTERANGE" => {
                let (length, start) = value.split_once('@').map_or((value, None), |(l, s)| (l, Some(s)));
                let start = start.map_or(Some(None), |start| whole(start).map(Some));
                let range = start.zip(whole(length));
                self.segment_range = self.faults.expect(line, range, "EXT-X-BYTERANGE is not LENGTH@START");
            }
            "#EXT-X-PROGRAM-DATE-TIME" => {
                let date = self.faults.expect(line, date(value), "EXT-X-PROGRAM-DATE-TIME is no ISO 8601 date");
                self.of_segment(line, |segment| segment.date = date);
            }
            "#EXTINF" => {
                let text = value.split(',').next().unwrap_or_default();
                let duration = self.faults.expect(line, seconds(text), "EXTINF without seconds");
                (self.current.duration, self.has_inf) = (duration.unwrap_or(0), true);
                self.current.line = line;
            }
            _ => self.attributes(line, text),
        }
    }

    /// A tag that applies to the segment that follows, and must come before its first part.
    fn of_segment(&mut self, line: u32, change: impl FnOnce(&mut Segment)) {
        if !self.current.parts.is_empty() {
            self.current.tag_after_part.get_or_insert(line);
        }
        change(&mut self.current);
    }

    /// Tags with attribute lists.
    fn attributes(&mut self, line: u32, text: &str) {
        let faults = &mut self.faults;
        match name_of(text) {
            "#EXT-X-SERVER-CONTROL" => {
                let attributes = Attributes::parse(line, text, faults);
                self.playlist.control = ServerControl {
                    can_block_reload: attributes.is_yes("CAN-BLOCK-RELOAD"),
                    can_skip_until: attributes.seconds("CAN-SKIP-UNTIL", faults),
                    can_skip_date_ranges: attributes.is_yes("CAN-SKIP-DATERANGES"),
                    hold_back: attributes.seconds("HOLD-BACK", faults),
                    part_hold_back: attributes.seconds("PART-HOLD-BACK", faults),
                    line,
                };
            }
            "#EXT-X-PART-INF" => {
                let attributes = Attributes::parse(line, text, faults);
                attributes.required("PART-TARGET", faults);
                self.playlist.part_target = attributes.seconds("PART-TARGET", faults);
            }
            "#EXT-X-SKIP" => {
                let attributes = Attributes::parse(line, text, faults);
                let skipped = attributes.number("SKIPPED-SEGMENTS", faults);
                self.playlist.skipped = faults.expect(line, skipped, "EXT-X-SKIP without SKIPPED-SEGMENTS");
                self.next = self.next.saturating_add(skipped.unwrap_or(0));
            }
            "#EXT-X-KEY" => {
                self.is_encrypted = Attributes::parse(line, text, faults).get("METHOD") != Some("NONE");
            }
            "#EXT-X-MAP" => {
                let attributes = Attributes::parse(line, text, faults);
                let range = attributes.get("BYTERANGE").and_then(|range| {
                    let (length, start) = range.split_once('@').unwrap_or((range, "0"));
                    let range = whole(length).zip(whole(start));
                    let (length, start) = faults.expect(line, range, "EXT-X-MAP: BYTERANGE is not LENGTH@START")?;
                    Some(ByteRange { start, length: Some(length) })
                });
                if let Some(uri) = attributes.required("URI", faults) {
                    let map = Map { uri: uri.into(), range, line };
                    let same = self.map.as_ref().filter(|old| (&old.uri, old.range) == (&map.uri, map.range));
                    self.map = Some(same.cloned().unwrap_or_else(|| Arc::new(map)));
                }
                self.of_segment(line, |_| {});
            }
            "#EXT-X-PART" => self.part(line, text),
            "#EXT-X-PRELOAD-HINT" => self.hint(line, text),
            "#EXT-X-RENDITION-REPORT" => {
                let attributes = Attributes::parse(line, text, faults);
                let uri = attributes.required("URI", faults).unwrap_or_default().into();
                let (msn, part) = (attributes.number("LAST-MSN", faults), attributes.number("LAST-PART", faults));
                self.playlist.reports.push(RenditionReport { uri, msn, part, line });
            }
            "#EXT-X-DATERANGE" => {
                let attributes = Attributes::parse(line, text, faults);
                let id = attributes.required("ID", faults).unwrap_or_default().into();
                let start = attributes.get("START-DATE").and_then(date);
                let text = text.split_once(':').map_or("", |(_, value)| value).into();
                self.playlist.date_ranges.push(DateRange { id, start, text, line });
            }
            _ => {}
        }
    }

    fn part(&mut self, line: u32, text: &str) {
        let faults = &mut self.faults;
        let attributes = Attributes::parse(line, text, faults);
        attributes.required("DURATION", faults);
        let uri: Box<str> = attributes.required("URI", faults).unwrap_or_default().into();
        let range = attributes.get("BYTERANGE").and_then(|range| {
            let (length, start) = range.split_once('@').map_or((range, None), |(l, s)| (l, Some(s)));
            let length: u64 = faults.expect(line, whole(length), "EXT-X-PART: BYTERANGE has no length")?;
            let follows = || if self.after.0 == uri { self.after.1 } else { 0 };
            let start = start.map_or_else(|| Some(follows()), whole);
            let start = faults.expect(line, start, "EXT-X-PART: BYTERANGE begins nowhere")?;
            self.after = (uri.clone(), start.saturating_add(length));
            Some(ByteRange { start, length: Some(length) })
        });
        let part = Part {
            duration: attributes.seconds("DURATION", faults).unwrap_or(0),
            is_independent: attributes.is_yes("INDEPENDENT"),
            is_gap: attributes.is_yes("GAP"),
            uri,
            range,
            line,
        };
        self.current.parts.push(part);
    }

    fn hint(&mut self, line: u32, text: &str) {
        let attributes = Attributes::parse(line, text, &mut self.faults);
        let kind = match attributes.get("TYPE") {
            Some("PART") => HintKind::Part,
            Some("MAP") => HintKind::Map,
            _ => return self.faults.add(line, "EXT-X-PRELOAD-HINT: TYPE is neither PART nor MAP"),
        };
        let Some(uri) = attributes.required("URI", &mut self.faults) else { return };
        let start = attributes.number("BYTERANGE-START", &mut self.faults);
        let length = attributes.number("BYTERANGE-LENGTH", &mut self.faults);
        let has_range = start.is_some() || length.is_some();
        let range = has_range.then(|| ByteRange { start: start.unwrap_or(0), length });
        self.playlist.hints.push(Hint { kind, uri: uri.into(), range, line });
    }

    fn uri(&mut self, line: u32, uri: &str) {
        if !self.has_inf {
            self.faults.add(line, "a URI without EXTINF");
        }
        let range = self.segment_range.take().map(|(start, length)| {
            let follows = if *self.after.0 == *uri { self.after.1 } else { 0 };
            let start = start.unwrap_or(follows);
            self.after = (uri.into(), start.saturating_add(length));
            ByteRange { start, length: Some(length) }
        });
        self.current.uri = Some(uri.into());
        self.current.range = range;
        self.has_inf = false;
        self.push();
    }

    fn push(&mut self) {
        let segment = std::mem::take(&mut self.current);
        let first_line = segment.parts.first().map_or(0, |part| part.line);
        let line = if segment.line == 0 { first_line } else { segment.line };
        let (number, map, is_encrypted) = (self.next, self.map.clone(), self.is_encrypted);
        self.playlist.segments.push(Segment { number, map, is_encrypted, line, ..segment });
        self.next = self.next.saturating_add(1);
    }

    fn finish(mut self) -> MediaPlaylist {
        if self.has_inf {
            self.faults.add(self.current.line, "EXTINF without a URI");
        }
        if !self.current.parts.is_empty() {
            self.push();
        }
        self.playlist.faults = self.faults.0;
        self.playlist
    }
}
