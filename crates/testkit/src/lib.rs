//! What tests share: a playlist reader that knows the rules, a small HTTP client, real programs, a scripted publisher.

pub mod http;
pub mod playlist;
pub mod programs;
pub mod publisher;

/// The bytes of a fixture, by name.
///
/// # Panics
/// There is none of that name.
pub fn fixture(name: &str) -> bytes::Bytes {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}
