//! A checkpoint: tensors by name, from one file of any container, or from several.
//!
//! The container is determined by a file's first bytes, not by its name: people rename `.ckpt` to
//! `.safetensors` and back.

mod error;
mod index;

pub use error::{CheckpointError, IndexProblem};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::gguf::{GgufFile, MetadataValue};
use crate::pickle::PickleFile;
use crate::safetensors::SafetensorsFile;
use crate::sniff::FileKind;
use crate::tensor::TensorView;

/// One open file with tensors.
#[derive(Debug)]
pub enum CheckpointFile {
    /// safetensors.
    Safetensors(SafetensorsFile),
    /// PyTorch's pickles.
    Pickle(PickleFile),
    /// GGUF.
    Gguf(GgufFile),
}

/// Extensions of files that are read as pickles if their first bytes do not identify the format.
const PICKLES: [&str; 5] = ["ckpt", "pt", "pth", "bin", "pkl"];

impl CheckpointFile {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// When its kind contains no tensors, or it is malformed.
    pub fn open(path: impl AsRef<Path>) -> Result<CheckpointFile, CheckpointError> {
        let path = path.as_ref();
        let kind =
            FileKind::of_file(path).map_err(|reason| CheckpointError::Io { path: path.into(), reason })?;
        match kind {
            FileKind::Empty
            | FileKind::GitLfsPointer
            | FileKind::Html
            | FileKind::Json
            | FileKind::Xml
            | FileKind::Text
            | FileKind::Sdq
            | FileKind::Png
            | FileKind::Jpeg
            | FileKind::WebP
            | FileKind::Archive
            | FileKind::Program
            | FileKind::Zeros => Err(CheckpointError::Kind { path: path.into(), kind }),
            FileKind::Gguf => Ok(CheckpointFile::Gguf(GgufFile::open(path)?)),
            FileKind::Zip | FileKind::Pickle => Ok(CheckpointFile::Pickle(PickleFile::open(path)?)),
            FileKind::Other
                if path.extension().is_some_and(|own| PICKLES.iter().any(|ending| own == *ending)) =>
            {
                Ok(CheckpointFile::Pickle(PickleFile::open(path)?))
            }
            FileKind::Safetensors => Ok(CheckpointFile::Safetensors(SafetensorsFile::open(path)?)),
            FileKind::Other => Err(CheckpointError::Kind { path: path.into(), kind }),
        }
    }

    /// The path it was opened from.
    pub fn path(&self) -> &Path {
        match self {
            CheckpointFile::Safetensors(file) => file.path(),
            CheckpointFile::Pickle(file) => file.path(),
            CheckpointFile::Gguf(file) => file.path(),
        }
    }

    /// All tensors, in the file's order.
    pub fn tensors(&self) -> Box<dyn Iterator<Item = TensorView<'_>> + '_> {
        match self {
            CheckpointFile::Safetensors(file) => Box::new(file.tensors()),
            CheckpointFile::Pickle(file) => Box::new(file.tensors()),
            CheckpointFile::Gguf(file) => Box::new(file.tensors()),
        }
    }

    /// The string or number under `key` in the file's metadata, as text.
    pub fn note(&self, key: &str) -> Option<String> {
        match self {
            CheckpointFile::Safetensors(file) => {
                file.metadata().iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
            }
            CheckpointFile::Pickle(file) => file.note(key).map(str::to_owned),
            CheckpointFile::Gguf(file) => file.metadata().get(key).map(MetadataValue::to_text),
        }
    }
}

/// One file, or several that belong together, open.
#[derive(Debug, Default)]
pub struct Checkpoint {
    files: Vec<CheckpointFile>,
    /// The prefix that is added to the names of each file's tensors.
    prefixes: Vec<String>,
    /// Other names of tensors, by those that they would have.
    renames: BTreeMap<String, String>,
    index: Option<PathBuf>,
    surplus: Vec<String>,
}

impl Checkpoint {
    /// Opens a file of tensors, or all shards that a `.index.json` file names.
    ///
    /// # Errors
    /// When a file is missing or malformed, when a tensor is not in the shard that the index names, or when
    /// two shards contain tensors of the same name.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, CheckpointError> {
        let path = path.as_ref();
        if path.extension().is_some_and(|extension| extension == "json") {
            return index::open(path);
        }
        Ok(Checkpoint { files: vec![CheckpointFile::open(path)?], ..Checkpoint::default() })
    }

    /// Joins several checkpoints.
    ///
    /// # Errors
    /// When two of them contain tensors of the same name.
    pub fn join(checkpoints: Vec<Checkpoint>) -> Result<Checkpoint, CheckpointError> {
        let mut all = Checkpoint::default();
        let mut owner: BTreeMap<String, PathBuf> = BTreeMap::new();
        for checkpoint in checkpoints {
            for (index, file) in checkpoint.files.iter().enumerate() {
                for tensor in checkpoint.tensors_of(index) {
                    if let Some(first) = owner.insert(tensor.name.clone(), file.path().to_path_buf()) {
                        let (path, tensor) = (file.path().to_path_buf(), tensor.name);
                        return Err(CheckpointError::InTwoFiles { path, tensor, first });
                    }
                }
            }
            let Checkpoint { files, mut prefixes, renames, index, surplus } = checkpoint;
            all.renames.extend(renames);
            prefixes.resize(files.len(), String::new());
            all.files.extend(files);
            all.prefixes.extend(prefixes);
            all.index = all.index.or(index);
            all.surplus.extend(surplus);
        }
        Ok(all)
    }

    /// The same tensors, with `prefix` before their names.
    #[must_use]
    pub fn prefixed(mut self, prefix: &str) -> Checkpoint {
        self.prefixes.resize(self.files.len(), String::new());
        self.prefixes.iter_mut().for_each(|before| before.insert_str(0, prefix));
        self
    }

    /// The same tensors, those under the names that `rename` gives for which it gives one.
    #[must_use]
    pub fn renamed(mut self, rename: impl Fn(&str) -> Option<String>) -> Checkpoint {
        let names: Vec<String> = self.tensors().map(|tensor| tensor.name).collect();
        let renames = names.into_iter().filter_map(|name| rename(&name).map(|other| (name, other)));
        self.renames = renames.collect();
        self
    }

    /// The files with tensors, in order of their names.
    pub fn files(&self) -> &[CheckpointFile] {
        &self.files
    }

    /// The index file, when the checkpoint has shards.
    pub fn index(&self) -> Option<&Path> {
        self.index.as_deref()
    }

    /// Names of tensors that are in a shard but not in the index. They are among [`Checkpoint::tensors`].
    pub fn surplus(&self) -> &[String] {
        &self.surplus
    }

    /// All tensors of all files.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        (0..self.files.len()).flat_map(|index| self.tensors_of(index))
    }

    fn tensors_of(&self, index: usize) -> impl Iterator<Item = TensorView<'_>> {
        let prefix = self.prefixes.get(index).map_or("", String::as_str);
        self.files[index].tensors().map(move |mut tensor| {
            tensor.name.insert_str(0, prefix);
            if let Some(name) = self.renames.get(&tensor.name) {
                tensor.name.clone_from(name);
            }
            tensor
        })
    }

    /// The string or number under `key` in the metadata of a file, as text.
    pub fn note(&self, key: &str) -> Option<String> {
        self.files.iter().find_map(|file| file.note(key))
    }
}

#[cfg(test)]
mod tests;
