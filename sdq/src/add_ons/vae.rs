//! Another autoencoder instead of the model's.

use std::{num::NonZeroUsize, path::PathBuf};

use sdq_engine::{Model, Pipeline, published::PublishedModel};
use sdq_formats::{sdq::SdqFile, sniff::FileKind};
use sdq_quantize::Precision;

use crate::{Error, Note, Watch, convert::checkpoint, temporary::TemporaryFolder};

/// The pipeline that decodes previews: `pipeline` with the autoencoder in `files`; `None` if there are no
/// files.
///
/// # Errors
/// When they contain no autoencoder, or one that does not fit the model.
pub fn previewer(
    pipeline: &Pipeline,
    files: &[PathBuf],
    threads: Option<NonZeroUsize>,
    watch: &mut Watch<'_>,
) -> Result<Option<Pipeline>, Error> {
    (!files.is_empty()).then(|| with_vae(pipeline, files, threads, watch)).transpose()
}

/// `pipeline` with the autoencoder in `files`, if there are any; reports the replacement.
pub(super) fn apply(
    pipeline: Pipeline,
    files: &[PathBuf],
    threads: Option<NonZeroUsize>,
    watch: &mut Watch<'_>,
) -> Result<Pipeline, Error> {
    let Some(first) = files.first() else { return Ok(pipeline) };
    let adapted = with_vae(&pipeline, files, threads, watch)?;
    watch.note(Note::VaeReplaced { path: first.clone() });
    Ok(adapted)
}

/// `pipeline` with the autoencoder in `files`, of which there is at least one. That of a `.sdq` file is used
/// as it is; others are converted for the run, to f16.
fn with_vae(
    pipeline: &Pipeline,
    files: &[PathBuf],
    threads: Option<NonZeroUsize>,
    watch: &mut Watch<'_>,
) -> Result<Pipeline, Error> {
    let first = &files[0];
    let in_file = |error: sdq_engine::Error| Error::from(error).in_file(first);
    if files.len() == 1 && matches!(FileKind::of_file(first), Ok(FileKind::Sdq)) {
        return pipeline.with_vae(SdqFile::open(first)?).map_err(in_file);
    }
    let model = PublishedModel::open_vae(files, f64::from(pipeline.scaling_factor()))?;
    let component = model.component("vae").ok_or(sdq_engine::Error::MissingComponent { component: "vae" })?;
    let weights = Model::vae_weights(component.config()).map_err(in_file)?;
    let plan = sdq_quantize::plan([("vae", weights, Precision::F16)], &[])?;
    let folder = TemporaryFolder::new()?;
    let path = folder.path().join("vae.sdq");
    checkpoint::write(&model, &plan, threads, &path, watch)?;
    // The mapping stays valid after the file is removed.
    pipeline.with_vae(SdqFile::open(&path)?).map_err(in_file)
}
