//! The cancellation of an operation.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::run::LastState;

/// Cancels operations from another thread. Clones are one token.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    cancelled: AtomicBool,
    /// Locked while a file is written.
    writing: Mutex<()>,
    last_state: LastState,
}

impl Cancel {
    /// A token that has not been used.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Requests cancellation at the next step. Returns whether it was requested before.
    pub fn cancel(&self) -> bool {
        self.0.cancelled.swap(true, Ordering::SeqCst)
    }

    /// Whether cancellation was requested.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Whether to continue.
    pub fn check(&self) -> ControlFlow<()> {
        if self.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Runs `write` exclusively: code that ends the process at once calls this too, and so never truncates a
    /// file.
    pub fn while_writing<T>(&self, write: impl FnOnce() -> T) -> T {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write()
    }

    /// The state of the run that this token stops, to be saved by whoever ends the process before its next step.
    pub fn last_state(&self) -> &LastState {
        &self.0.last_state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_token_stop_together() {
        let cancel = Cancel::new();
        let clone = cancel.clone();
        assert_eq!((cancel.is_cancelled(), clone.check()), (false, ControlFlow::Continue(())));
        assert!(!clone.cancel(), "nobody had asked before");
        assert!(cancel.cancel(), "somebody had");
        assert_eq!((cancel.is_cancelled(), cancel.check()), (true, ControlFlow::Break(())));
    }

    #[test]
    fn one_writes_at_a_time_also_after_a_writer_panicked() {
        let cancel = Cancel::new();
        let writing = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        cancel.while_writing(|| {
                            assert!(!writing.swap(true, Ordering::SeqCst), "somebody else writes");
                            assert!(writing.swap(false, Ordering::SeqCst));
                        });
                    }
                });
            }
        });
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cancel.while_writing(|| std::panic::resume_unwind(Box::new(())));
        }));
        assert!(panicked.is_err());
        assert_eq!(cancel.while_writing(|| 7), 7);
    }
}
