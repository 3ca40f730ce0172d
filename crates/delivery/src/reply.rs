//! Responses: bodies that are lists of slices, caching, ranges, conditions.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::{Body, Frame, SizeHint};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use parking_lot::Mutex;

/// A body of slices that are never joined.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    queue: VecDeque<Bytes>,
    left: u64,
    /// Kept while the body is on its way.
    ticket: Option<Ticket>,
}

impl Slices {
    pub(crate) fn new(slices: impl IntoIterator<Item = Bytes>) -> Self {
        let queue: VecDeque<Bytes> = slices.into_iter().collect();
        let left = queue.iter().map(|slice| slice.len() as u64).sum();
        Self { queue, left, ticket: None }
    }

    /// The connection is told when this body should be through.
    pub(crate) fn watched(mut self, bodies: &Arc<Bodies>, bytes_per_second: u64) -> Self {
        self.ticket = (self.left > 0).then(|| bodies.enter(self.left, bytes_per_second));
        self
    }

    pub(crate) fn len(&self) -> u64 {
        self.left
    }

    /// The bytes from `start` to `end`, the latter not included.
    fn range(self, start: u64, end: u64) -> Self {
        let mut position = 0;
        let cut = self.queue.into_iter().filter_map(|slice| {
            let (from, to) = (position, position + slice.len() as u64);
            position = to;
            let (from_cut, to_cut) = (start.clamp(from, to), end.clamp(from, to));
            let offset = |at: u64| usize::try_from(at - from).unwrap_or(usize::MAX);
            (from_cut < to_cut).then(|| slice.slice(offset(from_cut)..offset(to_cut)))
        });
        Self::new(cut)
    }
}

impl Body for Slices {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.queue.pop_front();
        let length = next.as_ref().map_or(0, |slice| slice.len() as u64);
        self.left -= length;
        if let Some(ticket) = &self.ticket {
            ticket.bodies.handed.fetch_add(length, Ordering::Relaxed);
        }
        Poll::Ready(next.map(|slice| Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.queue.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Time a body has beyond what the slowest reader that is tolerated needs.
const BODY_GRACE: Duration = Duration::from_secs(20);

/// The bodies that are on their way on one connection. HTTP/2 lets a peer hold a body back without a byte waiting in the
/// socket; this bounds how long it may keep the media alive.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    open: Mutex<BTreeMap<u64, Instant>>,
    next: AtomicU64,
    /// Bytes of bodies that the protocol has taken over, and bytes that went into the socket. HTTP/2 takes a slice over as
    /// soon as its peer allows one byte of it, and then the body is gone from here.
    handed: AtomicU64,
    written: AtomicU64,
    /// Since when more was taken over than written, and what was written then.
    held_since: Mutex<Option<(Instant, u64)>>,
}

/// A body's place among those of its connection.
#[derive(Debug)]
struct Ticket {
    bodies: Arc<Bodies>,
    id: u64,
}

impl Bodies {
    fn enter(self: &Arc<Self>, size: u64, bytes_per_second: u64) -> Ticket {
        let needed = Duration::from_secs(size / bytes_per_second.max(1));
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(id, Instant::now() + BODY_GRACE + needed);
        Ticket { bodies: Arc::clone(self), id }
    }

    /// The socket took bytes.
    pub(crate) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether a body should have been through by now.
    pub(crate) fn is_overdue(&self, bytes_per_second: u64) -> bool {
        let now = Instant::now();
        let written = self.written.load(Ordering::Relaxed);
        let held = self.handed.load(Ordering::Relaxed).saturating_sub(written);
        let open = self.open.lock();
        let mut mark = self.held_since.lock();
        let (since, then) = *mark.get_or_insert((now, written));
        let needed = Duration::from_secs(held / bytes_per_second.max(1));
        let taken = Duration::from_secs((written - then) / bytes_per_second.max(1));
        if held == 0 {
            *mark = None;
        } else if taken > Duration::ZERO && taken >= now.duration_since(since) {
            *mark = Some((now, written)); // the peer reads fast enough
            if open.is_empty() {
                // What is left belongs to a body that the peer gave up: HTTP/2 drops it without a word.
                self.handed.store(written, Ordering::Relaxed);
            }
        } else if since + BODY_GRACE + needed < now {
            return true;
        }
        open.values().any(|deadline| *deadline < now)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.bodies.open.lock().remove(&self.id);
    }
}

/// Compresses for HTTP; level 4 takes half the time of the default for a few percent more.
pub(crate) fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 3), Compression::new(4));
    let written = encoder.write_all(plain).and_then(|()| encoder.finish());
    written.expect("writing to memory does not fail").into()
}

/// How long caches may keep an answer. The table is B.3 of the standards list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caching {
    /// It never changes.
    Immutable,
    /// For so many seconds.
    Seconds(i64),
    /// Not at all.
    Never,
}

impl Caching {
    fn value(self) -> HeaderValue {
        match self {
            Self::Immutable => HeaderValue::from_static("public, max-age=1209600, immutable"),
            Self::Seconds(seconds) => {
                HeaderValue::try_from(format!("public, max-age={seconds}")).expect("digits are a valid value")
            }
            Self::Never => HeaderValue::from_static("no-store"),
        }
    }
}

/// A response in the making.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) caching: Caching,
    pub(crate) etag: Option<String>,
    pub(crate) is_gzip: bool,
    /// It differs by Accept-Encoding.
    pub(crate) varies: bool,
    pub(crate) body: Slices,
    pub(crate) retry_after_seconds: Option<u32>,
    /// What the peer has to show. Never `Basic`: browsers would ask in a window of their own.
    pub(crate) challenge: Option<&'static str>,
}

impl Reply {
    pub(crate) fn ok(content_type: &'static str, caching: Caching, body: Slices) -> Self {
        Self {
            status: StatusCode::OK,
            content_type,
            caching,
            etag: None,
            is_gzip: false,
            varies: false,
            body,
            retry_after_seconds: None,
            challenge: None,
        }
    }

    /// An error in words.
    pub(crate) fn error(status: StatusCode, caching: Caching, text: &str) -> Self {
        let body = Slices::new([Bytes::from(format!("{text}\n"))]);
        Self { status, ..Self::ok("text/plain; charset=utf-8", caching, body) }
    }

    /// The response, with conditions and a single range applied. spec: RFC 9110 §13.1.2, §14
    pub(crate) fn into_response(mut self, request: &HeaderMap, allows_range: bool) -> Response<Slices> {
        let mut response = Response::new(Slices::default());
        let headers = response.headers_mut();
        let insert = |headers: &mut HeaderMap, name: header::HeaderName, value: &str| {
            headers.insert(name, HeaderValue::from_str(value).expect("built from plain text"));
        };
        headers.insert(header::CACHE_CONTROL, self.caching.value());
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("Age, Content-Length, Content-Range, Date, ETag"),
        );
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.varies {
            headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        if let Some(seconds) = self.retry_after_seconds {
            insert(headers, header::RETRY_AFTER, &seconds.to_string());
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(etag) = &self.etag {
            let tag = if self.is_gzip { format!("W/{etag}") } else { etag.clone() };
            insert(headers, header::ETAG, &tag);
            if matches_etag(request, etag) {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                return response;
            }
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if self.is_gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let mut status = self.status;
        if allows_range && status == StatusCode::OK {
            headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            let length = self.body.len();
            // spec: RFC 9110 §13.1.5: with another version in mind the whole is wanted
            let is_meant = request
                .get(header::IF_RANGE)
                .is_none_or(|wanted| self.etag.as_ref().is_some_and(|etag| wanted.as_bytes() == etag.as_bytes()));
            let range = request.get(header::RANGE).filter(|_| is_meant);
            match range.map(|value| parse_range(value.as_bytes(), length)) {
                Some(Range::Part(start, end)) => {
                    insert(headers, header::CONTENT_RANGE, &format!("bytes {start}-{}/{length}", end - 1));
                    status = StatusCode::PARTIAL_CONTENT;
                    self.body = self.body.range(start, end);
                }
                Some(Range::Unsatisfiable) => {
                    insert(headers, header::CONTENT_RANGE, &format!("bytes */{length}"));
                    status = StatusCode::RANGE_NOT_SATISFIABLE;
                    headers.insert(header::CACHE_CONTROL, Caching::Never.value());
                    self.body = Slices::default();
                }
                Some(Range::Ignored) | None => {}
            }
        }
        insert(headers, header::CONTENT_LENGTH, &self.body.len().to_string());
        *response.status_mut() = status;
        *response.body_mut() = self.body;
        response
    }
}

fn matches_etag(request: &HeaderMap, etag: &str) -> bool {
    let Some(wanted) = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()) else { return false };
    wanted.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Part(u64, u64),
    Unsatisfiable,
    /// Not bytes, several, or nonsense: the whole is sent.
    Ignored,
}

fn parse_range(value: &[u8], length: u64) -> Range {
    let Some((first, last)) = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.trim().strip_prefix("bytes="))
        .and_then(|range| range.split_once('-'))
    else {
        return Range::Ignored;
    };
    // spec: RFC 9110 §14.1.1: digits of any length; more than there is means to the end
    let number = |text: &str| {
        let digits = text.trim();
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first.trim().is_empty(), number(first), last.trim().is_empty(), number(last)) {
        (false, Some(start), true, _) if start < length => Range::Part(start, length),
        (false, Some(start), false, Some(end)) if start <= end && start < length => {
            Range::Part(start, end.saturating_add(1).min(length))
        }
        (false, Some(start), false, Some(end)) if end < start => Range::Ignored,
        (false, Some(start), true, _) | (false, Some(start), false, Some(_)) if start >= length => Range::Unsatisfiable,
        (true, _, false, Some(suffix)) if suffix > 0 && length > 0 => {
            Range::Part(length.saturating_sub(suffix), length)
        }
        (true, _, false, Some(_)) => Range::Unsatisfiable,
        _ => Range::Ignored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_ranges_are_cut_and_nonsense_is_ignored() {
        assert_eq!(parse_range(b"bytes=0-3", 10), Range::Part(0, 4));
        assert_eq!(parse_range(b"bytes=8-99", 10), Range::Part(8, 10));
        assert_eq!(parse_range(b"bytes=4-", 10), Range::Part(4, 10));
        assert_eq!(parse_range(b"bytes=-4", 10), Range::Part(6, 10));
        assert_eq!(parse_range(b"bytes=10-", 10), Range::Unsatisfiable);
        assert_eq!(parse_range(b"bytes=-0", 10), Range::Unsatisfiable);
        assert_eq!(parse_range(b"bytes=0-18446744073709551615", 10), Range::Part(0, 10));
        assert_eq!(parse_range(b"bytes=0-99999999999999999999", 10), Range::Part(0, 10));
        assert_eq!(parse_range(b"bytes=18446744073709551616-", 10), Range::Unsatisfiable);
        for nonsense in ["bytes=0-1,3-4", "items=0-1", "bytes=5-2", "bytes=a-b", "bytes=", "bytes=0-x", "bytes=--1"] {
            assert_eq!(parse_range(nonsense.as_bytes(), 10), Range::Ignored, "{nonsense}");
        }
    }

    #[test]
    fn a_body_is_watched_until_it_is_gone() {
        let bodies = Arc::new(Bodies::default());
        let body = Slices::new([Bytes::from_static(b"media")]).watched(&bodies, 1000);
        assert_eq!(bodies.open.lock().len(), 1);
        assert!(!bodies.is_overdue(1000));
        bodies.open.lock().values_mut().for_each(|deadline| *deadline = Instant::now() - Duration::from_secs(1));
        assert!(bodies.is_overdue(1000));
        drop(body);
        assert!(!bodies.is_overdue(1000));
    }

    #[test]
    fn who_reads_fast_enough_is_not_overdue_and_what_was_given_up_is_forgotten() {
        let bodies = Bodies::default();
        let back = |seconds| {
            let mut mark = bodies.held_since.lock();
            let (since, then) = mark.expect("something is held");
            *mark = Some((since - Duration::from_secs(seconds), then));
        };
        bodies.handed.store(600_000, Ordering::Relaxed);
        assert!(!bodies.is_overdue(1000), "it has just begun");
        back(30);
        bodies.wrote(200_000);
        assert!(!bodies.is_overdue(1000), "200 seconds' worth in 30");
        assert_eq!(bodies.handed.load(Ordering::Relaxed), 200_000, "no body is open: the rest was given up");

        bodies.handed.store(260_000, Ordering::Relaxed);
        assert!(!bodies.is_overdue(1000));
        back(30);
        bodies.wrote(10);
        assert!(!bodies.is_overdue(1000), "60 kB have 20 s and a minute");
        back(60);
        assert!(bodies.is_overdue(1000), "ten bytes in a minute and a half");
    }

    #[test]
    fn a_range_spans_slices_without_joining_them() {
        let body = Slices::new([Bytes::from_static(b"abc"), Bytes::from_static(b"def"), Bytes::from_static(b"ghi")]);
        let cut = body.range(2, 7);
        assert_eq!(cut.queue, ["c", "def", "g"]);
        assert_eq!(cut.len(), 5);
    }
}
