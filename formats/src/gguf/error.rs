//! Errors of reading GGUF files.

use std::io;
use std::path::{Path, PathBuf};

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
    #[error("not a GGUF file")]
    Magic,
    /// The version is obsolete, or not known yet.
    #[error("GGUF version {0}; versions 2 and 3 are read")]
    Version(u32),
    /// The file was written on a big-endian machine.
    #[error("its numbers are big endian; convert it on an ordinary machine")]
    BigEndian,
    /// The file ends too early.
    #[error("truncated: {what} needs byte {end}, the file has {len}")]
    Truncated {
        /// The part that is incomplete.
        what: &'static str,
        /// The end of this part according to the file.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// The file is too short for its number of tensors or keys.
    #[error("{found} {what}, for which the file is too short")]
    Count {
        /// Tensors or keys.
        what: &'static str,
        /// The number in the file.
        found: u64,
    },
    /// More tensors or keys than any model has.
    #[error("{found} {what}, at most {limit} are read")]
    TooMany {
        /// Tensors or keys.
        what: &'static str,
        /// How many it announces.
        found: u64,
        /// How many are read.
        limit: u64,
    },
    /// A name is empty, too long or contains control characters.
    #[error("name \"{0}\" is not allowed")]
    Name(String),
    /// Two tensors or two keys have the same name.
    #[error("`{0}` appears twice")]
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
    #[error("tensor `{tensor}` has the number format {found}, which is not read; known are {known}")]
    Format {
        /// The tensor.
        tensor: String,
        /// The format's name, or its number.
        found: String,
        /// Names of the supported formats.
        known: String,
    },
    /// A shape that is not valid.
    #[error("tensor `{tensor}` has the shape {shape}: {reason}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape, slowest dimension first.
        shape: String,
        /// The reason.
        reason: String,
    },
    /// A tensor's range is outside the data or overlaps another tensor's.
    #[error("tensor `{tensor}` is at {start}..{end} of {len} bytes of data{}", beside.as_ref().map_or_else(String::new, |other| format!(", where `{other}` is")))]
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
    #[error("one of {0} parts of a model; join them with llama.cpp's gguf-split first")]
    Split(u64),
}
