//! Describes a published file or directory before it is converted.

use std::{collections::BTreeMap, path::Path};

use sdq_engine::{
    models::naming::LayoutProblem,
    published::{ModelFiles, PublishedError, PublishedModel},
};
use sdq_formats::{checkpoint::Checkpoint, tensor::TensorView};
use serde_json::{Map, Value, json};

use super::adapter;
use crate::{Error, convert::describe};

/// Tensors of the checkpoint at `path` by number format, and the model that they form, if any. `whole`: with
/// every tensor by its name.
pub(super) fn file(path: &Path, whole: bool) -> Result<Value, Error> {
    let checkpoint = Checkpoint::open(path)?;
    let mut description = json!({ "bytes": length(path)? });
    if let Some(name) = path.file_name().and_then(|name| name.to_str())
        && let Some(parts) = ggml_rs::parse_gguf_filename(name)
    {
        description["file_name"] = json!({
            "base_name": parts.base_name,
            "size_label": parts.size_label,
            "fine_tune": parts.fine_tune,
            "version": parts.version,
            "encoding": parts.encoding,
            "type": parts.type_field,
            "shard": parts.shard,
        });
    }
    description["tensors"] = by_format(checkpoint.tensors());
    if !adapter::describe(&checkpoint, &mut description) {
        describe_model(path, &mut description)?;
    }
    if whole {
        description["names"] = checkpoint.tensors().map(|tensor| line(&tensor)).collect();
    }
    Ok(description)
}

/// Adds the model that the file at `path` contains, or what is missing of one.
fn describe_model(path: &Path, description: &mut Value) -> Result<(), Error> {
    match PublishedModel::open(&ModelFiles { model: Some(path.to_path_buf()), ..ModelFiles::default() }) {
        Ok(model) => add_model(description, &model)?,
        // The file is a part of a model, or something else; this can be reported too.
        Err(PublishedError::MissingPart { part, flag, .. }) => {
            description["lacks"] = format!("{part}; give one to `sdq convert` with {flag}").into();
        }
        Err(PublishedError::Layout { problem: LayoutProblem::Nothing { hint: Some(hint), .. }, .. }) => {
            description["looks_like"] = hint.into();
        }
        Err(error) => description["not_a_model"] = error.to_string().into(),
    }
    Ok(())
}

fn length(path: &Path) -> Result<u64, Error> {
    let metadata = std::fs::metadata(path);
    Ok(metadata.map_err(|error| Error::Read { path: path.to_path_buf(), error })?.len())
}

/// Describes the model directory at `path`.
pub(super) fn directory(path: &Path) -> Result<Value, Error> {
    let model =
        PublishedModel::open(&ModelFiles { model: Some(path.to_path_buf()), ..ModelFiles::default() })?;
    let mut description = json!({});
    add_model(&mut description, &model)?;
    description["texts"] = model.texts().iter().map(|(name, _)| name.as_str()).collect();
    Ok(description)
}

fn add_model(description: &mut Value, model: &PublishedModel) -> Result<(), Error> {
    description["pipeline_class"] = model.class_name().into();
    if let (Some(family), Some(training)) = (model.family(), model.training()) {
        description["family"] = family.name().into();
        description["predicts"] = describe::prediction(&training).into();
    }
    let mut components = Map::new();
    for component in model.components() {
        let tensors = component.tensors()?;
        components.insert(component.name().to_owned(), by_format(tensors.into_values()));
    }
    description["components"] = components.into();
    if !model.remarks().is_empty() {
        description["remarks"] = model.remarks().iter().map(ToString::to_string).collect();
    }
    let skipped = describe::skipped(model);
    if !skipped.is_empty() {
        let lines = skipped.iter().map(|(why, names)| format!("{} tensors {}", names.len(), why.name()));
        description["left_out"] = lines.collect();
    }
    Ok(())
}

/// Number, elements and bytes of tensors, by number format.
fn by_format<'a>(tensors: impl Iterator<Item = TensorView<'a>>) -> Value {
    let mut sums: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
    for tensor in tensors {
        let sum = sums.entry(tensor.dtype.name()).or_default();
        *sum = (sum.0 + 1, sum.1 + tensor.elements().unwrap_or(0), sum.2 + tensor.bytes.len());
    }
    let sum = |(name, (tensors, parameters, bytes)): (&str, (usize, usize, usize))| {
        (name.to_owned(), json!({ "tensors": tensors, "parameters": parameters, "bytes": bytes }))
    };
    Value::Object(sums.into_iter().map(sum).collect())
}

fn line(tensor: &TensorView<'_>) -> Value {
    json!({ "name": tensor.name, "format": tensor.dtype.name(), "shape": tensor.shape })
}
