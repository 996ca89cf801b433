//! The `.sdq` file: a complete model in one file that is read in place.
//!
//! `docs/format.md` specifies it. In short: a 64-byte header, one section per component with its weights
//! packed for the kernels, embedded text files, and a JSON table of contents at the end. Opening reads the
//! header, the table and the texts; weights are read from the mapped file when a kernel uses them.

mod branches;
mod error;
mod header;
mod manifest;
mod reader;
mod table;
mod writer;

pub use branches::branch_names;
pub use error::{SdqError, SdqProblem};
pub use header::{MAGIC, VERSION};
pub use manifest::{Manifest, Quantization, Source};
pub use reader::{Component, SdqFile, Weight};
pub use writer::{Encoded, SdqWriter};

/// Alignment of a component's section, the largest page size in common use.
pub const SECTION_ALIGNMENT: u64 = 64 * 1024;

/// Alignment of a weight: a cache line.
pub const WEIGHT_ALIGNMENT: u64 = crate::mmap::ALIGNMENT as u64;

// Weights are read in place, and the file is little endian.
#[cfg(target_endian = "big")]
compile_error!("sdq reads weights in place and needs a little-endian machine");

#[cfg(test)]
mod tests;
