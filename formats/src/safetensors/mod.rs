//! The safetensors format: a length, a JSON header, and the tensors' bytes without gaps.
//!
//! <https://github.com/huggingface/safetensors#format>. The reader takes a slice, so that the same checks
//! apply to a mapped file, a static one and a fuzzer. No memory is allocated for a number before it has been
//! compared with the file's length.

mod error;
mod header;
mod writer;

pub use error::{SafetensorsError, SafetensorsProblem};
pub use header::{Header, TensorInfo};
pub use writer::{to_bytes, write};

pub(crate) use header::{MAX_TENSORS, Pairs};

use std::path::{Path, PathBuf};

use crate::mmap::Bytes;
use crate::tensor::TensorView;

/// An open safetensors file with its header checked.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    bytes: Bytes,
    header: Header,
}

impl SafetensorsFile {
    /// Maps the file at `path` and checks its header.
    ///
    /// # Errors
    /// When the file cannot be read or is not a well-formed safetensors file.
    pub fn open(path: impl AsRef<Path>) -> Result<SafetensorsFile, SafetensorsError> {
        let path = path.as_ref();
        let bytes = Bytes::map(path).map_err(|error| SafetensorsError::new(path, error))?;
        SafetensorsFile::from_bytes(bytes, path)
    }

    /// Reads a file from `bytes`; `label` is used instead of its path in errors.
    ///
    /// # Errors
    /// When the bytes are not a well-formed safetensors file.
    pub fn from_bytes(bytes: Bytes, label: &Path) -> Result<SafetensorsFile, SafetensorsError> {
        let header = Header::parse(&bytes).map_err(|problem| SafetensorsError::new(label, problem))?;
        Ok(SafetensorsFile { path: label.to_path_buf(), bytes, header })
    }

    /// The path it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The strings under `__metadata__`, in file order.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.header.metadata
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.header.tensor(name).map(|info| self.view(info))
    }

    /// All tensors, in the order of their bytes in the file.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.header.tensors.iter().map(|info| self.view(info))
    }

    fn view(&self, info: &TensorInfo) -> TensorView<'_> {
        TensorView {
            name: info.name.clone(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: &self.bytes[info.range.clone()],
        }
    }
}

#[cfg(test)]
mod tests;
