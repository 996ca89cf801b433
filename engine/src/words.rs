//! Words that a text encoder has learned after its training: textual inversions beside its vocabulary.

use std::{borrow::Cow, ops::Range};

use crate::{Error, adapters::textual_inversion::WordVectors, roles::PromptEncoder};

/// Words beside a model's vocabulary, each of which is represented by vectors of its own.
#[derive(Clone, Debug, Default)]
pub struct ExtraWords(Vec<ExtraWord>);

/// A word and the vectors that represent it.
#[derive(Clone, Debug)]
struct ExtraWord {
    word: String,
    /// In lower case.
    letters: Vec<char>,
    /// Number of vectors; the same for every encoder.
    count: usize,
    /// For each of the model's text encoders, `[count, hidden_size]`.
    values: Vec<Vec<f32>>,
}

impl ExtraWords {
    /// These words and one more, whose `vectors` are assigned to the encoders of their width.
    ///
    /// # Errors
    /// When an encoder gets none, or another number than the others.
    pub(crate) fn with(
        &self,
        word: &str,
        vectors: &[WordVectors],
        encoders: &[Box<dyn PromptEncoder>],
    ) -> Result<ExtraWords, Error> {
        let refused =
            |found: String, expected: String| Err(Error::Word { word: word.to_owned(), found, expected });
        if word.trim().is_empty() {
            return refused("no letters".to_owned(), "at least one".to_owned());
        }
        let mut values: Vec<Vec<f32>> = Vec::with_capacity(encoders.len());
        let mut count = None;
        for (index, encoder) in encoders.iter().enumerate() {
            let (component, width) = (encoder.component(), encoder.width());
            let Some(own) = of_encoder(vectors, index, width) else {
                let widths: Vec<String> = vectors.iter().map(|vectors| vectors.width.to_string()).collect();
                let found = format!("vectors of width {}", widths.join(" and "));
                return refused(
                    found,
                    format!("width {width} for `{component}`; the word is for another model"),
                );
            };
            let (of_this, room) = (own.values.len() / width, encoder.chunk_tokens() - 2);
            if of_this > room {
                return refused(
                    format!("{of_this} vectors"),
                    format!("at most {room}, the number of tokens that the model reads at once"),
                );
            }
            match count {
                Some(other) if other != of_this => {
                    let found =
                        format!("{other} vectors for one text encoder and {of_this} for `{component}`");
                    return refused(found, "the same number for each".to_owned());
                }
                _ => count = Some(of_this),
            }
            values.push(own.values.clone());
        }
        let letters: Vec<char> = word.chars().flat_map(char::to_lowercase).collect();
        let mut all = self.0.clone();
        all.retain(|other| other.letters != letters);
        all.push(ExtraWord { word: word.to_owned(), letters, count: count.unwrap_or(0), values });
        Ok(ExtraWords(all))
    }

    /// Number of vectors of all words.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count).sum()
    }

    /// The vectors of all words for the text encoder with index `encoder`, one after the other.
    pub(crate) fn values(&self, encoder: usize) -> Vec<f32> {
        self.0.iter().flat_map(|word| &word.values[encoder]).copied().collect()
    }

    /// Splits `text` at these words where they are not part of another word, in upper or lower case, the
    /// longest match first: returns the text between them, and ids from `first` on for each of their vectors.
    /// ComfyUI's prefix `embedding:` belongs to the word.
    pub(crate) fn split<'t>(&self, text: &'t str, first: u32) -> Vec<Piece<'t>> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for Match { range, index } in self.matches(text) {
            if range.start > start {
                pieces.push(Piece::Text(&text[start..range.start]));
            }
            let before: usize = self.0[..index].iter().map(|word| word.count).sum();
            let id = first + before as u32;
            pieces.push(Piece::Word((id..id + self.0[index].count as u32).collect()));
            start = range.end;
        }
        if start < text.len() {
            pieces.push(Piece::Text(&text[start..]));
        }
        pieces
    }

    /// `prompt` with the brackets in these words escaped, so that they do not change weights.
    pub(crate) fn escaped<'t>(&self, prompt: &'t str) -> Cow<'t, str> {
        const BRACKETS: [char; 5] = ['(', ')', '[', ']', '\\'];
        if !self.0.iter().any(|word| word.word.contains(BRACKETS)) {
            return Cow::Borrowed(prompt);
        }
        let mut escaped = String::with_capacity(prompt.len());
        let mut start = 0;
        for Match { range, .. } in self.matches(prompt) {
            escaped.push_str(&prompt[start..range.start]);
            for c in prompt[range.clone()].chars() {
                if BRACKETS.contains(&c) {
                    escaped.push('\\');
                }
                escaped.push(c);
            }
            start = range.end;
        }
        escaped.push_str(&prompt[start..]);
        Cow::Owned(escaped)
    }

    /// Sets in `used` the entries of the words that occur in `text`.
    pub(crate) fn mark_used(&self, text: &str, used: &mut [bool]) {
        self.matches(text).for_each(|found| used[found.index] = true);
    }

    /// Names after ComfyUI's prefix in `text` that are none of these words.
    pub(crate) fn unknown(&self, text: &str) -> Vec<String> {
        let mut starts: Vec<usize> = Vec::new();
        let known: Vec<usize> = self.matches(text).map(|found| found.range.start).collect();
        // ASCII letters alone change, so places stay the same.
        let lower = text.to_ascii_lowercase();
        starts.extend(lower.match_indices(PREFIX).map(|(at, _)| at));
        starts.retain(|at| !text[..*at].ends_with(is_part) && known.binary_search(at).is_err());
        let ends = |c: char| c.is_whitespace() || ",:;()[]<>|".contains(c);
        let name = |at: usize| text[at + PREFIX.len()..].split(ends).next().unwrap_or_default();
        starts.into_iter().map(name).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// The words, in the order in which they were added.
    pub(crate) fn words(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|word| word.word.as_str())
    }

    /// The occurrences of these words in `text`.
    fn matches<'s>(&'s self, text: &'s str) -> impl Iterator<Item = Match> + 's {
        let mut longest_first: Vec<usize> = (0..self.0.len()).collect();
        longest_first.sort_by_key(|&index| std::cmp::Reverse(self.0[index].letters.len()));
        let mut at = 0;
        std::iter::from_fn(move || {
            while let Some(c) = text[at..].chars().next() {
                let found = longest_first.iter().find_map(|&index| {
                    standing_len(text, at, &self.0[index].letters).map(|len| (index, len))
                });
                if let Some((index, len)) = found {
                    let range = at..at + len;
                    at = range.end;
                    return Some(Match { range, index });
                }
                at += c.len_utf8();
            }
            None
        })
    }

    /// Identifies the words and their vectors.
    pub(crate) fn fingerprint(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        // FNV-1a: it distinguishes files, no more.
        let words = self.0.iter().flat_map(|word| {
            let values = word.values.iter().flatten().flat_map(|value| value.to_le_bytes());
            word.word.bytes().chain(values)
        });
        let hash =
            words.fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Some(format!("{hash:08x}"))
    }
}

/// An occurrence of a word in a text.
struct Match {
    /// In bytes.
    range: Range<usize>,
    /// The index of the word.
    index: usize,
}

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece<'t> {
    Text(&'t str),
    /// Ids of a word's vectors.
    Word(Vec<u32>),
}

/// ComfyUI's prefix for the word of an embedding.
const PREFIX: &str = "embedding:";

/// Extensions of embedding files, which ComfyUI accepts after the word that has its prefix.
const EXTENSIONS: [&str; 4] = [".safetensors", ".pt", ".bin", ".ckpt"];

/// Whether a character before or after a word makes it a part of another word.
fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

/// The length in bytes of the extension of a file at the start of `text`, or 0.
fn extension_len(text: &str) -> usize {
    let is_here = |extension: &&&str| {
        text.get(..extension.len()).is_some_and(|start| start.eq_ignore_ascii_case(extension))
    };
    let found = EXTENSIONS.iter().find(is_here).map_or(0, |extension| extension.len());
    if text[found..].starts_with(is_part) { 0 } else { found }
}

/// The length in bytes of the word with these lower-case `letters` at `at` in `text`, if it is there and not
/// part of another word.
fn standing_len(text: &str, at: usize, letters: &[char]) -> Option<usize> {
    let rest = &text[at..];
    let prefix = rest.get(..PREFIX.len()).filter(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
    let prefixed = prefix.and_then(|_| spelled_len(&rest[PREFIX.len()..], letters));
    let (len, has_prefix) = match prefixed {
        Some(len) => {
            let len = PREFIX.len() + len;
            (len + extension_len(&rest[len..]), true)
        }
        None => (spelled_len(rest, letters)?, false),
    };
    // Brackets around a word, as in `<cat-toy>`, separate it from others by themselves.
    let before =
        (has_prefix || letters.first().copied().is_some_and(is_part)) && text[..at].ends_with(is_part);
    let after = letters.last().copied().is_some_and(is_part) && rest[len..].starts_with(is_part);
    (!before && !after).then_some(len)
}

/// The length in bytes of `letters` at the start of `text`, in upper or lower case.
fn spelled_len(text: &str, letters: &[char]) -> Option<usize> {
    let mut expected = letters.iter();
    for (at, c) in text.char_indices() {
        if expected.as_slice().is_empty() {
            return Some(at);
        }
        if !c.to_lowercase().all(|lower| expected.next() == Some(&lower)) {
            return None;
        }
    }
    expected.as_slice().is_empty().then_some(text.len())
}

/// The vectors for the text encoder with this index, whose vectors have this width. Encoders may have the same width; then the
/// file says which vectors are whose.
fn of_encoder(vectors: &[WordVectors], index: usize, width: usize) -> Option<&WordVectors> {
    let fitting = vectors.iter().filter(|vectors| vectors.width == width);
    fitting.min_by_key(|vectors| vectors.encoder != Some(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> ExtraWords {
        let word = |word: &str, count: usize| ExtraWord {
            word: word.to_owned(),
            letters: word.to_lowercase().chars().collect(),
            count,
            values: Vec::new(),
        };
        ExtraWords(vec![word("ink", 1), word("ink-style", 2), word("<cat>", 1), word("Bad(1)", 1)])
    }

    #[test]
    fn words_are_found_whole_and_the_longest_first() {
        let (text, word) = (Piece::Text, Piece::Word);
        for (prompt, expected) in [
            ("a drinking ink", vec![text("a drinking "), word(vec![100])]),
            ("ink-style, ink", vec![word(vec![101, 102]), text(", "), word(vec![100])]),
            ("a<cat>b", vec![text("a"), word(vec![103]), text("b")]),
            ("ink-styles inky", vec![text("ink-styles inky")]),
            ("INK, bad(1)s", vec![word(vec![100]), text(", "), word(vec![104]), text("s")]),
            ("ébad(1)", vec![text("ébad(1)")]),
            ("embedding:ink b", vec![word(vec![100]), text(" b")]),
            ("(Embedding:Ink:1.2)", vec![text("("), word(vec![100]), text(":1.2)")]),
            ("my_embedding:ink", vec![text("my_embedding:"), word(vec![100])]),
            ("embedding:inky", vec![text("embedding:inky")]),
            ("embedding:ink.SafeTensors b", vec![word(vec![100]), text(" b")]),
            ("embedding:ink.pt, b", vec![word(vec![100]), text(", b")]),
            ("embedding:ink.ptx", vec![word(vec![100]), text(".ptx")]),
            ("ink.pt", vec![word(vec![100]), text(".pt")]),
            ("", vec![]),
        ] {
            assert_eq!(words().split(prompt, 100), expected, "{prompt}");
        }
    }

    #[test]
    fn names_after_the_prefix_are_known_or_told() {
        for (prompt, expected) in [
            ("embedding:ink, (embedding:easynegative:1.2) EMBEDDING:x.pt", &["easynegative", "x.pt"][..]),
            ("my_embedding:y, embedding: z", &[]),
            ("é embedding:inky", &["inky"]),
        ] {
            assert_eq!(words().unknown(prompt), expected, "{prompt}");
        }
    }

    #[test]
    fn brackets_of_words_weigh_nothing() {
        for (prompt, expected) in [
            ("a (BAD(1):1.2) b (c)", "a (BAD\\(1\\):1.2) b (c)"),
            ("ink (1)", "ink (1)"),
            ("bad\\(1\\)", "bad\\(1\\)"),
        ] {
            assert_eq!(words().escaped(prompt), expected);
        }
    }

    #[test]
    fn time_grows_with_the_length_of_the_prompt_alone() {
        let prompt = "ink <cat> in ".repeat(100_000);
        assert_eq!(words().split(&prompt, 0).len(), 400_000);
    }

    #[test]
    fn encoders_of_one_width_read_the_vectors_that_are_theirs() {
        let vectors = |encoder, width, value| WordVectors { encoder, width, values: vec![value; width] };
        let found = |all: &[WordVectors], index, width| of_encoder(all, index, width).map(|it| it.values[0]);
        let both = [vectors(Some(1), 4, 1.0), vectors(Some(0), 4, 0.0)];
        assert_eq!(
            [found(&both, 0, 4), found(&both, 1, 4), found(&both, 0, 5)],
            [Some(0.0), Some(1.0), None]
        );
        // Where the file does not say it, or says something else, the width decides.
        let unknown = [vectors(None, 3, 3.0), vectors(Some(0), 4, 4.0)];
        assert_eq!([found(&unknown, 0, 3), found(&unknown, 1, 4)], [Some(3.0), Some(4.0)]);
    }
}
