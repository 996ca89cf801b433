//! CLIP byte-pair encoding: prompt → token ids of one fixed length. Radford et al. 2021, section 2.4;
//! Sennrich et al. 2016, arXiv:1508.07909.
//!
//! The crate `tokenizers` does the merging; `definition` builds its encoder from a model's own files. This
//! file adds start, end and padding, as in the model's training.

mod definition;

use serde_json::{Map, Value};
use tokenizers::Tokenizer as Encoder;

use crate::Error;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// The texts that define a tokenizer, as diffusers stores them in `tokenizer/`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`, which replaces the next two where present.
    pub tokenizer: Option<&'a str>,
    /// `vocab.json`: token → id.
    pub vocab: Option<&'a str>,
    /// `merges.txt`: one pair per line, most frequent first.
    pub merges: Option<&'a str>,
    /// `tokenizer_config.json`: length and names of the special tokens.
    pub config: Option<&'a str>,
    /// `special_tokens_map.json`, used for names that the config does not contain.
    pub special_tokens: Option<&'a str>,
    /// `added_tokens.json`: further tokens → ids.
    pub added_tokens: Option<&'a str>,
}

/// Turns prompts into token ids.
#[derive(Debug)]
pub struct Tokenizer {
    encoder: Encoder,
    length: usize,
    vocab_size: usize,
    start: u32,
    end: u32,
    padding: u32,
}

impl Tokenizer {
    /// Builds the tokenizer of a model whose text encoder has `max_length` positions and `vocab_size` ids.
    ///
    /// # Errors
    /// When the files are missing, contradict each other or do not fit the text encoder.
    pub fn new(files: &TokenizerFiles, max_length: usize, vocab_size: usize) -> Result<Tokenizer, Error> {
        let special_tokens = SpecialTokens::new(files)?;
        let encoder = definition::encoder(files, &special_tokens)?;
        let id = |key: &str, token: &Value| {
            let name = content(token);
            let id = encoder.token_to_id(name).filter(|&id| (id as usize) < vocab_size);
            let missing = || {
                Error::Tokenizer(format!("{key} `{name}` is not in the vocabulary of {vocab_size} tokens"))
            };
            id.ok_or_else(missing)
        };
        let start = id("bos_token", &special_tokens.start)?;
        let end = id("eos_token", &special_tokens.end)?;
        let padding = id("pad_token", &special_tokens.padding)?;
        let length = match special_tokens.model_max_length {
            // transformers writes 1e30 for "no limit".
            Some(length) if length < 1e9 => length as usize,
            _ => max_length,
        };
        if !(2..=max_length).contains(&length) {
            let message = format!(
                "model_max_length is {length}, expected 2 to {max_length}, the positions of the text encoder"
            );
            return Err(Error::Tokenizer(message));
        }
        Ok(Tokenizer { encoder, length, vocab_size, start, end, padding })
    }

    /// Number of ids that [`Tokenizer::encode`] returns.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Start, the prompt's ids (truncated if they are too many), end, padding: [`Tokenizer::length`] ids.
    ///
    /// # Errors
    /// When the vocabulary lacks a byte of the prompt or has ids that the text encoder does not.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        let words = self.words(prompt)?;
        Ok(self.frame(&words[..words.len().min(self.length - 2)]))
    }

    /// Start, `words`, end, padding: [`Tokenizer::length`] ids. There may be at most two words fewer.
    pub(crate) fn frame(&self, words: &[u32]) -> Vec<u32> {
        let mut ids = vec![self.start];
        ids.extend(words);
        ids.push(self.end);
        ids.resize(self.length, self.padding);
        ids
    }

    /// The number of words among `ids`, which [`Tokenizer::frame`] framed.
    pub(crate) fn words_in(&self, ids: &[u32]) -> usize {
        ids.iter().skip(1).take_while(|&&id| id != self.end).count()
    }

    /// Number of ids that the text encoder has.
    pub(crate) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a comma that ends a word.
    pub(crate) fn comma(&self) -> Option<u32> {
        self.encoder.token_to_id(",</w>")
    }

    /// The number of ids of `prompt` that [`Tokenizer::encode`] truncates.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn surplus(&self, prompt: &str) -> Result<usize, Error> {
        Ok(self.words(prompt)?.len().saturating_sub(self.length - 2))
    }

    /// All ids of the prompt, without start, end and padding.
    pub(crate) fn words(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        let encoding =
            self.encoder.encode_fast(prompt, false).map_err(|e| Error::Tokenizer(e.to_string()))?;
        match encoding.get_ids().iter().find(|&&id| id as usize >= self.vocab_size) {
            None => Ok(encoding.get_ids().to_vec()),
            Some(id) => {
                let message = format!(
                    "the id {id} is outside the text encoder's vocabulary of {} tokens",
                    self.vocab_size
                );
                Err(Error::Tokenizer(message))
            }
        }
    }
}

/// The contents of `tokenizer_config.json` and `special_tokens_map.json`. A token is its text, or an object
/// with the text as `content` and the rules for matching it.
struct SpecialTokens {
    start: Value,
    end: Value,
    unknown: Value,
    padding: Value,
    model_max_length: Option<f64>,
}

impl SpecialTokens {
    fn new(files: &TokenizerFiles) -> Result<SpecialTokens, Error> {
        let config = object("tokenizer_config.json", files.config)?;
        let map = object("special_tokens_map.json", files.special_tokens)?;
        let token = |key: &str, default: &str| {
            let said = [&config, &map].into_iter().filter_map(|file| file.get(key));
            said.into_iter()
                .find(|token| !content(token).is_empty())
                .cloned()
                .unwrap_or_else(|| default.into())
        };
        Ok(SpecialTokens {
            start: token("bos_token", START),
            end: token("eos_token", END),
            unknown: token("unk_token", END),
            padding: token("pad_token", END),
            model_max_length: config.get("model_max_length").and_then(Value::as_f64),
        })
    }
}

/// The text of a special token, empty if there is none.
fn content(token: &Value) -> &str {
    token.as_str().or_else(|| token.get("content")?.as_str()).unwrap_or_default()
}

/// Longest file of settings in bytes. JSON of empty lists takes twenty times as much in memory.
const MAX_SETTINGS_LEN: usize = 1 << 20;

fn object(file: &str, text: Option<&str>) -> Result<Map<String, Value>, Error> {
    match text {
        None => Ok(Map::new()),
        Some(text) if text.len() > MAX_SETTINGS_LEN => Err(Error::Tokenizer(format!(
            "{file} has {} bytes, expected at most {MAX_SETTINGS_LEN}",
            text.len()
        ))),
        Some(text) => serde_json::from_str(text).map_err(|e| Error::Tokenizer(format!("{file}: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB: &str = r#"{"!": 0, "a": 1, "b": 2, "a</w>": 3, "b</w>": 4, "ab</w>": 5, "!</w>": 6,
                            "<|startoftext|>": 7, "<|endoftext|>": 8}"#;
    const MERGES: &str = "#version: 0.2\na b</w>\n";

    fn tokenizer(config: &str) -> Result<Tokenizer, Error> {
        let files = TokenizerFiles {
            vocab: Some(VOCAB),
            merges: Some(MERGES),
            config: Some(config),
            ..TokenizerFiles::default()
        };
        Tokenizer::new(&files, 8, 9)
    }

    #[test]
    fn a_prompt_is_framed_cut_and_padded() {
        let tokenizer = tokenizer("{}").unwrap();
        assert_eq!(tokenizer.encode("AB b!").unwrap(), [7, 5, 4, 6, 8, 8, 8, 8]);
        assert_eq!(tokenizer.encode("").unwrap(), [7, 8, 8, 8, 8, 8, 8, 8]);
        assert_eq!(tokenizer.encode("a a a a a a a a").unwrap(), [7, 3, 3, 3, 3, 3, 3, 8]);
        assert_eq!(tokenizer.surplus("a a a a a a").unwrap(), 0);
        assert_eq!(tokenizer.surplus("a a a a a a a a").unwrap(), 2);
    }

    #[test]
    fn a_padding_token_is_cut_out_of_the_prompt_first() {
        let tokenizer = tokenizer(r#"{"pad_token": "!", "model_max_length": 6}"#).unwrap();
        assert_eq!(tokenizer.encode("ab!").unwrap(), [7, 5, 0, 8, 0, 0]);
    }

    #[test]
    fn files_that_do_not_fit_the_text_encoder_are_refused() {
        for config in [
            r#"{"model_max_length": 9}"#,
            r#"{"model_max_length": 1}"#,
            r#"{"pad_token": "nowhere"}"#,
            r#"{"eos_token": {"content": "nowhere"}}"#,
            "[]",
        ] {
            assert!(matches!(tokenizer(config), Err(Error::Tokenizer(_))), "{config}");
        }
        assert!(Tokenizer::new(&TokenizerFiles::default(), 8, 9).is_err());
        let files = TokenizerFiles { vocab: Some(VOCAB), merges: Some(MERGES), ..TokenizerFiles::default() };
        assert!(Tokenizer::new(&files, 8, 7).is_err(), "the start token is past the vocabulary");
    }
}
