//! Shards: several files with an index that lists which tensor is in which file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Checkpoint, CheckpointError, CheckpointFile, IndexProblem};
use crate::names::{is_relative_path, json_reason, quote};
use crate::safetensors::{MAX_TENSORS, Pairs};
use crate::text_file;

/// Maximum length of an index. That of a model with 10,000 tensors has two megabytes.
const MAX_LEN: u64 = 64 * 1024 * 1024;

pub(super) fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let error = |problem| CheckpointError::Index { path: path.to_path_buf(), problem };
    let weight_map = read(path).map_err(error)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    let mut files = Vec::new();
    let mut surplus = Vec::new();
    let mut owner: BTreeMap<String, &str> = BTreeMap::new();
    for name in names {
        let file = CheckpointFile::open(folder.join(name))?;
        for tensor in file.tensors() {
            if !weight_map.contains_key(&tensor.name) {
                surplus.push(tensor.name.clone());
            }
            if let Some(first) = owner.insert(tensor.name.clone(), name) {
                let (path, first) = (folder.join(name), folder.join(first));
                return Err(CheckpointError::InTwoFiles { path, tensor: tensor.name, first });
            }
        }
        files.push(file);
    }
    for (tensor, shard) in &weight_map {
        if owner.get(tensor) != Some(&shard.as_str()) {
            let (tensor, shard) = (quote(tensor), shard.clone());
            return Err(error(IndexProblem::MissingTensor { tensor, shard }));
        }
    }
    Ok(Checkpoint { files, index: Some(path.to_path_buf()), surplus, ..Checkpoint::default() })
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: Pairs<String, MAX_TENSORS>,
}

/// The index's map from tensor to shard.
fn read(path: &Path) -> Result<BTreeMap<String, String>, IndexProblem> {
    let text = text_file::read(path, MAX_LEN)?;
    let index: Index =
        serde_json::from_str(&text).map_err(|error| IndexProblem::Json(json_reason(&error)))?;
    let mut weight_map = BTreeMap::new();
    for (tensor, shard) in index.weight_map.0 {
        // Shards are in the same folder as the index; a name that leads elsewhere is not opened.
        if !is_relative_path(&shard) || shard.contains('/') {
            return Err(IndexProblem::ShardName(quote(&shard)));
        }
        if let Some(_shard) = weight_map.insert(tensor.clone(), shard) {
            return Err(IndexProblem::Duplicate(quote(&tensor)));
        }
    }
    Ok(weight_map)
}
