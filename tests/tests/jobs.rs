//! Image to image, inpainting, variations and batches, from picture and seed alone, compared with diffusers
//! where it supports them.

use std::{collections::BTreeMap, ops::ControlFlow};

use sdq_engine::{Error, Generated, Mask, Picture, Pipeline, Request};
use sdq_formats::WeightType;
use sdq_tests::{
    goldens::Goldens,
    measure::{LATENT_ERROR, PICTURE_DB, TRAINED_PICTURE_DB, Table, psnr, relative_error},
    models::{Model, demo_model},
};

fn convert(name: &str) -> Model {
    match name {
        "trained" => Model::convert_folder(&demo_model(), WeightType::F16),
        tiny => Model::convert(tiny, WeightType::F32),
    }
}

fn generate(pipeline: &Pipeline, request: &Request) -> Generated {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn jobs_give_what_diffusers_gives() {
    let goldens = Goldens::load("jobs");
    let mut models: BTreeMap<String, (Model, Pipeline)> = BTreeMap::new();
    let mut table = Table::default();
    for job in &goldens.manifest.jobs {
        let (_, pipeline) = models.entry(job.model.clone()).or_insert_with(|| {
            let model = convert(&job.model);
            let pipeline = model.open(2);
            (model, pipeline)
        });
        let found = generate(pipeline, &job.request(&goldens));
        let label = format!("{} {} {} of {}", job.job, job.strength, job.run.label(), job.model);
        let expected = goldens.tensor(&job.run.case, "latents");
        table.at_most(&label, relative_error(found.latents.values(), expected.values()), LATENT_ERROR);
        let limit = if job.model == "trained" { TRAINED_PICTURE_DB } else { PICTURE_DB };
        let (_, picture) = goldens.picture(&job.run.case);
        table.at_least(&label, psnr(&found.pictures[0].rgb, &picture), limit);
    }
    table.finish();
}

/// Pictures that are evaluated together share only the weights: each is the one that its seed gives alone.
#[test]
fn a_batch_draws_what_its_pictures_would_be_alone() {
    let goldens = Goldens::load("jobs");
    for job in goldens.manifest.jobs.iter().filter(|job| job.model == "sd1" || job.model == "old") {
        let pipeline = convert(&job.model).open(2);
        let request = Request { steps: Some(3), strength: Some(0.7), ..job.request(&goldens) };
        let together = generate(&pipeline, &Request { count: 6, ..request.clone() });
        for (image, picture) in together.pictures.iter().enumerate() {
            let seed = request.seed + image as u64;
            let alone = generate(&pipeline, &Request { seed, ..request.clone() });
            assert_eq!(alone.pictures[0], *picture, "picture {image} of {}", job.run.label());
        }
    }
}

/// From no influence of the second seed to full influence, and a series that advances the variation's seed
/// and not the picture's.
#[test]
fn a_variation_leads_from_one_seed_to_another() {
    let pipeline = convert("sd1").open(2);
    let draw = |request: &Request| generate(&pipeline, request).latents.into_values();
    let request = Request::new("a red apple").size(64, 64).steps(2).seed(5);
    let varied = |strength| draw(&request.clone().variation(9, strength));
    let (start, end) = (draw(&request), draw(&request.clone().seed(9)));
    assert_eq!(varied(0.0), start);
    assert!(relative_error(&varied(1.0), &end) < 1e-5);
    let near = relative_error(&varied(0.1), &start);
    assert!(near > 1e-3 && near < relative_error(&end, &start), "{near}");

    let series = draw(&request.clone().variation(9, 0.3).count(2));
    let second = draw(&request.clone().variation(10, 0.3));
    assert_eq!(series[series.len() / 2..], second);
}

/// Schedulers with two evaluations per step start at the noise level of the same step as those with one.
#[test]
fn two_evaluations_a_step_start_where_one_does() {
    let pipeline = convert("sd1").open(1);
    let picture = Picture { width: 64, height: 64, rgb: vec![120; 64 * 64 * 3] };
    let request = Request::new("x").steps(10).strength(0.5).init_image(picture);
    let start = |name: &str| {
        let settings = pipeline.settings(&request.clone().scheduler(name)).unwrap();
        let scheduler = sdq_schedulers::create(name, &settings.scheduler_config, 10).unwrap();
        (scheduler.timesteps()[settings.first_step], settings)
    };
    let (expected, once) = start("euler");
    assert_eq!((once.first_step, once.evaluations), (5, 5));
    for name in ["heun", "kdpm2", "kdpm2-ancestral", "dpm-sde"] {
        let (found, settings) = start(name);
        assert!((found - expected).abs() < 1e-3, "{name} starts at {found}, Euler at {expected}");
        // The last step has one evaluation.
        assert_eq!((settings.first_step, settings.evaluations), (10, 9), "{name}");
        let mut steps = 0;
        let drawn = pipeline.generate(&settings.request, &mut |event| {
            steps += usize::from(matches!(event, sdq_engine::Event::Step { .. }));
            ControlFlow::Continue(())
        });
        drawn.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(steps, 9, "{name}");
    }
}

/// Inpainting preserves the kept part with any prompt, and draws the rest.
#[test]
fn what_the_mask_leaves_is_kept() {
    let pipeline = convert("sd1").open(2);
    let image = Picture { width: 64, height: 64, rgb: (0..64 * 64 * 3).map(|v| (v % 251) as u8).collect() };
    // The right half is redrawn; the values are those on both sides of the threshold.
    let values = (0..64 * 64).map(|pixel| if pixel % 64 < 32 { 127 } else { 128 }).collect();
    let request = Request::new("a fox").steps(3).seed(1).init_image(image);
    let request = request.mask(Mask { width: 64, height: 64, values });
    let fox = generate(&pipeline, &request).latents.into_values();
    let apple = Request { prompt: "a red apple".to_owned(), ..request };
    let apple = generate(&pipeline, &apple).latents.into_values();
    for (place, (fox, apple)) in fox.iter().zip(&apple).enumerate() {
        let kept = place % 8 < 4;
        assert_eq!(fox == apple, kept, "latent {place}: {fox} and {apple}");
    }
}

#[test]
fn jobs_that_cannot_be_are_named() {
    let pipeline = convert("sd1").open(1);
    let picture = |width, height| Picture { width, height, rgb: vec![0; width * height * 3] };
    let request = Request::new("x").steps(4);
    let with_image = request.clone().init_image(picture(64, 64));
    let mask = |width, height| Mask { width, height, values: vec![0; width * height] };
    for (field, request) in [
        ("init-image", request.clone().strength(0.5)),
        ("init-image", request.clone().mask(mask(64, 64))),
        ("init-image", with_image.clone().size(72, 64)),
        ("init-image", request.clone().init_image(Picture { width: 64, height: 64, rgb: vec![0; 5] })),
        ("mask", with_image.clone().mask(mask(32, 64))),
        ("strength", with_image.clone().strength(1.5)),
        ("strength", with_image.clone().strength(f64::NAN)),
        ("strength", with_image.clone().strength(0.2)),
        ("width", request.clone().init_image(picture(60, 64))),
        ("variation-strength", request.clone().variation(1, -0.1)),
        ("guidance-rescale", request.clone().guidance_rescale(2.0)),
        ("image-guidance-scale", request.clone().image_guidance_scale(f32::INFINITY)),
    ] {
        match pipeline.settings(&request) {
            Err(Error::Request { field: found, .. }) => assert_eq!(found, field),
            Err(Error::Job(problem)) => assert_eq!(problem.field(), field),
            other => panic!("{field}: {other:?}"),
        }
    }
}
