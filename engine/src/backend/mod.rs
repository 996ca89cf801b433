//! Backends compile graphs and run them. Models never name a backend; a backend knows ops and nothing of
//! models.

mod choice;
pub mod conformance;
pub mod cpu;
mod device_error;
#[cfg(test)]
pub(crate) mod double;
pub mod fallback;
mod prepare;
pub mod row_layout;
mod source;
#[cfg(feature = "vulkan")]
pub mod vulkan;

use std::{sync::Arc, time::Duration};

use sdq_formats::WeightSpec;

pub use choice::{Notice, Wanted, choose};
pub use device_error::{DeviceError, DeviceProblem};
pub use source::WeightSource;

use crate::{
    Error,
    graph::{Graph, PreparedGraph, PreparedNode},
};

/// The anonymous memory of a graph, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Memory of the executable, for as long as it lives.
    pub executable: u64,
    /// Working memory that the backend keeps after a run and uses again for other graphs: the maximum over
    /// all graphs counts.
    pub scratch: u64,
}

/// The expected time of a run of a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Multiply-adds of integers.
    pub integer: u64,
    /// Multiply-adds of floats.
    pub float: u64,
    /// Seconds of one run, by the rates of this machine.
    pub seconds: f64,
    /// Additional seconds of the first run, which writes its memory for the first time.
    pub first: f64,
}

impl Cost {
    /// The seconds of a graph that runs exactly once.
    pub fn once(&self) -> f64 {
        self.seconds + self.first
    }
}

/// The highest rates of a device per second, measured at the same time as the work that is compared with
/// them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Multiply-adds of bytes with all operands in registers.
    pub integer: f64,
    /// Single-precision multiply-adds with all operands in registers.
    pub float: f64,
    /// Bytes copied from and to memory that no cache holds; each is counted once, not for reading and
    /// writing.
    pub copy: f64,
}

impl Limits {
    /// The least possible seconds for the given numbers of multiply-adds of bytes and of floats.
    pub fn seconds(&self, integer: u64, float: u64) -> f64 {
        integer as f64 / self.integer + float as f64 / self.float
    }
}

/// Compiles graphs for one kind of device.
///
/// No method has a default: a backend that wraps another one must implement each of them, so that none is
/// forgotten.
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// The description that `sdq info` shows: device, instruction set, threads.
    fn description(&self) -> String;

    /// Binds `graph` to its `weights` and plans its memory.
    ///
    /// # Errors
    /// When a weight is missing or of another shape, or the plan does not fit into memory.
    fn compile<'w>(
        &self,
        graph: Graph,
        weights: &WeightSource<'w>,
    ) -> Result<Box<dyn Executable + 'w>, Error>;

    /// The memory that [`compile`](Backend::compile) and runs of the result will take, without allocating it.
    ///
    /// # Errors
    /// When a weight is missing or of another shape.
    fn footprint(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Footprint, Error>;

    /// The expected time of a run of `graph`. The first call measures the machine, some tenths of a second.
    ///
    /// # Errors
    /// When a weight is missing or of another shape.
    fn cost(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Cost, Error>;

    /// The number of rows of a picture that the convolutions of `graph` round together, 1 if each row is
    /// rounded alone. Strips must start at a multiple of this to be bit-identical.
    ///
    /// # Errors
    /// When a weight is missing or of another shape.
    fn row_step(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<usize, Error>;

    /// Whether products of two activations round floats to half precision.
    fn rounds_to_halves(&self) -> bool;

    /// Measures the limits of the device. Takes some tenths of a second.
    ///
    /// # Errors
    /// When the device fails.
    fn limits(&self) -> Result<Limits, Error>;

    /// Bytes of device memory that graphs can still allocate; `None` if graphs use the memory of the process.
    fn memory_left(&self) -> Option<u64>;

    /// A backend for a run that does not fit on this one; `None` if there is no other.
    fn fallback(&self) -> Option<Arc<dyn Backend>>;
}

/// A graph that is ready to run any number of times.
pub trait Executable: Send {
    /// Sets an input for this and all later runs.
    ///
    /// # Panics
    /// If the graph has no input `name`, or its length is another.
    fn set_input(&mut self, name: &str, values: &[f32]);

    /// An input or a kept tensor, to be set in parts. It holds the values of earlier runs.
    fn input_mut(&mut self, name: &str) -> &mut [f32];

    /// Runs all ops.
    ///
    /// # Errors
    /// When the device fails; the inputs keep their values.
    fn run(&mut self) -> Result<(), Error>;

    /// Runs only the ops that the outputs need beside the kept tensors, which keep the values of the last
    /// whole run or those that were set.
    ///
    /// # Errors
    /// As [`run`](Executable::run).
    fn run_beside_kept(&mut self) -> Result<(), Error>;

    /// Runs all ops, and calls `watch` with the left operand of each product before the product runs: its
    /// weight, and its input `[.., channels]` in f32. Products with quantized weights are left out, because
    /// their operands are not f32 values.
    ///
    /// # Errors
    /// As [`run`](Executable::run).
    fn run_watched(&mut self, watch: &mut dyn FnMut(&WeightSpec, &[f32])) -> Result<(), Error>;

    /// Runs all ops, and calls `report` for each of them, in order, with its duration. The graph is the one
    /// that the backend prepared.
    ///
    /// # Errors
    /// As [`run`](Executable::run).
    fn run_timed(
        &mut self,
        report: &mut dyn FnMut(&PreparedGraph, &PreparedNode, Duration),
    ) -> Result<(), Error>;

    /// An output of the last run, or a kept tensor.
    ///
    /// # Panics
    /// If the graph has no output or kept tensor `name`.
    fn output(&self, name: &str) -> &[f32];

    /// Names of the outputs, in the order in which the graph declares them.
    fn output_names(&self) -> Vec<String>;
}
