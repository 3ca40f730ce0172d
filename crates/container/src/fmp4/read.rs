//! Reads fragmented MP4 of any server: what initializes a decoder, the times of movie fragments, and where their samples lie. Payload is
//! not looked at.

use bytes::{BufMut as _, Bytes, BytesMut};
use media::{AudioCodec, VideoCodec};

use super::{OTHER_SAMPLE, Sample};

/// Most tracks of one file, most fragments of one segment and most samples of one run that are read.
const TRACKS_MAX: usize = 16;
const FRAGMENTS_MAX: usize = 4096;
const SAMPLES_MAX: u32 = 65_536;
/// Most edits of a track that are read.
const EDITS_MAX: u32 = 16;
/// `sample_is_non_sync_sample`. spec: ISO/IEC 14496-12 §8.8.3.1
const NON_SYNC: u32 = 0x1_0000;
/// spec: ISO/IEC 14496-12 §8.8.7.1
const DEFAULT_BASE_IS_MOOF: u32 = 0x2_0000;

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A box ends beyond the box around it.
    #[error("box '{}' ends beyond what holds it", name(.0))]
    Overrun([u8; 4]),
    /// A field ends beyond its box.
    #[error("box '{}' ends inside a field", name(.0))]
    Truncated([u8; 4]),
    /// It must be there.
    #[error("there is no box '{}'", name(.0))]
    Missing([u8; 4]),
    /// More than anybody needs.
    #[error("there are more {0} than are read")]
    TooMany(&'static str),
}

fn name(kind: &[u8; 4]) -> String {
    kind.escape_ascii().to_string()
}

/// A track of an initialization segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// `track_ID`
    pub id: u32,
    /// Ticks per second.
    pub timescale: u32,
    /// Handler: `vide`, `soun` or others.
    pub handler: [u8; 4],
    /// Sample entry: `avc1`, `mp4a` and so on.
    pub entry: [u8; 4],
    /// RFC 6381 string, where the codec's record can be read.
    pub codec_string: Option<String>,
    /// What initializes a decoder, where the codec is one of ours.
    pub record: Option<Record>,
    /// The media time that is presented first, in ticks: what lies before it is there to be decoded only. spec: ISO/IEC 14496-12 §8.6.6
    pub edit_ticks: i64,
    defaults: Defaults,
}

/// The record of a codec, as ingest protocols have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The payload of `avcC`, `hvcC`, `av1C`, `vpcC`.
    Video(VideoCodec, Bytes),
    /// `AudioSpecificConfig`, or `OpusHead`.
    Audio(AudioCodec, Bytes),
}

/// What holds for samples that do not say themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Defaults {
    duration: u32,
    size: u32,
    flags: u32,
}

/// A track's part of one movie fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// `track_ID`
    pub track: u32,
    /// `baseMediaDecodeTime` in ticks.
    pub decode_time: u64,
    /// Its samples.
    pub samples: Vec<Sample>,
    /// Where each of them begins in the file; it may lie beyond its end.
    pub places: Vec<u64>,
}

impl Run {
    /// Ticks of all samples.
    pub fn duration(&self) -> u64 {
        self.samples.iter().map(|sample| u64::from(sample.duration)).sum()
    }
}

/// The boxes in `bytes`, one after the other.
struct Boxes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Boxes<'a> {
    type Item = Result<([u8; 4], &'a [u8]), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let found = self.take_box();
        if found.is_err() {
            self.rest = &[];
        }
        Some(found)
    }
}

impl<'a> Boxes<'a> {
    /// spec: ISO/IEC 14496-12 §4.2
    fn take_box(&mut self) -> Result<([u8; 4], &'a [u8]), ReadError> {
        let mut fields = Fields { rest: self.rest, kind: *b"    " };
        let size = fields.u32()?;
        let kind = fields.take::<4>()?;
        let (size, head) = match size {
            0 => (self.rest.len() as u64, 8), // to the end
            1 => (fields.u64()?, 16),
            size => (u64::from(size), 8),
        };
        let size = usize::try_from(size).ok().filter(|size| *size >= head).ok_or(ReadError::Overrun(kind))?;
        let (whole, rest) = self.rest.split_at_checked(size).ok_or(ReadError::Overrun(kind))?;
        self.rest = rest;
        Ok((kind, whole.get(head..).unwrap_or_default()))
    }
}

/// Fields of one box.
struct Fields<'a> {
    rest: &'a [u8],
    kind: [u8; 4],
}

impl<'a> Fields<'a> {
    fn of(kind: &[u8; 4], body: &'a [u8]) -> Self {
        Self { rest: body, kind: *kind }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(ReadError::Truncated(self.kind))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, ReadError> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, ReadError> {
        self.take().map(u64::from_be_bytes)
    }

    fn skip(&mut self, count: usize) -> Result<(), ReadError> {
        self.rest = self.rest.get(count..).ok_or(ReadError::Truncated(self.kind))?;
        Ok(())
    }

    /// Version, and the flags.
    fn version_flags(&mut self) -> Result<(u8, u32), ReadError> {
        let [version, flags @ ..] = self.take::<4>()?;
        let [high, middle, low] = flags;
        Ok((version, u32::from_be_bytes([0, high, middle, low])))
    }

    /// So many bytes, the last one first.
    fn reversed(&mut self, count: usize) -> Option<Vec<u8>> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken.iter().rev().copied().collect())
    }

    /// A number whose width depends on the version.
    fn by_version(&mut self, version: u8) -> Result<u64, ReadError> {
        if version == 1 { self.u64() } else { self.u32().map(u64::from) }
    }
}

/// The first box of a kind.
fn find<'a>(body: &'a [u8], wanted: &[u8; 4]) -> Result<&'a [u8], ReadError> {
    for found in (Boxes { rest: body }) {
        let (kind, body) = found?;
        if kind == *wanted {
            return Ok(body);
        }
    }
    Err(ReadError::Missing(*wanted))
}

/// Goes down a path of boxes.
fn dig<'a>(body: &'a [u8], path: &[&[u8; 4]]) -> Result<&'a [u8], ReadError> {
    path.iter().try_fold(body, |body, wanted| find(body, wanted))
}

/// Reads an initialization segment. spec: ISO/IEC 14496-12 §8.2 to §8.5, §8.8.3
///
/// # Errors
/// There is no `moov` or no track in it, or a box is damaged.
pub fn read_init(file: &[u8]) -> Result<Vec<Track>, ReadError> {
    let moov = find(file, b"moov")?;
    let scale = movie_timescale(moov).unwrap_or(0);
    let mut tracks = Vec::new();
    let mut defaults = Vec::new();
    for found in (Boxes { rest: moov }) {
        match found? {
            (kind, trak) if kind == *b"trak" => tracks.push(read_track(trak, scale)?),
            (kind, mvex) if kind == *b"mvex" => {
                for found in (Boxes { rest: mvex }) {
                    let (kind, body) = found?;
                    if kind == *b"trex" {
                        let mut fields = Fields::of(b"trex", body);
                        fields.skip(4)?;
                        let id = fields.u32()?;
                        fields.skip(4)?;
                        let (duration, size, flags) = (fields.u32()?, fields.u32()?, fields.u32()?);
                        defaults.push((id, Defaults { duration, size, flags }));
                    }
                }
            }
            _ => {}
        }
        if tracks.len() > TRACKS_MAX || defaults.len() > TRACKS_MAX {
            return Err(ReadError::TooMany("tracks"));
        }
    }
    for track in &mut tracks {
        if let Some((_, known)) = defaults.iter().find(|(id, _)| *id == track.id) {
            track.defaults = *known;
        }
    }
    if tracks.is_empty() { Err(ReadError::Missing(*b"trak")) } else { Ok(tracks) }
}

/// spec: ISO/IEC 14496-12 §8.2.2
fn movie_timescale(moov: &[u8]) -> Result<u32, ReadError> {
    let mut fields = Fields::of(b"mvhd", find(moov, b"mvhd")?);
    let (version, _) = fields.version_flags()?;
    fields.skip(if version == 1 { 16 } else { 8 })?;
    fields.u32()
}

/// The media time that is presented at zero, in ticks: of the first edit with media in it, less the empty one before it.
/// spec: ISO/IEC 14496-12 §8.6.6
fn read_edits(trak: &[u8], timescale: u32, movie_timescale: u32) -> Result<i64, ReadError> {
    let mut fields = match dig(trak, &[b"edts", b"elst"]) {
        Ok(list) => Fields::of(b"elst", list),
        Err(ReadError::Missing(_)) => return Ok(0),
        Err(error) => return Err(error),
    };
    let (version, _) = fields.version_flags()?;
    let count = fields.u32()?;
    let mut empty = 0i64;
    for _ in 0..count.min(EDITS_MAX) {
        let duration = fields.by_version(version)?;
        let media_time = fields.by_version(version)?;
        let media_time = if version == 1 {
            media_time.cast_signed()
        } else {
            i64::from(u32::try_from(media_time).unwrap_or(u32::MAX).cast_signed())
        };
        fields.skip(4)?;
        if media_time >= 0 {
            return Ok(media_time.saturating_sub(empty));
        }
        let ticks = u128::from(duration) * u128::from(timescale) / u128::from(movie_timescale.max(1));
        empty = empty.saturating_add(i64::try_from(ticks).unwrap_or(i64::MAX));
    }
    Ok(empty.saturating_neg())
}

fn read_track(trak: &[u8], movie_timescale: u32) -> Result<Track, ReadError> {
    let mut fields = Fields::of(b"tkhd", find(trak, b"tkhd")?);
    let (version, _) = fields.version_flags()?;
    fields.skip(if version == 1 { 16 } else { 8 })?;
    let id = fields.u32()?;
    let mdia = find(trak, b"mdia")?;
    let mut fields = Fields::of(b"mdhd", find(mdia, b"mdhd")?);
    let (version, _) = fields.version_flags()?;
    fields.skip(if version == 1 { 16 } else { 8 })?;
    let timescale = fields.u32()?;
    let mut fields = Fields::of(b"hdlr", find(mdia, b"hdlr")?);
    fields.skip(8)?;
    let handler = fields.take()?;
    let mut fields = Fields::of(b"stsd", dig(mdia, &[b"minf", b"stbl", b"stsd"])?);
    fields.skip(8)?;
    let (entry, body) = Boxes { rest: fields.rest }.next().unwrap_or(Err(ReadError::Missing(*b"stsd")))?;
    let record = record(&entry, body);
    Ok(Track {
        id,
        timescale,
        handler,
        entry,
        codec_string: codec_string(&entry, record.as_ref()),
        record,
        edit_ticks: read_edits(trak, timescale, movie_timescale)?,
        defaults: Defaults { flags: OTHER_SAMPLE, ..Defaults::default() },
    })
}

/// The record in a sample entry, as the codec's own binding has it.
fn record(entry: &[u8; 4], body: &[u8]) -> Option<Record> {
    // What comes before the boxes: ISO/IEC 14496-12 §12.1.3, §12.2.3
    let inside = |head: usize, record: &[u8; 4]| find(body.get(head..)?, record).ok().map(Bytes::copy_from_slice);
    let video = |codec, name| Some(Record::Video(codec, inside(78, name)?));
    match entry {
        b"avc1" | b"avc3" => video(VideoCodec::Avc, b"avcC"),
        b"hvc1" | b"hev1" => video(VideoCodec::Hevc, b"hvcC"),
        b"av01" => video(VideoCodec::Av1, b"av1C"),
        b"vp09" => {
            let whole = inside(78, b"vpcC")?;
            Some(Record::Video(VideoCodec::Vp9, whole.get(4..).map(|record| whole.slice_ref(record))?))
        }
        b"mp4a" => Some(Record::Audio(AudioCodec::Aac, audio_specific_config(&inside(28, b"esds")?)?)),
        b"Opus" => Some(Record::Audio(AudioCodec::Opus, opus_head(&inside(28, b"dOps")?)?)),
        _ => None,
    }
}

/// spec: RFC 6381 §3.3
fn codec_string(entry: &[u8; 4], record: Option<&Record>) -> Option<String> {
    match record {
        Some(Record::Video(codec, record)) => {
            let stream = codec::VideoStream::new(*codec, record).ok()?;
            let known = &stream.config()?.codec_string;
            // The same codec under its other name: parameter sets in band.
            Some(known.replacen(known.split('.').next()?, std::str::from_utf8(entry).ok()?, 1))
        }
        Some(Record::Audio(AudioCodec::Aac, record)) => Some(codec::aac::parse_config(record).ok()?.codec_string),
        Some(Record::Audio(AudioCodec::Opus, _)) => Some("opus".into()),
        None => (entry == b"fLaC").then(|| "fLaC".into()),
    }
}

/// `dOps` as `OpusHead`: the same fields, least significant byte first. spec: Opus in ISOBMFF §4.3.2, RFC 7845 §5.1
fn opus_head(record: &[u8]) -> Option<Bytes> {
    let mut fields = Fields::of(b"dOps", record);
    let [_, channels] = fields.take::<2>().ok()?;
    let [pre_skip, rate, gain] = [fields.reversed(2)?, fields.reversed(4)?, fields.reversed(2)?];
    let mut head = BytesMut::from(&b"OpusHead\x01"[..]);
    head.put_u8(channels);
    [pre_skip, rate, gain].iter().for_each(|field| head.put_slice(field));
    head.put_slice(fields.rest);
    Some(head.freeze())
}

/// The decoder's record inside `esds`: descriptor 5 in 4 in 3. spec: ISO/IEC 14496-1 §7.2.6
fn audio_specific_config(esds: &Bytes) -> Option<Bytes> {
    let mut rest = esds.get(4..)?;
    for (wanted, head) in [(3, 3), (4, 13), (5, 0)] {
        loop {
            let (tag, after) = rest.split_first()?;
            let mut length = 0usize;
            let mut body = after;
            for _ in 0..4 {
                let (byte, after) = body.split_first()?;
                (length, body) = (length << 7 | usize::from(byte & 0x7f), after);
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let inside = body.get(..length.min(body.len()))?;
            if *tag == wanted {
                rest = inside.get(head..)?;
                break;
            }
            rest = body.get(length..)?;
        }
    }
    Some(Bytes::copy_from_slice(rest))
}

/// Reads the movie fragments of a segment or part, in order: one entry per track and fragment.
/// spec: ISO/IEC 14496-12 §8.8.4 to §8.8.8, §8.8.12
///
/// # Errors
/// A box is damaged, or there is no fragment.
pub fn read_fragments(tracks: &[Track], file: &[u8]) -> Result<Vec<Run>, ReadError> {
    let (mut runs, mut held) = (Vec::new(), 0);
    let mut boxes = Boxes { rest: file };
    loop {
        let start = file.len() - boxes.rest.len();
        let Some(found) = boxes.next() else { break };
        let (kind, moof) = found?;
        if kind != *b"moof" {
            continue;
        }
        // Where data without a place of its own begins: with the fragment, then behind the data before. spec: ISO/IEC 14496-12 §8.8.7.1
        let mut place = start as u64;
        for found in (Boxes { rest: moof }) {
            let (kind, traf) = found?;
            if kind == *b"traf" {
                let run = read_traf(tracks, traf, start as u64, &mut place)?;
                held += run.samples.len();
                runs.push(run);
            }
            if held > 4 * SAMPLES_MAX as usize {
                return Err(ReadError::TooMany("samples"));
            }
            if runs.len() > FRAGMENTS_MAX {
                return Err(ReadError::TooMany("fragments"));
            }
        }
    }
    if runs.is_empty() { Err(ReadError::Missing(*b"moof")) } else { Ok(runs) }
}

fn read_traf(tracks: &[Track], traf: &[u8], moof: u64, place: &mut u64) -> Result<Run, ReadError> {
    let mut fields = Fields::of(b"tfhd", find(traf, b"tfhd")?);
    let (_, flags) = fields.version_flags()?;
    let track = fields.u32()?;
    let mut defaults = tracks.iter().find(|known| known.id == track).map(|known| known.defaults).unwrap_or_default();
    let base = if flags & 1 != 0 {
        fields.u64()?
    } else if flags & DEFAULT_BASE_IS_MOOF != 0 {
        moof
    } else {
        *place
    };
    if flags & 2 != 0 {
        fields.skip(4)?;
    }
    for (flag, field) in [(8, &mut defaults.duration), (0x10, &mut defaults.size), (0x20, &mut defaults.flags)] {
        if flags & flag != 0 {
            *field = fields.u32()?;
        }
    }
    let mut fields = Fields::of(b"tfdt", find(traf, b"tfdt")?);
    let (version, _) = fields.version_flags()?;
    let decode_time = fields.by_version(version)?;
    let (mut samples, mut places) = (Vec::new(), Vec::new());
    *place = base;
    for found in (Boxes { rest: traf }) {
        let (kind, body) = found?;
        if kind == *b"trun" {
            if let Some(offset) = read_trun(&defaults, body, &mut samples)? {
                *place = base.saturating_add_signed(i64::from(offset));
            }
            for sample in samples.get(places.len()..).unwrap_or_default() {
                places.push(*place);
                *place = place.saturating_add(u64::from(sample.size));
            }
        }
    }
    Ok(Run { track, decode_time, samples, places })
}

/// Adds the samples of a run; where its data begins, if it says so.
fn read_trun(defaults: &Defaults, body: &[u8], samples: &mut Vec<Sample>) -> Result<Option<i32>, ReadError> {
    let mut fields = Fields::of(b"trun", body);
    let (version, flags) = fields.version_flags()?;
    let count = fields.u32()?;
    // Over all runs of a track: a run whose samples are all alike takes no bytes for them.
    if count > SAMPLES_MAX || samples.len() + count as usize > SAMPLES_MAX as usize {
        return Err(ReadError::TooMany("samples"));
    }
    let data_offset = if flags & 1 != 0 { Some(fields.u32()?.cast_signed()) } else { None };
    let first_flags = if flags & 4 != 0 { Some(fields.u32()?) } else { None };
    for index in 0..count {
        let mut field = |flag, default| if flags & flag != 0 { fields.u32() } else { Ok(default) };
        let duration = field(0x100, defaults.duration)?;
        let size = field(0x200, defaults.size)?;
        let default_flags = first_flags.filter(|_| index == 0).unwrap_or(defaults.flags);
        let sample_flags = field(0x400, default_flags)?;
        let offset = field(0x800, 0)?;
        // Version 0 is unsigned, and no offset is as large as the sign.
        let composition_offset =
            if version == 0 { i32::try_from(offset).unwrap_or(i32::MAX) } else { offset.cast_signed() };
        samples.push(Sample { duration, size, composition_offset, is_sync: sample_flags & NON_SYNC == 0 });
    }
    Ok(data_offset)
}

#[cfg(test)]
mod tests {
    use media::CodecConfig;

    use super::*;
    use crate::fmp4::{fragment_header, init_segment};

    fn aac() -> CodecConfig {
        CodecConfig::Audio(codec::aac::lc_config(44_100, 2).expect("in the tables"))
    }

    fn avc() -> CodecConfig {
        let record: &[u8] = &[
            1, 0x64, 0, 0x1e, 0xff, 0xe1, 0, 0x19, 0x67, 0x64, 0, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x2f, 0xf9, 0x61, 0, 0,
            3, 0, 1, 0, 0, 3, 0, 0x3c, 0x0f, 0x16, 0x2d, 0x96, 1, 0, 6, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0, 0xfd, 0xf8,
            0xf8, 0,
        ];
        let stream = codec::VideoStream::new(VideoCodec::Avc, &Bytes::from_static(record)).expect("valid");
        CodecConfig::Video(stream.config().expect("known").clone())
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (config, handler, entry) in [(aac(), b"soun", b"mp4a"), (avc(), b"vide", b"avc1")] {
            let tracks = read_init(&init_segment(&config)).expect("valid");
            let [track] = &tracks[..] else { panic!("one track: {tracks:?}") };
            assert_eq!((track.timescale, &track.handler, &track.entry), (config.timescale().hz(), handler, entry));
            assert_eq!(track.codec_string.as_deref(), Some(config.codec_string()));
            let sample = |is_sync| Sample { duration: 1024, size: 10, composition_offset: 0, is_sync };
            let samples = [sample(true), sample(entry == b"mp4a")];
            let mut part = fragment_header(&config, 7, 1 << 40, &samples).to_vec();
            part.extend([1; 10]);
            part.extend([2; 10]);
            let two = [&part[..], &part].concat();
            let runs = read_fragments(&tracks, &two).expect("valid");
            assert_eq!(runs.len(), 2);
            assert_eq!((runs[0].decode_time, runs[0].duration(), &runs[0].samples[..]), (1 << 40, 2048, &samples[..]));
            let data =
                |run: &Run, index: usize| two[usize::try_from(run.places[index]).expect("small")..][..10].to_vec();
            for run in &runs {
                assert_eq!((data(run, 0), data(run, 1)), (vec![1; 10], vec![2; 10]));
            }
            match (&track.record, &config) {
                (Some(Record::Video(codec, record)), CodecConfig::Video(video)) => {
                    assert_eq!((*codec, record), (video.codec, &video.record));
                }
                (Some(Record::Audio(codec, record)), CodecConfig::Audio(audio)) => {
                    assert_eq!(*codec, audio.codec);
                    assert_eq!(codec::aac::parse_config(record).as_ref(), Ok(audio));
                }
                (record, _) => panic!("{record:?}"),
            }
        }
    }

    #[test]
    fn opus_is_known_by_the_same_fields_in_the_other_order() {
        let head = b"OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00";
        let config = codec::opus::parse_head(head).expect("valid");
        let tracks = read_init(&init_segment(&CodecConfig::Audio(config))).expect("valid");
        assert_eq!(tracks[0].record, Some(Record::Audio(AudioCodec::Opus, Bytes::from_static(head))));
    }

    #[test]
    fn an_edit_list_says_what_is_presented_first() {
        let list = |version: u8, edits: &[(u64, i64)]| {
            let mut body = vec![version, 0, 0, 0];
            body.extend(u32::try_from(edits.len()).expect("few").to_be_bytes());
            for (duration, media_time) in edits {
                let wide = [duration.to_be_bytes(), media_time.to_be_bytes()];
                wide.iter().for_each(|field| body.extend(&field[if version == 1 { 0 } else { 4 }..]));
                body.extend([0, 1, 0, 0]);
            }
            let size = |body: &[u8]| u32::try_from(body.len() + 8).expect("small").to_be_bytes();
            let elst = [&size(&body)[..], b"elst", &body].concat();
            [&size(&elst)[..], b"edts", &elst].concat()
        };
        for version in [0, 1] {
            // 24 ticks of media are skipped; 2 s of 1,000 are empty before.
            assert_eq!(read_edits(&list(version, &[(0, 24)]), 12_000, 1000), Ok(24));
            assert_eq!(read_edits(&list(version, &[(2000, -1), (0, 24)]), 12_000, 1000), Ok(24 - 24_000));
        }
        assert_eq!(read_edits(&[], 12_000, 1000), Ok(0));
        assert!(read_edits(&list(0, &[(0, 24)])[..30], 12_000, 1000).is_err());
    }

    #[test]
    fn every_cut_is_an_error_and_no_panic() {
        let init = init_segment(&avc());
        let tracks = read_init(&init).expect("valid");
        for end in 0..init.len() {
            assert!(read_init(&init[..end]).is_err(), "{end}");
        }
        let sample = Sample { duration: 1, size: 0, composition_offset: -5, is_sync: true };
        let part = fragment_header(&avc(), 1, 5, &[sample]);
        for end in 0..part.len() - 8 {
            assert!(read_fragments(&tracks, &part[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn lengths_and_counts_that_lie_are_errors() {
        let huge = [&[0, 0, 0, 1][..], b"moov", &[0xff; 8]].concat();
        assert_eq!(read_init(&huge), Err(ReadError::Overrun(*b"moov")));
        let trun = [&[0, 0, 0, 0][..], &[0xff; 4]].concat();
        let mut samples = Vec::new();
        assert_eq!(read_trun(&Defaults::default(), &trun, &mut samples), Err(ReadError::TooMany("samples")));
        // Many runs whose samples take no bytes.
        let alike = [0, 0, 0, 0, 0, 0, 0xff, 0xff];
        assert_eq!(read_trun(&Defaults::default(), &alike, &mut samples), Ok(None));
        assert_eq!(read_trun(&Defaults::default(), &alike, &mut samples), Err(ReadError::TooMany("samples")));
    }
}
