//! Errors of the layout of single files.

use sdq_formats::tensor::TensorError;

/// A checkpoint whose names and shapes are not those of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutProblem {
    /// A tensor that the model needs is missing.
    #[error("the file has no tensor `{0}`")]
    Missing(String),
    /// A part exists in a form that no supported model has.
    #[error("`{part}` is {found}, which sdq does not support")]
    Unknown {
        /// The part, by the prefix of its tensors' names.
        part: String,
        /// A description of what was found.
        found: String,
    },
    /// There is no U-Net, autoencoder or text encoder.
    #[error("none of the {tensors} tensors belongs to a Stable Diffusion model, the first is `{first}`{}", looks_like(*hint))]
    Nothing {
        /// Number of tensors.
        tensors: usize,
        /// Name of the first.
        first: String,
        /// A guess at the kind of file.
        hint: Option<&'static str>,
    },
    /// Only the first of TAESD's two files is present.
    #[error(
        "the file contains only the encoder of TAESD; give the decoder's file too, with a second `--vae`"
    )]
    EncoderOnly,
    /// A tensor cannot be split or transposed as its place in the model requires.
    #[error("tensor `{tensor}` has the shape {found:?}, expected {expected}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The expected shape.
        expected: String,
    },
    /// The file and the settings beside it name two predictions.
    #[error(
        "the model predicts {in_file} according to the file and {beside} according to the settings beside it; choose one with --prediction"
    )]
    Predictions {
        /// In the file.
        in_file: &'static str,
        /// In the settings.
        beside: &'static str,
    },
    /// A tensor in a format that sdq does not multiply out.
    #[error(
        "tensor `{tensor}` belongs to quantized weights of an unsupported format ({format}), expected floats, 8-bit floats \
         with a scale for each tensor or row, or GGUF's types"
    )]
    Format {
        /// The tensor.
        tensor: String,
        /// What the file calls the format.
        format: String,
    },
    /// The values of a tensor cannot be read.
    #[error(transparent)]
    Values(TensorError),
}

fn looks_like(hint: Option<&'static str>) -> String {
    hint.map_or_else(String::new, |hint| format!("; the file looks like {hint}"))
}

pub(crate) fn missing(tensor: impl Into<String>) -> LayoutProblem {
    LayoutProblem::Missing(tensor.into())
}

pub(crate) fn unknown(part: &str, found: String) -> LayoutProblem {
    LayoutProblem::Unknown { part: part.to_owned(), found }
}
