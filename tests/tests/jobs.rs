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

/// A mask from corner to corner makes the whole picture the masked area, and the run is that of the whole picture.
#[test]
fn the_masked_area_is_drawn_as_a_picture_of_its_own() {
    let pipeline = convert("sd1").open(2);
    let image = Picture { width: 64, height: 64, rgb: (0..64 * 64 * 3).map(|v| (v % 251) as u8).collect() };
    let values = (0..64 * 64_usize).map(|pixel| if (pixel / 64).abs_diff(pixel % 64) < 20 { 255 } else { 0 });
    let mask = Mask { width: 64, height: 64, values: values.collect() };
    let request = Request::new("a fox").size(64, 64).steps(3).seed(1).init_image(image.clone());
    let request = request.mask(mask.clone()).strength(0.7);
    for request in [request.clone(), request.clone().paste(false)] {
        let whole = generate(&pipeline, &request);
        let area = generate(&pipeline, &request.clone().only_masked(8));
        assert_eq!(area.pictures, whole.pictures);
        assert_eq!(area.latents.values(), whole.latents.values());
    }

    // A part of a larger picture: everything around it stays as it is.
    let large = Picture { width: 200, height: 120, rgb: vec![90; 3 * 200 * 120] };
    let is_drawn = |x: usize, y: usize| (150..170).contains(&x) && (30..60).contains(&y);
    let values =
        (0..200 * 120).map(|pixel| if is_drawn(pixel % 200, pixel / 200) { 255 } else { 0 }).collect();
    let request = request.init_image(large).mask(Mask { width: 200, height: 120, values }).only_masked(4);
    for (request, is_pasted) in [(request.clone().mask_blur(0), true), (request.paste(false), false)] {
        let drawn = generate(&pipeline, &request).pictures.remove(0);
        assert_eq!((drawn.width, drawn.height), (200, 120));
        let area = pipeline.settings(&request).unwrap().masked_area.unwrap();
        assert_eq!((area.left, area.top, area.width, area.height), (141, 26, 38, 38));
        let (mut changed, mut around) = (0, 0);
        for (index, pixel) in drawn.rgb.chunks(3).enumerate() {
            let (x, y) = (index % 200, index / 200);
            let inside = (141..179).contains(&x) && (26..64).contains(&y);
            assert!(inside || pixel == [90; 3], "{x} {y}");
            let new = usize::from(pixel != [90; 3]);
            *(if is_drawn(x, y) { &mut changed } else { &mut around }) += new;
        }
        assert!(changed > 500 && (around == 0) == is_pasted, "{changed} {around}");
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
