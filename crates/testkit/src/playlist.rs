//! Media playlists as tests look at them: seconds, plain fields, and the rules that a version or a step breaks.

use hls::read;

/// A part as it is listed.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// File name.
    pub uri: String,
    /// Seconds.
    pub duration: f64,
    /// `INDEPENDENT=YES`
    pub independent: bool,
    /// `GAP=YES`
    pub gap: bool,
}

/// A segment as it is listed; the last one may be open.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segment {
    /// Media sequence number.
    pub number: u64,
    /// File name; empty while open.
    pub uri: String,
    /// EXTINF in seconds; 0 while open.
    pub duration: f64,
    /// EXT-X-DISCONTINUITY
    pub discontinuity: bool,
    /// EXT-X-GAP
    pub gap: bool,
    /// EXT-X-MAP in force.
    pub map: String,
    /// EXT-X-PROGRAM-DATE-TIME in milliseconds since 1970.
    pub date_ms: Option<i64>,
    /// Its parts.
    pub parts: Vec<Part>,
}

/// A media playlist.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Playlist {
    /// EXT-X-TARGETDURATION
    pub target_duration: f64,
    /// PART-TARGET
    pub part_target: f64,
    /// PART-HOLD-BACK
    pub part_hold_back: f64,
    /// CAN-SKIP-UNTIL
    pub can_skip_until: f64,
    /// EXT-X-MEDIA-SEQUENCE
    pub media_sequence: u64,
    /// EXT-X-DISCONTINUITY-SEQUENCE
    pub discontinuity_sequence: u64,
    /// SKIPPED-SEGMENTS
    pub skipped: u64,
    /// What is listed.
    pub segments: Vec<Segment>,
    /// URI of the preload hint.
    pub hint: Option<String>,
    /// LAST-MSN and LAST-PART of the rendition report.
    pub report: Option<(u64, Option<u64>)>,
    /// EXT-X-ENDLIST
    pub ended: bool,
    /// As it was read.
    pub whole: read::MediaPlaylist,
}

fn seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}

impl From<&read::Segment> for Segment {
    fn from(segment: &read::Segment) -> Self {
        let part = |part: &read::Part| Part {
            uri: part.uri.to_string(),
            duration: seconds(part.duration),
            independent: part.is_independent,
            gap: part.is_gap,
        };
        Self {
            number: segment.number,
            uri: segment.uri.as_deref().unwrap_or_default().into(),
            duration: seconds(segment.duration),
            discontinuity: segment.is_discontinuity,
            gap: segment.is_gap,
            map: segment.map.as_ref().map_or(String::new(), |map| map.uri.to_string()),
            date_ms: segment.date.map(|date| date.div_euclid(1_000_000)),
            parts: segment.parts.iter().map(part).collect(),
        }
    }
}

impl Playlist {
    /// Reads a playlist.
    ///
    /// # Panics
    /// It is none.
    pub fn parse(text: &str) -> Self {
        let whole = match read::Playlist::parse(text.as_bytes()) {
            Ok(read::Playlist::Media(whole)) => whole,
            other => panic!("no media playlist: {other:?}\n{text}"),
        };
        Self {
            target_duration: seconds(whole.target_nanos()),
            part_target: seconds(whole.part_target.unwrap_or(0)),
            part_hold_back: seconds(whole.control.part_hold_back.unwrap_or(0)),
            can_skip_until: seconds(whole.control.can_skip_until.unwrap_or(0)),
            media_sequence: whole.media_sequence,
            discontinuity_sequence: whole.discontinuity_sequence.unwrap_or(0),
            skipped: whole.skipped.unwrap_or(0),
            segments: whole.segments.iter().map(Segment::from).collect(),
            hint: whole.part_hint().map(|hint| hint.uri.to_string()),
            report: whole.reports.first().map(|report| (report.msn.unwrap_or(0), report.part)),
            ended: whole.is_ended,
            whole,
        }
    }

    /// Complete segments.
    pub fn complete(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| !segment.uri.is_empty())
    }

    /// Number and index of the last part.
    pub fn edge(&self) -> Option<(u64, usize)> {
        let last = self.segments.iter().rev().find(|segment| !segment.parts.is_empty())?;
        Some((last.number, last.parts.len() - 1))
    }

    /// Which rules a single version of the playlist breaks: those of the checker, and what ours promises beyond.
    pub fn broken_rules(&self) -> Vec<String> {
        let mut found = viewer::check::version(&self.whole);
        for segment in &self.whole.segments {
            let number = segment.number;
            found.expect(segment.date.is_some(), "AUTH-05", segment.line, || format!("segment {number} has no date"));
            let has_map = segment.map.is_some() || self.skipped > 0;
            found.expect(has_map, "LL-19", segment.line, || format!("segment {number} has no map"));
        }
        found.broken()
    }

    /// Which rules the step from an earlier version to this one breaks.
    pub fn broken_rules_since(&self, earlier: &Self) -> Vec<String> {
        viewer::check::step(&earlier.whole, &self.whole).broken()
    }
}

impl Segment {
    /// EXTINF, or the parts so far.
    pub fn length(&self) -> f64 {
        if self.uri.is_empty() { self.parts.iter().map(|part| part.duration).sum() } else { self.duration }
    }
}
