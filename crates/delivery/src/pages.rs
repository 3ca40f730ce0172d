//! The player page and its files, embedded in the binary.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;
use hyper::StatusCode;
use rust_embed::{Embed, EmbeddedFile};

use crate::reply::{Caching, Reply, Slices, gzip};

#[derive(Embed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Dist;

/// Text files, compressed once for all viewers.
static COMPRESSED: LazyLock<HashMap<String, Bytes>> = LazyLock::new(|| {
    let is_text = |path: &str| matches!(path.rsplit('.').next(), Some("html" | "js" | "css"));
    let files = Dist::iter().filter(|path| is_text(path));
    files.filter_map(|path| Some((path.to_string(), gzip(&Dist::get(&path)?.data)))).collect()
});

/// The player page.
pub(crate) fn page(accepts_gzip: bool) -> Reply {
    file("index.html", accepts_gzip).unwrap_or_else(|| {
        let text = "this build has no player page; run 'make web' and build again";
        Reply::error(StatusCode::NOT_FOUND, Caching::Seconds(1), text)
    })
}

/// A file of the page. Names with a content hash in them never change.
pub(crate) fn file(path: &str, accepts_gzip: bool) -> Option<Reply> {
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
    let compressed = COMPRESSED.get(path);
    let body = match (compressed.filter(|_| accepts_gzip), data) {
        (Some(compressed), _) => compressed.clone(),
        (None, Cow::Borrowed(bytes)) => Bytes::from_static(bytes),
        (None, Cow::Owned(bytes)) => Bytes::from(bytes),
    };
    let mut reply = Reply::ok(content_type, caching, Slices::new([body]));
    (reply.is_gzip, reply.varies) = (compressed.is_some() && accepts_gzip, compressed.is_some());
    let hash = metadata.sha256_hash();
    let short = hash.iter().take(8).fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    reply.etag = Some(format!("\"{short:016x}\""));
    Some(reply)
}
