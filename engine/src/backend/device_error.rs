//! Failures of devices, in terms that apply to every device.

use std::{error::Error as StdError, fmt};

/// A failure of a device. The message comes from its backend; code that is independent of backends decides by
/// the problem.
#[derive(Debug)]
pub struct DeviceError {
    /// What the failure means for other graphs.
    pub problem: DeviceProblem,
    cause: Box<dyn StdError + Send + Sync>,
}

/// The consequence of a device's failure for later graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceProblem {
    /// There is no such device, or it cannot be opened.
    Unavailable,
    /// The device has too little memory for a graph. A smaller graph may run.
    OutOfMemory,
    /// A graph needs something that the device or its kernels cannot do. Other graphs may run.
    Unsupported,
    /// The device stopped working. No graph will run on it any more.
    Failed,
}

impl DeviceError {
    /// The failure that `cause` describes.
    pub fn new(problem: DeviceProblem, cause: impl StdError + Send + Sync + 'static) -> DeviceError {
        DeviceError { problem, cause: Box::new(cause) }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl StdError for DeviceError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.source()
    }
}
