//! What a leg really sends, measured, and what is wrong with the encoder's settings.

use std::collections::VecDeque;

use media::{AccessUnit, CodecConfig, Timescale, TrackKind, VideoCodec, VideoConfig};

/// Span over which rates are measured.
const WINDOW_NANOS: i64 = 10_000_000_000;
/// Most units in the window: 10 s of 240 pictures and 400 frames of sound a second.
const WINDOW_UNITS_MAX: usize = 6400;

/// Measured over the last ten seconds, except where it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Video payload, bits per second.
    pub video_bits_per_second: u64,
    /// Audio payload, bits per second.
    pub audio_bits_per_second: u64,
    /// Pictures per 1,000 seconds.
    pub frame_rate_millihertz: u64,
    /// The distance of the last two random access points, in milliseconds.
    pub keyframe_interval_ms: Option<u64>,
    /// Longest distance of two random access points since the leg began, in milliseconds.
    pub keyframe_interval_ms_max: Option<u64>,
    /// Pictures are reordered (B-frames).
    pub has_reordering: bool,
    /// The intervals between pictures differ by more than the rounding of stamps explains.
    pub is_variable_rate: bool,
}

/// Measures one leg.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    window: VecDeque<(i64, TrackKind, usize)>,
    last_random_access: Option<i64>,
    observed: Observed,
    last_video: Option<i64>,
    intervals: VecDeque<i64>,
}

impl Observer {
    /// Takes one unit in leg time.
    pub(crate) fn observe(&mut self, unit: &AccessUnit, scale: Timescale) {
        let nanos = scale.nanos(unit.dts.0);
        self.window.push_back((nanos, unit.track, unit.payload.len()));
        while self.window.len() > WINDOW_UNITS_MAX
            || self.window.front().is_some_and(|(first, ..)| nanos.saturating_sub(*first) > WINDOW_NANOS)
        {
            self.window.pop_front();
        }
        if unit.track == TrackKind::Audio {
            return;
        }
        self.observed.has_reordering |= unit.composition_offset().0 > 0;
        if let Some(last) = self.last_video.replace(unit.dts.0) {
            if self.intervals.len() == 120 {
                self.intervals.pop_front();
            }
            self.intervals.push_back(unit.dts.0 - last);
        }
        if unit.is_random_access {
            if let Some(last) = self.last_random_access.replace(nanos) {
                let interval = u64::try_from(nanos.saturating_sub(last) / 1_000_000).ok();
                self.observed.keyframe_interval_ms = interval;
                self.observed.keyframe_interval_ms_max = self.observed.keyframe_interval_ms_max.max(interval);
            }
        } else if let Some(last) = self.last_random_access {
            let open = u64::try_from(nanos.saturating_sub(last) / 1_000_000).ok();
            self.observed.keyframe_interval_ms_max = self.observed.keyframe_interval_ms_max.max(open);
        }
    }

    /// The figures now.
    pub(crate) fn snapshot(&self) -> Observed {
        let mut observed = self.observed.clone();
        let (Some((first, ..)), Some((last, ..))) = (self.window.front(), self.window.back()) else { return observed };
        let span = u64::try_from(last.saturating_sub(*first)).unwrap_or(0).max(1_000_000);
        let bytes = |track: TrackKind| {
            self.window.iter().filter(|(_, kind, _)| *kind == track).map(|(_, _, size)| *size as u64).sum::<u64>()
        };
        let per_second = |bytes: u64| bytes.saturating_mul(8).saturating_mul(1_000_000) / (span / 1000);
        observed.video_bits_per_second = per_second(bytes(TrackKind::Video));
        observed.audio_bits_per_second = per_second(bytes(TrackKind::Audio));
        let frames = self.window.iter().filter(|(_, kind, _)| *kind == TrackKind::Video).count() as u64;
        observed.frame_rate_millihertz = frames.saturating_sub(1).saturating_mul(1_000_000_000) / (span / 1000);
        // Two milliseconds is what rounding explains; single lost frames do not make a rate variable.
        let (low, high) = (self.percentile(10), self.percentile(90));
        observed.is_variable_rate = self.intervals.len() >= 60 && high - low > 720;
        observed
    }

    fn percentile(&self, percent: usize) -> i64 {
        let mut sorted: Vec<i64> = self.intervals.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() * percent / 100).copied().unwrap_or(0)
    }
}

/// One thing that is wrong with an encoder's settings, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// A short name that does not change: `keyframe_interval`, `bitrate_low`, ….
    pub code: &'static str,
    /// What is seen and what it does.
    pub text: String,
    /// The setting to change.
    pub fix: &'static str,
}

/// Looks at what is sent and says what to change. The limits are those of `docs/operating/encoder.md`.
pub fn lint(tracks: &[CodecConfig], observed: &Observed) -> Vec<Advice> {
    let mut advice = Vec::new();
    for config in tracks {
        match config {
            CodecConfig::Video(video) => lint_video(video, observed, &mut advice),
            CodecConfig::Audio(audio) => {
                let rate = audio.timescale.hz();
                // HE-AAC's core runs at half the rate that is heard.
                let is_halved = matches!(&*audio.codec_string, "mp4a.40.5" | "mp4a.40.29");
                if !matches!(rate, 44_100 | 48_000) && !is_halved {
                    let text = format!("sound is sampled at {rate} Hz, which some players resample badly");
                    advice.push(Advice { code: "audio_rate", text, fix: "set the audio sample rate to 48 kHz" });
                }
                if audio.channels > 2 {
                    let text = format!("sound has {} channels; many players expect stereo", audio.channels);
                    advice.push(Advice { code: "audio_channels", text, fix: "set the channels to stereo" });
                }
                let bits = observed.audio_bits_per_second;
                if bits > 0 && !(64_000..=400_000).contains(&bits) && audio.channels == 2 && bits > 8_000 {
                    let text = format!("sound takes {} kbit/s", bits / 1000);
                    advice
                        .push(Advice { code: "audio_bitrate", text, fix: "set the audio bitrate to 128–192 kbit/s" });
                }
            }
        }
    }
    advice
}

fn lint_video(video: &VideoConfig, observed: &Observed, advice: &mut Vec<Advice>) {
    if let Some(interval) = observed.keyframe_interval_ms_max.filter(|interval| *interval > 4000) {
        let text = format!(
            "the distance between keyframes reaches {}.{} s: viewers wait that long for a picture, and segments grow",
            interval / 1000,
            interval % 1000 / 100
        );
        let fix =
            "set the keyframe interval to 2 s (OBS: Output → Streaming → Keyframe Interval; its 'auto' is over 8 s)";
        advice.push(Advice { code: "keyframe_interval", text, fix });
    } else if let Some(interval) = observed.keyframe_interval_ms.filter(|interval| *interval < 500) {
        let text = format!("a keyframe every {interval} ms wastes bit rate");
        advice.push(Advice { code: "keyframe_interval_short", text, fix: "set the keyframe interval to 1–2 s" });
    }
    if observed.has_reordering {
        let text = "B-frames add delay before the first byte of each picture can be sent".into();
        advice.push(Advice { code: "b_frames", text, fix: "set B-frames to 0, or the tune to zerolatency" });
    }
    if observed.is_variable_rate {
        let text = "the frame rate varies, so segments and parts have uneven lengths".into();
        advice.push(Advice { code: "variable_frame_rate", text, fix: "set a constant frame rate" });
    }
    let pixels = u64::from(video.width) * u64::from(video.height);
    let pixels_per_second = pixels.saturating_mul(observed.frame_rate_millihertz) / 1000;
    let bits = observed.video_bits_per_second;
    if pixels_per_second == 0 || bits == 0 {
        return;
    }
    let (low, high) = recommended_milli_bits_per_pixel(video.codec, pixels_per_second);
    let milli_bits_per_pixel = bits.saturating_mul(1000) / pixels_per_second;
    let seen = format!(
        "{}x{} at {} frames/s with {} kbit/s",
        video.width,
        video.height,
        observed.frame_rate_millihertz.div_ceil(1000),
        bits / 1000
    );
    if milli_bits_per_pixel < low * 7 / 10 {
        let text = format!("{seen} is too little for moving pictures");
        advice.push(Advice { code: "bitrate_low", text, fix: "raise the video bitrate, or lower size or frame rate" });
    } else if milli_bits_per_pixel > high * 12 / 10 {
        let text = format!("{seen} is more than viewers can see, and more than many of them can receive");
        advice.push(Advice { code: "bitrate_high", text, fix: "lower the video bitrate" });
    }
}

/// The recommended range, in thousandths of a bit per pixel: 720p30 2.5–4.5, 1080p30 4.5–6, 1080p60 6–9 Mbit/s for H.264.
/// The larger and the faster the picture, the less each pixel needs; later codecs do with half.
fn recommended_milli_bits_per_pixel(codec: VideoCodec, pixels_per_second: u64) -> (u64, u64) {
    let (low, high) = match pixels_per_second {
        0..20_000_000 => (60, 250),
        20_000_000..45_000_000 => (90, 163),
        45_000_000..90_000_000 => (65, 108),
        90_000_000..180_000_000 => (48, 72),
        _ => (40, 140),
    };
    if codec == VideoCodec::Avc { (low, high) } else { (low / 2, high) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(observed: &Observed) -> Vec<&'static str> {
        let video = VideoConfig {
            codec: VideoCodec::Avc,
            record: bytes::Bytes::new(),
            width: 1280,
            height: 720,
            frame_rate: None,
            codec_string: String::new(),
            reorder_frames: None,
            colour: None,
        };
        lint(&[CodecConfig::Video(video)], observed).iter().map(|advice| advice.code).collect()
    }

    fn good() -> Observed {
        Observed {
            video_bits_per_second: 3_000_000,
            frame_rate_millihertz: 30_000,
            keyframe_interval_ms: Some(2000),
            keyframe_interval_ms_max: Some(2000),
            ..Observed::default()
        }
    }

    #[test]
    fn the_recommended_settings_pass() {
        assert_eq!(codes(&good()), Vec::<&str>::new());
    }

    #[test]
    fn each_bad_setting_is_named() {
        assert_eq!(codes(&Observed { keyframe_interval_ms_max: Some(8333), ..good() }), ["keyframe_interval"]);
        assert_eq!(codes(&Observed { has_reordering: true, ..good() }), ["b_frames"]);
        assert_eq!(codes(&Observed { is_variable_rate: true, ..good() }), ["variable_frame_rate"]);
        let keyframes = Observed { keyframe_interval_ms: Some(400), keyframe_interval_ms_max: Some(400), ..good() };
        assert_eq!(codes(&keyframes), ["keyframe_interval_short"]);
        for (megabits, expected) in [(1_700, "bitrate_low"), (1_800, ""), (5_300, ""), (5_500, "bitrate_high")] {
            let seen = codes(&Observed { video_bits_per_second: megabits * 1000, ..good() });
            assert_eq!(seen, Vec::from_iter((!expected.is_empty()).then_some(expected)), "720p30, {megabits} kbit/s");
        }
    }

    #[test]
    fn sound_that_players_stumble_over_is_named() {
        let codes = |rate, channels, codec_string: &str, bits| {
            let config = codec::aac::lc_config(rate, channels).expect("in the tables");
            let config = media::AudioConfig { codec_string: codec_string.into(), ..config };
            let observed = Observed { audio_bits_per_second: bits, ..good() };
            lint(&[CodecConfig::Audio(config)], &observed).iter().map(|advice| advice.code).collect::<Vec<_>>()
        };
        assert_eq!(codes(48_000, 2, "mp4a.40.2", 128_000), Vec::<&str>::new());
        assert_eq!(codes(32_000, 2, "mp4a.40.2", 128_000), ["audio_rate"]);
        assert_eq!(codes(24_000, 2, "mp4a.40.29", 128_000), Vec::<&str>::new(), "48 kHz are heard");
        assert_eq!(codes(48_000, 6, "mp4a.40.2", 128_000), ["audio_channels"]);
        assert_eq!(codes(48_000, 2, "mp4a.40.2", 32_000), ["audio_bitrate"]);
    }
}
