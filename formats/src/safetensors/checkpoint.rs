//! A checkpoint: one safetensors file, or several with an index that says which tensor is where.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::SafetensorsFile;
use super::error::{SafetensorsError, SafetensorsProblem};
use super::header::Pairs;
use crate::names::{is_relative_path, json_reason, quote};
use crate::tensor::TensorView;
use crate::text_file;

/// Longest index that is read. That of a model with 10,000 tensors has two megabytes.
const MAX_INDEX_LEN: u64 = 64 * 1024 * 1024;

/// One safetensors file or the shards of one, open.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<SafetensorsFile>,
    index: Option<PathBuf>,
    surplus: Vec<String>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, or all shards that a `.safetensors.index.json` file names.
    ///
    /// # Errors
    /// When a file is absent or malformed, when a tensor is not in the shard where the index has it, or when two
    /// shards hold tensors of one name.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, SafetensorsError> {
        let path = path.as_ref();
        if path.extension().is_some_and(|extension| extension == "json") {
            return Checkpoint::open_index(path);
        }
        Ok(Checkpoint { files: vec![SafetensorsFile::open(path)?], index: None, surplus: Vec::new() })
    }

    fn open_index(path: &Path) -> Result<Checkpoint, SafetensorsError> {
        let weight_map = read_index(path).map_err(|problem| SafetensorsError::new(path, problem))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
        let mut files = Vec::new();
        let mut surplus = Vec::new();
        let mut owner: BTreeMap<String, &str> = BTreeMap::new();
        for name in names {
            let file = SafetensorsFile::open(folder.join(name))?;
            for tensor in file.tensors() {
                if !weight_map.contains_key(&tensor.name) {
                    surplus.push(tensor.name.clone());
                }
                if owner.insert(tensor.name.clone(), name).is_some() {
                    return Err(SafetensorsError::new(
                        file.path(),
                        SafetensorsProblem::Duplicate(tensor.name),
                    ));
                }
            }
            files.push(file);
        }
        for (tensor, shard) in &weight_map {
            if owner.get(tensor) != Some(&shard.as_str()) {
                let (tensor, shard) = (quote(tensor), shard.clone());
                return Err(SafetensorsError::new(path, SafetensorsProblem::MissingTensor { tensor, shard }));
            }
        }
        Ok(Checkpoint { files, index: Some(path.to_path_buf()), surplus })
    }

    /// The files with tensors, in order of their names.
    pub fn files(&self) -> &[SafetensorsFile] {
        &self.files
    }

    /// The index file, when the checkpoint has shards.
    pub fn index(&self) -> Option<&Path> {
        self.index.as_deref()
    }

    /// Names of tensors that lie in a shard without being in the index. They are among [`Checkpoint::tensors`].
    pub fn surplus(&self) -> &[String] {
        &self.surplus
    }

    /// All tensors of all files.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.files.iter().flat_map(SafetensorsFile::tensors)
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.files.iter().find_map(|file| file.tensor(name))
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: Pairs<String>,
}

/// The index's map from tensor to shard.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, SafetensorsProblem> {
    let text = text_file::read(path, MAX_INDEX_LEN)?;
    let index: Index =
        serde_json::from_str(&text).map_err(|error| SafetensorsProblem::Json(json_reason(&error)))?;
    let mut weight_map = BTreeMap::new();
    for (tensor, shard) in index.weight_map.0 {
        // Shards lie beside the index; a name that leads elsewhere is not opened.
        if !is_relative_path(&shard) || shard.contains('/') {
            return Err(SafetensorsProblem::ShardName(quote(&shard)));
        }
        if let Some(_shard) = weight_map.insert(tensor.clone(), shard) {
            return Err(SafetensorsProblem::Duplicate(quote(&tensor)));
        }
    }
    Ok(weight_map)
}
