//! The model inside the binary is the one in `demo/model`.

use std::fs;

use sdq_formats::WeightType;
use sdq_tests::{
    command,
    goldens::Goldens,
    measure::relative_error,
    models::{Model, demo_model},
};
use tempfile::TempDir;

#[test]
fn the_built_in_file_is_the_conversion_of_the_demo_model() {
    let built_in = fs::read(demo_model().with_extension("sdq")).unwrap();
    let converted = fs::read(Model::convert_folder(&demo_model(), WeightType::Q8).path()).unwrap();
    let same = built_in == converted;
    assert!(same, "demo/model.sdq is stale; run `sdq convert demo/model -o demo/model.sdq --type q8`");
}

/// Maximum relative error of latents after all steps, with weights and activations in 8 bits: 0.0075 was measured.
const Q8_LATENT_ERROR: f64 = 0.02;

/// Without `-m`, the command line draws with it, at the default size of the model's file.
#[test]
fn the_command_line_draws_with_it() {
    let folder = TempDir::new().unwrap();
    let goldens = Goldens::load("trained");
    let case = &goldens.manifest.end_to_end[0];
    let [steps, guidance_scale, seed] =
        [case.steps.to_string(), case.guidance_scale.to_string(), case.seed.to_string()];
    let args = [
        "generate",
        &case.prompt,
        "--steps",
        &steps,
        "-g",
        &guidance_scale,
        "--seed",
        &seed,
        "--scheduler",
        &case.scheduler,
        "--save-latents",
        "latents.safetensors",
    ];
    command::run(env!("CARGO_BIN_EXE_sdq-under-test"), folder.path(), &args).assert_done();
    let file =
        sdq_formats::safetensors::SafetensorsFile::open(folder.path().join("latents.safetensors")).unwrap();
    let latents = file.tensor("latents").unwrap();
    let expected = goldens.tensor(&case.case, "latents");
    assert_eq!(latents.shape, expected.shape());
    let error = relative_error(&latents.to_f32().unwrap(), expected.values());
    assert!(error <= Q8_LATENT_ERROR, "{error}");
}
