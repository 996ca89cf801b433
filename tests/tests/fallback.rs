//! A device that fails in the middle of a run: the picture is finished on the processor, and it is the same.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sdq_engine::{
    Error, Generated, Pipeline, PipelineOptions, Request,
    backend::{
        Backend, Cost, Executable, Footprint, Limits, WeightSource, cpu::CpuBackend, fallback::WithFallback,
        vulkan::VulkanError,
    },
    graph::{Graph, PreparedGraph, PreparedNode},
    pipeline::Caching,
};
use sdq_formats::{WeightSpec, WeightType};
use sdq_tests::models::Model;

/// A device, played by the processor, whose kernels fail from a certain run on and leave nonsense.
#[derive(Debug)]
struct Failing {
    inner: CpuBackend,
    error: VulkanError,
    /// Runs, and compilations, until it fails.
    left: Arc<AtomicUsize>,
    fails_to_compile: bool,
    /// Bytes that graphs may take.
    memory: Option<u64>,
}

impl Failing {
    /// Whether this is the time; from then on it is always.
    fn fails(left: &AtomicUsize) -> bool {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

impl Backend for Failing {
    fn description(&self) -> String {
        "a device that fails".to_owned()
    }

    fn compile<'w>(
        &self,
        graph: Graph,
        weights: &WeightSource<'w>,
    ) -> Result<Box<dyn Executable + 'w>, Error> {
        if self.fails_to_compile && Failing::fails(&self.left) {
            return Err(self.error.clone().into());
        }
        let inner = self.inner.compile(graph, weights)?;
        let left =
            if self.fails_to_compile { Arc::new(AtomicUsize::new(usize::MAX)) } else { self.left.clone() };
        Ok(Box::new(FailingExecutable { inner, error: self.error.clone(), left }))
    }

    fn footprint(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Footprint, Error> {
        self.inner.footprint(graph, weights)
    }

    fn cost(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Cost, Error> {
        self.inner.cost(graph, weights)
    }

    fn row_step(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<usize, Error> {
        self.inner.row_step(graph, weights)
    }

    fn rounds_to_halves(&self) -> bool {
        self.inner.rounds_to_halves()
    }

    fn limits(&self) -> Result<Limits, Error> {
        self.inner.limits()
    }

    fn memory_left(&self) -> Option<u64> {
        self.memory
    }

    fn fallback(&self) -> Option<Arc<dyn Backend>> {
        None
    }
}

struct FailingExecutable<'w> {
    inner: Box<dyn Executable + 'w>,
    error: VulkanError,
    left: Arc<AtomicUsize>,
}

impl FailingExecutable<'_> {
    fn attempt(&mut self) -> Result<(), Error> {
        if Failing::fails(&self.left) { Err(self.error.clone().into()) } else { Ok(()) }
    }
}

impl Executable for FailingExecutable<'_> {
    fn set_input(&mut self, name: &str, values: &[f32]) {
        self.inner.set_input(name, values);
    }

    fn input_mut(&mut self, name: &str) -> &mut [f32] {
        self.inner.input_mut(name)
    }

    fn run(&mut self) -> Result<(), Error> {
        self.attempt()?;
        self.inner.run()
    }

    fn run_beside_kept(&mut self) -> Result<(), Error> {
        self.attempt()?;
        self.inner.run_beside_kept()
    }

    fn run_watched(&mut self, watch: &mut dyn FnMut(&WeightSpec, &[f32])) -> Result<(), Error> {
        self.inner.run_watched(watch)
    }

    fn run_timed(
        &mut self,
        report: &mut dyn FnMut(&PreparedGraph, &PreparedNode, Duration),
    ) -> Result<(), Error> {
        self.inner.run_timed(report)
    }

    fn output(&self, name: &str) -> &[f32] {
        self.inner.output(name)
    }

    fn output_names(&self) -> Vec<String> {
        self.inner.output_names()
    }
}

fn generate(pipeline: &Pipeline, request: &Request) -> Generated {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"))
}

/// What came of a run.
struct Drawn {
    generated: Generated,
    said: Vec<String>,
    /// What later runs would use.
    backend: String,
    /// Runs, or compilations, that the device did not fail at and was not asked for.
    left: usize,
}

/// Draws on a device that fails after `left`.
fn draw(model: &Model, request: &Request, error: &VulkanError, left: usize, fails_to_compile: bool) -> Drawn {
    let cpu = || CpuBackend::new(std::num::NonZeroUsize::new(2)).unwrap();
    let left = Arc::new(AtomicUsize::new(left));
    let failing =
        Failing { inner: cpu(), error: error.clone(), left: left.clone(), fails_to_compile, memory: None };
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let listener = said.clone();
    let notice = Arc::new(move |words: &str| listener.lock().unwrap().push(words.to_owned()));
    let backend = Arc::new(WithFallback::new(Arc::new(failing), Arc::new(cpu()), notice));
    let options = PipelineOptions { backend: Some(backend), ..PipelineOptions::default() };
    let pipeline = model.open_with(&options);
    let generated = generate(&pipeline, request);
    let said = said.lock().unwrap().clone();
    Drawn { generated, said, backend: pipeline.backend_description(), left: left.load(Ordering::Relaxed) }
}

#[test]
fn whenever_a_device_is_lost_the_picture_is_finished() {
    let model = Model::convert("sd1", WeightType::Q8);
    for caching in [Caching::None, Caching::Deep { every: 2, skip: 0 }] {
        let request = Request::new("a fox").steps(4).seed(3).caching(caching);
        let expected = generate(&model.open(2), &request);
        let lost = |left: usize| draw(&model, &request, &VulkanError::DeviceLost, left, false);
        // Text encoder, time biases, prompt, four steps, decoder at least.
        let runs = 100 - lost(100).left;
        assert!(runs >= 8, "{runs} runs");
        for left in 0..=runs {
            let Drawn { generated, said, backend, .. } = lost(left);
            assert_eq!(generated.latents, expected.latents, "lost after {left} runs, {caching}");
            assert_eq!(generated.pictures, expected.pictures, "lost after {left} runs, {caching}");
            assert_eq!(said.len(), usize::from(left < runs), "after {left} runs: {said:?}");
            assert_eq!(backend.starts_with("cpu"), left < runs, "after {left} runs: {backend}");
        }
    }
}

#[test]
fn what_a_device_has_no_memory_for_runs_on_the_processor_and_the_rest_does_not() {
    let model = Model::convert("sd1", WeightType::Q8);
    let request = Request::new("a fox").steps(3).seed(3);
    let expected = generate(&model.open(2), &request);
    let error = VulkanError::OutOfMemory { bytes: 1 << 40 };
    let graphs = 100 - draw(&model, &request, &error, 100, true).left;
    assert!(graphs >= 5, "{graphs} graphs");
    for left in 0..=graphs {
        let Drawn { generated, said, backend, .. } = draw(&model, &request, &error, left, true);
        assert_eq!(generated.pictures, expected.pictures, "no memory after {left} graphs");
        // Each graph that does not fit is told of; the device stays in use.
        assert_eq!(said.len(), graphs - left, "{said:?}");
        assert!(backend.starts_with("a device"), "{backend}");
    }
}

/// One run that does not fit does not cost the device the next one.
#[test]
fn a_run_that_does_not_fit_goes_to_the_processor_and_a_smaller_one_does_not() {
    let model = Model::convert("sd1", WeightType::Q8);
    let on_cpu = model.open(2);
    let [small, large] = [32, 256].map(|side| Request::new("a fox").steps(2).size(side, side));
    let takes = |request: &Request| {
        let plan = on_cpu.plan(request).unwrap();
        plan.peak() - plan.phases[0].bytes
    };
    let least = match on_cpu.with_max_memory(Some(1)).plan(&large) {
        Err(Error::DoesNotFit { needed, .. }) => needed - on_cpu.plan(&large).unwrap().phases[0].bytes,
        other => panic!("one byte is enough: {other:?}"),
    };
    assert!(takes(&small) < least / 2, "{} and {least}", takes(&small));
    let cpu = || CpuBackend::new(std::num::NonZeroUsize::new(2)).unwrap();
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let runs = left.clone();
    let device = Failing {
        inner: cpu(),
        error: VulkanError::DeviceLost,
        left,
        fails_to_compile: false,
        memory: Some(least / 2),
    };
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let listener = said.clone();
    let notice = Arc::new(move |words: &str| listener.lock().unwrap().push(words.to_owned()));
    let backend = Arc::new(WithFallback::new(Arc::new(device), Arc::new(cpu()), notice));
    let pipeline = model.open_with(&PipelineOptions { backend: Some(backend), ..PipelineOptions::default() });

    let plan = pipeline.plan(&large).unwrap();
    assert!(plan.on_fallback && pipeline.predict_time(&plan).unwrap().total() > 0.0);
    assert_eq!(generate(&pipeline, &large).pictures, generate(&on_cpu, &large).pictures);
    assert_eq!(runs.load(Ordering::Relaxed), usize::MAX, "nothing of it ran on the device");
    assert_eq!(said.lock().unwrap().len(), 1, "it is said once");
    assert!(!pipeline.plan(&small).unwrap().on_fallback);
    generate(&pipeline, &small);
    assert!(runs.load(Ordering::Relaxed) < usize::MAX, "the small one ran on the device");
}
