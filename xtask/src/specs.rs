//! Citations of specifications in the code, checked against `docs/specs.md`.

use std::collections::BTreeMap;

use anyhow::bail;

use crate::{files, root};

/// Every document that is cited with `spec:` must stand in the table of `docs/specs.md`.
pub(crate) fn check() -> anyhow::Result<()> {
    let listed = std::fs::read_to_string(root().join("docs/specs.md"))?;
    let mut cites: BTreeMap<String, usize> = BTreeMap::new();
    for path in files(&root().join("crates"), ".rs") {
        for line in std::fs::read_to_string(&path)?.lines() {
            if let Some((_, cite)) = line.split_once("spec: ") {
                let document = cite.split(['§', ':', ',']).next().unwrap_or_default();
                let document = document.split(" table ").next().unwrap_or_default();
                let document = document.split(" annex ").next().unwrap_or_default().trim();
                *cites.entry(document.to_owned()).or_default() += 1;
            }
        }
    }
    let unknown: Vec<String> = cites
        .iter()
        .filter(|(document, _)| !listed.contains(&format!("| {document} |")))
        .map(|(document, count)| format!("{document} ({count} times)"))
        .collect();
    if !unknown.is_empty() {
        bail!("cited, but not in docs/specs.md:\n  {}", unknown.join("\n  "));
    }
    Ok(())
}
