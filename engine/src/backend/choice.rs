//! Choice of the backend that runs a model.

use std::{num::NonZeroUsize, sync::Arc};

#[cfg(feature = "vulkan")]
use super::vulkan::Tier;
use super::{
    Backend,
    cpu::{CpuBackend, simd::Isa},
};
use crate::Error;

/// Receives a message when something failed and the run continues without it.
pub type Notice = dyn Fn(&str) + Send + Sync;

/// The requested backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// A Vulkan device if one is likely to be faster than the processor, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A Vulkan device, even one that [`Wanted::Auto`] never takes.
    Vulkan,
}

/// Opens the backend that is `wanted`, with `threads` threads where the processor is used. `device` names a
/// device by number or by a part of its name. `notice` is called when a device fails and the processor takes
/// over, and when an environment variable has a value that has no effect.
///
/// # Errors
/// When a device was asked for and cannot be used, or the system refuses the threads.
pub fn choose(
    wanted: Wanted,
    device: Option<&str>,
    threads: Option<NonZeroUsize>,
    notice: Arc<Notice>,
) -> Result<Arc<dyn Backend>, Error> {
    let cpu = Arc::new(CpuBackend::new(threads)?);
    let unusable =
        |name: &str, problem: fn(&str) -> Option<String>| problem(&std::env::var_os(name)?.to_string_lossy());
    unusable("SDQ_ISA", Isa::unusable).iter().for_each(|problem| notice(problem));
    #[cfg(feature = "vulkan")]
    unusable("SDQ_VK_TIER", Tier::unusable).iter().for_each(|problem| notice(problem));
    #[cfg(feature = "vulkan")]
    {
        use super::{fallback::WithFallback, vulkan::VulkanBackend};
        let opened = match (wanted, device) {
            (Wanted::Cpu, _) => return Ok(cpu),
            // The device was not asked for, so a failure to open it is not reported.
            (Wanted::Auto, None) => match VulkanBackend::open_unasked() {
                Some(opened) => opened,
                None => return Ok(cpu),
            },
            (Wanted::Auto | Wanted::Vulkan, device) => VulkanBackend::open(device)?,
        };
        Ok(Arc::new(WithFallback::new(Arc::new(opened), cpu, notice)))
    }
    #[cfg(not(feature = "vulkan"))]
    {
        let _ = notice;
        match wanted == Wanted::Vulkan || device.is_some() {
            true => Err(Error::Request {
                field: "backend",
                found: "vulkan".to_owned(),
                expected: "cpu, because this build was made without the feature `vulkan`".to_owned(),
            }),
            false => Ok(cpu),
        }
    }
}
