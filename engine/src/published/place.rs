//! Finds the model near a path that is no model directory: a cache, a component, or a parent folder.

use std::fs;
use std::path::{Path, PathBuf};

use sdq_formats::text_file;

/// The file that every model directory contains.
pub(super) const INDEX: &str = "model_index.json";

/// Longest file under `refs/`: it holds a hash.
const MAX_REF_LEN: u64 = 1000;

/// Extensions of single files.
const CHECKPOINTS: [&str; 4] = ["safetensors", "ckpt", "gguf", "sdq"];

/// Describes the folder at `path`, which has no `model_index.json`, and which path to give instead; `None` if there is no
/// model nearby.
pub(super) fn instead_of(path: &Path) -> Option<String> {
    let give = |what: &str, path: &Path| format!("the folder {what}; give `{}`", path.display());
    let cache = "is the cache of a Hugging Face model";
    if path.join("snapshots").is_dir() {
        return Some(match snapshot(path) {
            Some(snapshot) => give(cache, &snapshot),
            None => format!("the folder {cache} without a snapshot; download the model again"),
        });
    }
    if path.file_name().is_some_and(|name| name == "snapshots")
        && let Some(snapshot) = path.parent().and_then(snapshot)
    {
        return Some(give("is a part of the cache of a Hugging Face model", &snapshot));
    }
    let folders = entries(path);
    if let Some(model) = folders.iter().find(|folder| folder.join("snapshots").is_dir()) {
        let model = snapshot(model).unwrap_or_else(|| model.clone());
        let what = "is a cache of Hugging Face models";
        return Some(format!(
            "the folder {what}; give the snapshot of a model, such as `{}`",
            model.display()
        ));
    }
    if let Some(folder) = folders.iter().find(|folder| folder.join(INDEX).exists()) {
        return Some(give("contains a model", folder));
    }
    let around = fs::canonicalize(path).ok().and_then(|path| Some(path.parent()?.to_path_buf()));
    if let Some(around) = around.filter(|around| around.join(INDEX).exists()) {
        return Some(give("is a part of a model", &around));
    }
    let is_checkpoint =
        |file: &&PathBuf| file.extension().is_some_and(|own| CHECKPOINTS.iter().any(|ending| own == *ending));
    let file = folders.iter().find(is_checkpoint)?;
    Some(give("is not a diffusers directory but contains a checkpoint", file))
}

/// The snapshot in the cache `root` of a model: that of `refs/main`, or else the first.
fn snapshot(root: &Path) -> Option<PathBuf> {
    let snapshots = root.join("snapshots");
    let main = text_file::read(&root.join("refs/main"), MAX_REF_LEN).ok();
    let main = main.map(|commit| snapshots.join(commit.trim())).filter(|snapshot| snapshot.is_dir());
    main.or_else(|| entries(&snapshots).into_iter().find(|snapshot| snapshot.is_dir()))
}

/// The sorted entries of the folder at `path`; empty if it cannot be read.
fn entries(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
