//! The vocabulary that is added to single files is exactly CLIP's, letters and ids.

use std::fs;

use sdq_tests::{
    goldens,
    single_file::{Published, described, rows},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// The format of `goldens/clip_vocabulary.py`.
#[derive(Deserialize)]
struct Golden {
    sha256: std::collections::BTreeMap<String, String>,
    prompts: Vec<Tokens>,
}

#[derive(Deserialize)]
struct Tokens {
    prompt: String,
    ids: Vec<u32>,
    padded_with_0: Vec<u32>,
}

fn golden() -> Golden {
    let path = goldens::folder("clip_vocabulary.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn its_files_are_those_of_openai() {
    let model = Published::new(&rows("sd15")).open();
    for (name, expected) in golden().sha256 {
        let text = model.texts().iter().find(|(other, _)| *other == format!("tokenizer/{name}"));
        let (_, text) = text.unwrap_or_else(|| panic!("no {name}"));
        let found: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn odd_prompts_have_the_ids_of_the_original_tokenizer() {
    let clip = described(&Published::new(&rows("sd15")).open());
    let open_clip = described(&Published::new(&rows("sd21")).open());
    for Tokens { prompt, ids, padded_with_0 } in golden().prompts {
        assert_eq!(clip.text_encoders[0].token_ids(&prompt).unwrap(), ids, "{prompt:?}");
        assert_eq!(open_clip.text_encoders[0].token_ids(&prompt).unwrap(), padded_with_0, "{prompt:?}");
    }
}
