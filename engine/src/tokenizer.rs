//! CLIP byte-pair encoding: prompt → token ids of one fixed length. Radford et al. 2021, section 2.4;
//! Sennrich et al. 2016, arXiv:1508.07909.
//!
//! The merging itself is the `tokenizers` crate's; this file puts a model's own tokenizer files in its hands and
//! frames the result as the model was trained: start, prompt, end, padding.

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer as Encoder;

use crate::Error;

/// How CLIP cuts a lower-cased text before merging: contractions, runs of letters, single digits, runs of the rest.
const SPLIT: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// The texts that define a tokenizer, as diffusers stores them in `tokenizer/`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`, which replaces the next two where present.
    pub tokenizer: Option<&'a str>,
    /// `vocab.json`: token → id.
    pub vocab: Option<&'a str>,
    /// `merges.txt`: one pair a line, most frequent first.
    pub merges: Option<&'a str>,
    /// `tokenizer_config.json`: length and names of the special tokens.
    pub config: Option<&'a str>,
    /// `special_tokens_map.json`, asked where the config is silent.
    pub special_tokens: Option<&'a str>,
}

/// Turns prompts into token ids.
#[derive(Debug)]
pub struct Tokenizer {
    encoder: Encoder,
    length: usize,
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
        let mut encoder = match (files.tokenizer, files.vocab, files.merges) {
            (Some(text), ..) => encoder_from_json(text.as_bytes())?,
            (None, Some(vocab), Some(merges)) => {
                let definition = definition(vocab, merges)?;
                encoder_from_json(definition.to_string().as_bytes())?
            }
            _ => {
                let wanted = "the model holds neither tokenizer.json nor vocab.json with merges.txt";
                return Err(Error::Tokenizer(wanted.to_owned()));
            }
        };
        // Framing is done here, the same way for both kinds of files.
        encoder.with_padding(None);
        encoder.with_truncation(None).map_err(|e| Error::Tokenizer(e.to_string()))?;

        let config = object("tokenizer_config.json", files.config)?;
        let special_tokens = object("special_tokens_map.json", files.special_tokens)?;
        let special = |key: &str, default: &str| {
            let name = special_token(&config, key).or_else(|| special_token(&special_tokens, key));
            let name = name.unwrap_or(default);
            let id = encoder.token_to_id(name).filter(|&id| (id as usize) < vocab_size);
            let missing =
                || Error::Tokenizer(format!("{key} `{name}` is not in the vocabulary of {vocab_size}"));
            id.ok_or_else(missing)
        };
        let (start, end) = (special("bos_token", START)?, special("eos_token", END)?);
        let padding = special("pad_token", END)?;
        let length = match config.get("model_max_length").and_then(Value::as_f64) {
            // transformers writes 1e30 for "no limit".
            Some(length) if length < 1e9 => length as usize,
            _ => max_length,
        };
        if !(2..=max_length).contains(&length) {
            let message =
                format!("model_max_length is {length}, the text encoder has {max_length} positions");
            return Err(Error::Tokenizer(message));
        }
        Ok(Tokenizer { encoder, length, start, end, padding })
    }

    /// Number of ids that [`Tokenizer::encode`] returns.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Start, the prompt's ids (cut where they would not fit), end, padding: [`Tokenizer::length`] ids.
    ///
    /// # Errors
    /// When the vocabulary lacks a byte of the prompt.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        let encoding =
            self.encoder.encode_fast(prompt, false).map_err(|e| Error::Tokenizer(e.to_string()))?;
        let mut ids = vec![self.start];
        ids.extend(encoding.get_ids().iter().take(self.length - 2));
        ids.push(self.end);
        ids.resize(self.length, self.padding);
        Ok(ids)
    }
}

fn encoder_from_json(json: &[u8]) -> Result<Encoder, Error> {
    Encoder::from_bytes(json).map_err(|e| Error::Tokenizer(e.to_string()))
}

/// The `tokenizer.json` that transformers' CLIPTokenizer makes of the two older files.
fn definition(vocab: &str, merges: &str) -> Result<Value, Error> {
    let vocab: Map<String, Value> =
        serde_json::from_str(vocab).map_err(|e| Error::Tokenizer(format!("vocab.json: {e}")))?;
    let special = |name: &str| {
        let id = vocab.get(name)?;
        Some(json!({"id": id, "content": name, "special": true, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": name == START}))
    };
    let added: Vec<Value> = [START, END].into_iter().filter_map(special).collect();
    let unknown = vocab.contains_key(END).then_some(END);
    // The first line is a version comment; empty lines end the file.
    let merges: Vec<&str> =
        merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).collect();
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "model": {"type": "BPE", "unk_token": unknown, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "</w>", "fuse_unk": false, "vocab": vocab, "merges": merges},
    }))
}

fn object(file: &str, text: Option<&str>) -> Result<Map<String, Value>, Error> {
    match text {
        None => Ok(Map::new()),
        Some(text) => serde_json::from_str(text).map_err(|e| Error::Tokenizer(format!("{file}: {e}"))),
    }
}

/// A special token is stored as its text or as an object with a `content`.
fn special_token<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    let value = map.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}
