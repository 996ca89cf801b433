//! Words that a text encoder has learned afterwards: textual inversions beside its vocabulary.

use crate::{Error, adapters::textual_inversion::WordVectors, roles::PromptEncoder};

/// Words beside a model's vocabulary, each of which stands for vectors of its own.
#[derive(Clone, Debug, Default)]
pub struct ExtraWords(Vec<ExtraWord>);

/// A word and the vectors that stand for it.
#[derive(Clone, Debug)]
struct ExtraWord {
    word: String,
    /// Vectors; as many for every encoder.
    count: usize,
    /// For each of the model's text encoders, `[count, hidden_size]`.
    values: Vec<Vec<f32>>,
}

impl ExtraWords {
    /// These and one more, whose `vectors` are given to the encoders that have their width.
    ///
    /// # Errors
    /// When an encoder gets none, or another number than the others.
    pub(crate) fn with(
        &self,
        word: &str,
        vectors: &[WordVectors],
        encoders: &[Box<dyn PromptEncoder>],
    ) -> Result<ExtraWords, Error> {
        let mut values: Vec<Vec<f32>> = Vec::with_capacity(encoders.len());
        let mut count = None;
        for encoder in encoders {
            let width = encoder.width();
            let own = vectors.iter().find(|vectors| vectors.width == width);
            let counts =
                own.map(|own| own.values.len() / width).filter(|own| count.is_none_or(|count| count == *own));
            let (Some(own), Some(of_this)) = (own, counts) else {
                let found: Vec<_> = vectors
                    .iter()
                    .map(|vectors| (vectors.values.len() / vectors.width, vectors.width))
                    .collect();
                return Err(Error::Mismatch {
                    what: format!("vectors of the word `{word}`"),
                    expected: format!(
                        "a width of {width}, that of `{}`, and one number of them",
                        encoder.component()
                    ),
                    found: format!("{found:?} (number, width)"),
                });
            };
            let room = encoder.chunk_tokens() - 2;
            if of_this > room {
                return Err(Error::Mismatch {
                    what: format!("vectors of the word `{word}`"),
                    expected: format!("at most {room}, what the model reads at once"),
                    found: of_this.to_string(),
                });
            }
            count = Some(of_this);
            values.push(own.values.clone());
        }
        if word.trim().is_empty() {
            return Err(Error::Mismatch {
                what: "the word of an embedding".to_owned(),
                expected: "letters".to_owned(),
                found: format!("`{word}`"),
            });
        }
        let mut all = self.0.clone();
        all.retain(|other| other.word != word);
        all.push(ExtraWord { word: word.to_owned(), count: count.unwrap_or(0), values });
        Ok(ExtraWords(all))
    }

    /// Vectors of all words.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count).sum()
    }

    /// The vectors of all words for one text encoder, by its place, one after the other.
    pub(crate) fn values(&self, encoder: usize) -> Vec<f32> {
        self.0.iter().flat_map(|word| &word.values[encoder]).copied().collect()
    }

    /// Cuts `text` where words of these stand by themselves: the text between them, and ids from `first` on for each of
    /// their vectors.
    pub(crate) fn split<'t>(&self, text: &'t str, first: u32) -> Vec<Piece<'t>> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((start, word, id)) = self.next(rest, first) {
            if start > 0 {
                pieces.push(Piece::Text(&rest[..start]));
            }
            pieces.push(Piece::Word((id..id + word.count as u32).collect()));
            rest = &rest[start + word.word.len()..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest));
        }
        pieces
    }

    /// The first place in `text` where one of these words stands, the longest of several.
    fn next(&self, text: &str, first: u32) -> Option<(usize, &ExtraWord, u32)> {
        let mut id = first;
        let mut best: Option<(usize, &ExtraWord, u32)> = None;
        for word in &self.0 {
            if let Some(start) = find_word(text, &word.word)
                && best.is_none_or(|(at, other, _)| {
                    (start, std::cmp::Reverse(word.word.len())) < (at, std::cmp::Reverse(other.word.len()))
                })
            {
                best = Some((start, word, id));
            }
            id += word.count as u32;
        }
        best
    }

    /// What tells these words from others.
    pub(crate) fn fingerprint(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        // FNV-1a: it tells files apart, no more.
        let words = self.0.iter().flat_map(|word| {
            let values = word.values.iter().flatten().flat_map(|value| value.to_le_bytes());
            word.word.bytes().chain(values)
        });
        let hash =
            words.fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Some(format!("{hash:08x}"))
    }
}

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece<'t> {
    Text(&'t str),
    /// Ids of a word's vectors.
    Word(Vec<u32>),
}

/// Where `word` stands in `text` and is no part of another word.
fn find_word(text: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let mut from = 0;
    while let Some(found) = text[from..].find(word) {
        let (start, end) = (from + found, from + found + word.len());
        // Brackets around a word, as in `<cat-toy>`, part it from others by themselves.
        let before = word.starts_with(is_part) && text[..start].ends_with(is_part);
        let after = word.ends_with(is_part) && text[end..].starts_with(is_part);
        if !before && !after {
            return Some(start);
        }
        from = start + text[start..].chars().next().map_or(1, char::len_utf8);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> ExtraWords {
        let word = |word: &str, count: usize| ExtraWord { word: word.to_owned(), count, values: Vec::new() };
        ExtraWords(vec![word("ink", 1), word("ink-style", 2), word("<cat>", 1)])
    }

    #[test]
    fn words_are_found_whole_and_the_longest_first() {
        let (text, word) = (Piece::Text, Piece::Word);
        for (prompt, expected) in [
            ("a drinking ink", vec![text("a drinking "), word(vec![100])]),
            ("ink-style, ink", vec![word(vec![101, 102]), text(", "), word(vec![100])]),
            ("a<cat>b", vec![text("a"), word(vec![103]), text("b")]),
            ("ink-styles inky", vec![text("ink-styles inky")]),
            ("", vec![]),
        ] {
            assert_eq!(words().split(prompt, 100), expected, "{prompt}");
        }
    }
}
