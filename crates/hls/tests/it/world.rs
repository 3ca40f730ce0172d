//! A hub and a packager without sockets and without waiting: media goes in, every published version is checked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hls::{Continuation, Packager, PackagerConfig, Resource};
use hub::{Arrival, Hub, HubConfig, Item, Leg, Publisher, Subscriber, Tracks};
use media::{AudioCodec, TrackKind, VideoCodec};
use testkit::playlist::Playlist;

pub(crate) const START_UTC_NANOS: i64 = 1_795_438_800_000_000_000;

pub(crate) struct World {
    pub(crate) hub: Hub,
    pub(crate) leg: Option<Leg>,
    pub(crate) packager: Packager,
    pub(crate) broken: Vec<String>,
    /// Every version is rendered and checked; off for long runs, which look now and then.
    pub(crate) checks_all: bool,
    subscriber: Option<Subscriber>,
    tracks: Option<Arc<Tracks>>,
    began: Instant,
    pub(crate) passed: Duration,
    audio_rate: u32,
    seen: HashMap<TrackKind, (u64, Playlist)>,
    /// Where the last part of each track ended.
    ends: HashMap<TrackKind, u64>,
}

impl World {
    pub(crate) fn new(config: PackagerConfig) -> Self {
        let continuation = Continuation { first_number: 1000, discontinuities: 0, is_resumed: false };
        Self {
            hub: Hub::new(HubConfig::default()),
            leg: None,
            packager: Packager::new(config, continuation),
            broken: Vec::new(),
            checks_all: true,
            subscriber: None,
            tracks: None,
            began: Instant::now(),
            passed: Duration::ZERO,
            audio_rate: 0,
            seen: HashMap::new(),
            ends: HashMap::new(),
        }
    }

    pub(crate) fn at(&self) -> Arrival {
        let utc_nanos = START_UTC_NANOS + i64::try_from(self.passed.as_nanos()).expect("short");
        Arrival { now: self.began + self.passed, utc_nanos }
    }

    /// An encoder connects and sends its configurations.
    pub(crate) fn connect(&mut self, video: Option<&str>, audio: Option<u32>) {
        let at = self.at();
        if let Some(old) = self.leg.take() {
            old.close(at);
        }
        let name = "show".parse().expect("valid");
        let mut leg = self.hub.publish(at, &name, Publisher::default()).expect("nobody else publishes");
        leg.announce(
            at.now,
            hub::Announcement { video: video.is_some(), audio: audio.is_some(), ..Default::default() },
        );
        if let Some(fixture) = video {
            leg.video_config(at, VideoCodec::Avc, &testkit::fixture(fixture)).expect("valid");
        }
        if let Some(rate) = audio {
            self.audio_rate = rate;
            let record: &'static [u8] = if rate == 48_000 { &[0x11, 0x90] } else { &[0x12, 0x10] };
            leg.audio_config(at, AudioCodec::Aac, &Bytes::from_static(record)).expect("valid");
        }
        if self.subscriber.is_none() {
            self.subscriber = Some(leg.stream().subscribe_from_oldest());
        }
        self.leg = Some(leg);
    }

    pub(crate) fn disconnect(&mut self) {
        let at = self.at();
        if let Some(leg) = self.leg.take() {
            leg.close(at);
        }
        self.pump();
    }

    /// One picture with its stamps in milliseconds, as RTMP carries them.
    pub(crate) fn video(&mut self, dts_ms: i64, offset_ms: i64, is_key: bool) {
        let unit: &'static [u8] = if is_key { &[0, 0, 0, 2, 0x65, 1] } else { &[0, 0, 0, 2, 0x41, 1] };
        let at = self.at();
        if let Some(leg) = &mut self.leg {
            leg.video_unit(at, dts_ms * 1_000_000, offset_ms * 1_000_000, is_key, &Bytes::from_static(unit));
        }
        self.pump();
    }

    /// One frame of sound.
    pub(crate) fn audio(&mut self, dts_ms: i64) {
        let at = self.at();
        if let Some(leg) = &mut self.leg {
            leg.audio_unit(at, AudioCodec::Aac, dts_ms * 1_000_000, Bytes::from_static(b"sound"));
        }
        self.pump();
    }

    /// Pictures at 30/s with a key frame each second, and sound at 48 kHz, for `seconds`.
    pub(crate) fn run(&mut self, from_frame: i64, seconds: i64) {
        let mut sound = from_frame * 48_000 / 30 / 1024;
        for frame in from_frame..from_frame + seconds * 30 {
            let millis = frame * 1000 / 30;
            let wall = Duration::from_millis(u64::try_from(millis).expect("positive"));
            self.pass(wall.saturating_sub(self.passed));
            self.video(millis, 0, frame % 30 == 0);
            while sound * 1024 / 48 <= millis {
                self.audio(sound * 1024 / 48);
                sound += 1;
            }
        }
    }

    /// Time passes; every 100 ms the clocks are looked at.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let until = self.passed + duration;
        while self.passed < until {
            let before = self.passed.as_millis() / 100;
            self.passed = until.min(self.passed + Duration::from_millis(100));
            if self.passed.as_millis() / 100 != before {
                let at = self.at();
                self.hub.tick(at);
                self.pump();
                self.packager.handle_timeout(at.utc_nanos);
                self.check();
            }
        }
    }

    /// What delivery does: hands the program to the packager.
    fn pump(&mut self) {
        while let Some(entry) = self.subscriber.as_mut().and_then(Subscriber::try_next) {
            let is_new = self.tracks.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &entry.tracks));
            if is_new && matches!(entry.item, Item::Unit(_)) {
                let tracks = &entry.tracks;
                self.packager.set_tracks(tracks.config(TrackKind::Video), tracks.config(TrackKind::Audio));
                self.tracks = Some(Arc::clone(&entry.tracks));
            }
            match &entry.item {
                Item::Unit(unit) => self.packager.handle_unit(unit.clone(), entry.arrival_utc_nanos),
                Item::Lost => self.packager.handle_lost(entry.arrival_utc_nanos),
                Item::End => self.packager.handle_end(),
            }
            self.check();
        }
    }

    /// The playlist of a track as a player reads it.
    pub(crate) fn playlist(&self, track: TrackKind) -> Option<Playlist> {
        self.packager.render_media(track, false).map(|text| Playlist::parse(&text))
    }

    /// Looks at what was published since the last time.
    pub(crate) fn check(&mut self) {
        for track in [TrackKind::Video, TrackKind::Audio] {
            let Some(revision) = self.packager.playlist(track).map(hls::MediaPlaylist::revision) else { continue };
            let known = self.seen.get(&track).map(|(revision, _)| *revision);
            if known == Some(revision) || !self.checks_all && known.is_some_and(|known| revision < known + 997) {
                continue;
            }
            let playlist = self.playlist(track).expect("it is there");
            let mut broken = playlist.broken_rules();
            if let Some((_, earlier)) = self.seen.get(&track) {
                broken.extend(playlist.broken_rules_since(earlier));
            }
            if self.checks_all {
                broken.extend(self.broken_bytes(track, &playlist));
            }
            self.broken
                .extend(broken.into_iter().map(|rule| format!("{} at {:?}: {rule}", track.as_str(), self.passed)));
            self.seen.insert(track, (revision, playlist));
        }
    }

    /// Every listed part is there, lasts what the playlist says, and begins where the one before ended.
    fn broken_bytes(&mut self, track: TrackKind, playlist: &Playlist) -> Vec<String> {
        let mut broken = Vec::new();
        let earlier = self.seen.get(&track).and_then(|(_, earlier)| earlier.edge());
        for segment in &playlist.segments {
            for (index, part) in segment.parts.iter().enumerate() {
                if segment.gap != part.gap {
                    broken.push(format!("LL-07: {} is a gap and its segment is not, or the other way round", part.uri));
                }
                if part.gap || earlier.is_some_and(|edge| (segment.number, index) <= edge) {
                    continue;
                }
                let media = self.packager.playlist(track).expect("it is there");
                let Resource::Ready(slices) = media.resource(&part.uri) else {
                    broken.push(format!("LL-08: {} is listed and not there", part.uri));
                    continue;
                };
                let (start, length, first_offset) = fragment(&slices[0], track);
                let hz = if track == TrackKind::Video { 360_000 } else { 48_000 };
                let seconds = length as f64
                    / f64::from(if self.audio_rate > 0 && track == TrackKind::Audio { self.audio_rate } else { hz });
                if (seconds - part.duration).abs() > 1e-4 {
                    broken.push(format!("AUTH-03: {} lasts {seconds}, listed as {}", part.uri, part.duration));
                }
                let after = self.ends.insert(track, start + length);
                let follows_gap = playlist.segments.iter().any(|other| other.gap && other.number + 1 == segment.number);
                let may_jump = index == 0 && (segment.discontinuity || follows_gap);
                // Where a stall closed a segment, the last sound was made to stand until the picture's end: the one frame
                // that came late and lies below it is dropped.
                let frame = if index == 0 && track == TrackKind::Audio { 1024 } else { 0 };
                if after.is_some_and(|end| start < end || start - end > frame) && !may_jump {
                    broken.push(format!("CMAF-03: {} begins at {start}, the one before ended at {after:?}", part.uri));
                }
                if index == 0 && part.independent && track == TrackKind::Video && first_offset != 0 {
                    broken.push(format!("tfdt of {} is not the PTS of its random access point", part.uri));
                }
            }
        }
        broken
    }
}

/// `tfdt`, the sum of the durations, and the first composition offset of a fragment header.
pub(crate) fn fragment(header: &[u8], track: TrackKind) -> (u64, u64, i32) {
    let u32_at = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let start = u64::from_be_bytes(header[60..68].try_into().expect("eight bytes"));
    let row = if track == TrackKind::Video { 16 } else { 8 };
    let length = (0..u32_at(80) as usize).map(|index| u64::from(u32_at(88 + index * row))).sum();
    let offset = if track == TrackKind::Video { u32_at(88 + 12).cast_signed() } else { 0 };
    (start, length, offset)
}
