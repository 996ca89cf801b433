//! Definitions of tokenizers: CLIP's is accepted in every form, and all others are refused.

use super::*;

fn vocab() -> Value {
    json!({"!": 0, "a": 1, "b": 2, "a</w>": 3, "b</w>": 4, "ab</w>": 5, "!</w>": 6,
           "<|startoftext|>": 7, "<|endoftext|>": 8})
}

fn definition() -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{"id": 8, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": true, "special": true}],
        "normalizer": normalizer(),
        "pre_tokenizer": pre_tokenizer(SPLIT),
        "post_processor": {"type": "RobertaProcessing"},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<|endoftext|>", "continuing_subword_prefix": "",
                  "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab(), "merges": [["a", "b</w>"]]},
    })
}

fn ids(definition: &Value, prompt: &str) -> Result<Vec<u32>, Error> {
    let text = definition.to_string();
    let files = TokenizerFiles { tokenizer: Some(&text), ..TokenizerFiles::default() };
    let encoder = encoder(&files, &SpecialTokens::new(&files)?)?;
    Ok(encoder.encode_fast(prompt, false).unwrap().get_ids().to_vec())
}

/// The definition with the value at `pointer` replaced, or added if it does not exist.
fn with(pointer: &str, value: Value) -> Value {
    let mut changed = definition();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    changed.pointer_mut(parent).unwrap()[key] = value;
    changed
}

#[test]
fn every_spelling_of_clips_tokenizer_is_taken() {
    let expected = [5, 4, 6, 8];
    assert_eq!(ids(&definition(), "AB\n b!<|endoftext|>").unwrap(), expected);
    for (pointer, value) in [
        ("/model/merges", json!(["a b</w>"])),
        ("/model/type", Value::Null),
        ("/model/continuing_subword_prefix", Value::Null),
        ("/pre_tokenizer", pre_tokenizer(OLDER_SPLIT)),
        ("/post_processor", Value::Null),
        ("/truncation", json!({"max_length": 4})),
    ] {
        assert_eq!(ids(&with(pointer, value), "AB\n b!<|endoftext|>").unwrap(), expected, "{pointer}");
    }
}

/// Each of these once looped, panicked, took gigabytes or silently gave other ids.
#[test]
fn other_tokenizers_are_refused_by_the_name_of_what_differs() {
    let steps = |steps: Vec<Value>| json!({"type": "Sequence", "normalizers": steps});
    let doubling = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    for (pointer, value, named) in [
        ("/normalizer", Value::Null, "`normalizer` is null"),
        (
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "//////////8="}),
            "Precompiled",
        ),
        ("/normalizer", steps(vec![doubling; 40]), "`normalizer`"),
        ("/normalizer", json!({"type": "Prepend", "prepend": "a".repeat(1 << 20)}), "`normalizer`"),
        ("/normalizer", json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x"}), "Replace"),
        ("/pre_tokenizer", json!({"type": "FixedLength", "length": 0}), "FixedLength"),
        ("/pre_tokenizer", pre_tokenizer(r"\S+"), "`pre_tokenizer`"),
        ("/model/type", "WordPiece".into(), "`model.type` is \"WordPiece\""),
        ("/model/continuing_subword_prefix", "##########".into(), "`model.continuing_subword_prefix`"),
        ("/model/end_of_word_suffix", Value::Null, "`model.end_of_word_suffix`"),
        ("/model/ignore_merges", true.into(), "`model.ignore_merges`"),
        ("/model/dropout", 0.5.into(), "`model.dropout` is 0.5"),
        ("/model/byte_fallback", true.into(), "`model.byte_fallback`"),
        ("/model/surprise", 1.into(), "surprise"),
        ("/surprise", 1.into(), "surprise"),
        ("/model/merges", json!(["a b c"]), "`a b c` is not a merge"),
        ("/model/merges", json!(["ab"]), "`ab` is not a merge"),
        ("/model/merges", json!([["a", "nowhere"]]), "nowhere"),
        ("/model/merges", json!({"a": 1}), "a list"),
        ("/model/vocab", json!(["a"]), "an object"),
        ("/model/vocab", json!({}), "no tokens"),
        ("/model/vocab", json!({"a": -1}), "-1"),
        ("/added_tokens", json!([{"id": 1, "content": ""}]), "added token 1 has 0 bytes"),
        ("/added_tokens", json!([{"id": 1, "content": "x".repeat(257)}]), "257 bytes"),
        ("/added_tokens", json!([{"id": 2, "content": "a"}]), "`a` has the id 2, but the id 1"),
        ("/added_tokens", json!([{"id": 9, "content": "x", "surprise": 1}]), "surprise"),
    ] {
        let error = ids(&with(pointer, value), "a cat").unwrap_err().to_string();
        assert!(error.starts_with("tokenizer: ") && error.contains(named), "{named}: {error}");
        assert!(error.len() < 400, "{error}");
    }
}

#[test]
fn lists_that_are_too_long_are_refused_before_they_take_memory() {
    let many: Vec<Value> =
        (0..=MAX_ADDED).map(|id| json!({"id": 9 + id, "content": format!("<{id}>")})).collect();
    let error = ids(&with("/added_tokens", many.into()), "a").unwrap_err();
    assert!(error.to_string().contains("more than 1024 added tokens"), "{error}");
    let merges = "a b\n".repeat(MAX_TOKENS + 1);
    let error = merges_of_text(&merges).unwrap_err();
    assert_eq!(error.to_string(), "tokenizer: merges.txt: there are more than 262144 merges");
    assert_eq!(merges_of_text(&merges[4..]).unwrap().len(), MAX_TOKENS);
    let list = format!("[{}0]", "0,".repeat(MAX_TOKENS));
    assert!(
        parse::<Limited<Vec<u32>>>("x", &list)
            .is_err_and(|error| error.to_string().contains("262144 entries"))
    );
    assert_eq!(parse::<Limited<Vec<u32>>>("x", &list.replacen("0,", "", 1)).unwrap().0.len(), MAX_TOKENS);
}

/// A word that was added to a vocabulary is one token, in whichever file it is defined.
#[test]
fn added_tokens_of_every_file_are_words() {
    let (vocab, merges) = (vocab().to_string(), "#version: 0.2\na b</w>\n");
    let plain = TokenizerFiles { vocab: Some(&vocab), merges: Some(merges), ..TokenizerFiles::default() };
    let decoder = r#"{"added_tokens_decoder": {"9": {"content": "<toy>", "lstrip": false, "normalized": true,
                      "rstrip": false, "single_word": false, "special": false}}}"#;
    let added = json!([{"id": 9, "content": "<toy>", "special": false, "normalized": true}]);
    let whole = with("/added_tokens", added).to_string();
    for files in [
        TokenizerFiles { added_tokens: Some(r#"{"<toy>": 9}"#), ..plain },
        TokenizerFiles { config: Some(decoder), ..plain },
        TokenizerFiles { tokenizer: Some(&whole), ..TokenizerFiles::default() },
        // The same token twice counts once.
        TokenizerFiles { added_tokens: Some(r#"{"<toy>": 9}"#), config: Some(decoder), ..plain },
    ] {
        let encoder = encoder(&files, &SpecialTokens::new(&files).unwrap()).unwrap();
        let ids = |prompt: &str| encoder.encode_fast(prompt, false).unwrap().get_ids().to_vec();
        assert_eq!(ids("a <toy> b"), [3, 9, 4]);
        assert_eq!(ids("a<TOY>b"), [3, 9, 4]);
    }
    for (config, named) in [
        (r#"{"added_tokens_decoder": {"x": {"content": "<toy>"}}}"#, "`x`"),
        (r#"{"added_tokens_decoder": {"5": {"content": "a"}}}"#, "`a` has the id 5"),
        (r#"{"added_tokens_decoder": []}"#, "an object"),
    ] {
        let files = TokenizerFiles { config: Some(config), ..plain };
        let error = encoder(&files, &SpecialTokens::new(&files).unwrap()).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json") && error.contains(named), "{error}");
    }
}
