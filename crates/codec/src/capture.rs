//! When pictures were captured, as encoders that carry time say it in their messages (SEI).
//!
//! | What | Specification |
//! | --- | --- |
//! | picture timing with clock timestamps | H.264 §D.1.3, §D.2.3 |
//! | time code | H.265 §D.2.27, §D.3.27 |
//! | precision time stamps in unregistered user data | MISB ST 0604 |

use bytes::Bytes;
use h264_reader::nal::sps::SeqParameterSet;
use h264_reader::rbsp::decode_nal;
use media::{Payload, Timescale, VideoCodec, VideoConfig};

use crate::bits::BitReader;
use crate::video::nals;
use crate::{Error, h264, h265, nal};

/// Kinds of message. spec: H.264 §D.1.1, H.265 §D.2.1
const PICTURE_TIMING: usize = 1;
const UNREGISTERED: usize = 5;
const TIME_CODE: usize = 136;
/// Names of precision time stamps. spec: MISB ST 0604
const MICROSECONDS: [&[u8; 16]; 2] =
    [b"MISPmicrosectime", b"\xa8\x68\x7d\xd4\xd7\x59\x37\x58\xa5\xce\xf0\x33\x8b\x65\x45\xf1"];
const NANOSECONDS: &[u8; 16] = b"\xcf\x84\x82\x78\xee\x23\x30\x6c\x92\x65\xe8\xfe\xf2\x2f\xb8\xb8";
/// Zones of time differ by whole quarters of an hour.
const ZONE_NANOS: i64 = 900_000_000_000;
/// Latest and earliest that a picture comes after it was captured, for its clock to be believed: one that counts from the encoder's start
/// says nothing.
const LATE_NANOS_MAX: i64 = 10_000_000_000;
const EARLY_NANOS_MAX: i64 = 5_000_000_000;

/// When a picture was captured, by the encoder's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// Nanoseconds since 1970, UTC.
    Utc(i64),
    /// Nanoseconds since midnight, of whatever day and zone the encoder has.
    TimeOfDay(i64),
}

impl Capture {
    /// Nanoseconds since 1970 of a picture that comes at `now`, where that is believable: captured 10 s before or less, by a clock that is at
    /// most 5 s ahead. A time of day may be of any zone.
    pub fn utc_nanos(self, now: i64) -> Option<i64> {
        let delay = match self {
            Self::Utc(nanos) => now.saturating_sub(nanos),
            Self::TimeOfDay(nanos) => {
                (now.saturating_sub(nanos).saturating_add(EARLY_NANOS_MAX)).rem_euclid(ZONE_NANOS) - EARLY_NANOS_MAX
            }
        };
        (-EARLY_NANOS_MAX..=LATE_NANOS_MAX).contains(&delay).then_some(now - delay)
    }
}

/// Reads the times of one video track.
#[derive(Clone, Copy, Debug)]
pub struct CaptureReader {
    codec: VideoCodec,
    /// H.264: what stands in picture timing before the clock: bits of two delays; none, if there is no clock in it.
    delay_bits: Option<u32>,
    time_offset_bits: u32,
    /// Nanoseconds.
    frame: Option<i64>,
}

impl CaptureReader {
    /// For a track with this configuration.
    pub fn new(config: &VideoConfig) -> Self {
        let frame = config.frame_rate.map(|rate| Timescale::VIDEO.nanos(rate.frame_duration(Timescale::VIDEO)));
        let mut reader = Self { codec: config.codec, delay_bits: None, time_offset_bits: 0, frame };
        if config.codec == VideoCodec::Avc
            && let Some(sps) = first_sps(&config.record)
            && let Some(vui) = sps.vui_parameters.filter(|vui| vui.pic_struct_present_flag)
        {
            let hrd = vui.nal_hrd_parameters.or(vui.vcl_hrd_parameters);
            let delays = |cpb: u8, dpb: u8| u32::from(cpb) + u32::from(dpb) + 2;
            reader.delay_bits = Some(
                hrd.as_ref()
                    .map_or(0, |hrd| delays(hrd.cpb_removal_delay_length_minus1, hrd.dpb_output_delay_length_minus1)),
            );
            reader.time_offset_bits = hrd.map_or(24, |hrd| u32::from(hrd.time_offset_length));
        }
        reader
    }

    /// When the picture in a canonical unit was captured; none where nothing tells. A time stamp with a date goes first.
    pub fn read(&self, payload: &Payload) -> Option<Capture> {
        if !matches!(self.codec, VideoCodec::Avc | VideoCodec::Hevc) {
            return None;
        }
        let is_message = |unit: &[u8]| match self.codec {
            VideoCodec::Avc => h264::nal_kind(unit) == h264::NalKind::Sei,
            _ => unit.first().is_some_and(|header| header >> 1 & 0x3f == 39), // before the picture
        };
        let is_before = |unit: &&[u8]| match self.codec {
            VideoCodec::Avc => !matches!(h264::nal_kind(unit), h264::NalKind::Idr | h264::NalKind::OtherSlice),
            _ => !matches!(h265::nal_kind(unit), h265::NalKind::Irap | h265::NalKind::OtherSlice),
        };
        let mut found = None;
        for unit in nals(self.codec, payload).take_while(is_before).filter(|unit| is_message(unit)) {
            let bytes = nal::rbsp(unit);
            let header = if self.codec == VideoCodec::Avc { 1 } else { 2 };
            let mut rest = bytes.get(header..).unwrap_or_default();
            while let Some((kind, body, after)) = message(rest) {
                rest = after;
                let read = match kind {
                    UNREGISTERED => precision_time(body),
                    PICTURE_TIMING if self.codec == VideoCodec::Avc => self.picture_timing(body).ok().flatten(),
                    TIME_CODE if self.codec == VideoCodec::Hevc => self.time_code(body).ok().flatten(),
                    _ => None,
                };
                match read {
                    Some(Capture::Utc(_)) => return read,
                    read => found = found.or(read),
                }
            }
        }
        found
    }

    /// spec: H.264 §D.1.3
    fn picture_timing(&self, body: &[u8]) -> Result<Option<Capture>, Error> {
        let Some(delays) = self.delay_bits else { return Ok(None) };
        let mut bits = BitReader::new(body, "picture timing");
        bits.skip(delays)?;
        let clocks = match bits.bits(4)? {
            0..=2 => 1,
            3 | 4 | 7 => 2,
            5 | 6 | 8 => 3,
            _ => 0,
        };
        for _ in 0..clocks {
            if bits.bit()? {
                bits.skip(2)?; // ct_type
                let clock = self.clock(&mut bits, 8)?;
                bits.skip(self.time_offset_bits)?;
                return Ok(clock);
            }
        }
        Ok(None)
    }

    /// spec: H.265 §D.2.27
    fn time_code(&self, body: &[u8]) -> Result<Option<Capture>, Error> {
        let mut bits = BitReader::new(body, "time code");
        for _ in 0..bits.bits(2)? {
            if bits.bit()? {
                return self.clock(&mut bits, 9);
            }
        }
        Ok(None)
    }

    /// A clock timestamp from `nuit_field_based_flag` on; none where hours, minutes or the length of a frame are not known.
    fn clock(&self, bits: &mut BitReader<'_>, frame_bits: u32) -> Result<Option<Capture>, Error> {
        bits.skip(6)?; // of fields, counting_type
        let is_full = bits.bit()?;
        bits.skip(2)?;
        let frames = bits.bits(frame_bits)?;
        let (seconds, minutes, hours) = if is_full {
            (bits.bits(6)?, bits.bits(6)?, bits.bits(5)?)
        } else {
            let mut next = |count| if bits.bit()? { bits.bits(count).map(Some) } else { Ok(None) };
            let Some(seconds) = next(6)? else { return Ok(None) };
            let Some(minutes) = next(6)? else { return Ok(None) };
            let Some(hours) = next(5)? else { return Ok(None) };
            (seconds, minutes, hours)
        };
        if seconds > 59 || minutes > 59 || hours > 23 {
            return Err(Error::Invalid("time code"));
        }
        let whole = i64::from(hours * 3600 + minutes * 60 + seconds) * 1_000_000_000;
        Ok(self.frame.map(|frame| Capture::TimeOfDay(whole + i64::from(frames) * frame)))
    }
}

fn first_sps(record: &Bytes) -> Option<SeqParameterSet> {
    let (_, sets) = h264::parse_record(record).ok()?;
    let rbsp = decode_nal(sets.sps.first()?).ok()?;
    SeqParameterSet::from_bits(h264_reader::rbsp::BitReader::new(rbsp.as_ref())).ok()
}

/// Kind and body of the first message, and what comes after it. spec: H.264 §7.3.2.3.1
fn message(bytes: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    if bytes.len() <= 2 {
        return None; // trailing bits
    }
    let (kind, rest) = h264::sei_number(bytes)?;
    let (size, rest) = h264::sei_number(rest)?;
    let (body, after) = rest.split_at_checked(size)?;
    Some((kind, body, after))
}

/// Name, status, and eight bytes of time with one of 0xff after every two. spec: MISB ST 0604
fn precision_time(body: &[u8]) -> Option<Capture> {
    let (name, rest) = body.split_first_chunk::<16>()?;
    let (fields, _) = rest.get(1..)?.split_first_chunk::<11>()?;
    let is_mark = |place: &usize| matches!(place, 2 | 5 | 8);
    let (marks, time): (Vec<_>, Vec<_>) = fields.iter().enumerate().partition(|(place, _)| is_mark(place));
    if marks.iter().any(|(_, mark)| **mark != 0xff) {
        return None;
    }
    let time = time.iter().fold(0u64, |time, (_, byte)| time << 8 | u64::from(**byte));
    let time = i64::try_from(time).ok()?;
    let nanos = if MICROSECONDS.contains(&name) {
        time.checked_mul(1000)?
    } else if name == NANOSECONDS {
        time
    } else {
        return None;
    };
    (nanos > 0).then_some(Capture::Utc(nanos))
}

#[cfg(test)]
mod tests {
    use media::FrameRate;

    use super::*;

    /// 2026-11-29T11:12:13.5Z
    const NOON: i64 = 1_795_950_733_500_000_000;

    fn config(codec: VideoCodec, record: &'static [u8]) -> VideoConfig {
        VideoConfig {
            codec,
            record: Bytes::from_static(record),
            width: 640,
            height: 360,
            frame_rate: FrameRate::new(25, 1),
            codec_string: String::new(),
            reorder_frames: None,
            colour: None,
        }
    }

    fn unit(nals: &[&[u8]]) -> Payload {
        let prefixed = |nal: &&[u8]| [&u32::try_from(nal.len()).expect("short").to_be_bytes()[..], nal].concat();
        Bytes::from(nals.iter().flat_map(prefixed).collect::<Vec<_>>()).into()
    }

    fn stamp(name: &[u8; 16], time: i64) -> Vec<u8> {
        let time = time.to_be_bytes();
        let mut body = name.to_vec();
        body.push(0x1f);
        for (index, two) in time.chunks(2).enumerate() {
            body.extend(if index > 0 { &[0xff][..] } else { &[] });
            body.extend(two);
        }
        body
    }

    #[test]
    fn precision_time_stamps_have_a_date() {
        let avc = CaptureReader::new(&config(VideoCodec::Avc, &[]));
        let hevc = CaptureReader::new(&config(VideoCodec::Hevc, &[]));
        for (reader, header, slice, name, time) in [
            (avc, &[6][..], &[0x65, 1][..], MICROSECONDS[0], NOON / 1000),
            (hevc, &[39 << 1, 1], &[19 << 1, 1], MICROSECONDS[1], NOON / 1000),
            (hevc, &[39 << 1, 1], &[19 << 1, 1], NANOSECONDS, NOON),
        ] {
            let body = stamp(name, time);
            let sei = [header, &[5, 28], &body, &[0x80]].concat();
            assert_eq!(reader.read(&unit(&[&sei, slice])), Some(Capture::Utc(NOON)));
            assert_eq!(reader.read(&unit(&[slice, &sei])), None, "it belongs to the next picture");
            for end in 0..sei.len() - 1 {
                assert_eq!(reader.read(&unit(&[&sei[..end], slice])), None, "{end}");
            }
        }
    }

    #[test]
    fn picture_timing_of_h264_is_a_time_of_day() {
        // GStreamer: delays of ten and five bits, no time offset; 11:16:10 and one picture of 30 a second.
        let record: &[u8] = &[
            0x01, 0xf4, 0x00, 0x0d, 0xff, 0xe1, 0x00, 0x27, 0x67, 0xf4, 0x00, 0x0d, 0x90, 0xd9, 0x68, 0x14, 0x19, 0xf8,
            0xdc, 0x05, 0xa8, 0x30, 0x30, 0x32, 0x00, 0x00, 0x03, 0x00, 0x02, 0x00, 0x00, 0x03, 0x00, 0x79, 0xe0, 0x40,
            0xfa, 0x00, 0x02, 0x57, 0x9d, 0x14, 0x90, 0x07, 0xc5, 0x0a, 0xa8, 0x01, 0x00, 0x04, 0x68, 0xce, 0x31, 0x92,
        ];
        let timing: &[u8] = &[0x06, 0x01, 0x07, 0x00, 0x00, 0x12, 0x08, 0x02, 0x52, 0x0b, 0x80];
        let mut config = config(VideoCodec::Avc, record);
        config.frame_rate = FrameRate::new(30, 1);
        let expected = Capture::TimeOfDay((11 * 3600 + 16 * 60 + 10) * 1_000_000_000 + 33_333_333);
        let reader = CaptureReader::new(&config);
        assert_eq!(reader.read(&unit(&[timing, &[0x65, 1]])), Some(expected));
        for end in 0..timing.len() - 1 {
            assert_eq!(reader.read(&unit(&[&timing[..end], &[0x65, 1]])), None, "{end}");
        }
        // A time stamp with a date goes first.
        let stamp = [&[6, 5, 28][..], &stamp(MICROSECONDS[0], NOON / 1000), &[0x80]].concat();
        assert_eq!(reader.read(&unit(&[timing, &stamp, &[0x65, 1]])), Some(Capture::Utc(NOON)));
        // Without its parameter sets it cannot be read.
        config.record = Bytes::new();
        assert_eq!(CaptureReader::new(&config).read(&unit(&[timing, &[0x65, 1]])), None);
    }

    #[test]
    fn a_time_code_of_h265_is_a_time_of_day() {
        let reader = CaptureReader::new(&config(VideoCodec::Hevc, &[]));
        // One clock, of fields, counting 0, full, frame 12, 11:12:13.
        let bits = "01 1 1 00000 1 0 0 000001100 001101 001100 01011 00000";
        let mut bits: Vec<u8> = bits.bytes().filter(|bit| *bit != b' ').map(|bit| bit - b'0').collect();
        bits.push(1);
        bits.resize(bits.len().next_multiple_of(8), 0);
        let body: Vec<u8> = bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | bit)).collect();
        let size = u8::try_from(body.len()).expect("short");
        let sei = [&[39 << 1, 1, 136, size][..], &body, &[0x80]].concat();
        let found = reader.read(&unit(&[&sei, &[19 << 1, 1]])).expect("a time");
        assert_eq!(found, Capture::TimeOfDay((11 * 3600 + 12 * 60 + 13) * 1_000_000_000 + 480_000_000));
        assert_eq!(found.utc_nanos(NOON), Some(NOON - 20_000_000));
    }

    #[test]
    fn a_time_of_day_is_of_any_zone_and_near_the_arrival_or_not_believed() {
        const SECOND: i64 = 1_000_000_000;
        let day = NOON.rem_euclid(86_400 * SECOND);
        for zone in [0, 3600, -5 * 3600, 20_700, 12 * 3600, -12 * 3600] {
            let captured = |delay: i64| Capture::TimeOfDay((day - delay + zone * SECOND).rem_euclid(86_400 * SECOND));
            assert_eq!(captured(2 * SECOND).utc_nanos(NOON), Some(NOON - 2 * SECOND), "{zone}");
            assert_eq!(captured(-SECOND).utc_nanos(NOON), Some(NOON + SECOND), "{zone}");
            assert_eq!(captured(200 * SECOND).utc_nanos(NOON), None, "{zone}");
        }
        assert_eq!(Capture::Utc(NOON - SECOND).utc_nanos(NOON), Some(NOON - SECOND));
        assert_eq!(Capture::Utc(NOON - 3600 * SECOND).utc_nanos(NOON), None);
    }
}
