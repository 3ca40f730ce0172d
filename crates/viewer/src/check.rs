//! `check`: a conformance run over a live stream. Every rule that a client can observe, by id.
//!
//! The ids are those of the checklist in `docs/conformance.md`: AUTH-* from Apple's HLS authoring specification, LL-* from
//! rfc8216bis, CACHE-* and B.3 on caching.

mod findings;
mod media;
mod rendition;
mod rules;
mod run;
mod table;

pub use findings::{Evidence, Findings, Outcome};
pub use rules::{across, multivariant, step, version};
pub use run::{CheckReport, RuleReport, check};
pub use table::{RULES, Rule};
