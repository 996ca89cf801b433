//! Errors of the Vulkan driver and loader.

use ash::vk;

use crate::{
    Error,
    backend::{DeviceError, DeviceProblem},
};

/// Errors that keep a graph from running on a device. Messages are one line and say what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VulkanError {
    /// There is no Vulkan on this machine.
    #[error("no Vulkan loader was found ({0}); install the graphics driver, or use `--backend cpu`")]
    NoLoader(String),
    /// The loader found no device.
    #[error("Vulkan finds no device; install the graphics driver, or use `--backend cpu`")]
    NoDevice,
    /// No device matches the requested one.
    #[error("there is no device `{wanted}`, expected one of {found}")]
    UnknownDevice {
        /// Number or part of a name.
        wanted: String,
        /// Names of the devices.
        found: String,
    },
    /// The device lacks something that every kernel needs.
    #[error("{device} lacks {lacks}; use another device, or `--backend cpu`")]
    Unsuitable {
        /// Its name.
        device: String,
        /// What is missing.
        lacks: String,
    },
    /// Every kernel that this device can run was found to compute wrong products.
    #[error(
        "{device} computes wrong results according to `sdq doctor`; use another device, or `--backend cpu`"
    )]
    Distrusted {
        /// Its name.
        device: String,
    },
    /// The device has no memory left.
    #[error("the device has no memory{}; draw a smaller picture, or use `--backend cpu`", for_bytes(*bytes))]
    OutOfMemory {
        /// Size of the allocation; 0 if it is not known.
        bytes: u64,
    },
    /// A tensor or weight is larger than the device's limit for one binding.
    #[error("{what} takes {bytes} bytes, more than the {limit} that the device reads at once")]
    TooLarge {
        /// The tensor or weight.
        what: String,
        /// Its size.
        bytes: u64,
        /// The device's limit.
        limit: u64,
    },
    /// There is no kernel for an op.
    #[error("sdq has no Vulkan kernel for `{op}`; use `--backend cpu`")]
    NoKernel {
        /// Its name.
        op: &'static str,
    },
    /// The driver stopped answering.
    #[error("the device was lost; the driver may have stopped a computation that took too long")]
    DeviceLost,
    /// Validation was requested by `SDQ_VK_VALIDATE` and is not installed.
    #[error("SDQ_VK_VALIDATE is set, but the layer VK_LAYER_KHRONOS_validation is not installed")]
    NoValidation,
    /// A Vulkan call failed in another way.
    #[error("the Vulkan driver failed to {what}: {result}")]
    Call {
        /// The operation that failed.
        what: &'static str,
        /// The driver's answer.
        result: vk::Result,
    },
}

fn for_bytes(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(" for {bytes} bytes") }
}

impl VulkanError {
    /// The error for `result` of the operation `what`.
    pub(super) fn new(what: &'static str, result: vk::Result) -> VulkanError {
        match result {
            vk::Result::ERROR_DEVICE_LOST => VulkanError::DeviceLost,
            vk::Result::ERROR_OUT_OF_DEVICE_MEMORY | vk::Result::ERROR_OUT_OF_HOST_MEMORY => {
                VulkanError::OutOfMemory { bytes: 0 }
            }
            result => VulkanError::Call { what, result },
        }
    }

    /// The consequence of the failure for other graphs.
    fn problem(&self) -> DeviceProblem {
        match self {
            VulkanError::NoLoader(_)
            | VulkanError::NoDevice
            | VulkanError::UnknownDevice { .. }
            | VulkanError::Unsuitable { .. }
            | VulkanError::Distrusted { .. }
            | VulkanError::NoValidation => DeviceProblem::Unavailable,
            VulkanError::OutOfMemory { .. } => DeviceProblem::OutOfMemory,
            VulkanError::TooLarge { .. } | VulkanError::NoKernel { .. } => DeviceProblem::Unsupported,
            VulkanError::DeviceLost | VulkanError::Call { .. } => DeviceProblem::Failed,
        }
    }
}

impl From<VulkanError> for Error {
    fn from(error: VulkanError) -> Error {
        DeviceError::new(error.problem(), error).into()
    }
}
