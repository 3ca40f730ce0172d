//! How FFmpeg makes a slate that fits a stream.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use hub::Tracks;
use media::{FrameRate, VideoCodec};
use tokio::process::Command;

use super::Slate;

/// Longest that FFmpeg may take.
const TIME_MAX: Duration = Duration::from_mins(2);
/// Seconds of a clip that are used.
const CLIP_SECONDS: &str = "20";
/// Slates that nobody has needed for so long are made anew when they are.
const KEPT_FOR: Duration = Duration::from_hours(30 * 24);
/// Largest slate.
const BYTES_MAX: u64 = 32 << 20;
/// Where fonts are on most systems; without any the card has no title.
const FONTS: [&str; 3] = [
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
];

/// What decoders are told of a stream's picture.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Format {
    pub(super) codec: VideoCodec,
    width: u32,
    height: u32,
    pub(super) frame_rate: FrameRate,
    /// `profile_idc` and `level_idc` (H.264), or tier, profile and level in the codec string (H.265).
    codec_string: String,
}

impl Format {
    /// That of a program, if it has pictures that can be made.
    pub(super) fn of(tracks: &Tracks, measured_millihertz: u64) -> Option<Self> {
        let video = super::video(tracks)?;
        if !matches!(video.codec, VideoCodec::Avc | VideoCodec::Hevc) {
            return None;
        }
        let nearest = |millihertz: u64| {
            let distance = |rate: &FrameRate| rate.millihertz().abs_diff(millihertz);
            FrameRate::COMMON.into_iter().min_by_key(distance).filter(|rate| distance(rate) <= millihertz / 50)
        };
        // What the bitstream declares is a hint: what is measured counts where they differ.
        let is_near = |rate: &FrameRate| rate.millihertz().abs_diff(measured_millihertz) <= measured_millihertz / 10;
        let declared = video.frame_rate.filter(|rate| measured_millihertz == 0 || is_near(rate));
        // FFmpeg 5.1 does not end where a picture lasts longer than what is made.
        let known = declared.or_else(|| nearest(measured_millihertz)).filter(|rate| rate.millihertz() >= 1000);
        let frame_rate = known.or_else(|| FrameRate::new(30, 1))?;
        let codec_string = video.codec_string.clone();
        Some(Self { codec: video.codec, width: video.width, height: video.height, frame_rate, codec_string })
    }

    /// H.264, High profile, for a stream that has none yet.
    pub(super) fn usual(width: u32, height: u32, frame_rate: FrameRate) -> Self {
        Self { codec: VideoCodec::Avc, width, height, frame_rate, codec_string: String::new() }
    }

    /// Profile and level as x264 wants them. spec: RFC 6381 §3.3
    fn avc_options(&self) -> Vec<String> {
        let byte = |at: usize| u8::from_str_radix(self.codec_string.get(at..at + 2)?, 16).ok();
        let profile = match byte(5) {
            Some(66) => "baseline",
            Some(77) => "main",
            Some(110) => "high10",
            Some(122) => "high422",
            _ => "high",
        };
        let mut options = vec!["-c:v".to_owned(), "libx264".into(), "-profile:v".into(), profile.into()];
        if let Some(level) = byte(9) {
            options.extend(["-level:v".into(), format!("{}.{}", level / 10, level % 10)]);
        }
        let format = match profile {
            "high10" => "yuv420p10le",
            "high422" => "yuv422p10le",
            _ => "yuv420p",
        };
        options.extend(["-pix_fmt".into(), format.into(), "-x264-params".into()]);
        options.push("keyint=KEY:min-keyint=KEY:scenecut=0:bframes=0:aud=1:repeat-headers=1:open-gop=0".into());
        options
    }

    fn hevc_options(&self) -> Vec<String> {
        // hvc1.PROFILE.COMPATIBILITY.TIER-LEVEL
        let profile = self.codec_string.split('.').nth(1).unwrap_or("1");
        let format = if profile == "2" { "yuv420p10le" } else { "yuv420p" };
        let level = self.codec_string.split('.').nth(3).and_then(|text| text.get(1..)?.parse::<u32>().ok());
        let gop =
            "log-level=error:pools=1:keyint=KEY:min-keyint=KEY:scenecut=0:bframes=0:aud=1:repeat-headers=1:open-gop=0";
        // general_level_idc is thirty times the level
        let level = level.map_or(String::new(), |level| format!(":level-idc={}.{}", level / 30, level % 30 / 3));
        let parameters = format!("{gop}{level}");
        let words = ["-c:v", "libx265", "-pix_fmt", format, "-x265-params", &parameters];
        words.map(str::to_owned).into()
    }
}

/// What a slate shows, and in which format.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Card {
    pub(super) format: Format,
    pub(super) file: Option<PathBuf>,
    pub(super) title: Option<String>,
}

impl Card {
    /// The file in which it is kept: another one where anything is different, also the source.
    fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        let changed = self.file.as_ref().and_then(|file| file.metadata().ok()?.modified().ok());
        changed.hash(&mut hasher);
        format!("{:016x}.{}", hasher.finish(), self.extension())
    }

    fn extension(&self) -> &'static str {
        if self.format.codec == VideoCodec::Hevc { "hevc" } else { "h264" }
    }

    fn arguments(&self, out: &Path) -> Vec<String> {
        let Format { width, height, frame_rate, .. } = &self.format;
        let rate = format!("{}/{}", frame_rate.numerator(), frame_rate.denominator());
        let mut words: Vec<String> = ["-hide_banner", "-loglevel", "error", "-nostdin", "-y"].map(str::to_owned).into();
        let mut filter = format!(
            "scale={width}:{height}:force_original_aspect_ratio=decrease,pad={width}:{height}:-1:-1,setsar=1,fps={rate}"
        );
        match &self.file {
            Some(file) => {
                let is_picture = ["png", "jpg", "jpeg", "bmp", "webp"]
                    .iter()
                    .any(|known| file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(known)));
                if is_picture {
                    words.extend(["-loop", "1", "-t", "1"].map(str::to_owned));
                } else {
                    words.extend(["-t", CLIP_SECONDS].map(str::to_owned));
                }
                words.extend(["-i".into(), file.display().to_string()]);
            }
            None => {
                let source = format!("color=c=0x141d29:size={width}x{height}:rate={rate}");
                words.extend(["-f".into(), "lavfi".into(), "-t".into(), "1".into(), "-i".into(), source]);
                let font = FONTS.iter().find(|font| Path::new(font).exists());
                if let (Some(font), Some(title)) = (font, &self.title) {
                    let size = (height / 12).max(12);
                    // A stream's name has nothing that the filter would take for syntax.
                    let text = |text: &str, size: u32, y: &str| {
                        format!(
                            ",drawtext=fontfile={font}:text='{text}':fontsize={size}:fontcolor=white:x=(w-tw)/2:y={y}"
                        )
                    };
                    filter.push_str(&text(title, size, "(h-th)/2"));
                    filter.push_str(&text("one moment, please", size / 2, "(h-th)/2+2*th"));
                }
            }
        }
        words.extend(["-an".into(), "-vf".into(), filter]);
        let options =
            if self.format.codec == VideoCodec::Hevc { self.format.hevc_options() } else { self.format.avc_options() };
        let seconds = frame_rate.numerator().div_ceil(frame_rate.denominator());
        words.extend(options.into_iter().map(|option| option.replace("KEY", &seconds.to_string())));
        words.extend(
            ["-threads", "1", "-preset", "veryfast", "-crf", "26", "-maxrate", "3M", "-bufsize", "3M"]
                .map(str::to_owned),
        );
        let format = self.extension();
        words.extend(["-f".into(), format.into(), out.display().to_string()]);
        words
    }
}

/// Takes a slate from where it is kept, or makes it.
pub(super) async fn make(ffmpeg: &Path, folder: &Path, card: &Card) -> Result<Slate, String> {
    let kept = folder.join(card.name());
    if let Ok(bytes) = tokio::fs::read(&kept).await
        && let Ok(slate) = Slate::read(&bytes, card)
    {
        // Its age counts from its last use.
        let file = std::fs::File::options().append(true).open(&kept);
        let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
        return Ok(slate);
    }
    tokio::fs::create_dir_all(folder).await.map_err(|error| format!("{}: {error}", folder.display()))?;
    let draft = kept.with_extension("new");
    // Live streams come first.
    let mut command = Command::new("nice");
    command
        .args(["-n", "19"])
        .arg(ffmpeg)
        .args(card.arguments(&draft))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let running = command.kill_on_drop(true).output();
    let output = match tokio::time::timeout(TIME_MAX, running).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("{}: {error}: install FFmpeg, or say where it is", ffmpeg.display())),
        Err(_) => return Err(format!("FFmpeg took longer than {} s", TIME_MAX.as_secs())),
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("FFmpeg cannot make it: {}", text.lines().next().unwrap_or("no reason given")));
    }
    let size = tokio::fs::metadata(&draft).await.map_or(0, |metadata| metadata.len());
    if size > BYTES_MAX {
        let _ = tokio::fs::remove_file(&draft).await;
        return Err(format!("it has {size} bytes, which is too much: use a shorter clip"));
    }
    let bytes = tokio::fs::read(&draft).await.map_err(|error| error.to_string())?;
    let slate = Slate::read(&bytes, card)?;
    // Whole or not at all.
    let _ = tokio::fs::rename(&draft, &kept).await;
    Ok(slate)
}

/// Deletes what nobody has needed for long.
pub(super) fn prune(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > KEPT_FOR) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_a_picture_every_few_seconds_has_a_slate_that_can_be_made() {
        for (declared, measured, expected) in
            [((1, 3), 333, 30), ((1, 3), 0, 30), ((25, 1), 25_000, 25), ((1, 1), 1000, 1)]
        {
            let video = media::VideoConfig {
                codec: VideoCodec::Avc,
                record: bytes::Bytes::new(),
                width: 640,
                height: 360,
                frame_rate: FrameRate::new(declared.0, declared.1),
                codec_string: "avc1.42c01e".into(),
                reorder_frames: None,
                colour: None,
            };
            let format = Format::of(&Tracks { video: Some(video), audio: None }, measured).expect("can be made");
            assert_eq!(format.frame_rate, FrameRate::new(expected, 1).expect("a rate"), "{declared:?} {measured}");
        }
    }

    #[test]
    fn what_nobody_has_needed_for_a_month_is_deleted() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, age) in [("old", KEPT_FOR + Duration::from_mins(1)), ("known", KEPT_FOR - Duration::from_mins(1))] {
            let file = std::fs::File::create(folder.path().join(name)).expect("writes");
            file.set_modified(SystemTime::now() - age).expect("sets its age");
        }
        prune(folder.path());
        prune(&folder.path().join("none"));
        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("is there").flatten().collect();
        assert_eq!(left.iter().map(std::fs::DirEntry::file_name).collect::<Vec<_>>(), ["known"]);
    }
}
