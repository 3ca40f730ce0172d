//! Real headless browsers, and what somebody in front of them sees.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::PATIENCE;

/// What a viewer sees at one moment.
#[expect(clippy::struct_excessive_bools, reason = "each is seen on the page, apart from the others")]
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Look {
    /// Milliseconds since the browser opened the page.
    #[serde(rename = "t")]
    pub millis: u64,
    /// What the player says of itself.
    pub state: String,
    /// Seconds behind the encoder, as the player says.
    pub latency: Option<f64>,
    /// The picture's time, in seconds.
    pub time: f64,
    /// Pictures shown.
    pub frames: u64,
    /// Bytes of sound decoded.
    pub audio_bytes: u64,
    /// Of the picture, in pixels.
    pub width: u64,
    /// Of the picture, in pixels.
    pub height: u64,
    /// Without sound.
    pub muted: bool,
    /// Does not play.
    pub paused: bool,
    /// Fills the screen.
    #[serde(rename = "fullScreen")]
    pub is_full_screen: bool,
    /// A button asks to be tapped.
    pub can_tap: bool,
    /// How often the page was loaded.
    pub loads: u64,
    /// What the player tells the viewer.
    pub text: String,
    /// A button for captions is there.
    pub can_caption: bool,
    /// What the last caption says.
    pub captions: String,
    /// What stands in the address bar.
    pub address: String,
    /// Times that the picture stood still since it first moved.
    pub felt: Felt,
}

impl Look {
    /// Of the picture, in pixels.
    pub fn size(&self) -> (u64, u64) {
        (self.width, self.height)
    }
}

/// Times that a picture stood still.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Felt {
    /// How often, for 150 ms or longer.
    pub stalls: u64,
    /// The longest, in milliseconds.
    pub longest: u64,
}

/// A browser that watches a page.
#[derive(Debug)]
pub struct Viewer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Viewer {
    /// Opens a page for 90 seconds at most; `watch.mjs` lists the options.
    ///
    /// # Panics
    /// Node is not there.
    pub fn open(url: &str, options: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/watch.mjs");
        let mut command = Command::new("node");
        command.arg(script).args(["--url", url, "--seconds", "90"]).args(options);
        // Not killed when dropped: its standard input closes, and it ends its browser and itself.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("node is there");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// Does something in the page; `watch.mjs` lists what.
    ///
    /// # Panics
    /// The browser has ended.
    pub async fn tell(&mut self, command: &str) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(format!("{command}\n").as_bytes()).await.expect("the browser runs");
    }

    async fn line(&mut self) -> serde_json::Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("the browser answers");
        serde_json::from_str(&line.expect("readable").expect("the browser runs")).expect("JSON")
    }

    /// What is seen next.
    ///
    /// # Panics
    /// The browser has ended, or does not answer.
    pub async fn look(&mut self) -> Look {
        let value = self.line().await;
        assert_ne!(value["done"], true, "the browser ended: {value}");
        serde_json::from_value(value).expect("a look")
    }

    /// Looks until a condition holds.
    ///
    /// # Panics
    /// It does not in time.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&Look) -> bool) -> Look {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let look = self.look().await;
            if holds(&look) {
                return look;
            }
            assert!(Instant::now() < deadline, "not seen in time: {what}; last: {look:?}");
        }
    }

    /// Everything that is seen for a while.
    pub async fn watch(&mut self, duration: Duration) -> Vec<Look> {
        let deadline = Instant::now() + duration;
        let mut looks = Vec::new();
        while Instant::now() < deadline {
            looks.push(self.look().await);
        }
        looks
    }

    /// The last thing that is seen before its time is over, and the errors of scripts in the page.
    ///
    /// # Panics
    /// The browser does not answer, or saw nothing.
    pub async fn last(mut self) -> (Look, Vec<String>) {
        let mut last = None;
        loop {
            let value = self.line().await;
            if value["done"] == true {
                let errors = serde_json::from_value(value["errors"].clone()).expect("a list");
                return (last.expect("it saw something"), errors);
            }
            last = Some(serde_json::from_value(value).expect("a look"));
        }
    }

    /// Ends it.
    pub async fn close(mut self) {
        drop(self.child.stdin.take());
        while let Ok(Some(_)) = self.lines.next_line().await {}
        let _ = self.child.wait().await;
    }
}
