//! The name of a stream, which everybody may know, and its key, which nobody may print.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest stream name in bytes: fits a path component and a metric label.
const NAME_BYTES_MAX: usize = 64;

/// Identity of a stream: 1–64 of `a–z A–Z 0–9 . _ -`, not beginning with a dot. It never names a protocol or a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(Arc<str>);

/// Why a text is no stream name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a stream name has 1 to {NAME_BYTES_MAX} characters of a-z, A-Z, 0-9, '.', '_' and '-', and does not begin with a dot"
)]
pub struct InvalidName;

impl StreamName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let good = (1..=NAME_BYTES_MAX).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        good.then(|| Self(text.into())).ok_or(InvalidName)
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The secret with which one publishes, or watches what is not open. `Debug` prints nothing of it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamKey(Box<str>);

impl StreamKey {
    /// Takes the secret as the peer sent it.
    pub fn new(secret: impl Into<Box<str>>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for hashing or for showing once to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "a%2fb", "ä", "a\0", &"x".repeat(65)] {
            assert_eq!(bad.parse::<StreamName>(), Err(InvalidName), "{bad:?}");
        }
        for good in ["a", "live-1", "Big_Event.2026", &"x".repeat(64)] {
            assert!(good.parse::<StreamName>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_key_is_never_printed() {
        assert!(!format!("{:?}", StreamKey::new("hunter2")).contains("hunter2"));
    }
}
