//! Errors of reading GGUF files.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::names::NAME_RULE;

/// An error of reading a GGUF file, with its path.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct GgufError {
    /// The file.
    pub path: PathBuf,
    /// The problem.
    pub problem: Box<GgufProblem>,
}

impl GgufError {
    pub(super) fn new(path: &Path, problem: impl Into<GgufProblem>) -> GgufError {
        GgufError { path: path.to_path_buf(), problem: Box::new(problem.into()) }
    }
}

/// Problems of a GGUF file. Offsets of tensors count from the start of the data.
#[derive(Debug, thiserror::Error)]
pub enum GgufProblem {
    /// The operating system could not read the file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file does not begin with the magic number.
    #[error("the file is not a GGUF file")]
    Magic,
    /// The version is obsolete, or not known yet.
    #[error("the file has GGUF version {0}, expected 2 or 3")]
    Version(u32),
    /// The file was written on a big-endian machine.
    #[error(
        "the file has big-endian numbers, expected little-endian; convert the model on a little-endian machine"
    )]
    BigEndian,
    /// The file ends too early.
    #[error("the file is truncated: {what} extends to byte {end}, but there are only {len} bytes")]
    Truncated {
        /// The part that is incomplete.
        what: &'static str,
        /// The end of this part according to the file.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// The file is too short for its number of tensors or keys.
    #[error("the file is truncated: it claims {found} {what}, more than fit into its length")]
    Count {
        /// Tensors or keys.
        what: &'static str,
        /// The number in the file.
        found: u64,
    },
    /// More tensors or keys than any model has.
    #[error("the file has {found} {what}, expected at most {limit}")]
    TooMany {
        /// Tensors or keys.
        what: &'static str,
        /// How many it announces.
        found: u64,
        /// How many are read.
        limit: u64,
    },
    /// A name is empty, too long or contains control characters.
    #[error("the name \"{0}\" is not allowed: {rule}", rule = NAME_RULE)]
    Name(String),
    /// Two tensors or two keys have the same name.
    #[error("the name `{0}` appears twice")]
    Duplicate(String),
    /// A value of the metadata has the wrong type or is not valid.
    #[error("metadata `{key}` is {found}, expected {expected}")]
    Metadata {
        /// The key.
        key: String,
        /// The value that was found.
        found: String,
        /// The expected value.
        expected: String,
    },
    /// A number format that is not supported.
    #[error("tensor `{tensor}` has the unknown type {found}, expected one of {known}")]
    Format {
        /// The tensor.
        tensor: String,
        /// The format's name, or its number.
        found: String,
        /// Names of the supported formats.
        known: String,
    },
    /// A shape that is not valid.
    #[error("tensor `{tensor}` has an invalid shape, {shape}: {reason}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape, slowest dimension first.
        shape: String,
        /// The reason.
        reason: String,
    },
    /// A tensor's range is outside the data or overlaps another tensor's.
    #[error("{}", place(tensor, *start..*end, *len, beside.as_deref()))]
    Place {
        /// The tensor.
        tensor: String,
        /// Start of its range.
        start: u64,
        /// End of its range.
        end: u64,
        /// Bytes of data.
        len: u64,
        /// The tensor that it overlaps.
        beside: Option<String>,
    },
    /// The file is one of several of a split model.
    #[error("the file is one of {0} parts of a model; join the parts with llama.cpp's gguf-split")]
    Split(u64),
}

/// The message of [`GgufProblem::Place`].
fn place(tensor: &str, range: Range<u64>, len: u64, beside: Option<&str>) -> String {
    let Range { start, end } = range;
    match beside {
        Some(other) => format!("tensor `{tensor}` at bytes {start}..{end} of the data overlaps `{other}`"),
        None => format!(
            "the file is truncated: tensor `{tensor}` extends to byte {end} of the data, but there are only {len} bytes"
        ),
    }
}
