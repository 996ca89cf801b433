//! Whole runs from the seed alone, compared with diffusers: prompt → tokens → text states → loop → latents →
//! picture.

use std::ops::ControlFlow;

use sdq_engine::{Error, Event, Generated, Pipeline, Request};
use sdq_formats::WeightType;
use sdq_tests::{
    goldens::{Goldens, TINY},
    measure::{
        LATENT_ERROR, PICTURE_DB, ROUNDED_LATENT_ERROR, TRAINED_PICTURE_DB, Table, psnr, relative_error,
    },
    models::{Model, demo_model},
};

fn generate(pipeline: &Pipeline, request: &Request) -> Generated {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"))
}

fn compare(name: &str, pipeline: &Pipeline, latent_error: f64, picture_db: f64) {
    let goldens = Goldens::load(name);
    let mut table = Table::default();
    for case in &goldens.manifest.end_to_end {
        let found = generate(pipeline, &case.request());
        let expected = goldens.tensor(&case.case, "latents");
        assert_eq!(found.latents.shape(), expected.shape());
        let label = format!("{name} {}", case.label());
        table.at_most(&label, relative_error(found.latents.values(), expected.values()), latent_error);
        let (shape, picture) = goldens.picture(&case.case);
        assert_eq!([found.pictures[0].height, found.pictures[0].width, 3], *shape);
        table.at_least(&label, psnr(&found.pictures[0].rgb, &picture), picture_db);
    }
    table.finish();
}

#[test]
fn sd1_draws_what_diffusers_draws() {
    compare("sd1", &Model::convert("sd1", WeightType::F32).open(2), LATENT_ERROR, PICTURE_DB);
}

#[test]
fn fp16_draws_what_diffusers_draws() {
    compare("fp16", &Model::convert("fp16", WeightType::F32).open(2), LATENT_ERROR, PICTURE_DB);
}

#[test]
fn old_draws_what_diffusers_draws() {
    compare("old", &Model::convert("old", WeightType::F32).open(2), LATENT_ERROR, PICTURE_DB);
}

/// The model that is distributed with sdq, in the type of its checkpoint. `built_in.rs` tests it in q8.
#[test]
fn the_trained_model_draws_what_diffusers_draws() {
    let model = Model::convert_folder(&demo_model(), WeightType::F16);
    compare("trained", &model.open(2), LATENT_ERROR, TRAINED_PICTURE_DB);
}

/// Weights that are f16 in the checkpoint are stored exactly in an f16 file.
#[test]
fn fp16_stored_as_f16_is_as_exact() {
    compare("fp16", &Model::convert("fp16", WeightType::F16).open(2), LATENT_ERROR, PICTURE_DB);
}

/// Rounding f32 weights to f16 changes the picture only a little.
#[test]
fn f32_checkpoints_survive_rounding_to_f16() {
    for name in ["sd1", "old"] {
        compare(name, &Model::convert(name, WeightType::F16).open(2), ROUNDED_LATENT_ERROR, 0.0);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for name in TINY {
        let model = Model::convert(name, WeightType::F16);
        let request = Request { steps: Some(2), ..Goldens::load(name).manifest.end_to_end[1].request() };
        let [one, two, three] = [1, 2, 3].map(|threads| generate(&model.open(threads), &request));
        for other in [two, three] {
            assert_eq!(bits(&one), bits(&other), "{name}: latents");
            assert_eq!(one.pictures, other.pictures, "{name}: picture");
        }
    }
}

/// Each picture of a series has the next seed, so it can be drawn again alone.
#[test]
fn each_picture_of_a_series_can_be_drawn_alone() {
    let pipeline = Model::convert("fp16", WeightType::F16).open(2);
    let one = |seed, count| Request {
        prompt: "a red apple".to_owned(),
        width: Some(40),
        height: Some(56),
        steps: Some(2),
        scheduler: Some("euler_ancestral".to_owned()),
        seed,
        count,
        ..Request::default()
    };
    let series = generate(&pipeline, &one(7, 2));
    let alone = [7, 8].map(|seed| generate(&pipeline, &one(seed, 1)));
    assert_eq!(series.pictures, [alone[0].pictures[0].clone(), alone[1].pictures[0].clone()]);
    assert_eq!(series.latents.values(), alone.map(|generated| generated.latents.into_values()).concat());
}

#[test]
fn the_observer_can_stop_a_run_and_sees_every_step() {
    let pipeline = Model::convert("old", WeightType::F16).open(1);
    let request = Request { width: Some(24), height: Some(24), steps: Some(4), ..Request::default() };
    let mut seen = Vec::new();
    let stopped = pipeline.generate(&request, &mut |event| {
        let Event::Step { step, steps, latents, .. } = event else { return ControlFlow::Continue(()) };
        seen.push((step, steps, latents.shape().to_vec()));
        if step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(Error::Cancelled { step: 3, steps: 4 })), "{stopped:?}");
    assert_eq!(seen, [0, 1, 2].map(|step| (step, 4, vec![1, 4, 12, 12])));
}

fn bits(generated: &Generated) -> Vec<u32> {
    generated.latents.values().iter().map(|value| value.to_bits()).collect()
}
