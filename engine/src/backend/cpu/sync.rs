//! The primitives that [`workers`](super::workers) is written with, so that `engine/loom` can put others in their place.

pub(super) use std::{
    hint::spin_loop,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
};

/// How often a thread looks for news before it sleeps: some ten microseconds, about what it takes to wake one.
pub(super) const LOOKS: usize = 500;

/// Wakes a thread that has been given a job, or keeps it from falling asleep.
pub(super) fn wake(thread: &Thread) {
    thread.unpark();
}
