//! Which device runs a model.

use std::{num::NonZeroUsize, sync::Arc};

use super::{Backend, cpu::CpuBackend};
use crate::Error;

/// Told what went wrong, where the run goes on all the same.
pub type Notice = dyn Fn(&str) + Send + Sync;

/// What to run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// A device that is worth it, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A Vulkan device, also one that is never taken unasked.
    Vulkan,
}

/// The backend that is `wanted`, with the processor's `threads` where that is used. `device` names one by number or by a
/// part of its name. `notice` is told when a device fails and the processor takes over.
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
    #[cfg(feature = "vulkan")]
    {
        use super::{fallback::WithFallback, vulkan::VulkanBackend};
        let opened = match (wanted, device) {
            (Wanted::Cpu, _) => return Ok(cpu),
            // Nobody asked for it, so that it does not open is nothing to complain of.
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
                expected: "in this build, which was made without the feature `vulkan`".to_owned(),
            }),
            false => Ok(cpu),
        }
    }
}
