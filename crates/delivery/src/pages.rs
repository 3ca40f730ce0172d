//! The player page and its files, embedded in the binary.

use bytes::Bytes;
use hyper::StatusCode;
use rust_embed::{Embed, EmbeddedFile};

use crate::reply::{Caching, Reply, Slices};

#[derive(Embed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Dist;

/// The player page.
pub(crate) fn page() -> Reply {
    file("index.html").unwrap_or_else(|| {
        let text = "this build has no player page; run 'make web' and build again";
        Reply::error(StatusCode::NOT_FOUND, Caching::Seconds(1), text)
    })
}

/// A file of the page. Names with a content hash in them never change.
pub(crate) fn file(path: &str) -> Option<Reply> {
    let EmbeddedFile { data, metadata, .. } = Dist::get(path)?;
    let content_type = match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    let caching = if path.starts_with("assets/") { Caching::Immutable } else { Caching::Seconds(60) };
    let body = match data {
        std::borrow::Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        std::borrow::Cow::Owned(bytes) => Bytes::from(bytes),
    };
    let mut reply = Reply::ok(content_type, caching, Slices::new([body]));
    let hash = metadata.sha256_hash();
    let short = hash.iter().take(8).fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    reply.etag = Some(format!("\"{short:016x}\""));
    Some(reply)
}
