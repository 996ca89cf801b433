//! A backend with answers chosen by a test, which runs nothing.

use std::sync::Arc;

use super::{Backend, Cost, DeviceError, DeviceProblem, Executable, Footprint, Limits, WeightSource};
use crate::{Error, graph::Graph};

/// The answers. With a problem, everything that can fail returns it, except the row step.
#[derive(Clone, Debug)]
pub(crate) struct Double {
    pub(crate) problem: Option<DeviceProblem>,
    pub(crate) executable_bytes: u64,
    pub(crate) row_step: usize,
    pub(crate) rounds_to_halves: bool,
    pub(crate) memory_left: Option<u64>,
    pub(crate) fallback: Option<Arc<dyn Backend>>,
}

impl Default for Double {
    fn default() -> Double {
        Double {
            problem: None,
            executable_bytes: 0,
            row_step: 1,
            rounds_to_halves: false,
            memory_left: None,
            fallback: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a double runs nothing")]
struct RunsNothing;

impl Double {
    fn answer<T>(&self, value: T) -> Result<T, Error> {
        match self.problem {
            Some(problem) => Err(DeviceError::new(problem, RunsNothing).into()),
            None => Ok(value),
        }
    }
}

impl Backend for Double {
    fn description(&self) -> String {
        "double".to_owned()
    }

    fn compile<'w>(
        &self,
        _graph: Graph,
        _weights: &WeightSource<'w>,
    ) -> Result<Box<dyn Executable + 'w>, Error> {
        let problem = self.problem.unwrap_or(DeviceProblem::Unsupported);
        Err(DeviceError::new(problem, RunsNothing).into())
    }

    fn footprint(&self, _graph: Graph, _weights: &WeightSource<'_>) -> Result<Footprint, Error> {
        self.answer(Footprint { executable: self.executable_bytes, scratch: 0 })
    }

    fn cost(&self, _graph: Graph, _weights: &WeightSource<'_>) -> Result<Cost, Error> {
        self.answer(Cost { seconds: 3.0, ..Cost::default() })
    }

    fn row_step(&self, _graph: Graph, _weights: &WeightSource<'_>) -> Result<usize, Error> {
        Ok(self.row_step)
    }

    fn rounds_to_halves(&self) -> bool {
        self.rounds_to_halves
    }

    fn limits(&self) -> Result<Limits, Error> {
        self.answer(Limits { integer: 1.0, float: 2.0, copy: 3.0 })
    }

    fn memory_left(&self) -> Option<u64> {
        self.memory_left
    }

    fn fallback(&self) -> Option<Arc<dyn Backend>> {
        self.fallback.clone()
    }
}
