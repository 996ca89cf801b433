//! Whole runs on a Vulkan device, compared with the processor and with diffusers. The engine's own tests
//! compare single kernels with the processor.

use std::{collections::BTreeMap, ops::ControlFlow};

use sdq_engine::{
    Error, Generated, Pipeline, Request,
    backend::vulkan::validation_errors,
    pipeline::{Caching, Part},
};
use sdq_formats::WeightType;
use sdq_tests::{
    goldens::{Goldens, TINY},
    measure::{Table, psnr, relative_error},
    models::{Model, demo_model},
    vulkan,
};

/// PSNR at which pictures look the same.
const SAME_PICTURE_DB: f64 = 45.0;

/// Relative error of latents after whole runs. The order of sums differs from the processor's, and the random
/// networks of the goldens amplify the difference up to ten thousand times in twenty steps.
const DEVICE_LATENT_ERROR: f64 = 5e-3;

fn generate(pipeline: &Pipeline, request: &Request) -> Generated {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"))
}

fn nothing_was_found_invalid() {
    assert_eq!(validation_errors(), 0, "the validation layer has reported errors above");
}

#[test]
fn the_trained_model_draws_the_processors_picture() {
    let Some(device) = vulkan::device() else { return };
    let mut table = Table::default();
    for weight_type in [WeightType::F16, WeightType::Q8, WeightType::Q4] {
        let model = Model::convert_folder(&demo_model(), weight_type);
        let request = Request::new("a red apple on a blue background").steps(8).seed(7);
        let on_cpu = generate(&model.open(2), &request);
        let on_device = generate(&model.open_with(&vulkan::options(&device)), &request);
        let found = psnr(&on_device.pictures[0].rgb, &on_cpu.pictures[0].rgb);
        table.at_least(weight_type.name(), found, SAME_PICTURE_DB);
    }
    table.finish();
    nothing_was_found_invalid();
}

#[test]
fn tiny_models_draw_what_diffusers_draws() {
    let Some(device) = vulkan::device() else { return };
    let mut table = Table::default();
    for name in TINY.into_iter().chain(["sd2", "sdxl"]) {
        let goldens = Goldens::load(name);
        let pipeline = Model::convert(name, WeightType::F32).open_with(&vulkan::options(&device));
        for case in goldens.manifest.end_to_end.iter().take(2) {
            let found = generate(&pipeline, &case.request());
            let expected = goldens.tensor(&case.case, "latents");
            let label = format!("{name} {}", case.label());
            table.at_most(
                &label,
                relative_error(found.latents.values(), expected.values()),
                DEVICE_LATENT_ERROR,
            );
            table.at_least(
                &label,
                psnr(&found.pictures[0].rgb, &goldens.picture(&case.case).1),
                SAME_PICTURE_DB,
            );
        }
    }
    table.finish();
    nothing_was_found_invalid();
}

/// The encoder, masks, and kept tensors with which some steps leave out nodes.
#[test]
fn jobs_and_caches_give_what_diffusers_gives() {
    let Some(device) = vulkan::device() else { return };
    let mut table = Table::default();
    let mut models: BTreeMap<String, Pipeline> = BTreeMap::new();
    let mut open = |name: &str| {
        let convert = || Model::convert(name, WeightType::F32).open_with(&vulkan::options(&device));
        models.entry(name.to_owned()).or_insert_with(convert).clone()
    };
    let mut check = |label: String, found: &Generated, expected: &[f32]| {
        table.at_most(&label, relative_error(found.latents.values(), expected), DEVICE_LATENT_ERROR);
    };
    let goldens = Goldens::load("jobs");
    for job in goldens.manifest.jobs.iter().filter(|job| job.model == "sd1") {
        let found = generate(&open(&job.model), &job.request(&goldens));
        let label = format!("{} {} {}", job.job, job.strength, job.run.label());
        check(label, &found, goldens.tensor(&job.run.case, "latents").values());
    }
    let goldens = Goldens::load("caching");
    for case in goldens.manifest.end_to_end.iter().filter(|case| case.model.as_deref() == Some("sd1")) {
        let found = generate(&open("sd1"), &case.request());
        check(case.label(), &found, goldens.tensor(&case.case, "latents").values());
    }
    table.finish();
    nothing_was_found_invalid();
}

/// Norms over strips are summed like those over the whole picture, except for the order.
#[test]
fn a_picture_that_does_not_fit_is_decoded_in_strips() {
    let Some(device) = vulkan::device() else { return };
    let pipeline = Model::convert_folder(&demo_model(), WeightType::Q8).open_with(&vulkan::options(&device));
    let request = Request::new("a cat").steps(2).size(96, 128);
    let whole = generate(&pipeline, &request);
    let least = match pipeline.with_max_memory(Some(1)).plan(&request) {
        Err(Error::DoesNotFit { needed, .. }) => needed,
        other => panic!("one byte is enough: {other:?}"),
    };
    let bounded = pipeline.with_max_memory(Some(least));
    let plan = bounded.plan(&request).unwrap();
    assert!(plan.decoding.stages > 1 || !plan.decoding.strips.is_empty(), "{plan:?}");
    let cut = bounded.decode_latents(&whole.latents).unwrap();
    let found = psnr(&cut[0].rgb, &whole.pictures[0].rgb);
    assert!(found >= SAME_PICTURE_DB, "{found:.1} dB, {plan:?}");
    nothing_was_found_invalid();
}

/// Calibration observes the inputs of products, and `sdq bench --profile` every node.
#[test]
fn runs_that_are_watched_see_what_the_processors_runs_see() {
    let Some(device) = vulkan::device() else { return };
    let model = Model::convert("sd1", WeightType::F32);
    let (on_cpu, on_device) = (model.open(2), model.open_with(&vulkan::options(&device)));
    let request = Request::new("a cat").size(40, 56).steps(2);
    let [expected, found] = [&on_cpu, &on_device].map(|pipeline| {
        let requests = [request.clone()];
        pipeline.activation_moments(&requests, &mut |_, _| ControlFlow::Continue(())).unwrap()
    });
    assert_eq!(found.iter().count(), expected.iter().count());
    let mut table = Table::default();
    for (component, name, expected) in expected.iter() {
        let error = relative_error(found.get(component, name).unwrap(), expected);
        table.at_most(&format!("{component}.{name}"), error, DEVICE_LATENT_ERROR);
    }
    table.finish();
    for part in Part::ALL {
        let profiles = [&on_cpu, &on_device].map(|pipeline| {
            let profile = pipeline.part(part, &request).unwrap().profile().unwrap();
            profile.iter().map(|op| (op.op, op.count)).collect::<BTreeMap<_, _>>()
        });
        assert_eq!(profiles[0], profiles[1], "{part:?}");
    }
    nothing_was_found_invalid();
}

/// Halves of guidance that take turns keep their shared tensors apart.
#[test]
fn branches_that_take_turns_are_those_that_do_not() {
    let Some(device) = vulkan::device() else { return };
    let pipeline = Model::convert("sd1", WeightType::F32).open_with(&vulkan::options(&device));
    let request = Request::new("a fox").steps(4).seed(3);
    let cached = request.clone().caching(Caching::Guidance { every: 2 });
    let on_cpu = Model::convert("sd1", WeightType::F32).open(2);
    let mut table = Table::default();
    for (label, request) in [("together", &request), ("in turns", &cached)] {
        let [found, expected] = [&pipeline, &on_cpu].map(|pipeline| generate(pipeline, request));
        let error = relative_error(found.latents.values(), expected.latents.values());
        table.at_most(label, error, DEVICE_LATENT_ERROR);
    }
    table.finish();
}
