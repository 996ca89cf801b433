//! Opens models: `.sdq` files, and the small built-in model.

use std::{num::NonZeroUsize, path::Path};

use sdq_engine::{Pipeline, PipelineOptions};

use crate::Error;

/// Weights are read in place, so the built-in file must be aligned like a mapped one.
#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);

/// The small model of this project, see `demo/`.
static BUILT_IN: &Aligned<[u8]> = &Aligned(*include_bytes!("../../demo/model.sdq"));

/// Options for the processor, on which files are prepared.
pub(crate) fn on_cpu(threads: Option<NonZeroUsize>) -> PipelineOptions {
    PipelineOptions { threads, ..PipelineOptions::default() }
}

/// The model at `path`, or the built-in one.
///
/// # Errors
/// When the file is damaged, not a model, or not supported.
pub fn open(path: Option<&Path>, options: &PipelineOptions) -> Result<Pipeline, Error> {
    Ok(match path {
        Some(path) => Pipeline::open(path, options)?,
        None => Pipeline::from_static(&BUILT_IN.0, options)?,
    })
}
