//! A run does what its plan says: the same graphs, compiled and run as often. And what is kept is not compiled again.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sdq_engine::{
    Error, Generated, Mask, Picture, Pipeline, PipelineOptions, Request,
    backend::{Backend, Cost, Executable, Footprint, Limits, WeightSource, cpu::CpuBackend},
    graph::{Graph, PreparedGraph, PreparedNode},
    pipeline::{Caching, Compiled, EncodedPicture},
};
use sdq_formats::{WeightSpec, WeightType};
use sdq_tests::models::Model;

/// For every compiled graph, in order: its component, and how often it has run.
type Log = Arc<Mutex<Vec<(String, usize)>>>;

/// The processor, with a log.
#[derive(Debug)]
struct Counting {
    inner: CpuBackend,
    log: Log,
}

impl Backend for Counting {
    fn description(&self) -> String {
        self.inner.description()
    }

    fn compile<'w>(
        &self,
        graph: Graph,
        weights: &WeightSource<'w>,
    ) -> Result<Box<dyn Executable + 'w>, Error> {
        let inner = self.inner.compile(graph, weights)?;
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push((weights.name().to_owned(), 0));
        Ok(Box::new(Counted { inner, index: log.len() - 1, log: self.log.clone() }))
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
        self.inner.memory_left()
    }

    fn fallback(&self) -> Option<Arc<dyn Backend>> {
        self.inner.fallback()
    }
}

struct Counted<'w> {
    inner: Box<dyn Executable + 'w>,
    index: usize,
    log: Log,
}

impl Counted<'_> {
    fn count(&self) {
        // A graph that is kept outlives the log that it was compiled into.
        if let Some(entry) = self.log.lock().unwrap_or_else(PoisonError::into_inner).get_mut(self.index) {
            entry.1 += 1;
        }
    }
}

impl Executable for Counted<'_> {
    fn set_input(&mut self, name: &str, values: &[f32]) {
        self.inner.set_input(name, values);
    }

    fn input_mut(&mut self, name: &str) -> &mut [f32] {
        self.inner.input_mut(name)
    }

    fn run(&mut self) -> Result<(), Error> {
        self.count();
        self.inner.run()
    }

    fn run_beside_kept(&mut self) -> Result<(), Error> {
        self.count();
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

fn open(model: &Model) -> (Pipeline, Log) {
    let log = Log::default();
    let backend = Counting { inner: CpuBackend::new(None).unwrap(), log: log.clone() };
    let options = PipelineOptions { backend: Some(Arc::new(backend)), ..PipelineOptions::default() };
    (Pipeline::open(&model.path(), &options).unwrap(), log)
}

fn take(log: &Log) -> Vec<(String, usize)> {
    std::mem::take(&mut log.lock().unwrap_or_else(PoisonError::into_inner))
}

fn picture(side: usize) -> Picture {
    let rgb = (0..side * side * 3).map(|index| (index * 7919 % 251) as u8).collect();
    Picture { width: side, height: side, rgb }
}

fn mask(side: usize) -> Mask {
    let values = (0..side * side).map(|index| if index % side < side / 2 { 255 } else { 0 }).collect();
    Mask { width: side, height: side, values }
}

/// A request, and the pictures that it encodes.
fn cases(name: &str) -> Vec<(Request, Vec<EncodedPicture>)> {
    use EncodedPicture::{Edited, Masked, Start};
    let side = 32;
    let plain = Request::new("a red apple").size(side, side).steps(4);
    let pictured = plain.clone().init_image(picture(side));
    let masked = pictured.clone().mask(mask(side));
    match name {
        "inpaint" => vec![
            (masked.clone(), vec![Masked]),
            (masked.clone().strength(0.6), vec![Start, Masked]),
            (masked.guidance_scale(1.0).count(2), vec![Masked]),
        ],
        "pix2pix" => vec![(pictured.clone(), vec![Edited]), (pictured.count(3), vec![Edited])],
        _ => vec![
            (plain.clone(), vec![]),
            (plain.clone().guidance_scale(1.0).count(5), vec![]),
            (plain.clone().count(6).scheduler("heun"), vec![]),
            (plain.clone().caching(Caching::Deep { every: 2, skip: 0 }), vec![]),
            (pictured.clone().strength(0.5), vec![Start]),
            // Only inpainting models read the masked picture.
            (masked.clone(), vec![Start]),
            (masked.strength(0.5).count(2), vec![Start]),
        ],
    }
}

/// The planned graphs as the log counts them: one entry for each compilation.
fn expected(pipeline: &Pipeline, request: &Request) -> Vec<(String, usize)> {
    let plan = pipeline.plan(request).unwrap();
    let graphs = pipeline.planned_graphs(&plan).into_iter();
    let entries = graphs.flat_map(|(component, compiles, runs)| {
        std::iter::repeat_n((component.to_owned(), runs / compiles), compiles)
    });
    entries.collect()
}

fn sorted(mut log: Vec<(String, usize)>) -> Vec<(String, usize)> {
    log.sort();
    log
}

#[test]
fn a_run_compiles_and_runs_what_its_plan_says() {
    for name in ["sd1", "sdxl", "inpaint", "pix2pix", "lcm"] {
        let model = Model::convert(name, WeightType::F16);
        let (pipeline, log) = open(&model);
        for (request, encodes) in cases(name) {
            // Memory decides how a run is cut: all branches together, and one after the other.
            let least = match pipeline.with_max_memory(Some(1)).plan(&request) {
                Err(Error::DoesNotFit { needed, .. }) => needed,
                other => panic!("one byte is enough: {other:?}"),
            };
            for pipeline in [pipeline.clone(), pipeline.with_max_memory(Some(least))] {
                let plan = pipeline.plan(&request).unwrap();
                assert_eq!(plan.run.encodes, encodes, "{name} {request:?}");
                let expected = sorted(expected(&pipeline, &request));
                take(&log);
                let mut steps = 0;
                let observer = &mut |event: sdq_engine::Event<'_>| {
                    steps += usize::from(matches!(event, sdq_engine::Event::Step { .. }));
                    ControlFlow::Continue(())
                };
                pipeline.generate(&request, observer).unwrap();
                assert_eq!(steps, plan.run.steps(), "{name}");
                let cut = !plan.decoding.strips.is_empty() || plan.decoding.stages > 1;
                let is_seen = |entry: &(String, usize)| !cut || entry.0 != "vae";
                let found: Vec<_> = take(&log).into_iter().filter(is_seen).collect();
                let expected: Vec<_> = expected.into_iter().filter(is_seen).collect();
                assert_eq!(sorted(found), expected, "{name} {:?}", plan.batching);
            }
        }
    }
}

fn draw<'w>(
    pipeline: &'w Pipeline,
    request: &Request,
    max_memory: Option<u64>,
    compiled: &mut Compiled<'w>,
) -> Generated {
    let run = pipeline.prepare(request, max_memory).unwrap();
    pipeline.generate_prepared(&run, compiled, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn a_second_picture_of_the_same_size_compiles_nothing() {
    let model = Model::convert("sdxl", WeightType::F16);
    let (pipeline, log) = open(&model);
    let go_on = &mut |_: sdq_engine::Event<'_>| ControlFlow::Continue(());
    let mut compiled = Compiled::kept();
    let first = Request::new("a red apple").size(64, 64).steps(3).seed(1);
    let second = first.clone().seed(2);
    let alone = [&first, &second].map(|request| pipeline.generate(request, go_on).unwrap());
    take(&log);
    let kept = draw(&pipeline, &first, None, &mut compiled);
    assert_eq!((kept.pictures, kept.latents), (alone[0].pictures.clone(), alone[0].latents.clone()));
    assert_eq!(take(&log).len(), compiled.count());
    let kept = draw(&pipeline, &second, None, &mut compiled);
    assert_eq!((kept.pictures, kept.latents), (alone[1].pictures.clone(), alone[1].latents.clone()));
    assert_eq!(take(&log), []);
    // Another prompt and another scheduler are no other graphs; another size is, and the old graphs go.
    draw(&pipeline, &first.clone().scheduler("euler"), None, &mut compiled);
    assert_eq!(take(&log), []);
    let count = compiled.count();
    draw(&pipeline, &first.clone().size(96, 64), None, &mut compiled);
    assert!(!take(&log).is_empty());
    assert_eq!(compiled.count(), count);
    // Where memory is short, nothing is kept.
    let least = match pipeline.with_max_memory(Some(1)).plan(&first) {
        Err(Error::DoesNotFit { needed, .. }) => needed,
        other => panic!("one byte is enough: {other:?}"),
    };
    let mut compiled = Compiled::kept();
    let tight = draw(&pipeline, &first, Some(least), &mut compiled);
    assert_eq!((tight.pictures, compiled.count()), (alone[0].pictures.clone(), 0));
}
