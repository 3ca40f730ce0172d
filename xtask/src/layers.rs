//! The direction of dependencies, checked against the table of ARCHITECTURE.md.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, bail};

/// Our crates, what they may use of ours, and what of others' beyond `bytes`, `thiserror` and `tracing`.
const TABLE: [(&str, &[&str], &[&str]); 14] = [
    ("media", &[], &[]),
    ("codec", &["media"], &["h264-reader", "memchr"]),
    ("container", &["media", "codec"], &[]),
    ("rtmp", &["media", "codec", "container"], &["hmac", "sha2"]),
    ("srt", &[], &["aws-lc-rs"]),
    ("hls", &["media", "codec", "container"], &[]),
    ("hub", &["media", "codec"], &["tokio", "parking_lot", "xxhash-rust"]),
    ("telemetry", &[], &["prometheus-client", "tracing-subscriber"]),
    ("listen", &[], &["tokio", "tokio-util", "parking_lot"]),
    (
        "gateway",
        &["hub", "hls", "listen", "rtmp", "srt", "container", "codec", "media", "telemetry", "viewer"],
        &[
            "futures-util",
            "tokio",
            "tokio-util",
            "tokio-rustls",
            "rustls",
            "getrandom",
            "parking_lot",
            "quinn-udp",
            "rustix",
        ],
    ),
    (
        "delivery",
        &["hub", "hls", "listen", "container", "media", "telemetry"],
        &[
            "tokio",
            "tokio-util",
            "tokio-rustls",
            "rustls",
            "hyper",
            "hyper-util",
            "http-body",
            "http-body-util",
            "rust-embed",
            "parking_lot",
            "flate2",
            "getrandom",
        ],
    ),
    (
        "control",
        &["hub", "media", "telemetry"],
        &[
            "tokio",
            "tokio-util",
            "axum",
            "utoipa",
            "serde",
            "serde_json",
            "rusqlite",
            "sha2",
            "getrandom",
            "parking_lot",
            "futures-util",
        ],
    ),
    (
        "viewer",
        &["hls", "rtmp", "srt", "container", "codec", "media"],
        &[
            "futures-util",
            "tokio",
            "tokio-rustls",
            "rustls",
            "rustls-native-certs",
            "hyper",
            "hyper-util",
            "http-body-util",
            "flate2",
            "parking_lot",
            "serde",
            "serde_json",
        ],
    ),
    (
        "server",
        &["control", "delivery", "gateway", "hls", "hub", "listen", "media", "rtmp", "srt", "telemetry", "viewer"],
        &[
            "anyhow",
            "base64",
            "clap",
            "hmac",
            "sha2",
            "http-body-util",
            "hyper",
            "hyper-util",
            "listenfd",
            "tikv-jemallocator",
            "parking_lot",
            "rcgen",
            "rustix",
            "rustls",
            "serde",
            "serde_json",
            "tokio",
            "tokio-rustls",
            "tokio-util",
            "toml",
        ],
    ),
];
const EVERYWHERE: [&str; 3] = ["bytes", "thiserror", "tracing"];
/// Test crate and tooling may use anything.
const FREE: [&str; 2] = ["throughline-testkit", "xtask"];

pub(crate) fn check() -> anyhow::Result<()> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .output()
        .context("cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let mut wrong = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let package_name = package["name"].as_str().unwrap_or_default();
        if FREE.contains(&package_name) {
            continue;
        }
        let name = package_name.trim_start_matches("throughline-");
        let Some((_, ours, theirs)) = TABLE.iter().find(|(crate_name, ..)| *crate_name == name) else {
            wrong.insert(format!("{name} is not in the table of xtask/src/layers.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["kind"].as_str().is_some() {
                continue; // for tests or builds
            }
            let full = dependency["name"].as_str().unwrap_or_default();
            let allowed = match full.strip_prefix("throughline-") {
                Some(of_ours) => ours.contains(&of_ours),
                None => theirs.contains(&full) || EVERYWHERE.contains(&full),
            };
            if !allowed {
                wrong.insert(format!("{name} may not depend on {full}"));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("layers:\n  {}", wrong.into_iter().collect::<Vec<_>>().join("\n  "));
    }
    Ok(())
}
