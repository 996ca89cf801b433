//! CLIP's byte-pair vocabulary, which single files do not contain: all published models use the same one.
//!
//! `clip_merges.txt` is that of transformers for `openai/clip-vit-large-patch14`: the first 48,894 merges of OpenAI's
//! `bpe_simple_vocab_16e6.txt` (MIT, see `clip_merges.license.txt`). The ids follow from it.

/// `merges.txt` of CLIP's tokenizer.
const MERGES: &str = include_str!("clip_merges.txt");

/// The mark for the end of a word in the vocabulary's files.
const END_OF_WORD: &str = "</w>";
/// The tokens around a prompt, in order of their ids.
const SPECIAL: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// `vocab.json` and `merges.txt` of CLIP's tokenizer, as in transformers.
///
/// Ids are, in this order: bytes inside a word, bytes at the end of one, merges, the two special tokens.
pub(super) fn files() -> [(&'static str, String); 2] {
    let letters = letters();
    let ends = letters.iter().map(|letter| format!("{letter}{END_OF_WORD}"));
    let inside = letters.iter().map(char::to_string);
    // The first line is a comment.
    let merged = MERGES.lines().skip(1).map(|merge| merge.replace(' ', ""));
    let tokens = inside.chain(ends).chain(merged).chain(SPECIAL.map(str::to_owned));
    let entries = tokens.enumerate().map(|(id, token)| (token, id.into()));
    let vocabulary = serde_json::Value::Object(entries.collect());
    [("vocab.json", vocabulary.to_string()), ("merges.txt", MERGES.to_owned())]
}

/// The printable characters that stand for bytes in the vocabulary's files, in the order of their ids: bytes that are
/// printable stand for themselves and come first. GPT-2's table (Radford et al. 2019).
fn letters() -> Vec<char> {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let (printable, others): (Vec<u8>, Vec<u8>) = (0..=255).partition(|&byte| is_printable(byte));
    let substitutes = ('\u{100}'..).take(others.len());
    printable.into_iter().map(char::from).chain(substitutes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of tokens in the files of transformers for `openai/clip-vit-large-patch14`; the files are compared
    /// with them in `tests/tests/clip_vocabulary.rs`.
    const TOKENS: usize = 49_408;

    #[test]
    fn there_is_a_token_for_every_id() {
        let [(_, vocabulary), (_, merges)] = files();
        let vocabulary: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&vocabulary).unwrap();
        assert_eq!(vocabulary.len(), TOKENS);
        assert_eq!(merges.lines().count(), 1 + TOKENS - 512 - 2);
        for (token, id) in
            [("!", 0), ("!</w>", 256), ("in", 512), ("red</w>", 736), ("<|endoftext|>", 49_407)]
        {
            assert_eq!(vocabulary[token], id, "{token}");
        }
    }
}
