//! Statistics of the inputs of products while a model draws, compared with the same statistics computed from
//! known tensors.

use std::ops::ControlFlow;

use sdq_engine::{Event, Pipeline, Request, Tensor, pipeline::ActivationMoments, rng::TorchCpuGenerator};
use sdq_formats::{WeightRole, WeightType, sdq::SdqFile};
use sdq_schedulers::NoiseSource as _;
use sdq_tests::{goldens, models::Model};

/// DDIM starts from plain noise and passes the latents to the U-Net unscaled.
fn request(seed: u64) -> Request {
    Request {
        prompt: "a cat".to_owned(),
        width: Some(40),
        height: Some(56),
        steps: Some(3),
        scheduler: Some("ddim".to_owned()),
        seed,
        ..Request::default()
    }
}

fn moments(pipeline: &Pipeline, requests: &[Request]) -> ActivationMoments {
    pipeline.activation_moments(requests, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

/// Mean squares of every channel over `all` latents `[1, channels, h, w]`.
fn mean_squares(all: &[Tensor]) -> Vec<f64> {
    let &[_, channels, height, width] = all[0].shape() else { panic!("latents have four axes") };
    let channel = |index: usize| {
        let values =
            all.iter().flat_map(|latents| &latents.values()[index * height * width..][..height * width]);
        values.map(|value| f64::from(*value).powi(2)).sum::<f64>() / (all.len() * height * width) as f64
    };
    (0..channels).map(channel).collect()
}

fn assert_close(found: Option<&[f32]>, expected: &[f64]) {
    let found = found.expect("the product ran");
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() <= 1e-5 * expected, "{found}, expected {expected}");
    }
}

/// The U-Net's first convolution reads the latents of every step, the decoder's first one the final latents
/// of a run.
#[test]
fn moments_are_those_of_what_is_read() {
    let pipeline = Model::convert("sd1", WeightType::F32).open(2);
    let requests = [request(1), request(2)];
    let (mut read, mut finished) = (Vec::new(), Vec::new());
    for request in &requests {
        let mut observer = |event: Event<'_>| {
            match event {
                Event::Step { step, steps, latents, .. } if step + 1 < steps => read.push(latents.clone()),
                Event::Denoised { latents, .. } => finished.push(latents.clone()),
                _ => {}
            }
            ControlFlow::Continue(())
        };
        let latents = pipeline.generate(request, &mut observer).unwrap().latents;
        let mut noise = vec![0.0; latents.values().len()];
        TorchCpuGenerator::new(request.seed).fill_standard_normal(&mut noise);
        read.push(Tensor::new(latents.shape().to_vec(), noise).unwrap());
    }
    let found = moments(&pipeline, &requests);
    assert_close(found.get("unet", "conv_in.weight"), &mean_squares(&read));
    let factor = f64::from(goldens::scaling_factor("sd1"));
    let unscaled: Vec<f64> = mean_squares(&finished).iter().map(|v| v / (factor * factor)).collect();
    assert_close(found.get("vae", "post_quant_conv.weight"), &unscaled);
}

#[test]
fn every_product_that_draws_has_its_channels_and_threads_change_nothing() {
    let model = Model::convert("fp16", WeightType::F16);
    let found = moments(&model.open(1), &[request(5)]);
    assert_eq!(found, moments(&model.open(2), &[request(5)]));
    let file = SdqFile::open(model.path()).unwrap();
    for component in file.components() {
        for weight in component.weights() {
            let name = &weight.spec.name;
            let product = matches!(weight.spec.role, WeightRole::Matrix | WeightRole::Conv);
            let draws = !name.starts_with("encoder.") && !name.starts_with("quant_conv.");
            let channels = found.get(component.name(), name).map(<[f32]>::len);
            let expected = (product && draws).then(|| weight.spec.shape[1]);
            assert_eq!(channels, expected, "{}.{name}", component.name());
        }
    }
    assert!(found.iter().all(|(_, _, means)| means.iter().all(|mean| mean.is_finite() && *mean >= 0.0)));
}
