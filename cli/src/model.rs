//! Opening the model that a command asks for.

use std::{num::NonZeroUsize, path::Path};

use sdq_engine::{Pipeline, PipelineOptions};

/// Weights are read in place, so the built-in file has to lie as it would when mapped.
#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);

/// The small model of our own, see `demo/`.
static BUILT_IN: &Aligned<[u8]> = &Aligned(*include_bytes!("../../demo/model.sdq"));

/// The model at `path`, or the built-in one.
pub(crate) fn open(path: Option<&Path>, threads: Option<NonZeroUsize>) -> anyhow::Result<Pipeline> {
    open_with(path, &PipelineOptions { threads, ..PipelineOptions::default() })
}

/// As [`open`], with all options.
pub(crate) fn open_with(path: Option<&Path>, options: &PipelineOptions) -> anyhow::Result<Pipeline> {
    Ok(match path {
        Some(path) => Pipeline::open(path, options)?,
        None => Pipeline::from_static(&BUILT_IN.0, options)?,
    })
}
