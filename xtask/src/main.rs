//! The project's own tooling: what needs logic and is no product code.
//!
//! `cargo xtask setup run|test`, `run`, `bench`, `soak`, `drill-obs`, `fuzz-seeds`, `layers`, `specs`, `bar`, `web-hash`.
#![expect(clippy::print_stdout, reason = "this is the command line")]

mod bar;
mod bench;
mod fuzz;
mod layers;
mod obs;
mod run;
mod setup;
mod specs;
mod web;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;

/// The root of the checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root").to_owned()
}

/// Files below `folder` with this ending, sorted; `target`, `node_modules` and `dist` are left out.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && !matches!(name.to_str(), Some("target" | "node_modules" | "dist" | ".git")) {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn main() -> ExitCode {
    match run_command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_command() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["setup", "run"] => setup::for_run(),
        ["setup", "test"] => setup::for_test(),
        ["run"] => run::run(),
        ["layers"] => layers::check(),
        ["specs"] => specs::check(),
        ["bar"] => bar::print(),
        ["fuzz-seeds", target] => fuzz::seeds(target),
        ["drill-obs"] => obs::run(),
        ["soak", minutes] => bench::soak(minutes),
        ["bench", ref names @ ..] => bench::run(names),
        ["web-hash"] => web::check(),
        ["web-hash", "write"] => web::write(),
        _ => bail!(
            "usage: cargo xtask setup run|setup test|run|bench [name…]|soak MINUTES|drill-obs|fuzz-seeds TARGET|layers|specs|bar|web-hash [write]"
        ),
    }
}
