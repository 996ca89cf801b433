//! A device with its pipelines, as all code of this backend uses it.

use std::sync::Arc;

use super::{device::Gpu, pipelines::Pipelines};

/// A device and the pipelines that were compiled for it.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) gpu: Arc<Gpu>,
    pub(super) pipelines: Arc<Pipelines>,
    /// Whether weights are read from the mapped file, where the driver accepts its pages.
    pub(super) reads_in_place: bool,
}
