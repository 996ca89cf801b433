//! Errors of reading pickled checkpoints.

use std::io;
use std::path::{Path, PathBuf};

/// An error of reading a pickled checkpoint, with its path.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct PickleError {
    /// The file.
    pub path: PathBuf,
    /// The problem.
    pub problem: Box<PickleProblem>,
}

impl PickleError {
    pub(super) fn new(path: &Path, problem: impl Into<PickleProblem>) -> PickleError {
        PickleError { path: path.to_path_buf(), problem: Box::new(problem.into()) }
    }
}

/// Problems of a pickled checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum PickleProblem {
    /// The operating system could not read the file.
    #[error("{0}")]
    Io(#[from] io::Error),
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
    /// The zip archive is not well formed.
    #[error("the file is not a valid PyTorch archive: {0}")]
    Zip(String),
    /// The archive or pickle lacks a part that `torch.save` always writes.
    #[error("the file has no {0}, which torch.save always writes")]
    NotTorch(&'static str),
    /// The file was written on a big-endian machine.
    #[error(
        "the file has big-endian numbers, expected little-endian; save the model again on a little-endian machine"
    )]
    BigEndian,
    /// PyTorch's format from before 2018.
    #[error(
        "the file is a tar archive, the format of PyTorch before 0.1.10; load it with a later PyTorch and save it again"
    )]
    Tar,
    /// The pickle is longer than that of any checkpoint.
    #[error("the pickle has more than {limit} bytes, too many for a checkpoint")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// More of something than any checkpoint has.
    #[error("the pickle has more than {limit} {what}, too many for a checkpoint")]
    TooMany {
        /// Values, marks, or bytes of names.
        what: &'static str,
        /// How many are read.
        limit: usize,
    },
    /// An opcode that files of tensors do not need.
    #[error("the pickle has the opcode {code:#04x} at byte {at}, which no checkpoint needs")]
    Opcode {
        /// The opcode.
        code: u8,
        /// Its position.
        at: usize,
    },
    /// The pickle is not well formed.
    #[error("the pickle is malformed at byte {at}: {reason}")]
    Malformed {
        /// The position.
        at: usize,
        /// The reason.
        reason: &'static str,
    },
    /// The pickle would call a function.
    #[error(
        "the pickle would run `{0}`, which no checkpoint needs and which may do harm; get the model as a safetensors file"
    )]
    Call(String),
    /// A tensor of a kind that such files do not contain.
    #[error("tensor `{tensor}`: {reason}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// The reason.
        reason: String,
    },
    /// Two tensors have one name.
    #[error("tensor `{0}` appears twice")]
    Duplicate(String),
    /// There are no tensors in the file.
    #[error("the file contains no tensors")]
    Empty,
    /// There are tensors in the file, and none is under a name.
    #[error(
        "the file contains {0} blocks of tensor data, but no tensor has a name; early LoRA trainers wrote such lists, which must be converted to a file with names"
    )]
    Unnamed(usize),
}
