//! The `legation` command.

use std::process::ExitCode;

/// Ten thousand streams come and go: an allocator that keeps sizes apart gives back what they leave, and leaves
/// untouched what HTTP/2 reserves for each and never writes.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    legation::cli::run()
}
