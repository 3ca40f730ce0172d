//! Figures of streams, read from hub and delivery when somebody scrapes.

use std::sync::Arc;
use std::time::Instant;

use delivery::Delivery;
use hub::{Hub, StreamState};
use telemetry::collector::Collector;
use telemetry::encoding::{DescriptorEncoder, EncodeMetric as _};
use telemetry::prometheus_metrics::gauge::ConstGauge;

/// Most streams with a label of their own; the rest are summed as `other`.
const LABELLED_STREAMS_MAX: usize = 2000;

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

    /// Rows of figures: name, then one value for each of [`FIGURES`].
    fn rows(&self) -> Vec<(String, [f64; FIGURES.len()])> {
        let now = Instant::now();
        let channels: std::collections::HashMap<_, _> = self.delivery.channels().into_iter().collect();
        let number = |value: u64| f64::from(u32::try_from(value).unwrap_or(u32::MAX));
        let mut rows: Vec<(String, [f64; FIGURES.len()])> = Vec::new();
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
            ];
            if rows.len() < LABELLED_STREAMS_MAX {
                rows.push((status.name.to_string(), figures));
            } else if let Some((name, sums)) = rows.last_mut() {
                "other".clone_into(name);
                sums.iter_mut().zip(figures).for_each(|(sum, value)| *sum += value);
            }
        }
        rows
    }
}

/// Name, help, and whether it is a rate or size that can be summed.
const FIGURES: [(&str, &str); 8] = [
    ("stream_live", "1 while media flows"),
    ("stream_video_bits_per_second", "Video payload over the last ten seconds"),
    ("stream_audio_bits_per_second", "Audio payload over the last ten seconds"),
    ("stream_frames_per_second", "Pictures over the last ten seconds"),
    ("stream_keyframe_interval_seconds", "Distance of the last two random access points"),
    ("stream_held_bytes", "Media held in memory for delivery"),
    ("stream_part_violations", "Parts that were longer than PART-TARGET"),
    ("stream_discontinuities", "Discontinuities of the broadcast"),
];

impl Collector for StreamMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let rows = self.rows();
        for (index, (name, help)) in FIGURES.iter().enumerate() {
            let gauge = ConstGauge::new(0.0_f64);
            let mut metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for (stream, figures) in &rows {
                let labels = [("stream", stream.as_str())];
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
