//! Attribute lists. spec: rfc8216bis §4.2

use super::{Faults, seconds, whole};

/// The attributes of one line.
#[derive(Debug)]
pub(super) struct Attributes<'a> {
    list: Vec<(&'a str, &'a str)>,
    line: u32,
    tag: &'a str,
}

/// Most attributes of one line.
const ATTRIBUTES_MAX: usize = 64;

impl<'a> Attributes<'a> {
    /// Reads `TAG:NAME=VALUE,…`.
    pub(super) fn parse(line: u32, text: &'a str, faults: &mut Faults) -> Self {
        let (tag, mut rest) = text.split_once(':').unwrap_or((text, ""));
        let mut list: Vec<(&str, &str)> = Vec::new();
        while !rest.is_empty() && list.len() < ATTRIBUTES_MAX {
            let Some((name, after)) = rest.split_once('=') else {
                faults.add(line, format!("{tag}: '{rest}' is no attribute"));
                break;
            };
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => {
                    let Some((value, next)) = quoted.split_once('"') else {
                        faults.add(line, format!("{tag}: {name} has no closing quote"));
                        break;
                    };
                    (value, next)
                }
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            let name = name.trim();
            if list.iter().any(|(known, _)| *known == name) {
                faults.add(line, format!("{tag}: {name} is there twice"));
            }
            list.push((name, value));
            rest = match next.strip_prefix(',') {
                Some(next) => next,
                None if next.is_empty() => "",
                None => {
                    faults.add(line, format!("{tag}: no comma after {name}"));
                    ""
                }
            };
        }
        Self { list, line, tag }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.list.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// A copy of its text.
    pub(super) fn text(&self, name: &str) -> Option<Box<str>> {
        self.get(name).map(Into::into)
    }

    /// Whether it says YES.
    pub(super) fn is_yes(&self, name: &str) -> bool {
        self.get(name) == Some("YES")
    }

    /// It must be there.
    pub(super) fn required(&self, name: &str, faults: &mut Faults) -> Option<&'a str> {
        let value = self.get(name).filter(|value| !value.is_empty());
        faults.expect(self.line, value, &format!("{} without {name}", self.tag))
    }

    /// A whole number, if it is there.
    pub(super) fn number(&self, name: &str, faults: &mut Faults) -> Option<u64> {
        let text = self.get(name)?;
        faults.expect(self.line, whole(text), &format!("{}: {name}={text} is no number", self.tag))
    }

    /// Decimal seconds in nanoseconds, if they are there.
    pub(super) fn seconds(&self, name: &str, faults: &mut Faults) -> Option<i64> {
        let text = self.get(name)?;
        faults.expect(self.line, seconds(text), &format!("{}: {name}={text} are no seconds", self.tag))
    }
}
