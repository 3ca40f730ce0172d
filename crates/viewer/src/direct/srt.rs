//! Plays over SRT: a transport stream.

use std::time::Instant;

use container::mpegts::{Demuxer, DemuxerConfig, Event as TsEvent, StreamKind};
use media::TrackKind;
use srt::{CallerConfig, CloseReason, Event};

use super::{DirectPlayer, SrtPlace, Teller};
use crate::srt_link::{SrtLink, resolve};
use crate::watch::moment;

/// Plays until the stream ends or the time is over.
///
/// # Errors
/// In words: not reached, refused, or broken.
pub(super) async fn play(place: &SrtPlace, player: &mut DirectPlayer, teller: &mut Teller<'_>) -> Result<(), String> {
    let began = Instant::now();
    let millis = |since: Instant| u32::try_from(since.elapsed().as_millis()).unwrap_or(u32::MAX);
    let server = resolve(&place.server).await?;
    let (dns_ms, asked) = (millis(began), Instant::now());
    let config = CallerConfig {
        settings: place.settings.clone(),
        stream_id: place.stream_id.clone(),
        ..CallerConfig::default()
    };
    let mut link = SrtLink::connect(server, config).await?;
    player.connected(dns_ms, millis(asked), 0);
    player.accepted(moment());
    let mut demuxer = Demuxer::new(DemuxerConfig::default());
    let mut kinds: Vec<(u16, StreamKind)> = Vec::new();
    loop {
        let mut closed = None;
        let deadline = link.flush(|event| match event {
            Event::Data(payload) => demuxer.push(&payload),
            Event::Lost(packets) => player.lost(packets),
            Event::Closed(reason) => closed = Some(reason),
        });
        while let Some(event) = demuxer.poll() {
            match event {
                TsEvent::Program { streams, .. } => {
                    kinds = streams.iter().map(|stream| (stream.pid, stream.kind)).collect();
                }
                TsEvent::Unit(unit) => {
                    let kind = kinds.iter().find(|(pid, _)| *pid == unit.pid).map(|(_, kind)| *kind);
                    let Some((kind, dts)) = kind.zip(unit.dts.or(unit.pts)) else { continue };
                    let track = if kind.is_video() { TrackKind::Video } else { TrackKind::Audio };
                    // Ticks of 90 kHz.
                    player.unit(moment(), track, dts * 100_000 / 9, unit.is_random_access, unit.payload.len());
                }
                _ => {}
            }
        }
        match closed {
            Some(CloseReason::Peer | CloseReason::Local) => return Ok(()),
            Some(reason) => return Err(format!("the connection ended: {reason:?}")),
            None => {}
        }
        if teller.tell(player) {
            link.close();
            return Ok(());
        }
        let wake = teller.wake(player);
        link.receive(deadline.map_or(wake, |deadline| deadline.min(wake))).await?;
    }
}
