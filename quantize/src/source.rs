//! The input of a conversion: a model as components of named tensors, from any source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sdq_formats::{
    mmap::Bytes,
    sdq::{Manifest, Source},
    tensor::TensorView,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::ConvertError;

/// A model to convert.
#[derive(Debug)]
pub struct ModelSource<'m> {
    /// The file or directory that errors name.
    pub path: &'m Path,
    /// The manifest of the file to write. Its quantization and its sources are filled in by the conversion.
    pub manifest: Manifest,
    /// Its networks.
    pub components: Vec<ComponentSource<'m>>,
    /// Text files to embed, with their names.
    pub texts: &'m [(String, String)],
    /// Every file of the model, by the name that the manifest records.
    pub files: &'m BTreeMap<String, PathBuf>,
}

/// One network of a model to convert.
#[derive(Debug)]
pub struct ComponentSource<'m> {
    /// The file or directory that errors name.
    pub path: &'m Path,
    /// Its name in the plan.
    pub name: &'m str,
    /// Its class, for errors.
    pub class_name: &'m str,
    /// Its `config.json`, an object.
    pub config: &'m Value,
    /// Its tensors, by the names of the plan's weights.
    pub tensors: BTreeMap<String, TensorView<'m>>,
}

impl ModelSource<'_> {
    /// Size and hash of every file. Calls `go_on` every few megabytes; `None` if it returned false.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn hash_files(&self, go_on: impl Fn() -> bool) -> Result<Option<Vec<Source>>, ConvertError> {
        self.files.iter().map(|(name, path)| hash(path, name, &go_on)).collect()
    }
}

fn hash(path: &Path, name: &str, go_on: impl Fn() -> bool) -> Result<Option<Source>, ConvertError> {
    /// A read of some milliseconds.
    const STRETCH: usize = 4 << 20;
    let bytes = Bytes::map(path).map_err(|source| ConvertError::Read { path: path.to_path_buf(), source })?;
    let mut hasher = Sha256::new();
    for stretch in bytes.chunks(STRETCH) {
        if !go_on() {
            return Ok(None);
        }
        hasher.update(stretch);
    }
    let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(Source { file: name.to_owned(), bytes: bytes.len() as u64, sha256 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_the_whole_file_or_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.json");
        std::fs::write(&path, "{}").unwrap();
        let source = hash(&path, "tokenizer/vocab.json", || true).unwrap().unwrap();
        assert_eq!((source.file.as_str(), source.bytes), ("tokenizer/vocab.json", 2));
        // SHA-256 of `{}`.
        assert_eq!(source.sha256, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        assert_eq!(hash(&path, "vocab.json", || false).unwrap(), None);
        assert!(matches!(hash(folder.path(), "folder", || true), Err(ConvertError::Read { .. })));
    }
}
