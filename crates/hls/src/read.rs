//! Reads playlists, as players and probes do: whatever a server sends leads to a playlist or to an error, and what is wrong
//! in it is told with its line.
//!
//! What a playlist *should* be is not judged here. Unknown tags are passed over (rfc8216bis §6.3.1). Times are nanoseconds.

mod attributes;
mod define;
mod media;
mod multivariant;

pub use define::{Outside, Variables};
pub use media::{
    ByteRange, DateRange, Hint, HintKind, Map, MediaPlaylist, Part, PlaylistKind, RenditionReport, Segment,
    ServerControl,
};
pub use multivariant::{MultivariantPlaylist, Rendition, Variant};

use crate::utc::days_since_1970;

/// Most bytes of a playlist that are read: a day of two-second segments with long names is 8 MiB.
pub const PLAYLIST_BYTES_MAX: usize = 16 << 20;
/// Longest time and highest number that are believed: sums of as many as a playlist can hold stay in bounds.
const SECONDS_MAX: i64 = 86_400;
const NUMBER_MAX: u64 = 1 << 53;
/// Most faults that are told of one playlist.
const FAULTS_MAX: usize = 50;

/// What is wrong in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub line: u32,
    /// In words.
    pub what: String,
}

/// Why a text is no playlist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// rfc8216bis §4.4.1.1
    #[error("the first line is not #EXTM3U")]
    NoPlaylist,
    /// rfc8216bis §4.1: lines of both kinds, or of neither
    #[error("it is neither a multivariant nor a media playlist")]
    NeitherKind,
    /// rfc8216bis §4.1
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// Larger than [`PLAYLIST_BYTES_MAX`].
    #[error("the playlist has {0} bytes, and {PLAYLIST_BYTES_MAX} are read")]
    TooLong(usize),
}

/// A playlist of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Playlist {
    /// Lists variants and renditions.
    Multivariant(MultivariantPlaylist),
    /// Lists segments.
    Media(MediaPlaylist),
}

impl Playlist {
    /// Reads a playlist. spec: rfc8216bis §4.1
    ///
    /// # Errors
    /// It is none, or longer than [`PLAYLIST_BYTES_MAX`]. Smaller things are told in `faults`.
    pub fn parse(body: &[u8]) -> Result<Self, ReadError> {
        Self::parse_with(body, Outside::default())
    }

    /// Likewise, with what its variables may be taken from. spec: rfc8216bis §4.4.2.3
    ///
    /// # Errors
    /// As [`Playlist::parse`]; with the values in place of variables it is longer than [`PLAYLIST_BYTES_MAX`].
    pub fn parse_with(body: &[u8], outside: Outside<'_>) -> Result<Self, ReadError> {
        if body.len() > PLAYLIST_BYTES_MAX {
            return Err(ReadError::TooLong(body.len()));
        }
        let text = std::str::from_utf8(body).map_err(|_| ReadError::NotUtf8)?;
        if text.lines().next() != Some("#EXTM3U") {
            return Err(ReadError::NoPlaylist);
        }
        let mut faults = Faults::default();
        let (text, variables) = define::substitute(text, outside, &mut faults)?;
        let has = |tags: &[&str]| text.lines().any(|line| tags.contains(&name_of(line)));
        match (
            has(&["#EXT-X-STREAM-INF", "#EXT-X-I-FRAME-STREAM-INF", "#EXT-X-MEDIA"]),
            has(&["#EXT-X-TARGETDURATION", "#EXTINF", "#EXT-X-PART"]),
        ) {
            (true, false) => {
                let playlist = multivariant::parse(&text, faults);
                Ok(Self::Multivariant(MultivariantPlaylist { variables, ..playlist }))
            }
            (false, true) => Ok(Self::Media(media::parse(&text, faults))),
            (true, true) | (false, false) => Err(ReadError::NeitherKind),
        }
    }
}

/// A tag's name with its `#`.
fn name_of(line: &str) -> &str {
    line.split_once(':').map_or(line, |(name, _)| name)
}

/// Lines with their numbers, and the faults found in them.
#[derive(Debug, Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, line: u32, what: impl Into<String>) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(Fault { line, what: what.into() });
        }
    }

    /// The value, or a fault in its place.
    fn expect<T>(&mut self, line: u32, value: Option<T>, what: &str) -> Option<T> {
        if value.is_none() {
            self.add(line, what);
        }
        value
    }
}

/// Nanoseconds of decimal seconds; below a nanosecond it is cut off. spec: rfc8216bis §4.2
fn seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok().filter(|whole| *whole <= SECONDS_MAX)? };
    let fraction = format!("{fraction:0<9}");
    let nanos: i64 = fraction.get(..9)?.parse().ok()?;
    whole.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Nanoseconds since 1970 of an ISO 8601 date such as `2026-11-23T12:30:10.123Z` or `…+01:00`. spec: rfc8216bis §4.4.4.6
///
/// `None`: it is no such date.
pub fn date(text: &str) -> Option<i64> {
    let (day, time) = text.split_once(['T', 't', ' '])?;
    let (time, offset) = if let Some(time) = time.strip_suffix(['Z', 'z']) {
        (time, 0)
    } else {
        let at = time.rfind(['+', '-'])?;
        let (time, offset) = time.split_at_checked(at)?;
        let is_behind = offset.starts_with('-');
        let digits: String = offset.chars().filter(char::is_ascii_digit).collect();
        let minutes = 60 * number(digits.get(..2)?, 0, 23)? + digits.get(2..4).map_or(Some(0), |m| number(m, 0, 59))?;
        (time, if is_behind { -minutes } else { minutes })
    };
    let mut fields = day.split('-');
    let year = number(fields.next()?, 1970, 2200)?;
    let (month, day) = (number(fields.next()?, 1, 12)?, number(fields.next()?, 1, 31)?);
    let mut fields = time.split(':');
    let (hour, minute) = (number(fields.next()?, 0, 23)?, number(fields.next()?, 0, 59)?);
    let second = seconds(fields.next().unwrap_or("0"))?;
    if fields.next().is_some() || second >= 61_000_000_000 {
        return None;
    }
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - offset;
    minutes.checked_mul(60_000_000_000)?.checked_add(second)
}

/// A whole number that is believed.
fn whole(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number <= NUMBER_MAX)
}

fn number(text: &str, min: i64, max: i64) -> Option<i64> {
    let number: i64 = text.parse().ok()?;
    (min..=max).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests;
