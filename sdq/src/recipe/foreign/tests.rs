//! Texts under keywords that several programs use.

use serde_json::json;

use crate::recipe::{Found, RecipeError};

fn found(texts: &[(&str, &str)]) -> Result<Found, RecipeError> {
    let texts: Vec<_> =
        texts.iter().map(|(keyword, text)| ((*keyword).to_owned(), (*text).to_owned())).collect();
    Found::from_texts(&texts)
}

#[test]
fn what_another_program_wrote_is_not_called_damaged() {
    let fooocus = json!({ "prompt": "a cat", "seed": "5", "steps": 30, "scheduler": "karras" }).to_string();
    let draw_things = json!({ "c": "a cat", "uc": "blurry", "scale": 7.5, "seed": 5 }).to_string();
    for texts in [
        // diffusers' users and Easy Diffusion write the words.
        &[("prompt", "a cat")][..],
        &[("prompt", "{a|b} in [a hat]"), ("seed", "5")],
        &[("prompt", "[cat|dog]")],
        &[("prompt", "5")],
        &[("parameters", &*fooocus)],
        &[("Comment", &*draw_things), ("Software", "Draw Things")],
        &[("Comment", &*draw_things)],
        &[("Comment", r#"{"made": "with care"}"#)],
        &[("Comment", "{damaged")],
    ] {
        assert_eq!(found(texts), Err(RecipeError::None), "{texts:?}");
    }
    for (texts, program) in [
        (&[("prompt", r#"{"3": {"class_type": "KSampler", "#)][..], "ComfyUI"),
        (&[("Comment", "{damaged"), ("Software", "NovelAI")], "NovelAI"),
    ] {
        let error = found(texts).unwrap_err();
        assert!(matches!(error, RecipeError::Damaged { program: named, .. } if named == program), "{error}");
    }
}

/// Python writes numbers that JSON does not have.
#[test]
fn nan_in_a_field_does_not_hide_the_others() {
    let graph =
        r#"{"3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 9}, "is_changed": [NaN]}}"#;
    let recipe = found(&[("prompt", graph)]).unwrap().recipe;
    assert_eq!((recipe.request.seed, recipe.request.steps), (5, Some(9)));
    let found =
        found(&[("invokeai_metadata", r#"{"positive_prompt": "NaN", "cfg_scale": NaN, "steps": 9}"#)]);
    let request = found.unwrap().recipe.request;
    assert_eq!((&*request.prompt, request.guidance_scale, request.steps), ("NaN", None, Some(9)));
}

#[test]
fn a_seed_is_known_only_where_there_is_one() {
    for (keyword, text, seed) in [
        ("parameters", "a cat", None),
        ("parameters", "", None),
        ("parameters", "a cat\nSteps: 2, Seed: -1, CFG scale: 7", None),
        ("parameters", "a cat\nSteps: 2, Seed: 7, CFG scale: 7", Some(7)),
        ("sdq", r#"{"prompt": "a cat"}"#, None),
        ("sdq", r#"{"prompt": "a cat", "seed": 42}"#, Some(42)),
        ("invokeai_metadata", r#"{"positive_prompt": "a cat"}"#, None),
        ("invokeai_metadata", r#"{"seed": 3}"#, Some(3)),
        ("sd-metadata", r#"{"image": {"seed": 3}}"#, Some(3)),
        ("Comment", r#"{"uc": "", "seed": 3}"#, Some(3)),
        ("Comment", r#"{"uc": ""}"#, None),
        ("prompt", r#"{"3": {"class_type": "KSampler", "inputs": {"seed": 3}}}"#, Some(3)),
        ("prompt", r#"{"3": {"class_type": "KSampler", "inputs": {"seed": -1}}}"#, None),
    ] {
        let found = found(&[(keyword, text)]).unwrap();
        let known = found.has_seed.then_some(found.recipe.request.seed);
        assert_eq!(known, seed, "{keyword}: {text}");
    }
}
