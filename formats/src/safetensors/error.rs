//! Errors of reading and writing safetensors files.

use std::io;
use std::path::{Path, PathBuf};

use crate::dtype::DType;
use crate::names::NAME_RULE;
use crate::sniff::FileKind;

/// An error of reading or writing a safetensors file, with its path.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct SafetensorsError {
    /// The file.
    pub path: PathBuf,
    /// The problem.
    pub problem: Box<SafetensorsProblem>,
}

impl SafetensorsError {
    pub(crate) fn new(path: &Path, problem: impl Into<SafetensorsProblem>) -> SafetensorsError {
        SafetensorsError { path: path.to_path_buf(), problem: Box::new(problem.into()) }
    }
}

/// Problems of a safetensors file. Lengths and offsets are in bytes; tensor offsets count from the end of the
/// header.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsProblem {
    /// The operating system could not read or write the file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is of another kind, according to its first bytes.
    #[error("expected a safetensors file, found {0}")]
    Kind(FileKind),
    /// The file is shorter than the eight bytes of the header's length.
    #[error("the file has {0} bytes, too few for a safetensors file")]
    TooShort(usize),
    /// The header is longer than [`super::Header::MAX_LEN`]; most likely the file is not a safetensors file.
    #[error(
        "the file is not a safetensors file: the header would have {found} bytes, expected at most {limit}"
    )]
    HeaderTooLong {
        /// The limit.
        limit: u64,
        /// Length according to the file.
        found: u64,
    },
    /// The header ends past the file.
    #[error("the file is truncated: the header extends to byte {expected}, but there are only {found} bytes")]
    HeaderPastEnd {
        /// End of the header.
        expected: u64,
        /// Length of the file.
        found: u64,
    },
    /// The header is not UTF-8.
    #[error("the header is not valid UTF-8 from byte {0} on")]
    Utf8(usize),
    /// The header is not valid JSON, or not of the expected structure.
    #[error("the header is not valid: {0}")]
    Json(String),
    /// A tensor name is empty, too long or contains control characters.
    #[error("the tensor name \"{0}\" is not allowed: {rule}", rule = NAME_RULE)]
    Name(String),
    /// Two tensors, or two strings of the metadata, have the same name.
    #[error("the name `{0}` appears twice")]
    Duplicate(String),
    /// A number format that is not supported.
    #[error("tensor `{tensor}` has the unknown type \"{found}\", expected one of {}", DType::ALL.map(DType::name).join(", "))]
    UnknownDType {
        /// The tensor.
        tensor: String,
        /// The format in the file, shortened and escaped.
        found: String,
    },
    /// The size of a tensor overflows.
    #[error("tensor `{tensor}` has too many elements to count")]
    ShapeOverflow {
        /// The tensor.
        tensor: String,
    },
    /// The length of a tensor's byte range does not match its shape and format.
    #[error(
        "tensor `{tensor}` of shape {shape} and type {dtype} takes {expected} bytes, which is not the length of its offsets {start}..{end}"
    )]
    Length {
        /// The tensor.
        tensor: String,
        /// Its shape, shortened.
        shape: String,
        /// Its number format.
        dtype: DType,
        /// Number of bytes that its shape and format require.
        expected: u64,
        /// Start of its range.
        start: u64,
        /// End of its range.
        end: u64,
    },
    /// The file ends before a tensor does.
    #[error(
        "the file is truncated: tensor `{tensor}` extends to byte {end} of the data, but there are only {found} bytes"
    )]
    PastEnd {
        /// The tensor.
        tensor: String,
        /// Its end.
        end: u64,
        /// Bytes of data in the file.
        found: u64,
    },
    /// A tensor starts before the end of its predecessor.
    #[error(
        "tensor `{tensor}` starts at byte {found} of the data and overlaps `{previous}`, which ends at byte {expected}"
    )]
    Overlap {
        /// The tensor.
        tensor: String,
        /// The tensor before it.
        previous: String,
        /// The expected start.
        expected: u64,
        /// The actual start.
        found: u64,
    },
    /// There is a gap before a tensor.
    #[error(
        "tensor `{tensor}` starts at byte {found} of the data, expected {expected}: the bytes between belong to no tensor"
    )]
    Hole {
        /// The tensor.
        tensor: String,
        /// The expected start.
        expected: u64,
        /// The actual start.
        found: u64,
    },
    /// There are bytes after the last tensor.
    #[error("the tensors take {expected} bytes, but the file has {found} bytes of data")]
    Trailing {
        /// End of the last tensor.
        expected: u64,
        /// Bytes of data in the file.
        found: u64,
    },
}
