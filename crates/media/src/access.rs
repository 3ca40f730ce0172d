//! Who may watch a stream.

use std::fmt;
use std::str::FromStr;

use crate::{StreamKey, StreamName};

/// Who may watch a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Playback {
    /// Everybody.
    #[default]
    Open,
    /// Who has a play key for the stream.
    Key,
}

impl Playback {
    /// `open` or `key`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Key => "key",
        }
    }
}

impl fmt::Display for Playback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text says nothing of who may watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("playback is 'open' (everybody may watch) or 'key' (who has a play key may)")]
pub struct InvalidPlayback;

impl FromStr for Playback {
    type Err = InvalidPlayback;

    fn from_str(text: &str) -> Result<Self, InvalidPlayback> {
        [Self::Open, Self::Key].into_iter().find(|playback| playback.as_str() == text).ok_or(InvalidPlayback)
    }
}

/// Why somebody may not watch; the text is for viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlayRefusal {
    /// No key came along.
    #[error("this stream is not open to everybody: a play key is needed")]
    KeyNeeded,
    /// The key is none, was revoked, or is for publishing or for another stream.
    #[error("this is no play key for this stream")]
    WrongKey,
}

/// Decides who may watch; says whether the stream is open, so that answers may be shared, or a key opened it.
pub type AuthorizePlay = dyn Fn(&StreamName, Option<&StreamKey>) -> Result<Playback, PlayRefusal> + Send + Sync;
