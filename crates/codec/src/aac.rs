//! AAC: `AudioSpecificConfig` and frames of silence.

use bytes::Bytes;
use media::{AudioCodec, AudioConfig, Timescale};

use crate::Error;
use crate::bits::{BitReader, BitWriter};

/// spec: ISO/IEC 14496-3 table 1.18
const SAMPLE_RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
/// spec: ISO/IEC 14496-3 table 1.19
const CHANNELS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 8];

/// Reads an `AudioSpecificConfig`. spec: ISO/IEC 14496-3 §1.6.2.1
///
/// # Errors
/// Object types other than AAC (LC, Main, SSR, LTP, SBR, PS) are unsupported, as is a program config element.
pub fn parse_config(record: &Bytes) -> Result<AudioConfig, Error> {
    let mut bits = BitReader::new(record, "AudioSpecificConfig");
    let mut object_type = object_type(&mut bits)?;
    let sample_rate = sample_rate(&mut bits)?;
    let channel_configuration = bits.bits(4)?;
    let named_type = object_type;
    let mut channels = usize::try_from(channel_configuration)
        .ok()
        .and_then(|index| CHANNELS.get(index).copied())
        .filter(|channels| *channels > 0)
        .ok_or(Error::Unsupported("AAC channel configuration"))?;
    if matches!(object_type, 5 | 29) {
        // explicit SBR or PS: the extension's rate, then the core's object type
        self::sample_rate(&mut bits)?;
        object_type = self::object_type(&mut bits)?;
        if named_type == 29 && channels == 1 {
            channels = 2;
        }
    }
    if !(1..=4).contains(&object_type) {
        return Err(Error::Unsupported("audio object type other than AAC"));
    }
    // spec: ISO/IEC 14496-3 §4.4.1 GASpecificConfig: frameLengthFlag
    let samples_per_unit = if bits.bit()? { 960 } else { 1024 };
    Ok(AudioConfig {
        codec: AudioCodec::Aac,
        record: canonical(record),
        timescale: Timescale::new(sample_rate)
            .filter(|rate| (7350..=96_000).contains(&rate.hz()))
            .ok_or(Error::Unsupported("AAC sampling rate"))?,
        channels,
        samples_per_unit,
        codec_string: format!("mp4a.40.{named_type}"),
    })
}

/// Without what says only that there is no SBR: the record is then the same whether it came in RTMP or was made from ADTS.
/// spec: ISO/IEC 14496-3 §1.6.6
fn canonical(record: &Bytes) -> Bytes {
    let end = || {
        let mut bits = BitReader::new(record, "AudioSpecificConfig");
        skip_config(&mut bits)?;
        let end = bits.position();
        // syncExtensionType, extensionAudioObjectType, sbrPresentFlag
        let adds_sbr = bits.bits(11) == Ok(0x2b7) && bits.bits(5) == Ok(5) && bits.bit() == Ok(true);
        Ok::<_, Error>((!adds_sbr).then_some(end.div_ceil(8)))
    };
    let core = end().ok().flatten().and_then(|end| record.get(..end));
    core.map_or_else(|| record.clone(), |core| record.slice_ref(core))
}

fn object_type(bits: &mut BitReader<'_>) -> Result<u32, Error> {
    match bits.bits(5)? {
        31 => Ok(32 + bits.bits(6)?),
        short => Ok(short),
    }
}

fn sample_rate(bits: &mut BitReader<'_>) -> Result<u32, Error> {
    match bits.bits(4)? {
        15 => bits.bits(24),
        index => usize::try_from(index)
            .ok()
            .and_then(|index| SAMPLE_RATES.get(index).copied())
            .ok_or(Error::Invalid("AAC sampling rate")),
    }
}

/// The configuration of plain AAC-LC, for sound that was announced but has not come.
///
/// # Errors
/// A rate outside table 1.18 or a number of channels outside 1–6 and 8.
pub fn lc_config(sample_rate: u32, channels: u8) -> Result<AudioConfig, Error> {
    let rate = SAMPLE_RATES.iter().position(|rate| *rate == sample_rate).ok_or(Error::Unsupported("sampling rate"))?;
    let layout =
        CHANNELS.iter().rposition(|count| *count == channels && channels > 0).ok_or(Error::Unsupported("channels"))?;
    let mut bits = BitWriter::default();
    bits.put(2, 5);
    bits.put(u32::try_from(rate).unwrap_or(4), 4);
    bits.put(u32::try_from(layout).unwrap_or(2), 4);
    bits.put(0, 3);
    parse_config(&Bytes::from(bits.finish()))
}

/// Passes over a configuration that does not say its length, without a backward compatible extension.
/// spec: ISO/IEC 14496-3 §1.6.2.1, §4.4.1
pub(crate) fn skip_config(bits: &mut BitReader<'_>) -> Result<(), Error> {
    let mut core = object_type(bits)?;
    sample_rate(bits)?;
    if bits.bits(4)? == 0 {
        return Err(Error::Unsupported("AAC channel configuration"));
    }
    if matches!(core, 5 | 29) {
        sample_rate(bits)?;
        core = object_type(bits)?;
    }
    if !(1..=4).contains(&core) {
        return Err(Error::Unsupported("audio object type other than AAC"));
    }
    bits.skip(1)?; // frameLengthFlag
    if bits.bit()? {
        bits.skip(14)?; // coreCoderDelay
    }
    if bits.bit()? {
        bits.skip(1)?; // extensionFlag3
    }
    Ok(())
}

/// Profile, index of the sampling rate and channel configuration of the core, as an ADTS header says them; `None` for
/// what it cannot say. spec: ISO/IEC 13818-7 §6.2.1
pub(crate) fn adts_fields(record: &[u8]) -> Option<[u32; 3]> {
    let mut bits = BitReader::new(record, "AudioSpecificConfig");
    let mut core = object_type(&mut bits).ok()?;
    let rate = bits.bits(4).ok().filter(|index| *index < 13)?;
    let channels = bits.bits(4).ok().filter(|channels| (1..=7).contains(channels))?;
    if matches!(core, 5 | 29) {
        sample_rate(&mut bits).ok()?;
        core = object_type(&mut bits).ok()?;
    }
    (1..=4).contains(&core).then(|| [core - 1, rate, channels])
}

/// Syntactic elements. spec: ISO/IEC 14496-3 table 4.85
const SCE: u32 = 0;
const CPE: u32 = 1;
const LFE: u32 = 3;

/// One raw frame of silence for the configuration; the core's channels count, not what parametric stereo makes of them.
/// spec: ISO/IEC 14496-3 §4.4.2: elements with `max_sfb` 0 carry no spectrum
pub fn silent_frame(config: &AudioConfig) -> Option<Bytes> {
    let mut bits = BitReader::new(&config.record, "AudioSpecificConfig");
    object_type(&mut bits).and_then(|_| sample_rate(&mut bits)).ok()?;
    let channels = *CHANNELS.get(usize::try_from(bits.bits(4).ok()?).ok()?)?;
    let elements: &[u32] = match channels {
        1 => &[SCE],
        2 => &[CPE],
        3 => &[SCE, CPE],
        4 => &[SCE, CPE, SCE],
        5 => &[SCE, CPE, CPE],
        6 => &[SCE, CPE, CPE, LFE],
        8 => &[SCE, CPE, CPE, CPE, LFE],
        _ => return None,
    };
    let mut bits = BitWriter::default();
    let mut tags = [0; 4];
    for element in elements {
        bits.put(*element, 3);
        if let Some(tag) = usize::try_from(*element).ok().and_then(|index| tags.get_mut(index)) {
            bits.put(*tag, 4);
            *tag += 1;
        }
        if *element == CPE {
            bits.put(1, 1); // common_window
            put_ics_info(&mut bits);
            bits.put(0, 2); // ms_mask_present
            put_channel(&mut bits, false);
            put_channel(&mut bits, false);
        } else {
            put_channel(&mut bits, true);
        }
    }
    bits.put(7, 3); // END
    Some(bits.finish().into())
}

fn put_ics_info(bits: &mut BitWriter) {
    bits.put(0, 1 + 2 + 1); // reserved, long window, sine shape
    bits.put(0, 6 + 1); // max_sfb, no prediction
}

fn put_channel(bits: &mut BitWriter, own_window: bool) {
    bits.put(100, 8); // global_gain: any, as there is no spectrum
    if own_window {
        put_ics_info(bits);
    }
    bits.put(0, 3); // no pulse, TNS or gain control data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_encoders_send() {
        let config = |bytes: &'static [u8]| parse_config(&Bytes::from_static(bytes)).expect("valid");

        let obs = config(&[0x11, 0x90]);
        assert_eq!((obs.timescale.hz(), obs.channels, obs.codec_string.as_str()), (48_000, 2, "mp4a.40.2"));
        let ffmpeg = config(&[0x12, 0x08, 0x56, 0xe5, 0x00]);
        assert_eq!((ffmpeg.timescale.hz(), ffmpeg.channels, ffmpeg.samples_per_unit), (44_100, 1, 1024));
        let he = config(&[0x2b, 0x11, 0x88, 0x00]);
        assert_eq!((he.timescale.hz(), he.codec_string.as_str()), (24_000, "mp4a.40.5"));
    }

    #[test]
    fn a_note_that_there_is_no_sbr_changes_nothing() {
        let parse = |record: &'static [u8]| parse_config(&Bytes::from_static(record)).expect("valid");
        let plain = parse(&[0x11, 0x90]);
        assert_eq!(parse(&[0x11, 0x90, 0x56, 0xe5, 0x00]), plain, "as ffmpeg writes it");
        assert_ne!(parse(&[0x11, 0x90, 0x56, 0xe5, 0x98]), plain, "there is SBR");
    }

    #[test]
    fn own_configuration_reads_back() {
        let config = lc_config(44_100, 2).expect("in the tables");
        assert_eq!((config.timescale.hz(), config.channels), (44_100, 2));
        assert!(lc_config(44_101, 2).is_err() && lc_config(48_000, 7).is_err());
    }

    #[test]
    fn truncation_is_an_error() {
        assert!(parse_config(&Bytes::from_static(&[0x11])).is_err());
        assert!(parse_config(&Bytes::new()).is_err());
    }
}
