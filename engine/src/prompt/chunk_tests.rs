//! How tokens are divided into chunks, with a vocabulary of three words.

use super::*;
use crate::tokenizer::TokenizerFiles;

const VOCAB: &str = r#"{"a": 0, "b": 1, ",": 2, "a</w>": 3, "b</w>": 4, ",</w>": 5,
    "<|startoftext|>": 6, "<|endoftext|>": 7}"#;
const A: u32 = 3;
const B: u32 = 4;
const COMMA: u32 = 5;
const START: u32 = 6;
const END: u32 = 7;

/// Words of a chunk: enough that a comma can be too far from its end.
const ROOM: usize = COMMA_BACKTRACK + 10;

fn tokenizer() -> Tokenizer {
    let files =
        TokenizerFiles { vocab: Some(VOCAB), merges: Some("#version: 0.2\n"), ..TokenizerFiles::default() };
    Tokenizer::new(&files, ROOM + 2, 8).unwrap()
}

fn read(prompt: &str, syntax: PromptSyntax) -> Result<Vec<Chunk>, Error> {
    chunks(&tokenizer(), &ExtraWords::default(), prompt, syntax)
}

/// The words of each chunk, after a check of its start, end and padding.
fn words(prompt: &str) -> Vec<Vec<u32>> {
    let words = |chunk: Chunk| {
        let end = chunk.ids.iter().position(|&id| id == END).unwrap();
        assert_eq!((chunk.ids.len(), chunk.ids[0]), (ROOM + 2, START));
        assert!(chunk.ids[end..].iter().all(|&id| id == END));
        chunk.ids[1..end].to_vec()
    };
    read(prompt, PromptSyntax::Weighted).unwrap().into_iter().map(words).collect()
}

fn lengths(prompt: &str) -> Vec<usize> {
    words(prompt).iter().map(Vec::len).collect()
}

#[test]
fn a_prompt_fills_one_chunk_after_the_other() {
    for (count, expected) in [
        (0, vec![0]),
        (1, vec![1]),
        (ROOM, vec![ROOM]),
        (ROOM + 1, vec![ROOM, 1]),
        (2 * ROOM, vec![ROOM, ROOM]),
        (2 * ROOM + 3, vec![ROOM, ROOM, 3]),
    ] {
        assert_eq!(lengths(&"a ".repeat(count)), expected, "{count} words");
    }
}

#[test]
fn the_length_of_a_prompt_counts_words_of_all_chunks() {
    for (prompt, syntax, tokens, chunks) in [
        (String::new(), PromptSyntax::Weighted, 0, 1),
        ("a, (b:1.2)".to_owned(), PromptSyntax::Weighted, 3, 1),
        ("a BREAK b".to_owned(), PromptSyntax::Weighted, 2, 2),
        ("a ".repeat(ROOM + 1), PromptSyntax::Weighted, ROOM + 1, 2),
        ("a ".repeat(ROOM + 1), PromptSyntax::Plain, ROOM, 1),
    ] {
        let found = length(&tokenizer(), &ExtraWords::default(), &prompt, syntax).unwrap();
        assert_eq!(found, PromptLength { tokens, chunks, per_chunk: ROOM }, "{prompt}");
    }
}

/// The comma stays, and the words after it begin the next chunk, unless the comma is too far away.
#[test]
fn words_after_a_near_comma_move_into_the_next_chunk() {
    let prompt = |before: usize, after: usize| format!("{}, {}", "a ".repeat(before), "b ".repeat(after));
    for after in [1, COMMA_BACKTRACK - 1] {
        let before = ROOM - 1 - after;
        let found = words(&prompt(before, after + 1));
        let first = [vec![A; before], vec![COMMA]].concat();
        assert_eq!(found, [first, vec![B; after + 1]], "{after} words after the comma");
    }
    let before = ROOM - 1 - COMMA_BACKTRACK;
    assert_eq!(lengths(&prompt(before, COMMA_BACKTRACK + 1)), [ROOM, 1], "one word too far");
    // Where the prompt ends with the chunk, nothing moves.
    assert_eq!(lengths(&prompt(ROOM - 4, 3)), [ROOM]);
    // The last comma counts, and commas of an earlier chunk do not.
    let two = format!("{}, b, {}", "a ".repeat(ROOM - 6), "b ".repeat(4));
    assert_eq!(lengths(&two), [ROOM - 3, 4]);
    let earlier = format!("{}, {}", "a ".repeat(ROOM - 1), "b ".repeat(ROOM + 1));
    assert_eq!(lengths(&earlier), [ROOM, ROOM, 1]);
}

#[test]
fn a_break_ends_a_chunk_that_may_be_empty() {
    for (prompt, expected) in [
        ("a BREAK b", vec![vec![A], vec![B]]),
        ("BREAK a", vec![vec![], vec![A]]),
        ("a BREAK", vec![vec![A]]),
        ("a BREAK BREAK b", vec![vec![A], vec![], vec![B]]),
        ("(a BREAK b:1.5)", vec![vec![A], vec![B]]),
    ] {
        assert_eq!(words(prompt), expected, "{prompt}");
    }
}

#[test]
fn weights_stand_where_their_words_do() {
    let chunk = |prompt: &str| read(prompt, PromptSyntax::Weighted).unwrap();
    let weights = chunk("a (b:1.5) a").remove(0).weights.unwrap();
    assert_eq!(weights[..5], [1.0, 1.0, 1.5, 1.0, 1.0]);
    assert_eq!((weights.len(), weights[5..].iter().all(|&weight| weight == 1.0)), (ROOM + 2, true));
    assert_eq!(chunk("a (b:1) a")[0].weights, None, "a weight of 1 weighs nothing");
    // Each chunk has its own weights: the first has none.
    let long = chunk(&format!("{}(b:0.5)", "a ".repeat(ROOM)));
    assert_eq!(
        (long[0].weights.is_none(), long[1].weights.as_ref().map(|weights| weights[1])),
        (true, Some(0.5))
    );
}

#[test]
fn plain_prompts_are_one_chunk_that_is_cut() {
    for prompt in ["a b", &"a ".repeat(3 * ROOM), ""] {
        let found = read(prompt, PromptSyntax::Plain).unwrap();
        assert_eq!(found, [Chunk { ids: tokenizer().encode(prompt).unwrap(), weights: None }]);
    }
}

#[test]
fn the_most_chunks_are_read_and_none_more() {
    assert_eq!(lengths(&"a ".repeat(MAX_CHUNKS * ROOM)).len(), MAX_CHUNKS);
    let error = read(&"a ".repeat(MAX_CHUNKS * ROOM + 1), PromptSyntax::Weighted).unwrap_err().to_string();
    let characters = 2 * (MAX_CHUNKS * ROOM + 1);
    let expected = format!(
        "prompt is a text of {characters} characters in {} chunks, expected at most {MAX_CHUNKS} chunks of {ROOM} tokens",
        MAX_CHUNKS + 1
    );
    assert_eq!(error, expected);
    assert_eq!(empty_chunk(&tokenizer()).ids, read("", PromptSyntax::Weighted).unwrap()[0].ids);
}
