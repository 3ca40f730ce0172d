//! Real programs: where they are, and how they are started and ended.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

/// The folder that `cargo xtask setup test` fills.
pub fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools")
}

/// Which ffmpeg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ffmpeg {
    /// Debian's: no Enhanced RTMP.
    Debian,
    /// A current one, with Enhanced RTMP.
    Current,
}

impl Ffmpeg {
    /// Its path.
    pub fn path(self) -> PathBuf {
        match self {
            Self::Debian => "/usr/bin/ffmpeg".into(),
            Self::Current => tools().join("ffmpeg-current"),
        }
    }
}

/// A program that is ended by SIGKILL when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts it; what it writes to standard error can be read after its end.
    ///
    /// # Panics
    /// It is not there.
    pub fn start<'a>(path: impl AsRef<Path>, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = Command::new(path.as_ref());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()));
        Self { child }
    }

    /// Process id.
    ///
    /// # Panics
    /// It has ended.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Ends it at once, as `kill -9` does.
    ///
    /// # Panics
    /// It cannot be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("can be killed");
    }

    /// Waits for its end: whether it succeeded, standard output, standard error.
    ///
    /// # Panics
    /// It cannot be waited for.
    pub async fn finish(mut self) -> (bool, String, String) {
        let (mut out, mut err) = (self.child.stdout.take().expect("piped"), self.child.stderr.take().expect("piped"));
        let (mut out_text, mut err_text) = (Vec::new(), Vec::new());
        let _ = tokio::join!(out.read_to_end(&mut out_text), err.read_to_end(&mut err_text));
        let status = self.child.wait().await.expect("ends");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (status.success(), text(out_text), text(err_text))
    }
}

/// Whether a program can be started on this machine.
pub fn is_there(path: &str) -> bool {
    Path::new(path).exists()
}
