//! Allocation from chunk to part is a fixed number per access unit, counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use container::flv::Content;
use hls::{Continuation, Packager, PackagerConfig};
use hub::{Arrival, Hub, HubConfig, Item, Leg, Publisher};
use media::{StreamKey, TrackKind};
use rtmp::{
    ClientCommand, ClientConfig, ClientInput, ClientSession, Command, Event, Input, Media, Output, Role, ServerConfig,
    ServerSession,
};

/// Most allocations per access unit, from the bytes of its chunks to its part: the message, the shared count of its
/// slices, the ring entry, and a share of what a part and a segment need.
const ALLOCATIONS_MAX: f64 = 6.0;

/// Counts allocations and hands them on.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator cannot be written without; it only counts and hands on")]
// SAFETY: every call goes unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What an encoder sends, chunk by chunk, once it was let in.
struct Wire {
    client: ClientSession,
    server: ServerSession,
    now: Instant,
}

impl Wire {
    fn new(now: Instant) -> Self {
        let config = ClientConfig {
            role: Role::Publish,
            app: "live".into(),
            tc_url: "rtmp://127.0.0.1/live".into(),
            name: StreamKey::new("key"),
            nonce: [0; 32],
        };
        let mut wire = Self {
            client: ClientSession::new(now, config),
            server: ServerSession::new(now, ServerConfig::default()),
            now,
        };
        for _ in 0..8 {
            for bytes in wire.sent() {
                wire.server.handle_input(now, Input::Received(&bytes)).expect("valid");
            }
            loop {
                match wire.server.poll_output() {
                    Output::Send(bytes) => wire.client.handle_input(now, ClientInput::Received(&bytes)).expect("valid"),
                    Output::Event(Event::PublishRequested { .. }) => {
                        wire.server.handle_input(now, Input::Command(Command::Accept)).expect("accepted");
                    }
                    Output::Event(_) => {}
                    Output::Wait(_) => break,
                }
            }
        }
        wire
    }

    fn sent(&mut self) -> Vec<Bytes> {
        let mut sent = Vec::new();
        loop {
            match self.client.poll_output() {
                Output::Send(bytes) => sent.push(bytes),
                Output::Event(_) => {}
                Output::Wait(_) => return sent,
            }
        }
    }

    fn message(&mut self, track: TrackKind, timestamp_ms: u32, body: Bytes) -> Vec<Bytes> {
        let command = ClientCommand::SendMedia { track, timestamp_ms, body };
        self.client.handle_input(self.now, ClientInput::Command(command)).expect("running");
        self.sent()
    }
}

/// What the gateway does with an event.
fn hand_on(leg: &mut Leg, at: Arrival, event: Event) {
    let Event::Media { time_nanos, media } = event else { return };
    match media {
        Media::Video(packet) => match packet.content {
            Content::Config(record) => leg.video_config(at, packet.codec, &record).expect("valid"),
            Content::Unit { is_key, data, .. } => leg.video_unit(at, time_nanos, 0, is_key, &data),
            Content::Ignored => {}
        },
        Media::Audio(packet) => match packet.content {
            Content::Config(record) => leg.audio_config(at, packet.codec, &record).expect("valid"),
            Content::Unit { data, .. } => leg.audio_unit(at, packet.codec, time_nanos, data),
            Content::Ignored => {}
        },
    }
}

#[test]
fn an_access_unit_takes_a_fixed_number_of_allocations_from_chunk_to_part() {
    let now = Instant::now();
    let mut wire = Wire::new(now);
    let hub = Hub::new(HubConfig::default());
    let mut leg = hub
        .publish(Arrival { now, utc_nanos: 0 }, &"show".parse().expect("valid"), Publisher::default())
        .expect("let in");
    let mut subscriber = leg.stream().subscribe_from_oldest();
    let continuation = Continuation { first_number: 1, discontinuities: 0, is_resumed: false };
    let mut packager = Packager::new(PackagerConfig::default(), continuation);

    let record = testkit::fixture("ffmpeg-5.1-avcc-30.bin");
    let mut feed = vec![
        (0, wire.message(TrackKind::Video, 0, [&[0x17, 0, 0, 0, 0][..], &record].concat().into())),
        (0, wire.message(TrackKind::Audio, 0, Bytes::from_static(&[0xaf, 0, 0x11, 0x90]))),
    ];
    for frame in 0..1500u32 {
        let nal = [&[0, 0, 0x20, 1, if frame % 60 == 0 { 0x65 } else { 0x41 }][..], &[7; 8192]].concat();
        let kind: &[u8] = if frame % 60 == 0 { &[0x17, 1, 0, 0, 0] } else { &[0x27, 1, 0, 0, 0] };
        let millis = frame * 1000 / 30;
        feed.push((millis, wire.message(TrackKind::Video, millis, [kind, &nal].concat().into())));
        let sound = [&[0xaf, 1][..], &[9; 300]].concat();
        feed.push((millis, wire.message(TrackKind::Audio, frame * 1024 / 48, sound.into())));
    }

    let (mut units, mut counted, mut tracks) = (0u32, 0, None);
    for (index, (millis, pieces)) in feed.iter().enumerate() {
        let before = COUNT.load(Ordering::Relaxed);
        let at =
            Arrival { now: now + Duration::from_millis((*millis).into()), utc_nanos: i64::from(*millis) * 1_000_000 };
        for piece in pieces {
            wire.server.handle_input(at.now, Input::Received(piece)).expect("valid");
        }
        while let Output::Event(event) = wire.server.poll_output() {
            hand_on(&mut leg, at, event);
        }
        while let Some(entry) = subscriber.try_next() {
            if tracks.is_none() {
                packager.set_tracks(entry.tracks.config(TrackKind::Video), entry.tracks.config(TrackKind::Audio));
                tracks = Some(());
            }
            if let Item::Unit(unit) = &entry.item {
                packager.handle_unit(unit.clone(), entry.arrival_utc_nanos);
            }
        }
        if index > 1000 {
            units += 1;
            counted += COUNT.load(Ordering::Relaxed) - before;
        }
    }
    let playlist = packager.playlist(TrackKind::Video).expect("published");
    assert!(playlist.parts() > 200, "{} parts", playlist.parts());
    let each = f64::from(u32::try_from(counted).expect("few")) / f64::from(units);
    println!("{each:.2} allocations per access unit");
    assert!(each <= ALLOCATIONS_MAX, "{each:.2} allocations per access unit");
}
