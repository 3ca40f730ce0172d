//! Kills sources, paths and processes, and counts what a viewer lost.
//!   drills PROGRAM ROUNDS [DRILL…]     prints rows of a table; fails where an aim is missed
//!
//! What counts is what players saw: ffmpeg decodes the stream and its pictures and sound are compared with what the encoder
//! made; `throughline probe` and a headless Chromium beside it tell stalls as a player feels them. The server's own events tell when and why it switched.
#![expect(clippy::print_stdout, reason = "this is the command line")]

mod paths;
mod server;
mod sources;
mod watching;

use std::path::Path;
use std::process::ExitCode;

use paths::{Harm, Pair};
use sources::Backup;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, rounds, wanted @ ..] = arguments.as_slice() else {
        eprintln!("drills PROGRAM ROUNDS [DRILL…]");
        return ExitCode::from(2);
    };
    let (program, rounds) = (Path::new(program), rounds.parse::<usize>().expect("a number"));
    let folder = std::env::temp_dir().join(format!("throughline-drills-{}", std::process::id()));
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|known| known == name);
    println!("{}", watching::HEAD);
    let few = rounds.div_ceil(10);
    let mut is_met = true;
    let [rtmp, both, srt] = [[false, false], [false, true], [true, true]];
    if is_wanted("copies") {
        let harms = [Harm::Kill, Harm::BlackHole, Harm::Stall, Harm::Loss];
        for (harm, delays) in harms.into_iter().zip([[0, 0], [150, 0], [0, 180], [0, 0]]) {
            is_met &= paths::two_paths(program, &folder, rounds, harm, Pair { are_srt: rtmp, delays }).await;
        }
    }
    if is_wanted("mixed") {
        for harm in [Harm::Kill, Harm::BlackHole, Harm::Stall, Harm::Loss] {
            is_met &= paths::two_paths(program, &folder, rounds, harm, Pair { are_srt: both, delays: [0, 0] }).await;
        }
    }
    if is_wanted("srt") {
        for harm in [Harm::Kill, Harm::Loss] {
            is_met &= paths::two_paths(program, &folder, rounds, harm, Pair { are_srt: srt, delays: [0, 0] }).await;
        }
    }
    if is_wanted("encoders") {
        let returns = few.min(3); // more within two minutes wait
        is_met &= sources::two_encoders(program, &folder, returns, false, Backup::Alike).await;
        is_met &= sources::two_encoders(program, &folder, returns, true, Backup::Alike).await;
        is_met &= sources::two_encoders(program, &folder, returns, false, Backup::Smaller).await;
        is_met &= sources::two_encoders(program, &folder, returns, false, Backup::Vp9).await;
    }
    if is_wanted("reconnect") {
        is_met &= sources::reconnect(program, &folder, few).await;
    }
    if is_wanted("flaps") {
        is_met &= paths::flaps(program, &folder, rounds).await;
    }
    if is_wanted("key") {
        is_met &= paths::leaked_key(program, &folder, few).await;
    }
    if is_wanted("slate") {
        is_met &= sources::slate(program, &folder, few, false).await;
        is_met &= sources::slate(program, &folder, few, true).await;
    }
    if is_wanted("blip") {
        for millis in [200, 800, 1000, 3000, 10_000] {
            is_met &= paths::blip(program, &folder, millis).await;
        }
    }
    if is_wanted("sparse") {
        is_met &= sources::sparse(program, &folder).await;
    }
    if wanted.iter().any(|known| known == "alternation") {
        is_met &= sources::alternation(program, &folder, rounds).await;
    }
    if wanted.iter().any(|known| known == "obs") {
        is_met &= sources::obs(program, &folder).await;
    }
    if is_wanted("restart") {
        is_met &= sources::restart(program, &folder, few).await;
    }
    let _ = std::fs::remove_dir_all(&folder);
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
