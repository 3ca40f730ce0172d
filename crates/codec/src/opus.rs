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
}
