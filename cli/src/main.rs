//! The `sdq` command. What it does stands in the library, so that a program with schedulers of its own can register
//! them and then hand control to the very same command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    sdq_cli::run(std::env::args_os())
}
