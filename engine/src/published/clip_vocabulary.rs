//! CLIP's byte-pair vocabulary, which single files do not contain: all published models use the same one.
//!
//! It is extracted from the crate `instant-clip-tokenizer`, which contains it without giving access to it:
//! its tokens are decoded one by one, and each merge is found by splitting its bytes with the merges before
//! it.

use std::collections::HashMap;

use instant_clip_tokenizer::{Token, Tokenizer};

/// Ids of single bytes: 256 inside a word, and the same at the end of one.
const BYTES: u16 = 256;
/// The mark for the end of a word in the vocabulary's files.
const END_OF_WORD: &str = "</w>";
/// The tokens around a prompt, in order of their ids.
const SPECIAL: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// `vocab.json` and `merges.txt` of CLIP's tokenizer, as in transformers.
pub(super) fn files() -> [(&'static str, String); 2] {
    let tokenizer = Tokenizer::new();
    let letters = letters();
    // Byte by id.
    let bytes: Vec<u8> = {
        let mut bytes: Vec<u8> = (0..=255).collect();
        bytes.sort_by_key(|&byte| (letters[usize::from(byte)] as u32 >= 256, byte));
        bytes
    };
    let mut vocabulary: Vec<String> =
        bytes.iter().map(|&byte| letters[usize::from(byte)].to_string()).collect();
    vocabulary.extend(bytes.iter().map(|&byte| format!("{}{END_OF_WORD}", letters[usize::from(byte)])));
    let id_of_byte: HashMap<u8, u16> = (0..BYTES).zip(&bytes).map(|(id, &byte)| (byte, id)).collect();

    let mut merges: HashMap<(u16, u16), u16> = HashMap::new();
    let mut lines = vec!["#version: 0.2".to_owned()];
    for id in 2 * BYTES..tokenizer.start_of_text().to_u16() {
        let (text, ends_word) = decoded(&tokenizer, &id_of_byte, id);
        let mut parts: Vec<u16> = text.iter().map(|byte| id_of_byte[byte]).collect();
        if let Some(last) = parts.last_mut().filter(|_| ends_word) {
            *last += BYTES;
        }
        merge(&mut parts, &merges);
        if let [first, second] = parts[..] {
            merges.insert((first, second), id);
            let [first, second] = [first, second].map(|part| vocabulary[usize::from(part)].as_str());
            lines.push(format!("{first} {second}"));
            let joined = format!("{first}{second}");
            vocabulary.push(joined);
        }
    }
    vocabulary.extend(SPECIAL.map(str::to_owned));
    let entries = vocabulary.into_iter().enumerate().map(|(id, token)| (token, id.into()));
    let vocabulary = serde_json::Value::Object(entries.collect());
    lines.push(String::new());
    [("vocab.json", vocabulary.to_string()), ("merges.txt", lines.join("\n"))]
}

/// The printable character of each byte: GPT-2's table (Radford et al. 2019), used in the vocabulary's files.
fn letters() -> Vec<char> {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = (256..).filter_map(char::from_u32);
    let letter = |byte: u8| match is_printable(byte) {
        true => char::from(byte),
        false => others.next().unwrap_or(char::REPLACEMENT_CHARACTER),
    };
    (0..=255).map(letter).collect()
}

/// The bytes of token `id`, and whether it ends a word.
///
/// The crate decodes to text and replaces invalid UTF-8; tokens that begin or end inside a character are
/// decoded between bytes that complete it.
fn decoded(tokenizer: &Tokenizer, id_of_byte: &HashMap<u8, u16>, id: u16) -> (Vec<u8>, bool) {
    const BEFORE: [&[u8]; 7] =
        [&[], &[0xC3], &[0xE2], &[0xF1], &[0xE2, 0x80], &[0xF1, 0x80], &[0xF1, 0x80, 0x80]];
    const FIRST_AFTER: [u8; 4] = [0x80, 0x90, 0xA0, 0x85];
    let token = |id: u16| Token::from_u16(id, tokenizer);
    let between = |before: &[u8], after: &[u8]| {
        let bytes =
            |bytes: &[u8]| bytes.iter().filter_map(|byte| token(id_of_byte[byte])).collect::<Vec<_>>();
        tokenizer.decode([bytes(before), token(id).into_iter().collect(), bytes(after)].concat())
    };
    // A token that ends a word is decoded with a space after it.
    let ends_word = between(&[], &[]).ends_with(' ');
    let mut after: Vec<Vec<u8>> = vec![Vec::new()];
    if !ends_word {
        for length in 1..=3 {
            after.extend(FIRST_AFTER.map(|first| [&[first][..], &[0x80, 0x80][..length - 1]].concat()));
        }
    }
    for before in BEFORE {
        for after in &after {
            let text = between(before, after);
            if !text.contains(char::REPLACEMENT_CHARACTER) {
                let text = &text.as_bytes()[before.len()..text.len() - after.len()];
                return (text[..text.len() - usize::from(ends_word)].to_vec(), ends_word);
            }
        }
    }
    // A token that no surrounding bytes complete is the replacement character itself.
    let text = between(&[], &[]);
    (text.trim_end_matches(' ').as_bytes().to_vec(), ends_word)
}

/// Joins neighbours according to `merges`, the earliest merge first, until none applies. Sennrich et al.
/// 2016, arXiv:1508.07909, algorithm 1.
fn merge(parts: &mut Vec<u16>, merges: &HashMap<(u16, u16), u16>) {
    let next = |parts: &[u16]| {
        let pairs = parts.windows(2).enumerate();
        pairs.filter_map(|(place, pair)| Some((*merges.get(&(pair[0], pair[1]))?, place))).min()
    };
    while let Some((joined, place)) = next(parts) {
        parts.splice(place..place + 2, [joined]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of tokens in the files of transformers for `openai/clip-vit-large-patch14`, made from OpenAI's
    /// own `bpe_simple_vocab_16e6.txt` with OpenAI's recipe; see `tests/goldens/clip_vocabulary.py`.
    const TOKENS: usize = 49_408;

    #[test]
    fn there_is_a_merge_for_every_token() {
        let [(_, vocabulary), (_, merges)] = files();
        let vocabulary: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&vocabulary).unwrap();
        assert_eq!(vocabulary.len(), TOKENS);
        assert_eq!(merges.lines().count(), 1 + TOKENS - 512 - 2);
        for (token, id) in [("!", 0), ("i n", 0), ("red</w>", 736), ("<|endoftext|>", 49_407)] {
            assert!(token.contains(' ') || vocabulary[token] == id, "{token}");
        }
        assert_eq!(merges.lines().nth(1), Some("i n"));
    }
}
