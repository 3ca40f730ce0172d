//! Rules that playlists alone can keep or break. Pure: playlists in, findings out.

use hls::read::{HintKind, MediaPlaylist, MultivariantPlaylist, Segment};

use super::Findings;

const SECOND: i64 = 1_000_000_000;
/// EXTINF and DURATION are decimals: five digits, rounded.
const ROUNDING: i64 = 100_000;
/// Dates may jump by half a second without a discontinuity (TIME-01), and a gap's length follows from when media came.
const GAP_STEP: i64 = 500_000_000;
/// Sound is cut at the first frame past the picture's boundary.
const BOUNDARY: i64 = 100_000_000;

fn shown(nanos: i64) -> String {
    format!("{}.{:05}", nanos / SECOND, nanos % SECOND / 10_000)
}

/// Rules of a single version of a media playlist.
pub fn version(playlist: &MediaPlaylist) -> Findings {
    let mut found = Findings::default();
    for fault in &playlist.faults {
        found.expect(false, "SYNTAX", fault.line, || fault.what.clone());
    }
    found.expect(playlist.target_duration > 0, "SYNTAX", 1, || "there is no EXT-X-TARGETDURATION".into());
    let target = playlist.target_nanos();
    control(playlist, target, &mut found);
    for segment in playlist.complete() {
        let (line, length) = (segment.line, segment.duration);
        let rounded = (length + SECOND / 2) / SECOND * SECOND;
        let what = || format!("segment {} lasts {} of {} s", segment.number, shown(length), playlist.target_duration);
        found.expect(rounded <= target, "LL-01", line, what);
        found.expect(length <= target + SECOND / 2, "AUTH-02", line, what);
    }
    let dated = playlist.segments.iter().any(|segment| segment.date.is_some());
    found.expect(dated || playlist.segments.is_empty(), "AUTH-05", 0, || "no EXT-X-PROGRAM-DATE-TIME".into());
    for segment in &playlist.segments {
        let has_parts = !segment.parts.is_empty();
        if has_parts {
            let late = segment.tag_after_part;
            let what = || format!("a tag of segment {} comes after its first part", segment.number);
            found.expect(late.is_none(), "LL-19", late.unwrap_or(0), what);
        }
        if has_parts && segment.uri.is_some() {
            let (parts, whole) = (segment.parts_length(), segment.duration);
            found.expect((parts - whole).abs() < 10 * ROUNDING, "AUTH-03", segment.line, || {
                format!("the parts of segment {} last {}, and it {}", segment.number, shown(parts), shown(whole))
            });
        }
    }
    parts(playlist, target, &mut found);
    gaps(playlist, &mut found);
    for kind in [HintKind::Part, HintKind::Map] {
        let mut of_kind = playlist.hints.iter().filter(|hint| hint.kind == kind);
        if let Some(first) = of_kind.next() {
            let second = of_kind.next();
            let line = second.map_or(first.line, |hint| hint.line);
            found.expect(second.is_none(), "LL-18", line, || "there are two hints of one type".into());
        }
    }
    needed_version(playlist, &mut found);
    if !playlist.is_ended {
        let what = || "a live playlist has EXT-X-PLAYLIST-TYPE".into();
        found.expect(playlist.kind.is_none(), "LL-04", 0, what);
    }
    for (index, range) in playlist.date_ranges.iter().enumerate() {
        let earlier = playlist.date_ranges.iter().take(index).find(|one| one.id == range.id);
        let same = earlier.is_none_or(|one| one.start.is_none() || range.start.is_none() || one.start == range.start);
        found.expect(same, "LL-21", range.line, || format!("the id {} stands for two starts", range.id));
    }
    found
}

/// spec: rfc8216bis §4.4.3.8
fn control(playlist: &MediaPlaylist, target: i64, found: &mut Findings) {
    let control = &playlist.control;
    if let Some(hold_back) = control.hold_back {
        found.expect(hold_back >= 3 * target, "LL-11", control.line, || {
            format!("HOLD-BACK {} is below three target durations", shown(hold_back))
        });
    }
    if let Some(until) = control.can_skip_until {
        found.expect(until >= 6 * target, "LL-11", control.line, || {
            format!("CAN-SKIP-UNTIL {} is below six target durations", shown(until))
        });
    }
    if let Some(part) = playlist.part_target {
        let Some(hold_back) = control.part_hold_back else {
            return found.expect(false, "LL-11", control.line, || "there are parts and no PART-HOLD-BACK".into());
        };
        found.expect(hold_back >= 2 * part, "LL-11", control.line, || {
            format!("PART-HOLD-BACK {} is below two part targets of {}", shown(hold_back), shown(part))
        });
        found.expect(hold_back + ROUNDING >= 3 * part, "AUTH-20", control.line, || {
            format!("PART-HOLD-BACK {} is below three part targets of {}", shown(hold_back), shown(part))
        });
    }
    let is_long = playlist.length() > 120 * SECOND;
    if is_long {
        found.expect(control.can_skip_until.is_some(), "AUTH-20", control.line, || {
            format!("{} s are listed, and there are no delta updates", playlist.length() / SECOND)
        });
    }
}

/// spec: rfc8216bis §4.4.4.9, §6.2.2
fn parts(playlist: &MediaPlaylist, target: i64, found: &mut Findings) {
    let Some(part_target) = playlist.part_target else { return };
    let mut from_end = playlist.length();
    for (index, segment) in playlist.segments.iter().enumerate() {
        let first = segment.parts.first();
        found.expect(
            first.is_none() || from_end <= 3 * target + SECOND,
            "LL-06",
            first.map_or(0, |part| part.line),
            || format!("segment {} lists parts {} s from the end", segment.number, from_end / SECOND),
        );
        from_end -= segment.length();
        for (at, part) in segment.parts.iter().enumerate() {
            let length = part.duration;
            found.expect(length <= part_target + ROUNDING, "LL-09", part.line, || {
                format!("{} lasts {}, and the part target is {}", part.uri, shown(length), shown(part_target))
            });
            let is_last =
                at + 1 == segment.parts.len() && (segment.uri.is_some() || index + 1 == playlist.segments.len());
            let next = segment.parts.get(at + 1);
            let may_be_short = part.is_independent || part.is_gap || is_last || next.is_some_and(|next| next.is_gap);
            found.expect(may_be_short || length * 100 >= part_target * 85 - 100 * ROUNDING, "LL-09", part.line, || {
                format!("{} lasts only {}, and the part target is {}", part.uri, shown(length), shown(part_target))
            });
        }
    }
}

/// LL-07: dates go on over a gap as if there were none.
fn gaps(playlist: &MediaPlaylist, found: &mut Findings) {
    for pair in playlist.segments.windows(2) {
        let [one, next] = pair else { continue };
        let Some((start, after)) = one.date.zip(next.date) else { continue };
        let is_gap = one.is_gap || next.is_gap;
        if is_gap && !next.is_discontinuity {
            let step = after - start - one.length();
            found.expect(step.abs() <= GAP_STEP, "LL-07", one.line, || {
                format!(
                    "from segment {} to {} the date moves {} ms more than they last",
                    one.number,
                    next.number,
                    step / 1_000_000
                )
            });
        }
    }
}

/// spec: rfc8216bis §8 (LL-23)
fn needed_version(playlist: &MediaPlaylist, found: &mut Findings) {
    let any = |is: fn(&Segment) -> bool| playlist.segments.iter().any(is);
    let control = &playlist.control;
    let needed = if control.can_skip_date_ranges {
        10
    } else if control.can_skip_until.is_some() || playlist.skipped.is_some() {
        9
    } else if any(|segment| segment.map.is_some()) {
        6
    } else if any(|segment| segment.range.is_some()) {
        4
    } else if any(|segment| segment.duration % SECOND != 0) {
        3
    } else {
        1
    };
    // Up to 7 every player reads it, and durations that need no more than 1 may be whole by chance.
    let highest = needed.max(7);
    found.expect((needed..=highest).contains(&playlist.version), "LL-23", 0, || {
        format!("EXT-X-VERSION is {}, and {needed} is needed", playlist.version)
    });
}

/// Rules of the step from one version of a media playlist to the next. Both are whole.
pub fn step(earlier: &MediaPlaylist, later: &MediaPlaylist) -> Findings {
    let mut found = Findings::default();
    found.expect(later.target_duration == earlier.target_duration, "LL-01", 0, || {
        format!("EXT-X-TARGETDURATION was {} and is {}", earlier.target_duration, later.target_duration)
    });
    found.expect(later.part_target == earlier.part_target, "LL-01", 0, || "PART-TARGET changed".into());
    found.expect(later.media_sequence >= earlier.media_sequence, "LL-04", 0, || {
        format!("the media sequence went from {} to {}", earlier.media_sequence, later.media_sequence)
    });
    let numbers = |playlist: &MediaPlaylist| playlist.discontinuity_sequence.unwrap_or(0);
    let (before, after) = (numbers(earlier), numbers(later));
    found.expect(after >= before, "LL-04", 0, || format!("the discontinuity sequence went from {before} to {after}"));
    let overlaps = earlier.segments.last().is_some_and(|last| last.number >= later.media_sequence);
    if overlaps && later.media_sequence >= earlier.media_sequence {
        let gone = earlier.segments.iter().filter(|one| one.number < later.media_sequence && one.is_discontinuity);
        let expected = before + gone.count() as u64;
        found.expect(after == expected, "LL-04", 0, || {
            format!("the discontinuity sequence is {after}, and with what was removed it must be {expected}")
        });
    }
    for old in earlier.complete() {
        let Some(new) = later.segment(old.number) else {
            let is_removed = old.number < later.media_sequence;
            found.expect(is_removed, "LL-03", 0, || format!("segment {} vanished from within", old.number));
            continue;
        };
        let same = (&old.uri, old.duration, old.is_discontinuity, old.is_gap, old.range, old.date)
            == (&new.uri, new.duration, new.is_discontinuity, new.is_gap, new.range, new.date);
        found.expect(same, "LL-03", new.line, || format!("segment {} changed", old.number));
        for (index, part) in new.parts.iter().enumerate() {
            let known = old.parts.get(index);
            let same = known.is_none_or(|known| (&known.uri, known.duration) == (&part.uri, part.duration));
            found.expect(same, "LL-03", part.line, || format!("part {index} of segment {} changed", old.number));
        }
    }
    for old in &earlier.date_ranges {
        let same = later.date_ranges.iter().find(|one| one.id == old.id);
        let same = same.is_none_or(|one| one.start.is_none() || old.start.is_none() || one.start == old.start);
        found.expect(same, "LL-21", 0, || format!("the date range {} has another start", old.id));
    }
    if !later.is_ended && later.media_sequence > earlier.media_sequence {
        let (length, least) = (later.length(), 3 * later.target_nanos());
        found.expect(length >= least, "LL-05", 0, || format!("only {} s are left", length / SECOND));
        let count = later.complete().count();
        found.expect(count >= 6, "AUTH-06", 0, || format!("only {count} segments are listed"));
    }
    found
}

/// Rules of the multivariant playlist. spec: rfc8216bis §4.4.6
pub fn multivariant(list: &MultivariantPlaylist) -> Findings {
    let mut found = Findings::default();
    for fault in &list.faults {
        found.expect(false, "SYNTAX", fault.line, || fault.what.clone());
    }
    found.expect(!list.variants.is_empty(), "SYNTAX", 1, || "no variant is listed".into());
    let has_video =
        |codecs: &str| ["avc", "hvc", "hev", "av01", "vp09", "dvh"].iter().any(|name| codecs.contains(name));
    for variant in &list.variants {
        let codecs = variant.codecs.as_deref().unwrap_or_default();
        let mut missing = Vec::new();
        if variant.average_bandwidth.is_none() {
            missing.push("AVERAGE-BANDWIDTH");
        }
        if codecs.is_empty() {
            missing.push("CODECS");
        }
        if has_video(codecs) || variant.resolution.is_some() {
            missing.extend(variant.resolution.is_none().then_some("RESOLUTION"));
            missing.extend(variant.frame_rate.is_none().then_some("FRAME-RATE"));
        }
        found.expect(missing.is_empty(), "AUTH-11", variant.line, || format!("without {}", missing.join(", ")));
        let rate: f64 = variant.frame_rate.as_deref().and_then(|rate| rate.parse().ok()).unwrap_or(0.0);
        found.expect(rate <= 60.0, "AUTH-18", variant.line, || format!("{rate} frames/s"));
        for codec in codecs.split(',').map(str::trim) {
            let level = codec.strip_prefix("avc1.").and_then(|rest| u8::from_str_radix(rest.get(4..6)?, 16).ok());
            found.expect(level.is_none_or(|level| level <= 52), "AUTH-18", variant.line, || {
                format!("{codec} is above level 5.2")
            });
            let in_band = codec.starts_with("hev1") || codec.starts_with("dvhe");
            found.expect(!in_band, "AUTH-18", variant.line, || {
                format!("{codec}: parameter sets belong into the sample entry, as hvc1")
            });
        }
    }
    if list.variants.iter().any(|variant| has_video(variant.codecs.as_deref().unwrap_or_default())) {
        found.expect(!list.i_frame_uris.is_empty(), "AUTH-12", 0, || "there is no EXT-X-I-FRAME-STREAM-INF".into());
    }
    let audible = |codecs: &str| codecs.contains("mp4a.40");
    let codecs = || list.variants.iter().filter_map(|variant| variant.codecs.as_deref());
    if codecs().next().is_some() {
        found.expect(codecs().any(audible), "AUTH-15", 0, || "no variant has AAC".into());
    }
    if let [first, _, ..] = &list.variants[..] {
        let rate = first.bandwidth.unwrap_or(0);
        found.expect((1_000_000..=3_500_000).contains(&rate), "AUTH-19", first.line, || {
            format!("the first variant takes {} kbit/s", rate / 1000)
        });
    }
    found
}

/// Rules between the renditions of a stream, whose playlists are of about the same moment.
pub fn across(playlists: &[&MediaPlaylist]) -> Findings {
    let mut found = Findings::default();
    let [first, others @ ..] = playlists else { return found };
    for other in others {
        found.expect(other.target_duration == first.target_duration, "AUTH-07", 0, || {
            format!("target durations of {} and {} s", first.target_duration, other.target_duration)
        });
        let control = |playlist: &MediaPlaylist| hls::read::ServerControl { line: 0, ..playlist.control };
        found.expect(control(first) == control(other), "LL-11", other.control.line, || {
            "EXT-X-SERVER-CONTROL is not the same in all playlists".into()
        });
        let dated = |playlist: &MediaPlaylist| playlist.segments.iter().any(|segment| segment.date.is_some());
        found.expect(dated(first) == dated(other), "LL-20", 0, || {
            "some playlists have dates, and some have none".into()
        });
        let listed = (first.length() - other.length()).abs();
        found.expect(listed <= 2 * first.target_nanos(), "AUTH-07", 0, || {
            format!("one lists {} s more than the other", listed / SECOND)
        });
        boundaries(first, other, &mut found);
    }
    found
}

/// The same number is the same time, with the same discontinuities.
fn boundaries(one: &MediaPlaylist, other: &MediaPlaylist, found: &mut Findings) {
    for segment in one.complete() {
        let Some(same) = other.segment(segment.number).filter(|same| same.uri.is_some()) else { continue };
        // Gaps begin where each rendition's media ends.
        if let Some((here, there)) = segment.date.zip(same.date).filter(|_| !segment.is_gap && !same.is_gap) {
            let apart = (here - there).abs();
            found.expect(apart <= BOUNDARY, "LL-20", same.line, || {
                format!("segment {} begins {} ms apart", segment.number, apart / 1_000_000)
            });
        }
        let apart = (segment.duration - same.duration).abs();
        found.expect(apart <= 2 * BOUNDARY || segment.is_gap || same.is_gap, "AUTH-07", same.line, || {
            format!("segment {} lasts {} and {}", segment.number, shown(segment.duration), shown(same.duration))
        });
        found.expect(segment.is_discontinuity == same.is_discontinuity, "AUTH-08", same.line, || {
            format!("segment {} is a discontinuity in one rendition only", segment.number)
        });
    }
    let total = |playlist: &MediaPlaylist| {
        playlist.discontinuity_sequence.unwrap_or(0)
            + playlist.segments.iter().filter(|segment| segment.is_discontinuity).count() as u64
    };
    let (here, there) = (total(one), total(other));
    found.expect(here == there, "LL-20", 0, || format!("{here} and {there} discontinuities so far"));
}
