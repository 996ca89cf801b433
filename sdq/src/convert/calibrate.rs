//! `sdq convert --calibrate`: statistics of the inputs of the model's products while it draws.

use std::{num::NonZeroUsize, path::Path};

use sdq_engine::{Event, Request, pipeline::ActivationMoments, published::PublishedModel};
use sdq_quantize::{Plan, Precision};

use super::reference;
use crate::{
    Error, Task, Watch, model as models, observer,
    prompts::{self, Prompt},
};

/// Denoising steps of a calibration run. A few are sufficient: they cover all noise levels.
const STEPS: usize = 8;
/// Minimum importance of a channel, relative to the mean of all: a few prompts do not show its whole range.
const FLOOR: f32 = 1e-3;
/// Seed of the first run.
const SEED: u64 = 42;

/// Draws `count` pictures of the model's default size with `model`, whose weights are f16. Returns the mean
/// squares of the inputs of its products, and the number of pictures. The prompts come from the file
/// `prompts`, evenly spread over it and at most as many as it contains, otherwise from the everyday ones.
pub(super) fn moments(
    model: &PublishedModel,
    count: NonZeroUsize,
    prompts: Option<&Path>,
    threads: Option<NonZeroUsize>,
    watch: &mut Watch<'_>,
) -> Result<(ActivationMoments, usize), Error> {
    let prompts = match prompts {
        Some(path) => prompts::spread(prompts::read(path, SEED)?, count.get()),
        None => prompts::everyday(count.get(), SEED),
    };
    let reference = reference::convert(model, Precision::F16, &models::on_cpu(threads), watch)?;
    let request =
        |Prompt { text, seed }| Request { prompt: text, seed, steps: Some(STEPS), ..Request::default() };
    let requests: Vec<Request> = prompts.into_iter().map(request).collect();
    let (total, cancel) = ((requests.len() * STEPS) as u64, watch.cancel().clone());
    let moments = reference.pipeline.activation_moments(&requests, &mut |index, event| {
        if let Event::Step { step, .. } = event {
            watch.progress(Task::Calibrating, (index * STEPS + step + 1) as u64, total);
        }
        cancel.check()
    });
    watch.tell(observer::Event::TaskEnded);
    Ok((moments?, requests.len()))
}

/// Sets the weight of errors in each input channel of every weight that is quantized; `count` is the number
/// of pictures that were drawn.
pub(super) fn weigh(plan: &mut Plan, moments: &ActivationMoments, count: usize) {
    for part in &mut plan.parts {
        for weight in part.weights.iter_mut().filter(|weight| weight.weight_type.is_quantized()) {
            weight.importance = moments.get(&part.component, &weight.spec.name).and_then(importance);
        }
    }
    if let Some(quantization) = &mut plan.quantization {
        quantization.calibration_prompts = count;
    }
}

/// The importance of channels with these mean squares; `None` if all are zero.
fn importance(means: &[f32]) -> Option<Vec<f32>> {
    let floor = FLOOR * means.iter().sum::<f32>() / means.len() as f32;
    (floor > 0.0).then(|| means.iter().map(|mean| mean.max(floor)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_channel_keeps_some_importance() {
        assert_eq!(importance(&[0.0, 4.0]), Some(vec![2.0 * FLOOR, 4.0]));
        assert_eq!(importance(&[0.0, 0.0]), None);
    }
}
