//! Ctrl-C, SIGTERM and SIGHUP: the first one ends the run at the next step, the second one at once, but never
//! while a file is being written.

use std::sync::LazyLock;

use sdq::Cancel;

/// The token that Ctrl-C cancels: there is one command per process.
static CANCEL: LazyLock<Cancel> = LazyLock::new(Cancel::new);

/// Starts listening. If that fails, signals keep their usual effect, and the user gets a message.
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

/// Calls `handle` on a thread of its own for each signal that requests termination.
#[cfg(unix)]
fn on_signals(handle: fn()) -> std::io::Result<()> {
    use signal_hook::{
        consts::{SIGHUP, SIGINT, SIGTERM},
        iterator::Signals,
    };

    // A shell may have set SIGINT to be ignored, as for background commands of a script. A SIGINT that is
    // sent to this process is still intentional.
    let mut signals = vec![SIGINT, SIGTERM];
    if !is_ignored(SIGHUP) {
        signals.push(SIGHUP);
    }
    let mut signals = Signals::new(signals)?;
    let listen = move || signals.forever().for_each(|_| handle());
    std::thread::Builder::new().name("sdq signals".to_owned()).spawn(listen).map(drop)
}

/// Whether the process was started with `signal` ignored, as `nohup` does with SIGHUP: the run should outlive
/// its terminal. If the system does not report it, true is assumed.
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

/// The token that Ctrl-C cancels.
pub(crate) fn cancel() -> &'static Cancel {
    &CANCEL
}

/// Runs `write`; a second Ctrl-C waits until it is done.
pub(crate) fn while_writing<T>(write: impl FnOnce() -> T) -> T {
    CANCEL.while_writing(write)
}
