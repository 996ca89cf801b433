//! How checkpoints name the tensors of a network, in the convention of the code that trained it and in that of diffusers.

mod error;
mod names;

pub use error::LayoutProblem;
pub use names::{ModuleNames, Names};

pub(crate) use error::{missing, unknown};

use serde_json::Value;

/// A component as diffusers would have saved it.
pub(crate) struct Component {
    pub(crate) name: &'static str,
    pub(crate) class_name: &'static str,
    pub(crate) config: Value,
    pub(crate) renames: Vec<Rename>,
}

/// Where one weight lies in a checkpoint that names it otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rename {
    /// Its tensor there.
    pub(crate) source: String,
    /// Its name in diffusers; `None` for what is no weight.
    pub(crate) canonical: Option<String>,
    /// Which part of the tensor it is.
    pub(crate) piece: Piece,
}

/// Which part of a tensor a weight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// All of it.
    Whole,
    /// The first, second or third part (0, 1, 2) of its first dimension.
    Third(usize),
    /// A matrix, rows and columns exchanged.
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

/// Groups of every group norm: 32 in all published models. Where widths are too small for that, the largest number that
/// divides them all.
pub(crate) fn norm_groups(widths: &[usize]) -> usize {
    (1..=32).rev().find(|groups| widths.iter().all(|width| width.is_multiple_of(*groups))).unwrap_or(1)
}
