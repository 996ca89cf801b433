//! Opening the model that a command asks for.

use std::{num::NonZeroUsize, path::Path};

use sdq_engine::{Pipeline, PipelineOptions};

/// Weights are read in place, so the built-in file has to lie as it would when mapped.
#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);

/// The small model of our own, see `demo/`.
static BUILT_IN: &Aligned<[u8]> = &Aligned(*include_bytes!("../../demo/model.sdq"));

/// On the processor: for work that prepares a file.
pub(crate) fn on_cpu(threads: Option<NonZeroUsize>) -> PipelineOptions {
    PipelineOptions { threads, ..PipelineOptions::default() }
}

/// The model at `path`, or the built-in one.
pub(crate) fn open(path: Option<&Path>, options: &PipelineOptions) -> anyhow::Result<Pipeline> {
    Ok(match path {
        Some(path) => Pipeline::open(path, options)?,
        None => Pipeline::from_static(&BUILT_IN.0, options)?,
    })
}
