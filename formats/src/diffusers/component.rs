//! One component of a model directory: its config and its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::DiffusersError;
use super::files::read_json_object;
use super::keys::canonical_tensor;
use crate::safetensors::Checkpoint;
use crate::tensor::TensorView;

/// A component with weights: `text_encoder`, `unet`, `vae` and whatever else the pipeline lists.
#[derive(Debug)]
pub struct ModelComponent {
    path: PathBuf,
    name: String,
    class_name: String,
    config: Value,
    checkpoint: Checkpoint,
}

impl ModelComponent {
    pub(super) fn open(model: &Path, name: &str, class_name: &str) -> Result<ModelComponent, DiffusersError> {
        let path = model.join(name);
        let config = read_json_object(&path.join("config.json"))?;
        let checkpoint = Checkpoint::open(find_weights(&path)?)?;
        Ok(ModelComponent {
            path,
            name: name.to_owned(),
            class_name: class_name.to_owned(),
            config,
            checkpoint,
        })
    }

    /// Its name in `model_index.json`, and its directory's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its class in `model_index.json`: `UNet2DConditionModel`.
    pub fn class_name(&self) -> &str {
        &self.class_name
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its `config.json`, an object.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Its weights as they lie in the files, under their own names.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Its weights by canonical name, see [`super::canonical_name`]. Tensors that no model reads are among them.
    ///
    /// # Errors
    /// When two tensors have the same canonical name.
    pub fn tensors(&self) -> Result<BTreeMap<String, TensorView<'_>>, DiffusersError> {
        let mut tensors = BTreeMap::new();
        let mut own_names: BTreeMap<String, String> = BTreeMap::new();
        for tensor in self.checkpoint.tensors() {
            let own_name = tensor.name.clone();
            let Some(tensor) = canonical_tensor(&self.name, tensor) else { continue };
            let canonical = tensor.name.clone();
            if let Some(first) = own_names.insert(canonical.clone(), own_name.clone()) {
                let (path, second) = (self.path.clone(), own_name);
                return Err(DiffusersError::SameTensor { path, first, second, canonical });
            }
            tensors.insert(canonical, tensor);
        }
        Ok(tensors)
    }
}

/// Names of weight files, the preferred first: whole before half precision, one file before shards. diffusers and
/// transformers differ in the stem, and have put the variant on either side of `safetensors.index` over time.
const WEIGHT_FILES: [&str; 10] = [
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.fp16.safetensors.index.json",
    "model.fp16.safetensors.index.json",
];

/// The weight file, or the index of the shards, in a component's directory.
fn find_weights(folder: &Path) -> Result<PathBuf, DiffusersError> {
    if let Some(path) = WEIGHT_FILES.iter().map(|name| folder.join(name)).find(|path| path.exists()) {
        return Ok(path);
    }
    let io_error = |source| DiffusersError::Io { path: folder.to_path_buf(), source };
    let mut pickles = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        if ["bin", "ckpt", "pt", "pth"].contains(&extension) {
            pickles.push(path);
        }
    }
    Err(match pickles.into_iter().min() {
        Some(path) => DiffusersError::Pickle { path },
        None => {
            let expected = format!("{} or {}", WEIGHT_FILES[0], WEIGHT_FILES[1]);
            DiffusersError::MissingFile { path: folder.to_path_buf(), expected }
        }
    })
}
