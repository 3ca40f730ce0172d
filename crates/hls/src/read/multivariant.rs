//! Multivariant playlists. spec: rfc8216bis §4.4.6

use super::attributes::Attributes;
use super::{Fault, Faults, Variables, name_of};

/// Most variants and renditions that are read.
const ENTRIES_MAX: usize = 1000;

/// EXT-X-STREAM-INF and the line after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variant {
    /// Its media playlist.
    pub uri: Box<str>,
    /// BANDWIDTH: peak bits per second, everything that plays together.
    pub bandwidth: Option<u64>,
    /// AVERAGE-BANDWIDTH
    pub average_bandwidth: Option<u64>,
    /// CODECS
    pub codecs: Option<Box<str>>,
    /// Width and height in pixels.
    pub resolution: Option<(u32, u32)>,
    /// FRAME-RATE as it stands there.
    pub frame_rate: Option<Box<str>>,
    /// Group of its audio renditions.
    pub audio: Option<Box<str>>,
    /// The line of the tag.
    pub line: u32,
}

/// EXT-X-MEDIA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendition {
    /// TYPE: `AUDIO`, `VIDEO`, `SUBTITLES`, `CLOSED-CAPTIONS`.
    pub kind: Box<str>,
    /// GROUP-ID
    pub group: Box<str>,
    /// NAME
    pub name: Box<str>,
    /// Its media playlist; none if it is part of the variant's.
    pub uri: Option<Box<str>>,
    /// DEFAULT=YES
    pub is_default: bool,
    /// The line of the tag.
    pub line: u32,
}

/// A multivariant playlist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MultivariantPlaylist {
    /// EXT-X-VERSION; 1 where it is not said.
    pub version: u64,
    /// What may be chosen from, in the order given.
    pub variants: Vec<Variant>,
    /// What goes with them.
    pub renditions: Vec<Rendition>,
    /// URIs of the I-frame playlists.
    pub i_frame_uris: Vec<Box<str>>,
    /// What its media playlists may import.
    pub variables: Variables,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

impl MultivariantPlaylist {
    /// The audio that goes with a variant and has a playlist of its own: the default one, else the first.
    pub fn audio_of(&self, variant: &Variant) -> Option<&Rendition> {
        let group = variant.audio.as_deref()?;
        let in_group = || self.renditions.iter().filter(|one| &*one.kind == "AUDIO" && &*one.group == group);
        in_group().find(|one| one.is_default).or_else(|| in_group().next()).filter(|one| one.uri.is_some())
    }
}

pub(super) fn parse(text: &str, mut faults: Faults) -> MultivariantPlaylist {
    let mut playlist = MultivariantPlaylist { version: 1, ..MultivariantPlaylist::default() };
    let mut variant: Option<Variant> = None;
    for (number, line) in (1u32..).zip(text.lines()) {
        if playlist.variants.len() + playlist.renditions.len() >= ENTRIES_MAX {
            faults.add(number, "more variants and renditions than are read");
            break;
        }
        match name_of(line) {
            "#EXT-X-VERSION" => {
                let version = line.split_once(':').and_then(|(_, version)| version.parse().ok());
                playlist.version = faults.expect(number, version, "EXT-X-VERSION without a number").unwrap_or(1);
            }
            "#EXT-X-STREAM-INF" => {
                let before = variant.replace(parse_variant(number, line, &mut faults));
                faults.expect(number, before.is_none().then_some(()), "the EXT-X-STREAM-INF before has no URI");
            }
            "#EXT-X-MEDIA" => playlist.renditions.push(parse_rendition(number, line, &mut faults)),
            "#EXT-X-I-FRAME-STREAM-INF" => {
                let attributes = Attributes::parse(number, line, &mut faults);
                playlist.i_frame_uris.extend(attributes.required("URI", &mut faults).map(Into::into));
            }
            _ if !line.starts_with('#') && !line.trim().is_empty() => match variant.take() {
                Some(variant) => playlist.variants.push(Variant { uri: line.trim().into(), ..variant }),
                None => faults.add(number, "a URI without EXT-X-STREAM-INF"),
            },
            _ => {}
        }
    }
    if let Some(variant) = variant {
        faults.add(variant.line, "EXT-X-STREAM-INF without a URI");
    }
    playlist.faults = faults.0;
    playlist
}

fn parse_variant(line: u32, text: &str, faults: &mut Faults) -> Variant {
    let attributes = Attributes::parse(line, text, faults);
    attributes.required("BANDWIDTH", faults);
    let resolution = attributes.get("RESOLUTION").and_then(|size| {
        let size = size.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
        faults.expect(line, size, "RESOLUTION is not WIDTHxHEIGHT")
    });
    Variant {
        uri: "".into(),
        bandwidth: attributes.number("BANDWIDTH", faults),
        average_bandwidth: attributes.number("AVERAGE-BANDWIDTH", faults),
        codecs: attributes.text("CODECS"),
        resolution,
        frame_rate: attributes.text("FRAME-RATE"),
        audio: attributes.text("AUDIO"),
        line,
    }
}

fn parse_rendition(line: u32, text: &str, faults: &mut Faults) -> Rendition {
    let attributes = Attributes::parse(line, text, faults);
    let mut required = |name| attributes.required(name, faults).unwrap_or_default().into();
    Rendition {
        kind: required("TYPE"),
        group: required("GROUP-ID"),
        name: required("NAME"),
        uri: attributes.text("URI"),
        is_default: attributes.is_yes("DEFAULT"),
        line,
    }
}
