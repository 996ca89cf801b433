//! Everything that can be wrong with a checkpoint.

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
    /// The system refused to read.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why. Not the source: the message has said it.
        reason: io::Error,
    },
    /// A file of a kind that holds no tensors.
    #[error("{}: expected a checkpoint (safetensors, .ckpt or GGUF); it is {kind}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is by its first bytes.
        kind: FileKind,
    },
    /// A malformed safetensors file.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// A GGUF file that cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A pickle that cannot be read, or will not.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// An index that does not fit its shards.
    #[error("{}: {problem}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        problem: IndexProblem,
    },
    /// Two files that belong together hold a tensor of one name.
    #[error("{}: tensor `{tensor}` is in {} too", path.display(), first.display())]
    InTwoFiles {
        /// The second file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first file.
        first: PathBuf,
    },
}

/// What is wrong with the index of a checkpoint's shards.
#[derive(Debug, thiserror::Error)]
pub enum IndexProblem {
    /// It cannot be read.
    #[error("{0}")]
    Text(#[from] TextFileError),
    /// It is not the JSON that it should be.
    #[error("not valid: {0}")]
    Json(String),
    /// It lists a tensor twice.
    #[error("`{0}` appears twice")]
    Duplicate(String),
    /// It names a shard by something other than a plain file name.
    #[error("shard name \"{0}\" is not allowed")]
    ShardName(String),
    /// It assigns a tensor to a shard that does not have it.
    #[error("tensor `{tensor}` is not in `{shard}`, where the index has it")]
    MissingTensor {
        /// The tensor.
        tensor: String,
        /// The shard's file name.
        shard: String,
    },
}
