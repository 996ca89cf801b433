//! The device that runs a model.

use std::{num::NonZeroUsize, sync::Arc};

pub use sdq_engine::backend::{Backend, Wanted};

use crate::Error;

/// Opens the device that is `wanted`, the GPU called `name` if one is given, with so many `threads` of the processor, by default
/// one per core. `notice` is told when the processor has to take the device's place.
///
/// # Errors
/// When there is no such device, or it cannot be used.
pub fn open(
    wanted: Wanted,
    name: Option<&str>,
    threads: Option<NonZeroUsize>,
    notice: Arc<dyn Fn(&str) + Send + Sync>,
) -> Result<Arc<dyn Backend>, Error> {
    Ok(sdq_engine::backend::choose(wanted, name, threads, notice)?)
}
