//! `--vae`: another autoencoder in place of the model's.

use std::path::PathBuf;

use anyhow::Context as _;
use sdq_engine::{Model, Pipeline};
use sdq_formats::{published::PublishedModel, sdq::SdqFile, sniff::FileKind};
use sdq_quantize::Recipe;
use tempfile::TempDir;

use crate::checkpoint;

/// `pipeline` to decode previews with: the same with the autoencoder in `files`; `None` where there are none.
pub(crate) fn previewer(pipeline: &Pipeline, files: &[PathBuf]) -> anyhow::Result<Option<Pipeline>> {
    (!files.is_empty()).then(|| with_vae(pipeline, files)).transpose()
}

/// `pipeline` with the autoencoder in `files`, if there are any, which is said.
pub(super) fn apply(pipeline: Pipeline, files: &[PathBuf]) -> anyhow::Result<Pipeline> {
    let Some(first) = files.first() else { return Ok(pipeline) };
    let adapted = with_vae(&pipeline, files)?;
    note!("{}: takes the place of the model's VAE", first.display());
    Ok(adapted)
}

/// The same with the autoencoder in `files`, of which there is one at least. That of a `.sdq` file is used as it is; another
/// is converted for the run, to f16.
fn with_vae(pipeline: &Pipeline, files: &[PathBuf]) -> anyhow::Result<Pipeline> {
    let first = &files[0];
    let shown = || first.display().to_string();
    if files.len() == 1 && matches!(FileKind::of_file(first), Ok(FileKind::Sdq)) {
        return pipeline.with_vae(SdqFile::open(first)?).with_context(shown);
    }
    let model = PublishedModel::open_vae(files, f64::from(pipeline.scaling_factor()))?;
    let config = model.component("vae").map(|component| component.config());
    let weights =
        Model::vae_weights(config.context("a model of an autoencoder has one")?).with_context(shown)?;
    let plan = sdq_quantize::plan([("vae", weights, Recipe::F16)], &[])?;
    let folder = TempDir::with_prefix("sdq-").context("cannot make a temporary folder")?;
    let path = folder.path().join("vae.sdq");
    checkpoint::write(&model, &plan, None, &path)?;
    // The mapping outlives the file's name.
    pipeline.with_vae(SdqFile::open(&path)?).with_context(shown)
}
