//! Textual inversions: vectors that represent a word. Gal et al. 2022, arXiv:2208.01618.
//!
//! Trainers store them as `string_to_param`, as `emb_params`, for SDXL as `clip_l` and `clip_g`, or under the
//! word itself.

use sdq_formats::checkpoint::Checkpoint;
use sdq_formats::tensor::{TensorError, TensorView};

/// The vectors of a word, and the word if the file contains it.
#[derive(Clone, Debug, PartialEq)]
pub struct TextualInversion {
    /// The word, if the only tensor is named after it. Otherwise the file's name is the word.
    pub word: Option<String>,
    /// For each text encoder that it was made for, `[vectors, width]`, row-major.
    pub vectors: Vec<WordVectors>,
}

/// Vectors for one text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct WordVectors {
    /// Size of a vector.
    pub width: usize,
    /// All vectors, one after the other.
    pub values: Vec<f32>,
}

/// Errors of reading a textual inversion.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EmbeddingError {
    /// The file contains no tensor with a name that trainers use.
    #[error(
        "no textual inversion: expected `emb_params`, `string_to_param`, `clip_l` with `clip_g`, or one tensor under a word; found {tensors} tensors, the first is `{first}`"
    )]
    Unknown {
        /// Number of tensors.
        tensors: usize,
        /// Name of the first.
        first: String,
    },
    /// The shape of a tensor is not that of vectors.
    #[error("tensor `{tensor}` is {found:?}, expected up to {limit} vectors of one width")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// Maximum number of vectors of a word.
        limit: usize,
    },
    /// A tensor's values cannot be read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A value is not a finite number.
    #[error("tensor `{tensor}` holds {value}, expected finite numbers")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
    },
}

/// Maximum number of vectors of a word: the number of tokens in a prompt.
const MAX_VECTORS: usize = 75;

impl TextualInversion {
    /// Reads the vectors in `checkpoint`.
    ///
    /// # Errors
    /// When it contains something else, or values that are not finite.
    pub fn read(checkpoint: &Checkpoint) -> Result<TextualInversion, EmbeddingError> {
        TextualInversion::of_tensors(&checkpoint.tensors().collect::<Vec<_>>())
    }

    /// Reads the vectors in `tensors`.
    ///
    /// # Errors
    /// As [`read`](TextualInversion::read).
    pub fn of_tensors(tensors: &[TensorView<'_>]) -> Result<TextualInversion, EmbeddingError> {
        let named = |wanted: &str| tensors.iter().find(|tensor| tensor.name == wanted);
        let (word, found) = if let Some(vectors) = named("emb_params") {
            (None, vec![vectors])
        } else if let Some(vectors) =
            tensors.iter().find(|tensor| tensor.name.starts_with("string_to_param."))
        {
            (None, vec![vectors])
        } else if let (Some(first), Some(second)) = (named("clip_l"), named("clip_g")) {
            (None, vec![first, second])
        } else if let [vectors] = tensors {
            (Some(vectors.name.clone()), vec![vectors])
        } else {
            let first = tensors.first().map_or_else(|| "none".to_owned(), |tensor| tensor.name.clone());
            return Err(EmbeddingError::Unknown { tensors: tensors.len(), first });
        };
        Ok(TextualInversion { word, vectors: found.into_iter().map(vectors).collect::<Result<_, _>>()? })
    }
}

fn vectors(tensor: &TensorView<'_>) -> Result<WordVectors, EmbeddingError> {
    let (count, width) = match tensor.shape[..] {
        [width] => (1, width),
        [count, width] => (count, width),
        _ => (0, 0),
    };
    if !(1..=MAX_VECTORS).contains(&count) || width == 0 {
        let (tensor, found) = (tensor.name.clone(), tensor.shape.clone());
        return Err(EmbeddingError::Shape { tensor, found, limit: MAX_VECTORS });
    }
    let values = tensor.to_f32()?;
    match values.iter().find(|value| !value.is_finite()) {
        Some(&value) => Err(EmbeddingError::NotFinite { tensor: tensor.name.clone(), value }),
        None => Ok(WordVectors { width, values }),
    }
}
