//! A device that fails during a run: the processor finishes the picture, with the same result.

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use sdq_engine::{
    Error, Generated, Pipeline, PipelineOptions, Request,
    backend::{cpu::CpuBackend, fallback::WithFallback, vulkan::VulkanError},
    pipeline::Caching,
};
use sdq_formats::WeightType;
use sdq_tests::{
    backend::{Hooked, Hooks},
    models::Model,
};

/// A device that fails from a certain call on.
#[derive(Debug)]
struct Failing {
    error: VulkanError,
    /// Runs, or compilations, until it fails.
    left: AtomicUsize,
    fails_to_compile: bool,
    /// Bytes that graphs may allocate.
    memory: Option<u64>,
}

impl Failing {
    fn new(error: VulkanError, left: usize) -> Failing {
        Failing { error, left: AtomicUsize::new(left), fails_to_compile: false, memory: None }
    }

    fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Counts down; fails at zero and ever after.
    fn attempt(&self) -> Result<(), Error> {
        let counted =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        counted.map(|_| ()).map_err(|_| self.error.clone().into())
    }
}

impl Hooks for Failing {
    fn compile(&self, _: &str) -> Result<(), Error> {
        if self.fails_to_compile { self.attempt() } else { Ok(()) }
    }

    fn run(&self, _: usize) -> Result<(), Error> {
        if self.fails_to_compile { Ok(()) } else { self.attempt() }
    }

    fn memory_left(&self) -> Option<u64> {
        self.memory
    }
}

/// Notices that were shown.
type Said = Arc<Mutex<Vec<String>>>;

/// A model on a device that fails, with the CPU beside it.
fn open(model: &Model, device: &Arc<Failing>) -> (Pipeline, Said) {
    let cpu = || CpuBackend::new(NonZeroUsize::new(2)).unwrap();
    let said = Said::default();
    let listener = said.clone();
    let notice = Arc::new(move |words: &str| listener.lock().unwrap().push(words.to_owned()));
    let device = Hooked::new(cpu(), "a device that fails", device.clone());
    let backend = Arc::new(WithFallback::new(Arc::new(device), Arc::new(cpu()), notice));
    let options = PipelineOptions { backend: Some(backend), ..PipelineOptions::default() };
    (model.open_with(&options), said)
}

fn generate(pipeline: &Pipeline, request: &Request) -> Generated {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"))
}

/// The result of a run.
struct Drawn {
    generated: Generated,
    said: Vec<String>,
    /// The backend that later runs would use.
    backend: String,
    /// The number of runs, or compilations, left when the run was finished.
    left: usize,
}

/// Draws on `device`.
fn draw(model: &Model, request: &Request, device: Failing) -> Drawn {
    let device = Arc::new(device);
    let (pipeline, said) = open(model, &device);
    let generated = generate(&pipeline, request);
    let said = said.lock().unwrap().clone();
    Drawn { generated, said, backend: pipeline.backend_description(), left: device.left() }
}

#[test]
fn whenever_a_device_is_lost_the_picture_is_finished() {
    let model = Model::convert("sd1", WeightType::Q8);
    for caching in [Caching::None, Caching::Deep { every: 2, skip: 0 }] {
        let request = Request::new("a fox").steps(4).seed(3).caching(caching);
        let expected = generate(&model.open(2), &request);
        let lost = |left: usize| draw(&model, &request, Failing::new(VulkanError::DeviceLost, left));
        // At least text encoder, time biases, prompt, four steps, decoder.
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
    let out_of_memory = |left: usize| {
        let device = Failing::new(VulkanError::OutOfMemory { bytes: 1 << 40 }, left);
        draw(&model, &request, Failing { fails_to_compile: true, ..device })
    };
    let graphs = 100 - out_of_memory(100).left;
    assert!(graphs >= 5, "{graphs} graphs");
    for left in 0..=graphs {
        let Drawn { generated, said, backend, .. } = out_of_memory(left);
        assert_eq!(generated.pictures, expected.pictures, "no memory after {left} graphs");
        // A notice is shown for each graph that does not fit; the device stays in use.
        assert_eq!(said.len(), graphs - left, "{said:?}");
        assert!(backend.starts_with("a device"), "{backend}");
    }
}

/// A run that does not fit does not prevent the next one from using the device.
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
    let device = Failing::new(VulkanError::DeviceLost, usize::MAX);
    let device = Arc::new(Failing { memory: Some(least / 2), ..device });
    let (pipeline, said) = open(&model, &device);

    let plan = pipeline.plan(&large).unwrap();
    assert!(plan.on_fallback && pipeline.predict_time(&plan).unwrap().total() > 0.0);
    assert_eq!(generate(&pipeline, &large).pictures, generate(&on_cpu, &large).pictures);
    assert_eq!(device.left(), usize::MAX, "nothing of it ran on the device");
    assert_eq!(said.lock().unwrap().len(), 1, "it is said once");
    assert!(!pipeline.plan(&small).unwrap().on_fallback);
    generate(&pipeline, &small);
    assert!(device.left() < usize::MAX, "the small one ran on the device");
}
