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
    is_in_band: bool,
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
        Ok(Self { state, config, is_in_band: false })
    }

    /// Starts without a record: parameter sets come only in band, as in MPEG transport streams.
    ///
    /// [`VideoStream::config`] is `None` until one set of each type has come (H.265: VPS, SPS, PPS; H.264: SPS, PPS);
    /// units before that cannot be played. An H.264 unit with an SPS and a recovery point counts as random access
    /// point, whatever the container says of it.
    pub fn in_band(codec: VideoCodec) -> Self {
        let state = match codec {
            VideoCodec::Avc => State::Avc { size: LengthSize::FOUR, sets: h264::ParameterSets::default() },
            VideoCodec::Hevc => State::Hevc { size: LengthSize::FOUR, sets: h265::ParameterSets::default() },
            VideoCodec::Av1 => State::Av1,
            VideoCodec::Vp9 => State::Vp9 { colour: None },
        };
        Self { state, config: None, is_in_band: true }
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
            State::Avc { size, sets } => avc_unit(unit, *size, sets, Key { is_key, with_sps: self.is_in_band })?,
            State::Hevc { size, sets } => hevc_unit(unit, *size, sets, self.config.is_some())?,
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

/// The parameter sets in the record of a configuration, in the order in which a decoder wants them: what stands before
/// a random access point where there are no records. None for AV1 and VP9.
///
/// # Errors
/// The record is damaged.
pub fn parameter_sets(config: &VideoConfig) -> Result<Vec<Bytes>, Error> {
    match config.codec {
        VideoCodec::Avc => h264::parse_record(&config.record).map(|(_, sets)| [sets.sps, sets.pps].concat()),
        VideoCodec::Hevc => h265::parse_record(&config.record).map(|(_, sets)| [sets.vps, sets.sps, sets.pps].concat()),
        VideoCodec::Av1 | VideoCodec::Vp9 => Ok(Vec::new()),
    }
}

/// The coded pictures of a unit in canonical form: its slices, without parameter sets, messages and the zero bytes that may
/// trail them. This is what is the same in two copies of one encode, whatever carried them. For AV1 and VP9 it is the whole
/// unit. spec: H.264 §7.4.1.2.4
pub fn picture_data(codec: VideoCodec, payload: &Payload) -> impl Iterator<Item = &[u8]> {
    let is_picture = move |nal: &&[u8]| match codec {
        VideoCodec::Avc => matches!(h264::nal_kind(nal), h264::NalKind::Idr | h264::NalKind::OtherSlice),
        VideoCodec::Hevc => matches!(h265::nal_kind(nal), h265::NalKind::Irap | h265::NalKind::OtherSlice),
        VideoCodec::Av1 | VideoCodec::Vp9 => true,
    };
    nals(codec, payload).filter(is_picture).map(|nal| {
        let zeros = nal.iter().rev().take_while(|byte| **byte == 0).count();
        nal.get(..nal.len() - zeros).unwrap_or_default()
    })
}

/// The NAL units of a unit in canonical form, without their lengths; of AV1 and VP9 its slices. A unit that is cut short ends it.
pub(crate) fn nals(codec: VideoCodec, payload: &Payload) -> impl Iterator<Item = &[u8]> {
    let has_lengths = matches!(codec, VideoCodec::Avc | VideoCodec::Hevc);
    payload.slices().flat_map(move |slice| {
        let mut rest = &slice[..];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            if !has_lengths {
                return Some(std::mem::take(&mut rest));
            }
            let (length, after) = rest.split_first_chunk()?;
            let (nal, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            rest = after;
            Some(nal)
        })
    })
}

type Found = (Payload, bool, Option<VideoConfig>);

/// When a recovery point is a random access point.
#[derive(Clone, Copy)]
struct Key {
    /// The container says so.
    is_key: bool,
    /// An SPS beside it says so.
    with_sps: bool,
}

fn avc_unit(unit: &Bytes, size: LengthSize, sets: &mut h264::ParameterSets, key: Key) -> Result<Found, Error> {
    let (mut idr, mut recovery) = (false, false);
    let mut inside = h264::ParameterSets::default();
    let payload = nal::filter(unit, size, |nal| {
        match h264::nal_kind(nal) {
            h264::NalKind::Idr => idr = true,
            h264::NalKind::Sei => recovery |= h264::is_recovery_point(nal),
            h264::NalKind::Sps => inside.sps.push(nal.clone()),
            h264::NalKind::Pps => inside.pps.push(nal.clone()),
            h264::NalKind::OtherSlice | h264::NalKind::Dropped | h264::NalKind::Other => {}
        }
        Ok(!matches!(h264::nal_kind(nal), h264::NalKind::Sps | h264::NalKind::Pps | h264::NalKind::Dropped))
    })?;
    recovery &= key.is_key || (key.with_sps && !inside.sps.is_empty());
    let mut changed = false;
    changed |= adopt(&mut sets.sps, &inside.sps);
    changed |= adopt(&mut sets.pps, &inside.pps);
    let is_complete = !sets.sps.is_empty() && !sets.pps.is_empty();
    let config = if changed && is_complete { Some(h264::config(sets)?) } else { None };
    Ok((payload, idr || recovery, config))
}

fn hevc_unit(unit: &Bytes, size: LengthSize, sets: &mut h265::ParameterSets, has_config: bool) -> Result<Found, Error> {
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
    // A record may lack the VPS; in band it is waited for.
    let is_complete = has_config || !(sets.vps.is_empty() || sets.sps.is_empty() || sets.pps.is_empty());
    let config = if changed && is_complete { Some(h265::config(sets)?) } else { None };
    Ok((payload, irap, config))
}

/// Takes over parameter sets found in a unit if any of them is new; encoders that repeat them send all of a type.
fn adopt(known: &mut Vec<Bytes>, found: &[Bytes]) -> bool {
    let is_new = found.iter().any(|set| !known.contains(set));
    if is_new {
        // Own copies: a slice would keep the whole message of the unit alive.
        // spec: ISO/IEC 14496-15 §5.3.3.1.2: a record counts SPS in five bits
        *known = found.iter().map(|set| Bytes::copy_from_slice(set)).take(31).collect();
    }
    is_new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(nals: &[&[u8]]) -> Bytes {
        let prefixed = |nal: &&[u8]| [&u32::try_from(nal.len()).expect("short").to_be_bytes()[..], nal].concat();
        nals.iter().flat_map(prefixed).collect::<Vec<_>>().into()
    }

    const SPS: &[u8] = &[
        0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50, 0x05, 0xbb, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00,
        0x00, 0x03, 0x03, 0xc0, 0xf1, 0x83, 0x19, 0x60,
    ];
    const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0];
    const RECOVERY_POINT: &[u8] = &[0x06, 0x06, 0x01, 0xc4, 0x80];

    #[test]
    fn in_band_there_is_no_configuration_before_sps_and_pps() {
        let mut stream = VideoStream::in_band(VideoCodec::Avc);
        let early = stream.unit(&unit(&[b"\x41slice"]), false).expect("valid");
        assert!(early.new_config.is_none() && stream.config().is_none());
        stream.unit(&unit(&[SPS, b"\x65slice"]), false).expect("valid");
        assert!(stream.config().is_none(), "the PPS is missing");

        let first = stream.unit(&unit(&[b"\x09\xf0", SPS, PPS, b"\x65slice"]), false).expect("valid");
        assert!(first.is_random_access && first.new_config.is_some());
        let config = stream.config().expect("complete");
        assert_eq!((config.width, config.height), (1280, 720));
        assert_eq!(parameter_sets(config).expect("own record"), [SPS, PPS]);
        let again = stream.unit(&unit(&[SPS, PPS, b"\x65slice"]), false).expect("valid");
        assert!(again.new_config.is_none());
    }

    #[test]
    fn picture_data_is_the_same_whatever_stands_beside_it() {
        let data = |nals: &[&[u8]]| -> Vec<Vec<u8>> {
            let payload = unit(nals).into();
            picture_data(VideoCodec::Avc, &payload).map(<[u8]>::to_vec).collect()
        };
        let bare = data(&[b"\x65one", b"\x65two"]);
        assert_eq!(bare, [b"\x65one", b"\x65two"]);
        assert_eq!(data(&[RECOVERY_POINT, b"\x65one\0\0", SPS, b"\x65two"]), bare);
        assert_ne!(data(&[b"\x65one", b"\x65twp"]), bare);
    }

    #[test]
    fn in_band_a_recovery_point_with_an_sps_is_a_random_access_point() {
        let mut stream = VideoStream::in_band(VideoCodec::Avc);
        let mut is_random_access =
            |nals: &[&[u8]], is_key| stream.unit(&unit(nals), is_key).expect("valid").is_random_access;
        assert!(is_random_access(&[SPS, PPS, RECOVERY_POINT, b"\x41slice"], false));
        assert!(!is_random_access(&[RECOVERY_POINT, b"\x41slice"], false));
        assert!(is_random_access(&[RECOVERY_POINT, b"\x41slice"], true));
        assert!(!is_random_access(&[SPS, PPS, b"\x41slice"], true));
    }
}
