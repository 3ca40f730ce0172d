//! What a segment or part holds, cut small enough to be handed on in real time: units of fragmented MP4, packets of transport streams.

use bytes::Bytes;
use container::fmp4::read::{Record, Run, Track, read_fragments, read_init};
use container::mpegts::PACKET_BYTES;
use media::{AudioCodec, Timescale};

/// Transport streams are handed on in pieces of about so much.
const PIECE_NANOS: i64 = 20_000_000;
const SYNC_BYTE: u8 = 0x47;

/// Something that a leg takes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// What initializes a decoder.
    Record(Record),
    /// A picture; times are those of the server.
    Video { time_nanos: i64, offset_nanos: i64, is_key: bool, data: Bytes },
    /// Sound.
    Audio { codec: AudioCodec, time_nanos: i64, data: Bytes },
    /// Packets of a transport stream.
    Packets(Bytes),
}

impl Piece {
    /// Bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Record(_) => 0,
            Self::Video { data, .. } | Self::Audio { data, .. } | Self::Packets(data) => data.len(),
        }
    }
}

/// A piece, and how long after the beginning of its segment or part it is due, in nanoseconds.
pub(super) type Timed = (i64, Piece);

/// Reads what one playlist lists.
#[derive(Debug, Default)]
pub(super) struct Reader {
    tracks: Vec<Track>,
    /// The records were not handed on yet.
    is_new: bool,
    /// Ticks by which pictures are decoded earlier than is written, so that none is shown before: composition offsets may be negative.
    early: i64,
}

impl Reader {
    /// Takes an initialization segment.
    ///
    /// # Errors
    /// In words: it cannot be read, or holds nothing that is carried.
    pub(super) fn init(&mut self, file: &[u8]) -> Result<(), String> {
        let tracks = read_init(file).map_err(|error| format!("the initialization segment cannot be read: {error}"))?;
        if tracks.iter().all(|track| track.record.is_none()) {
            let names: Vec<String> = tracks.iter().map(|track| track.entry.escape_ascii().to_string()).collect();
            return Err(format!(
                "nothing of it can be carried ({}): choose a variant with H.264, H.265, AV1 or VP9, and AAC or Opus, in the clear",
                names.join(", ")
            ));
        }
        (self.tracks, self.is_new, self.early) = (tracks, true, 0);
        Ok(())
    }

    pub(super) fn has_video(&self) -> bool {
        self.tracks.iter().any(is_video)
    }

    pub(super) fn has_audio(&self) -> bool {
        self.tracks.iter().any(is_audio)
    }

    /// Cuts a segment or part of so many nanoseconds. `takes_sound`: it has not a playlist of its own.
    ///
    /// # Errors
    /// In words: it cannot be read.
    pub(super) fn media(&mut self, file: &Bytes, duration: i64, takes_sound: bool) -> Result<Vec<Timed>, String> {
        if self.tracks.is_empty() {
            return packets(file, duration);
        }
        let runs = read_fragments(&self.tracks, file).map_err(|error| format!("a segment cannot be read: {error}"))?;
        let video = self.tracks.iter().find(|track| is_video(track));
        let audio = self.tracks.iter().find(|track| is_audio(track)).filter(|_| takes_sound || video.is_none());
        let of_video = runs.iter().filter(|run| video.is_some_and(|track| track.id == run.track));
        let lowest = of_video.flat_map(|run| &run.samples).map(|sample| i64::from(sample.composition_offset)).min();
        self.early = self.early.max(-lowest.unwrap_or(0));
        let mut pieces = Vec::new();
        for track in video.into_iter().chain(audio) {
            let early = if is_video(track) { self.early } else { 0 };
            pieces
                .extend(runs.iter().filter(|run| run.track == track.id).flat_map(|run| units(track, run, file, early)));
        }
        let first = pieces.iter().map(|(time, _)| *time).min().unwrap_or(0);
        for (time, _) in &mut pieces {
            *time = time.saturating_sub(first).clamp(0, duration.max(0));
        }
        pieces.sort_by_key(|(after, _)| *after);
        if std::mem::take(&mut self.is_new) {
            let records = video.into_iter().chain(audio).filter_map(|track| track.record.clone());
            pieces.splice(0..0, records.map(|record| (0, Piece::Record(record))));
        }
        Ok(pieces)
    }
}

fn is_video(track: &Track) -> bool {
    matches!(track.record, Some(Record::Video(..)))
}

fn is_audio(track: &Track) -> bool {
    matches!(track.record, Some(Record::Audio(..)))
}

/// The samples of a run, with their decode times; what lies beyond the file is not there.
fn units(track: &Track, run: &Run, file: &Bytes, early: i64) -> Vec<Timed> {
    let Some(scale) = Timescale::new(track.timescale) else { return Vec::new() };
    let mut ticks =
        i64::try_from(run.decode_time).unwrap_or(i64::MAX).saturating_sub(track.edit_ticks).saturating_sub(early);
    let mut units = Vec::with_capacity(run.samples.len());
    for (sample, place) in run.samples.iter().zip(&run.places) {
        let time_nanos = scale.nanos(ticks);
        ticks = ticks.saturating_add(i64::from(sample.duration));
        let offset_nanos = scale.nanos(i64::from(sample.composition_offset) + early);
        let end = place.saturating_add(u64::from(sample.size));
        let (Ok(place), Ok(end)) = (usize::try_from(*place), usize::try_from(end)) else { continue };
        if end > file.len() || place >= end {
            continue;
        }
        let data = file.slice(place..end);
        let piece = match &track.record {
            Some(Record::Video(..)) => Piece::Video { time_nanos, offset_nanos, is_key: sample.is_sync, data },
            Some(Record::Audio(codec, _)) => {
                Piece::Audio { codec: *codec, time_nanos: time_nanos.saturating_add(offset_nanos), data }
            }
            None => continue,
        };
        units.push((time_nanos, piece));
    }
    units
}

/// A segment of a transport stream: its packets, spread over its duration.
fn packets(file: &Bytes, duration: i64) -> Result<Vec<Timed>, String> {
    if file.first() != Some(&SYNC_BYTE) {
        return Err(
            "segments are neither fragmented MP4 nor MPEG-TS, or they are encrypted: that is not carried".into()
        );
    }
    let packets = file.len().div_ceil(PACKET_BYTES);
    let pieces = usize::try_from(duration / PIECE_NANOS).unwrap_or(0).clamp(1, packets.max(1));
    let bytes = packets.div_ceil(pieces) * PACKET_BYTES;
    let count = i64::try_from(file.len().div_ceil(bytes)).unwrap_or(i64::MAX);
    let piece = |index: usize| file.slice(index * bytes..file.len().min((index + 1) * bytes));
    let after = |index: usize| i64::try_from(index).unwrap_or(0).saturating_mul(duration.max(0) / count);
    Ok((0..file.len().div_ceil(bytes)).map(|index| (after(index), Piece::Packets(piece(index)))).collect())
}

#[cfg(test)]
mod tests {
    use container::fmp4::{Sample, fragment_header, init_segment};
    use media::CodecConfig;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_segment_of_a_transport_stream_is_spread_over_its_duration() {
        let file = Bytes::from(vec![SYNC_BYTE; 188 * 1000]);
        let pieces = Reader::default().media(&file, 2 * SECOND, true).expect("packets");
        assert!((90..=100).contains(&pieces.len()), "{}", pieces.len());
        assert!(pieces.windows(2).all(|two| (15_000_000..=25_000_000).contains(&(two[1].0 - two[0].0))));
        assert!(pieces.iter().all(|(_, piece)| piece.len() % 188 == 0));
        assert_eq!(pieces.iter().map(|(_, piece)| piece.len()).sum::<usize>(), file.len());
        let one = Reader::default().media(&Bytes::from(vec![SYNC_BYTE; 100]), 0, true).expect("packets");
        assert_eq!(one.len(), 1, "cut short, and without a duration");
        assert!(Reader::default().media(&Bytes::from_static(b"ID3"), 0, true).is_err());
    }

    #[test]
    fn units_come_with_their_times_and_the_record_once() {
        let config = CodecConfig::Audio(codec::aac::lc_config(48_000, 2).expect("in the tables"));
        let mut reader = Reader::default();
        assert!(reader.init(b"what").is_err());
        reader.init(&init_segment(&config)).expect("valid");
        let sample = Sample { duration: 1024, size: 3, composition_offset: 0, is_sync: true };
        let part = |time| Bytes::from([&fragment_header(&config, 1, time, &[sample; 2])[..], b"onetwo"].concat());
        let pieces = reader.media(&part(48_000), SECOND, true).expect("valid");
        assert!(matches!(pieces[0], (0, Piece::Record(Record::Audio(AudioCodec::Aac, _)))));
        let unit =
            |time_nanos, data| Piece::Audio { codec: AudioCodec::Aac, time_nanos, data: Bytes::from_static(data) };
        assert_eq!(pieces[1], (0, unit(SECOND, b"one")));
        assert_eq!(pieces[2], (21_333_333, unit(SECOND + 21_333_333, b"two")));
        let pieces = reader.media(&part(50_048), SECOND, true).expect("valid");
        assert_eq!(pieces.len(), 2, "the record is known");
        let cut = part(50_048);
        assert!(reader.media(&cut.slice(..cut.len() - 1), SECOND, true).is_err(), "cut short");
    }

    #[test]
    fn pictures_with_negative_offsets_are_decoded_earlier_and_shown_when_they_were() {
        let record: &[u8] = &[
            1, 0x64, 0, 0x1e, 0xff, 0xe1, 0, 0x19, 0x67, 0x64, 0, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x2f, 0xf9, 0x61, 0, 0,
            3, 0, 1, 0, 0, 3, 0, 0x3c, 0x0f, 0x16, 0x2d, 0x96, 1, 0, 6, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0, 0xfd, 0xf8,
            0xf8, 0,
        ];
        let stream = codec::VideoStream::new(media::VideoCodec::Avc, &Bytes::from_static(record)).expect("valid");
        let config = CodecConfig::Video(stream.config().expect("known").clone());
        let mut reader = Reader::default();
        reader.init(&init_segment(&config)).expect("valid");
        let frame = 12_000; // of 360,000 in a second
        let sample = |composition_offset| Sample {
            duration: 12_000,
            size: 1,
            composition_offset,
            is_sync: composition_offset == 0,
        };
        let samples = [sample(0), sample(2 * frame), sample(-frame), sample(-frame)];
        let file = [&fragment_header(&config, 1, 360_000, &samples)[..], b"abcd"].concat();
        let pieces = reader.media(&file.into(), SECOND, true).expect("valid");
        let times = pieces.iter().filter_map(|(_, piece)| match piece {
            Piece::Video { time_nanos, offset_nanos, .. } => {
                Some((*time_nanos, *offset_nanos, time_nanos + offset_nanos))
            }
            _ => None,
        });
        let millis = |nanos: i64| (nanos + 500_000) / 1_000_000;
        let times: Vec<_> =
            times.map(|(decoded, offset, shown)| (millis(decoded), millis(offset), millis(shown))).collect();
        assert_eq!(times, [(967, 33, 1000), (1000, 100, 1100), (1033, 0, 1033), (1067, 0, 1067)]);
    }
}
