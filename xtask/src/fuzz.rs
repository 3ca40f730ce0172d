//! What the fuzzer begins with: recordings and golden files, in the form its targets take.

use std::fs;
use std::path::PathBuf;

use crate::{files, root};

/// Bytes of C0, C1 and C2: the target sends them itself.
const HANDSHAKE_BYTES: usize = 3073;

/// Writes the seeds of a target and prints their folder; nothing if it has none.
pub(crate) fn seeds(target: &str) -> anyhow::Result<()> {
    let fixtures = root().join("crates/testkit/fixtures");
    let read = |paths: Vec<PathBuf>| paths.into_iter().map(fs::read).collect::<Result<Vec<_>, _>>();
    let seeds: Vec<Vec<u8>> = match target {
        "rtmp_server" => {
            let dialogues = read(files(&fixtures.join("rtmp"), ".bin"))?;
            dialogues.into_iter().map(|bytes| bytes[HANDSHAKE_BYTES.min(bytes.len())..].to_vec()).collect()
        }
        "codec" => {
            let records = read(files(&fixtures, ".bin"))?.into_iter().filter(|record| record.len() < 256);
            records.map(|record| [&[u8::try_from(record.len()).unwrap_or(u8::MAX)][..], &record].concat()).collect()
        }
        "playlist" => read(files(&root().join("crates/hls/tests/golden"), ".m3u8"))?,
        "mpegts" => read(files(&root().join("crates/container/src/mpegts/data"), "ts"))?,
        _ => Vec::new(),
    };
    if seeds.is_empty() {
        return Ok(());
    }
    let folder = root().join("target/fuzz-seeds").join(target);
    fs::create_dir_all(&folder)?;
    for (index, seed) in seeds.iter().enumerate() {
        fs::write(folder.join(index.to_string()), seed)?;
    }
    println!("{}", folder.display());
    Ok(())
}
