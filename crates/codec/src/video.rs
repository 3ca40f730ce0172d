//! A video track as it comes from a peer: configuration records and raw units in, canonical units out.

use bytes::Bytes;
use media::{Colour, Payload, VideoCodec, VideoConfig};

use crate::nal::{self, LengthSize};
use crate::{Error, av1, h264, h265, vp9};

/// Keeps the parameter sets of one video track and puts its access units into the canonical form of
/// [`media::AccessUnit`]: no delimiters, parameter sets or filler; four-byte NAL lengths.
#[derive(Debug)]
pub struct VideoStream {
    state: State,
    config: Option<VideoConfig>,
}

#[derive(Debug)]
enum State {
    Avc { size: LengthSize, sets: h264::ParameterSets },
    Hevc { size: LengthSize, sets: h265::ParameterSets },
    Av1,
    Vp9 { colour: Option<Colour> },
}

/// An access unit in canonical form.
#[derive(Debug)]
pub struct VideoUnit {
    /// The coded bytes; empty where the unit held nothing but what is not carried.
    pub payload: Payload,
    /// A decoder can start here.
    pub is_random_access: bool,
    /// The configuration, where this unit changed it.
    pub new_config: Option<VideoConfig>,
}

impl VideoStream {
    /// Starts with the configuration record that the peer sent (`avcC`, `hvcC`, `av1C`, `vpcC` payload).
    ///
    /// # Errors
    /// The record or a parameter set in it is damaged or unsupported.
    pub fn new(codec: VideoCodec, record: &Bytes) -> Result<Self, Error> {
        let (state, config) = match codec {
            VideoCodec::Avc => {
                let (size, sets) = h264::parse_record(record)?;
                let config = h264::config(&sets)?;
                (State::Avc { size, sets }, Some(config))
            }
            VideoCodec::Hevc => {
                let (size, sets) = h265::parse_record(record)?;
                let config = h265::config(&sets)?;
                (State::Hevc { size, sets }, Some(config))
            }
            VideoCodec::Av1 => (State::Av1, av1::parse_record(record)?),
            VideoCodec::Vp9 => (State::Vp9 { colour: vp9::parse_record(record)? }, None),
        };
        Ok(Self { state, config })
    }

    /// A track of H.264 or H.265 whose parameter sets come in band, and whose units have four-byte lengths. Other codecs
    /// carry theirs in band anyway.
    pub fn in_band(codec: VideoCodec) -> Self {
        let size = LengthSize::FOUR;
        let state = match codec {
            VideoCodec::Avc => State::Avc { size, sets: h264::ParameterSets::default() },
            VideoCodec::Hevc => State::Hevc { size, sets: h265::ParameterSets::default() },
            VideoCodec::Av1 => State::Av1,
            VideoCodec::Vp9 => State::Vp9 { colour: None },
        };
        Self { state, config: None }
    }

    /// The configuration now in force; `None` until a codec that carries it in band has sent it.
    pub fn config(&self) -> Option<&VideoConfig> {
        self.config.as_ref()
    }

    /// Puts one access unit into canonical form. `is_key` is what the peer's container says of it.
    ///
    /// # Errors
    /// The unit is damaged; the track can go on with the next one.
    pub fn unit(&mut self, unit: &Bytes, is_key: bool) -> Result<VideoUnit, Error> {
        let (payload, is_random_access, found) = match &mut self.state {
            State::Avc { size, sets } => avc_unit(unit, *size, sets, is_key)?,
            State::Hevc { size, sets } => hevc_unit(unit, *size, sets)?,
            State::Av1 => av1::parse_unit(unit)?,
            State::Vp9 { colour } => {
                let header = vp9::parse_frame(unit)?;
                (unit.clone().into(), header.is_key, vp9::config(header, *colour))
            }
        };
        let new_config = found.filter(|config| self.config.as_ref() != Some(config));
        if let Some(config) = &new_config {
            self.config = Some(config.clone());
        }
        Ok(VideoUnit { payload, is_random_access, new_config })
    }
}

type Found = (Payload, bool, Option<VideoConfig>);

fn avc_unit(unit: &Bytes, size: LengthSize, sets: &mut h264::ParameterSets, is_key: bool) -> Result<Found, Error> {
    let (mut idr, mut recovery) = (false, false);
    let mut inside = h264::ParameterSets::default();
    let payload = nal::filter(unit, size, |nal| {
        match h264::nal_kind(nal) {
            h264::NalKind::Idr => idr = true,
            h264::NalKind::Sei => recovery |= is_key && h264::is_recovery_point(nal),
            h264::NalKind::Sps => inside.sps.push(nal.clone()),
            h264::NalKind::Pps => inside.pps.push(nal.clone()),
            h264::NalKind::OtherSlice | h264::NalKind::Dropped | h264::NalKind::Other => {}
        }
        Ok(!matches!(h264::nal_kind(nal), h264::NalKind::Sps | h264::NalKind::Pps | h264::NalKind::Dropped))
    })?;
    let mut changed = false;
    changed |= adopt(&mut sets.sps, &inside.sps);
    changed |= adopt(&mut sets.pps, &inside.pps);
    let is_whole = !sets.sps.is_empty() && !sets.pps.is_empty();
    let config = if changed && is_whole { Some(h264::config(sets)?) } else { None };
    Ok((payload, idr || recovery, config))
}

fn hevc_unit(unit: &Bytes, size: LengthSize, sets: &mut h265::ParameterSets) -> Result<Found, Error> {
    let mut irap = false;
    let mut inside = h265::ParameterSets::default();
    let payload = nal::filter(unit, size, |nal| {
        let kind = h265::nal_kind(nal);
        irap |= kind == h265::NalKind::Irap;
        let is_set = matches!(kind, h265::NalKind::Vps | h265::NalKind::Sps | h265::NalKind::Pps);
        if is_set {
            inside.push(nal.clone());
        }
        Ok(!is_set && kind != h265::NalKind::Dropped)
    })?;
    let mut changed = false;
    changed |= adopt(&mut sets.vps, &inside.vps);
    changed |= adopt(&mut sets.sps, &inside.sps);
    changed |= adopt(&mut sets.pps, &inside.pps);
    let is_whole = !sets.sps.is_empty() && !sets.pps.is_empty();
    let config = if changed && is_whole { Some(h265::config(sets)?) } else { None };
    Ok((payload, irap, config))
}

/// Takes over parameter sets found in a unit if any of them is new; encoders that repeat them send all of a type.
fn adopt(known: &mut Vec<Bytes>, found: &[Bytes]) -> bool {
    let is_new = found.iter().any(|set| !known.contains(set));
    if is_new {
        // Own copies: a slice would keep the whole message of the unit alive.
        *known = found.iter().map(|set| Bytes::copy_from_slice(set)).take(32).collect();
    }
    is_new
}
