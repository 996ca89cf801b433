//! The input of a conversion: a model as components of named tensors, from any source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sdq_formats::{
    mmap::Bytes,
    sdq::{Manifest, Source},
    tensor::{TensorError, TensorView},
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
    /// Scales that tensors have to be multiplied by, by name: one number, or one for each row.
    pub scales: BTreeMap<String, Vec<f32>>,
}

impl ComponentSource<'_> {
    /// The elements of `tensor`, called `name`, multiplied by its scales, as bytes of f32; `None` if it has no scales.
    ///
    /// # Errors
    /// When they cannot be read as numbers.
    pub(crate) fn scaled(&self, name: &str, tensor: &TensorView<'_>) -> Result<Option<Vec<u8>>, TensorError> {
        let Some(scales) = self.scales.get(name) else { return Ok(None) };
        let values = tensor.to_f32()?;
        let row = (values.len() / scales.len().max(1)).max(1);
        let scaled =
            values.chunks(row).zip(scales).flat_map(|(row, scale)| row.iter().map(move |v| v * scale));
        Ok(Some(scaled.flat_map(f32::to_le_bytes).collect()))
    }
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
    fn scales_multiply_a_tensor_or_each_of_its_rows() {
        let bytes: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = TensorView {
            name: "w".to_owned(),
            dtype: sdq_formats::dtype::DType::F32,
            shape: vec![2, 2],
            bytes: &bytes,
        };
        let scaled = |scales: &[f32]| {
            let component = ComponentSource {
                path: Path::new("m"),
                name: "unet",
                class_name: "UNet2DConditionModel",
                config: &Value::Null,
                tensors: BTreeMap::new(),
                scales: BTreeMap::from([("w".to_owned(), scales.to_vec())]),
            };
            assert_eq!(component.scaled("other", &tensor), Ok(None));
            let bytes = component.scaled("w", &tensor).unwrap().unwrap();
            let values = bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
            values.collect::<Vec<f32>>()
        };
        assert_eq!(scaled(&[0.5]), [0.5, 1.0, 1.5, 2.0]);
        assert_eq!(scaled(&[2.0, -1.0]), [2.0, 4.0, -3.0, -4.0]);
    }

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
