//! Chooses types for a target size or similarity, by the measured effect of each weight's type on this model.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    path::Path,
};

use sdq_engine::{
    Pipeline, Request,
    pipeline::{Probe, compare},
    published::PublishedModel,
};
use sdq_formats::{WeightSpec, WeightType, layout, sdq::Quantization};
use sdq_quantize::{Plan, Precision};

use super::{
    checkpoint,
    choose::{self, Choice, Layer, Move},
    reference::{self, Reference},
};
use crate::{
    Error, Event, Note, Task, Watch, model,
    prompts::{self, Prompt},
};

/// The precisions among which types are chosen, the reference first.
const PRECISIONS: [Precision; 3] = [Precision::F16, Precision::Q8, Precision::Q4];
/// Evaluations of the U-Net with which a weight is measured.
const POINTS: usize = 3;
/// Pictures with which a complete choice is measured.
const PICTURES: usize = 5;
/// Seed of the first picture.
const SEED: u64 = 42;
/// Size of a quantized weight in a file beside its elements: alignment, and its longer entry in the table of
/// contents.
const OVERHEAD: usize = 512;

/// The target of a conversion.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// At most so many bytes.
    Size(usize),
    /// At least half of the pictures have this similarity to those of f16, in decibels.
    Psnr(f64),
}

impl Goal {
    /// A file of at most this many millions of bytes.
    ///
    /// # Errors
    /// [`Error::Option`] when it is not a number above 0.
    pub fn max_size(megabytes: f64) -> Result<Goal, Error> {
        Ok(Goal::Size((positive("max-size", megabytes)? * 1e6) as usize))
    }

    /// At least half of the pictures have this similarity, in decibels.
    ///
    /// # Errors
    /// [`Error::Option`] when it is not a number above 0.
    pub fn target_psnr(decibels: f64) -> Result<Goal, Error> {
        Ok(Goal::Psnr(positive("target-psnr", decibels)?))
    }
}

fn positive(option: &'static str, value: f64) -> Result<f64, Error> {
    match value.is_finite() && value > 0.0 {
        true => Ok(value),
        false => Err(Error::Option { option, problem: format!("{value} is not a number above 0") }),
    }
}

/// Changes the types in `plan`, which are all f16, to those that meet `goal` best. `prompts` is a file of
/// prompts; by default everyday ones are drawn.
pub(super) fn fit(
    plan: &mut Plan,
    source: &PublishedModel,
    goal: Goal,
    prompts: Option<&Path>,
    threads: Option<NonZeroUsize>,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    let prompts = match prompts {
        Some(path) => prompts::spread(prompts::read(path, SEED)?, PICTURES),
        None => prompts::everyday(PICTURES, SEED),
    };
    let request = |Prompt { text, seed }| Request { prompt: text, seed, ..Request::default() };
    let requests = prompts.into_iter().map(request).collect();
    let files =
        PRECISIONS.map(|precision| reference::convert(source, precision, &model::on_cpu(threads), watch));
    let files = files.into_iter().collect::<Result<Vec<_>, Error>>()?;
    let versions = Versions { files, requests };
    let layers = versions.measure(source, watch)?;
    let moves = choose::moves(&layers);
    let count = match goal {
        Goal::Size(limit) => fewest_moves(&layers, &moves, versions.files[0].bytes as usize, limit)?,
        Goal::Psnr(target) => versions.most_moves(&layers, &moves, target, watch)?,
    };
    let choices = choose::after(&layers, &moves, count);
    let chosen: HashMap<&str, WeightType> = layers
        .iter()
        .zip(&choices)
        .map(|(layer, choice)| (layer.name.as_str(), choice.weight_type))
        .collect();
    for part in &mut plan.parts {
        for weight in &mut part.weights {
            let name = format!("{}.{}", part.component, weight.spec.name);
            if let Some(&weight_type) = chosen.get(name.as_str()) {
                weight.weight_type = weight_type;
            }
        }
    }
    plan.quantization = choices.iter().any(|choice| choice.weight_type.is_quantized()).then(|| {
        let recipes = plan.parts.iter().map(|part| format!("{}: chosen", part.component)).collect();
        Quantization { recipes, rules: Vec::new(), calibration_prompts: 0 }
    });
    Ok(())
}

/// The number of moves that bring a file that has `f16_bytes` in f16 below `limit`.
fn fewest_moves(layers: &[Layer], moves: &[Move], f16_bytes: usize, limit: usize) -> Result<usize, Error> {
    let first = |layer: &Layer| layer.choices[0].bytes;
    let best: usize = choose::best(layers).iter().map(|choice| choice.bytes).sum();
    let bytes = f16_bytes + best - layers.iter().map(first).sum::<usize>();
    let fewest = choose::moves_to_fit(moves, bytes, limit);
    fewest.ok_or_else(|| {
        let least = bytes - moves.iter().map(|step| step.saved).sum::<usize>();
        let [limit, least] = [limit, least].map(|bytes| bytes as f64 / 1e6);
        let problem = format!("{limit} MB is too small; the model takes at least {least:.1} MB");
        Error::Option { option: "max-size", problem }
    })
}

/// The same model in each of [`PRECISIONS`], and the requests for measurements.
struct Versions {
    files: Vec<Reference>,
    requests: Vec<Request>,
}

impl Versions {
    /// All weights that have several types, with the effect of each type. Errors of single weights are scaled
    /// to mean squared errors of pictures, in units of 255, by the ratio of both for the whole component.
    fn measure(&self, source: &PublishedModel, watch: &mut Watch<'_>) -> Result<Vec<Layer>, Error> {
        let weights = checkpoint::describe(source)?.rated_weights();
        let total = weights.iter().map(|(_, specs)| specs.len()).sum::<usize>();
        let cancel = watch.cancel().clone();
        let base = &self.files[0].pipeline;
        let probe = Probe::new(base, &self.requests[0], POINTS, &mut |_| cancel.check())?;
        let (mut all, mut done) = (Vec::new(), 0);
        for (component, specs) in weights {
            let mut layers = Vec::new();
            for (spec, sensitivity) in &specs {
                let mut layer = Layer { name: format!("{component}.{}", spec.name), choices: Vec::new() };
                for (version, precision) in PRECISIONS.into_iter().enumerate() {
                    let weight_type = precision.weight_type(spec, *sensitivity);
                    if layer.choices.iter().any(|choice| choice.weight_type == weight_type) {
                        continue;
                    }
                    let overlaid = self.overlaid([(version, layer.name.clone())])?;
                    let error = if version == 0 { 0.0 } else { probe.error(&overlaid, component)? };
                    let bytes = stored_bytes(spec, weight_type);
                    layer.choices.push(Choice { weight_type, version, bytes, error });
                }
                // Weights that have no effect on the picture, such as those of the VAE's encoder, cannot be
                // measured; q8 keeps them usable for other purposes.
                if layer.choices.iter().all(|choice| choice.error == 0.0) {
                    layer.choices.retain(|choice| choice.weight_type != WeightType::Q4);
                }
                if layer.choices.len() > 1 {
                    layers.push(layer);
                }
                done += 1;
                watch.progress(Task::Measuring, done, total as u64);
                if cancel.is_cancelled() {
                    let (step, steps) = (done as usize, total);
                    return Err(sdq_engine::Error::Cancelled { step, steps }.into());
                }
            }
            self.scale(&mut layers, watch)?;
            all.extend(layers);
        }
        watch.tell(Event::TaskEnded);
        Ok(all)
    }

    /// Scales the errors of a component's `layers` so that those of the smallest choices add up to the mean
    /// squared error of pictures that they cause together.
    fn scale(&self, layers: &mut [Layer], watch: &Watch<'_>) -> Result<(), Error> {
        let smallest = |layer: &Layer| layer.choices[layer.choices.len() - 1];
        let sum: f64 = layers.iter().map(|layer| smallest(layer).error).sum();
        if sum == 0.0 {
            return Ok(());
        }
        let overlaid =
            self.overlaid(layers.iter().map(|layer| (smallest(layer).version, layer.name.clone())))?;
        let errors =
            self.psnr(&overlaid, watch)?.into_iter().map(|psnr| 255.0 * 255.0 / 10_f64.powf(psnr / 10.0));
        let scale = errors.sum::<f64>() / self.requests.len() as f64 / sum;
        layers.iter_mut().flat_map(|layer| &mut layer.choices).for_each(|choice| choice.error *= scale);
        Ok(())
    }

    /// The maximum number of moves after which the median similarity is still `target` decibels, assuming
    /// that it decreases with every move.
    fn most_moves(
        &self,
        layers: &[Layer],
        moves: &[Move],
        target: f64,
        watch: &mut Watch<'_>,
    ) -> Result<usize, Error> {
        let (mut near, mut far) = (0, moves.len() + 1);
        while far - near > 1 {
            let middle = near.midpoint(far);
            let choices = choose::after(layers, moves, middle);
            let names =
                layers.iter().zip(&choices).map(|(layer, choice)| (choice.version, layer.name.clone()));
            let mut found = self.psnr(&self.overlaid(names)?, watch)?;
            found.sort_by(f64::total_cmp);
            let median = found[(found.len() - 1) / 2];
            watch.note(Note::Fitting { moves: middle, of: moves.len(), psnr: median });
            if median >= target { near = middle } else { far = middle }
        }
        Ok(near)
    }

    /// The reference with each of `weights` from the version given before its name.
    fn overlaid(&self, weights: impl IntoIterator<Item = (usize, String)>) -> Result<Pipeline, Error> {
        let mut by_version = vec![HashSet::new(); self.files.len()];
        for (version, name) in weights {
            by_version[version].insert(name);
        }
        let mut overlaid = self.files[0].pipeline.clone();
        for (file, names) in self.files.iter().zip(by_version).skip(1) {
            overlaid = overlaid.with_overlay(&file.pipeline, names)?;
        }
        Ok(overlaid)
    }

    /// Similarity of the pictures of `changed` to the reference's, in decibels.
    fn psnr(&self, changed: &Pipeline, watch: &Watch<'_>) -> Result<Vec<f64>, Error> {
        let psnr = |request: &Request| {
            let found = compare(&self.files[0].pipeline, changed, request, &mut |_| watch.cancel().check())?;
            Ok(found.psnr)
        };
        self.requests.iter().map(psnr).collect()
    }
}

/// Size of a weight in a file.
fn stored_bytes(spec: &WeightSpec, weight_type: WeightType) -> usize {
    let parts = layout::stored_parts(spec, weight_type).unwrap_or_default();
    let overhead = if weight_type.is_quantized() { OVERHEAD } else { 0 };
    parts.iter().map(|part| part.bytes).sum::<usize>() + overhead
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_likenesses_are_numbers_above_zero() {
        for (megabytes, bytes) in [(1.0, 1_000_000), (0.5, 500_000), (1e-6, 1), (1717.25, 1_717_250_000)] {
            assert!(
                matches!(Goal::max_size(megabytes), Ok(Goal::Size(found)) if found == bytes),
                "{megabytes}"
            );
        }
        assert!(matches!(Goal::target_psnr(40.5), Ok(Goal::Psnr(40.5))));
        for wrong in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for (goal, option) in
                [(Goal::max_size(wrong), "max-size"), (Goal::target_psnr(wrong), "target-psnr")]
            {
                let error = goal.unwrap_err();
                let message = format!("{option}: {wrong} is not a number above 0");
                assert_eq!((error.code(), error.to_string()), ("option.invalid", message));
            }
        }
    }

    /// Layers of a file with `REST` bytes beside them.
    fn layers() -> Vec<Layer> {
        let choice = |version, weight_type, bytes, error| Choice { weight_type, version, bytes, error };
        let layer = |name: &str, errors: [f64; 3]| Layer {
            name: name.to_owned(),
            choices: vec![
                choice(0, WeightType::F16, 1_600_000, errors[0]),
                choice(1, WeightType::Q8, 900_000, errors[1]),
                choice(2, WeightType::Q4, 500_000, errors[2]),
            ],
        };
        // The first is as good in q8 as in f16, so no file uses f16 for it.
        vec![layer("a", [1.0, 1.0, 2.0]), layer("b", [0.0, 1.0, 3.0])]
    }

    const REST: usize = 300_000;

    #[test]
    fn what_is_not_chosen_counts_towards_the_size() {
        let (layers, f16_bytes) = (layers(), REST + 2 * 1_600_000);
        let moves = choose::moves(&layers);
        assert_eq!(moves.len(), 3);
        // Start with q8 and f16, then b in q8, a in q4, b in q4, by error per byte.
        for (limit, count) in [
            (REST + 2_500_000, 0),
            (REST + 2_499_999, 1),
            (REST + 1_800_000, 1),
            (REST + 1_799_999, 2),
            (REST + 1_400_000, 2),
            (REST + 1_000_000, 3),
        ] {
            assert_eq!(fewest_moves(&layers, &moves, f16_bytes, limit).unwrap(), count, "{limit}");
        }
        let error = fewest_moves(&layers, &moves, f16_bytes, REST + 999_999).unwrap_err();
        let message = "max-size: 1.299999 MB is too small; the model takes at least 1.3 MB";
        assert_eq!((error.code(), error.to_string().as_str()), ("option.invalid", message));
    }

    #[test]
    fn a_quantized_weight_is_charged_for_its_line_in_the_table() {
        let spec = WeightSpec::new("w", sdq_formats::WeightRole::Matrix, &[64, 64]);
        let parts = |weight_type| -> usize {
            layout::stored_parts(&spec, weight_type).unwrap().iter().map(|part| part.bytes).sum()
        };
        assert_eq!(stored_bytes(&spec, WeightType::F16), 2 * 64 * 64);
        for weight_type in [WeightType::Q8, WeightType::Q4] {
            assert_eq!(stored_bytes(&spec, weight_type), parts(weight_type) + OVERHEAD);
        }
    }
}
