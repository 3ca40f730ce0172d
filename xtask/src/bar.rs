//! The bar in numbers: sizes of files and functions, shares of tests and citations.

use anyhow::bail;

use crate::{files, root};

/// Longest file without its tests.
const FILE_LINES_MAX: usize = 800;

/// Core and protocol crates: they are told the time and start no tasks.
const INNER: [&str; 7] = ["media", "codec", "container", "rtmp", "srt", "hls", "hub"];
const BANNED_INSIDE: [&str; 5] = ["Instant::now", "SystemTime::now", ".elapsed()", "tokio::spawn", "thread::spawn"];
/// Nowhere: queues without a bound.
const BANNED: [&str; 3] = ["unbounded_channel", "mpsc::channel()", "unbounded()"];

/// Prints the figures; fails where a hard limit is passed.
pub(crate) fn print() -> anyhow::Result<()> {
    let (mut code, mut tests, mut cites, mut long) = (0, 0, 0, Vec::new());
    for path in files(&root().join("crates"), ".rs") {
        let text = std::fs::read_to_string(&path)?;
        let is_test = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
        let all = text.lines().count();
        let before_tests = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        let product = if is_test { 0 } else { before_tests };
        code += product;
        tests += all - product;
        cites += text.matches("spec: ").count();
        if product > FILE_LINES_MAX {
            long.push(format!("{} has {product} lines", path.display()));
        }
        if !text.starts_with("//!") {
            long.push(format!("{} has no module header", path.display()));
        }
        let inner = INNER.iter().any(|name| path.starts_with(root().join("crates").join(name).join("src")));
        let product_text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in BANNED_INSIDE.iter().filter(|_| inner && !is_test) {
            if product_text.lines().any(|line| line.contains(word) && !line.trim_start().starts_with("//")) {
                long.push(format!("{} uses {word}", path.display()));
            }
        }
        for word in BANNED.iter().filter(|_| !is_test) {
            if product_text.contains(word) {
                long.push(format!("{} uses {word}", path.display()));
            }
        }
        for word in ["TODO", "FIXME"] {
            if text.contains(word) {
                long.push(format!("{} says {word}", path.display()));
            }
        }
    }
    println!("lines of code {code}, of tests {tests} ({} %), citations {cites}", 100 * tests / (code + tests).max(1));
    if !long.is_empty() {
        bail!("over the bar:\n  {}", long.join("\n  "));
    }
    Ok(())
}
