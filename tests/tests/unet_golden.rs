//! One evaluation of the U-Net compared with diffusers: two prompts in a batch, square and non-square
//! latents, and 9x13, where an upsampling needs an explicit size.

use sdq_engine::{Tensor, pipeline::Conditioning};
use sdq_formats::WeightType;
use sdq_tests::{
    goldens::{Goldens, TINY},
    measure::{STAGE_ERROR, Table, relative_error},
    models::Model,
};

#[test]
fn noise_pred_is_that_of_diffusers() {
    let mut table = Table::default();
    for name in TINY {
        let pipeline = Model::convert(name, WeightType::F32).open(2);
        let goldens = Goldens::load(name);
        let conditioning = conditioning(&goldens);
        for case in &goldens.manifest.unet {
            let latents = goldens.tensor(&case.case, "latents");
            let found = pipeline.predict_noise(&latents, case.timestep, &conditioning).unwrap();
            let expected = goldens.tensor(&case.case, "noise_pred");
            assert_eq!(found.shape(), expected.shape());
            let label = format!("{name} {} timestep {} {:?}", case.case, case.timestep, latents.shape());
            table.at_most(&label, relative_error(found.values(), expected.values()), STAGE_ERROR);
        }
    }
    table.finish();
}

fn conditioning(goldens: &Goldens) -> Conditioning {
    Conditioning { text_states: goldens.tensor("unet", "text_states"), added: None, guidance_scale: None }
}

#[test]
fn shapes_that_do_not_fit_the_model_are_refused() {
    let pipeline = Model::convert("sd1", WeightType::F16).open(1);
    let goldens = Goldens::load("sd1");
    let text_states = conditioning(&goldens);
    let latents = goldens.tensor("unet.0", "latents");
    let pixels = goldens.tensor("encode.0", "pixels");
    assert!(pipeline.predict_noise(&pixels, 1.0, &text_states).is_err(), "three channels");
    assert!(pipeline.predict_noise(&text_states.text_states, 1.0, &text_states).is_err(), "three axes");
    let with = |tensor: &Tensor| Conditioning { text_states: tensor.clone(), ..text_states.clone() };
    assert!(pipeline.predict_noise(&latents, 1.0, &with(&latents)).is_err(), "latents as text states");
    let one_prompt = pipeline.encode_prompts(&[""]).unwrap().text_states;
    assert!(pipeline.predict_noise(&latents, 1.0, &with(&one_prompt)).is_err(), "two latents, one prompt");
    let told = Conditioning { guidance_scale: Some(7.5), ..text_states.clone() };
    assert!(pipeline.predict_noise(&latents, 1.0, &told).is_err(), "a scale that the model is not told");
    let added = Conditioning { added: Some(one_prompt), ..text_states.clone() };
    assert!(pipeline.predict_noise(&latents, 1.0, &added).is_err(), "sizes that the model does not read");
}
