//! Pictures that are decoded strip by strip for lack of memory are the same as those that are decoded at
//! once.

use sdq_engine::{Error, Picture, Pipeline, Tensor, rng::TorchCpuGenerator};
use sdq_formats::WeightType;
use sdq_schedulers::NoiseSource as _;
use sdq_tests::{
    goldens::TINY,
    measure::Table,
    models::{Model, demo_model},
};

/// Standard normal latents, which vary more than those of any picture.
fn latents(height: usize, width: usize) -> Tensor {
    let mut values = vec![0.0; 4 * height * width];
    TorchCpuGenerator::new(7).fill_standard_normal(&mut values);
    Tensor::new(vec![1, 4, height, width], values).unwrap()
}

fn decode(pipeline: &Pipeline, latents: &Tensor) -> Picture {
    pipeline.decode_latents(latents).unwrap_or_else(|error| panic!("{error}")).remove(0)
}

/// The smallest limit with which decoding runs.
fn needed(pipeline: &Pipeline, latents: &Tensor) -> u64 {
    match pipeline.with_max_memory(Some(1)).decode_latents(latents) {
        Err(Error::DoesNotFit { needed, .. }) => needed,
        other => panic!("one byte is enough: {other:?}"),
    }
}

/// The results are bit-identical, so there are no seams.
#[test]
fn strips_change_nothing() {
    let mut table = Table::default();
    let models = TINY.map(|name| (name, Model::convert(name, WeightType::F32)));
    let trained = [WeightType::F16, WeightType::Q8]
        .map(|weight_type| (weight_type.name(), Model::convert_folder(&demo_model(), weight_type)));
    for (name, model) in models.iter().chain(&trained) {
        let pipeline = model.open(2);
        for (height, width) in [(37, 29), (50, 7), (1, 1)] {
            let latents = latents(height, width);
            let whole = decode(&pipeline, &latents);
            let needed = needed(&pipeline, &latents);
            for spare in [0, 1 << 18, 2 << 20] {
                let cut = decode(&pipeline.with_max_memory(Some(needed + spare)), &latents);
                let differing = whole.rgb.iter().zip(&cut.rgb).filter(|(a, b)| a != b).count();
                table.equal(&format!("{name} {height}x{width}, {spare} bytes to spare"), &differing, &0);
            }
        }
    }
    table.finish();
}
