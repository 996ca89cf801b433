//! A model for measurements: a `.sdq` file, or a published model that is converted temporarily.

use std::path::Path;

use sdq_engine::{
    Pipeline, PipelineOptions,
    published::{ModelFiles, PublishedModel},
};
use sdq_formats::sniff::FileKind;
use sdq_quantize::Precision;

use super::checkpoint;
use crate::{Error, Watch, model, temporary::TemporaryFolder};

/// An open model, with its temporary file, if any.
#[derive(Debug)]
pub struct Reference {
    // Before the folder: some systems can remove a mapped file only after it is unmapped.
    /// The model.
    pub pipeline: Pipeline,
    /// Length of the file.
    pub bytes: u64,
    _folder: Option<TemporaryFolder>,
}

/// Opens the `.sdq` file at `path`, or converts the published model at `path` with `precision` to the
/// system's folder for temporary files.
///
/// # Errors
/// When it cannot be read, or is not supported.
pub fn open(
    path: &Path,
    precision: Precision,
    options: &PipelineOptions,
    watch: &mut Watch<'_>,
) -> Result<Reference, Error> {
    if !path.is_dir() && matches!(FileKind::of_file(path), Err(_) | Ok(FileKind::Sdq)) {
        let pipeline = model::open(Some(path), options)?;
        let metadata = std::fs::metadata(path);
        let metadata = metadata.map_err(|error| Error::Read { path: path.to_path_buf(), error })?;
        return Ok(Reference { pipeline, bytes: metadata.len(), _folder: None });
    }
    let files = ModelFiles { model: Some(path.to_path_buf()), ..ModelFiles::default() };
    convert(&PublishedModel::open(&files)?, precision, options, watch)
}

/// Converts `model` with `precision`, to the system's folder for temporary files.
pub(crate) fn convert(
    model: &PublishedModel,
    precision: Precision,
    options: &PipelineOptions,
    watch: &mut Watch<'_>,
) -> Result<Reference, Error> {
    let folder = TemporaryFolder::new()?;
    let file = folder.path().join("model.sdq");
    let weights = checkpoint::describe(model)?.rated_weights();
    let components = weights.into_iter().map(|(component, weights)| (component, weights, precision));
    let plan = sdq_quantize::plan(components, &[])?;
    let bytes = checkpoint::write(model, &plan, options.threads, &file, watch)?.bytes;
    let pipeline = model::open(Some(&file), options)?;
    // The mapping stays valid, and a program that is killed leaves no gigabytes behind. If an open file
    // cannot be removed, the folder tries again when it is dropped.
    let _ = std::fs::remove_file(&file);
    Ok(Reference { pipeline, bytes, _folder: Some(folder) })
}
