//! The `throughline` binary: the command line.

mod commands;

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use clap::Parser as _;

/// Media comes and goes in blocks of up to megabytes from several threads; glibc's allocator keeps holes between them, which
/// grew for as long as anybody looked. What is freed is used again first: records of TLS stay in the processor's cache.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Two megabytes are cleared for the first byte of each, and media comes and goes in pieces of a tenth of that.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    match commands::run(commands::Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever read the output has enough of it: `throughline status --json | head`.
        Err(error) if error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("throughline: {error:#}");
            ExitCode::FAILURE
        }
    }
}
