//! A scripted RTMP publisher, and captions to send with it.

use media::TrackKind;

pub use viewer::publisher::{FrameInfo, Publisher, Tag, read_flv};

/// Puts CEA-608 captions into H.264 pictures: `text` comes up, once in every `every` pictures. spec: ATSC A/53 part 4 §6.2.3
///
/// # Panics
/// `every` is too short for the text: it takes a picture for every two letters, and ten.
pub fn with_captions(tags: &mut [Tag], text: &str, every: usize) {
    let pairs = caption_pairs(text);
    assert!(pairs.len() <= every, "{} pairs in {every} pictures", pairs.len());
    let is_picture = |tag: &&mut Tag| tag.track == TrackKind::Video && tag.body.get(1) == Some(&1);
    for (number, tag) in tags.iter_mut().filter(is_picture).enumerate() {
        let pair = pairs.get(number % every).copied().unwrap_or([0x80, 0x80]); // nothing, with its parity
        let [first, second] = pair;
        let data = [0xb5, 0, 0x31, b'G', b'A', b'9', b'4', 3, 0xc1, 0xff, 0xfc, first, second, 0xff];
        let unit = [&[0, 0, 0, 18, 6, 4, 14][..], &data, &[0x80]].concat();
        let (head, picture) = tag.body.split_at(5);
        tag.body = [head, &unit, picture].concat().into();
    }
}

/// Pop-on captions on row 15: the one before goes, the next is made out of sight, then shown. Control codes go out twice. spec: CEA-608 §6, §8
fn caption_pairs(text: &str) -> Vec<[u8; 2]> {
    let control = |pair: [u8; 2]| [pair, pair];
    let letters = text.as_bytes().chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
    let begin = [[0x14, 0x2c], [0x14, 0x20], [0x14, 0x2e], [0x14, 0x70]].into_iter().flat_map(control);
    let pairs = begin.chain(letters).chain(control([0x14, 0x2f]));
    let odd = |byte: u8| if byte.count_ones().is_multiple_of(2) { byte | 0x80 } else { byte };
    pairs.map(|pair| pair.map(odd)).collect()
}
