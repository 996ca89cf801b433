//! A table of small graphs with odd shapes, for every op and every weight type, with which any backend can be
//! checked.
//!
//! The tests run it on every instruction set and on a software Vulkan device; `sdq doctor` runs it on the
//! devices of a machine. The reference is the scalar code of the CPU backend, whose own tests compare it with
//! sums in double precision.

pub(crate) mod cases;
mod weights;

use std::{
    fs,
    num::NonZeroUsize,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use sdq_formats::sdq::SdqFile;

use super::{
    Backend, WeightSource,
    cpu::{
        CpuBackend,
        simd::{Isa, Scalar},
    },
};
use crate::{Error, graph::Graph};

pub use cases::Kind;

/// How closely two backends have to agree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Agreement {
    /// In every bit: the results are whole numbers that floats hold exactly.
    Exact,
    /// The root of the mean squared difference, divided by that of the reference, is at most this.
    Within(f64),
}

/// Error of products whose operands are rounded to 11 bits.
const HALVES: f64 = 3e-3;

/// A graph with inputs and weights.
#[derive(Clone)]
pub struct Case {
    /// Description: op, type, shape.
    pub name: String,
    /// The kind of kernels that it tests.
    pub kind: Kind,
    agreement: Agreement,
    graph: Graph,
    inputs: Vec<(String, Vec<f32>)>,
    component: String,
}

/// Result of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Whether the difference is within the case's bound.
    pub agrees: bool,
    /// The root of the mean squared difference to the reference, divided by that of the reference.
    pub error: f64,
}

/// All cases, and the file that holds their weights.
pub struct Conformance {
    cases: Vec<Case>,
    file: SdqFile,
    reference: CpuBackend,
    /// Removed once the file is closed.
    _path: Temporary,
}

impl Conformance {
    /// Builds the table. The weights are written to a file in the system's temporary folder.
    ///
    /// # Errors
    /// When that folder cannot be written.
    pub fn new() -> Result<Conformance, Error> {
        Conformance::of(cases::all())
    }

    /// Only the cases in which every bit has to agree: few, but enough to find out whether a device
    /// multiplies correctly.
    ///
    /// # Errors
    /// As [`new`](Conformance::new).
    pub fn exact() -> Result<Conformance, Error> {
        let mut cases = cases::all();
        cases.retain(|case| case.agreement == Agreement::Exact);
        Conformance::of(cases)
    }

    /// A table of one case: `graph`, whose products have weights of `weight_type`.
    #[cfg(test)]
    pub(crate) fn of_graph(graph: Graph, weight_type: sdq_formats::WeightType) -> Result<Conformance, Error> {
        Conformance::of(vec![Case {
            name: String::new(),
            kind: Kind::Product(weight_type),
            agreement: Agreement::Exact,
            graph,
            inputs: Vec::new(),
            component: "case".to_owned(),
        }])
    }

    /// The graph of `case`, with its weights.
    #[cfg(test)]
    pub(crate) fn graph(&self, case: &Case) -> (Graph, WeightSource<'_>) {
        let component = self.file.component(&case.component).expect("there is a component for each case");
        (case.graph.clone(), WeightSource::new(component))
    }

    fn of(cases: Vec<Case>) -> Result<Conformance, Error> {
        let path = Temporary::new();
        weights::write(&path.0, &cases)?;
        let file = SdqFile::open(&path.0)?;
        let reference = CpuBackend::with_isa(NonZeroUsize::new(1), Isa::Scalar(Scalar))?;
        Ok(Conformance { cases, file, reference, _path: path })
    }

    /// The cases, simple ones before those that build on them.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Runs `case` on `backend` and on the reference.
    ///
    /// # Errors
    /// When the backend cannot run it.
    pub fn check(&self, case: &Case, backend: &dyn Backend) -> Result<Outcome, Error> {
        let expected = self.run(case, &self.reference)?;
        let found = self.run(case, backend)?;
        let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
        let difference = expected.iter().zip(&found).map(|(a, b)| f64::from(*a) - f64::from(*b));
        let scale = squares(&mut expected.iter().map(|value| f64::from(*value))).max(f64::MIN_POSITIVE);
        let error = (squares(&mut { difference }) / scale).sqrt();
        let agrees = match case.agreement {
            Agreement::Within(_) if case.kind.may_be_halves() && backend.rounds_to_halves() => {
                error <= HALVES
            }
            Agreement::Exact => expected.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits()),
            // False for NaN.
            Agreement::Within(bound) => error <= bound,
        };
        Ok(Outcome { agrees, error })
    }

    /// Calls `look` while the graph of `case` is compiled for `backend`.
    ///
    /// # Errors
    /// When the backend cannot compile it.
    pub fn while_compiled<T>(
        &self,
        case: &Case,
        backend: &dyn Backend,
        look: impl FnOnce() -> T,
    ) -> Result<T, Error> {
        let component =
            self.file.component(&case.component).ok_or(Error::MissingComponent { component: "case" })?;
        let _compiled = backend.compile(case.graph.clone(), &WeightSource::new(component))?;
        Ok(look())
    }

    /// The outputs of `case` on `backend` after `change` has modified its first input.
    #[cfg(test)]
    pub(super) fn outputs_after(
        &self,
        case: &Case,
        backend: &dyn Backend,
        change: impl FnOnce(&mut [f32]),
    ) -> Result<Vec<f32>, Error> {
        let mut case = case.clone();
        change(&mut case.inputs[0].1);
        self.run(&case, backend)
    }

    /// All outputs, concatenated.
    fn run(&self, case: &Case, backend: &dyn Backend) -> Result<Vec<f32>, Error> {
        let component =
            self.file.component(&case.component).ok_or(Error::MissingComponent { component: "case" })?;
        let mut executable = backend.compile(case.graph.clone(), &WeightSource::new(component))?;
        for (name, values) in &case.inputs {
            executable.set_input(name, values);
        }
        executable.run()?;
        // The second run starts from the memory that the first has left.
        executable.run()?;
        let names = executable.output_names();
        Ok(names.iter().flat_map(|name| executable.output(name).to_vec()).collect())
    }
}

/// A file that is removed when dropped.
struct Temporary(PathBuf);

impl Temporary {
    /// Chooses a name that no other process and no other table uses.
    fn new() -> Temporary {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Temporary(std::env::temp_dir().join(format!("sdq-conformance-{}-{number}.sdq", std::process::id())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // The file was never written, or the system keeps it; neither does harm.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_conforms() {
        let table = Conformance::new().unwrap();
        for &isa in Isa::available() {
            for threads in [1, 3] {
                let backend = CpuBackend::with_isa(NonZeroUsize::new(threads), isa).unwrap();
                for case in table.cases() {
                    let outcome = table.check(case, &backend).unwrap();
                    assert!(
                        outcome.agrees,
                        "{isa:?}, {threads} threads: {}: {:.2e}",
                        case.name, outcome.error
                    );
                }
            }
        }
    }

    /// A backend that is slightly wrong must be detected; otherwise the table would prove nothing.
    #[test]
    fn a_wrong_backend_is_found_out() {
        let table = Conformance::new().unwrap();
        for case in table.cases() {
            let mut wrong = case.clone();
            for (_, values) in &mut wrong.inputs {
                let last = values.len() - 1;
                // Ids are not changed.
                if case.kind != Kind::Embedding {
                    values[last] = values[last] * 1.5 + 1.0;
                }
            }
            if case.kind == Kind::Embedding {
                continue;
            }
            let expected = table.run(case, &table.reference).unwrap();
            let found = table.run(&wrong, &table.reference).unwrap();
            assert_ne!(expected, found, "{}: the last input does not matter", case.name);
        }
    }
}
