//! What was found, rule by rule.

use std::collections::BTreeMap;

use serde::Serialize;

/// Proofs that are kept for one rule.
const EVIDENCE_MAX: usize = 5;

/// Where a rule was seen broken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// What is wrong, with the values.
    pub what: String,
    /// The line of the playlist, counted from 1; 0: it is no line.
    pub line: u32,
    /// The line as it stands there.
    pub text: String,
    /// The playlist or media.
    pub url: String,
}

/// What is known of one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Times it was seen to hold.
    pub held: u64,
    /// Times it was seen broken.
    pub broken: u64,
    /// The first of them.
    pub evidence: Vec<Evidence>,
}

/// Outcomes by rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    outcomes: BTreeMap<&'static str, Outcome>,
}

impl Findings {
    /// Notes that a rule holds, or not; `what` is made only where it does not.
    pub fn expect(&mut self, holds: bool, id: &'static str, line: u32, what: impl FnOnce() -> String) {
        let outcome = self.outcomes.entry(id).or_default();
        if holds {
            outcome.held += 1;
            return;
        }
        outcome.broken += 1;
        if outcome.evidence.len() < EVIDENCE_MAX {
            outcome.evidence.push(Evidence { what: what(), line, ..Evidence::default() });
        }
    }

    /// What is known of a rule.
    pub fn get(&self, id: &str) -> Option<&Outcome> {
        self.outcomes.get(id)
    }

    /// The rules that were seen broken, with what is wrong: `LL-09: …`.
    pub fn broken(&self) -> Vec<String> {
        let all = self.outcomes.iter();
        all.flat_map(|(id, outcome)| outcome.evidence.iter().map(move |one| format!("{id}: {}", one.what))).collect()
    }

    /// Takes over those of another; where a text is at hand, its lines go along.
    pub fn merge(&mut self, other: Self, url: &str, text: &str) {
        for (id, found) in other.outcomes {
            let outcome = self.outcomes.entry(id).or_default();
            outcome.held += found.held;
            outcome.broken += found.broken;
            for mut one in found.evidence {
                if outcome.evidence.len() == EVIDENCE_MAX {
                    break;
                }
                if one.text.is_empty() && one.line > 0 {
                    let line = usize::try_from(one.line - 1).unwrap_or(usize::MAX);
                    one.text = text.lines().nth(line).unwrap_or_default().chars().take(300).collect();
                }
                if one.url.is_empty() {
                    url.clone_into(&mut one.url);
                }
                outcome.evidence.push(one);
            }
        }
    }
}
