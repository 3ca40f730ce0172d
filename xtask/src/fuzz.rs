//! What the fuzzer begins with: recordings and golden files, in the form its targets take.

use std::fs;
use std::path::PathBuf;

use crate::{files, root};

/// Bytes of C0, C1 and C2: the target sends them itself.
const HANDSHAKE_BYTES: usize = 3073;

/// Two legs that connect and carry the same for a while; then one misses some, and leaves. Steps of three bytes, as the target reads them.
fn merge(mode: u8) -> Vec<u8> {
    let (connect, run) = ([[6, 1, 0], [7, 1, 0]], [33, 31, 0]);
    let (first_only, leave, second_only) = ([33, 9, 2], [3, 0, 0], [33, 31, 1]);
    let steps = connect.into_iter().chain([run; 4]).chain([first_only, run, leave]).chain([second_only; 3]);
    [mode].into_iter().chain(steps.flatten()).collect()
}

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
        "merge" => (0..4).map(merge).collect(),
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
