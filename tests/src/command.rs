//! Runs the `sdq` command and checks its errors.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
};

/// The result of a command.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

/// Uses the processor unless the arguments say otherwise, even if there is a device: results are compared bit
/// by bit. The settings of whoever runs the tests do not count.
fn plain_command<S: AsRef<OsStr>>(binary: &str, folder: &Path, args: &[S]) -> Command {
    let mut command = Command::new(binary);
    command.args(args).current_dir(folder).env("SDQ_BACKEND", "cpu").env("SDQ_CONFIG", "");
    command.env_remove("SDQ_MODEL").env_remove("SDQ_MODEL_DIR");
    command
}

/// The same with the seed 42 where the arguments would leave it to chance.
fn command<S: AsRef<OsStr>>(binary: &str, folder: &Path, args: &[S]) -> Command {
    let mut command = plain_command(binary, folder, args);
    let has = |names: &[&str]| args.iter().any(|arg| names.iter().any(|name| arg.as_ref() == *name));
    let draws = args.first().is_some_and(|arg| arg.as_ref() == "generate");
    if draws && !has(&["--seed", "--from", "--help"]) {
        command.args(["--seed", "42"]);
    }
    command
}

/// As [`run`], with a random seed where the arguments have none.
///
/// # Panics
/// As [`run`].
pub fn run_without_seed<S: AsRef<OsStr>>(binary: &str, folder: &Path, args: &[S]) -> Outcome {
    outcome(plain_command(binary, folder, args))
}

/// As [`run`], with `variables` of the environment and `input` as standard input. Standard output may be any bytes.
///
/// # Panics
/// When it cannot be started, or does not read its input.
pub fn run_with_input<S: AsRef<OsStr>>(
    binary: &str,
    folder: &Path,
    args: &[S],
    variables: &[(&str, &Path)],
    input: &[u8],
) -> Output {
    let mut command = command(binary, folder, args);
    command.envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    child.stdin.take().expect("it is piped").write_all(input).expect("the command reads its input");
    child.wait_with_output().expect("the command ends")
}

/// Runs `binary` with `args` in `folder`.
///
/// # Panics
/// When it cannot be started, was killed by a signal, or wrote something that is not UTF-8.
pub fn run<S: AsRef<OsStr>>(binary: &str, folder: &Path, args: &[S]) -> Outcome {
    outcome(command(binary, folder, args))
}

/// As [`run`], with the cache for devices in `folder` too.
///
/// # Panics
/// As [`run`].
pub fn run_with_cache<S: AsRef<OsStr>>(binary: &str, folder: &Path, args: &[S]) -> Outcome {
    let mut command = command(binary, folder, args);
    command.env("SDQ_CACHE_DIR", folder);
    outcome(command)
}

fn outcome(mut command: Command) -> Outcome {
    let output = command.output().expect("the command starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("sdq writes UTF-8");
    let code = output.status.code().expect("no signal ended the command");
    Outcome { code, output: text(output.stdout), errors: text(output.stderr) }
}

/// A command that runs in the background of a test, and is killed with it.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts `binary` with `args` in `folder`; both outputs are discarded.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<S: AsRef<OsStr>>(binary: &str, folder: &Path, args: &[S]) -> Running {
        let mut command = command(binary, folder, args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().expect("the command starts"))
    }

    /// Its exit status, if it has ended.
    ///
    /// # Panics
    /// When the system does not report it.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("the system knows its children")
    }
}

impl Drop for Running {
    /// Kills it without warning.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Outcome {
    /// Asserts that the command failed with `code`, wrote nothing to standard output, and gave the reason in
    /// one line that contains all of `words`.
    ///
    /// # Panics
    /// Otherwise.
    pub fn assert_failed(&self, code: i32, words: &[&str]) {
        let Outcome { errors, output, .. } = self;
        assert_eq!(self.code, code, "exit code; standard error:\n{errors}");
        assert!(output.is_empty(), "standard output of a failure:\n{output}");
        assert!(!errors.contains("panicked"), "{errors}");
        let lines: Vec<&str> = errors.lines().filter(|line| line.starts_with("error")).collect();
        let [line] = *lines else { panic!("not one line of error:\n{errors}") };
        let clauses: Vec<&str> = line.split(": ").collect();
        let repeated = clauses.iter().enumerate().any(|(i, clause)| clauses[..i].contains(clause));
        assert!(!repeated, "says it twice: {line}");
        for word in words {
            assert!(line.contains(word), "no `{word}` in: {line}");
        }
    }

    /// Asserts that the command succeeded.
    ///
    /// # Panics
    /// When it did not.
    pub fn assert_done(&self) {
        assert_eq!(self.code, 0, "{}", self.errors);
    }
}
