//! Where a stream is watched, by protocol.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use media::StreamKey;

/// Where a stream is played over RTMP or SRT.
#[derive(Clone, Debug)]
pub enum Place {
    /// `rtmp` and `rtmps`.
    Rtmp(rtmp::Address),
    /// `srt`.
    Srt(SrtPlace),
}

/// An `srt` address: `srt://HOST:PORT?streamid=…&passphrase=…&latency=…`.
#[derive(Clone)]
pub struct SrtPlace {
    /// Host and port.
    pub server: String,
    /// What is wanted; it may carry a key.
    pub stream_id: Option<String>,
    /// The connection.
    pub settings: srt::Settings,
}

impl fmt::Debug for SrtPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SrtPlace").field("server", &self.server).finish_non_exhaustive()
    }
}

impl fmt::Display for Place {
    /// Without what may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rtmp(address) => address.fmt(f),
            Self::Srt(place) => write!(f, "srt://{}", place.server),
        }
    }
}

impl Place {
    /// The same with a play key, as our server takes it: behind the name, or as the third field of the stream identifier.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        let mut place = self.clone();
        match &mut place {
            Self::Rtmp(place) => {
                let name = place.name.expose();
                let joint = if name.contains('?') { '&' } else { '?' };
                place.name = StreamKey::new(format!("{name}{joint}key={key}"));
            }
            Self::Srt(place) => {
                let id = place.stream_id.take().unwrap_or_default();
                let joint = if id.starts_with("#!::") { ",s=" } else { ":" };
                place.stream_id = Some(format!("{id}{joint}{key}"));
            }
        }
        place
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest)) {
            Some((scheme, _)) if scheme == "rtmp" || scheme == "rtmps" => {
                text.parse().map(Self::Rtmp).map_err(|error: rtmp::AddressError| error.to_string())
            }
            Some((scheme, rest)) if scheme == "srt" => SrtPlace::parse(rest).map(Self::Srt),
            _ => Err("only rtmp://, rtmps:// and srt:// are played so".into()),
        }
    }
}

impl SrtPlace {
    /// Reads what stands behind `srt://`.
    ///
    /// # Errors
    /// In words: a parameter that is not known, or has a value it cannot have.
    pub fn parse(rest: &str) -> Result<Self, String> {
        let (server, query) = rest.split_once('?').unwrap_or((rest, ""));
        let server = server.trim_end_matches('/').to_owned();
        if !server.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
            return Err("the address has no host and port: srt://HOST:PORT?streamid=…".into());
        }
        let mut place = Self { server, stream_id: None, settings: srt::Settings::default() };
        // A stream identifier may have '&' and '=' of its own only if they are encoded.
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = percent_decoded(value)?;
            match name {
                "streamid" => place.stream_id = Some(value),
                "passphrase" => {
                    place.settings.passphrase = Some(srt::Passphrase::new(&value).map_err(|error| error.to_string())?);
                }
                "latency" => {
                    let millis = value.parse().map_err(|_| "'latency' is no number of milliseconds".to_owned())?;
                    place.settings.latency = Duration::from_millis(millis);
                }
                "mode" if value == "caller" => {}
                "transtype" if value == "live" => {}
                other => {
                    return Err(format!(
                        "'{other}' is not known in an srt address: streamid, passphrase and latency are"
                    ));
                }
            }
        }
        Ok(place)
    }
}

/// spec: RFC 3986 §2.1
fn percent_decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        bytes.push(match byte {
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or(0),
                _ => return Err("a '%' in the address is not followed by two hexadecimal digits".into()),
            },
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| "the address is no UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_show_no_secret() {
        for (text, shown) in [
            ("rtmp://a/live/show?key=secret", "rtmp://a:1935/live/show"),
            ("srt://a:9000?streamid=read:show:secret&passphrase=0123456789", "srt://a:9000"),
        ] {
            assert_eq!(text.parse::<Place>().expect("an address").to_string(), shown);
        }
        for text in ["rtmp://a/show", "srt://a", "srt://a:9000?what=1", "srt://a:9000?passphrase=short", "x://a/b/c"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
        let Ok(Place::Srt(place)) = "srt://a:9000?streamid=%23!::r%3Dshow,m%3Drequest".parse() else { panic!("read") };
        assert_eq!(place.stream_id.as_deref(), Some("#!::r=show,m=request"));
    }
}
