//! Facts about token ids from a tokenizer's files.

use serde_json::Value;

/// The token that ends a prompt in CLIP's vocabularies.
const END: &str = "<|endoftext|>";

/// The ids of a vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vocabulary {
    /// Id of the token that ends a prompt.
    pub(super) end: Option<u64>,
    /// One more than the largest id.
    pub(super) size: u64,
}

impl Vocabulary {
    /// Reads the files of the tokenizer called `name` among `texts`. Files that cannot be read are skipped here; building
    /// the tokenizer reports them.
    pub(super) fn of(name: &str, texts: &[(String, String)]) -> Vocabulary {
        let json = |file: &str| -> Value {
            let name = format!("{name}/{file}");
            let text = texts.iter().find(|(other, _)| *other == name);
            text.and_then(|(_, text)| serde_json::from_str(text).ok()).unwrap_or_default()
        };
        let tokenizer = json("tokenizer.json");
        let mut vocabulary = Vocabulary::default();
        for ids in [&json("vocab.json"), &json("added_tokens.json"), &tokenizer["model"]["vocab"]] {
            for (token, id) in ids.as_object().into_iter().flatten() {
                vocabulary.add(token, id);
            }
        }
        for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            vocabulary.add(added["content"].as_str().unwrap_or_default(), &added["id"]);
        }
        vocabulary
    }

    fn add(&mut self, token: &str, id: &Value) {
        let Some(id) = id.as_u64() else { return };
        self.size = self.size.max(id.saturating_add(1));
        if token == END {
            self.end = Some(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_every_form_of_a_tokenizer() {
        let of = |files: &[(&str, &str)]| {
            let texts: Vec<(String, String)> =
                files.iter().map(|(file, text)| (format!("tokenizer/{file}"), (*text).to_owned())).collect();
            Vocabulary::of("tokenizer", &texts)
        };
        let vocab = r#"{"a": 0, "<|endoftext|>": 5}"#;
        assert_eq!(of(&[("vocab.json", vocab)]), Vocabulary { end: Some(5), size: 6 });
        let added = of(&[("vocab.json", vocab), ("added_tokens.json", r#"{"<cat>": 9}"#)]);
        assert_eq!(added, Vocabulary { end: Some(5), size: 10 });
        let one =
            r#"{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 3, "content": "<|endoftext|>"}]}"#;
        assert_eq!(of(&[("tokenizer.json", one)]), Vocabulary { end: Some(3), size: 4 });
        assert_eq!(of(&[("vocab.json", "[")]), Vocabulary::default());
    }
}
