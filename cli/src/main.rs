//! The `sdq` command. Its code is in the library, so that a program with schedulers of its own can register
//! them and then run the same command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    sdq_cli::run(std::env::args_os())
}
