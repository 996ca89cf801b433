//! A run follows its plan: the same graphs are compiled and run, equally often. Graphs that are kept are not
//! compiled again.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use sdq_engine::{
    Error, Generated, Mask, Picture, Pipeline, PipelineOptions, Request,
    backend::cpu::CpuBackend,
    pipeline::{Caching, Compiled, EncodedPicture},
};
use sdq_formats::WeightType;
use sdq_tests::{
    backend::{Hooked, Hooks},
    models::Model,
};

/// For every compiled graph, in order: its component, and how often it has run.
#[derive(Debug, Default)]
struct Log {
    entries: Mutex<Vec<(String, usize)>>,
    /// Graphs that were compiled before the first entry.
    taken: AtomicUsize,
}

impl Log {
    fn entries(&self) -> MutexGuard<'_, Vec<(String, usize)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes all entries.
    fn take(&self) -> Vec<(String, usize)> {
        let entries = std::mem::take(&mut *self.entries());
        self.taken.fetch_add(entries.len(), Ordering::Relaxed);
        entries
    }
}

impl Hooks for Log {
    fn compile(&self, component: &str) -> Result<(), Error> {
        self.entries().push((component.to_owned(), 0));
        Ok(())
    }

    fn run(&self, index: usize) -> Result<(), Error> {
        // A kept graph may have been compiled before the current entries.
        if let Some(index) = index.checked_sub(self.taken.load(Ordering::Relaxed)) {
            self.entries()[index].1 += 1;
        }
        Ok(())
    }
}

fn open(model: &Model) -> (Pipeline, Arc<Log>) {
    let log = Arc::new(Log::default());
    let backend = Hooked::new(CpuBackend::new(None).unwrap(), "cpu, counted", log.clone());
    let options = PipelineOptions { backend: Some(Arc::new(backend)), ..PipelineOptions::default() };
    (Pipeline::open(&model.path(), &options).unwrap(), log)
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

/// The planned graphs in the form of the log: one entry for each compilation.
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
            // The memory limit decides how a run is cut: all branches together, and one after the other.
            let least = match pipeline.with_max_memory(Some(1)).plan(&request) {
                Err(Error::DoesNotFit { needed, .. }) => needed,
                other => panic!("one byte is enough: {other:?}"),
            };
            for pipeline in [pipeline.clone(), pipeline.with_max_memory(Some(least))] {
                let plan = pipeline.plan(&request).unwrap();
                assert_eq!(plan.run.encodes, encodes, "{name} {request:?}");
                let expected = sorted(expected(&pipeline, &request));
                log.take();
                let mut steps = 0;
                let observer = &mut |event: sdq_engine::Event<'_>| {
                    steps += usize::from(matches!(event, sdq_engine::Event::Step { .. }));
                    ControlFlow::Continue(())
                };
                pipeline.generate(&request, observer).unwrap();
                assert_eq!(steps, plan.run.steps(), "{name}");
                let cut = !plan.decoding.strips.is_empty() || plan.decoding.stages > 1;
                let is_seen = |entry: &(String, usize)| !cut || entry.0 != "vae";
                let found: Vec<_> = log.take().into_iter().filter(is_seen).collect();
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
    log.take();
    let kept = draw(&pipeline, &first, None, &mut compiled);
    assert_eq!((kept.pictures, kept.latents), (alone[0].pictures.clone(), alone[0].latents.clone()));
    assert_eq!(log.take().len(), compiled.count());
    let kept = draw(&pipeline, &second, None, &mut compiled);
    assert_eq!((kept.pictures, kept.latents), (alone[1].pictures.clone(), alone[1].latents.clone()));
    assert_eq!(log.take(), []);
    // Another prompt or scheduler uses the same graphs; another size needs others, and the old ones are
    // dropped.
    draw(&pipeline, &first.clone().scheduler("euler"), None, &mut compiled);
    assert_eq!(log.take(), []);
    let count = compiled.count();
    draw(&pipeline, &first.clone().size(96, 64), None, &mut compiled);
    assert!(!log.take().is_empty());
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
