//! What a viewer got of what an encoder made, picture by picture and frame of sound by frame of sound.
//!
//! The encoder writes its units into a file beside what it sends; a player that is not ours (ffmpeg) decodes the stream. Each
//! picture, decoded, and each frame of sound, as it was coded, is known by its hash.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::programs::{Ffmpeg, Program};

/// An encoder whose pictures and sound never repeat, and that sends one encode to several places.
#[derive(Debug)]
pub struct Source {
    /// The program.
    pub program: Program,
    reference: PathBuf,
}

/// How it encodes.
#[derive(Clone, Copy, Debug)]
pub struct Making {
    /// Pixels.
    pub size: &'static str,
    /// Pictures a second.
    pub rate: u32,
    /// Pictures between two keyframes.
    pub gop: u32,
    /// Reordered pictures.
    pub b_frames: u32,
    /// How long.
    pub seconds: u32,
    /// Of the noise it sounds like; two sources with the same seed and size make the same.
    pub seed: u32,
}

impl Default for Making {
    fn default() -> Self {
        Self { size: "640x360", rate: 30, gop: 60, b_frames: 2, seconds: 60, seed: 1 }
    }
}

impl Source {
    /// Starts it; `outputs` are muxer and address, such as `("flv", "rtmp://…")`. An output that fails is tried again.
    pub fn start(making: Making, reference: &Path, outputs: &[(&str, String)]) -> Self {
        let Making { size, rate, gop, b_frames, seconds, seed } = making;
        let picture = format!("testsrc2=size={size}:rate={rate}");
        let sound = format!("anoisesrc=sample_rate=48000:amplitude=0.1:seed={seed}");
        let tee: Vec<String> = outputs
            .iter()
            .map(|(muxer, address)| format!("[f={muxer}:onfail=ignore]{}", address.replace('|', "%7C")))
            .chain([format!("[f=matroska:use_fifo=0]{}", reference.display())])
            .collect();
        let options =
            "queue_size=2000:drop_pkts_on_overflow=1:attempt_recovery=1:recover_any_error=1:recovery_wait_time=1";
        let (tee, seconds, gop, b_frames) = (tee.join("|"), seconds.to_string(), gop.to_string(), b_frames.to_string());
        let inputs = ["-hide_banner", "-loglevel", "error", "-nostdin", "-re", "-f", "lavfi", "-i", &picture];
        let inputs = inputs.into_iter().chain(["-f", "lavfi", "-i", &sound, "-t", &seconds]);
        let codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-g", &gop, "-bf", &b_frames, "-sc_threshold", "0"];
        let codecs = codecs.into_iter().chain(["-pix_fmt", "yuv420p", "-b:v", "800k", "-c:a", "aac", "-b:a", "128k"]);
        let tee = ["-flags", "+global_header", "-map", "0", "-map", "1", "-f", "tee", "-use_fifo", "1"]
            .into_iter()
            .chain(["-fifo_options", options, &tee]);
        let program = Program::start(Ffmpeg::Debian.path(), inputs.chain(codecs).chain(tee));
        Self { program, reference: reference.into() }
    }

    /// What it made until now: it is asked to end.
    ///
    /// # Panics
    /// There is no `kill`.
    pub async fn stop(self) -> Hashes {
        let ends = Program::start("/bin/kill", ["-INT", &self.program.id().to_string()]).finish();
        ends.await;
        self.made().await
    }

    /// What it made, when it has ended.
    pub async fn made(self) -> Hashes {
        let _ = self.program.finish().await;
        Hashes::of(self.reference.to_str().expect("a plain path")).await
    }
}

/// Hashes of pictures and of frames of sound, in their order.
#[derive(Debug, Default)]
pub struct Hashes {
    /// Decoded.
    pub video: Vec<String>,
    /// As it was coded.
    pub audio: Vec<String>,
    /// When each picture is shown, in microseconds.
    pub shown_us: Vec<i64>,
    /// When each frame of sound is heard, in microseconds.
    pub heard_us: Vec<i64>,
    /// Width and height of the pictures.
    pub size: String,
}

const HASHED: [&str; 14] = [
    "-map",
    "0:v?",
    "-map",
    "0:a?",
    "-c:a",
    "copy",
    "-fps_mode",
    "passthrough",
    "-enc_time_base:v",
    "-1",
    "-flush_packets",
    "1",
    "-f",
    "framemd5",
];

impl Hashes {
    /// Of a file.
    pub async fn of(file: &str) -> Self {
        let inputs = ["-hide_banner", "-loglevel", "error", "-nostdin", "-copyts", "-i", file];
        let arguments = inputs.into_iter().chain(HASHED).chain(["-"]);
        let (_, text, _) = Program::start(Ffmpeg::Debian.path(), arguments).finish().await;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        let mut hashes = Self::default();
        let mut bases = HashMap::new();
        let (mut sounds, mut size) = (Vec::new(), "");
        for line in text.lines() {
            let named = |name: &str| line.strip_prefix(name)?.split_once(": ");
            if let Some((track, base)) = named("#tb ") {
                bases.insert(track, base.split('/').map(|text| text.parse().unwrap_or(1_i64)).collect::<Vec<_>>());
            } else if let Some((track, "audio")) = named("#media_type ") {
                sounds.push(track);
            } else if let Some((_, pixels)) = named("#dimensions ") {
                size = if pixels == "0x0" { size } else { pixels };
            }
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            let [track, _, shown, _, _, hash] = fields[..] else { continue }; // the last line may be cut
            if hash.len() != 32 || line.starts_with('#') {
                continue;
            }
            let base = bases.get(track).map_or([1, 1], |base| [base[0], base[base.len() - 1]]);
            let at_us = 1_000_000 * base[0] * shown.parse::<i64>().unwrap_or_default() / base[1];
            let (list, times) = if sounds.contains(&track) {
                (&mut hashes.audio, &mut hashes.heard_us)
            } else {
                (&mut hashes.video, &mut hashes.shown_us)
            };
            list.push(hash.to_owned());
            times.push(at_us);
        }
        size.clone_into(&mut hashes.size);
        hashes
    }
}

/// A player that decodes a stream while it is live.
#[derive(Debug)]
pub struct Witness {
    program: Program,
    file: PathBuf,
}

impl Witness {
    /// Begins to watch.
    pub fn watch(http: SocketAddr, stream: &str, file: &Path) -> Self {
        let url = format!("http://{http}/live/{stream}/index.m3u8");
        let path = file.to_str().expect("a plain path");
        let _ = std::fs::remove_file(file); // of whoever watched before
        let inputs = ["-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-copyts", "-i", &url];
        let arguments = inputs.into_iter().chain(HASHED).chain([path]);
        Self { program: Program::start(Ffmpeg::Debian.path(), arguments), file: file.into() }
    }

    /// What it saw until now; it ends.
    pub async fn seen(self) -> Hashes {
        self.program.kill().await;
        Hashes::parse(&std::fs::read_to_string(&self.file).unwrap_or_default())
    }
}

/// How what was seen compares to what was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Units that were made and seen.
    pub seen: usize,
    /// Units between the first and the last that was seen, and that were not.
    pub missing: usize,
    /// Units that were seen again, or after a later one.
    pub again: usize,
    /// Units that the encoder did not make.
    pub strange: usize,
    /// Where, among the units that were made, the first was missing.
    pub first_missing: Option<usize>,
    /// Units that were made after the last one that was seen.
    pub unseen: usize,
}

impl Comparison {
    /// Compares hashes of one track.
    pub fn of(made: &[String], seen: &[String]) -> Self {
        let places: HashMap<&str, usize> = made.iter().enumerate().map(|(index, hash)| (&hash[..], index)).collect();
        let mut comparison = Self::default();
        let (mut first, mut last) = (None, None);
        for hash in seen {
            match places.get(&hash[..]).copied() {
                None => comparison.strange += 1,
                Some(place) if last.is_some_and(|last| place <= last) => comparison.again += 1,
                Some(place) => {
                    first.get_or_insert(place);
                    let missing = last.map_or(0, |last| place - last - 1);
                    if missing > 0 {
                        comparison.first_missing.get_or_insert(place - missing);
                    }
                    comparison.missing += missing;
                    last = Some(place);
                    comparison.seen += 1;
                }
            }
        }
        comparison.unseen = made.len() - last.map_or(0, |last| last + 1);
        comparison
    }

    /// Where, among the units that were made, what was seen next is not the one after: the one before, and the one that came.
    pub fn leaps(made: &[String], seen: &[String]) -> Vec<(Option<usize>, Option<usize>)> {
        let places: HashMap<&str, usize> = made.iter().enumerate().map(|(index, hash)| (&hash[..], index)).collect();
        let seen: Vec<Option<usize>> = seen.iter().map(|hash| places.get(&hash[..]).copied()).collect();
        let follows = |pair: &&[Option<usize>]| pair[1].is_none() || pair[0].map(|place| place + 1) != pair[1];
        seen.windows(2).filter(follows).map(|pair| (pair[0], pair[1])).collect()
    }

    /// Everything was seen once, in order, and most of it: players come later, and are behind.
    pub fn is_whole(&self) -> bool {
        self.seen > self.unseen && (self.missing, self.again, self.strange) == (0, 0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_repeated_or_strange_is_counted() {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let made = list("a b c d e f");
        assert!(Comparison::of(&made, &list("b c d e")).is_whole());
        let seen = Comparison::of(&made, &list("a b x b e d f"));
        assert_eq!(seen, Comparison { seen: 4, missing: 2, again: 2, strange: 1, first_missing: Some(2), unseen: 0 });
        assert!(!Comparison::of(&made, &list("a b")).is_whole(), "it did not watch for long enough");
        assert!(!Comparison::of(&made, &[]).is_whole());
    }

    #[test]
    fn lines_of_framemd5_are_read_and_a_cut_one_is_left_out() {
        let text = "#tb 0: 1/90000\n#media_type 0: video\n#dimensions 0: 640x360\n#tb 1: 1/48000\n#media_type 1: audio\n\
                    0, 0, 0, 1, 345600, 3ba13fb7a6943722da2344d1a34e2f03\n1, 960, 960, 1024, 341, \
                    6b26412e66cf818212cc0b26199ad076\n0, 3000, 9000, 1, 345600, 4ba13fb7a6943722da2344d1a34e2f03\n\
                    0, 3000, 6000, 1, 345600, 5ba13fb7a6943722da2344d1a34e2f03\n0, 1, 1, 1, 345600, 3ba13f";
        let hashes = Hashes::parse(text);
        assert_eq!((hashes.video.len(), hashes.audio.len()), (3, 1));
        assert_eq!(hashes.shown_us, [0, 100_000, 66_666]);
        assert_eq!((&*hashes.heard_us, &*hashes.size), (&[20_000][..], "640x360"));
        let sound =
            Hashes::parse("#tb 0: 1/48000\n#media_type 0: audio\n0, 0, 0, 1024, 341, 6b26412e66cf818212cc0b26199ad076");
        assert_eq!((sound.video.len(), sound.audio.len()), (0, 1));
    }
}
