//! Looks at and listens to what the legs bring: a keyframe and the sound since the one before are decoded by FFmpeg, in processes
//! of their own, now and then. What is black, frozen or silent for long is told, and gives way to a leg that is not.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use container::fmp4;
use hub::{Sample, Stream, StreamState};
use media::{AccessUnit, CodecConfig, StreamName, TrackKind};
use telemetry::SampleOutcome;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::warn;

use crate::{Gateway, arrival};

/// Pixels of the small picture that is looked at.
const WIDTH: usize = 160;
const HEIGHT: usize = 90;
/// Luma up to which a pixel is black: a tenth above what television calls black.
const BLACK_LUMA: u8 = 38;
/// One pixel in so many may be brighter: a logo.
const BRIGHT_ONE_IN: usize = 50;
/// Luma by which no pixel differs from the picture before, where nothing moves: quantization is less.
const STILL_LUMA: u8 = 6;
/// Peak below which nobody hears anything: −60 dBFS.
const AUDIBLE: u16 = 33;
/// Looks in a row that must be good before a verdict is taken back.
const GOOD_LOOKS: u32 = 2;
/// Evidence is so old at most: longer than the distance of keyframes, and of looks.
const STALE: Duration = Duration::from_mins(2);
/// Longest time for one decode.
const DECODE_TIMEOUT: Duration = Duration::from_secs(5);

/// How the legs are looked at.
#[derive(Clone, Debug)]
pub struct SamplingSettings {
    /// The program that decodes.
    pub ffmpeg: PathBuf,
    /// Between two looks at one leg.
    pub interval: Duration,
    /// So long a picture may be black.
    pub black: Option<Duration>,
    /// So long a picture may stand still.
    pub frozen: Option<Duration>,
    /// So long nothing may be heard.
    pub silent: Option<Duration>,
}

impl SamplingSettings {
    fn limit(&self, fault: Fault) -> Option<Duration> {
        match fault {
            Fault::Black => self.black,
            Fault::Frozen => self.frozen,
            Fault::Silent => self.silent,
        }
    }
}

/// What looks can find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Black,
    Frozen,
    Silent,
}

impl Fault {
    /// The gravest first.
    const ALL: [Self; 3] = [Self::Black, Self::Frozen, Self::Silent];

    fn words(self) -> &'static str {
        match self {
            Self::Black => "a black picture",
            Self::Frozen => "the same picture",
            Self::Silent => "silence",
        }
    }
}

/// Something that is bad now.
#[derive(Clone, Copy, Debug, Default)]
struct Onset {
    /// The first and the last bad look of a row.
    bad: Option<(Instant, Instant)>,
    good: u32,
    is_told: bool,
}

impl Onset {
    fn observe(&mut self, now: Instant, is_bad: bool) {
        self.expire(now);
        if is_bad {
            self.bad = Some((self.bad.map_or(now, |(first, _)| first), now));
            self.good = 0;
            return;
        }
        self.good += 1;
        if !self.is_told || self.good >= GOOD_LOOKS {
            *self = Self::default();
        }
    }

    /// What nobody has seen for long is not known any more.
    fn expire(&mut self, now: Instant) {
        if self.bad.is_some_and(|(_, last)| now.saturating_duration_since(last) > STALE) {
            *self = Self::default();
        }
    }

    /// How long it has been seen to be bad: one look is no time.
    fn lasts(&self) -> Option<Duration> {
        self.bad.map(|(first, last)| last.saturating_duration_since(first))
    }
}

/// What is known of one leg.
#[derive(Debug, Default)]
struct Watched {
    picture: Vec<u8>,
    onsets: [Onset; Fault::ALL.len()],
}

impl Watched {
    fn look(&mut self, now: Instant, picture: Vec<u8>) {
        let bright = picture.iter().filter(|luma| **luma > BLACK_LUMA).count();
        let is_black = bright * BRIGHT_ONE_IN <= picture.len();
        let is_same = |(a, b): (&u8, &u8)| a.abs_diff(*b) <= STILL_LUMA;
        let is_still = self.picture.len() == picture.len() && self.picture.iter().zip(&picture).all(is_same);
        self.onsets[0].observe(now, is_black);
        self.onsets[1].observe(now, is_still && !is_black);
        self.picture = picture;
    }

    fn listen(&mut self, now: Instant, samples: &[u8]) {
        let pairs = samples.as_chunks::<2>().0;
        let peak = pairs.iter().map(|pair| i16::from_le_bytes(*pair).unsigned_abs()).max();
        self.onsets[2].observe(now, peak.is_some_and(|peak| peak < AUDIBLE));
    }
}

/// What is wrong with each leg of a stream that delivers. Where several legs become bad in the same way, one a little after the other,
/// it is what they all show: none is called bad before the last of them is.
fn verdicts(
    now: Instant,
    settings: &SamplingSettings,
    delivering: &[u64],
    legs: &mut HashMap<u64, Watched>,
) -> Vec<(u64, Option<String>)> {
    legs.values_mut().flat_map(|leg| &mut leg.onsets).for_each(|onset| onset.expire(now));
    let mut verdicts: Vec<(u64, Option<String>)> = delivering.iter().map(|id| (*id, None)).collect();
    for (index, fault) in Fault::ALL.into_iter().enumerate() {
        let Some(limit) = settings.limit(fault) else { continue };
        let is_spreading =
            delivering.iter().filter_map(|id| legs.get(id)?.onsets[index].lasts()).any(|lasts| lasts < limit);
        for (id, verdict) in &mut verdicts {
            let Some(leg) = legs.get_mut(id) else { continue };
            let onset = &mut leg.onsets[index];
            let Some(lasts) = onset.lasts() else { continue };
            onset.is_told |= lasts >= limit && !is_spreading;
            if onset.is_told && verdict.is_none() {
                *verdict = Some(format!("{} for {} s", fault.words(), lasts.as_secs()));
            }
        }
    }
    verdicts
}

impl Gateway {
    /// Looks at the legs of all streams now and then, until shutdown.
    pub fn run_sampling(&self, settings: SamplingSettings) {
        let gateway = self.clone();
        self.tracker.spawn(async move {
            let shutdown = gateway.shutdown.clone();
            tokio::select! {
                () = gateway.sample_streams(Arc::new(settings)) => {}
                () = shutdown.cancelled() => {}
            }
        });
    }

    /// Each stream by itself, so that none waits for another one.
    async fn sample_streams(&self, settings: Arc<SamplingSettings>) {
        let decoders = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let decoders = Arc::new(Semaphore::new(decoders));
        let mut known: HashMap<StreamName, Arc<Stream>> = HashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let streams = self.hub.streams();
            known.retain(|name, _| streams.iter().any(|stream| stream.name() == name));
            for stream in streams {
                let before = known.insert(stream.name().clone(), Arc::clone(&stream));
                if before.is_none_or(|before| !Arc::ptr_eq(&before, &stream)) {
                    let (settings, decoders) = (Arc::clone(&settings), Arc::clone(&decoders));
                    tasks.spawn(self.clone().sample(stream, settings, decoders));
                }
            }
            while tasks.try_join_next().is_some() {}
            tokio::time::sleep(settings.interval).await;
        }
    }

    /// Until the stream has ended.
    async fn sample(self, stream: Arc<Stream>, settings: Arc<SamplingSettings>, decoders: Arc<Semaphore>) {
        let mut legs: HashMap<u64, Watched> = HashMap::new();
        let mut has_warned = false;
        while stream.state() != StreamState::Ended {
            let next = tokio::time::Instant::now() + settings.interval;
            let samples = stream.samples(Instant::now());
            legs.retain(|id, _| samples.iter().any(|sample| sample.leg == *id));
            let delivering: Vec<u64> =
                samples.iter().filter(|sample| sample.delivers).map(|sample| sample.leg).collect();
            for sample in samples {
                let leg = legs.entry(sample.leg).or_default();
                let Ok(_turn) = decoders.acquire().await else { return };
                for outcome in look(&settings, leg, sample).await {
                    let counted = if outcome.is_ok() { SampleOutcome::decoded } else { SampleOutcome::failed };
                    self.metrics.sampled(counted);
                    if let Err(error) = outcome
                        && !std::mem::replace(&mut has_warned, true)
                    {
                        warn!(stream = %stream.name(), error, "what a leg brings cannot be looked at");
                    }
                }
            }
            stream.set_seen(arrival(), &verdicts(Instant::now(), &settings, &delivering, &mut legs));
            tokio::time::sleep_until(next).await;
        }
    }
}

/// Looks and listens, as far as there is something; how each went.
async fn look(settings: &SamplingSettings, leg: &mut Watched, sample: Sample) -> Vec<Result<(), String>> {
    let Sample { tracks, picture, sound, .. } = sample;
    let mut outcomes = Vec::new();
    let sees = settings.black.is_some() || settings.frozen.is_some();
    if let Some(config) = tracks.config(TrackKind::Video)
        && let Some(picture) = picture.filter(|_| sees)
    {
        let small = format!("scale={WIDTH}:{HEIGHT}:flags=area,format=gray");
        let arguments = ["-vf", &small, "-frames:v", "1", "-f", "rawvideo"];
        let pixels = decode(&settings.ffmpeg, &config, &[picture], &arguments).await;
        let pixels = pixels.and_then(|pixels| {
            let is_whole = pixels.len() == WIDTH * HEIGHT;
            if is_whole { Ok(pixels) } else { Err("FFmpeg decodes no picture".into()) }
        });
        outcomes.push(pixels.map(|pixels| leg.look(Instant::now(), pixels)));
    }
    if let Some(config) = tracks.config(TrackKind::Audio)
        && settings.silent.is_some()
        && !sound.is_empty()
    {
        let samples = decode(&settings.ffmpeg, &config, &sound, &["-f", "s16le"]).await;
        let samples = samples
            .and_then(|samples| if samples.is_empty() { Err("FFmpeg decodes no sound".into()) } else { Ok(samples) });
        outcomes.push(samples.map(|samples| leg.listen(Instant::now(), &samples)));
    }
    outcomes
}

/// What FFmpeg makes of a few units.
async fn decode(
    ffmpeg: &Path,
    config: &CodecConfig,
    units: &[AccessUnit],
    arguments: &[&str],
) -> Result<Vec<u8>, String> {
    let input = file(config, units);
    // Live streams come first.
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(ffmpeg);
    command.args(["-v", "error", "-threads", "1", "-f", "mp4", "-i", "pipe:0"]).args(arguments).arg("pipe:1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", ffmpeg.display()))?;
    let stdin = child.stdin.take();
    let feeding = async move {
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(&input).await; // it may have read enough
        }
    };
    let both = async { tokio::join!(feeding, child.wait_with_output()).1 };
    let output = match tokio::time::timeout(DECODE_TIMEOUT, both).await {
        Ok(output) => output.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("FFmpeg took longer than {} s", DECODE_TIMEOUT.as_secs())),
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("FFmpeg: {}", text.lines().next().unwrap_or("no reason given")));
    }
    Ok(output.stdout)
}

/// The units as a fragmented MP4 file.
fn file(config: &CodecConfig, units: &[AccessUnit]) -> Bytes {
    let sample = |unit: &AccessUnit| fmp4::Sample {
        duration: unit.duration.unwrap_or(1),
        size: u32::try_from(unit.payload.len()).unwrap_or(u32::MAX),
        composition_offset: 0,
        is_sync: true,
    };
    let samples: Vec<_> = units.iter().map(sample).collect();
    let mut file = BytesMut::from(&fmp4::init_segment(config)[..]);
    file.extend_from_slice(&fmp4::fragment_header(config, 0, 0, &samples));
    units.iter().flat_map(|unit| unit.payload.slices()).for_each(|slice| file.extend_from_slice(slice));
    file.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> SamplingSettings {
        let limits = [4, 10, 10].map(|seconds| Some(seconds * SECOND));
        let [black, frozen, silent] = limits;
        SamplingSettings { ffmpeg: "ffmpeg".into(), interval: 2 * SECOND, black, frozen, silent }
    }

    /// The fault of leg 0 and 1 in each second, where `show` says which luma they show.
    fn found(seconds: u32, show: impl Fn(u32, u64) -> Option<u8>) -> Vec<[Option<Fault>; 2]> {
        let (began, settings) = (Instant::now(), settings());
        let mut legs: HashMap<u64, Watched> = [(0, Watched::default()), (1, Watched::default())].into();
        let mut all = Vec::new();
        for second in 0..seconds {
            let now = began + second * SECOND;
            for (id, leg) in &mut legs {
                let moving = u8::try_from(60 + second % 2 * 100).expect("small");
                leg.look(now, vec![show(second, *id).unwrap_or(moving); WIDTH * HEIGHT]);
            }
            let verdicts: HashMap<_, _> = verdicts(now, &settings, &[0, 1], &mut legs).into_iter().collect();
            all.push([0, 1].map(|id| {
                Fault::ALL
                    .into_iter()
                    .find(|fault| verdicts[&id].as_ref().is_some_and(|text| text.contains(fault.words())))
            }));
        }
        all
    }

    #[test]
    fn a_leg_is_black_after_its_time_until_two_pictures_are_not() {
        let found = found(20, |second, id| (id == 0 && (2..10).contains(&second)).then_some(16));
        let black: Vec<bool> = found.iter().map(|legs| legs[0] == Some(Fault::Black)).collect();
        assert_eq!(black.iter().position(|is| *is), Some(6));
        assert_eq!(black.iter().rposition(|is| *is), Some(10));
        assert!(found.iter().all(|legs| legs[1].is_none()));
    }

    #[test]
    fn a_logo_on_black_is_black_and_a_line_of_titles_is_not() {
        let bright = |count: usize| {
            let mut leg = Watched::default();
            leg.look(Instant::now(), (0..WIDTH * HEIGHT).map(|at| if at < count { 200 } else { 16 }).collect());
            leg.onsets[0].bad.is_none()
        };
        assert!(!bright(WIDTH));
        assert!(bright(5 * WIDTH));
    }

    #[test]
    fn what_all_legs_show_is_told_of_all_at_once() {
        // The second one shows it two seconds later.
        let found = found(20, |second, id| (u64::from(second) >= 3 + 2 * id).then_some(16));
        assert!(found.iter().all(|legs| legs[0] == legs[1]), "{found:?}");
        assert_eq!(found.iter().position(|legs| legs[0].is_some()), Some(9));
    }

    #[test]
    fn a_picture_that_stands_still_is_frozen_and_noise_is_no_movement() {
        let noisy =
            |second: u32, id: u64| (id == 1 && second >= 4).then(|| 100 + u8::try_from(second % 3).expect("small"));
        let found = found(20, noisy);
        assert_eq!(found.iter().position(|legs| legs[1] == Some(Fault::Frozen)), Some(15));
    }

    #[test]
    fn one_black_picture_is_no_fault_however_long_no_other_one_comes() {
        let (began, settings) = (Instant::now(), settings());
        let mut legs: HashMap<u64, Watched> = [(0, Watched::default())].into();
        let mut at = |second: u32, luma: Option<u8>, delivering: &[u64]| {
            let now = began + second * SECOND;
            if let Some(luma) = luma {
                legs.get_mut(&0).expect("there").look(now, vec![luma; WIDTH * HEIGHT]);
            }
            verdicts(now, &settings, delivering, &mut legs).first().is_some_and(|(_, verdict)| verdict.is_some())
        };
        assert!(!at(0, Some(16), &[0]));
        assert!(!at(9, None, &[0]));
        assert!(at(10, Some(16), &[0]), "two, ten seconds apart");
        assert!(!at(11, None, &[]), "it does not deliver: nothing is said");
        assert!(at(12, None, &[0]), "and nothing is forgotten by that");
        assert!(!at(131, None, &[0]), "nobody has seen it for two minutes");
    }

    #[test]
    fn quiet_sound_is_sound() {
        let (now, mut leg) = (Instant::now(), Watched::default());
        let tone = |peak: i16| [peak.to_le_bytes(), (-peak).to_le_bytes(), [0, 0]].concat();
        leg.listen(now, &tone(20));
        assert!(leg.onsets[2].bad.is_some());
        leg.listen(now, &tone(40));
        assert!(leg.onsets[2].bad.is_none());
        leg.listen(now, &[]);
        assert!(leg.onsets[2].bad.is_none(), "nothing was decoded");
    }
}
