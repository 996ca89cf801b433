//! Prompts for measurements: from a file, from flags, or a few everyday ones.

use std::{fs::File, io::Read as _, path::Path};

use serde_json::Value;

use crate::Error;

/// Default prompts: people, animals, things, places, in common styles.
pub const EVERYDAY: [&str; 8] = [
    "a photo of an old fisherman with a white beard, close up",
    "a cat sleeping on a red sofa",
    "a lighthouse on a cliff at sunset, oil painting",
    "a bowl of fruit on a wooden table, still life",
    "a busy street in the rain at night, neon signs",
    "a snowy mountain behind a lake, wide angle photograph",
    "a small robot watering flowers, digital art",
    "a vintage car in front of a yellow house",
];

/// Maximum length of a file of prompts, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// Longest file of JSON, which takes up to twenty times as much in memory.
const MAX_JSON: usize = 4 << 20;

/// A prompt and its seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The prompt.
    pub text: String,
    /// The seed.
    pub seed: u64,
}

/// `count` prompts of [`EVERYDAY`]; if there are not enough, they are repeated with the next seed.
pub fn everyday(count: usize, seed: u64) -> Vec<Prompt> {
    let round = |index: usize| seed.wrapping_add((index / EVERYDAY.len()) as u64);
    (0..count)
        .map(|index| Prompt { text: EVERYDAY[index % EVERYDAY.len()].to_owned(), seed: round(index) })
        .collect()
}

/// The prompts of a file: a JSON list of objects with `prompt` and optionally `seed`, whose default is
/// `seed`; or one per line.
///
/// # Errors
/// [`Error::Prompts`] when the file cannot be read, is longer than 16 MiB, or contains no prompt.
pub fn read(path: &Path, seed: u64) -> Result<Vec<Prompt>, Error> {
    let failed = |problem: String| Error::Prompts { path: path.to_owned(), problem };
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    read.map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > MAX_FILE {
        return Err(failed(format!("the file has more than {MAX_FILE} bytes")));
    }
    let prompts = parse(&text, seed).map_err(failed)?;
    match prompts.is_empty() {
        true => Err(failed("the file contains no prompts".to_owned())),
        false => Ok(prompts),
    }
}

fn parse(text: &str, seed: u64) -> Result<Vec<Prompt>, String> {
    if !text.trim_start().starts_with('[') {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        return Ok(lines.map(|line| Prompt { text: line.to_owned(), seed }).collect());
    }
    if text.len() > MAX_JSON {
        return Err(format!("the JSON has more than {MAX_JSON} bytes; write one prompt per line instead"));
    }
    let items: Vec<Value> =
        serde_json::from_str(text).map_err(|error| format!("the file is not a JSON list: {error}"))?;
    items.iter().enumerate().map(|(index, item)| from_json(index, item, seed)).collect()
}

fn from_json(index: usize, item: &Value, seed: u64) -> Result<Prompt, String> {
    let text = item.get("prompt").and_then(Value::as_str);
    let text = text.ok_or_else(|| format!("item {index} has no string `prompt`"))?;
    let seed = match item.get("seed") {
        None | Some(Value::Null) => seed,
        Some(own) => own.as_u64().ok_or_else(|| {
            format!("item {index} has the `seed` {own}, expected a whole number of 0 or more")
        })?,
    };
    Ok(Prompt { text: text.to_owned(), seed })
}

/// `limit` of `items`, spread evenly over all of them, in their order.
pub fn spread<T>(items: Vec<T>, limit: usize) -> Vec<T> {
    let count = items.len();
    if limit >= count {
        return items;
    }
    let mut chosen = (0..limit).map(|i| i * count / limit).peekable();
    items
        .into_iter()
        .enumerate()
        .filter(|(i, _)| chosen.next_if_eq(i).is_some())
        .map(|(_, item)| item)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prompt(text: &str, seed: u64) -> Prompt {
        Prompt { text: text.to_owned(), seed }
    }

    #[test]
    fn lines_and_json_are_read() {
        assert_eq!(parse("a cat\n\n  a dog \r\n", 3).unwrap(), [prompt("a cat", 3), prompt("a dog", 3)]);
        let json = r#" [{"prompt": "a cat", "seed": 1, "thing": "cat"}, {"prompt": "a dog"}]"#;
        assert_eq!(parse(json, 3).unwrap(), [prompt("a cat", 1), prompt("a dog", 3)]);
        for (text, word) in [
            ("[1]", "item 0"),
            (r#"[{"prompt": "x"}, {"prompt": 1}]"#, "item 1"),
            (r#"[{"prompt": "x", "seed": -1}]"#, "-1"),
            ("[", "JSON"),
        ] {
            let error = format!("{:#}", parse(text, 0).unwrap_err());
            assert!(error.contains(word), "no `{word}` in: {error}");
        }
    }

    #[test]
    fn a_limit_takes_from_all_over_the_list() {
        assert_eq!(spread((0..10).collect(), 3), [0, 3, 6]);
        assert_eq!(spread((0..3).collect(), 3), [0, 1, 2]);
        assert_eq!(spread((0..3).collect(), 9), [0, 1, 2]);
    }

    #[test]
    fn everyday_prompts_begin_again_with_the_next_seed() {
        let prompts = everyday(9, 5);
        assert_eq!((prompts.len(), &prompts[8]), (9, &prompt(EVERYDAY[0], 6)));
        assert_eq!(prompts[7].seed, 5);
    }

    #[test]
    fn everyday_prompts_of_any_number_and_seed() {
        assert_eq!(everyday(0, 5), []);
        assert_eq!(everyday(1, 5), [prompt(EVERYDAY[0], 5)]);
        // Seeds wrap around as in the engine.
        let seeds: Vec<u64> = everyday(17, u64::MAX).iter().map(|prompt| prompt.seed).collect();
        assert_eq!([seeds[7], seeds[8], seeds[15], seeds[16]], [u64::MAX, 0, 0, 1]);
    }

    proptest! {
        /// As many as requested, in order, each once, and evenly spaced: the distances between indices differ
        /// by at most one.
        #[test]
        fn what_is_spread_is_even(count in 1..200_usize, limit in 1..250_usize) {
            let chosen = spread((0..count).collect(), limit);
            prop_assert_eq!(chosen.len(), limit.min(count));
            prop_assert_eq!(chosen[0], 0);
            let steps: Vec<usize> = chosen.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let (least, most) = (count / limit.min(count), count.div_ceil(limit.min(count)));
            prop_assert!(steps.iter().all(|step| (least..=most).contains(step)), "{:?}", chosen);
        }
    }

    #[test]
    fn nothing_is_spread_over_nothing() {
        assert!(spread(Vec::<u8>::new(), 3).is_empty());
        assert!(spread(vec![1, 2, 3], 0).is_empty());
    }

    #[test]
    fn seeds_are_whole_numbers_that_fit() {
        let seed_of = |json: &str| parse(&format!(r#"[{{"prompt": "x", "seed": {json}}}]"#), 7);
        for (json, seed) in [("0", 0), ("18446744073709551615", u64::MAX), ("null", 7)] {
            assert_eq!(seed_of(json).unwrap(), [prompt("x", seed)]);
        }
        for json in ["1.5", "18446744073709551616", "\"1\"", "true", "[]"] {
            assert!(seed_of(json).unwrap_err().contains("whole number"), "{json}");
        }
    }

    #[test]
    fn a_file_that_holds_no_prompts_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        for (bytes, reason) in [
            (&b""[..], "the file contains no prompts"),
            (b" \n\t\r\n", "the file contains no prompts"),
            (b"[]", "the file contains no prompts"),
            (b"[{\"prompt\": 1}]", "item 0 has no string `prompt`"),
            (b"a cat\n\xff", "valid UTF-8"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path, 0).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("prompts.txt"), "{error}");
        }
        let missing = read(&folder.path().join("none.txt"), 0).unwrap_err();
        assert!(matches!(missing, Error::Prompts { .. }), "{missing}");
        std::fs::write(&path, "a cat\n").unwrap();
        assert_eq!(read(&path, 3).unwrap(), [prompt("a cat", 3)]);
    }

    #[test]
    fn the_longest_file_is_read_and_none_longer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        for (len, fits) in [(MAX_FILE, true), (MAX_FILE + 1, false)] {
            std::fs::write(&path, vec![b'x'; len as usize]).unwrap();
            let found = read(&path, 0);
            assert_eq!(found.is_ok(), fits, "{len} bytes");
        }
    }
}
