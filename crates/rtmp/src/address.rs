//! Where a stream is, as `rtmp://HOST[:PORT]/APP/STREAM`.

use std::fmt;
use std::str::FromStr;

use media::StreamKey;

/// An `rtmp` or `rtmps` address. Shown without its query, which may hold a key.
#[derive(Clone, Debug)]
pub struct Address {
    /// `rtmps`
    pub is_tls: bool,
    /// Name or address of the host, IPv6 without brackets.
    pub host: Box<str>,
    /// 1935, or 443 with TLS, if not written.
    pub port: u16,
    /// Application, with what follows it but the name.
    pub app: String,
    /// The stream there, with its query: it may carry a key.
    pub name: StreamKey,
}

/// An address that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Another scheme.
    #[error("the address begins with neither rtmp:// nor rtmps://")]
    Scheme,
    /// No host, or a port that is none.
    #[error("the address has no host, or a port that is no number from 1 to 65535: rtmp://HOST[:PORT]/APP/STREAM")]
    Host,
    /// No application, or no stream.
    #[error("the address names no stream: rtmp://HOST[:PORT]/APP/STREAM")]
    Stream,
}

impl Address {
    /// Host and port, as an address has them.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// What `connect` calls `tcUrl`: the address without the stream.
    ///
    /// spec: RTMP 1.0 §7.2.1.1
    pub fn tc_url(&self) -> String {
        format!("{}://{}/{}", self.scheme(), self.authority(), self.app)
    }

    fn scheme(&self) -> &'static str {
        if self.is_tls { "rtmps" } else { "rtmp" }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tc_url(), self.name.expose().split('?').next().unwrap_or_default())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(AddressError::Scheme)?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "rtmp" => false,
            "rtmps" => true,
            _ => return Err(AddressError::Scheme),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, after) = match authority.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').ok_or(AddressError::Host)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match after.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port > 0),
            None => after.is_empty().then_some(if is_tls { 443 } else { 1935 }),
        };
        let port = port.filter(|_| !host.is_empty() && !host.contains('@')).ok_or(AddressError::Host)?;
        let (before, query) = path.split_at(path.find('?').unwrap_or(path.len()));
        let (app, name) = before.trim_matches('/').rsplit_once('/').ok_or(AddressError::Stream)?;
        if app.is_empty() || name.is_empty() {
            return Err(AddressError::Stream);
        }
        let name = StreamKey::new(format!("{name}{query}"));
        Ok(Self { is_tls, host: host.into(), port, app: app.to_owned(), name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_show_no_secret() {
        for (text, shown) in [
            ("rtmp://a/live/show?key=secret", "rtmp://a:1935/live/show"),
            ("RTMPS://a/live/x/show", "rtmps://a:443/live/x/show"),
            ("rtmp://[::1]:1936/live/show", "rtmp://[::1]:1936/live/show"),
            ("rtmp://a:80/live/show", "rtmp://a:80/live/show"),
        ] {
            assert_eq!(text.parse::<Address>().expect("an address").to_string(), shown);
        }
        for (text, error) in [
            ("srt://a/live/show", AddressError::Scheme),
            ("a/live/show", AddressError::Scheme),
            ("rtmp:///live/show", AddressError::Host),
            ("rtmp://a:0/live/show", AddressError::Host),
            ("rtmp://a:x/live/show", AddressError::Host),
            ("rtmp://[::1/live/show", AddressError::Host),
            ("rtmp://a", AddressError::Stream),
            ("rtmp://a/show", AddressError::Stream),
        ] {
            assert_eq!(text.parse::<Address>().map(|_| ()), Err(error), "{text}");
        }
    }
}
