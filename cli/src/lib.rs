//! The command line of sdq: `sdq generate`, `resume`, `plan`, `bench`, `convert`, `eval`, `info`, `doctor`,
//! `serve`, `schedulers`, `completions` and `man`.
//!
//! A program that adds schedulers calls [`sdq::schedulers::register`] and then [`run`]:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     // sdq::schedulers::register(…)
//!     sdq_cli::run(std::env::args_os())
//! }
//! ```
#![forbid(unsafe_code)]

/// A line on standard output.
macro_rules! say {
    ($($words:tt)*) => { $crate::output::say(format_args!("{}\n", format_args!($($words)*))) };
}

/// The same without the end of the line.
macro_rules! say_part {
    ($($words:tt)*) => { $crate::output::say(format_args!($($words)*)) };
}

/// A line on standard error.
macro_rules! note {
    ($($words:tt)*) => { $crate::output::note(format_args!($($words)*)) };
}

mod args;
mod bench;
mod config;
mod convert;
#[cfg(feature = "vulkan")]
mod doctor;
mod eval;
mod generate;
mod info;
mod interrupt;
mod job;
#[cfg(target_os = "linux")]
mod lost_page;
mod output;
mod plan;
mod preview;
mod progress;
mod reference;
mod resume;
mod run;
mod schedulers;
#[cfg(feature = "serve")]
mod serve;
mod sheet;
mod streams;
mod terminal;

use std::{ffi::OsString, fmt, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};
use sdq::ErrorKind;

use args::{Args, Command};

/// The request is not valid.
const EXIT_USAGE: u8 = 2;
/// The command failed.
const EXIT_FAILED: u8 = 1;
/// Stopped by Ctrl-C: 128 + SIGINT, as in shells.
const EXIT_INTERRUPTED: u8 = 130;

/// The commands and flags, for programs that describe or check command lines.
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs one command line, program name first. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    sdq::arenas::share_if_limited();
    interrupt::watch_mapped_files();
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let printed = error.print();
            if error.use_stderr() {
                return ExitCode::from(EXIT_USAGE);
            }
            // The help or the version.
            output::note_failure(printed);
            return ended(Ok(()));
        }
    };
    let done = match &args.command {
        Command::Generate(args) => generate::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Resume(args) => resume::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Info(args) => info::run(args),
        #[cfg(feature = "vulkan")]
        Command::Doctor(args) => doctor::run(args),
        #[cfg(not(feature = "vulkan"))]
        Command::Doctor(_) => {
            Err(UsageError("this build supports no GPUs; build sdq with the feature `vulkan`".to_owned())
                .into())
        }
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(args),
        #[cfg(not(feature = "serve"))]
        Command::Serve(_) => {
            Err(UsageError("this build has no server; build it with the feature `serve`".to_owned()).into())
        }
        Command::Schedulers => schedulers::run(),
        Command::Completions { shell } => reference::completions(*shell),
        Command::Man { name } => reference::man(name.as_deref()),
    };
    ended(done)
}

/// Says how a command failed, if it did; its exit code.
fn ended(done: anyhow::Result<()>) -> ExitCode {
    let written =
        output::finish().map_err(|error| anyhow::anyhow!("cannot write to standard output: {error}"));
    match done.and(written) {
        Ok(()) => ExitCode::SUCCESS,
        #[cfg(feature = "serve")]
        Err(error) if error.is::<Stopped>() => ExitCode::from(EXIT_INTERRUPTED),
        Err(error) => {
            // Messages of the library are complete; others name the operation, and their causes the reason.
            let words = match error.downcast_ref::<sdq::Error>() {
                // Here options are named as flags.
                Some(sdq::Error::Option { option, problem }) => format!("--{option}: {problem}"),
                Some(error) => error.to_string(),
                None => format!("{error:#}"),
            };
            note!("error: {words}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// A server was asked to end, which is no failure but has an exit code of its own.
#[cfg(feature = "serve")]
#[derive(Debug)]
struct Stopped;

#[cfg(feature = "serve")]
impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server was asked to end")
    }
}

#[cfg(feature = "serve")]
impl std::error::Error for Stopped {}

/// A flag with an invalid value, detected after parsing.
#[derive(Debug)]
struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<UsageError>() {
        return EXIT_USAGE;
    }
    match error.chain().find_map(ErrorKind::of) {
        Some(ErrorKind::Cancelled) => EXIT_INTERRUPTED,
        Some(ErrorKind::RequestInvalid | ErrorKind::OptionInvalid) => EXIT_USAGE,
        _ => EXIT_FAILED,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn exit_codes_tell_wrong_usage_from_failure() {
        let option = || sdq::Error::Option { option: "max-size", problem: String::new() };
        for (error, code) in [
            (UsageError("x".to_owned()).into(), EXIT_USAGE),
            (option().into(), EXIT_USAGE),
            (option().in_file("a.sdq".as_ref()).into(), EXIT_USAGE),
            (sdq::Error::LoraTag("x".to_owned()).into(), EXIT_USAGE),
            (sdq::Error::SessionEnded.into(), EXIT_FAILED),
            (sdq::Error::NoDevice { wanted: None }.into(), EXIT_FAILED),
            (anyhow::anyhow!("something else"), EXIT_FAILED),
        ] {
            assert_eq!(exit_code(&error), code, "{error}");
        }
        // The same if a caller added the name of the operation.
        let wrapped = Err::<(), _>(option()).context("cannot convert").unwrap_err();
        assert_eq!(exit_code(&wrapped), EXIT_USAGE);
    }
}
