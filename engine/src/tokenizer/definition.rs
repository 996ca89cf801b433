//! Builds an encoder from the files of a CLIP tokenizer.
//!
//! `tokenizer.json` is a program for the crate `tokenizers`: its steps can loop, grow a text without bound or
//! panic. Only the steps of CLIP's tokenizer are accepted, by name, and the encoder is always built from the
//! vocabulary, the merges and the added tokens alone.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, json, value::RawValue};
use tokenizers::{
    AddedToken, SplitDelimiterBehavior, Tokenizer as Encoder,
    models::bpe::{BPE, Merges, Vocab},
    normalizers::{Lowercase, NFC, Replace, Sequence, replace::ReplacePattern},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence as PreTokenizers,
        split::{Split, SplitPattern},
    },
};

use super::{SpecialTokens, TokenizerFiles, content};
use crate::Error;

/// How CLIP splits a lower-cased text before merging: contractions, runs of letters, single digits, runs of
/// other characters.
const SPLIT: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// The same in files of older versions. Special tokens are split off earlier, so the result is the same.
const OLDER_SPLIT: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const END_OF_WORD: &str = "</w>";

/// Maximum number of tokens of a vocabulary, and of merges.
const MAX_TOKENS: usize = 1 << 18;
/// Maximum number of added tokens, and maximum length of one in bytes.
const MAX_ADDED: usize = 1024;
const MAX_ADDED_LEN: usize = 256;
/// Maximum length of the description of a step in bytes.
const MAX_STEP_LEN: usize = 4096;

/// Builds the encoder that `files` define.
///
/// # Errors
/// When a file is missing, too large, malformed, or describes another kind of tokenizer.
pub(super) fn encoder(files: &TokenizerFiles, special_tokens: &SpecialTokens) -> Result<Encoder, Error> {
    let mut parts = match (files.tokenizer, files.vocab, files.merges) {
        (Some(text), ..) => Parts::from_json(text)?,
        (None, Some(vocab), Some(merges)) => Parts::from_texts(vocab, merges, special_tokens)?,
        _ => {
            let wanted = "the model contains neither tokenizer.json nor vocab.json with merges.txt";
            return Err(Error::Tokenizer(wanted.to_owned()));
        }
    };
    parts.add_config_tokens(files)?;
    parts.encoder()
}

/// The vocabulary in `text`, a part of `file`.
fn vocabulary(file: &str, text: &str) -> Result<Vocab, Error> {
    let Limited(vocab) = parse::<Limited<Vocab>>(file, text)?;
    match vocab.is_empty() {
        true => Err(Error::Tokenizer(format!("{file}: the vocabulary contains no tokens"))),
        false => Ok(vocab),
    }
}

/// The parts that differ between CLIP tokenizers.
struct Parts {
    vocab: Vocab,
    merges: Merges,
    /// Split off a prompt before anything else, in this order: a padding token `!` takes every `!`.
    added: Vec<AddedToken>,
    unknown: Option<String>,
}

impl Parts {
    /// Reads the two files of the older format.
    fn from_texts(vocab: &str, merges: &str, special_tokens: &SpecialTokens) -> Result<Parts, Error> {
        let vocab = vocabulary("vocab.json", vocab)?;
        let SpecialTokens { start, end, unknown, padding, .. } = special_tokens;
        let mut added: Vec<AddedToken> = Vec::new();
        for token in [start, end, unknown, padding] {
            let flag = |key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
            let id = vocab.get(content(token));
            if id.is_some() && !added.iter().any(|other| vocab.get(&other.content) == id) {
                let token = AddedToken::from(content(token), true)
                    .single_word(flag("single_word"))
                    .lstrip(flag("lstrip"))
                    .rstrip(flag("rstrip"))
                    .normalized(flag("normalized"));
                added.push(token);
            }
        }
        let unknown = Some(content(unknown)).filter(|name| vocab.contains_key(*name)).map(str::to_owned);
        Ok(Parts { merges: merges_of_text(merges)?, vocab, added, unknown })
    }

    /// Reads `tokenizer.json`. Its rules for special tokens, padding and truncation are ignored, because this
    /// crate implements them itself.
    fn from_json(text: &str) -> Result<Parts, Error> {
        let file: Definition<'_> = parse(FILE, text)?;
        step("normalizer", file.normalizer, &[normalizer()])?;
        step("pre_tokenizer", file.pre_tokenizer, &[pre_tokenizer(SPLIT), pre_tokenizer(OLDER_SPLIT)])?;
        let model: Model<'_> = parse(FILE, file.model.get())?;
        for (key, found, wanted) in [
            ("type", model.kind, &["\"BPE\"", "null"][..]),
            ("dropout", model.dropout, &["null"]),
            ("continuing_subword_prefix", model.continuing_subword_prefix, &["\"\"", "null"]),
            ("end_of_word_suffix", model.end_of_word_suffix, &["\"</w>\""]),
            ("fuse_unk", model.fuse_unk, &["false", "null"]),
            ("byte_fallback", model.byte_fallback, &["false", "null"]),
            ("ignore_merges", model.ignore_merges, &["false", "null"]),
        ] {
            let found = found.map_or("null", RawValue::get);
            if !wanted.contains(&found) {
                return Err(not_clip(&format!("model.{key}"), found));
            }
        }
        let vocab = vocabulary(FILE, model.vocab.get())?;
        let Limited(merges) = parse::<Limited<Vec<Merge>>>(FILE, model.merges.get())?;
        let mut parts = Parts {
            vocab,
            merges: merges.into_iter().map(Merge::pair).collect::<Result<_, _>>()?,
            added: Vec::new(),
            unknown: model.unk_token,
        };
        let Limited(added) =
            file.added_tokens.map_or(Ok(Limited(Vec::new())), |text| parse(FILE, text.get()))?;
        for token in added {
            parts.add(FILE, token)?;
        }
        Ok(parts)
    }

    /// Adds the tokens of `added_tokens.json`, and of `added_tokens_decoder` in `tokenizer_config.json`.
    fn add_config_tokens(&mut self, files: &TokenizerFiles) -> Result<(), Error> {
        if let Some(text) = files.added_tokens {
            let Limited(tokens) = parse::<Limited<BTreeMap<String, u32>>>(ADDED, text)?;
            // In the order of their ids, as in transformers.
            let mut tokens: Vec<(u32, String)> = tokens.into_iter().map(|(token, id)| (id, token)).collect();
            tokens.sort_unstable();
            for (id, content) in tokens {
                self.add(ADDED, Added { id, content, normalized: Some(true), ..Added::default() })?;
            }
        }
        let Some(config) = files.config else { return Ok(()) };
        let config: Config<'_> = parse(CONFIG, config)?;
        let Some(decoder) = config.added_tokens_decoder else { return Ok(()) };
        let Limited(tokens) = parse::<Limited<BTreeMap<String, Added>>>(CONFIG, decoder.get())?;
        let mut tokens = tokens
            .into_iter()
            .map(|(id, token)| match id.parse() {
                Ok(id) => Ok(Added { id, ..token }),
                Err(_) => Err(problem(CONFIG, &format!("`{id}` in added_tokens_decoder is not an id"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        tokens.sort_unstable_by_key(|token| token.id);
        tokens.into_iter().try_for_each(|token| self.add(CONFIG, token))
    }

    /// Adds a token, unless it exists already.
    fn add(&mut self, file: &str, token: Added) -> Result<(), Error> {
        let Added { id, content, special, single_word, lstrip, rstrip, normalized } = token;
        if content.is_empty() || content.len() > MAX_ADDED_LEN {
            let found = content.len();
            let message = format!("the added token {id} has {found} bytes, expected 1 to {MAX_ADDED_LEN}");
            return Err(problem(file, &message));
        }
        match self.vocab.get(&content) {
            Some(&known) if known != id => {
                let message = format!(
                    "the added token `{content}` has the id {id}, but the id {known} in the vocabulary"
                );
                return Err(problem(file, &message));
            }
            Some(_) => {}
            None => _ = self.vocab.insert(content.clone(), id),
        }
        if self.added.iter().any(|other| other.content == content) {
            return Ok(());
        }
        if self.added.len() == MAX_ADDED {
            return Err(problem(file, &format!("there are more than {MAX_ADDED} added tokens")));
        }
        let token = AddedToken::from(content, special)
            .single_word(single_word)
            .lstrip(lstrip)
            .rstrip(rstrip)
            .normalized(normalized.unwrap_or(!special));
        self.added.push(token);
        Ok(())
    }

    fn encoder(self) -> Result<Encoder, Error> {
        let refused = |error: tokenizers::Error| Error::Tokenizer(error.to_string());
        let mut bpe = BPE::builder()
            .vocab_and_merges(self.vocab, self.merges)
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix(END_OF_WORD.to_owned());
        if let Some(unknown) = self.unknown {
            bpe = bpe.unk_token(unknown);
        }
        let mut encoder = Encoder::new(bpe.build().map_err(refused)?);
        let blanks = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ").map_err(refused)?;
        encoder.with_normalizer(Some(Sequence::new(vec![NFC.into(), blanks.into(), Lowercase.into()])));
        let split = SplitPattern::Regex(SPLIT.to_owned());
        let split = Split::new(split, SplitDelimiterBehavior::Removed, true).map_err(refused)?;
        let bytes = ByteLevel::new(false, true, true);
        encoder.with_pre_tokenizer(Some(PreTokenizers::new(vec![split.into(), bytes.into()])));
        encoder.add_tokens(&self.added);
        Ok(encoder)
    }
}

const FILE: &str = "tokenizer.json";
const ADDED: &str = "added_tokens.json";
const CONFIG: &str = "tokenizer_config.json";

fn problem(file: &str, problem: &str) -> Error {
    Error::Tokenizer(format!("{file}: {problem}"))
}

fn not_clip(key: &str, found: &str) -> Error {
    let found: String = found.chars().take(120).collect();
    problem(FILE, &format!("`{key}` is {found}, which differs from CLIP's tokenizer"))
}

fn parse<'a, T: Deserialize<'a>>(file: &str, text: &'a str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| problem(file, &error.to_string()))
}

/// Checks that a step of the file is one of the known ones.
fn step(key: &str, found: Option<&RawValue>, known: &[Value]) -> Result<(), Error> {
    let text = found.map_or("null", RawValue::get);
    let matches = |value: Value| known.contains(&value);
    match text.len() <= MAX_STEP_LEN && serde_json::from_str(text).is_ok_and(matches) {
        true => Ok(()),
        false => Err(not_clip(key, text)),
    }
}

fn normalizer() -> Value {
    json!({"type": "Sequence", "normalizers": [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ]})
}

fn pre_tokenizer(split: &str) -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": split}, "behavior": "Removed", "invert": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    ]})
}

/// `tokenizer.json`. Its parts are parsed one by one, so that none takes memory before its size is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the names of the parts that do not matter here")]
struct Definition<'a> {
    version: Option<&'a RawValue>,
    truncation: Option<&'a RawValue>,
    padding: Option<&'a RawValue>,
    post_processor: Option<&'a RawValue>,
    decoder: Option<&'a RawValue>,
    #[serde(borrow)]
    added_tokens: Option<&'a RawValue>,
    normalizer: Option<&'a RawValue>,
    pre_tokenizer: Option<&'a RawValue>,
    model: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: Option<&'a RawValue>,
    dropout: Option<&'a RawValue>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<&'a RawValue>,
    end_of_word_suffix: Option<&'a RawValue>,
    fuse_unk: Option<&'a RawValue>,
    byte_fallback: Option<&'a RawValue>,
    ignore_merges: Option<&'a RawValue>,
    #[serde(borrow)]
    vocab: &'a RawValue,
    merges: &'a RawValue,
}

/// The supported part of `tokenizer_config.json`.
#[derive(Deserialize)]
struct Config<'a> {
    #[serde(borrow)]
    added_tokens_decoder: Option<&'a RawValue>,
}

/// An added token in any of the files.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Added {
    id: u32,
    content: String,
    special: bool,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: Option<bool>,
}

/// A merge as one text, or as a pair in newer files.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

impl Merge {
    fn pair(self) -> Result<(String, String), Error> {
        match self {
            Merge::Pair(left, right) => Ok((left, right)),
            Merge::Text(text) => merge_of_line(FILE, &text),
        }
    }
}

fn merge_of_line(file: &str, line: &str) -> Result<(String, String), Error> {
    match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => {
            let line: String = line.chars().take(80).collect();
            Err(problem(file, &format!("`{line}` is not a merge of two tokens")))
        }
    }
}

/// The merges of `merges.txt`. The first line is a version comment; empty lines end the file.
fn merges_of_text(text: &str) -> Result<Merges, Error> {
    let lines = text.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
    let mut merges = Merges::new();
    for line in lines {
        if merges.len() == MAX_TOKENS {
            return Err(problem("merges.txt", &format!("there are more than {MAX_TOKENS} merges")));
        }
        merges.push(merge_of_line("merges.txt", line)?);
    }
    Ok(merges)
}

/// A list or an object of at most [`MAX_TOKENS`] entries.
struct Limited<C>(C);

struct LimitedVisitor<C>(PhantomData<C>);

fn limited<E: serde::de::Error>(entries: usize) -> Result<(), E> {
    match entries < MAX_TOKENS {
        true => Ok(()),
        false => Err(E::custom(format_args!("there are more than {MAX_TOKENS} entries"))),
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for LimitedVisitor<Vec<T>> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            limited(list.len())?;
            list.push(item);
        }
        Ok(list)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Limited<Vec<T>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(LimitedVisitor(PhantomData)).map(Limited)
    }
}

/// The collection type for the entries of an object.
trait Entries<T>: Default {
    fn put(&mut self, key: String, value: T) -> usize;
}

impl Entries<u32> for Vocab {
    fn put(&mut self, key: String, value: u32) -> usize {
        self.insert(key, value);
        self.len()
    }
}

impl<T> Entries<T> for BTreeMap<String, T> {
    fn put(&mut self, key: String, value: T) -> usize {
        self.insert(key, value);
        self.len()
    }
}

struct EntriesVisitor<C, T>(PhantomData<(C, T)>);

impl<'de, T: DeserializeOwned, C: Entries<T>> Visitor<'de> for EntriesVisitor<C, T> {
    type Value = C;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<C, A::Error> {
        let mut entries = C::default();
        while let Some((key, value)) = fields.next_entry()? {
            if entries.put(key, value) > MAX_TOKENS {
                return Err(A::Error::custom(format_args!("there are more than {MAX_TOKENS} entries")));
            }
        }
        Ok(entries)
    }
}

impl<'de> Deserialize<'de> for Limited<Vocab> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData)).map(Limited)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Limited<BTreeMap<String, T>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData)).map(Limited)
    }
}

#[cfg(test)]
#[path = "definition_tests.rs"]
mod tests;
