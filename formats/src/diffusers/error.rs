//! Everything that can be wrong with a model directory.

use std::io;
use std::path::PathBuf;

use crate::safetensors::SafetensorsError;
use crate::sniff::FileKind;
use crate::text_file::TextFileError;

/// A model directory that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DiffusersError {
    /// Nothing is there.
    #[error("{}: no such file or directory", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The system refused to read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// A file instead of a directory.
    #[error(
        "{}: a single file{}, expected a diffusers directory with a model_index.json",
        path.display(),
        match kind { FileKind::Other => String::new(), kind => format!(" (it is {kind})") }
    )]
    SingleFile {
        /// The path.
        path: PathBuf,
        /// What it is by its first bytes.
        kind: FileKind,
    },
    /// A directory without a model.
    #[error("{}: no model_index.json in it, so it is not a diffusers directory", path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
    },
    /// A text file that cannot be read.
    #[error("{}: {problem}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: TextFileError,
    },
    /// A JSON file that does not hold what it should.
    #[error("{}: not valid: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The pipeline lacks a component that every Stable Diffusion model has.
    #[error("{}: the pipeline has no `{component}`", path.display())]
    MissingComponent {
        /// The file `model_index.json`.
        path: PathBuf,
        /// The component.
        component: String,
    },
    /// A component's directory lacks a file.
    #[error("{}: missing, expected {expected}", path.display())]
    MissingFile {
        /// The file, or the directory where there are several possibilities.
        path: PathBuf,
        /// What should be there.
        expected: String,
    },
    /// The weights are there, but only as a Python pickle.
    #[error("{}: pickled weights are not read yet; convert them to safetensors", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// The weights cannot be read.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// Two tensors of a component turn out to be the same one under an old and a new name.
    #[error("{}: tensors `{first}` and `{second}` are both `{canonical}`", path.display())]
    SameTensor {
        /// The component's directory.
        path: PathBuf,
        /// The first name in the files.
        first: String,
        /// The second.
        second: String,
        /// The name that both stand for.
        canonical: String,
    },
}
