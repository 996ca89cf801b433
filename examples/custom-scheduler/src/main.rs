//! The `sdq` command with a scheduler of our own. Run in this folder:
//!
//! ```text
//! cargo run -- schedulers
//! cargo run -- generate "a red apple on a blue background" --scheduler ab2 --steps 12 -o apple.png
//! ```

mod adams_bashforth;

fn main() -> std::process::ExitCode {
    if let Err(error) = adams_bashforth::register() {
        eprintln!("error: {error}");
        return std::process::ExitCode::FAILURE;
    }
    sdq_cli::run(std::env::args_os())
}
