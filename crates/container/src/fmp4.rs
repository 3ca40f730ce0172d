//! Fragmented MP4: initialization segments and the headers of movie fragments; [`read`] reads those of others.

pub mod read;

use bytes::{BufMut, Bytes, BytesMut};
use media::{AudioCodec, AudioConfig, CodecConfig, Colour, VideoCodec, VideoConfig};

/// One sample of a movie fragment: ISO/IEC 14496-12 §8.8.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Ticks until the next sample.
    pub duration: u32,
    /// Bytes.
    pub size: u32,
    /// PTS − decode time as written; may be negative (`trun` version 1).
    pub composition_offset: i32,
    /// A decoder can start here.
    pub is_sync: bool,
}

/// The only track of every file. spec: CMAF §7.3.2.1 wants one track per file
const TRACK_ID: u32 = 1;
const SYNC_SAMPLE: u32 = 0x0200_0000;
const OTHER_SAMPLE: u32 = 0x0101_0000;

/// Writes a box: size, type, and what `body` appends.
fn write_box(out: &mut BytesMut, name: &[u8; 4], body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    out.put_slice(name);
    body(out);
    let size = u32::try_from(out.len() - start).expect("headers stay below 4 GiB");
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&size.to_be_bytes());
    }
}

/// Writes a `FullBox`: version and flags in one number.
fn write_full_box(out: &mut BytesMut, name: &[u8; 4], version_flags: u32, body: impl FnOnce(&mut BytesMut)) {
    write_box(out, name, |out| {
        out.put_u32(version_flags);
        body(out);
    });
}

/// The header of one movie fragment with its media data: `moof` and the head of `mdat`. The payload of the samples
/// follows it in order.
///
/// `sequence_number` is for `mfhd`; `decode_time` is the `tfdt` in ticks of the track.
/// spec: ISO/IEC 14496-12 §8.8.4–8.8.8, §8.8.12
pub fn fragment_header(config: &CodecConfig, sequence_number: u32, decode_time: u64, samples: &[Sample]) -> Bytes {
    let is_video = matches!(config, CodecConfig::Video(_));
    // data offset, duration, size; for video flags and composition offset too
    let (flags, row) = if is_video { (0x0100_0f01, 16) } else { (0x0000_0301, 8) };
    let moof_size = 8 + 16 + 8 + 16 + 20 + 20 + row * samples.len();
    let payload: u64 = samples.iter().map(|sample| u64::from(sample.size)).sum();
    let mut out = BytesMut::with_capacity(moof_size + 8);
    write_box(&mut out, b"moof", |out| {
        write_full_box(out, b"mfhd", 0, |out| out.put_u32(sequence_number));
        write_box(out, b"traf", |out| {
            write_full_box(out, b"tfhd", 0x02_0000, |out| out.put_u32(TRACK_ID)); // default-base-is-moof
            write_full_box(out, b"tfdt", 0x0100_0000, |out| out.put_u64(decode_time));
            write_full_box(out, b"trun", flags, |out| {
                out.put_u32(u32::try_from(samples.len()).expect("parts are short"));
                out.put_u32(u32::try_from(moof_size + 8).expect("parts are short"));
                for sample in samples {
                    out.put_u32(sample.duration);
                    out.put_u32(sample.size);
                    if is_video {
                        out.put_u32(if sample.is_sync { SYNC_SAMPLE } else { OTHER_SAMPLE });
                        out.put_i32(sample.composition_offset);
                    }
                }
            });
        });
    });
    debug_assert_eq!(out.len(), moof_size, "the data offset was computed from this");
    out.put_u32(u32::try_from(payload + 8).expect("a part's payload is bounded far below 4 GiB"));
    out.put_slice(b"mdat");
    out.freeze()
}

/// The initialization segment of a track. The same configuration gives the same bytes.
/// spec: CMAF §7.3.1; ISO/IEC 14496-12 §8.2–8.5
pub fn init_segment(config: &CodecConfig) -> Bytes {
    let mut out = BytesMut::with_capacity(1024);
    write_box(&mut out, b"ftyp", |out| {
        out.put_slice(b"iso6\0\0\0\0iso6cmfccmf2mp41");
    });
    write_box(&mut out, b"moov", |out| {
        write_full_box(out, b"mvhd", 0, |out| {
            out.put_slice(&[0; 8]);
            out.put_u32(1000);
            out.put_u32(0);
            out.put_u32(0x1_0000);
            out.put_u16(0x100);
            out.put_slice(&[0; 10]);
            put_matrix(out);
            out.put_slice(&[0; 24]);
            out.put_u32(TRACK_ID + 1);
        });
        write_box(out, b"trak", |out| write_track(out, config));
        write_box(out, b"mvex", |out| {
            write_full_box(out, b"trex", 0, |out| {
                out.put_u32(TRACK_ID);
                out.put_u32(1);
                out.put_slice(&[0; 8]);
                out.put_u32(if matches!(config, CodecConfig::Audio(_)) { SYNC_SAMPLE } else { OTHER_SAMPLE });
            });
        });
    });
    out.freeze()
}

fn put_matrix(out: &mut BytesMut) {
    for value in [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000] {
        out.put_u32(value);
    }
}

fn write_track(out: &mut BytesMut, config: &CodecConfig) {
    write_full_box(out, b"tkhd", 3, |out| {
        out.put_slice(&[0; 8]);
        out.put_u32(TRACK_ID);
        out.put_slice(&[0; 16]);
        out.put_u32(0);
        out.put_u16(if matches!(config, CodecConfig::Audio(_)) { 0x100 } else { 0 });
        out.put_u16(0);
        put_matrix(out);
        let (width, height) = match config {
            CodecConfig::Video(video) => (video.width, video.height),
            CodecConfig::Audio(_) => (0, 0),
        };
        out.put_u32(width.min(0xffff) << 16);
        out.put_u32(height.min(0xffff) << 16);
    });
    write_box(out, b"mdia", |out| {
        write_full_box(out, b"mdhd", 0, |out| {
            out.put_slice(&[0; 8]);
            out.put_u32(config.timescale().hz());
            out.put_u32(0);
            out.put_u32(0x55c4_0000); // language "und"
        });
        write_full_box(out, b"hdlr", 0, |out| {
            out.put_u32(0);
            out.put_slice(if matches!(config, CodecConfig::Video(_)) { b"vide" } else { b"soun" });
            out.put_slice(&[0; 13]);
        });
        write_box(out, b"minf", |out| {
            match config {
                CodecConfig::Video(_) => write_full_box(out, b"vmhd", 1, |out| out.put_slice(&[0; 8])),
                CodecConfig::Audio(_) => write_full_box(out, b"smhd", 0, |out| out.put_u32(0)),
            }
            write_box(out, b"dinf", |out| {
                write_full_box(out, b"dref", 0, |out| {
                    out.put_u32(1);
                    write_full_box(out, b"url ", 1, |_| {});
                });
            });
            write_box(out, b"stbl", |out| write_sample_table(out, config));
        });
    });
}

fn write_sample_table(out: &mut BytesMut, config: &CodecConfig) {
    write_full_box(out, b"stsd", 0, |out| {
        out.put_u32(1);
        match config {
            CodecConfig::Video(video) => write_video_entry(out, video),
            CodecConfig::Audio(audio) => write_audio_entry(out, audio),
        }
    });
    for name in [b"stts", b"stsc", b"stco"] {
        write_full_box(out, name, 0, |out| out.put_u32(0));
    }
    write_full_box(out, b"stsz", 0, |out| out.put_u64(0));
}

/// spec: ISO/IEC 14496-12 §12.1.3
fn write_video_entry(out: &mut BytesMut, video: &VideoConfig) {
    let (entry, record) = match video.codec {
        VideoCodec::Avc => (b"avc1", b"avcC"),
        VideoCodec::Hevc => (b"hvc1", b"hvcC"),
        VideoCodec::Av1 => (b"av01", b"av1C"),
        VideoCodec::Vp9 => (b"vp09", b"vpcC"),
    };
    let size = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
    write_box(out, entry, |out| {
        out.put_slice(&[0, 0, 0, 0, 0, 0, 0, 1]); // data reference 1
        out.put_slice(&[0; 16]);
        out.put_u16(size(video.width));
        out.put_u16(size(video.height));
        out.put_u32(0x48_0000); // 72 dpi
        out.put_u32(0x48_0000);
        out.put_u32(0);
        out.put_u16(1);
        out.put_slice(&[0; 32]);
        out.put_u16(0x18);
        out.put_u16(0xffff);
        write_box(out, record, |out| out.put_slice(&video.record));
        if let Some(colour) = video.colour {
            write_box(out, b"colr", |out| put_colour(out, colour));
        }
    });
}

/// spec: ISO/IEC 14496-12 §12.1.5
fn put_colour(out: &mut BytesMut, colour: Colour) {
    out.put_slice(b"nclx");
    for code_point in [colour.primaries, colour.transfer, colour.matrix] {
        out.put_u16(u16::from(code_point));
    }
    out.put_u8(u8::from(colour.is_full_range) << 7);
}

/// spec: ISO/IEC 14496-12 §12.2.3
fn write_audio_entry(out: &mut BytesMut, audio: &AudioConfig) {
    let entry = match audio.codec {
        AudioCodec::Aac => b"mp4a",
        AudioCodec::Opus => b"Opus",
    };
    write_box(out, entry, |out| {
        out.put_slice(&[0, 0, 0, 0, 0, 0, 0, 1]);
        out.put_slice(&[0; 8]);
        out.put_u16(u16::from(audio.channels));
        out.put_u16(16);
        out.put_u32(0);
        out.put_u32(u16::try_from(audio.timescale.hz()).map_or(0, |rate| u32::from(rate) << 16));
        match audio.codec {
            AudioCodec::Aac => write_full_box(out, b"esds", 0, |out| put_es_descriptor(out, &audio.record)),
            AudioCodec::Opus => write_box(out, b"dOps", |out| out.put_slice(&audio.record)),
        }
    });
}

/// spec: ISO/IEC 14496-1 §7.2.6.5, 14496-14 §3.1
fn put_es_descriptor(out: &mut BytesMut, audio_specific_config: &[u8]) {
    let specific = u8::try_from(audio_specific_config.len().min(64)).unwrap_or(64);
    out.put_slice(&[3, 3 + 2 + 13 + 2 + specific + 3, 0, 1, 0]); // ES_Descriptor, ES_ID 1
    out.put_slice(&[4, 13 + 2 + specific, 0x40, 0x15]); // DecoderConfig: MPEG-4 audio, audio stream
    out.put_slice(&[0; 11]); // buffer size and bit rates: unknown
    out.put_slice(&[5, specific]);
    out.put_slice(audio_specific_config.get(..usize::from(specific)).unwrap_or_default());
    out.put_slice(&[6, 1, 2]); // SLConfig: MP4
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn aac() -> CodecConfig {
        CodecConfig::Audio(codec::aac::lc_config(48_000, 2).expect("in the tables"))
    }

    /// Names and sizes of the boxes in `bytes`, depth first, containers entered.
    fn boxes(mut bytes: &[u8], depth: usize, out: &mut String) {
        while bytes.len() >= 8 {
            let size = u32::from_be_bytes(bytes[..4].try_into().expect("four")) as usize;
            let name = std::str::from_utf8(&bytes[4..8]).expect("ascii");
            writeln!(out, "{:indent$}{name} {size}", "", indent = depth * 2).expect("to memory");
            if ["moov", "trak", "mdia", "minf", "stbl", "mvex", "moof", "traf", "dinf"].contains(&name) {
                boxes(&bytes[8..size], depth + 1, out);
            }
            bytes = &bytes[size..];
        }
        assert!(bytes.is_empty(), "sizes add up");
    }

    #[test]
    fn init_segment_has_one_track_and_sizes_that_add_up() {
        let mut tree = String::new();
        boxes(&init_segment(&aac()), 0, &mut tree);
        assert_eq!(tree.matches("trak").count(), 1);
        assert!(tree.starts_with("ftyp 32\nmoov "), "{tree}");
    }

    #[test]
    fn fragment_header_points_at_the_payload() {
        let sample = Sample { duration: 1024, size: 10, composition_offset: 0, is_sync: true };
        let header = fragment_header(&aac(), 7, 99, &[sample; 3]);

        let mut tree = String::new();
        boxes(&header[..header.len() - 8], 0, &mut tree);
        assert_eq!(
            tree,
            format!("moof {0}\n  mfhd 16\n  traf {1}\n    tfhd 16\n    tfdt 20\n    trun 44\n", header.len() - 8, 88)
        );
        assert_eq!(header[header.len() - 8..], *b"\0\0\0\x26mdat");
    }
}
