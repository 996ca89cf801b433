//! How much of a pickle is read. A value can take a byte in the file and fifty in memory.

use super::error::PickleProblem;

/// Longest pickle that is read. That of a model with its running means has half a megabyte.
pub(super) const MAX_LEN: usize = 8 << 20;

/// Most values, and most references to them that are written down for later or copied.
pub(super) const MAX_VALUES: usize = 1 << 19;

/// Most tensors, storages, and texts and numbers beside them: they may be the same ones under many names.
pub(super) const MAX_TENSORS: usize = 1 << 17;

/// Most marks on the stack. Each is a list, tuple or dictionary that is begun and not ended.
pub(super) const MAX_MARKS: usize = 1 << 16;

/// Fails where `found` is more than `limit`.
pub(super) fn at_most(found: usize, limit: usize, what: &'static str) -> Result<(), PickleProblem> {
    match found <= limit {
        true => Ok(()),
        false => Err(PickleProblem::TooMany { what, limit }),
    }
}
