//! Ctrl-C: the first one ends the run at the next step, the second one at once, but never within a file.

use std::{
    ops::ControlFlow,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Held while a file is being written, so that no half of one is left behind.
static WRITING: Mutex<()> = Mutex::new(());

/// Starts listening. Where a handler cannot be installed, Ctrl-C keeps its usual effect.
pub(crate) fn listen() {
    let _ = ctrlc::try_set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
            std::process::exit(i32::from(crate::EXIT_INTERRUPTED));
        }
        note!("\nstopping after this step; press Ctrl-C again to stop at once");
    });
}

/// Whether to go on: not after Ctrl-C.
pub(crate) fn check() -> ControlFlow<()> {
    match INTERRUPTED.load(Ordering::SeqCst) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

/// Runs `write`, which a second Ctrl-C waits for.
pub(crate) fn while_writing<T>(write: impl FnOnce() -> T) -> T {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    write()
}
