//! Textual inversions: vectors that represent a word. Gal et al. 2022, arXiv:2208.01618.
//!
//! Trainers store them as `string_to_param`, as `emb_params`, for SDXL as `clip_l` and `clip_g` or as `text_encoders_0` and
//! `text_encoders_1`, or under the word itself.

use sdq_formats::checkpoint::Checkpoint;
use sdq_formats::tensor::{TensorError, TensorView};

use super::lora;

/// The content of a file of textual inversions.
#[derive(Clone, Debug, PartialEq)]
pub struct TextualInversions {
    /// At least one.
    pub words: Vec<TextualInversion>,
    /// Names of the tensors that are no vectors of a word.
    pub left_out: Vec<String>,
}

/// The vectors of a word, and the word if the file contains it.
#[derive(Clone, Debug, PartialEq)]
pub struct TextualInversion {
    /// The word, if a tensor is named after it. Otherwise the file's name is the word.
    pub word: Option<String>,
    /// For each text encoder that it was made for, `[vectors, width]`, row-major.
    pub vectors: Vec<WordVectors>,
}

/// Vectors for one text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct WordVectors {
    /// Index of the text encoder in the model, if the file says it. Otherwise the width decides.
    pub encoder: Option<usize>,
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
        "the file is not a textual inversion: expected `emb_params`, `string_to_param`, `clip_l`, `clip_g` or tensors named after words, found {tensors} tensors, the first of which is `{first}`"
    )]
    Unknown {
        /// Number of tensors.
        tensors: usize,
        /// Name of the first.
        first: String,
    },
    /// The shape of a tensor is not that of vectors.
    #[error("tensor `{tensor}` has the shape {found:?}, expected 1 to {limit} vectors of one width")]
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
    #[error("tensor `{tensor}` contains {value}, expected finite numbers")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
    },
}

/// Maximum number of vectors of a word: the number of tokens in a prompt.
const MAX_VECTORS: usize = 75;

/// Maximum number of words of a file: more tensors are another kind of file.
const MAX_WORDS: usize = 100;

/// The role of a tensor, by its name.
enum Kind<'n> {
    /// Vectors of the file's only word, for the text encoder with this index if it is known.
    Vectors(Option<usize>),
    /// An entry of `string_to_param`, with its key.
    Param(&'n str),
    Other,
}

fn kind(name: &str) -> Kind<'_> {
    match name {
        "emb_params" => Kind::Vectors(None),
        "clip_l" | "text_encoders_0" => Kind::Vectors(Some(0)),
        "clip_g" | "text_encoders_1" => Kind::Vectors(Some(1)),
        _ => name.strip_prefix("string_to_param.").map_or(Kind::Other, Kind::Param),
    }
}

impl TextualInversions {
    /// Reads the vectors in `checkpoint`.
    ///
    /// # Errors
    /// When it contains something else, or values that are not finite.
    pub fn read(checkpoint: &Checkpoint) -> Result<TextualInversions, EmbeddingError> {
        TextualInversions::of_tensors(&checkpoint.tensors().collect::<Vec<_>>())
    }

    /// Reads the vectors in `tensors`.
    ///
    /// # Errors
    /// As [`read`](TextualInversions::read).
    pub fn of_tensors(tensors: &[TensorView<'_>]) -> Result<TextualInversions, EmbeddingError> {
        let (mut own, mut params, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for tensor in tensors {
            match kind(&tensor.name) {
                Kind::Vectors(encoder) => own.push(vectors(tensor, encoder)?),
                Kind::Param(key) => params.push((key, vectors(tensor, None)?)),
                Kind::Other => others.push(tensor),
            }
        }
        let named = |(word, vectors): (&str, WordVectors)| TextualInversion {
            word: Some(word.to_owned()),
            vectors: vec![vectors],
        };
        let mut words = Vec::new();
        if !own.is_empty() {
            words.push(TextualInversion { word: None, vectors: own });
        }
        match <[_; 1]>::try_from(params) {
            // AUTOMATIC1111's files have one key, which is `*`: the file's name is the word.
            Ok([(_, vectors)]) => words.push(TextualInversion { word: None, vectors: vec![vectors] }),
            Err(params) => words.extend(params.into_iter().map(named)),
        }
        if words.is_empty() && others.len() <= MAX_WORDS && others.iter().all(|tensor| is_word(tensor)) {
            for tensor in std::mem::take(&mut others) {
                words.push(named((&tensor.name, vectors(tensor, None)?)));
            }
        }
        if words.is_empty() || words.len() > MAX_WORDS {
            let first = tensors.first().map_or_else(|| "none".to_owned(), |tensor| tensor.name.clone());
            return Err(EmbeddingError::Unknown { tensors: tensors.len(), first });
        }
        let left_out = others.into_iter().map(|tensor| tensor.name.clone()).collect();
        Ok(TextualInversions { words, left_out })
    }
}

/// Whether `tensor` may contain the vectors of the word that is its name, and is no tensor of a network or an adapter. A word
/// may have dots.
fn is_word(tensor: &TensorView<'_>) -> bool {
    const OF_NETWORKS: [&str; 5] = ["weight", "bias", "alpha", "running_mean", "running_var"];
    let last = tensor.name.rsplit_once('.').map_or("", |(_, last)| last);
    !OF_NETWORKS.contains(&last) && !lora::is_adapter(&tensor.name) && matches!(tensor.shape.len(), 1 | 2)
}

fn vectors(tensor: &TensorView<'_>, encoder: Option<usize>) -> Result<WordVectors, EmbeddingError> {
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
        None => Ok(WordVectors { encoder, width, values }),
    }
}
