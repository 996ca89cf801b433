//! Single files of tiny models, written by diffusers' own scripts, draw what diffusers draws with the directory.

use std::{ops::ControlFlow, path::PathBuf};

use sdq_tests::{
    goldens::{self, Goldens},
    measure::{LATENT_ERROR, PICTURE_DB, Table, psnr, relative_error},
    models::Model,
};

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
