//! Errors of reading checkpoints.

use std::io;
use std::path::PathBuf;

use crate::gguf::GgufError;
use crate::pickle::PickleError;
use crate::safetensors::SafetensorsError;
use crate::sniff::FileKind;
use crate::text_file::TextFileError;

/// A checkpoint that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system could not read the file.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason. It is not the `source`, because the message contains it.
        reason: io::Error,
    },
    /// A file of a kind that contains no tensors.
    #[error("{}: expected a checkpoint (safetensors, .ckpt or GGUF), found {kind}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The kind according to its first bytes.
        kind: FileKind,
    },
    /// A malformed safetensors file.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// A GGUF file that cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A pickle that cannot be read or is refused.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// An index that does not match its shards.
    #[error("{}: {problem}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// The problem.
        problem: IndexProblem,
    },
    /// Two files of one checkpoint contain a tensor of the same name.
    #[error("{}: tensor `{tensor}` is also in {}", path.display(), first.display())]
    InTwoFiles {
        /// The second file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first file.
        first: PathBuf,
    },
}

/// Problems of the index of a checkpoint's shards.
#[derive(Debug, thiserror::Error)]
pub enum IndexProblem {
    /// It cannot be read.
    #[error("{0}")]
    Text(#[from] TextFileError),
    /// It is not valid JSON, or not of the expected structure.
    #[error("the index is not valid: {0}")]
    Json(String),
    /// It lists a tensor twice.
    #[error("tensor `{0}` appears twice")]
    Duplicate(String),
    /// It names a shard by something other than a plain file name.
    #[error("the shard name \"{0}\" is not allowed: a shard is a file in the folder of the index")]
    ShardName(String),
    /// It assigns a tensor to a shard that does not have it.
    #[error("the index lists tensor `{tensor}` in `{shard}`, which does not contain it")]
    MissingTensor {
        /// The tensor.
        tensor: String,
        /// The shard's file name.
        shard: String,
    },
}
