//! One evaluation of the U-Net against diffusers: two prompts in a batch, square and non-square latents, and 9x13,
//! where an upsampling has to be told its size.

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
        let text_states = goldens.tensor("unet", "text_states");
        for case in &goldens.manifest.unet {
            let latents = goldens.tensor(&case.case, "latents");
            let found = pipeline.predict_noise(&latents, case.timestep, &text_states).unwrap();
            let expected = goldens.tensor(&case.case, "noise_pred");
            assert_eq!(found.shape(), expected.shape());
            let label = format!("{name} {} timestep {} {:?}", case.case, case.timestep, latents.shape());
            table.at_most(&label, relative_error(found.values(), expected.values()), STAGE_ERROR);
        }
    }
    table.finish();
}

#[test]
fn shapes_that_do_not_fit_the_model_are_refused() {
    let pipeline = Model::convert("sd1", WeightType::F16).open(1);
    let goldens = Goldens::load("sd1");
    let text_states = goldens.tensor("unet", "text_states");
    let latents = goldens.tensor("unet.0", "latents");
    let pixels = goldens.tensor("encode.0", "pixels");
    assert!(pipeline.predict_noise(&pixels, 1.0, &text_states).is_err(), "three channels");
    assert!(pipeline.predict_noise(&text_states, 1.0, &text_states).is_err(), "three axes");
    assert!(pipeline.predict_noise(&latents, 1.0, &latents).is_err(), "latents as text states");
    let one_prompt = pipeline.encode_prompts(&[""]).unwrap();
    assert!(pipeline.predict_noise(&latents, 1.0, &one_prompt).is_err(), "two latents, one prompt");
}
