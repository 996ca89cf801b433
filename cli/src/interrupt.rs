//! Ctrl-C: the first one ends the run at the next step, the second one at once, but never within a file.

use std::sync::LazyLock;

use sdq::Cancel;

/// What Ctrl-C cancels: there is one command in a process.
static CANCEL: LazyLock<Cancel> = LazyLock::new(Cancel::new);

/// Starts listening. Where a handler cannot be installed, Ctrl-C keeps its usual effect.
pub(crate) fn listen() {
    let _ = ctrlc::try_set_handler(|| {
        if CANCEL.cancel() {
            CANCEL.while_writing(|| std::process::exit(i32::from(crate::EXIT_INTERRUPTED)));
        }
        note!("\nstopping after this step; press Ctrl-C again to stop at once");
    });
}

/// What Ctrl-C cancels.
pub(crate) fn cancel() -> &'static Cancel {
    &CANCEL
}

/// Runs `write`, which a second Ctrl-C waits for.
pub(crate) fn while_writing<T>(write: impl FnOnce() -> T) -> T {
    CANCEL.while_writing(write)
}
