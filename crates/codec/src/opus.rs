//! Opus: `OpusHead` and `dOps`, the length of a packet, silence, packets in MPEG transport streams.

use bytes::{BufMut, Bytes, BytesMut};
use media::{AudioCodec, AudioConfig, Timescale};

use crate::Error;

/// Reads an identification header (`OpusHead`). spec: RFC 7845 §5.1
///
/// # Errors
/// Anything that is no `OpusHead` of version 0.x, or that has no channels.
pub fn parse_head(head: &[u8]) -> Result<AudioConfig, Error> {
    let Some(fields) = head.strip_prefix(b"OpusHead") else { return Err(Error::Invalid("OpusHead")) };
    let &[version, channels, skip_low, skip_high, r0, r1, r2, r3, gain_low, gain_high, family, ref mapping @ ..] =
        fields
    else {
        return Err(Error::Truncated("OpusHead"));
    };
    if version > 15 || channels == 0 {
        return Err(Error::Invalid("OpusHead"));
    }
    // spec: Opus in ISOBMFF §4.3.2: the same fields, big endian, version 0
    let mut record = BytesMut::new();
    record.put_slice(&[0, channels, skip_high, skip_low, r3, r2, r1, r0, gain_high, gain_low, family]);
    if family != 0 {
        let table = mapping.get(..2 + usize::from(channels)).ok_or(Error::Truncated("OpusHead"))?;
        record.put_slice(table);
    } else if channels > 2 {
        return Err(Error::Invalid("OpusHead channels"));
    }
    Ok(config(record.freeze(), channels))
}

/// The configuration of an encoder that sends none: stereo, family 0.
pub fn default_config() -> AudioConfig {
    config(Bytes::from_static(&[0, 2, 1, 0x38, 0, 0, 0xbb, 0x80, 0, 0, 0]), 2)
}

fn config(record: Bytes, channels: u8) -> AudioConfig {
    AudioConfig {
        codec: AudioCodec::Opus,
        record,
        timescale: Timescale::new(48_000).expect("not zero"), // spec: RFC 7845 §4: always counted at 48 kHz
        channels,
        samples_per_unit: 960,
        codec_string: "opus".into(),
    }
}

/// Samples at 48 kHz in a packet. spec: RFC 6716 §3.1 and §3.2
///
/// # Errors
/// An empty packet, or one longer than 120 ms.
pub fn packet_samples(packet: &[u8]) -> Result<u32, Error> {
    let toc = *packet.first().ok_or(Error::Truncated("Opus packet"))?;
    let frame = match toc >> 3 {
        config @ 0..=11 => [480, 960, 1920, 2880].into_iter().nth(usize::from(config % 4)).unwrap_or(960),
        config @ 12..=15 => 480 << (config % 2),
        config => 120u32 << (config % 4),
    };
    let count = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(*packet.get(1).ok_or(Error::Truncated("Opus packet"))? & 0x3f),
    };
    match frame * count {
        samples @ 1..=5760 => Ok(samples),
        _ => Err(Error::Invalid("Opus packet length")),
    }
}

/// A packet of 20 ms of silence: full-band CELT whose frame says "silence". spec: RFC 6716 §4.3
pub fn silent_packet() -> Bytes {
    Bytes::from_static(&[0xfc, 0xff, 0xfe])
}

/// Most Opus packets in one PES packet: 2.5 s of the shortest.
const TS_PACKETS_MAX: usize = 1024;

/// Streams, coupled streams and mapping for 3–8 channels in Vorbis order. spec: RFC 7845 §5.1.1.2
const LAYOUTS: [(u8, u8, &[u8]); 6] = [
    (2, 1, &[0, 2, 1]),
    (2, 2, &[0, 1, 2, 3]),
    (3, 2, &[0, 4, 1, 2, 3]),
    (4, 2, &[0, 4, 1, 2, 3, 5]),
    (4, 3, &[0, 4, 1, 2, 3, 5, 6]),
    (5, 3, &[0, 6, 1, 2, 3, 4, 5, 7]),
];

/// The configuration for a `channel_config_code`: 1–8 channels, 0 (dual mono) as two. The transport stream does not
/// say how many samples to skip; what encoders use is written. spec: Opus in MPEG-TS §4.2
///
/// # Errors
/// Other codes: mappings of their own.
pub fn ts_config(channel_config_code: u8) -> Result<AudioConfig, Error> {
    let channels = if channel_config_code == 0 { 2 } else { channel_config_code };
    let mut record = BytesMut::new();
    record.put_slice(&[0, channels, 1, 0x38, 0, 0, 0xbb, 0x80, 0, 0]);
    match channels {
        1 | 2 => record.put_u8(0),
        _ => {
            let layout = LAYOUTS.get(usize::from(channels) - 3);
            let (streams, coupled, mapping) = layout.ok_or(Error::Unsupported("Opus channel configuration"))?;
            record.put_slice(&[1, *streams, *coupled]);
            record.put_slice(mapping);
        }
    }
    Ok(config(record.freeze(), channels))
}

/// The Opus packets of a PES packet, without their control headers. Trimming is not applied: it matters at the ends of
/// a recording. spec: Opus in MPEG-TS §4.3
///
/// # Errors
/// A header is missing, or says more than there is.
pub fn ts_packets(payload: &Bytes) -> Result<Vec<Bytes>, Error> {
    const WHAT: &str = "Opus control header";
    let mut packets = Vec::new();
    let mut rest = payload.clone();
    while let Some(first) = rest.first().copied() {
        let second = *rest.get(1).ok_or(Error::Truncated(WHAT))?;
        if first != 0x7f || second & 0xe0 != 0xe0 {
            return Err(Error::Invalid(WHAT));
        }
        let full = rest.iter().skip(2).take_while(|byte| **byte == 255).count();
        let last = *rest.get(2 + full).ok_or(Error::Truncated(WHAT))?;
        let size = full * 255 + usize::from(last);
        let trims = usize::from(second & 0x10 != 0) + usize::from(second & 0x08 != 0);
        let mut start = 3 + full + 2 * trims;
        if second & 0x04 != 0 {
            start += 1 + usize::from(*rest.get(start).ok_or(Error::Truncated(WHAT))?);
        }
        if rest.len() < start + size {
            return Err(Error::Truncated("Opus packet"));
        }
        let packet = rest.split_to(start + size).slice(start..);
        if packets.len() == TS_PACKETS_MAX {
            return Err(Error::Unsupported("a PES packet of more than 1,024 Opus packets"));
        }
        if !packet.is_empty() {
            packets.push(packet);
        }
    }
    Ok(packets)
}

/// The control header of a packet of `packet_bytes`, without trimming. spec: Opus in MPEG-TS §4.3
pub fn ts_header(packet_bytes: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(4);
    out.put_slice(&[0x7f, 0xe0]);
    out.put_bytes(255, packet_bytes / 255);
    out.put_u8(u8::try_from(packet_bytes % 255).unwrap_or_default());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_in_a_transport_stream_read_back() {
        let packets = [Bytes::from(vec![1; 254]), Bytes::from(vec![2; 255]), Bytes::from(vec![3; 600])];
        let stream =
            packets.iter().fold(Vec::new(), |stream, packet| [&stream, &ts_header(packet.len())[..], packet].concat());
        let stream = Bytes::from(stream);
        assert_eq!(ts_packets(&stream).expect("valid"), packets);
        let trimmed = Bytes::from_static(b"\x7f\xfc\x02\x00\x01\x00\x02\x03extab");
        assert_eq!(ts_packets(&trimmed).expect("valid"), ["ab"]);
        for end in 1..stream.len() {
            let whole = [257, 257 + 259, stream.len()].contains(&end);
            assert_eq!(ts_packets(&stream.slice(..end)).is_ok(), whole, "{end} bytes");
        }
    }

    #[test]
    fn every_channel_configuration_has_its_mapping() {
        assert_eq!(ts_config(2), Ok(default_config()));
        assert_eq!(ts_config(0), ts_config(2));
        for channels in 3..=8 {
            let config = ts_config(channels).expect("in the table");
            assert_eq!((config.channels, config.record.len()), (channels, 13 + usize::from(channels)));
        }
        assert!(ts_config(9).is_err() && ts_config(0x81).is_err());
    }

    #[test]
    fn packet_lengths_follow_the_table_of_contents_byte() {
        assert_eq!(packet_samples(&silent_packet()), Ok(960));
        assert_eq!(packet_samples(&[0x08]), Ok(960), "SILK 20 ms");
        assert_eq!(packet_samples(&[0xe3, 6]), Ok(720), "six frames of 2.5 ms");
        assert!(packet_samples(&[0xff, 63]).is_err(), "over 120 ms");
        assert!(packet_samples(&[]).is_err());
    }

    #[test]
    fn head_becomes_a_big_endian_box() {
        let head = b"OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00";
        assert_eq!(parse_head(head).expect("valid").record, default_config().record);
        assert!(parse_head(&head[..15]).is_err());
    }
}
