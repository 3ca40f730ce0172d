//! What tests share: a server that breaks rules on purpose, a playlist reader that knows them, a small HTTP client, real programs, a scripted publisher, a bad network.

pub mod cable;
pub mod faults;
pub mod http;
pub mod playlist;
pub mod programs;
pub mod publisher;
pub mod relay;
pub mod witness;

/// The bytes of a fixture, by name.
///
/// # Panics
/// There is none of that name.
pub fn fixture(name: &str) -> bytes::Bytes {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}
