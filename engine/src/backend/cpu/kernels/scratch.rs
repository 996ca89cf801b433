//! Working memory that threads keep between calls.

use std::cell::RefCell;

use crate::{
    backend::cpu::simd::{LANES, Lanes},
    pages::Pages,
};

/// The amount of working memory that a kernel needs on its threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScratchUse {
    /// Vectors on the thread that calls the kernel.
    pub(super) caller: usize,
    /// Vectors on each of the other threads.
    pub(super) helpers: usize,
}

impl ScratchUse {
    /// `lines` vectors for each task.
    pub(super) fn of_tasks(tasks: usize, lines: usize) -> ScratchUse {
        ScratchUse { caller: lines, helpers: if tasks > 1 { lines } else { 0 } }
    }

    /// The need of two kernels that run one after the other.
    pub fn max(self, other: ScratchUse) -> ScratchUse {
        ScratchUse { caller: self.caller.max(other.caller), helpers: self.helpers.max(other.helpers) }
    }

    /// The need of a kernel and of another one that runs while the first holds its memory.
    pub fn plus(self, inner: ScratchUse) -> ScratchUse {
        ScratchUse { caller: self.caller + inner.caller, helpers: self.helpers + inner.helpers }
    }

    /// Bytes on all of `threads` threads.
    pub fn bytes(self, threads: usize) -> u64 {
        let lines = self.caller.saturating_add(self.helpers.saturating_mul(threads.saturating_sub(1)));
        (lines as u64).saturating_mul(size_of::<Lanes>() as u64)
    }
}

thread_local! {
    /// Buffers not in use. There is more than one where the caller of a task holds scratch of its own.
    static FREE: RefCell<Vec<Pages>> = const { RefCell::new(Vec::new()) };
}

/// A piece of this thread's working memory, returned when dropped.
///
/// It is a guard and not a function that takes a closure, because the closure would be compiled without the
/// vector instructions of the kernel that contains it.
pub(super) struct Scratch {
    /// `None` only while it is returned.
    buffer: Option<Pages>,
    lines: usize,
}

impl Scratch {
    /// Takes `lines` vectors.
    pub(super) fn new(lines: usize) -> Self {
        let kept = FREE.with_borrow_mut(Vec::pop).filter(|buffer| buffer.len() >= lines * LANES);
        // The old buffer is too small from now on. It has pages of its own, which return to the system at
        // once; the heap would keep them.
        let new =
            || Pages::zeros(lines * LANES).expect("the plan of a run has found room for its working memory");
        Self { buffer: Some(kept.unwrap_or_else(new)), lines }
    }

    /// The vectors, aligned to 64 bytes. They contain values from earlier uses.
    pub(super) fn lines(&mut self) -> &mut [Lanes] {
        let buffer = self.buffer.as_mut().expect("not given back yet");
        &mut buffer.as_chunks_mut().0[..self.lines]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        FREE.with_borrow_mut(|free| free.extend(self.buffer.take()));
    }
}
