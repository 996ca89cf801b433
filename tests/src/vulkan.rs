//! Vulkan devices for tests. With `SDQ_VK_REQUIRE` set, a test fails on a machine without one instead of
//! passing without effect.

use std::sync::Arc;

use sdq_engine::{
    PipelineOptions,
    backend::{
        Backend,
        vulkan::{Tier, VulkanBackend},
    },
};

/// A device with its best kernels except those of the matrix tier, or `None` if there is none.
///
/// # Panics
/// When there is none and `SDQ_VK_REQUIRE` is set.
pub fn device() -> Option<Arc<dyn Backend>> {
    match VulkanBackend::with_tier(None, Tier::Dot) {
        Ok(backend) => Some(Arc::new(backend)),
        Err(error) => {
            assert!(std::env::var_os("SDQ_VK_REQUIRE").is_none(), "{error}");
            None
        }
    }
}

/// Options that run a model on it.
pub fn options(backend: &Arc<dyn Backend>) -> PipelineOptions {
    PipelineOptions { backend: Some(backend.clone()), ..PipelineOptions::default() }
}
