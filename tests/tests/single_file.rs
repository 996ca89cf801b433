//! Single files of tiny models, written by diffusers' own scripts, draw what diffusers draws with the directory.

use std::{
    ffi::OsString,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
};

use sdq_formats::sdq::SdqFile;
use sdq_tests::{
    goldens::{self, Goldens},
    measure::{LATENT_ERROR, PICTURE_DB, Table, psnr, relative_error},
    models::Model,
};
use tempfile::TempDir;

/// A file of each family; what the families differ in is read off its names and shapes.
const MODELS: [&str; 3] = ["single_sd1", "single_sd2", "single_sdxl"];

fn file(model: &str) -> PathBuf {
    goldens::folder(model).join("model.safetensors")
}

/// Converts the single file of `model` with its tokenizer, which no such file has in it.
fn convert(model: &str, flags: &[&str]) -> Model {
    let tokenizer = goldens::folder(model).join("tokenizer");
    let tokenizer = tokenizer.to_str().expect("the path is UTF-8");
    Model::convert_with(&file(model), &[&["--type", "f32", "--tokenizer", tokenizer], flags].concat())
}

#[test]
fn pictures_are_those_that_diffusers_draws_with_the_directory() {
    let mut table = Table::default();
    for name in MODELS {
        let pipeline = convert(name, &[]).open(2);
        let goldens = Goldens::load(name);
        for case in &goldens.manifest.end_to_end {
            let found = pipeline.generate(&case.request(), &mut |_| ControlFlow::Continue(()));
            let found = found.unwrap_or_else(|error| panic!("{name} {}: {error}", case.label()));
            let expected = goldens.tensor(&case.case, "latents");
            let label = format!("{name} {}", case.label());
            table.at_most(&label, relative_error(found.latents.values(), expected.values()), LATENT_ERROR);
            let (_, picture) = goldens.picture(&case.case);
            table.at_least(&label, psnr(&found.pictures[0].rgb, &picture), PICTURE_DB);
        }
    }
    table.finish();
}

/// Every weight of the file at `found` is stored as in that at `expected`.
fn assert_same_weights(found: &Path, expected: &Path, label: &str) {
    let (found, expected) = (SdqFile::open(found).unwrap(), SdqFile::open(expected).unwrap());
    let mut compared = 0;
    for component in expected.components() {
        let found = found.component(component.name()).unwrap();
        assert_eq!(found.config(), component.config(), "{label}");
        for weight in component.weights() {
            let found = found.weight(&weight.spec.name).unwrap();
            assert!(found.data == weight.data, "{label} {}", weight.spec.name);
            compared += 1;
        }
    }
    assert!(compared > 100);
}

#[test]
fn every_container_becomes_the_same_weights() {
    let tokenizer = goldens::folder("single_sd1").join("tokenizer");
    for weight_type in ["f32", "f16", "q8"] {
        let flags = ["--type", weight_type, "--tokenizer", tokenizer.to_str().unwrap()];
        let convert = |file: &str| Model::convert_with(&goldens::folder("single_sd1").join(file), &flags);
        let expected = convert("model.safetensors");
        for file in ["model.ckpt", "model.gguf"] {
            assert_same_weights(&convert(file).path(), &expected.path(), &format!("{file} as {weight_type}"));
        }
    }
}

#[test]
fn parts_given_one_by_one_become_the_same_weights() {
    let whole = file("single_sd1");
    let tokenizer = goldens::folder("single_sd1").join("tokenizer");
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("model.sdq");
    let mut args: Vec<OsString> = ["sdq", "convert", "--type", "f32", "-o"].map(OsString::from).to_vec();
    args.extend([output.clone().into(), "--tokenizer".into(), tokenizer.into()]);
    for flag in ["--unet", "--vae", "--text-encoder"] {
        args.extend([flag.into(), whole.clone().into()]);
    }
    assert_eq!(sdq_cli::run(args), ExitCode::SUCCESS);
    assert_same_weights(&output, &convert("single_sd1", &[]).path(), "parts");
}
