//! Figures of streams, read from hub and delivery when somebody scrapes.

use std::sync::Arc;
use std::time::Instant;

use delivery::Delivery;
use hub::{Hub, LegRole, LegState, LegStatus, SLATE_RANK, StreamState};
use telemetry::collector::Collector;
use telemetry::encoding::{DescriptorEncoder, EncodeMetric as _};
use telemetry::prometheus_metrics::gauge::ConstGauge;

/// Most streams with a label of their own; the rest are summed as `other`.
const LABELLED_STREAMS_MAX: usize = 2000;

/// The name of a stream, and its figures.
type Row = (String, [f64; FIGURES.len()]);
/// The name of a stream; protocol, number and rank of a leg, and its figures.
type LegRow = (String, [String; 3], [f64; LEG_FIGURES.len()]);

/// Reads figures of streams.
pub(crate) struct StreamMetrics {
    hub: Arc<Hub>,
    delivery: Delivery,
}

impl std::fmt::Debug for StreamMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamMetrics").finish_non_exhaustive()
    }
}

impl StreamMetrics {
    pub(crate) fn new(hub: Arc<Hub>, delivery: Delivery) -> Self {
        Self { hub, delivery }
    }

    /// Rows of figures: name, then one value for each of [`FIGURES`]; and of legs: stream, protocol, number, rank.
    fn rows(&self) -> (Vec<Row>, Vec<LegRow>) {
        let now = Instant::now();
        let channels: std::collections::HashMap<_, _> = self.delivery.channels().into_iter().collect();
        let number = |value: u64| f64::from(u32::try_from(value).unwrap_or(u32::MAX));
        let (mut rows, mut legs): (Vec<Row>, Vec<LegRow>) = Default::default();
        for stream in self.hub.streams() {
            let status = stream.status(now);
            let channel = channels.get(&status.name);
            let is_live = f64::from(u8::from(status.state == StreamState::Live));
            let figures = [
                is_live,
                number(status.observed.video_bits_per_second),
                number(status.observed.audio_bits_per_second),
                number(status.observed.frame_rate_millihertz) / 1000.0,
                number(status.observed.keyframe_interval_ms.unwrap_or(0)) / 1000.0,
                channel.map_or(0.0, |channel| number(channel.held_bytes as u64)),
                channel.map_or(0.0, |channel| number(channel.part_violations)),
                channel.map_or(0.0, |channel| number(channel.discontinuities)),
                number(status.program.holes.pictures),
            ];
            if rows.len() < LABELLED_STREAMS_MAX {
                rows.push((status.name.to_string(), figures));
                legs.extend(status.legs.iter().filter(|leg| leg.publisher.rank != SLATE_RANK).map(|leg| {
                    let labels = [leg.publisher.protocol.into(), leg.id.to_string(), leg.publisher.rank.to_string()];
                    (status.name.to_string(), labels, leg_figures(leg))
                }));
            } else if let Some((name, sums)) = rows.last_mut() {
                "other".clone_into(name);
                sums.iter_mut().zip(figures).for_each(|(sum, value)| *sum += value);
            }
        }
        (rows, legs)
    }
}

/// Name, help, and whether it is a rate or size that can be summed.
const FIGURES: [(&str, &str); 9] = [
    ("stream_live", "1 while media flows"),
    ("stream_video_bits_per_second", "Video payload over the last ten seconds"),
    ("stream_audio_bits_per_second", "Audio payload over the last ten seconds"),
    ("stream_frames_per_second", "Pictures over the last ten seconds"),
    ("stream_keyframe_interval_seconds", "Distance of the last two random access points"),
    ("stream_held_bytes", "Media held in memory for delivery"),
    ("stream_part_violations", "Parts that were longer than PART-TARGET"),
    ("stream_discontinuities", "Discontinuities of the broadcast"),
    ("stream_missing_pictures", "Pictures that no leg brought, but for those lost at a switch"),
];

/// Figures of a leg.
const LEG_FIGURES: [(&str, &str); 8] = [
    ("leg_healthy", "1 while the leg delivers and nothing is wrong with what it brings"),
    ("leg_leads", "1 while the leg feeds the stream, and leads where several do"),
    ("leg_bits_per_second", "Picture and sound over the last ten seconds"),
    ("leg_late_seconds", "How much later than the first copy of the encode its last unit came"),
    ("leg_missing_pictures", "Pictures that it did not bring and another copy did"),
    ("leg_lost_packets", "Packets that never came, where the protocol tells"),
    ("leg_round_trip_seconds", "Round trip time, where the protocol tells"),
    ("leg_repairs", "Repairs of its timestamps and of what could not be read"),
];

fn leg_figures(leg: &LegStatus) -> [f64; LEG_FIGURES.len()] {
    let number = |value: u64| f64::from(u32::try_from(value).unwrap_or(u32::MAX));
    let is = |is_so: bool| f64::from(u8::from(is_so));
    let (copy, transport, repairs) = (leg.copy.unwrap_or_default(), leg.transport.unwrap_or_default(), leg.repairs);
    let repaired = repairs.jumps + repairs.disorder + repairs.composition + repairs.damaged;
    [
        is(leg.state == LegState::Healthy),
        is(leg.role == LegRole::Feeding),
        number(leg.observed.video_bits_per_second + leg.observed.audio_bits_per_second),
        copy.late.as_secs_f64(),
        number(copy.missing),
        number(transport.dropped + transport.undecryptable),
        transport.rtt.as_secs_f64(),
        number(repaired),
    ]
}

impl Collector for StreamMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (rows, legs) = self.rows();
        for (index, (name, help)) in FIGURES.iter().enumerate() {
            let gauge = ConstGauge::new(0.0_f64);
            let mut metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for (stream, figures) in &rows {
                let labels = [("stream", stream.as_str())];
                ConstGauge::new(figures[index]).encode(metric.encode_family(&labels)?)?;
            }
        }
        for (index, (name, help)) in LEG_FIGURES.iter().enumerate() {
            let gauge = ConstGauge::new(0.0_f64);
            let mut metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for (stream, [protocol, leg, rank], figures) in &legs {
                let labels = [("stream", stream.as_str()), ("protocol", protocol), ("leg", leg), ("rank", rank)];
                ConstGauge::new(figures[index]).encode(metric.encode_family(&labels)?)?;
            }
        }
        let memory = resident_bytes().unwrap_or(0.0);
        let gauge = ConstGauge::new(memory);
        let metric =
            encoder.encode_descriptor("process_resident_bytes", "Resident memory", None, gauge.metric_type())?;
        gauge.encode(metric)?;
        let gauge = ConstGauge::new(cpu_seconds().unwrap_or(0.0));
        let metric = encoder.encode_descriptor(
            "process_cpu_seconds",
            "Processor time used, all threads",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(metric)
    }
}

/// Resident memory of this process, from the kernel.
fn resident_bytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024.0)
}

/// Processor time of this process, from the kernel, in seconds.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}
