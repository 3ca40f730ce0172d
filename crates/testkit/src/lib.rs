//! What tests share: a server that breaks rules on purpose, a playlist reader that knows them, a small HTTP client, real programs and browsers, a scripted publisher, a
//! bad network.

pub mod browser;
pub mod cable;
pub mod faults;
pub mod http;
pub mod playlist;
pub mod programs;
pub mod publisher;
pub mod reel;
pub mod relay;
pub mod witness;

/// How long anything may take that has no limit of its own.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// The bytes of a fixture, by name.
///
/// # Panics
/// There is none of that name.
pub fn fixture(name: &str) -> bytes::Bytes {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}
