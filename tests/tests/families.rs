//! Families other than Stable Diffusion 1 compared with diffusers, stage by stage and from the seed alone.

use std::ops::ControlFlow;

use sdq_engine::{Error, Mask, Picture, Pipeline, Request, Tensor, pipeline::Conditioning};
use sdq_formats::WeightType;
use sdq_tests::{
    goldens::{EndToEnd, FAMILIES, Goldens, scaling_factor},
    measure::{DECODED_DB, LATENT_ERROR, PICTURE_DB, STAGE_ERROR, Table, psnr, relative_error},
    models::Model,
};

/// The guidance scale with which `families.py` records single evaluations of distilled U-Nets.
const TOLD_GUIDANCE_SCALE: f32 = 4.2;

#[test]
fn text_states_and_pooled_prompts_are_those_of_diffusers() {
    let mut table = Table::default();
    for name in FAMILIES {
        let pipeline = Model::convert(name, WeightType::F32).open(2);
        let goldens = Goldens::load(name);
        for case in &goldens.manifest.text_states {
            let found = pipeline.encode_prompts(&[&case.prompt]).unwrap();
            let expected = goldens.tensor(&case.case, "text_states");
            assert_eq!(found.text_states.shape()[1..], *expected.shape());
            let error = relative_error(found.text_states.values(), expected.values());
            table.at_most(&format!("{name} {}", case.case), error, STAGE_ERROR);
            let expected = goldens.optional(&case.case, "pooled");
            assert_eq!(found.pooled.is_some(), expected.is_some(), "{name}");
            if let (Some(found), Some(expected)) = (found.pooled, expected) {
                let error = relative_error(found.values(), expected.values());
                table.at_most(&format!("{name} {} pooled", case.case), error, STAGE_ERROR);
            }
        }
    }
    table.finish();
}

#[test]
fn noise_pred_is_that_of_diffusers() {
    let mut table = Table::default();
    for name in FAMILIES {
        let pipeline = Model::convert(name, WeightType::F32).open(2);
        let goldens = Goldens::load(name);
        let conditioning = Conditioning {
            text_states: goldens.tensor("unet", "text_states"),
            added: goldens.optional("unet", "added"),
            guidance_scale: (name == "lcm").then_some(TOLD_GUIDANCE_SCALE),
        };
        for case in &goldens.manifest.unet {
            let latents = goldens.tensor(&case.case, "latents");
            let found = pipeline.predict_noise(&latents, case.timestep, &conditioning).unwrap();
            let expected = goldens.tensor(&case.case, "noise_pred");
            assert_eq!(found.shape(), expected.shape());
            let label = format!("{name} {} {:?}", case.case, latents.shape());
            table.at_most(&label, relative_error(found.values(), expected.values()), STAGE_ERROR);
        }
    }
    table.finish();
}

#[test]
fn the_tiny_autoencoder_is_that_of_diffusers() {
    let mut table = Table::default();
    let pipeline = Model::convert("sdxs", WeightType::F32).open(2);
    let goldens = Goldens::load("sdxs");
    for case in &goldens.manifest.encode {
        let moments = pipeline.encode_pixels(&goldens.tensor(&case.case, "pixels")).unwrap();
        assert_eq!(moments.std, None, "it gives no distribution");
        let expected = goldens.tensor(&case.case, "mean");
        assert_eq!(moments.mean.shape(), expected.shape());
        table.at_most(&case.case, relative_error(moments.mean.values(), expected.values()), STAGE_ERROR);
    }
    for case in &goldens.manifest.decode {
        assert_eq!(scaling_factor("sdxs"), 1.0, "the latents are the decoder's own");
        let pictures = pipeline.decode_latents(&goldens.tensor(&case.case, "latents")).unwrap();
        let expected = eight_bit(&goldens.tensor(&case.case, "pixels"));
        table.at_least(&case.case, psnr(&pictures[0].rgb, &expected), DECODED_DB);
    }
    table.finish();
}

/// The engine's request for this case, with its start picture and mask.
fn request(goldens: &Goldens, case: &EndToEnd) -> Request {
    let request = Request { strength: case.strength, ..case.request() };
    if !goldens.has(&case.case, "init_image") {
        return request;
    }
    let (shape, rgb) = goldens.bytes(&case.case, "init_image");
    let (height, width) = (shape[0], shape[1]);
    let mask = goldens.has(&case.case, "mask").then(|| goldens.bytes(&case.case, "mask").1);
    let mask = mask.map(|values| Mask { width, height, values });
    // diffusers' pipelines do not paste what the mask keeps.
    Request { init_image: Some(Picture { width, height, rgb }), paste: mask.is_none(), mask, ..request }
}

#[test]
fn runs_from_the_seed_alone_end_where_those_of_diffusers_do() {
    let mut table = Table::default();
    for name in FAMILIES {
        let pipeline = Model::convert(name, WeightType::F32).open(2);
        let goldens = Goldens::load(name);
        for case in &goldens.manifest.end_to_end {
            let found = pipeline.generate(&request(&goldens, case), &mut |_| ControlFlow::Continue(()));
            let found = found.unwrap_or_else(|error| panic!("{name} {}: {error}", case.label()));
            let expected = goldens.tensor(&case.case, "latents");
            assert_eq!(found.latents.shape(), expected.shape());
            let label = format!("{name} {}", case.label());
            table.at_most(&label, relative_error(found.latents.values(), expected.values()), LATENT_ERROR);
            let (_, picture) = goldens.picture(&case.case);
            table.at_least(&label, psnr(&found.pictures[0].rgb, &picture), PICTURE_DB);
        }
    }
    table.finish();
}

/// The conditioning of each row of the batch must reach the right picture and branch.
#[test]
fn pictures_of_a_batch_do_not_touch_each_other() {
    for name in ["sdxl", "refiner", "inpaint", "pix2pix"] {
        let pipeline = Model::convert(name, WeightType::F32).open(2);
        let goldens = Goldens::load(name);
        let request = request(&goldens, &goldens.manifest.end_to_end[1]);
        let draw = |request: &Request| {
            let drawn = pipeline.generate(request, &mut |_| ControlFlow::Continue(()));
            drawn.unwrap_or_else(|error| panic!("{name}: {error}")).latents.into_values()
        };
        let together = draw(&Request { count: 3, ..request.clone() });
        let alone = [0, 1, 2].map(|i| draw(&Request { seed: request.seed + i, ..request.clone() }));
        assert_eq!(together, alone.concat(), "{name}");
    }
}

/// With the minimal memory, branches of guidance take turns and the decoder works in strips. The picture is
/// bit-identical, so each branch gets its own text states, time biases and picture in its turn.
#[test]
fn the_least_memory_draws_the_same_picture() {
    for name in ["sd2", "sdxl", "refiner", "pix2pix", "inpaint"] {
        let pipeline = Model::convert(name, WeightType::F32).open(2);
        let goldens = Goldens::load(name);
        // Large enough for the two halves of a batch to matter.
        let (width, height) = (192, 128);
        let mut request = request(&goldens, &goldens.manifest.end_to_end[1]).size(width, height).steps(4);
        if let Some(image) = &mut request.init_image {
            let rgb = (0..width * height * 3).map(|value| (value % 253) as u8).collect();
            *image = Picture { width, height, rgb };
        }
        if let Some(mask) = &mut request.mask {
            let values = (0..width * height).map(|pixel| if pixel % width < 96 { 0 } else { 255 }).collect();
            *mask = Mask { width, height, values };
        }
        let draw = |pipeline: &Pipeline| {
            let drawn = pipeline.generate(&request, &mut |_| ControlFlow::Continue(()));
            drawn.unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let least = match pipeline.with_max_memory(Some(1)).plan(&request) {
            Err(Error::DoesNotFit { needed, .. }) => pipeline.with_max_memory(Some(needed)),
            other => panic!("{name}: one byte is enough: {other:?}"),
        };
        let plan = least.plan(&request).unwrap();
        let guided = request.guidance_scale.is_some_and(|scale| scale > 1.0);
        assert_eq!(plan.batching.split_guidance, guided, "{name}: {plan:?}");
        let (found, expected) = (draw(&least), draw(&pipeline));
        assert_eq!(found.latents, expected.latents, "{name}");
        assert_eq!(found.pictures, expected.pictures, "{name}");
    }
}

/// The structure of the networks tells the family of a file that was converted from a folder, which does not name it.
#[test]
fn a_converted_model_has_its_family() {
    for (name, family) in
        [("sd1", "SD1"), ("inpaint", "SD1"), ("sd2", "SD2"), ("sdxl", "SDXL"), ("refiner", "SDXL refiner")]
    {
        assert_eq!(Model::convert(name, WeightType::F16).open(1).family().name(), family, "{name}");
    }
}

/// Missing and unusable inputs are reported by the name of the request's field.
#[test]
fn models_that_need_a_picture_say_so() {
    let picture = Picture { width: 64, height: 64, rgb: vec![90; 64 * 64 * 3] };
    let mask = Mask { width: 64, height: 64, values: vec![255; 64 * 64] };
    let (alone, pictured) = (Request::new("x"), Request::new("x").init_image(picture));
    for (name, request, words) in [
        ("inpaint", alone.clone(), "the model needs a start picture"),
        ("pix2pix", alone, "the model needs a start picture"),
        ("inpaint", pictured.clone(), "the model redraws a part of a picture"),
        ("pix2pix", pictured.clone().mask(mask), "cannot use a mask"),
        ("pix2pix", pictured.strength(0.5), "cannot use strength"),
    ] {
        let error = Model::convert(name, WeightType::F32).open(1).settings(&request).unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
    }
}

/// Equal prompts give equal branches, which are evaluated once, except in models that replace an empty
/// negative prompt or add a score to it.
#[test]
fn branches_that_differ_are_evaluated_apart() {
    for (name, prompt, prompts) in [
        ("sd2", "x", 1),
        ("sd2", "", 1),
        ("sdxl", "x", 1),
        // Zeros replace the empty negative prompt, but not the empty prompt.
        ("sdxl", "", 2),
        ("refiner", "x", 2),
    ] {
        let pipeline = Model::convert(name, WeightType::F16).open(1);
        let request = Request::new(prompt).negative_prompt(prompt).guidance_scale(3.0);
        assert_eq!(pipeline.run_plan(&request).unwrap().prompts, prompts, "{name} {prompt:?}");
        let other = request.negative_prompt("y");
        assert_eq!(pipeline.run_plan(&other).unwrap().prompts, 2, "{name} {prompt:?}");
    }
}

/// Rounding to bytes and back changes a picture only a little, in every family and layer.
#[test]
fn every_family_can_be_quantized() {
    for name in FAMILIES {
        for weight_type in [WeightType::Q8, WeightType::Q4] {
            let pipeline = Model::convert(name, weight_type).open(2);
            let goldens = Goldens::load(name);
            let conditioning = Conditioning {
                text_states: goldens.tensor("unet", "text_states"),
                added: goldens.optional("unet", "added"),
                guidance_scale: (name == "lcm").then_some(TOLD_GUIDANCE_SCALE),
            };
            let case = &goldens.manifest.unet[0];
            let latents = goldens.tensor(&case.case, "latents");
            let found = pipeline.predict_noise(&latents, case.timestep, &conditioning).unwrap();
            let expected = goldens.tensor(&case.case, "noise_pred");
            let error = relative_error(found.values(), expected.values());
            let most = if weight_type == WeightType::Q8 { 0.2 } else { 1.0 };
            println!("{name} {} {error:.1e}", weight_type.name());
            assert!(error > 0.0 && error < most, "{name} {}: {error}", weight_type.name());
        }
    }
}

/// `[1, 3, h, w]` in -1..=1 to `[h, w, 3]` in 0..=255, rounded half to even.
fn eight_bit(pixels: &Tensor) -> Vec<u8> {
    let plane = pixels.values().len() / 3;
    let byte = |value: f32| ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    (0..plane).flat_map(|i| [0, 1, 2].map(|channel| byte(pixels.values()[channel * plane + i]))).collect()
}
