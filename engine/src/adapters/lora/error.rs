//! Errors of reading a LoRA.

use sdq_formats::tensor::TensorError;

use crate::adapters::textual_inversion::EmbeddingError;

/// A LoRA that cannot be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LoraError {
    /// The file is a kind of adapter that is not a product of two small matrices.
    #[error("`{tensor}` is a tensor of {kind}, which is not applied; LoRA and LoCon are")]
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
        "tensor `{tensor}` is {found:?}, expected {expected} beside a layer of {layer:?}; is it for another model?"
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
    #[error("`{tensor}` is {found}, expected a finite number")]
    Alpha {
        /// The tensor.
        tensor: String,
        /// Its value.
        found: f32,
    },
    /// The adapter settings in the metadata cannot be read.
    #[error("its `lora_adapter_metadata` is not valid: {0}")]
    Adapter(String),
    /// A tensor's values cannot be read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Two tensors define the same part of a module.
    #[error("module `{module}` has two tensors for its {part}, the second is `{tensor}`")]
    Twice {
        /// The module, by its name in the file.
        module: String,
        /// The part that is defined twice.
        part: &'static str,
        /// The second tensor.
        tensor: String,
    },
    /// A value is not a finite number.
    #[error("tensor `{tensor}` holds {value}, expected finite numbers")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
    },
    /// The vectors of a bundled word cannot be used.
    #[error("the word `{word}` that comes with it: {error}")]
    Word {
        /// The word.
        word: String,
        /// The problem.
        error: EmbeddingError,
    },
    /// No tensor of the file belongs to a LoRA.
    #[error("it is not a LoRA: {0}")]
    Other(String),
    /// The model has none of the LoRA's modules.
    #[error("none of its {modules} modules is in the model, the first is `{first}`; it is for {family}")]
    Nothing {
        /// Number of modules in the file.
        modules: usize,
        /// Name of the first.
        first: String,
        /// The family of models that the names and shapes suggest.
        family: &'static str,
    },
}
