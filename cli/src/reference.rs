//! A model to measure or to learn from: a `.sdq` file as it is, or a diffusers directory, converted for the occasion.

use std::{num::NonZeroUsize, path::Path};

use anyhow::Context as _;
use sdq_engine::{Model, Pipeline};
use sdq_formats::{WeightType, diffusers::ModelDirectory};
use sdq_quantize::Part;
use tempfile::TempDir;

use crate::{interrupt, model, progress::Progress};

/// An open model, with the file that was made for it.
pub(crate) struct Reference {
    // Before the folder: what is mapped can be removed only afterwards on some systems.
    pub(crate) pipeline: Pipeline,
    _folder: Option<TempDir>,
}

/// Opens the `.sdq` file at `path`; or converts the diffusers directory at `path` to `weight_type`, in the system's
/// folder for temporary files.
pub(crate) fn open(
    path: &Path,
    weight_type: WeightType,
    threads: Option<NonZeroUsize>,
) -> anyhow::Result<Reference> {
    if !path.is_dir() {
        return Ok(Reference { pipeline: model::open(Some(path), threads)?, _folder: None });
    }
    let folder = TempDir::with_prefix("sdq-").context("cannot make a temporary folder")?;
    let file = folder.path().join("model.sdq");
    convert(path, weight_type, &file)?;
    let pipeline = model::open(Some(&file), threads)?;
    // The mapping keeps it alive, and a program that is killed leaves no gigabytes behind. Where an open file cannot
    // be removed, the folder tries again when it is dropped.
    let _ = std::fs::remove_file(&file);
    Ok(Reference { pipeline, _folder: Some(folder) })
}

/// Converts the diffusers directory at `source`, every component to `weight_type`.
fn convert(source: &Path, weight_type: WeightType, output: &Path) -> anyhow::Result<()> {
    let model = ModelDirectory::open(source)?;
    let config = |name: &str| model.component(name).map(|component| component.config());
    let text =
        |name: &str| model.texts().iter().find(|(other, _)| other == name).map(|(_, text)| text.as_str());
    let described = Model::new(config, text).with_context(|| source.display().to_string())?;
    let parts = described.weights().map(|(component, weights)| Part {
        component: component.to_owned(),
        weights,
        weight_type,
    });
    let total = parts.iter().map(|part| part.weights.len()).sum::<usize>();
    let mut progress = Progress::new("tensor", total as u64);
    let done = interrupt::while_writing(|| {
        sdq_quantize::convert(&model, &parts, output, &mut |now| {
            progress.set(now.done as u64, now.component);
            interrupt::check()
        })
    });
    progress.finish();
    done?;
    Ok(())
}
