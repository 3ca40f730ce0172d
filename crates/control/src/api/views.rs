//! Streams as the API shows them.

use std::collections::BTreeMap;

use hub::{LegStatus, StreamStatus};
use media::{CodecConfig, Playback};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::DeliveryFigures;

/// The picture of a stream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct VideoView {
    /// `H.264`, `H.265`, `AV1`, `VP9`.
    pub codec: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Measured frames per second.
    pub frames_per_second: f64,
    /// Measured.
    pub bits_per_second: u64,
    /// Distance of the last two keyframes.
    pub keyframe_interval_ms: Option<u64>,
}

/// The sound of a stream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AudioView {
    /// `AAC`, `Opus`.
    pub codec: String,
    /// Hertz.
    pub sample_rate: u32,
    /// Channels.
    pub channels: u8,
    /// Measured.
    pub bits_per_second: u64,
}

/// Who publishes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PublisherView {
    /// `rtmp`, `rtmps`, `srt`.
    pub protocol: String,
    /// Network address.
    pub peer: String,
    /// What the encoder calls itself.
    pub encoder: Option<String>,
    /// Identifier of the key that was used.
    pub key_id: String,
}

/// What the network did since the publisher connected.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TransportView {
    /// Round trip time.
    pub rtt_ms: f64,
    /// Time that lost packets have to come again.
    pub latency_ms: u64,
    /// Media that waits to be due.
    pub buffer_ms: u64,
    /// Of the last second.
    pub bits_per_second: u64,
    /// What the line could carry, in bits per second; 0 until it is known.
    pub capacity_bits_per_second: u64,
    /// Packets that came.
    pub packets: u64,
    /// Packets that were missing at first.
    pub lost: u64,
    /// Packets that came again.
    pub retransmitted: u64,
    /// Packets that came too late.
    pub belated: u64,
    /// Packets that never came: what is missing in the media.
    pub dropped: u64,
    /// Packets that could not be decrypted.
    pub undecryptable: u64,
    /// Packets of the transport stream that were missing or out of order.
    pub continuity_errors: u64,
}

impl LinkView {
    pub(super) fn new(link: hub::Link) -> Self {
        Self { peer: link.peer, transport: TransportView::new(link.transport) }
    }
}

impl TransportView {
    pub(super) fn new(transport: hub::Transport) -> Self {
        let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            rtt_ms: transport.rtt.as_secs_f64() * 1000.0,
            latency_ms: millis(transport.latency),
            buffer_ms: millis(transport.buffer),
            bits_per_second: transport.bytes_per_second * 8,
            capacity_bits_per_second: transport.capacity_bits_per_second,
            packets: transport.packets,
            lost: transport.lost,
            retransmitted: transport.retransmitted,
            belated: transport.belated,
            dropped: transport.dropped,
            undecryptable: transport.undecryptable,
            continuity_errors: transport.continuity_errors,
        }
    }
}

/// One of several ways over which a publisher sends.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LinkView {
    /// Its other end.
    pub peer: String,
    /// What the network did to it. What it lacks, the others may have brought.
    pub transport: TransportView,
}

/// What stood beside picture and sound in a transport stream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MarkerView {
    /// `scte35` or `klv`.
    pub kind: String,
    /// The PID it came on.
    pub pid: u16,
    /// When it came, in milliseconds since 1970, UTC.
    pub utc_ms: i64,
    /// The section or unit as it came, at most 4,096 bytes, as hexadecimal digits.
    pub data: String,
}

impl MarkerView {
    pub(super) fn new(marker: &hub::Marker) -> Self {
        let kind = match marker.kind {
            hub::MarkerKind::Scte35 => "scte35",
            hub::MarkerKind::Klv => "klv",
        };
        let data = format!("{:x}", marker.bytes);
        Self { kind: kind.into(), pid: marker.pid, utc_ms: marker.utc_nanos / 1_000_000, data }
    }
}

/// One thing that is wrong with the encoder's settings.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AdviceView {
    /// Short name that does not change.
    pub code: String,
    /// What is seen and what it does.
    pub text: String,
    /// The setting to change.
    pub fix: String,
}

/// Repairs of the encoder's timestamps.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RepairsView {
    /// The timestamps jumped.
    pub jumps: u64,
    /// Decode times did not increase.
    pub disorder: u64,
    /// Presentation before decoding, or impossibly far behind.
    pub composition: u64,
    /// Frames of silence that stood in.
    pub silence: u64,
    /// Frames of sound that came twice or too late.
    pub dropped_audio: u64,
    /// Units that could not be read.
    pub damaged: u64,
}

/// How one of several copies of an encode compares to the others.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CopyView {
    /// How much later than the first copy its last unit came.
    pub late_ms: u64,
    /// The most since it joined.
    pub late_ms_max: u64,
    /// Pictures that it did not bring.
    pub missing: u64,
}

/// A source of a stream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LegView {
    /// Its number within the stream; never used again.
    pub id: u64,
    /// `waiting`, `healthy`, `suspect`, `dead` or `disabled`.
    pub state: String,
    /// `feeding`, `copy` (feeds the program too: it carries the same encode) or `standby`.
    pub role: String,
    /// 0 is preferred.
    pub rank: u8,
    /// Who sends it.
    pub publisher: PublisherView,
    /// Since it connected.
    pub connected_seconds: u64,
    /// Since its last media; nothing where there was none.
    pub silent_ms: Option<u64>,
    /// Measured, picture and sound.
    pub bits_per_second: u64,
    /// Measured.
    pub frames_per_second: f64,
    /// What is wrong with what it brings, in words, beside what it usually brings.
    pub weakness: Option<String>,
    /// Since its last picture was captured until it came, by the encoder's clock, where the encoder tells: true if both clocks are and the
    /// encoder's is in UTC.
    pub capture_delay_ms: Option<i64>,
    /// Repairs since it connected.
    pub repairs: RepairsView,
    /// What the network did, where its protocol tells.
    pub transport: Option<TransportView>,
    /// How it compares to the other copies.
    pub copy: Option<CopyView>,
}

impl LegView {
    fn new(leg: LegStatus) -> Self {
        let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            id: leg.id,
            state: leg.state.as_str().into(),
            role: leg.role.as_str().into(),
            rank: leg.publisher.rank,
            publisher: PublisherView::new(leg.publisher),
            connected_seconds: leg.connected_for.as_secs(),
            silent_ms: leg.silent_for.map(millis),
            bits_per_second: leg.observed.video_bits_per_second + leg.observed.audio_bits_per_second,
            frames_per_second: frames_per_second(&leg.observed),
            weakness: leg.weakness,
            capture_delay_ms: leg.capture_delay_nanos.map(|nanos| nanos / 1_000_000),
            repairs: RepairsView::new(leg.repairs),
            transport: leg.transport.map(TransportView::new),
            copy: leg.copy.map(|copy| CopyView {
                late_ms: millis(copy.late),
                late_ms_max: millis(copy.late_max),
                missing: copy.missing,
            }),
        }
    }
}

/// What became of the units of several copies of an encode.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CopiesView {
    /// Units that another leg had brought already.
    pub duplicates: u64,
    /// Units whose place in time was taken by something else.
    pub conflicts: u64,
    /// Units that came when the program was past them.
    pub late: u64,
    /// Pictures that came while later ones of another leg waited for them.
    pub repaired: u64,
    /// Holes that nobody filled.
    pub unrepaired: u64,
}

fn frames_per_second(observed: &hub::Observed) -> f64 {
    f64::from(u32::try_from(observed.frame_rate_millihertz).unwrap_or(0)) / 1000.0
}

impl PublisherView {
    fn new(publisher: hub::Publisher) -> Self {
        let hub::Publisher { protocol, peer, encoder, key_id, rank: _, is_fetched: _ } = publisher;
        Self { protocol: protocol.into(), peer, encoder, key_id }
    }
}

impl RepairsView {
    fn new(repairs: hub::Repairs) -> Self {
        Self {
            jumps: repairs.jumps,
            disorder: repairs.disorder,
            composition: repairs.composition,
            silence: repairs.silence,
            dropped_audio: repairs.dropped_audio,
            damaged: repairs.damaged,
        }
    }
}

/// A stream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StreamView {
    /// Its name.
    pub name: String,
    /// `starting`, `live`, `lost` or `ended`.
    pub state: String,
    /// Since when it is live, in seconds.
    pub live_seconds: Option<u64>,
    /// Path of the multivariant playlist on the media listener.
    pub playlist: String,
    /// Path of the player page on the media listener.
    pub page: String,
    /// Who may watch: `open` or `key`.
    pub playback: String,
    /// The picture.
    pub video: Option<VideoView>,
    /// The sound.
    pub audio: Option<AudioView>,
    /// Its sources, the one that leads first.
    pub legs: Vec<LegView>,
    /// What became of copies, where several legs carry the same encode.
    pub copies: CopiesView,
    /// An operator holds the stream on this leg.
    pub pinned: Option<u64>,
    /// Who publishes now: the leg that leads.
    pub publisher: Option<PublisherView>,
    /// What is wrong with the encoder's settings.
    pub advice: Vec<AdviceView>,
    /// What the network did, where the publisher's protocol tells.
    pub transport: Option<TransportView>,
    /// The ways over which it comes, where the publisher's protocol knows several (bonded SRT).
    pub links: Vec<LinkView>,
    /// The last 16 SCTE 35 sections and KLV units that came in the transport stream, the newest last.
    pub markers: Vec<MarkerView>,
    /// What was wrong with its transport stream since the publisher connected, as ETSI TR 101 290 counts it; what never happened
    /// is left out.
    pub ts_errors: BTreeMap<String, u64>,
    /// Repairs since the publisher connected.
    pub repairs: RepairsView,
    /// Times a source joined.
    pub joins: u64,
    /// Pictures that no leg brought, but for those lost at a switch.
    pub missing_pictures: u64,
    /// Delivery.
    #[serde(skip_deserializing)]
    pub delivery: DeliveryFigures,
}

impl StreamView {
    pub(super) fn new(status: StreamStatus, playback: Playback, delivery: DeliveryFigures) -> Self {
        let observed = &status.observed;
        let (mut video, mut audio) = (None, None);
        for config in &status.tracks {
            match config {
                CodecConfig::Video(config) => {
                    video = Some(VideoView {
                        codec: config.codec.as_str().into(),
                        width: config.width,
                        height: config.height,
                        frames_per_second: frames_per_second(observed),
                        bits_per_second: observed.video_bits_per_second,
                        keyframe_interval_ms: observed.keyframe_interval_ms,
                    });
                }
                CodecConfig::Audio(config) => {
                    audio = Some(AudioView {
                        codec: config.codec.as_str().into(),
                        sample_rate: config.timescale.hz(),
                        channels: config.channels,
                        bits_per_second: observed.audio_bits_per_second,
                    });
                }
            }
        }
        Self {
            state: status.state.as_str().into(),
            live_seconds: status.live_for.map(|duration| duration.as_secs()),
            playlist: format!("/live/{}/index.m3u8", status.name),
            page: format!("/watch/{}", status.name),
            playback: playback.to_string(),
            name: status.name.to_string(),
            video,
            audio,
            publisher: status.publisher.map(PublisherView::new),
            legs: status.legs.into_iter().map(LegView::new).collect(),
            copies: CopiesView {
                duplicates: status.copies.duplicates,
                conflicts: status.copies.conflicts,
                late: status.copies.late,
                repaired: status.copies.repaired,
                unrepaired: status.copies.unrepaired,
            },
            pinned: status.pinned,
            advice: status
                .advice
                .into_iter()
                .map(|advice| AdviceView { code: advice.code.into(), text: advice.text, fix: advice.fix.into() })
                .collect(),
            transport: status.transport.map(TransportView::new),
            links: status.links.into_iter().map(LinkView::new).collect(),
            markers: status.markers.iter().map(MarkerView::new).collect(),
            ts_errors: status.ts_errors.iter().map(|(name, count)| ((*name).into(), *count)).collect(),
            repairs: RepairsView::new(status.repairs),
            joins: status.program.joins,
            missing_pictures: status.program.holes.pictures,
            delivery,
        }
    }
}
