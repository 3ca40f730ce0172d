//! One rendition: follows its playlist, and fetches what it lists.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hls::read::{ByteRange, MediaPlaylist, Playlist, Segment};

use super::findings::Findings;
use super::media::{Fetched, Media};
use super::{step, version};
use crate::client::{Client, Received, outside, plain};
use crate::url::Url;
use crate::watch::moment;

/// Clocks that are further apart are told.
const CLOCK_APART_SECONDS: i64 = 5;
/// Time for the network and the machine, beyond what a rule allows.
pub(super) const SLACK: Duration = Duration::from_millis(400);
/// An answer that took so much longer than a round trip was held.
const WAITED: Duration = Duration::from_millis(30);
/// Before a server that does not hold requests is asked again.
const EARLY_PAUSE: Duration = Duration::from_millis(200);
/// Parts that are kept to compare them with their segment.
const KEPT_SEGMENTS: usize = 3;

/// One rendition as it is followed.
pub(super) struct Rendition {
    pub(super) url: Url,
    pub(super) playlist: Arc<MediaPlaylist>,
    /// The multivariant playlist that names it.
    pub(super) list: Option<Arc<Playlist>>,
    /// The newest of any version, with its text.
    pub(super) text: String,
    pub(super) grown_at: Instant,
    pub(super) segment_at: Instant,
    pub(super) media: Media,
    pub(super) map: Option<Arc<hls::read::Map>>,
    /// The next part, or segment where there are no parts.
    pub(super) next: Option<(u64, u64)>,
    /// Most bits per second of a segment.
    pub(super) peak: u64,
    /// Bytes of the parts of the newest segments.
    pub(super) kept: VecDeque<(u64, BTreeMap<u64, Bytes>)>,
    pub(super) found: Findings,
    /// A segment and a part that are not listed any more.
    pub(super) removed: Option<Box<str>>,
    pub(super) dropped: Option<Box<str>>,
    pub(super) round_trip: Duration,
}

impl Rendition {
    /// Follows the playlist until `until`, and fetches what comes.
    pub(super) async fn follow(&mut self, client: &Client, codecs: &[String], until: Instant) -> Result<(), String> {
        while Instant::now() < until && !self.playlist.is_ended {
            self.look_at_media(client, codecs).await?;
            let before = Arc::clone(&self.playlist);
            let (query, asked) = self.next_query();
            let wait =
                if query.is_empty() { Duration::from_secs(before.target_duration.max(1)) / 2 } else { Duration::ZERO };
            tokio::time::sleep(wait.min(until.saturating_duration_since(Instant::now()))).await;
            let received = client.get(&self.url.with_query(&query), None, true).await?;
            if received.status != 200 {
                self.found.expect(false, "LL-12", 0, || format!("{query} gets {}", received.status));
                tokio::time::sleep(SLACK).await;
                continue;
            }
            self.text = open(&received, &mut self.found)?;
            let playlist = parse_media(&self.url, &self.text, self.list.as_deref())?;
            if let Some(asked) = asked {
                let holds = playlist.next_position() > asked || playlist.is_ended;
                self.found.expect(holds, "LL-12", 0, || format!("{query} was answered without it"));
                self.found
                    .expect(playlist.skipped.is_none(), "LL-12", 0, || "the reply is not the whole playlist".into());
                let is_cacheable =
                    max_age(&received).is_some_and(|age| (1..=6 * playlist.target_duration).contains(&age));
                let shown = received.header("cache-control").to_owned();
                self.found.expect(is_cacheable, "CACHE-03", 0, || format!("an answer to directives says '{shown}'"));
            } else {
                self.round_trip = self.round_trip.max(received.timing.first_byte);
            }
            // Who was kept waiting saw the moment; an answer at once says nothing of when it became true.
            let has_waited = asked.is_none() || received.timing.first_byte > self.round_trip + WAITED;
            self.compare(&before, &playlist, has_waited);
            let came_early = asked.is_some_and(|asked| playlist.next_position() <= asked);
            let (found, text) = (version(&playlist), self.text.clone());
            self.found.merge(found, &self.url.to_string(), &text);
            self.playlist = Arc::new(playlist);
            if came_early {
                tokio::time::sleep(EARLY_PAUSE).await;
            }
        }
        if let Some(part) = self.playlist.part_target {
            let round_trip = i64::try_from(self.round_trip.as_nanos()).unwrap_or(i64::MAX);
            self.found.expect(part >= round_trip, "AUTH-20", 0, || {
                format!("a round trip takes {} ms, and a part {}", round_trip / 1_000_000, part / 1_000_000)
            });
        }
        Ok(())
    }

    fn next_query(&self) -> (String, Option<(u64, u64)>) {
        if !self.playlist.control.can_block_reload {
            return (String::new(), None);
        }
        let (msn, part) = self.playlist.next_position();
        if self.playlist.part_target.is_some() {
            (format!("_HLS_msn={msn}&_HLS_part={part}"), Some((msn, part)))
        } else {
            (format!("_HLS_msn={msn}"), Some((msn, 0)))
        }
    }

    /// The step from one version to the next, and when it came.
    fn compare(&mut self, before: &MediaPlaylist, now: &MediaPlaylist, has_waited: bool) {
        let found = step(before, now);
        self.found.merge(found, &self.url.to_string(), &self.text);
        let target = Duration::from_secs(now.target_duration);
        if now.next_position() > before.next_position() {
            let since = self.grown_at.elapsed();
            if let Some(part) = now.part_target {
                let part = Duration::from_nanos(u64::try_from(part).unwrap_or(0));
                let blocks = now.control.can_block_reload;
                self.found.expect(!blocks || !has_waited || since <= part * 3 / 2 + SLACK, "LL-02", 0, || {
                    format!("{} ms between two parts", since.as_millis())
                });
            }
            self.grown_at = Instant::now();
        }
        if now.next_position().0 > before.next_position().0 {
            let since = self.segment_at.elapsed();
            self.found.expect(!has_waited || since <= target * 3 / 2 + SLACK + target / 2, "LL-02", 0, || {
                format!("{} ms between two segments", since.as_millis())
            });
            self.segment_at = Instant::now();
        }
        for old in before.complete().filter(|old| old.range.is_none()) {
            match now.segment(old.number) {
                None if old.number < now.media_sequence && !old.is_gap => self.removed.clone_from(&old.uri),
                Some(new) if new.parts.is_empty() && !old.parts.is_empty() && !old.is_gap => {
                    self.dropped = old.parts.first().map(|part| part.uri.clone());
                }
                _ => {}
            }
        }
    }

    /// What is found out about media is told with the lines of the playlist that lists it.
    async fn look_at_media(&mut self, client: &Client, codecs: &[String]) -> Result<(), String> {
        let before = std::mem::take(&mut self.found);
        let outcome = self.fetch_media(client, codecs).await;
        let found = std::mem::replace(&mut self.found, before);
        self.found.merge(found, &self.url.to_string(), &self.text);
        outcome
    }

    /// Fetches parts or segments that were not fetched yet.
    async fn fetch_media(&mut self, client: &Client, codecs: &[String]) -> Result<(), String> {
        let playlist = Arc::clone(&self.playlist);
        while let Some((msn, index)) = self.next {
            let Some(segment) = playlist.segment(msn) else {
                if msn < playlist.media_sequence {
                    self.next = Some((playlist.media_sequence, 0));
                    self.media.forget_times();
                    continue;
                }
                return Ok(());
            };
            if segment.is_gap || segment.is_encrypted {
                self.next = Some((msn + 1, 0));
                self.media.forget_times();
                continue;
            }
            if let Some(map) = segment
                .map
                .as_ref()
                .filter(|map| self.map.as_ref().is_none_or(|known| (&known.uri, known.range) != (&map.uri, map.range)))
            {
                let answer = self.get(client, &map.uri, map.range).await?;
                if let Some(answer) = answer {
                    self.media.init(&answer.body, codecs, &mut self.found);
                    self.of_media(&answer, &playlist);
                }
                self.map = Some(Arc::clone(map));
            }
            let at = usize::try_from(index).unwrap_or(usize::MAX);
            if playlist.part_target.is_none() {
                if segment.uri.is_none() {
                    return Ok(());
                }
                self.fetch_segment(client, &playlist, segment, true).await?;
                self.next = Some((msn + 1, 0));
            } else if segment.parts.get(at).is_some_and(|part| part.is_gap) {
                self.media.forget_times();
                self.next = Some((msn, index + 1));
            } else if at < segment.parts.len() {
                self.fetch_part(client, &playlist, segment, at).await?;
                self.next = Some((msn, index + 1));
            } else if segment.uri.is_some() {
                match self.whole_segment(msn, segment.parts.len()) {
                    Some(parts) => {
                        let whole = self.fetch_segment(client, &playlist, segment, false).await?;
                        self.found.expect(whole.is_none_or(|whole| whole == parts), "LL-03", segment.line, || {
                            format!("segment {msn} is not its parts one after the other")
                        });
                    }
                    // Its parts are not listed any more: too slow to see them all.
                    None if segment.parts.is_empty() => self.media.forget_times(),
                    None => {}
                }
                self.next = Some((msn + 1, 0));
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn fetch_segment(
        &mut self,
        client: &Client,
        playlist: &MediaPlaylist,
        segment: &Segment,
        is_sequence: bool,
    ) -> Result<Option<Bytes>, String> {
        let Some(uri) = &segment.uri else { return Ok(None) };
        let Some(answer) = self.get(client, uri, segment.range).await? else { return Ok(None) };
        self.of_media(&answer, playlist);
        let fetched = Fetched {
            name: uri,
            bytes: &answer.body,
            duration: segment.duration,
            independent: None,
            is_discontinuity: segment.is_discontinuity,
            line: segment.line,
        };
        self.look(&fetched, is_sequence);
        self.measure(answer.body.len(), segment.duration);
        Ok(Some(answer.body))
    }

    async fn fetch_part(
        &mut self,
        client: &Client,
        playlist: &MediaPlaylist,
        segment: &Segment,
        index: usize,
    ) -> Result<(), String> {
        let Some(part) = segment.parts.get(index) else { return Ok(()) };
        let Some(answer) = self.get(client, &part.uri, part.range).await? else { return Ok(()) };
        self.of_media(&answer, playlist);
        let body = answer.timing.total.saturating_sub(answer.timing.first_byte);
        let part_time = Duration::from_nanos(u64::try_from(part.duration).unwrap_or(0));
        self.found.expect(body < part_time / 2 + Duration::from_millis(100), "LL-08", part.line, || {
            format!("{} took {} ms, and lasts {} ms", part.uri, body.as_millis(), part_time.as_millis())
        });
        let fetched = Fetched {
            name: &part.uri,
            bytes: &answer.body,
            duration: part.duration,
            independent: Some(part.is_independent),
            is_discontinuity: segment.is_discontinuity && index == 0,
            line: part.line,
        };
        self.look(&fetched, true);
        self.keep(segment.number, index as u64, answer.body);
        Ok(())
    }

    fn look(&mut self, fetched: &Fetched<'_>, is_sequence: bool) {
        if self.media.has_init() || fetched.bytes.first() == Some(&0x47) {
            let mut found = Findings::default();
            self.media.look(fetched, is_sequence, &mut found);
            self.found.merge(found, &self.url.to_string(), &self.text);
        }
    }

    fn measure(&mut self, bytes: usize, duration: i64) {
        if duration >= 900_000_000 {
            let bits = bytes as u128 * 8 * 1_000_000_000 / u128::from(duration.unsigned_abs());
            self.peak = self.peak.max(u64::try_from(bits).unwrap_or(u64::MAX));
        }
    }

    fn keep(&mut self, msn: u64, index: u64, bytes: Bytes) {
        if self.kept.back().is_none_or(|(number, _)| *number != msn) {
            self.kept.push_back((msn, BTreeMap::new()));
            if self.kept.len() > KEPT_SEGMENTS {
                self.kept.pop_front();
            }
        }
        if let Some((_, parts)) = self.kept.back_mut() {
            parts.insert(index, bytes);
        }
    }

    /// All parts of a segment joined, if all were fetched.
    fn whole_segment(&self, msn: u64, count: usize) -> Option<Bytes> {
        let (_, parts) = self.kept.iter().find(|(number, _)| *number == msn)?;
        (parts.len() == count && count > 0).then(|| parts.values().flat_map(|bytes| bytes.iter().copied()).collect())
    }

    /// What the answer to a request for media tells.
    fn of_media(&mut self, answer: &Received, playlist: &MediaPlaylist) {
        let kind = answer.header("content-type").to_owned();
        let is_known =
            ["video/mp4", "audio/mp4", "video/iso.segment", "video/mp2t", "video/MP2T", "audio/aac"].contains(&&*kind);
        self.found.expect(is_known, "AUTH-13", 0, || format!("{} is sent as '{kind}'", answer.url));
        self.found.expect(answer.redirects == 0, "AUTH-09", 0, || format!("{} after a redirect", answer.url));
        let (age, least) = (max_age(answer), 6 * playlist.target_duration);
        self.found.expect(age.is_some_and(|age| age >= least), "B.3", 0, || {
            format!("{}: '{}', at least {least} s", answer.url, answer.header("cache-control"))
        });
    }

    /// Something that is listed; none, and a finding, where it is not to be had.
    async fn get(&mut self, client: &Client, uri: &str, range: Option<ByteRange>) -> Result<Option<Received>, String> {
        let url = self.url.resolve(uri).map_err(|error| error.to_string())?;
        let answer = client.get(&url, range, true).await?;
        let is_there = matches!(answer.status, 200 | 206);
        self.found.expect(is_there, "LL-08", 0, || format!("{url} is listed, and gets {}", answer.status));
        Ok(is_there.then_some(answer))
    }
}

/// The text of a playlist, and what its answer tells.
pub(super) fn open(received: &Received, found: &mut Findings) -> Result<String, String> {
    let url = &received.url;
    if received.status != 200 {
        return Err(format!("{url}: status {}", received.status));
    }
    let kind = received.header("content-type").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_known = ["application/vnd.apple.mpegurl", "audio/mpegurl", "application/x-mpegurl"].contains(&&*kind);
    found.expect(is_known, "AUTH-13", 0, || format!("a playlist is sent as '{kind}'"));
    found.expect(received.is_gzip(), "AUTH-13", 0, || format!("{url} is sent without compression"));
    found.expect(received.redirects == 0, "AUTH-09", 0, || format!("{url} after a redirect"));
    let clock = http_date(received.header("date"));
    let apart = clock.map(|date| (moment().utc_nanos / 1_000_000_000 - date).abs());
    found.expect(apart.is_some_and(|apart| apart <= CLOCK_APART_SECONDS), "LL-27", 0, || match apart {
        None => "there is no Date".into(),
        Some(apart) => format!("Date is {apart} s off the clock here"),
    });
    let text = plain(&received.body, received.is_gzip())?;
    String::from_utf8(text.to_vec()).map_err(|_| format!("{url}: the playlist is not UTF-8"))
}

/// `list` is the multivariant playlist that names it.
pub(super) fn parse_media(url: &Url, text: &str, list: Option<&Playlist>) -> Result<MediaPlaylist, String> {
    match Playlist::parse_with(text.as_bytes(), outside(url, list)) {
        Ok(Playlist::Media(playlist)) => Ok(playlist),
        Ok(Playlist::Multivariant(_)) => Err(format!("{url} is no media playlist")),
        Err(error) => Err(format!("{url}: {error}")),
    }
}

/// Seconds of `max-age`.
pub(super) fn max_age(received: &Received) -> Option<u64> {
    let control = received.header("cache-control");
    control.split(',').find_map(|directive| directive.trim().strip_prefix("max-age=")?.parse().ok())
}

/// How long a playlist without directives may be kept. B.3
pub(super) fn plain_max_age(playlist: &MediaPlaylist) -> u64 {
    if playlist.part_target.is_some() { 1 } else { playlist.target_duration.div_ceil(2).max(1) }
}

/// The newest date is close to the clock. AUTH-05
pub(super) fn is_timely(playlist: &MediaPlaylist) -> bool {
    let dated = playlist.segments.iter().rev().find_map(|one| one.date.map(|date| (one.number, date)));
    let Some((number, date)) = dated.filter(|_| !playlist.is_ended) else { return true };
    let after: i64 = playlist.segments.iter().filter(|one| one.number >= number).map(Segment::length).sum();
    let age = moment().utc_nanos - date - after;
    (-2_000_000_000..3 * playlist.target_nanos()).contains(&age)
}

/// Seconds since 1970 of `Wed, 25 Nov 2026 07:39:17 GMT`. spec: RFC 9110 §5.6.7
fn http_date(text: &str) -> Option<i64> {
    let mut fields = text.split(' ').skip(1);
    let (day, month, year) = (fields.next()?, fields.next()?, fields.next()?);
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month)? + 1;
    let iso = format!("{year}-{month:02}-{day:0>2}T{}Z", fields.next()?);
    hls::read::date(&iso).map(|nanos| nanos / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_read() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("yesterday"), None);
    }
}
