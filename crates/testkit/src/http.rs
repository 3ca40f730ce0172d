//! A small HTTP/1.1 client: one request, one connection.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as it was sent.
    pub body: Bytes,
}

impl Answer {
    /// The value of a header field, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

/// A GET.
///
/// # Panics
/// The server cannot be reached or does not speak HTTP.
pub async fn get(server: SocketAddr, path: &str) -> Answer {
    request(server, "GET", path, &[]).await
}

/// Any request with header fields.
///
/// # Panics
/// As [`get`].
pub async fn request(server: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    attempt(server, method, path, headers).await.expect("an answer")
}

/// The whole body that a GET was answered with; nothing from a server that is not there, dies meanwhile, or refuses.
pub async fn try_get(server: SocketAddr, path: &str) -> Option<Bytes> {
    let answer = attempt(server, "GET", path, &[]).await.ok()?;
    let is_whole = answer.header("content-length").parse().map_or(true, |length: usize| length == answer.body.len());
    (answer.status == 200 && is_whole).then_some(answer.body)
}

async fn attempt(server: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text += "\r\n";
    let mut socket = TcpStream::connect(server).await?;
    socket.write_all(text.as_bytes()).await?;
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await?;
    let no_http = || io::Error::other("no HTTP");
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(no_http)?;
    let head = String::from_utf8(bytes[..split].to_vec()).map_err(io::Error::other)?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Answer { status: status.ok_or_else(no_http)?, headers, body: Bytes::from(bytes).slice(split + 4..) })
}
