//! The device that runs a model.

use std::{num::NonZeroUsize, sync::Arc};

pub use sdq_engine::backend::{Backend, Wanted};

use crate::Error;

/// Opens the device that is `wanted`, with the GPU called `name` if one is given, and with `threads` threads
/// of the processor, by default one per core. `notice` is called when the processor replaces the device.
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
