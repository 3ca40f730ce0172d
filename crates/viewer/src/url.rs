//! Addresses of playlists and media. spec: RFC 3986 §5

use std::fmt;
use std::str::FromStr;

/// An `http` or `https` address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    /// `https`
    pub is_https: bool,
    /// Name or address of the host, IPv6 without brackets.
    pub host: Box<str>,
    /// Port, written or not.
    pub port: u16,
    /// Path and query, from the slash on.
    pub path: Box<str>,
}

/// Why a text is no address that can be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no address: {why}")]
pub struct UrlError {
    text: String,
    why: &'static str,
}

impl UrlError {
    /// What is wrong, without the text.
    pub fn why(&self) -> &'static str {
        self.why
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let wrong = |why| UrlError { text: text.chars().take(200).collect(), why };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("write http:// or https:// before it"))?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong("only http:// and https:// can be fetched")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(|| wrong("the host has no closing bracket"))?;
                (host, after.strip_prefix(':'))
            }
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let default = if is_https { 443 } else { 80 };
        let port = port.filter(|port| !port.is_empty()).map_or(Ok(default), str::parse);
        let port = port.map_err(|_| wrong("the port is no number up to 65535"))?;
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("there is no host"));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("it has spaces or letters that must be percent-encoded"));
        }
        Ok(Self { is_https, host: host.into(), port, path: path.into() })
    }
}

impl Url {
    /// What `reference`, found in the resource of this address, stands for. spec: RFC 3986 §5.2.2
    ///
    /// # Errors
    /// It has another scheme, or letters that must be encoded.
    pub fn resolve(&self, reference: &str) -> Result<Self, UrlError> {
        let reference = reference.split('#').next().unwrap_or_default();
        let is_absolute =
            reference.find("://").is_some_and(|at| !reference.get(..at).unwrap_or_default().contains(['/', '?']));
        if is_absolute {
            return reference.parse();
        }
        let scheme = if self.is_https { "https" } else { "http" };
        if reference.starts_with("//") {
            return format!("{scheme}:{reference}").parse();
        }
        let (base, _) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let joined = match reference.chars().next() {
            None => self.path.clone().into(),
            Some('?') => format!("{base}{reference}"),
            Some('/') => reference.to_owned(),
            Some(_) => format!("{}/{reference}", base.rsplit_once('/').map_or("", |(folder, _)| folder)),
        };
        let (path, query) = joined.split_at(joined.find('?').unwrap_or(joined.len()));
        let path = format!("{}{query}", without_dots(path));
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            let text = reference.chars().take(200).collect();
            return Err(UrlError { text, why: "it has spaces or letters that must be percent-encoded" });
        }
        Ok(Self { path: path.into(), ..self.clone() })
    }

    /// The same with more in its query.
    #[must_use]
    pub fn with_query(&self, pairs: &str) -> Self {
        let path = if pairs.is_empty() {
            self.path.clone()
        } else {
            let joint = if self.path.contains('?') { '&' } else { '?' };
            format!("{}{joint}{pairs}", self.path).into()
        };
        Self { path, ..self.clone() }
    }

    /// Host and port as a header field has them: the port only where it is not the usual one.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        let is_usual = self.port == if self.is_https { 443 } else { 80 };
        if is_usual { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.is_https { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// spec: RFC 3986 §5.2.4
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("http://a", "http://a/"),
            ("HTTPS://a:443/b?c#d", "https://a/b?c"),
            ("http://[::1]:8080/x", "http://[::1]:8080/x"),
            ("http://user:secret@a/x", "http://a/x"),
            ("http://a?b", "http://a/?b"),
        ] {
            assert_eq!(url(text).to_string(), written, "{text}");
        }
        for text in ["a/b", "ftp://a", "http://", "http://a:99999/", "http://a/ b", "http://[::1/x", "http://a/ü"] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }

    /// spec: RFC 3986 §5.4
    #[test]
    fn references_are_resolved_as_the_examples_of_the_standard_say() {
        let base = url("http://a/b/c/d;p?q");
        for (reference, expected) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("#s", "http://a/b/c/d;p?q"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("g;x=1/../y", "http://a/b/c/y"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
            ("https://h/i?u=http://k", "https://h/i?u=http://k"),
            ("g?u=http://k", "http://a/b/c/g?u=http://k"),
        ] {
            assert_eq!(base.resolve(reference).expect("resolves").to_string(), expected, "{reference}");
        }
        assert_eq!(base.with_query("_HLS_msn=1").to_string(), "http://a/b/c/d;p?q&_HLS_msn=1");
    }
}
