//! Everything that can be wrong with a pickled checkpoint.

use std::io;
use std::path::{Path, PathBuf};

/// A pickled checkpoint that cannot be read: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct PickleError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Box<PickleProblem>,
}

impl PickleError {
    pub(super) fn new(path: &Path, problem: impl Into<PickleProblem>) -> PickleError {
        PickleError { path: path.to_path_buf(), problem: Box::new(problem.into()) }
    }
}

/// What is wrong with a pickled checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum PickleProblem {
    /// The system refused to read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file ends inside of what it announces.
    #[error("truncated: {what} needs byte {end}, the file has {len}")]
    Truncated {
        /// What is cut off.
        what: &'static str,
        /// Where it would end.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// The zip archive is not well formed.
    #[error("not a PyTorch archive: {0}")]
    Zip(String),
    /// An archive, or a pickle, that lacks what `torch.save` puts into every one.
    #[error("it lacks {0}, so PyTorch did not write it")]
    NotTorch(&'static str),
    /// Written on a machine that stores numbers the other way round.
    #[error("its numbers are big endian; save it again on an ordinary machine")]
    BigEndian,
    /// PyTorch's format of before 2018.
    #[error("a tar archive, as PyTorch wrote before 0.1.10; load and save it with a later one")]
    Tar,
    /// The pickle is longer than any of a checkpoint is.
    #[error("its pickle has more than {limit} bytes, too many for the names and shapes of a checkpoint")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// An opcode that files of tensors have no use for.
    #[error("opcode {code:#04x} at byte {at} of its pickle is not one that tensor files use")]
    Opcode {
        /// The opcode.
        code: u8,
        /// Where.
        at: usize,
    },
    /// The pickle is not well formed.
    #[error("byte {at} of its pickle: {reason}")]
    Malformed {
        /// Where.
        at: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// The pickle asks for a function to be called.
    #[error(
        "it would run `{0}` when loaded, which no tensor needs, so it may be meant to do harm; get the model as safetensors"
    )]
    Call(String),
    /// A tensor that is not what such files have.
    #[error("tensor `{tensor}`: {reason}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// Two tensors have one name.
    #[error("tensor `{0}` appears twice")]
    Duplicate(String),
    /// There is no tensor in it.
    #[error("no tensors in it")]
    Empty,
}
