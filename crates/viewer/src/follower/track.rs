//! One track of a follower: its playlist, where it stands in it, what it needs next.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hls::read::{ByteRange, Map, MediaPlaylist, Playlist, Segment};

use crate::playback::{Buffer, Moment, nanos};
use crate::url::Url;

/// No more than so much is fetched ahead of playback.
const AHEAD_NANOS_MAX: i64 = 30_000_000_000;
/// Before what failed is asked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// So many failures of one item, and it is left out.
const FAILURES_MAX: u32 = 3;
/// What is hinted lasts at least so many hundredths of PART-TARGET. spec: rfc8216bis §4.4.4.9
const HINT_PERCENT: i64 = 85;
/// Dates in playlists are rounded to milliseconds.
const ROUNDING_NANOS: i64 = 10_000_000;
/// Segments that are passed over at one look: gaps.
const LOOKS_MAX: usize = 4096;

/// A part or segment to fetch, or fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) msn: u64,
    /// None: the whole segment.
    pub(super) part: Option<u64>,
    /// Media time as dated, nanoseconds.
    pub(super) start: i64,
    pub(super) duration: i64,
    /// It is hinted, and not listed yet.
    pub(super) is_hint: bool,
    /// Nothing newer is known: its age on arrival tells of the server.
    pub(super) is_edge: bool,
}

impl Item {
    pub(super) fn name(&self) -> String {
        match (self.part, self.is_hint) {
            (None, _) => "the whole".into(),
            (Some(part), false) => format!("part {part}"),
            (Some(part), true) => format!("hinted part {part}"),
        }
    }
}

/// What a new playlist showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its numbers are lower than before.
    pub(super) went_back: bool,
    /// It does not hold what was asked for.
    pub(super) came_early: bool,
    /// Segments that were to be fetched and are not listed any more.
    pub(super) lost: u64,
    /// How long after its end the hinted part came, in nanoseconds.
    pub(super) hint_age: Option<i64>,
}

/// An item, where it is, which bytes of it, and what initializes a decoder for it.
type Found = (Item, Box<str>, Option<ByteRange>, Option<Arc<Map>>);
type Request = (Url, Option<ByteRange>, Option<Item>);

#[derive(Debug)]
pub(super) struct Track {
    pub(super) url: Url,
    /// Where its playlist came from, after redirects.
    pub(super) base: Url,
    is_main: bool,
    /// Always a media playlist.
    playlist: Option<Arc<Playlist>>,
    /// A segment and when it begins, where playlists do not say.
    anchor: Option<(u64, i64)>,
    /// Segment and part that come next.
    pub(super) position: Option<(u64, u64)>,
    /// Where it goes on in another variant.
    pub(super) resume_at: Option<i64>,
    /// The end of what was fetched.
    end: i64,
    map: Option<Arc<Map>>,
    map_asked: Option<Arc<Map>>,
    pub(super) buffer: Buffer,
    pub(super) fetched: u64,
    reload_at: Option<Instant>,
    media_at: Option<Instant>,
    failures: u32,
    refused_hint: Option<(u64, u64)>,
    /// When the playlist last grew.
    listed_at: Option<Instant>,
    /// A hinted part whose length is not known yet, and when it came.
    unlisted: Option<(Item, i64)>,
    /// A delta update does not reach back to where it stands.
    needs_whole: bool,
}

impl Track {
    pub(super) fn new(url: Url, is_main: bool) -> Self {
        Self {
            base: url.clone(),
            url,
            is_main,
            playlist: None,
            anchor: None,
            position: None,
            resume_at: None,
            end: 0,
            map: None,
            map_asked: None,
            buffer: Buffer::default(),
            fetched: 0,
            reload_at: None,
            media_at: None,
            failures: 0,
            refused_hint: None,
            listed_at: None,
            unlisted: None,
            needs_whole: false,
        }
    }

    fn media(&self) -> Option<&MediaPlaylist> {
        match self.playlist.as_deref() {
            Some(Playlist::Media(media)) => Some(media),
            _ => None,
        }
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.playlist.is_some()
    }

    pub(super) fn has_dates(&self) -> bool {
        self.anchor.is_none()
    }

    pub(super) fn part_target(&self) -> i64 {
        self.media().and_then(|media| media.part_target).unwrap_or(0)
    }

    /// When there will be something to do without an answer.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.reload_at.into_iter().chain(self.media_at).min()
    }

    /// When the listed segment of this index begins.
    fn start_of(&self, media: &MediaPlaylist, index: usize) -> i64 {
        let dated = |segment: &Segment| {
            segment.date.or(self.anchor.filter(|(number, _)| *number == segment.number).map(|(_, start)| start))
        };
        let length = |segments: &[Segment]| segments.iter().map(Segment::length).sum::<i64>();
        let (before, after) = media.segments.split_at(index.min(media.segments.len()));
        if let Some(start) = after.first().and_then(dated) {
            return start;
        }
        if let Some((at, start)) = before.iter().enumerate().rev().find_map(|(at, one)| Some((at, dated(one)?))) {
            return start + length(before.get(at..).unwrap_or_default());
        }
        let Some((at, start)) = after.iter().enumerate().find_map(|(at, one)| Some((at, dated(one)?))) else {
            return self.end;
        };
        start - length(after.get(..at).unwrap_or_default())
    }

    /// Where the last part, or segment, ends.
    fn edge(&self, media: &MediaPlaylist) -> i64 {
        let last = media.segments.len().saturating_sub(1);
        self.start_of(media, last) + media.segments.last().map_or(0, Segment::length)
    }

    /// Where the newest media ends: what is listed, and what must have been made since.
    pub(super) fn live_edge(&self, now: Instant) -> Option<i64> {
        let media = self.media()?;
        let step = media.part_target.unwrap_or(media.target_nanos());
        let since = self.listed_at.map_or(0, |at| nanos(now.saturating_duration_since(at)));
        Some(self.edge(media) + if media.is_ended { 0 } else { since.min(step) })
    }

    pub(super) fn has_end(&self) -> bool {
        self.media().is_some_and(|media| media.is_ended || media.kind == Some(hls::read::PlaylistKind::Vod))
    }

    pub(super) fn is_over(&self) -> bool {
        let past = |media: &MediaPlaylist| self.position.is_some_and(|position| position >= media.next_position());
        self.media().is_some_and(|media| media.is_ended && past(media))
    }

    pub(super) fn on_no_playlist(&mut self, now: Instant) {
        let pause = self.media().map_or(RETRY_PAUSE, |media| {
            Duration::from_secs(media.target_duration.min(10)).checked_div(4).unwrap_or(RETRY_PAUSE)
        });
        self.reload_at = Some(now + pause.max(RETRY_PAUSE));
        self.needs_whole = true;
    }

    pub(super) fn on_playlist(
        &mut self,
        at: Moment,
        asked: Option<(u64, u64)>,
        playlist: &Arc<Playlist>,
        low_latency: bool,
    ) -> Seen {
        let Playlist::Media(media) = &**playlist else { return Seen::default() };
        let mut seen = Seen::default();
        let before = self.media().map(|old| (old.media_sequence, old.next_position()));
        let next = media.next_position();
        seen.went_back = before.is_some_and(|(sequence, old)| media.media_sequence < sequence || next < old);
        seen.came_early = asked.is_some_and(|asked| next <= asked && !media.is_ended);
        self.date(at, media);
        self.playlist = Some(Arc::clone(playlist));
        self.needs_whole = false;
        if before.is_none_or(|(_, old)| next > old) {
            self.listed_at = Some(at.now);
        }
        seen.hint_age = self.confirm_hint();
        if let Some((msn, _)) = self.position {
            let listed_from = media.media_sequence + media.skipped.unwrap_or(0);
            if msn < media.media_sequence {
                seen.lost = media.media_sequence - msn;
            } else if msn < listed_from {
                self.needs_whole = true;
            }
        }
        let blocks = low_latency && media.control.can_block_reload;
        let target = Duration::from_secs(media.target_duration.clamp(1, 60));
        let part = Duration::from_nanos(u64::try_from(self.part_target()).unwrap_or(0)).max(Duration::from_millis(100));
        self.reload_at = match blocks {
            true if seen.came_early => Some(at.now + part / 2),
            true => None,
            false if before.is_some_and(|(_, old)| old == next) => Some(at.now + target / 2),
            false => Some(at.now + target),
        };
        seen
    }

    /// Where playlists carry no dates, the edge is taken for now once, and everything is counted from there.
    fn date(&mut self, at: Moment, media: &MediaPlaylist) {
        if media.segments.iter().any(|segment| segment.date.is_some()) {
            self.anchor = None;
            return;
        }
        let known = self.anchor.is_some_and(|(number, _)| media.segment(number).is_some());
        let old = self.media().and_then(|old| {
            let first = media.segments.first()?;
            let index = old.segments.iter().position(|one| one.number == first.number)?;
            Some((first.number, self.start_of(old, index)))
        });
        if !known && let Some(first) = media.segments.first() {
            self.anchor = old.or(Some((first.number, at.utc_nanos - media.length())));
        }
    }

    /// What was hinted is listed now, with its true length; how long after its end it came.
    fn confirm_hint(&mut self) -> Option<i64> {
        let (item, came) = self.unlisted.take()?;
        let media = self.media()?;
        let part = item.part.and_then(|part| usize::try_from(part).ok()).unwrap_or(0);
        match media.segment(item.msn).and_then(|segment| segment.parts.get(part)) {
            Some(part) => {
                let end = item.start + part.duration;
                self.buffer.add(item.start, end);
                self.end = self.end.max(end);
                Some(came - end)
            }
            None => {
                let is_to_come = media.next_position() <= (item.msn, item.part.unwrap_or(0));
                self.unlisted = is_to_come.then_some((item, came));
                None
            }
        }
    }

    /// Where a player begins, and how far behind the edge that is. spec: rfc8216bis §6.3.3
    pub(super) fn live_start(&self, low_latency: bool) -> Option<(i64, Option<i64>)> {
        let media = self.media()?;
        if media.segments.is_empty() {
            return None;
        }
        if self.has_end() {
            return Some((self.start_of(media, 0), None));
        }
        let target = media.target_nanos();
        let in_parts =
            media.part_target.filter(|_| low_latency && media.segments.iter().any(|one| !one.parts.is_empty()));
        let hold_back = match in_parts {
            Some(part) => media.control.part_hold_back.unwrap_or(3 * part),
            None => media.control.hold_back.unwrap_or(3 * target),
        };
        let first = self.start_of(media, 0);
        Some(((self.edge(media) - hold_back).max(first), Some(hold_back)))
    }

    /// Places itself at the last random access point at or before `start`.
    pub(super) fn begin_at(&mut self, start: i64, low_latency: bool) {
        let Some(media) = self.media() else { return };
        let mut chosen = None;
        for (index, segment) in media.segments.iter().enumerate() {
            let mut at = self.start_of(media, index);
            let is_usable = |chosen: &Option<_>| chosen.is_none() || at <= start + ROUNDING_NANOS;
            if !is_usable(&chosen) {
                break;
            }
            if segment.parts.is_empty() || !low_latency {
                if segment.uri.is_some() {
                    chosen = Some((segment.number, 0, at));
                }
                continue;
            }
            for (index, part) in (0u64..).zip(&segment.parts) {
                let can_begin = index == 0 || part.is_independent || !self.is_main;
                if can_begin && (chosen.is_none() || at <= start + ROUNDING_NANOS) {
                    chosen = Some((segment.number, index, at));
                }
                at += part.duration;
            }
        }
        if let Some((msn, part, at)) = chosen {
            (self.position, self.end, self.resume_at) = (Some((msn, part)), at, None);
        }
    }

    /// Gives up where it stands and what it has.
    pub(super) fn leave(&mut self) {
        self.position = None;
        self.resume_at = None;
        self.unlisted = None;
        self.buffer.clear();
        (self.media_at, self.failures, self.refused_hint) = (None, 0, None);
    }

    /// Goes on in another variant where it stands, with what it has.
    pub(super) fn change_to(&mut self, url: Url) {
        self.url = url;
        self.playlist = None;
        self.resume_at = Some(self.end);
        self.position = None;
        self.unlisted = None;
        self.map = None;
        (self.reload_at, self.media_at, self.failures, self.refused_hint) = (None, None, 0, None);
    }

    /// The playlist to ask for now, and what it is to hold. spec: rfc8216bis §6.2.5, §6.3.4
    pub(super) fn next_reload(&mut self, now: Instant, low_latency: bool) -> Option<(Url, Option<(u64, u64)>)> {
        if self.reload_at.is_some_and(|at| at > now) {
            return None;
        }
        let Some(media) = self.media() else {
            self.reload_at = None;
            return Some((self.url.clone(), None));
        };
        if media.is_ended {
            self.reload_at = None;
            return None;
        }
        let wanted = if low_latency && media.control.can_block_reload {
            let (msn, part) = media.next_position();
            let mut query = format!("_HLS_msn={msn}");
            if media.part_target.is_some() {
                let _ = write!(query, "&_HLS_part={part}");
            }
            if media.control.can_skip_until.is_some() && !self.needs_whole {
                query += "&_HLS_skip=YES";
            }
            (self.url.with_query(&query), Some((msn, if media.part_target.is_some() { part } else { 0 })))
        } else {
            (self.url.clone(), None)
        };
        self.reload_at = None;
        Some(wanted)
    }

    /// The media to ask for now, or what initializes a decoder for it. `Err`: it has no usable name and is left out.
    pub(super) fn next_media(
        &mut self,
        now: Instant,
        clock: Option<i64>,
        low_latency: bool,
    ) -> Option<Result<Request, String>> {
        if self.media_at.is_some_and(|at| at > now) {
            return None;
        }
        self.media_at = None;
        if clock.is_some_and(|clock| self.end - clock > AHEAD_NANOS_MAX) {
            self.media_at = Some(now + Duration::from_secs(1));
            return None;
        }
        let (item, uri, range, map) = self.find_next(low_latency)?;
        if let Some(map) =
            map.filter(|map| self.map.as_ref().is_none_or(|known| (&known.uri, known.range) != (&map.uri, map.range)))
        {
            let request =
                self.base.resolve(&map.uri).map(|url| (url, map.range, None)).map_err(|error| error.to_string());
            if request.is_err() {
                self.map = Some(Arc::clone(&map)); // not asked for again
            }
            self.map_asked = Some(map);
            return Some(request);
        }
        let request = self.base.resolve(&uri).map_err(|error| error.to_string());
        if request.is_err() {
            self.pass(&item);
        }
        Some(request.map(|url| (url, range, Some(item))))
    }

    fn find_next(&mut self, low_latency: bool) -> Option<Found> {
        let playlist = self.playlist.clone()?;
        let Playlist::Media(media) = &*playlist else { return None };
        for _ in 0..LOOKS_MAX {
            let (msn, part) = self.position?;
            let index = usize::try_from(part).ok()?;
            let Some(segment) = media.segment(msn) else { break };
            if segment.is_gap {
                self.position = Some((msn + 1, 0));
                continue;
            }
            let at =
                media.segments.iter().position(|one| one.number == msn).map_or(self.end, |at| self.start_of(media, at));
            let map = segment.map.clone();
            if let Some(found) = segment.parts.get(index).filter(|_| low_latency) {
                if found.is_gap {
                    self.position = Some((msn, part + 1));
                    continue;
                }
                let before: i64 = segment.parts.iter().take(index).map(|part| part.duration).sum();
                let is_edge = media.next_position() == (msn, part + 1);
                let item = Item {
                    msn,
                    part: Some(part),
                    start: at + before,
                    duration: found.duration,
                    is_hint: false,
                    is_edge,
                };
                return Some((item, found.uri.clone(), found.range, map));
            }
            let Some(uri) = &segment.uri else { break };
            if index > 0 && index >= segment.parts.len() && !segment.parts.is_empty() {
                self.position = Some((msn + 1, 0));
                continue;
            }
            let item = Item { msn, part: None, start: at, duration: segment.duration, is_hint: false, is_edge: false };
            return Some((item, uri.clone(), segment.range, map));
        }
        let position = self.position.filter(|position| {
            low_latency && *position == media.next_position() && self.refused_hint != Some(*position) && !media.is_ended
        })?;
        let hint = media.part_hint()?;
        let duration = self.part_target() * HINT_PERCENT / 100;
        let start = self.edge(media);
        let item = Item { msn: position.0, part: Some(position.1), start, duration, is_hint: true, is_edge: true };
        let map = media.segments.last().and_then(|last| last.map.clone());
        Some((item, hint.uri.clone(), hint.range, map))
    }

    pub(super) fn on_init(&mut self, now: Instant, is_there: bool) {
        let asked = self.map_asked.take();
        if is_there {
            (self.map, self.failures) = (asked, 0);
            return;
        }
        self.failures += 1;
        self.media_at = Some(now + RETRY_PAUSE);
        if self.failures >= FAILURES_MAX {
            (self.map, self.failures) = (asked, 0); // nothing can be decoded; what comes is counted all the same
        }
    }

    /// An item came; how long after its end, where it was hinted and is listed by now.
    pub(super) fn on_media(&mut self, utc_nanos: i64, item: &Item) -> Option<i64> {
        self.buffer.add(item.start, item.start + item.duration);
        self.fetched += 1;
        self.failures = 0;
        self.pass(item);
        if item.is_hint {
            self.unlisted = Some((item.clone(), utc_nanos));
            return self.confirm_hint();
        }
        None
    }

    fn pass(&mut self, item: &Item) {
        self.end = self.end.max(item.start + item.duration);
        self.position = Some(item.part.map_or((item.msn + 1, 0), |part| (item.msn, part + 1)));
    }

    /// An item was refused; true if it is left out now.
    pub(super) fn on_no_media(&mut self, now: Instant, item: &Item) -> bool {
        if item.is_hint {
            self.refused_hint = Some((item.msn, item.part.unwrap_or(0)));
            return false;
        }
        self.failures += 1;
        if self.failures < FAILURES_MAX {
            self.media_at = Some(now + RETRY_PAUSE);
            return false;
        }
        self.failures = 0;
        self.pass(item);
        true
    }
}
