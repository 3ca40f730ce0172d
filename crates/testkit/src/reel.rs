//! What a player that follows the playlists to the letter plays: each segment, fetched as it is listed, and decoded by ffmpeg, what
//! belongs to one EXT-X-MAP and has no discontinuity in it at a time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use container::fmp4::read::{read_fragments, read_init};
use hls::read::{MediaPlaylist, Playlist};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::http;
use crate::witness::Hashes;

/// Between two looks at a playlist.
const INTERVAL: Duration = Duration::from_millis(500);

/// Fetches picture and sound of a stream while it is live.
#[derive(Debug)]
pub struct Recorder {
    stop: watch::Sender<bool>,
    tracks: [JoinHandle<Track>; 2],
}

/// What was fetched of one track.
#[derive(Debug, Default)]
pub struct Track {
    /// Decoded pictures, or frames of sound as they were coded, in their order.
    pub units: Vec<Unit>,
    /// Segments that were a gap.
    pub gaps: usize,
    /// Segments that began with a discontinuity.
    pub discontinuities: usize,
    /// Segments that could not be fetched before they were gone.
    pub missed: u64,
    /// Samples of which ffmpeg made nothing; where there are any, times may be those of others.
    pub undecoded: usize,
    /// Units that ffmpeg, which goes by the order of pictures in the bitstream, shows no later than the one before.
    pub disordered: usize,
    /// Codecs (RFC 6381), widths and heights of what was decoded, each once.
    pub kinds: Vec<String>,
}

/// One picture or frame of sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// What it is known by.
    pub hash: String,
    /// When it is played, in microseconds of the program.
    pub at_us: i64,
}

impl Recorder {
    /// Begins with the newest segment; `folder` is for what is fetched.
    pub fn start(http: SocketAddr, stream: &str, folder: &Path) -> Self {
        let (stop, stopped) = watch::channel(false);
        let tracks = ["video", "audio"].map(|kind| {
            let reading = Reading::new(http, stream, kind, folder);
            tokio::spawn(reading.run(stopped.clone()))
        });
        Self { stop, tracks }
    }

    /// Picture and sound until now; it ends.
    ///
    /// # Panics
    /// What was fetched cannot be written or decoded.
    pub async fn reel(self) -> (Track, Track) {
        self.stop.send_replace(true);
        let [video, audio] = self.tracks;
        (video.await.expect("pictures"), audio.await.expect("sound"))
    }
}

/// One track, while it is fetched.
struct Reading {
    http: SocketAddr,
    multivariant: String,
    kind: &'static str,
    folder: PathBuf,
    /// Of the media playlist, once it is known.
    playlist: Option<String>,
    next: Option<u64>,
    map: String,
    /// What comes next is no continuation of the file that is open.
    is_cut: bool,
    files: Vec<PathBuf>,
    track: Track,
}

impl Reading {
    fn new(http: SocketAddr, stream: &str, kind: &'static str, folder: &Path) -> Self {
        Self {
            http,
            multivariant: format!("/live/{stream}/index.m3u8"),
            kind,
            folder: folder.into(),
            playlist: None,
            next: None,
            map: String::new(),
            is_cut: true,
            files: Vec::new(),
            track: Track::default(),
        }
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>) -> Track {
        while !*stopped.borrow_and_update() {
            self.look().await;
            let _ = tokio::time::timeout(INTERVAL, stopped.changed()).await;
        }
        for file in &self.files {
            let decoded = Hashes::of(file.to_str().expect("a plain path")).await;
            let (hashes, shown) = if self.kind == "video" {
                (decoded.video, decoded.shown_us)
            } else {
                (decoded.audio, decoded.heard_us)
            };
            let (codec, times) = inside(&std::fs::read(file).expect("was written"));
            self.track.undecoded += times.len().abs_diff(hashes.len());
            self.track.disordered += shown.windows(2).filter(|pair| pair[1] <= pair[0]).count();
            self.track.units.extend(hashes.into_iter().zip(times).map(|(hash, at_us)| Unit { hash, at_us }));
            let kind = format!("{codec} {}", decoded.size);
            if !self.track.kinds.contains(&kind) {
                self.track.kinds.push(kind);
            }
            let _ = std::fs::remove_file(file);
        }
        self.track
    }

    /// Takes what is new. A server that is not there is asked again at the next look.
    async fn look(&mut self) {
        let Some(playlist) = self.media_playlist().await else { return };
        let newest = playlist.complete().next_back().map_or(0, |segment| segment.number);
        let next = *self.next.get_or_insert(newest);
        self.track.missed += playlist.media_sequence.saturating_sub(next);
        self.next = Some(next.max(playlist.media_sequence));
        for segment in playlist.complete().filter(|segment| segment.number >= next) {
            self.is_cut |= segment.is_discontinuity;
            if segment.is_gap {
                self.track.gaps += 1;
            } else {
                let uri = segment.uri.as_deref().unwrap_or_default();
                let Some(bytes) = self.fetch(uri).await else { break };
                let map = segment.map.as_ref().map_or("", |map| &map.uri);
                if self.is_cut || *map != *self.map {
                    let Some(header) = self.fetch(map).await else { break };
                    map.clone_into(&mut self.map);
                    self.is_cut = false;
                    self.files.push(self.folder.join(format!("{}-{}.mp4", self.kind, self.files.len())));
                    self.append(&header).await;
                }
                self.append(&bytes).await;
            }
            self.track.discontinuities += usize::from(segment.is_discontinuity);
            self.next = Some(segment.number + 1);
        }
    }

    async fn append(&self, bytes: &[u8]) {
        let path = self.files.last().expect("one is open");
        let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(path).await.expect("opened");
        file.write_all(bytes).await.expect("written");
        file.flush().await.expect("written");
    }

    async fn media_playlist(&mut self) -> Option<MediaPlaylist> {
        if self.playlist.is_none() {
            let text = http::try_get(self.http, &self.multivariant).await?;
            let Ok(Playlist::Multivariant(all)) = Playlist::parse(&text) else { return None };
            let variant = all.variants.first()?;
            let uri = if self.kind == "video" { variant.uri.clone() } else { all.audio_of(variant)?.uri.clone()? };
            self.playlist = Some(format!("{}/{uri}", self.multivariant.rsplit_once('/')?.0));
        }
        let Some(text) = http::try_get(self.http, self.playlist.as_deref()?).await else {
            self.playlist = None;
            return None;
        };
        match Playlist::parse(&text) {
            Ok(Playlist::Media(playlist)) => Some(playlist),
            _ => None,
        }
    }

    /// The bytes of what the media playlist names.
    async fn fetch(&self, uri: &str) -> Option<bytes::Bytes> {
        http::try_get(self.http, &format!("{}/{uri}", self.playlist.as_deref()?.rsplit_once('/')?.0)).await
    }
}

impl Track {
    /// From the first unit to the last, in milliseconds.
    pub fn span_ms(&self) -> i64 {
        let [first, last] = [self.units.first(), self.units.last()].map(|unit| unit.map_or(0, |unit| unit.at_us));
        (last - first) / 1000
    }
}

/// The codec of a file, and when its samples are played, in microseconds, in that order. FFmpeg itself moves pictures of tracks that have
/// negative composition offsets. spec: ISO/IEC 14496-12 §8.6.1.3
fn inside(file: &[u8]) -> (String, Vec<i64>) {
    let tracks = read_init(file).expect("an initialization segment");
    let hz = i64::from(tracks[0].timescale);
    let mut times = Vec::new();
    for run in read_fragments(&tracks, file).expect("fragments") {
        let mut decoded_at = i64::try_from(run.decode_time).expect("below 2^63");
        for sample in run.samples {
            times.push((decoded_at + i64::from(sample.composition_offset)) * 1_000_000 / hz);
            decoded_at += i64::from(sample.duration);
        }
    }
    times.sort_unstable();
    (tracks[0].codec_string.clone().unwrap_or_default(), times)
}

/// What came of one encoder without anything else between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// Which encoder.
    pub encoder: usize,
    /// The first and the last of its units that are not repeated.
    pub units: (usize, usize),
    /// Units between them that did not come.
    pub missing: usize,
    /// Those of them that lie right before the last one: an encoder that dies has sent a picture that later ones refer to, and not those.
    pub missing_last: usize,
    /// By how much its last unit is played later than the encoder said, in microseconds.
    pub shift_us: i64,
    /// By how much that was less or more for the unit before, at most, in microseconds.
    pub varied_us: i64,
}

/// One track of the reel beside what the encoders made.
#[derive(Debug, Default)]
pub struct Cut {
    /// In the order in which they are played.
    pub takes: Vec<Take>,
    /// Units that none of the encoders made: a slate.
    pub strange: usize,
    /// Units that an encoder made more than once, which tell nothing: silence, or a picture that is sent again because there was no new one.
    pub repeated: usize,
    /// The longest time from one unit to the next, in milliseconds.
    pub longest_ms: i64,
    /// Units that are played no later than the one before.
    pub back: usize,
}

impl Cut {
    /// Compares; of what was made, hashes and times of each encoder. An encoder that is started again makes the same again.
    pub fn of(made: &[(&[String], &[i64])], seen: &[Unit]) -> Self {
        let mut times: HashMap<&str, usize> = HashMap::new();
        made.iter().flat_map(|(hashes, _)| hashes.iter()).for_each(|hash| *times.entry(hash).or_default() += 1);
        // Of those that tell something: whose, and the how many-th.
        let mut places: HashMap<&str, (usize, usize, i64)> = HashMap::new();
        for (encoder, (hashes, at_us)) in made.iter().enumerate() {
            let once = hashes.iter().zip(*at_us).filter(|(hash, _)| times[&hash[..]] == 1);
            places.extend(once.enumerate().map(|(index, (hash, at_us))| (&hash[..], (encoder, index, *at_us))));
        }
        let steps = || seen.windows(2).map(|pair| pair[1].at_us - pair[0].at_us);
        let mut cut = Self {
            longest_ms: steps().max().unwrap_or_default() / 1000,
            back: steps().filter(|step| *step <= 0).count(),
            ..Self::default()
        };
        let mut open: Option<Take> = None;
        for unit in seen {
            let Some(&(encoder, index, made_us)) = places.get(&unit.hash[..]) else {
                if times.contains_key(&unit.hash[..]) {
                    cut.repeated += 1;
                    continue;
                }
                cut.strange += 1;
                cut.takes.extend(open.take());
                continue;
            };
            let shift_us = unit.at_us - made_us;
            match &mut open {
                Some(take) if take.encoder == encoder && take.units.1 < index => {
                    take.missing_last = index - take.units.1 - 1;
                    take.missing += take.missing_last;
                    take.units.1 = index;
                    take.varied_us = take.varied_us.max((shift_us - take.shift_us).abs());
                    take.shift_us = shift_us;
                }
                _ => {
                    cut.takes.extend(open.take());
                    open = Some(Take {
                        encoder,
                        units: (index, index),
                        missing: 0,
                        missing_last: 0,
                        shift_us,
                        varied_us: 0,
                    });
                }
            }
        }
        cut.takes.extend(open);
        cut
    }

    /// Units that are missing within a take; of the last one's, those that its encoder died before it sent are left out, up to so many.
    pub fn missing(&self, reordered: usize) -> usize {
        let missing =
            |take: &Take| take.missing - Some(take.missing_last).filter(|count| *count <= reordered).unwrap_or(0);
        self.takes.iter().map(missing).sum()
    }

    /// By how much sound and picture are apart at the end of a take, at most, in milliseconds; none where the takes are not the same.
    pub fn apart_ms(&self, sound: &Self) -> Option<i64> {
        let encoders = |cut: &Self| cut.takes.iter().map(|take| take.encoder).collect::<Vec<_>>();
        let apart =
            self.takes.iter().zip(&sound.takes).map(|(of_video, of_audio)| of_video.shift_us - of_audio.shift_us);
        (encoders(self) == encoders(sound)).then(|| apart.map(i64::abs).max().unwrap_or_default() / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: char, count: usize) -> (Vec<String>, Vec<i64>) {
        let hashes = (0..count).map(|index| format!("{name}{index}")).collect();
        (hashes, (0..).step_by(40_000).take(count).collect())
    }

    /// Units that are played 40 ms apart.
    fn seen(text: &str) -> Vec<Unit> {
        let hashes = text.split(' ').zip((1_000_000..).step_by(40_000));
        hashes.map(|(hash, at_us)| Unit { hash: hash.to_owned(), at_us }).collect()
    }

    #[test]
    fn what_is_played_is_cut_into_takes_and_what_is_missing_in_them_is_counted() {
        let (first, second) = (made('a', 9), made('b', 9));
        let made = [(&first.0[..], &first.1[..]), (&second.0[..], &second.1[..])];
        let cut = Cut::of(&made, &seen("a1 a2 a3 a6 b4 b5 b7 b8 slate a0 a1"));
        let takes: Vec<_> = cut.takes.iter().map(|take| (take.encoder, take.units, take.missing)).collect();
        assert_eq!(takes, [(0, (1, 6), 2), (1, (4, 8), 1), (0, (0, 1), 0)]);
        assert_eq!((cut.strange, cut.longest_ms, cut.back), (1, 40, 0));
        assert_eq!([0, 1, 2].map(|reordered| cut.missing(reordered)), [3, 3, 1], "only right before the last one");
        assert_eq!(cut.takes[0].shift_us, 1_000_000 + 3 * 40_000 - 6 * 40_000);

        let still: Vec<String> = "a b c c d e".split(' ').map(str::to_owned).collect();
        let cut = Cut::of(&[(&still[..], &first.1[..6])], &seen("a b c c d e"));
        assert_eq!((cut.takes.len(), cut.missing(0), cut.repeated, cut.strange), (1, 0, 2, 0));
        let again = Cut::of(&made, &seen("a1 a2 a2 a3"));
        assert_eq!(again.takes.len(), 2, "what comes again begins another take");
        let mut odd = seen("a1 a2 a3");
        odd[2].at_us = odd[1].at_us;
        assert_eq!(Cut::of(&made, &odd).back, 1);
    }

    #[test]
    fn sound_and_picture_are_compared_take_by_take() {
        let (first, second) = (made('a', 9), made('b', 9));
        let made = [(&first.0[..], &first.1[..]), (&second.0[..], &second.1[..])];
        let video = Cut::of(&made, &seen("a1 a2 b1 b2"));
        assert_eq!(video.apart_ms(&Cut::of(&made, &seen("a1 a2 b1 b2"))), Some(0));
        assert_eq!(video.apart_ms(&Cut::of(&made, &seen("a1 a2 b2 b3"))), Some(40));
        assert_eq!(video.apart_ms(&Cut::of(&made, &seen("a1 a2 a3"))), None);
    }
}
