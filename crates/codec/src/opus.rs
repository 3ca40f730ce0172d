//! Opus: `OpusHead` and `dOps`, the length of a packet, silence.

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

/// Channels, streams and coupled streams, and the order of the channels, of configurations 3 to 8.
/// spec: Opus in MPEG-TS §4.2.1; RFC 7845 §5.1.1.2
const SURROUND: [(u8, u8, u8, &[u8]); 6] = [
    (3, 2, 1, &[0, 2, 1]),
    (4, 2, 2, &[0, 1, 2, 3]),
    (5, 3, 2, &[0, 4, 1, 2, 3]),
    (6, 4, 2, &[0, 4, 1, 2, 3, 5]),
    (7, 4, 3, &[0, 4, 1, 2, 3, 5, 6]),
    (8, 5, 3, &[0, 6, 1, 2, 3, 4, 5, 7]),
];

/// The configuration of a transport stream's `channel_config_code`.
///
/// # Errors
/// A code beyond the eight usual ones.
pub fn ts_config(channel_config: u8) -> Result<AudioConfig, Error> {
    let mut record = BytesMut::from(&[0, channel_config.max(1), 1, 0x38, 0, 0, 0xbb, 0x80, 0, 0][..]);
    match channel_config {
        0 | 2 => return Ok(default_config()),
        1 => record.put_u8(0),
        _ => {
            let (_, streams, coupled, order) =
                SURROUND.iter().find(|row| row.0 == channel_config).ok_or(Error::Unsupported("Opus channels"))?;
            record.put_slice(&[1, *streams, *coupled]);
            record.put_slice(order);
        }
    }
    Ok(config(record.freeze(), channel_config))
}

/// Packets behind their control headers. spec: Opus in MPEG-TS §4.3
///
/// # Errors
/// A header that is none, or a packet that ends too early; what was read before is lost with it.
pub fn ts_packets(bytes: &Bytes) -> Result<Vec<Bytes>, Error> {
    const WHAT: &str = "Opus control header";
    let mut packets = Vec::new();
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        let &[0x7f, flags, ..] = rest.as_ref() else { return Err(Error::Invalid(WHAT)) };
        if flags & 0xe0 != 0xe0 {
            return Err(Error::Invalid(WHAT));
        }
        let (mut at, mut length) = (2, 0usize);
        loop {
            let byte = *rest.get(at).ok_or(Error::Truncated(WHAT))?;
            (at, length) = (at + 1, length + usize::from(byte));
            if byte < 255 {
                break;
            }
        }
        // What is to be trimmed at the start and at the end is left to the decoder's user: live streams trim nothing.
        at += usize::from(flags >> 4 & 1) * 2 + usize::from(flags >> 3 & 1) * 2;
        if flags >> 2 & 1 == 1 {
            at += 1 + usize::from(*rest.get(at).ok_or(Error::Truncated(WHAT))?);
        }
        if rest.len() < at + length {
            return Err(Error::Truncated(WHAT));
        }
        packets.push(rest.slice(at..at + length));
        rest = rest.slice(at + length..);
    }
    Ok(packets)
}

/// The control header of a packet of so many bytes.
pub fn ts_header(packet_bytes: usize) -> Vec<u8> {
    let mut out = vec![0x7f, 0xe0];
    out.resize(2 + packet_bytes / 255, 0xff);
    out.push(u8::try_from(packet_bytes % 255).unwrap_or(0));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn packets_in_transport_streams_read_back() {
        for sizes in [&[1usize, 254, 255, 256, 600][..], &[]] {
            let packets: Vec<Bytes> = sizes.iter().map(|size| vec![7; *size].into()).collect();
            let stream: Vec<u8> =
                packets.iter().flat_map(|packet| [ts_header(packet.len()), packet.to_vec()].concat()).collect();
            assert_eq!(ts_packets(&stream.clone().into()), Ok(packets));
            for end in 1..stream.len().min(300) {
                let _ = ts_packets(&stream[..end].to_vec().into());
            }
        }
        assert!(ts_packets(&Bytes::from_static(b"noise")).is_err());
    }

    #[test]
    fn surround_has_a_mapping_and_codes_beyond_eight_are_refused() {
        for code in 0..=8 {
            let config = ts_config(code).expect("usual");
            assert_eq!(config.channels, if code == 0 { 2 } else { code });
        }
        assert!(ts_config(9).is_err());
    }
}
