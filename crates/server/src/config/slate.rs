//! `[slate]` and `[[always_on]]`: what viewers see while nobody publishes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gateway::{AlwaysOn, SlateSettings};
use media::{FrameRate, InvalidName, StreamName};
use serde::{Deserialize, Serialize};

use super::{ConfigError, range};

/// `[slate]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlateTable {
    /// Whether there are slates. Without, loss of all sources is a gap in the playlist.
    pub enabled: bool,
    /// The program that makes them: a path, or a name to look for.
    pub ffmpeg: PathBuf,
    /// A picture (png, jpg, bmp, webp) or a clip, of which 20 s are used, in place of the built-in card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// By stream: a picture or clip, or `off`.
    pub streams: BTreeMap<String, PathBuf>,
}

impl Default for SlateTable {
    fn default() -> Self {
        Self { enabled: true, ffmpeg: "ffmpeg".into(), file: None, streams: BTreeMap::new() }
    }
}

/// `[[always_on]]`: a stream that is live from the server's start, with its slate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlwaysOnTable {
    /// Its name.
    pub stream: String,
    /// Pixels of its slate until a source has been there, 64–7,680.
    #[serde(default = "usual_width")]
    pub width: u32,
    /// Likewise, 64–4,320.
    #[serde(default = "usual_height")]
    pub height: u32,
    /// Pictures a second, likewise, 5–120.
    #[serde(default = "usual_rate")]
    pub frame_rate: u32,
}

fn usual_width() -> u32 {
    1280
}

fn usual_height() -> u32 {
    720
}

fn usual_rate() -> u32 {
    30
}

impl SlateTable {
    /// What the gateway needs; nothing where there are no slates. `state` is the folder of the server.
    pub(super) fn settings(
        &self,
        always_on: &[AlwaysOnTable],
        state: &std::path::Path,
    ) -> Result<Option<SlateSettings>, ConfigError> {
        let name = |key: &'static str, text: &str| {
            let wrong = |error: InvalidName| ConfigError::Secret { key, error: format!("'{text}': {error}") };
            text.parse::<StreamName>().map_err(wrong)
        };
        let there = |key: &'static str, file: &PathBuf| match file.metadata() {
            Ok(_) => Ok(()),
            Err(error) => Err(ConfigError::Secret { key, error: format!("{}: {error}", file.display()) }),
        };
        if !self.enabled {
            return match always_on {
                [] => Ok(None),
                _ => Err(ConfigError::Secret {
                    key: "always_on",
                    error: "a stream that is always on shows its slate: set slate.enabled to true".into(),
                }),
            };
        }
        if let Some(file) = &self.file {
            there("slate.file", file)?;
        }
        let mut settings = SlateSettings {
            ffmpeg: self.ffmpeg.clone(),
            folder: state.join("slates"),
            file: self.file.clone(),
            files: std::collections::HashMap::new(),
            without: Vec::new(),
            always_on: Vec::new(),
        };
        for (stream, file) in &self.streams {
            let stream = name("slate.streams", stream)?;
            if file.as_os_str() == "off" {
                if always_on.iter().any(|always| always.stream == stream.as_str()) {
                    let error = format!("'{stream}' is always on and has no slate: take one of both out");
                    return Err(ConfigError::Secret { key: "slate.streams", error });
                }
                settings.without.push(stream);
            } else {
                there("slate.streams", file)?;
                settings.files.insert(stream, file.clone());
            }
        }
        for row in always_on {
            let number = |key, got: u32, low, high| {
                range(key, got.into(), low, high).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
            };
            let rate = number("always_on.frame_rate", row.frame_rate, 5, 120)?;
            let wrong = || ConfigError::Secret { key: "always_on.frame_rate", error: "it is 0".into() };
            settings.always_on.push(AlwaysOn {
                stream: name("always_on.stream", &row.stream)?,
                // Chroma has half as many.
                width: number("always_on.width", row.width, 64, 7680)? / 2 * 2,
                height: number("always_on.height", row.height, 64, 4320)? / 2 * 2,
                frame_rate: FrameRate::new(rate, 1).ok_or_else(wrong)?,
            });
        }
        Ok(Some(settings))
    }
}
