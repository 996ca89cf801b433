//! Predicted times, and the commands `sdq bench` and `sdq plan`. The accuracy of predictions is measured on
//! quiet machines, not here; these tests check properties that hold on any machine, such as how times grow.

use std::{num::NonZeroUsize, path::Path, sync::Arc};

use sdq_engine::{
    Pipeline, PipelineOptions, Request,
    backend::{Cost, cpu::CpuBackend},
    pipeline::{Part, TimePlan},
};
use sdq_formats::WeightType;
use sdq_tests::{
    backend::{Hooked, Hooks},
    command,
    models::{Model, demo_model},
};
use serde_json::Value;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

fn predict(pipeline: &Pipeline, request: &Request) -> TimePlan {
    let plan = pipeline.plan(request).unwrap();
    pipeline.predict_time(&plan).unwrap()
}

/// A device that does a billion multiply-adds in a second, whatever this machine does.
#[derive(Debug)]
struct Steady;

impl Hooks for Steady {
    fn cost(&self, cost: Cost) -> Cost {
        Cost { seconds: (cost.integer + cost.float) as f64 / 1e9, first: 0.001, ..cost }
    }
}

#[test]
fn predictions_grow_with_steps_pictures_and_the_work_of_strips() {
    let model = Model::convert_folder(&demo_model(), WeightType::F16);
    let cpu = CpuBackend::new(NonZeroUsize::new(2)).unwrap();
    let backend = Arc::new(Hooked::new(cpu, "steady", Arc::new(Steady)));
    let pipeline = model.open_with(&PipelineOptions { backend: Some(backend), ..PipelineOptions::default() });
    let request = Request { prompt: "a red apple".to_owned(), steps: Some(10), ..Request::default() };
    let one = predict(&pipeline, &request);
    assert!(one.text_encoder > 0.0 && one.unet_once > 0.0 && one.vae_decoder > 0.0, "{one:?}");
    assert_eq!(one.vae_encoder, 0.0);
    assert!((one.steps / one.step - 10.0).abs() < 1e-9, "{one:?}");

    // Five pictures are drawn as four and one.
    let five = predict(&pipeline, &Request { count: 5, ..request.clone() });
    assert!((five.steps - 10.0 * five.step - one.steps).abs() < 1e-9 * five.steps, "{five:?}");
    assert!(five.step > 2.0 * one.step, "four pictures at once take longer than one");
    assert!((five.vae_decoder / one.vae_decoder - 5.0).abs() < 1e-9);

    // Without guidance half of the products remain.
    let unguided = predict(&pipeline, &Request { guidance_scale: Some(1.0), ..request.clone() });
    assert!((0.4..0.8).contains(&(unguided.step / one.step)), "{} of {}", unguided.step, one.step);

    let large = Request { width: Some(256), height: Some(256), ..request };
    let whole = predict(&pipeline, &large);
    let plan = pipeline.plan(&large).unwrap();
    // Memory that the process already holds, including that of other tests, cannot be reduced.
    let open = plan.phases[0].bytes;
    let bounded = pipeline.with_max_memory(Some(open + (plan.peak() - open) * 2 / 3));
    assert!(!bounded.plan(&large).unwrap().decoding.strips.is_empty(), "the decoder is cut");
    let cut = predict(&bounded, &large);
    assert!(cut.vae_decoder > whole.vae_decoder, "{cut:?} against {whole:?}");
}

#[test]
fn parts_have_the_multiply_adds_of_their_graphs() {
    let request = Request { prompt: "a red apple".to_owned(), ..Request::default() };
    for weight_type in [WeightType::F16, WeightType::Q8] {
        let pipeline = Model::convert_folder(&demo_model(), weight_type).open(2);
        for part in Part::ALL {
            let mut run = pipeline.part(part, &request).unwrap();
            let profile = run.profile().unwrap();
            let seen: [u64; 2] =
                [profile.iter().map(|op| op.integer).sum(), profile.iter().map(|op| op.float).sum()];
            assert_eq!(seen, [run.cost().integer, run.cost().float], "{part:?}");
            assert!(profile.is_sorted_by(|a, b| a.time >= b.time), "{part:?}: the longest first");
            assert_eq!(seen[0] > 0, weight_type == WeightType::Q8, "{part:?}");
        }
    }
}

fn json(args: &[&str]) -> Value {
    let outcome = command::run(SDQ, Path::new("."), args);
    assert_eq!(outcome.code, 0, "{}", outcome.errors);
    serde_json::from_str(&outcome.output).unwrap()
}

#[test]
fn bench_measures_every_part_of_the_built_in_model() {
    let answer = json(&["bench", "--rounds", "2", "--profile", "--json", "--threads", "1"]);
    let parts = answer["parts"].as_array().unwrap();
    let names: Vec<&str> = parts.iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["text encoder", "U-Net step", "VAE decoder"]);
    for part in parts {
        assert_eq!(part["seconds"].as_array().unwrap().len(), 2);
        assert!(part["median"].as_f64().unwrap() > 0.0 && part["predicted"].as_f64().unwrap() > 0.0);
        assert!(!part["ops"].as_array().unwrap().is_empty());
    }
    let median = |part: usize| parts[part]["median"].as_f64().unwrap();
    let steps = answer["picture"]["steps"].as_f64().unwrap();
    let expected = 2.0 * median(0) + steps * median(1) + median(2);
    assert!((answer["picture"]["seconds"].as_f64().unwrap() / expected - 1.0).abs() < 1e-9);

    let one = json(&["bench", "--rounds", "1", "--part", "vae", "--size", "32x48", "--json"]);
    assert_eq!((one["width"].as_u64(), one["height"].as_u64()), (Some(32), Some(48)));
    assert_eq!(one["parts"].as_array().unwrap().len(), 1);
    assert_eq!(one["picture"], Value::Null);
}

#[test]
fn bench_refuses_sizes_that_are_none() {
    for size in ["512", "12x", "x", "30x32", "0x0"] {
        let outcome = command::run(SDQ, Path::new("."), &["bench", "--size", size]);
        assert_eq!(outcome.code, 2, "{size}: {}", outcome.errors);
    }
}

#[test]
fn plan_says_what_a_run_takes_of_time() {
    let seconds = &json(&["plan", "a red apple", "--json"])["seconds"];
    let [text, steps, decoder, once, total] = ["text_encoder", "steps", "vae_decoder", "unet_once", "total"]
        .map(|key| seconds[key].as_f64().unwrap());
    assert!((text + once + steps + decoder - total).abs() < 1e-9 * total, "{seconds}");
}
