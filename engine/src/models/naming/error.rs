//! What can be wrong with the layout of a single file.

use sdq_formats::tensor::TensorError;

/// A checkpoint whose names and shapes are not those of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutProblem {
    /// A tensor that everything else calls for.
    #[error("no tensor `{0}`")]
    Missing(String),
    /// A part that is there in a form that cannot be written down as a model.
    #[error("`{part}` is {found}, which is not a model that sdq runs")]
    Unknown {
        /// The part, by what the names of its tensors begin with.
        part: String,
        /// What it looks like.
        found: String,
    },
    /// No U-Net, autoencoder or text encoder at all.
    #[error("none of its {tensors} tensors belongs to a Stable Diffusion model, the first is `{first}`{}", looks_like(*hint))]
    Nothing {
        /// Number of tensors.
        tensors: usize,
        /// Name of the first.
        first: String,
        /// What it looks like.
        hint: Option<&'static str>,
    },
    /// One of TAESD's two files without the other.
    #[error("it is only the {0} of TAESD; give both of its files, `--vae` twice")]
    HalfOfTaesd(&'static str),
    /// A tensor that cannot be cut or turned as its place in the model asks for.
    #[error("tensor `{tensor}` is {found:?}, expected {expected}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// What it should be.
        expected: String,
    },
    /// A tensor whose values cannot be read.
    #[error(transparent)]
    Values(TensorError),
}

fn looks_like(hint: Option<&'static str>) -> String {
    hint.map_or_else(String::new, |hint| format!("; it looks like {hint}"))
}

pub(crate) fn missing(tensor: impl Into<String>) -> LayoutProblem {
    LayoutProblem::Missing(tensor.into())
}

pub(crate) fn unknown(part: &str, found: String) -> LayoutProblem {
    LayoutProblem::Unknown { part: part.to_owned(), found }
}
