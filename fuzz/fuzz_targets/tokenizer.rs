//! Any bytes as the files of a tokenizer: an error or ids within the vocabulary, never a panic.
//!
//! The first byte says which file the rest is; the others are those of a small valid tokenizer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sdq_engine::tokenizer::{Tokenizer, TokenizerFiles};

const VOCAB: &str = r#"{"!": 0, "a": 1, "b": 2, "a</w>": 3, "b</w>": 4, "ab</w>": 5, "!</w>": 6,
    "<|startoftext|>": 7, "<|endoftext|>": 8}"#;
const MERGES: &str = "#version: 0.2\na b</w>\n";
const IDS: usize = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    let mut files = TokenizerFiles { vocab: Some(VOCAB), merges: Some(MERGES), ..TokenizerFiles::default() };
    match kind % 6 {
        0 => files.tokenizer = Some(&text),
        1 => files.vocab = Some(&text),
        2 => files.merges = Some(&text),
        3 => files.config = Some(&text),
        4 => files.special_tokens = Some(&text),
        _ => files.added_tokens = Some(&text),
    }
    if let Ok(tokenizer) = Tokenizer::new(&files, 77, IDS) {
        for prompt in ["a red (apple), ab ☕ \u{1b}[2J", "!!!! <|endoftext|>", &text[..text.floor_char_boundary(500)]] {
            if let Ok(ids) = tokenizer.encode(prompt) {
                assert!(ids.len() == tokenizer.length() && ids.iter().all(|&id| (id as usize) < IDS));
            }
        }
    }
});
