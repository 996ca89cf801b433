//! What runs a graph. Models never name a backend; a backend knows ops and nothing of models.

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

/// What a graph takes of memory that no file backs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// As long as its executable lives.
    pub executable: u64,
    /// Working memory that the backend keeps once the graph has run, and uses again for others: of several graphs the
    /// most counts.
    pub scratch: u64,
}

/// What a run of a graph takes of time, before it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Multiply-adds of integers.
    pub integer: u64,
    /// Multiply-adds of floats.
    pub float: u64,
    /// Seconds of one run, by the rates of this machine.
    pub seconds: f64,
    /// Seconds that the first run takes more, because it is the first to touch its memory.
    pub first: f64,
}

impl Cost {
    /// Of running once and never again.
    pub fn once(&self) -> f64 {
        self.seconds + self.first
    }
}

/// What a device can do at most in a second, measured beside what is held against it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Multiply-adds of bytes that do not leave the registers.
    pub integer: f64,
    /// Single-precision multiply-adds that do not leave the registers.
    pub float: f64,
    /// Bytes that are copied, read and written counted once, from and to memory that no cache holds.
    pub copy: f64,
}

impl Limits {
    /// The seconds that so many multiply-adds of bytes and of floats take at least.
    pub fn seconds(&self, integer: u64, float: u64) -> f64 {
        integer as f64 / self.integer + float as f64 / self.float
    }
}

/// Makes graphs runnable on one kind of device.
///
/// No method has a default: a backend that wraps another one must say of each what it does, so that none is lost on the way.
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// What `sdq info` shows: device, instruction set, threads.
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

    /// What [`compile`](Backend::compile) and runs of the result will take, without taking it.
    ///
    /// # Errors
    /// When a weight is missing or of another shape.
    fn footprint(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Footprint, Error>;

    /// What runs of `graph` will take of time. The first call measures the machine, some tenths of a second.
    ///
    /// # Errors
    /// When a weight is missing or of another shape.
    fn cost(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Cost, Error>;

    /// Rows of a picture that the convolutions of `graph` round together, 1 if each row is rounded alone: strips must start at
    /// a multiple of this to be bit-identical.
    ///
    /// # Errors
    /// When a weight is missing or of another shape.
    fn row_step(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<usize, Error>;

    /// Whether floats are rounded to halves before they are multiplied with each other.
    fn rounds_to_halves(&self) -> bool;

    /// What the device can do at most. Takes some tenths of a second.
    ///
    /// # Errors
    /// When the device fails.
    fn limits(&self) -> Result<Limits, Error>;

    /// Bytes that graphs can still take of memory that is not the process's own; `None` if graphs take the process's memory.
    fn memory_left(&self) -> Option<u64>;

    /// A backend for a run that does not fit on this one; `None` if there is no other.
    fn fallback(&self) -> Option<Arc<dyn Backend>>;
}

/// A graph that is ready to run, over and over.
pub trait Executable: Send {
    /// Sets an input for this and all later runs. `name` and length are the graph's own: anything else is a bug
    /// of the caller and panics.
    fn set_input(&mut self, name: &str, values: &[f32]);

    /// An input or a kept tensor, to set it in parts. Its values are those of earlier runs.
    fn input_mut(&mut self, name: &str) -> &mut [f32];

    /// Runs all ops.
    ///
    /// # Errors
    /// When the device fails; inputs are then still what was set.
    fn run(&mut self) -> Result<(), Error>;

    /// Runs the ops that the outputs need beside the kept tensors, which are as the last whole run left them or as they were
    /// set.
    ///
    /// # Errors
    /// As [`run`](Executable::run).
    fn run_beside_kept(&mut self) -> Result<(), Error>;

    /// Runs all ops, and shows `watch` what each product is about to read: its weight, and its input `[.., channels]`
    /// in f32. Products with quantized weights are not shown; theirs are no f32 values.
    ///
    /// # Errors
    /// As [`run`](Executable::run).
    fn run_watched(&mut self, watch: &mut dyn FnMut(&WeightSpec, &[f32])) -> Result<(), Error>;

    /// Runs all ops, and tells `report` of each, in order, how long it took. The graph is the one that the backend prepared.
    ///
    /// # Errors
    /// As [`run`](Executable::run).
    fn run_timed(
        &mut self,
        report: &mut dyn FnMut(&PreparedGraph, &PreparedNode, Duration),
    ) -> Result<(), Error>;

    /// An output of the last run, or a kept tensor. `name` is the graph's own: anything else panics.
    fn output(&self, name: &str) -> &[f32];

    /// Names of the outputs, in the order in which the graph declares them.
    fn output_names(&self) -> Vec<String>;
}
