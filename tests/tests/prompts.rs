//! Prompts with weights, of any length, and with blocks left out, compared with the web UI's interpretation.

use std::fs;

use sdq_engine::{PromptReading, PromptSyntax};
use sdq_formats::{WeightType, safetensors::SafetensorsFile};
use sdq_tests::{
    goldens,
    measure::{STAGE_ERROR, Table, relative_error},
    models::Model,
};
use serde::Deserialize;

/// The format of `goldens/prompts.py`.
#[derive(Deserialize)]
struct Case {
    case: String,
    model: String,
    prompt: String,
    clip_skip: Option<usize>,
}

/// The goldens contain every fifth token.
const KEPT: usize = 5;

#[test]
fn text_states_are_those_of_the_web_ui() {
    let folder = goldens::folder("prompts");
    let cases: Vec<Case> =
        serde_json::from_str(&fs::read_to_string(folder.join("manifest.json")).unwrap()).unwrap();
    let expected = SafetensorsFile::open(folder.join("goldens.safetensors")).unwrap();
    let mut table = Table::default();
    for name in ["sd1", "sd2", "sdxl"] {
        let pipeline = Model::convert(name, WeightType::F32).open(2);
        for Case { case, prompt, clip_skip, .. } in cases.iter().filter(|case| case.model == name) {
            let reading = PromptReading { syntax: PromptSyntax::Weighted, clip_skip: *clip_skip };
            let found = pipeline.encode_prompts_as(&[prompt], reading).unwrap();
            let width = found.text_states.shape()[2];
            let kept: Vec<f32> =
                found.text_states.values().chunks(width).step_by(KEPT).flatten().copied().collect();
            let states = expected.tensor(&format!("{case}.text_states")).unwrap().to_f32().unwrap();
            assert_eq!(kept.len(), states.len(), "{name} {prompt:.40}");
            let label = format!("{name} {clip_skip:?} {prompt:.40}");
            // The states are scaled by a mean near zero, whose relative error is larger than theirs.
            let weighted = prompt.contains(['(', '[']);
            let limit = if weighted { 100.0 * STAGE_ERROR } else { STAGE_ERROR };
            table.at_most(&label, relative_error(&kept, &states), limit);
            if let (Some(found), Some(expected)) = (found.pooled, expected.tensor(&format!("{case}.pooled")))
            {
                let error = relative_error(found.values(), &expected.to_f32().unwrap());
                table.at_most(&format!("{label} pooled"), error, STAGE_ERROR);
            }
        }
    }
    table.finish();
}

#[test]
fn a_short_prompt_without_brackets_is_the_plain_one_bit_for_bit() {
    let pipeline = Model::convert("sdxl", WeightType::F32).open(2);
    let weighted = PromptReading { syntax: PromptSyntax::Weighted, clip_skip: None };
    for prompt in ["", "a red apple", "it's, two: three"] {
        let found = pipeline.encode_prompts_as(&[prompt], weighted).unwrap();
        assert_eq!(found, pipeline.encode_prompts(&[prompt]).unwrap(), "{prompt}");
    }
}

#[test]
fn shorter_prompts_are_followed_by_empty_chunks() {
    let pipeline = Model::convert("sd1", WeightType::F32).open(2);
    let weighted = PromptReading { syntax: PromptSyntax::Weighted, clip_skip: None };
    let both = pipeline.encode_prompts_as(&["", "a BREAK b"], weighted).unwrap().text_states;
    let empty = pipeline.encode_prompts(&[""]).unwrap().text_states;
    let tokens = empty.shape()[1];
    assert_eq!(both.shape()[..2], [2, 2 * tokens]);
    let half = both.values().len() / 4;
    assert_eq!(&both.values()[..half], empty.values());
    assert_eq!(&both.values()[half..2 * half], empty.values());
}

#[test]
fn what_cannot_be_read_is_refused() {
    let pipeline = Model::convert("sd1", WeightType::F32).open(2);
    let refused = |prompt: &str, clip_skip: Option<usize>| {
        let reading = PromptReading { syntax: PromptSyntax::Weighted, clip_skip };
        let request = sdq_engine::Request::new(prompt).reading(reading).size(32, 32).steps(1);
        pipeline.plan(&request).unwrap_err().to_string()
    };
    assert!(refused("[cat:dog:0.5]", None).contains("[cat:dog:0.5]"));
    assert!(refused(&"x ".repeat(5000), None).contains("at most 32 chunks"));
    assert!(refused("x", Some(0)).contains("clip-skip"));
    assert!(refused("x", Some(99)).contains("clip-skip"));
}
