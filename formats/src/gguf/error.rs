//! Everything that can be wrong with a GGUF file.

use std::io;
use std::path::{Path, PathBuf};

/// A GGUF file that cannot be read: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct GgufError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Box<GgufProblem>,
}

impl GgufError {
    pub(super) fn new(path: &Path, problem: impl Into<GgufProblem>) -> GgufError {
        GgufError { path: path.to_path_buf(), problem: Box::new(problem.into()) }
    }
}

/// What is wrong with a GGUF file. Offsets of tensors count from the start of the data.
#[derive(Debug, thiserror::Error)]
pub enum GgufProblem {
    /// The system refused to read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It does not begin as such files do.
    #[error("not a GGUF file")]
    Magic,
    /// A version that nobody writes any more, or that is not known yet.
    #[error("GGUF version {0}; versions 2 and 3 are read")]
    Version(u32),
    /// Written on a machine that stores numbers the other way round.
    #[error("its numbers are big endian; convert it on an ordinary machine")]
    BigEndian,
    /// It ends inside of what it announces.
    #[error("truncated: {what} needs byte {end}, the file has {len}")]
    Truncated {
        /// What is cut off.
        what: &'static str,
        /// Where it would end.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// More tensors or keys than the file has room for.
    #[error("{found} {what}, for which the file is too short")]
    Count {
        /// Tensors or keys.
        what: &'static str,
        /// How many it announces.
        found: u64,
    },
    /// A name that cannot be printed.
    #[error("name \"{0}\" is not allowed")]
    Name(String),
    /// Two tensors or two keys of one name.
    #[error("`{0}` appears twice")]
    Duplicate(String),
    /// A value of the metadata is not as it should be.
    #[error("metadata `{key}` is {found}, expected {expected}")]
    Metadata {
        /// The key.
        key: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A number format that is not read.
    #[error("tensor `{tensor}` has the number format {found}, which is not read; known are {known}")]
    Format {
        /// The tensor.
        tensor: String,
        /// The format's name, or its number.
        found: String,
        /// Names of those that are read.
        known: String,
    },
    /// A shape that cannot be.
    #[error("tensor `{tensor}` has the shape {shape}: {reason}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape, slowest dimension first.
        shape: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor lies where it cannot.
    #[error("tensor `{tensor}` is at {start}..{end} of {len} bytes of data{}", beside.as_ref().map_or_else(String::new, |other| format!(", where `{other}` is")))]
    Place {
        /// The tensor.
        tensor: String,
        /// Its first byte.
        start: u64,
        /// Past its last.
        end: u64,
        /// Bytes of data.
        len: u64,
        /// The tensor that is there already.
        beside: Option<String>,
    },
    /// One of several files of one model.
    #[error("one of {0} parts of a model; join them with llama.cpp's gguf-split first")]
    Split(u64),
}
