//! Tokenizer and text encoder compared with diffusers.

use sdq_formats::WeightType;
use sdq_tests::{
    goldens::{Goldens, TINY},
    measure::{STAGE_ERROR, Table, relative_error},
    models::{Model, demo_model},
};

/// Accents, emoji, contractions, unusual spaces, special tokens inside the prompt, prompts far too long: the
/// ids are exactly those of the model's own tokenizer.
#[test]
fn token_ids_equal_those_of_diffusers() {
    let mut table = Table::default();
    let tiny = TINY.map(|name| (name, Model::convert(name, WeightType::F16)));
    let trained = ("trained", Model::convert_folder(&demo_model(), WeightType::F16));
    for (name, model) in tiny.into_iter().chain([trained]) {
        let pipeline = model.open(1);
        for tokens in Goldens::load(name).manifest.tokens {
            let label = format!("{name} {:?}", tokens.prompt.chars().take(40).collect::<String>());
            table.equal(&label, &pipeline.tokenize(&tokens.prompt).unwrap(), &tokens.ids);
        }
    }
    table.finish();
}

#[test]
fn text_states_are_those_of_diffusers() {
    let mut table = Table::default();
    for name in TINY {
        let pipeline = Model::convert(name, WeightType::F32).open(2);
        let goldens = Goldens::load(name);
        for case in &goldens.manifest.text_states {
            let found = pipeline.encode_prompts(&[&case.prompt]).unwrap().text_states;
            let expected = goldens.tensor(&case.case, "text_states");
            assert_eq!(found.shape()[1..], *expected.shape());
            let error = relative_error(found.values(), expected.values());
            table.at_most(&format!("{name} {}", case.case), error, STAGE_ERROR);
        }
    }
    table.finish();
}

/// Guidance encodes two prompts in one batch; each must give the same result as alone.
#[test]
fn prompts_of_one_batch_do_not_touch_each_other() {
    let pipeline = Model::convert("sd1", WeightType::F32).open(2);
    let [one, two] = ["blurry", "a red apple on a blue background"];
    let both = pipeline.encode_prompts(&[one, two]).unwrap().text_states;
    let alone =
        [one, two].map(|prompt| pipeline.encode_prompts(&[prompt]).unwrap().text_states.into_values());
    assert_eq!(both.values(), alone.concat());
}
