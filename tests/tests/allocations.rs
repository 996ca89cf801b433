//! The denoising loop allocates all its memory in its first step: no thread allocates between the second step
//! and the last.

use std::ops::ControlFlow;

use sdq_engine::{Event, Pipeline, Request, pipeline::Caching};
use sdq_formats::WeightType;
use sdq_schedulers::{NoiseSource, SchedulerConfig, create, schedulers};
use sdq_tests::{
    allocator::Counting,
    measure::Table,
    models::{Model, demo_model},
    vulkan,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

struct Wave(f32);

impl NoiseSource for Wave {
    fn fill_standard_normal(&mut self, out: &mut [f32]) {
        for value in out {
            self.0 += 1.0;
            *value = self.0.sin();
        }
    }
}

/// Number of allocations of a scheduler from its second step on.
fn of_scheduler(name: &str, config: &str) -> usize {
    let config = SchedulerConfig::from_json(config).unwrap();
    let mut scheduler = create(name, &config, 12).unwrap();
    let steps = scheduler.timesteps().len();
    let (mut latents, mut original) = (vec![0.5; 256], vec![0.0; 256]);
    let (noise_pred, mut noise) = (vec![0.1; 256], Wave(0.0));
    let mut before = 0;
    for step in 0..steps {
        if step == 1 {
            before = ALLOCATOR.calls();
        }
        scheduler.scale_model_input(&mut original, step).unwrap();
        scheduler.predict_original(&noise_pred, step, &latents, &mut original).unwrap();
        scheduler.step(&noise_pred, step, &mut latents, &mut noise).unwrap();
    }
    ALLOCATOR.calls() - before
}

/// Number of allocations of a run between the end of its second step and the end of its last.
fn of_run(pipeline: &Pipeline, request: &Request) -> usize {
    let (mut before, mut after) = (0, 0);
    pipeline
        .generate(request, &mut |event| {
            if let Event::Step { step, steps, .. } = event {
                let now = ALLOCATOR.calls();
                match step {
                    1 => before = now,
                    step if step + 1 == steps => after = now,
                    _ => {}
                }
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(before > 0 && after >= before, "the run had a second step and a last one");
    after - before
}

/// A single test: with a second one, or with the output of the test harness, it would count foreign
/// allocations.
#[test]
fn steps_allocate_nothing() {
    scheduler_steps();
    denoising_steps();
}

fn scheduler_steps() {
    let mut table = Table::default();
    for entry in schedulers() {
        for config in ["{}", r#"{"thresholding": true, "sample_max_value": 2}"#] {
            table.equal(&format!("{} {config}", entry.name), &of_scheduler(entry.name, config), &0);
        }
    }
    table.finish();
}

fn denoising_steps() {
    let mut table = Table::default();
    let pipeline = Model::convert_folder(&demo_model(), WeightType::Q8).open(2);
    let plain = Request::new("a red apple").steps(8);
    for entry in schedulers() {
        let request = plain.clone().scheduler(entry.name);
        table.equal(&format!("a run with {}", entry.name), &of_run(&pipeline, &request), &0);
    }
    // The same on a device: everything that is submitted has been recorded before.
    if let Some(device) = vulkan::device() {
        let pipeline =
            Model::convert_folder(&demo_model(), WeightType::Q8).open_with(&vulkan::options(&device));
        table.equal("a run on a device", &of_run(&pipeline, &plain.clone().steps(4)), &0);
    }
    for caching in [Caching::Deep { every: 3, skip: 1 }, Caching::Guidance { every: 2 }] {
        let request = plain.clone().caching(caching);
        table.equal(&format!("a run with {caching}"), &of_run(&pipeline, &request), &0);
    }
    table.finish();
}
