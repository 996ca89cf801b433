//! The `sdq` command under another name: cargo hands a test the path of its own package's binaries only.

use std::process::ExitCode;

fn main() -> ExitCode {
    sdq_cli::run(std::env::args_os())
}
