//! Merge and switch under legs that do anything: DTS strictly increases per track, PTS is never below DTS, every switch has a reason,
//! legs that are gone leave nothing, nothing panics.
#![no_main]
use std::time::{Duration, Instant};

use bytes::Bytes;
use hub::{Announcement, Arrival, EventKind, Hub, HubConfig, Item, Leg, MergeMode, Publisher, Subscriber};
use libfuzzer_sys::fuzz_target;
use media::{AudioCodec, TrackKind, VideoCodec};

/// avcC of 1280x720, High; and another one.
const RECORDS: [&[u8]; 2] = [
    &[
        1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 26, 0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50, 0x05, 0xbb, 0x01, 0x10,
        0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0xc0, 0xf1, 0x83, 0x19, 0x60, 1, 0, 6, 0x68, 0xeb, 0xe3,
        0xcb, 0x22, 0xc0,
    ],
    &[
        1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 26, 0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50, 0x05, 0xbb, 0x01, 0x10,
        0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0xc0, 0xf1, 0x83, 0x19, 0x60, 1, 0, 6, 0x68, 0xeb, 0xe3,
        0xcb, 0x22, 0xc1,
    ],
];
const GOP: u64 = 8;

/// One path: where its encoder stands, and what is added to its stamps.
#[derive(Default)]
struct Path {
    leg: Option<Leg>,
    pictures: u64,
    sounds: u64,
    offset_millis: i64,
    encode: u8,
}

impl Path {
    fn connect(&mut self, hub: &Hub, at: Arrival, rank: u8, record: usize) {
        let publisher = Publisher { protocol: "rtmp", key_id: rank.to_string(), rank, ..Publisher::default() };
        let Ok(mut leg) = hub.publish(at, &"show".parse().expect("a name"), publisher) else { return };
        leg.announce(at.now, Announcement { video: true, audio: true, ..Announcement::default() });
        let _ = leg.video_config(at, VideoCodec::Avc, &Bytes::from_static(RECORDS[record]));
        let _ = leg.audio_config(at, AudioCodec::Aac, &Bytes::from_static(&[0x11, 0x90]));
        self.leg = Some(leg);
    }

    /// The next picture, and the sound before it.
    fn bring(&mut self, at: Arrival, comes: bool) {
        let picture = self.pictures;
        self.pictures += 1;
        let millis = (picture * 1000 / 30) as i64;
        while self.sounds * 1024 * 30 < picture * 48_000 {
            let nanos = (self.sounds * 1024 * 1_000_000 / 48) as i64 + self.offset_millis * 1_000_000;
            let body = [&[self.encode, 1][..], &self.sounds.to_be_bytes()].concat();
            self.sounds += 1;
            if let Some(leg) = self.leg.as_mut().filter(|_| comes) {
                leg.audio_unit(at, AudioCodec::Aac, nanos, body.into());
            }
        }
        let kind = if picture % GOP == 0 { 0x65 } else { 0x41 };
        let data = [&[0, 0, 0, 12, kind, self.encode, 0][..], &picture.to_be_bytes(), &[0x80]].concat();
        if let Some(leg) = self.leg.as_mut().filter(|_| comes) {
            leg.video_unit(at, (millis + self.offset_millis) * 1_000_000, 0, picture % GOP == 0, &data.into());
        }
    }
}

fn check(subscriber: &mut Subscriber, last: &mut [i64; 2]) {
    while let Some(entry) = subscriber.try_next() {
        let Item::Unit(unit) = &entry.item else { continue };
        let track = usize::from(unit.track == TrackKind::Audio);
        let scale = entry.tracks.config(unit.track).expect("a unit has a configuration").timescale();
        let nanos = scale.nanos(unit.dts.0);
        assert!(nanos > last[track], "{nanos} after {} on track {track}", last[track]);
        assert!(unit.pts.0 >= unit.dts.0);
        last[track] = nanos;
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, steps)) = data.split_first() else { return };
    let merge_mode = if first & 1 == 0 { MergeMode::Swift } else { MergeMode::Steady };
    let hold_down = Duration::from_millis(u64::from(first >> 1) * 20);
    let hub = Hub::new(HubConfig { merge_mode, hold_down, ..HubConfig::default() });
    let (start, mut passed) = (Instant::now(), Duration::ZERO);
    let at = |passed: Duration| Arrival { now: start + passed, utc_nanos: passed.as_nanos() as i64 };
    let mut paths: [Path; 3] = Default::default();
    let (mut subscriber, mut last) = (None::<Subscriber>, [i64::MIN; 2]);
    for step in steps.chunks_exact(3).take(4000) {
        let path = &mut paths[usize::from(step[0] % 3)];
        let now = at(passed);
        match step[0] / 3 % 16 {
            0 => path.leg = None,
            1 => drop(path.leg.take().map(|leg| leg.close(now))),
            2 | 3 => path.connect(&hub, now, step[1] % 2, usize::from(step[1] / 2 % 8 == 0)),
            4 => path.offset_millis = i64::from(i16::from_be_bytes([step[1], step[2]])) * 50,
            5 => path.encode = step[1] % 2,
            6 => (path.pictures, path.sounds) = (step[1].into(), u64::from(step[1]) * 48_000 / 30 / 1024),
            7 => (0..step[1] % 60).for_each(|_| path.bring(now, false)),
            8 => (0..step[1] % 60).for_each(|_| path.bring(now, true)),
            9 => passed += Duration::from_millis(u64::from(step[1]) * 16),
            10 => {
                let Some(stream) = hub.stream(&"show".parse().expect("a name")) else { continue };
                let leg = u64::from(step[2] % 8);
                let _ = match step[1] % 4 {
                    0 => stream.switch_to(now, leg),
                    1 => stream.pin(now, Some(leg)),
                    2 => stream.pin(now, None),
                    _ => stream.set_disabled(now, leg, step[1] & 8 == 0),
                };
            }
            _ => {
                for _ in 0..=step[1] % 32 {
                    passed += Duration::from_nanos(33_333_333);
                    for (index, path) in paths.iter_mut().enumerate() {
                        path.bring(at(passed), step[2] & 1 << index == 0);
                    }
                }
            }
        }
        hub.tick(at(passed));
        if let Some(stream) = hub.stream(&"show".parse().expect("a name")) {
            let is_same = subscriber.as_ref().is_some_and(|known| std::sync::Arc::ptr_eq(known.stream(), &stream));
            if !is_same {
                (subscriber, last) = (Some(stream.subscribe_from_oldest()), [i64::MIN; 2]);
            }
            subscriber.iter_mut().for_each(|subscriber| check(subscriber, &mut last));
        }
    }
    let events = hub.events().since(0, 10_000);
    assert!(events.iter().all(|event| event.kind != EventKind::Switched || event.reason.is_some()));
});
