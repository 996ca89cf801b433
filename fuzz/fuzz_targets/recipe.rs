//! Any text under any keyword of a picture: an error or a recipe that can be written again, never a panic.
//!
//! The first line is the keyword.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sdq::recipe::Found;

const KEYWORDS: [&str; 6] = ["sdq", "parameters", "prompt", "invokeai_metadata", "Comment", "Description"];

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (keyword, rest) = text.split_once('\n').unwrap_or(("", &text));
    for keyword in KEYWORDS.into_iter().chain([keyword]) {
        if let Ok(found) = Found::from_texts(&[(keyword.to_owned(), rest.to_owned())]) {
            let texts = found.recipe.texts().map(|(key, text)| (key.to_owned(), text));
            Found::from_texts(&texts).expect("what was written can be read");
        }
    }
});
