//! The built player page is committed; it must fit its sources. Checked by hash, so that no Node is needed.

use std::fmt::Write as _;

use anyhow::bail;
use sha2::{Digest as _, Sha256};

use crate::{files, root};

fn hash() -> anyhow::Result<String> {
    let web = root().join("web");
    let mut paths = [files(&web.join("src"), ""), files(&web.join("public"), "")].concat();
    paths.extend(["index.html", "package.json", "package-lock.json", "vite.config.js"].map(|name| web.join(name)));
    let mut hasher = Sha256::new();
    for path in paths {
        hasher.update(path.strip_prefix(&web)?.to_string_lossy().as_bytes());
        hasher.update(std::fs::read(&path)?);
    }
    Ok(hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Fails if the sources changed after the last build.
pub(crate) fn check() -> anyhow::Result<()> {
    let known = std::fs::read_to_string(root().join("web/dist/SOURCES")).unwrap_or_default();
    if known.trim() != hash()? {
        bail!("web/dist is older than its sources: run 'make web'");
    }
    Ok(())
}

/// Notes which sources the build was made from.
pub(crate) fn write() -> anyhow::Result<()> {
    Ok(std::fs::write(root().join("web/dist/SOURCES"), hash()? + "\n")?)
}
