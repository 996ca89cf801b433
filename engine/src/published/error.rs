//! Errors of reading published models.

use std::io;
use std::path::PathBuf;

use crate::models::naming::LayoutProblem;
use sdq_formats::checkpoint::CheckpointError;
use sdq_formats::text_file::TextFileError;

/// Errors of reading a published model.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    /// The path does not exist.
    #[error("{}: no such file or directory", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The operating system could not read the file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The directory contains no model.
    #[error("{}: {}", path.display(), no_model(instead.as_deref()))]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// A description of the folder and the path to give instead, if known.
        instead: Option<String>,
    },
    /// A text file cannot be read.
    #[error("{}: {problem}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: TextFileError,
    },
    /// A JSON file does not have the expected content.
    #[error("{}: the file is not valid: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The reason.
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
    #[error("{}: a file is missing; the model needs {expected}", path.display())]
    MissingFile {
        /// The file, or the directory where there are several possibilities.
        path: PathBuf,
        /// The expected file.
        expected: String,
    },
    /// The weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Names and shapes in a checkpoint do not match a model.
    #[error("{}: {problem}", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: LayoutProblem,
    },
    /// A part of the model is missing in a file.
    #[error("{}: the file contains no {part}; give one with `{flag} FILE`", path.display())]
    MissingPart {
        /// The file.
        path: PathBuf,
        /// The missing part.
        part: &'static str,
        /// The flag of `sdq convert` that adds it.
        flag: &'static str,
    },
    /// A file does not contain the part that it was given for.
    #[error("{}: expected {part}, found {found}", path.display())]
    OtherPart {
        /// The file.
        path: PathBuf,
        /// The expected part.
        part: &'static str,
        /// Its actual content.
        found: String,
    },
    /// SDXL's text encoders were given in each other's places.
    #[error(
        "the text encoders are exchanged; give `{}` with --text-encoder-2 and `{}` with --text-encoder",
        first.display(),
        second.display()
    )]
    ExchangedEncoders {
        /// What was given as the first.
        first: PathBuf,
        /// What was given as the second.
        second: PathBuf,
    },
    /// Text encoders of another model.
    #[error(
        "{}: the text states have the width {found}, but the U-Net reads {expected}; give the text encoder of this \
         U-Net with --text-encoder",
        path.display()
    )]
    TextWidth {
        /// The encoder's file.
        path: PathBuf,
        /// Width of the text states, those of two encoders together.
        found: usize,
        /// Width that the U-Net reads.
        expected: usize,
    },
    /// The vocabulary has tokens for which the text encoder has no vectors.
    #[error(
        "{}: the token table of `{component}` has {rows} rows, but the tokenizer has ids up to {}; take the added tokens out \
         of the tokenizer, or use the text encoder that was saved with it",
        path.display(), tokens - 1
    )]
    TokenRows {
        /// The encoder's folder or file.
        path: PathBuf,
        /// The component.
        component: String,
        /// One more than the largest id of a token.
        tokens: u64,
        /// Rows of the encoder's token table.
        rows: u64,
    },
    /// No files were given.
    #[error("no model is given, expected a file, a directory or at least `--unet FILE`")]
    NoModel,
    /// Two tensors of a component have the same canonical name, one with an old and one with a new name.
    #[error("{}: tensors `{first}` and `{second}` are both names of `{canonical}`", path.display())]
    SameTensor {
        /// The component's directory.
        path: PathBuf,
        /// The first name in the files.
        first: String,
        /// The second.
        second: String,
        /// Their canonical name.
        canonical: String,
    },
}

fn no_model(instead: Option<&str>) -> String {
    let reason = "the directory contains no model_index.json, expected a diffusers directory";
    instead.unwrap_or(reason).to_owned()
}
