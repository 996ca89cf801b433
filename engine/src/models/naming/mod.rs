//! Names of the tensors of a network in checkpoints, in the convention of the original code and in that of
//! diffusers.

mod error;
mod names;

pub use error::LayoutProblem;
pub use names::{ModuleNames, Names};

pub(crate) use error::{missing, unknown};

use serde_json::Value;

/// A component in the form in which diffusers would save it.
pub(crate) struct Component {
    pub(crate) name: &'static str,
    pub(crate) class_name: &'static str,
    pub(crate) config: Value,
    pub(crate) renames: Vec<Rename>,
}

/// The source of a weight in a checkpoint with other names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rename {
    /// Name of the tensor in the checkpoint.
    pub(crate) source: String,
    /// Its name in diffusers; `None` for tensors that are not weights.
    pub(crate) canonical: Option<String>,
    /// The part of the tensor that is the weight.
    pub(crate) piece: Piece,
}

/// A part of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The whole tensor.
    Whole,
    /// The first, second or third part (0, 1, 2) of its first dimension.
    Third(usize),
    /// A matrix, transposed.
    Transposed,
}

impl Rename {
    pub(crate) fn new(source: &str, canonical: &str, piece: Piece) -> Rename {
        Rename { source: source.to_owned(), canonical: Some(canonical.to_owned()), piece }
    }

    pub(crate) fn ignored(source: &str) -> Rename {
        Rename { source: source.to_owned(), canonical: None, piece: Piece::Whole }
    }
}

/// Groups of every group norm: 32 in all published models. Where there are too few channels for that, the
/// largest number that divides all of `widths`.
pub(crate) fn norm_groups(widths: &[usize]) -> usize {
    (1..=32).rev().find(|groups| widths.iter().all(|width| width.is_multiple_of(*groups))).unwrap_or(1)
}
