//! The autoencoder compared with diffusers, including non-square sizes.

use sdq_engine::Tensor;
use sdq_formats::WeightType;
use sdq_tests::{
    goldens::{Goldens, TINY, scaling_factor},
    measure::{DECODED_DB, STAGE_ERROR, Table, psnr, relative_error},
    models::Model,
};

#[test]
fn moments_of_encoded_pixels_are_those_of_diffusers() {
    let mut table = Table::default();
    for name in TINY {
        let pipeline = Model::convert(name, WeightType::F32).open(2);
        let goldens = Goldens::load(name);
        for case in &goldens.manifest.encode {
            let pixels = goldens.tensor(&case.case, "pixels");
            let moments = pipeline.encode_pixels(&pixels).unwrap();
            let std = moments.std.expect("this autoencoder gives a distribution");
            for (what, found) in [("mean", moments.mean), ("std", std)] {
                let expected = goldens.tensor(&case.case, what);
                assert_eq!(found.shape(), expected.shape());
                let error = relative_error(found.values(), expected.values());
                table.at_most(
                    &format!("{name} {} {what} {:?}", case.case, pixels.shape()),
                    error,
                    STAGE_ERROR,
                );
            }
        }
    }
    table.finish();
}

#[test]
fn decoded_pictures_are_those_of_diffusers() {
    let mut table = Table::default();
    for name in TINY {
        let pipeline = Model::convert(name, WeightType::F32).open(2);
        let goldens = Goldens::load(name);
        for case in &goldens.manifest.decode {
            let found =
                pipeline.decode_latents(&scaled(&goldens.tensor(&case.case, "latents"), name)).unwrap();
            let pixels = goldens.tensor(&case.case, "pixels");
            let [_, _, height, width] = *pixels.shape() else { panic!("pixels have four axes") };
            assert_eq!((found[0].height, found[0].width), (height, width));
            let label = format!("{name} {} {:?}", case.case, pixels.shape());
            table.at_least(&label, psnr(&found[0].rgb, &eight_bit(&pixels)), DECODED_DB);
        }
    }
    table.finish();
}

/// Latents scaled as at the end of the denoising loop.
fn scaled(latents: &Tensor, name: &str) -> Tensor {
    let factor = scaling_factor(name);
    let values = latents.values().iter().map(|value| value * factor).collect();
    Tensor::new(latents.shape().to_vec(), values).unwrap()
}

/// `VaeImageProcessor.postprocess`: `[1, 3, h, w]` in -1..=1 to `[h, w, 3]` in 0..=255, rounded half to even.
fn eight_bit(pixels: &Tensor) -> Vec<u8> {
    let plane = pixels.values().len() / 3;
    let byte = |value: f32| ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    (0..plane).flat_map(|i| [0, 1, 2].map(|channel| byte(pixels.values()[channel * plane + i]))).collect()
}
