//! What everything on a device needs.

use std::sync::Arc;

use super::{device::Gpu, pipelines::Pipelines};

/// A device and what is compiled for it.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) gpu: Arc<Gpu>,
    pub(super) pipelines: Arc<Pipelines>,
    /// Whether weights are read from the mapped file, where the driver takes its pages.
    pub(super) reads_in_place: bool,
}
