//! Commands on the same machine: through the Unix socket of a running server, or on the database if none runs.

use std::path::Path;

use anyhow::Context as _;
use control::Store;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::server::StateLock;

/// Name of the socket in the state directory.
pub(crate) const SOCKET: &str = "control.sock";
/// Largest answer that is read: thousands of streams.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What went wrong with a local command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// No server runs on this state directory.
    #[error("no server runs on this state directory; start it with 'throughline serve --state DIR'")]
    NotRunning,
    /// The server said no; its words.
    #[error("{0}")]
    Refused(String),
    /// The connection broke.
    #[error("talking to the server: {0}")]
    Broken(String),
}

/// A state directory, as a command finds it.
#[derive(Debug)]
pub enum Local {
    /// A server runs on it.
    Server(LocalClient),
    /// None does, and none can start while this is held.
    Store(Store, StateLock),
}

impl Local {
    /// Through the server of `state`, or on its database if none runs.
    ///
    /// # Errors
    /// A server holds the directory and does not answer, or the directory cannot be used.
    pub async fn reach(state: &Path) -> anyhow::Result<Self> {
        if let Ok(client) = LocalClient::connect(state).await {
            return Ok(Self::Server(client));
        }
        let lock = StateLock::take(state).context("it is starting or stopping: try again in a moment")?;
        Ok(Self::Store(Store::open(state)?, lock))
    }
}

/// Talks to the server of a state directory.
#[derive(Debug)]
pub struct LocalClient {
    stream: UnixStream,
}

impl LocalClient {
    /// Connects to the server of `state`.
    ///
    /// # Errors
    /// None runs there.
    pub async fn connect(state: &Path) -> Result<Self, LocalError> {
        let stream = UnixStream::connect(state.join(SOCKET)).await.map_err(|_| LocalError::NotRunning)?;
        Ok(Self { stream })
    }

    /// One request; the answer is read as JSON. An answer without content reads as `null`.
    ///
    /// # Errors
    /// The server refused or went away.
    pub async fn call<T: DeserializeOwned>(self, method: Method, path: &str, body: String) -> Result<T, LocalError> {
        let broken = |error: &dyn std::fmt::Display| LocalError::Broken(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.stream)).await.map_err(|error| broken(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| broken(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = response.status();
            let limited = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let bytes = limited.collect().await.map_err(|error| broken(&error))?.to_bytes();
            Ok::<_, LocalError>((status, bytes))
        };
        let (status, bytes) = tokio::select! {
            answer = exchange => answer?,
            ended = connection => return Err(LocalError::Broken(format!("connection ended early: {ended:?}"))),
        };
        if !status.is_success() {
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let text = value["error"].as_str().map_or_else(|| status.to_string(), str::to_owned);
            return Err(LocalError::Refused(text));
        }
        let text = if matches!(status, StatusCode::NO_CONTENT | StatusCode::ACCEPTED) { b"null" } else { &bytes[..] };
        serde_json::from_slice(text).map_err(|error| broken(&error))
    }
}
