//! Ctrl-C, SIGTERM and SIGHUP: the first one ends the run at the next step or, where that takes long, before it; the second one
//! at once. None comes within a file. Beside them SIGBUS: a mapped file was cut short.

use std::{process, sync::LazyLock, thread, time::Duration};

use sdq::Cancel;

use crate::streams;

/// Said where a run ends early and nothing of it is left.
pub(crate) const NOTHING_SAVED: &str = "the run was not saved, so there is nothing to resume";

/// How long the end of a step is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// The token that Ctrl-C cancels: there is one command per process.
static CANCEL: LazyLock<Cancel> = LazyLock::new(Cancel::new);

/// Starts listening. If that fails, signals keep their usual effect, and the user gets a message.
pub(crate) fn listen() {
    if let Err(error) = signals::on_request_to_end(interrupt) {
        note!("warning: Ctrl-C will end the command without saving the run: {error}");
    }
}

/// From now on a mapped file that is cut short is an error. Where the system refuses what that takes, it ends the process without
/// a word.
pub(crate) fn watch_mapped_files() {
    #[cfg(target_os = "linux")]
    {
        let _ = sdq::lost_page::watch(crate::lost_page::end);
    }
}

fn interrupt() {
    if CANCEL.cancel() {
        CANCEL.while_writing(|| leave(crate::EXIT_INTERRUPTED));
    }
    // Terminals show `^C` where the cursor is.
    note!("");
    note!("stopping after this step; press Ctrl-C again to stop at once");
    if CANCEL.last_state().is_running() {
        let wait = || {
            thread::sleep(PATIENCE);
            // A run that ends in time ends the process.
            if CANCEL.last_state().is_running() {
                CANCEL.while_writing(|| leave(crate::EXIT_INTERRUPTED));
            }
        };
        // Without this thread the step is waited for.
        let _ = thread::Builder::new().name("sdq patience".to_owned()).spawn(wait);
    }
}

/// Ends the process; the state after the last step is saved first.
pub(crate) fn leave(code: u8) -> ! {
    match CANCEL.last_state().save() {
        Ok(Some(path)) => note!("to finish this run: sdq resume \"{}\"", path.display()),
        Ok(None) if CANCEL.last_state().is_running() => {
            note!("{NOTHING_SAVED}");
        }
        Ok(None) => {}
        Err(error) => note!("warning: the unfinished run cannot be saved: {error}"),
    }
    streams::remove_files();
    process::exit(i32::from(code))
}

#[cfg(unix)]
mod signals {
    use std::{io, thread};

    use signal_hook::{
        consts::{SIGHUP, SIGINT, SIGTERM},
        iterator::Signals,
    };

    /// Calls `handle` on a thread of its own for each signal that asks the process to end.
    pub(super) fn on_request_to_end(handle: fn()) -> io::Result<()> {
        // A shell may have had SIGINT ignored, as it does for commands in the background of a script. Whoever sends it to this
        // process means it.
        let mut signals = vec![SIGINT, SIGTERM];
        if !is_ignored(SIGHUP) {
            signals.push(SIGHUP);
        }
        let mut signals = Signals::new(signals)?;
        let listen = move || signals.forever().for_each(|_| handle());
        thread::Builder::new().name("sdq signals".to_owned()).spawn(listen).map(drop)
    }

    /// Whether the process was started with `signal` ignored, as `nohup` does with SIGHUP: the run is to outlive its terminal.
    /// Where the system does not say, it is taken to be so.
    fn is_ignored(signal: i32) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_none_or(|mask| mask >> (signal - 1) & 1 == 1)
    }
}

#[cfg(not(unix))]
mod signals {
    pub(super) fn on_request_to_end(handle: fn()) -> Result<(), ctrlc::Error> {
        ctrlc::set_handler(handle)
    }
}

/// The token that Ctrl-C cancels.
pub(crate) fn cancel() -> &'static Cancel {
    &CANCEL
}

/// Runs `write`; a second Ctrl-C waits until it is done.
pub(crate) fn while_writing<T>(write: impl FnOnce() -> T) -> T {
    CANCEL.while_writing(write)
}
