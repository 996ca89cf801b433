//! The synchronisation primitives of [`workers`](super::workers), in a module of their own so that
//! `engine/loom` can replace them.

pub(super) use std::{
    hint::spin_loop,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
};

/// How often a thread checks for work before it sleeps: some ten microseconds, about the time it takes to
/// wake one.
pub(super) const LOOKS: usize = 500;

/// Wakes a thread that has been given a job, or keeps it from falling asleep.
pub(super) fn wake(thread: &Thread) {
    thread.unpark();
}
