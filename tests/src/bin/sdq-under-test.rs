//! The `sdq` command under another name: cargo gives a test only the paths of its own package's binaries.

use std::process::ExitCode;

fn main() -> ExitCode {
    sdq_cli::run(std::env::args_os())
}
