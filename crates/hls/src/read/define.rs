//! Variables: defined by EXT-X-DEFINE, put where `{$NAME}` stands. spec: rfc8216bis §4.3, §4.4.2.3

use std::borrow::Cow;
use std::collections::HashMap;

use super::attributes::Attributes;
use super::{Faults, PLAYLIST_BYTES_MAX, ReadError, name_of};

/// Values by name.
pub type Variables = HashMap<Box<str>, Box<str>>;

/// Most variables of a playlist.
const VARIABLES_MAX: usize = 100;

/// What the variables of a playlist may be taken from, beside itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outside<'a> {
    /// The query of its own address, without the question mark: for QUERYPARAM.
    pub query: &'a str,
    /// Of the multivariant playlist that names it: for IMPORT. None for that one itself.
    pub imports: Option<&'a Variables>,
}

/// The text with values in place of variables, line by line, and what is defined in it.
///
/// # Errors
/// It becomes longer than [`PLAYLIST_BYTES_MAX`].
pub(super) fn substitute<'a>(
    text: &'a str,
    outside: Outside<'_>,
    faults: &mut Faults,
) -> Result<(Cow<'a, str>, Variables), ReadError> {
    let mut variables = Variables::new();
    if !text.contains("#EXT-X-DEFINE") && !text.contains("{$") {
        return Ok((Cow::Borrowed(text), variables));
    }
    let mut out = String::with_capacity(text.len());
    for (number, line) in (1u32..).zip(text.lines()) {
        if name_of(line) == "#EXT-X-DEFINE" {
            define(number, line, outside, &mut variables, faults);
            out.push_str(line);
        } else {
            put(number, line, &variables, &mut out, faults);
        }
        out.push('\n');
        if out.len() > PLAYLIST_BYTES_MAX {
            return Err(ReadError::TooLong(out.len()));
        }
    }
    Ok((Cow::Owned(out), variables))
}

fn define(line: u32, text: &str, outside: Outside<'_>, variables: &mut Variables, faults: &mut Faults) {
    let attributes = Attributes::parse(line, text, faults);
    let (name, value) = match ["NAME", "IMPORT", "QUERYPARAM"].map(|name| attributes.get(name)) {
        [Some(name), None, None] => (name, attributes.required("VALUE", faults).map(Into::into)),
        [None, Some(name), None] => {
            let value = outside.imports.and_then(|imports| imports.get(name)).cloned();
            let what = if outside.imports.is_some() {
                "EXT-X-DEFINE: the multivariant playlist does not define it"
            } else {
                "EXT-X-DEFINE: IMPORT stands in media playlists that a multivariant playlist names"
            };
            (name, faults.expect(line, value, what))
        }
        [None, None, Some(name)] => {
            let value = query_parameter(outside.query, name);
            (name, faults.expect(line, value, "EXT-X-DEFINE: the address of the playlist has no such parameter"))
        }
        _ => return faults.add(line, "EXT-X-DEFINE has one of NAME, IMPORT and QUERYPARAM"),
    };
    if variables.len() == VARIABLES_MAX {
        return faults.add(line, "more variables than are read");
    }
    let Some(value) = value else { return };
    if variables.insert(name.into(), value).is_some() {
        faults.add(line, format!("EXT-X-DEFINE: {name} is defined twice"));
    }
}

/// Appends a line; a value is not looked through again.
fn put(line: u32, text: &str, variables: &Variables, out: &mut String, faults: &mut Faults) {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{$") {
        out.push_str(before);
        let value = after.split_once('}').and_then(|(name, next)| Some((variables.get(name)?, next)));
        if let Some((value, next)) = value {
            out.push_str(value);
            rest = next;
        } else {
            faults.add(line, "a variable that is not defined before");
            out.push_str("{$");
            rest = after;
        }
    }
    out.push_str(rest);
}

/// The first parameter of that name, percent-decoded.
fn query_parameter(query: &str, name: &str) -> Option<Box<str>> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(known, _)| decoded(known).as_deref() == Some(name))?;
    decoded(value).map(Into::into)
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, next)) = rest.split_first() {
        let digits = next.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = next.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = next;
            }
        }
    }
    String::from_utf8(bytes).ok()
}
