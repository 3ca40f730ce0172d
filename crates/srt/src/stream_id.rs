//! The stream identifier. spec: SRT access control §2; SRT-01

use std::fmt;

/// Most bytes of an identifier. spec: draft-sharabayko-srt-01 §3.2.1.3
pub(crate) const BYTES_MAX: usize = 512;

/// What the caller wants to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// To be sent the stream.
    #[default]
    Request,
    /// To send it.
    Publish,
    /// Both.
    Bidirectional,
}

/// A stream identifier, taken apart.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StreamId {
    /// What it is about: a stream's name, perhaps behind a folder.
    pub resource: String,
    /// What is to be done; `None` where it does not say.
    pub mode: Option<Mode>,
    /// What is shown to be let in: a secret.
    pub key: String,
    /// User name, where it has one.
    pub user: String,
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamId").field("resource", &self.resource).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl StreamId {
    /// Reads `#!::r=…,m=…,s=…`, or `publish:stream:key` and `read:stream:key`, or a bare name.
    ///
    /// # Errors
    /// In words: it is in none of these forms. Keys that are not known are left out.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(pairs) = text.strip_prefix("#!::") {
            return Self::parse_pairs(pairs);
        }
        if text.starts_with("#!") {
            return Err("the stream identifier begins with '#!', and only the form '#!::key=value,…' is known");
        }
        let mut fields = text.splitn(3, ':');
        let (first, second, third) = (fields.next().unwrap_or_default(), fields.next(), fields.next());
        let mode = match (first, second) {
            (_, None) => return Ok(Self { resource: first.to_owned(), ..Self::default() }),
            ("publish", _) => Mode::Publish,
            ("read" | "play" | "request", _) => Mode::Request,
            _ => return Err("the stream identifier is neither 'publish:stream:key' nor 'read:stream'"),
        };
        let (resource, key) = (second.unwrap_or_default().to_owned(), third.unwrap_or_default().to_owned());
        Ok(Self { resource, mode: Some(mode), key, user: String::new() })
    }

    fn parse_pairs(pairs: &str) -> Result<Self, &'static str> {
        let mut found = Self::default();
        for pair in pairs.split(',').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or("the stream identifier has a field without '='")?;
            match name {
                "r" => value.clone_into(&mut found.resource),
                "s" => value.clone_into(&mut found.key),
                "u" => value.clone_into(&mut found.user),
                "m" => {
                    found.mode = Some(match value {
                        "publish" => Mode::Publish,
                        "request" => Mode::Request,
                        "bidirectional" => Mode::Bidirectional,
                        _ => return Err("the mode 'm' is none of request, publish, bidirectional"),
                    });
                }
                "t" if !matches!(value, "stream" | "file" | "auth") => return Err("the type 't' is unknown"),
                "t" if value == "file" => return Err("files are not taken, only streams"),
                _ => {}
            }
        }
        Ok(found)
    }
}

/// As it is stored in the handshake: four bytes at a time, last one first. spec: draft-sharabayko-srt-01 §3.2.1.3
pub(crate) fn to_wire(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len().next_multiple_of(4));
    for four in text.as_bytes().chunks(4) {
        let mut word = [0; 4];
        for (place, byte) in word.iter_mut().zip(four) {
            *place = *byte;
        }
        word.reverse();
        out.extend_from_slice(&word);
    }
    out
}

/// The text, without the zeros that fill its last word; `None` where it is too long or not UTF-8.
pub(crate) fn from_wire(bytes: &[u8]) -> Option<String> {
    if bytes.len() > BYTES_MAX {
        return None;
    }
    let mut text: Vec<u8> = bytes.chunks(4).flat_map(|word| word.iter().rev()).copied().collect();
    while text.last() == Some(&0) {
        text.pop();
    }
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn srt_01_both_syntaxes_are_read() {
        let id = |text| StreamId::parse(text).expect("valid");
        let full = id("#!::r=live/show,m=publish,s=secret,u=me,h=host,t=stream,x=1");
        assert_eq!(
            (full.resource.as_str(), full.mode, full.key.as_str()),
            ("live/show", Some(Mode::Publish), "secret")
        );
        let plain = id("publish:show:se:cret");
        assert_eq!((plain.resource.as_str(), plain.mode, plain.key.as_str()), ("show", Some(Mode::Publish), "se:cret"));
        assert_eq!(id("read:show").mode, Some(Mode::Request));
        assert_eq!((id("show").resource.as_str(), id("show").mode), ("show", None));
        assert_eq!(id("#!::").mode, None);
        for bad in ["#!:r=x", "#!::r", "#!::m=take", "#!::t=file", "do:x"] {
            assert!(StreamId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_wire_form_reads_back() {
        for text in ["", "a", "abcd", "abcde", "#!::r=live/ü"] {
            assert_eq!(from_wire(&to_wire(text)).as_deref(), Some(text));
        }
        assert_eq!(to_wire("abcde"), b"dcba\0\0\0e");
        assert_eq!(from_wire(&[0xff; 4]), None);
        assert_eq!(from_wire(&[b'a'; 516]), None);
    }

    #[test]
    fn the_key_is_not_shown() {
        assert!(!format!("{:?}", StreamId::parse("publish:a:secret")).contains("secret"));
    }
}
