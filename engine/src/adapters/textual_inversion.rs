//! Textual inversions: vectors that stand for a word. Gal et al. 2022, arXiv:2208.01618.
//!
//! Trainers store them as `string_to_param`, as `emb_params`, for SDXL as `clip_l` and `clip_g`, or under the word itself.

use sdq_formats::checkpoint::Checkpoint;
use sdq_formats::tensor::{TensorError, TensorView};

/// The vectors of a word, and the word if the file says it.
#[derive(Clone, Debug, PartialEq)]
pub struct TextualInversion {
    /// How the file calls it, where its one tensor is called so. Other files go by their own names.
    pub word: Option<String>,
    /// For each text encoder that it is made for, `[vectors, width]`, row-major.
    pub vectors: Vec<WordVectors>,
}

/// Vectors for one text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct WordVectors {
    /// Values of a vector.
    pub width: usize,
    /// All vectors, one after the other.
    pub values: Vec<f32>,
}

/// A file that is no textual inversion.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EmbeddingError {
    /// No tensor of it is one that trainers write.
    #[error(
        "no textual inversion: expected `emb_params`, `string_to_param`, `clip_l` with `clip_g`, or one tensor under a word; found {tensors} tensors, the first is `{first}`"
    )]
    Unknown {
        /// Number of tensors.
        tensors: usize,
        /// Name of the first.
        first: String,
    },
    /// A tensor has not the shape of vectors.
    #[error("tensor `{tensor}` is {found:?}, expected up to {limit} vectors of one width")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// Most vectors of a word.
        limit: usize,
    },
    /// A tensor's values cannot be read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A value is no finite number.
    #[error("tensor `{tensor}` holds {value}, expected finite numbers")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
    },
}

/// Most vectors of a word: as many as a prompt has room for.
const MAX_VECTORS: usize = 75;

impl TextualInversion {
    /// The vectors in `checkpoint`.
    ///
    /// # Errors
    /// When it holds something else, or values that are not finite.
    pub fn read(checkpoint: &Checkpoint) -> Result<TextualInversion, EmbeddingError> {
        TextualInversion::of_tensors(&checkpoint.tensors().collect::<Vec<_>>())
    }

    /// The vectors in `tensors`.
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
