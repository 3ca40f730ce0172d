//! The multivariant playlist.

use std::fmt::Write as _;

use media::{CodecConfig, Colour, DynamicRange, TrackKind};

use crate::packager::Packager;
use crate::playlist::MediaPlaylist;

/// Room above what was measured, in percent: AUTH-04 allows a peak of 125 % of BANDWIDTH.
const HEADROOM_PERCENT: u64 = 110;

/// Measured bits per second of a playlist: peak and average over its complete segments.
fn bit_rates(playlist: &MediaPlaylist) -> (u64, u64) {
    let (mut peak, mut bits, mut nanos) = (0, 0u64, 0u64);
    for segment in playlist.segments().filter(|segment| !segment.is_gap && segment.duration > 0) {
        let size = segment.size() as u64 * 8;
        let length = u64::try_from(segment.duration).unwrap_or(1).max(1);
        // A segment that is open or cut short says little about the peak.
        if segment.is_complete && length >= 900_000_000 || playlist.segments().len() == 1 {
            peak = peak.max(size.saturating_mul(1_000_000) / (length / 1000).max(1));
        }
        (bits, nanos) = (bits + size, nanos + length);
    }
    let average = bits.saturating_mul(1_000_000) / (nanos / 1000).max(1);
    (peak.max(average), average)
}

/// Writes the multivariant playlist; media playlists are named below `directory`. `None` until a player can start.
/// spec: rfc8216bis §4.4.6; AUTH-11
pub(crate) fn render(packager: &Packager, directory: &str) -> Option<String> {
    if !packager.is_ready() {
        return None;
    }
    let mut out = String::from("#EXTM3U\n#EXT-X-VERSION:6\n");
    let (video, audio) = (packager.playlist(TrackKind::Video), packager.playlist(TrackKind::Audio));
    let (mut peak, mut average, mut codecs) = (0, 0, Vec::new());
    for (track, playlist) in [(TrackKind::Video, video), (TrackKind::Audio, audio)] {
        if let (Some(playlist), Some(config)) = (playlist, packager.codec(track)) {
            let rates = bit_rates(playlist);
            (peak, average) = (peak + rates.0, average + rates.1);
            codecs.push(config.codec_string());
        }
    }
    if let (Some(_), Some(CodecConfig::Audio(audio))) = (video, packager.codec(TrackKind::Audio)) {
        let _ = writeln!(
            out,
            "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",NAME=\"Audio\",DEFAULT=YES,AUTOSELECT=YES,CHANNELS=\"{}\",\
             URI=\"{directory}/audio.m3u8\"",
            audio.channels
        );
    }
    let _ = write!(
        out,
        "#EXT-X-STREAM-INF:BANDWIDTH={},AVERAGE-BANDWIDTH={},CODECS=\"{}\"",
        (peak * HEADROOM_PERCENT / 100).max(1),
        average.max(1),
        codecs.join(",")
    );
    if let Some(CodecConfig::Video(config)) = packager.codec(TrackKind::Video) {
        let _ = write!(out, ",RESOLUTION={}x{}", config.width, config.height);
        if let Some(rate) = packager.frame_rate() {
            let _ = write!(out, ",FRAME-RATE={rate}");
        }
        match config.colour.map(Colour::dynamic_range).unwrap_or_default() {
            DynamicRange::Sdr => {}
            DynamicRange::Hlg => out.push_str(",VIDEO-RANGE=HLG"),
            DynamicRange::Pq => out.push_str(",VIDEO-RANGE=PQ"),
        }
        if audio.is_some() {
            out.push_str(",AUDIO=\"audio\"");
        }
        let _ = writeln!(out, "\n{directory}/video.m3u8");
    } else {
        let _ = writeln!(out, "\n{directory}/audio.m3u8");
    }
    Some(out)
}
