//! Reads media playlists and says which rules they break. The ids are those of the standards checklist.

/// A part as it is listed.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// File name.
    pub uri: String,
    /// Seconds.
    pub duration: f64,
    /// `INDEPENDENT=YES`
    pub independent: bool,
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
    /// HOLD-BACK
    pub hold_back: f64,
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
}

fn attribute<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let start =
        line.find(&format!("{name}=")).filter(|at| matches!(line.as_bytes()[at - 1], b':' | b','))? + name.len() + 1;
    let rest = &line[start..];
    Some(match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => rest.split(',').next().unwrap_or_default(),
    })
}

fn number<T: std::str::FromStr + Default>(line: &str, name: &str) -> T {
    attribute(line, name).and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// Milliseconds since 1970 of `2026-11-23T12:30:10.123Z`.
fn date_ms(text: &str) -> Option<i64> {
    let fields: Vec<i64> = text
        .trim_end_matches('Z')
        .split(['-', 'T', ':', '.'])
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let &[year, month, day, hour, minute, second, millis] = fields.as_slice() else { return None };
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * shifted_year + shifted_year.div_euclid(4) - shifted_year.div_euclid(100)
        + shifted_year.div_euclid(400)
        + (153 * shifted_month + 2) / 5
        + day
        - 1
        - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

impl Playlist {
    /// Reads a playlist.
    ///
    /// # Panics
    /// It is none.
    pub fn parse(text: &str) -> Self {
        assert!(text.starts_with("#EXTM3U\n"), "no playlist: {text}");
        let mut playlist = Self::default();
        let mut current = Segment::default();
        let mut map = String::new();
        let mut next = 0;
        for line in text.lines() {
            let value = line.split_once(':').map_or("", |(_, value)| value);
            match line.split(':').next().unwrap_or_default() {
                "#EXT-X-TARGETDURATION" => playlist.target_duration = value.parse().expect("a number"),
                "#EXT-X-SERVER-CONTROL" => {
                    playlist.part_hold_back = number(line, "PART-HOLD-BACK");
                    playlist.hold_back = number(line, "HOLD-BACK");
                    playlist.can_skip_until = number(line, "CAN-SKIP-UNTIL");
                }
                "#EXT-X-PART-INF" => playlist.part_target = number(line, "PART-TARGET"),
                "#EXT-X-MEDIA-SEQUENCE" => {
                    playlist.media_sequence = value.parse().expect("a number");
                    next = playlist.media_sequence;
                }
                "#EXT-X-DISCONTINUITY-SEQUENCE" => {
                    playlist.discontinuity_sequence = value.parse().expect("a number");
                }
                "#EXT-X-SKIP" => {
                    playlist.skipped = number(line, "SKIPPED-SEGMENTS");
                    next += playlist.skipped;
                }
                "#EXT-X-DISCONTINUITY" => current.discontinuity = true,
                "#EXT-X-GAP" => current.gap = true,
                "#EXT-X-MAP" => attribute(line, "URI").unwrap_or_default().clone_into(&mut map),
                "#EXT-X-PROGRAM-DATE-TIME" => current.date_ms = date_ms(value),
                "#EXT-X-PART" => current.parts.push(Part {
                    uri: attribute(line, "URI").unwrap_or_default().into(),
                    duration: number(line, "DURATION"),
                    independent: attribute(line, "INDEPENDENT") == Some("YES"),
                }),
                "#EXTINF" => current.duration = value.trim_end_matches(',').parse().expect("a number"),
                "#EXT-X-PRELOAD-HINT" => playlist.hint = attribute(line, "URI").map(str::to_owned),
                "#EXT-X-RENDITION-REPORT" => {
                    let part = attribute(line, "LAST-PART").and_then(|part| part.parse().ok());
                    playlist.report = Some((number(line, "LAST-MSN"), part));
                }
                "#EXT-X-ENDLIST" => playlist.ended = true,
                _ if !line.starts_with('#') && !line.is_empty() => {
                    let segment =
                        Segment { uri: line.into(), number: next, map: map.clone(), ..std::mem::take(&mut current) };
                    playlist.segments.push(segment);
                    next += 1;
                }
                _ => {}
            }
        }
        if !current.parts.is_empty() {
            playlist.segments.push(Segment { number: next, map, ..current });
        }
        playlist
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

    /// Which rules a single version of the playlist breaks.
    pub fn broken_rules(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut expect = |holds: bool, rule: &str, what: String| {
            if !holds {
                broken.push(format!("{rule}: {what}"));
            }
        };
        let target = self.target_duration;
        expect(self.hold_back >= 3.0 * target, "LL-11", format!("HOLD-BACK {}", self.hold_back));
        expect(self.can_skip_until >= 6.0 * target, "LL-11", format!("CAN-SKIP-UNTIL {}", self.can_skip_until));
        expect(
            self.part_hold_back >= 3.0 * self.part_target - 1e-4,
            "LL-11",
            format!("PART-HOLD-BACK {} for {}", self.part_hold_back, self.part_target),
        );
        let mut from_end: f64 = self.segments.iter().map(Segment::length).sum();
        for segment in &self.segments {
            let name = &segment.uri;
            expect(segment.duration.round() <= target, "LL-01", format!("{name} lasts {}", segment.duration));
            expect(segment.duration <= target + 0.5, "AUTH-02", format!("{name} lasts {}", segment.duration));
            expect(segment.date_ms.is_some(), "AUTH-05", format!("{name} has no date"));
            expect(!segment.map.is_empty(), "LL-19", format!("{name} has no map"));
            expect(
                segment.parts.is_empty() || from_end <= 3.0 * target + 1e-3,
                "LL-06",
                format!("{name} lists parts {from_end} s from the end"),
            );
            let sum: f64 = segment.parts.iter().map(|part| part.duration).sum();
            if !segment.parts.is_empty() && !name.is_empty() {
                expect(
                    (sum - segment.duration).abs() < 0.001,
                    "AUTH-03",
                    format!("{name}: parts {sum}, EXTINF {}", segment.duration),
                );
            }
            for (index, part) in segment.parts.iter().enumerate() {
                let is_last = index + 1 == segment.parts.len();
                expect(
                    part.duration <= self.part_target + 1e-4,
                    "LL-09",
                    format!("{} lasts {}", part.uri, part.duration),
                );
                expect(
                    part.duration >= 0.85 * self.part_target || part.independent || is_last,
                    "LL-09",
                    format!("{} lasts only {} of {}", part.uri, part.duration, self.part_target),
                );
            }
            from_end -= segment.length();
        }
        broken
    }

    /// Which rules the step from an earlier version to this one breaks.
    pub fn broken_rules_since(&self, earlier: &Self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut expect = |holds: bool, rule: &str, what: String| {
            if !holds {
                broken.push(format!("{rule}: {what}"));
            }
        };
        let same = |a: f64, b: f64| (a - b).abs() < 1e-9;
        expect(same(self.target_duration, earlier.target_duration), "LL-01", "TARGETDURATION changed".into());
        expect(same(self.part_target, earlier.part_target), "LL-01", "PART-TARGET changed".into());
        expect(self.media_sequence >= earlier.media_sequence, "LL-04", "media sequence went back".into());
        expect(
            self.discontinuity_sequence >= earlier.discontinuity_sequence,
            "LL-04",
            "discontinuity sequence went back".into(),
        );
        for old in earlier.complete() {
            let Some(new) = self.segments.iter().find(|segment| segment.number == old.number) else { continue };
            expect(
                (&old.uri, old.duration, old.discontinuity, old.gap)
                    == (&new.uri, new.duration, new.discontinuity, new.gap),
                "LL-03",
                format!("{} changed", old.uri),
            );
        }
        let removed: u64 = earlier
            .segments
            .iter()
            .filter(|segment| segment.number < self.media_sequence && segment.discontinuity)
            .count() as u64;
        let last = earlier.segments.last().map_or(0, |segment| segment.number);
        if self.media_sequence <= last {
            expect(
                self.discontinuity_sequence == earlier.discontinuity_sequence + removed,
                "LL-04",
                format!("discontinuity sequence {} after {removed} removed", self.discontinuity_sequence),
            );
        }
        broken
    }
}

impl Segment {
    /// EXTINF, or the parts so far.
    pub fn length(&self) -> f64 {
        if self.uri.is_empty() { self.parts.iter().map(|part| part.duration).sum() } else { self.duration }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        assert_eq!(date_ms("1970-01-01T00:00:00.000Z"), Some(0));
        assert_eq!(date_ms("2024-02-29T00:00:00.500Z"), Some(1_709_164_800_500));
    }

    #[test]
    fn broken_playlists_are_noticed() {
        let text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-SERVER-CONTROL:CAN-SKIP-UNTIL=12.0,HOLD-BACK=6.0,PART-HOLD-BACK=0.5\n\
            #EXT-X-PART-INF:PART-TARGET=0.2\n#EXT-X-MEDIA-SEQUENCE:5\n#EXT-X-PART:DURATION=0.1,URI=\"a\"\n\
            #EXT-X-PART:DURATION=0.3,URI=\"b\"\n#EXTINF:3.0,\nv5.m4s\n";
        let broken = Playlist::parse(text).broken_rules().join("\n");
        for rule in ["LL-11", "LL-01", "AUTH-05", "LL-19", "LL-09: b", "LL-09: a", "AUTH-03"] {
            assert!(broken.contains(rule), "{rule} in {broken}");
        }
    }
}
