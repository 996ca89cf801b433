//! Errors of reading a LoRA.

use sdq_formats::tensor::TensorError;

use crate::adapters::textual_inversion::EmbeddingError;

/// A LoRA that cannot be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LoraError {
    /// The file is a kind of adapter that is not a product of two small matrices.
    #[error(
        "tensor `{tensor}` belongs to an adapter of an unsupported kind ({kind}), expected LoRA or LoCon"
    )]
    Kind {
        /// The first such tensor.
        tensor: String,
        /// Its kind.
        kind: &'static str,
    },
    /// Only one half of a module's product is in the file.
    #[error("module `{module}` has no `{part}`")]
    Half {
        /// The module, by its name in the file.
        module: String,
        /// The missing part.
        part: &'static str,
    },
    /// The shape of a tensor does not fit its layer.
    #[error(
        "tensor `{tensor}` has the shape {found:?}, expected {expected} for a layer of shape {layer:?}; the LoRA may be for another model"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The expected shape.
        expected: String,
        /// Shape of the layer's weight.
        layer: Vec<usize>,
    },
    /// The alpha of a module is not a finite number.
    #[error("tensor `{tensor}` is {found}, expected a finite number")]
    Alpha {
        /// The tensor.
        tensor: String,
        /// Its value.
        found: f32,
    },
    /// The alpha of a module is no single number.
    #[error("tensor `{tensor}` has the shape {found:?}, expected one number")]
    NoNumber {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// The adapter settings in the metadata cannot be read.
    #[error("the metadata `lora_adapter_metadata` is not valid: {0}")]
    Adapter(String),
    /// A tensor's values cannot be read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Two tensors define the same part of a module.
    #[error("the {part} of module `{module}` appears twice, the second time as `{tensor}`")]
    Twice {
        /// The module, by its name in the file.
        module: String,
        /// The part that is defined twice.
        part: &'static str,
        /// The second tensor.
        tensor: String,
    },
    /// A value is not a finite number.
    #[error("tensor `{tensor}` contains {value}, expected finite numbers")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
    },
    /// The vectors of a bundled word cannot be used.
    #[error("the embedding of the word `{word}` in the file is not valid: {error}")]
    Word {
        /// The word.
        word: String,
        /// The problem.
        error: EmbeddingError,
    },
    /// No tensor of the file belongs to a LoRA.
    #[error("expected a LoRA, found {0}")]
    Other(String),
    /// The model has none of the LoRA's modules.
    #[error(
        "the model has none of the {modules} modules of the LoRA, the first of which is `{first}`; the LoRA is for {family}"
    )]
    Nothing {
        /// Number of modules in the file.
        modules: usize,
        /// Name of the first.
        first: String,
        /// The family of models that the names and shapes suggest.
        family: &'static str,
    },
}
