//! Everything that can be wrong with a published model.

use std::io;
use std::path::PathBuf;

use crate::models::naming::LayoutProblem;
use sdq_formats::checkpoint::CheckpointError;
use sdq_formats::text_file::TextFileError;

/// A published model that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
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
    /// The weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Names and shapes in a checkpoint are not those of a model.
    #[error("{}: {problem}", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: LayoutProblem,
    },
    /// A file lacks a part of the model.
    #[error("{}: no {part} in it; give one with `{flag} FILE`", path.display())]
    MissingPart {
        /// The file.
        path: PathBuf,
        /// What is missing.
        part: &'static str,
        /// The flag of `sdq convert` that brings it.
        flag: &'static str,
    },
    /// A file does not have the part that was asked of it.
    #[error("{}: expected {part}, found {found}", path.display())]
    OtherPart {
        /// The file.
        path: PathBuf,
        /// What it should be.
        part: &'static str,
        /// What it is.
        found: String,
    },
    /// Nothing was given to read.
    #[error("no model given; expected a file, a directory, or at least `--unet FILE`")]
    NoModel,
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
