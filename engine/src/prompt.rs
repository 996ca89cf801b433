//! The syntax of brackets in a prompt, and the division of long prompts into chunks, both as in
//! AUTOMATIC1111's web UI, for which most published prompts are written.

use crate::{
    Error,
    tokenizer::Tokenizer,
    words::{ExtraWords, Piece},
};

/// The syntax of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromptSyntax {
    /// Plain text, truncated to the model's length, as in diffusers.
    #[default]
    Plain,
    /// `(more)`, `[less]` and `(so much:1.3)` weight words, `\(` is a literal bracket, `BREAK` starts the
    /// next chunk, and a prompt of any length is read in chunks.
    Weighted,
}

/// How prompts are converted to text states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptReading {
    /// The syntax of brackets, and the treatment of long prompts.
    pub syntax: PromptSyntax,
    /// The last block of the text encoder that is used, counted from the end: 1 for the last, 2 for the one
    /// before it. `None` selects the one that the model was trained with.
    pub clip_skip: Option<usize>,
}

/// Tokens that the model reads at once, and their weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chunk {
    /// Start, words, end, padding: as many as the model's length.
    pub(crate) ids: Vec<u32>,
    /// One for each id; `None` where all are 1.
    pub(crate) weights: Option<Vec<f32>>,
}

/// The factor of `(word)`; `[word]` divides by it.
const EMPHASIS: f32 = 1.1;
/// At the end of a chunk, the words after a comma at most this many tokens back move to the next chunk with
/// it.
const COMMA_BACKTRACK: usize = 20;
/// Maximum number of chunks of a prompt.
const MAX_CHUNKS: usize = 32;
/// Maximum length of a prompt in bytes: more than all chunks hold.
const MAX_LEN: usize = 1 << 16;
/// Maximum number of brackets that are open at once.
const MAX_DEPTH: usize = 255;
/// Maximum length of a weight in bytes, with its bracket: `:1.3)`.
const MAX_WEIGHT_LEN: usize = 64;
/// Maximum number of characters of a bracket that an error shows.
const SHOWN_CHARS: usize = 80;
/// The word that ends a chunk.
const BREAK: &str = "BREAK";

/// Divides `prompt` into chunks of `tokenizer`, at least one.
///
/// # Errors
/// When the vocabulary does not cover the prompt, or it is too long or its syntax is not supported.
pub(crate) fn chunks(
    tokenizer: &Tokenizer,
    extra: &ExtraWords,
    prompt: &str,
    syntax: PromptSyntax,
) -> Result<Vec<Chunk>, Error> {
    if prompt.len() > MAX_LEN {
        let found = format!("a text of {} bytes", prompt.len());
        return Err(Error::Request { field: "prompt", found, expected: format!("at most {MAX_LEN}") });
    }
    let mut cutter = Cutter { tokenizer, extra, chunks: Vec::new(), words: Vec::new(), last_comma: None };
    match syntax {
        PromptSyntax::Plain if extra.count() == 0 => {
            Ok(vec![Chunk { ids: tokenizer.encode(prompt)?, weights: None }])
        }
        PromptSyntax::Plain => {
            cutter.add(prompt, 1.0)?;
            let chunks = cutter.finish(prompt)?;
            Ok(chunks.into_iter().take(1).collect())
        }
        PromptSyntax::Weighted => {
            for span in parse(&extra.escaped(prompt))? {
                match span {
                    Span::Break => cutter.end_chunk(),
                    Span::Text(text, weight) => cutter.add(&text, weight)?,
                }
            }
            cutter.finish(prompt)
        }
    }
}

/// The words of `extra` that occur in none of `prompts`, which are parsed as in [`chunks`].
///
/// # Errors
/// When a prompt cannot be read.
pub(crate) fn unused_words(
    extra: &ExtraWords,
    prompts: &[&str],
    syntax: PromptSyntax,
) -> Result<Vec<String>, Error> {
    let mut used = vec![false; extra.words().len()];
    for prompt in prompts {
        match syntax {
            PromptSyntax::Plain => extra.mark_used(prompt, &mut used),
            PromptSyntax::Weighted => {
                for span in parse(&extra.escaped(prompt))? {
                    if let Span::Text(text, _) = span {
                        extra.mark_used(&text, &mut used);
                    }
                }
            }
        }
    }
    let unused = extra.words().zip(used).filter(|(_, used)| !used);
    Ok(unused.map(|(word, _)| word.to_owned()).collect())
}

/// The length of a prompt for a text encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptLength {
    /// Tokens of its words.
    pub tokens: usize,
    /// Chunks that they take, at least 1.
    pub chunks: usize,
    /// Most tokens of words in a chunk.
    pub per_chunk: usize,
}

/// The length of `prompt`, which is parsed as in [`chunks`].
///
/// # Errors
/// When it cannot be read.
pub(crate) fn length(
    tokenizer: &Tokenizer,
    extra: &ExtraWords,
    prompt: &str,
    syntax: PromptSyntax,
) -> Result<PromptLength, Error> {
    let chunks = chunks(tokenizer, extra, prompt, syntax)?;
    let tokens = chunks.iter().map(|chunk| tokenizer.words_in(&chunk.ids)).sum();
    Ok(PromptLength { tokens, chunks: chunks.len(), per_chunk: tokenizer.length() - 2 })
}

/// A chunk without words.
pub(crate) fn empty_chunk(tokenizer: &Tokenizer) -> Chunk {
    Chunk { ids: tokenizer.frame(&[]), weights: None }
}

/// Fills chunks with words, one after the other.
struct Cutter<'t> {
    tokenizer: &'t Tokenizer,
    extra: &'t ExtraWords,
    chunks: Vec<Chunk>,
    /// Ids and weights in the current chunk.
    words: Vec<(u32, f32)>,
    /// The position of the last comma among them.
    last_comma: Option<usize>,
}

impl Cutter<'_> {
    fn add(&mut self, text: &str, weight: f32) -> Result<(), Error> {
        for piece in self.extra.split(text, self.tokenizer.vocab_size() as u32) {
            match piece {
                Piece::Text(text) => self.add_text(text, weight)?,
                Piece::Word(ids) => {
                    // The vectors of a word stay together.
                    if self.words.len() + ids.len() > self.tokenizer.length() - 2 {
                        self.end_chunk();
                    }
                    self.words.extend(ids.into_iter().map(|id| (id, weight)));
                }
            }
        }
        Ok(())
    }

    fn add_text(&mut self, text: &str, weight: f32) -> Result<(), Error> {
        let room = self.tokenizer.length() - 2;
        let comma = self.tokenizer.comma();
        for id in self.tokenizer.words(text)? {
            if Some(id) == comma {
                self.last_comma = Some(self.words.len());
            } else if self.words.len() == room
                && let Some(last_comma) = self.last_comma
                && room - last_comma <= COMMA_BACKTRACK
            {
                let moved = self.words.split_off(last_comma + 1);
                self.end_chunk();
                self.words = moved;
            }
            if self.words.len() == room {
                self.end_chunk();
            }
            self.words.push((id, weight));
        }
        Ok(())
    }

    fn end_chunk(&mut self) {
        self.last_comma = None;
        let (ids, weights): (Vec<u32>, Vec<f32>) = self.words.drain(..).unzip();
        let length = self.tokenizer.length();
        let weighted = weights.iter().any(|&weight| weight != 1.0).then(|| {
            // The start token precedes the words.
            let mut all = vec![1.0; length];
            all[1..=weights.len()].copy_from_slice(&weights);
            all
        });
        self.chunks.push(Chunk { ids: self.tokenizer.frame(&ids), weights: weighted });
    }

    fn finish(mut self, prompt: &str) -> Result<Vec<Chunk>, Error> {
        if !self.words.is_empty() || self.chunks.is_empty() {
            self.end_chunk();
        }
        match self.chunks.len() <= MAX_CHUNKS {
            true => Ok(self.chunks),
            false => Err(Error::Request {
                field: "prompt",
                found: format!(
                    "a text of {} characters in {} chunks",
                    prompt.chars().count(),
                    self.chunks.len()
                ),
                expected: format!("at most {MAX_CHUNKS} chunks of {} tokens", self.tokenizer.length() - 2),
            }),
        }
    }
}

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq)]
enum Span {
    Text(String, f32),
    /// The end of a chunk.
    Break,
}

/// The parts of `prompt` with their weights: brackets multiply the weight of their content, and a bracket
/// that is never closed extends to the end. Adjacent parts of equal weight are joined.
fn parse(prompt: &str) -> Result<Vec<Span>, Error> {
    let mut spans: Vec<Span> = Vec::new();
    // Number of spans when the bracket was opened, and its position.
    let (mut round, mut square): (Vec<usize>, Vec<(usize, usize)>) = (Vec::new(), Vec::new());
    let mut rest = prompt;
    while let Some(first) = rest.chars().next() {
        let at = prompt.len() - rest.len();
        if round.len() + square.len() > MAX_DEPTH {
            return Err(Error::Request {
                field: "prompt",
                found: format!("a text with more than {MAX_DEPTH} open brackets"),
                expected: "fewer; write `\\(` for a literal bracket".to_owned(),
            });
        }
        let mut len = first.len_utf8();
        match first {
            '\\' => {
                // The escaped character is literal; a backslash without one is dropped.
                let escaped = rest[1..].chars().next().filter(|c| matches!(c, '(' | ')' | '[' | ']' | '\\'));
                if let Some(c) = escaped {
                    spans.push(Span::Text(c.to_string(), 1.0));
                    len += 1;
                }
            }
            '(' => round.push(spans.len()),
            '[' => square.push((spans.len(), at)),
            ')' if !round.is_empty() => multiply(&mut spans, round.pop().unwrap_or(0), EMPHASIS),
            ']' if !square.is_empty() => {
                let (from, start) = square.pop().unwrap_or((0, 0));
                refuse_editing(&prompt[start..=at])?;
                multiply(&mut spans, from, 1.0 / EMPHASIS);
            }
            ':' => match weight(rest).filter(|_| !round.is_empty()) {
                Some((weight, whole)) => {
                    multiply(&mut spans, round.pop().unwrap_or(0), weight);
                    len = whole;
                }
                None => spans.push(Span::Text(":".to_owned(), 1.0)),
            },
            ')' | ']' => spans.push(Span::Text(first.to_string(), 1.0)),
            _ => {
                len = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                push_text(&mut spans, &rest[..len]);
            }
        }
        rest = &rest[len..];
    }
    round.into_iter().for_each(|from| multiply(&mut spans, from, EMPHASIS));
    square.into_iter().for_each(|(from, _)| multiply(&mut spans, from, 1.0 / EMPHASIS));
    Ok(joined(spans))
}

/// Adds text without brackets, divided at the word `BREAK`.
fn push_text(spans: &mut Vec<Span>, text: &str) {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = text;
    let mut from = 0;
    while let Some(found) = rest[from..].find(BREAK) {
        let (start, end) = (from + found, from + found + BREAK.len());
        let inside = rest[..start].ends_with(is_word) || rest[end..].starts_with(is_word);
        if inside {
            from = end;
            continue;
        }
        spans.push(Span::Text(rest[..start].trim_end().to_owned(), 1.0));
        spans.push(Span::Break);
        (rest, from) = (rest[end..].trim_start(), 0);
    }
    spans.push(Span::Text(rest.to_owned(), 1.0));
}

/// The weight at the end of a bracket, `:1.3)`, and its length.
fn weight(rest: &str) -> Option<(f32, usize)> {
    let end = rest.bytes().take(MAX_WEIGHT_LEN).position(|byte| byte == b')')?;
    let number = rest[1..end].trim();
    let is_number = !number.is_empty()
        && number.trim_start_matches(['+', '-']).chars().all(|c| c.is_ascii_digit() || c == '.');
    let weight = number.parse::<f32>().ok().filter(|weight| is_number && weight.is_finite())?;
    Some((weight, end + 1))
}

fn multiply(spans: &mut [Span], from: usize, factor: f32) {
    for span in &mut spans[from..] {
        if let Span::Text(_, weight) = span {
            *weight *= factor;
        }
    }
}

/// The web UI changes `[cat:dog:0.5]` and `[cat|dog]` from step to step, which is not supported.
fn refuse_editing(bracket: &str) -> Result<(), Error> {
    let inner = bracket.trim_matches(['[', ']']);
    let number = |text: &str| text.trim().parse::<f32>().is_ok();
    let edits = inner.rsplit_once(':').is_some_and(|(_, when)| number(when));
    if edits || inner.contains('|') {
        return Err(Error::Request {
            field: "prompt",
            found: bracket.chars().take(SHOWN_CHARS).collect(),
            expected: "no prompt that changes from step to step; a plain prompt takes brackets literally"
                .to_owned(),
        });
    }
    Ok(())
}

fn joined(spans: Vec<Span>) -> Vec<Span> {
    let mut all: Vec<Span> = Vec::new();
    for span in spans {
        match (all.last_mut(), &span) {
            (Some(Span::Text(text, weight)), Span::Text(more, same)) if weight == same => text.push_str(more),
            _ => all.push(span),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(prompt: &str) -> Vec<(String, f32)> {
        let rounded = |weight: f32| (weight * 1000.0).round() / 1000.0;
        let span = |span| match span {
            Span::Text(text, weight) => (text, rounded(weight)),
            Span::Break => ("BREAK".to_owned(), -1.0),
        };
        parse(prompt).unwrap().into_iter().map(span).collect()
    }

    #[test]
    fn limits_are_those_of_the_documentation() {
        let prompts = include_str!("../../docs/add-ons.md").split_whitespace().collect::<Vec<_>>().join(" ");
        let chunks = format!(
            "in chunks of 75, up to {MAX_CHUNKS} of them; words after a comma in the last {COMMA_BACKTRACK} tokens"
        );
        assert!(prompts.contains(&chunks), "docs/add-ons.md: {chunks}");
        let length = format!("Prompts have at most {} KB", MAX_LEN >> 10);
        assert!(include_str!("../../docs/robustness.md").contains(&length), "docs/robustness.md: {length}");
    }

    fn spans(expected: &[(&str, f32)]) -> Vec<(String, f32)> {
        expected.iter().map(|(text, weight)| ((*text).to_owned(), *weight)).collect()
    }

    #[test]
    fn brackets_weigh_words() {
        for (prompt, expected) in [
            ("normal text", &[("normal text", 1.0)][..]),
            ("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
            ("(unbalanced", &[("unbalanced", 1.1)]),
            ("\\(literal\\]", &[("(literal]", 1.0)]),
            ("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]),
            (
                "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
                &[
                    ("a ", 1.0),
                    ("house", 1.573),
                    (" ", 1.1),
                    ("on", 1.0),
                    (" a ", 1.1),
                    ("hill", 0.55),
                    (", sun, ", 1.1),
                    ("sky", 1.464),
                    (".", 1.1),
                ],
            ),
            ("a:b (c:d) e)", &[("a:b ", 1.0), ("c:d", 1.1), (" e)", 1.0)]),
            ("(a: 1.5 ) :1.2)", &[("a", 1.5), (" :1.2)", 1.0)]),
            ("(a:-0.5)", &[("a", -0.5)]),
            ("a BREAK b", &[("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
            ("BREAKFAST", &[("BREAKFAST", 1.0)]),
            ("a\\b", &[("ab", 1.0)]),
        ] {
            assert_eq!(parsed(prompt), spans(expected), "{prompt}");
        }
        assert_eq!(parsed(""), []);
    }

    #[test]
    fn prompts_without_bounds_are_refused() {
        let deep = |brackets: &str, count: usize| parse(&brackets.repeat(count)).map(drop);
        for bracket in ["(", "[", "(["] {
            let most = MAX_DEPTH / bracket.len();
            assert!(deep(bracket, most).is_ok(), "{bracket}");
            let error = deep(bracket, most + 2).unwrap_err().to_string();
            assert!(error.contains("more than 255 open brackets"), "{error}");
        }
        assert!(deep("(a)[b]", 10_000).is_ok(), "they are closed");
        let long = "a".repeat(MAX_LEN);
        let error = parse(&format!("[{long}|b]")).unwrap_err().to_string();
        assert!(error.len() < 300, "{error}");
        // A weight is short, so the search for its end does not scan the whole text after each colon.
        assert_eq!(parsed("(a:0000000000000000000000000000000000000000000000000000000000000001)")[0].1, 1.1);
    }

    #[test]
    fn prompts_that_change_are_refused() {
        for prompt in ["[cat:dog:0.5]", "[cat:10]", "a [cat|dog] b", "[cat::5]"] {
            assert!(matches!(parse(prompt), Err(Error::Request { field: "prompt", .. })), "{prompt}");
        }
        assert!(parse("[a: b], [c]").is_ok());
    }
}

#[cfg(test)]
mod chunk_tests;
