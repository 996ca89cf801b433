//! Working memory that threads keep from one call to the next.

use std::cell::RefCell;

use bytemuck::{Pod, Zeroable};

use crate::backend::cpu::simd::{LANES, Lanes};

/// Sixteen floats on a cache line of their own.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line(Lanes);

thread_local! {
    /// Buffers not in use. More than one where a task's caller holds scratch of its own.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with `lines` vectors of scratch memory, aligned to 64 bytes. Their content is left from earlier uses.
pub(super) fn with_scratch<R>(lines: usize, work: impl FnOnce(&mut [Lanes]) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < lines {
        buffer.resize(lines, Line([0.0; LANES]));
    }
    let result = work(bytemuck::cast_slice_mut(&mut buffer[..lines]));
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}
