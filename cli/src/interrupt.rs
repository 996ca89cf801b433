//! Ctrl-C, SIGTERM and SIGHUP: the first one ends the run at the next step, the second one at once, but never within a file.

use std::sync::LazyLock;

use sdq::Cancel;

/// What Ctrl-C cancels: there is one command in a process.
static CANCEL: LazyLock<Cancel> = LazyLock::new(Cancel::new);

/// Starts listening. Where that fails, signals keep their usual effect, and the user is told.
pub(crate) fn listen() {
    if let Err(error) = on_signals(interrupt) {
        note!("warning: Ctrl-C will end the command without saving the run: {error}");
    }
}

fn interrupt() {
    if CANCEL.cancel() {
        CANCEL.while_writing(|| std::process::exit(i32::from(crate::EXIT_INTERRUPTED)));
    }
    note!("\nstopping after this step; press Ctrl-C again to stop at once");
}

/// Calls `handle` on a thread of its own for each signal that asks the process to end.
#[cfg(unix)]
fn on_signals(handle: fn()) -> std::io::Result<()> {
    use signal_hook::{
        consts::{SIGHUP, SIGINT, SIGTERM},
        iterator::Signals,
    };

    // A shell may have had SIGINT ignored, as it does for commands in the background of a script. Whoever sends it to this
    // process means it.
    let mut signals = vec![SIGINT, SIGTERM];
    if !is_ignored(SIGHUP) {
        signals.push(SIGHUP);
    }
    let mut signals = Signals::new(signals)?;
    let listen = move || signals.forever().for_each(|_| handle());
    std::thread::Builder::new().name("sdq signals".to_owned()).spawn(listen).map(drop)
}

/// Whether the process was started with `signal` ignored, as `nohup` does with SIGHUP: the run is to outlive its terminal.
/// Where the system does not say, it is taken to be so.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(not(unix))]
fn on_signals(handle: fn()) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(handle)
}

/// What Ctrl-C cancels.
pub(crate) fn cancel() -> &'static Cancel {
    &CANCEL
}

/// Runs `write`, which a second Ctrl-C waits for.
pub(crate) fn while_writing<T>(write: impl FnOnce() -> T) -> T {
    CANCEL.while_writing(write)
}
