//! `sdq convert --max-size` and `--target-psnr`: types from what each weight's type does to this model.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    path::Path,
};

use sdq_engine::{
    Pipeline, Request,
    pipeline::{Probe, compare},
};
use sdq_formats::{WeightSpec, WeightType, layout, published::PublishedModel, sdq::Quantization};
use sdq_quantize::{Plan, Recipe};

use crate::{
    UsageError,
    args::ConvertArgs,
    checkpoint,
    choose::{self, Choice, Layer, Move},
    interrupt,
    progress::Progress,
    prompts::{self, Prompt},
    reference::{self, Reference},
};

/// The files whose weights are chosen from, the reference first.
const RECIPES: [Recipe; 3] = [Recipe::F16, Recipe::Q8, Recipe::Q4];
/// Evaluations of the U-Net that a weight is judged by.
const POINTS: usize = 3;
/// Pictures that a whole choice is judged by.
const PICTURES: usize = 5;
/// Of the first picture.
const SEED: u64 = 42;
/// What a quantized weight takes in a file beside its elements: alignment, its longer line in the table of contents.
const OVERHEAD: usize = 512;

/// What the file is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// At most so many bytes.
    Size(usize),
    /// Half of the pictures at least so near to those of f16, in decibels.
    Psnr(f64),
}

/// What the flags ask for.
pub(crate) fn goal(args: &ConvertArgs) -> anyhow::Result<Option<Goal>> {
    let positive = |flag: &str, value: f64| match value.is_finite() && value > 0.0 {
        true => Ok(value),
        false => Err(UsageError(format!("{flag}: {value} is not a number above 0"))),
    };
    Ok(match (args.max_size, args.target_psnr) {
        (Some(megabytes), _) => Some(Goal::Size((positive("--max-size", megabytes)? * 1e6) as usize)),
        (None, Some(target)) => Some(Goal::Psnr(positive("--target-psnr", target)?)),
        (None, None) => None,
    })
}

/// Changes the types in `plan`, which is all f16, to those that meet `goal` best. `prompts` names a file of prompts,
/// else everyday ones are drawn.
pub(crate) fn fit(
    plan: &mut Plan,
    source: &PublishedModel,
    goal: Goal,
    prompts: Option<&Path>,
    threads: Option<NonZeroUsize>,
) -> anyhow::Result<()> {
    let prompts = match prompts {
        Some(path) => prompts::spread(prompts::read(path, SEED)?, PICTURES),
        None => prompts::everyday(PICTURES, SEED),
    };
    let request = |Prompt { text, seed }| Request { prompt: text, seed, ..Request::default() };
    let requests = prompts.into_iter().map(request).collect();
    let files = RECIPES.map(|recipe| reference::convert(source, recipe, &crate::model::on_cpu(threads)));
    let files = files.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let versions = Versions { files, requests };
    let layers = versions.measure(source)?;
    let moves = choose::moves(&layers);
    let count = match goal {
        Goal::Size(limit) => fewest_moves(&layers, &moves, versions.files[0].bytes as usize, limit)?,
        Goal::Psnr(target) => versions.most_moves(&layers, &moves, target)?,
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

/// How many moves bring a file that has `f16_bytes` in f16 below `limit`.
fn fewest_moves(layers: &[Layer], moves: &[Move], f16_bytes: usize, limit: usize) -> anyhow::Result<usize> {
    let first = |layer: &Layer| layer.choices[0].bytes;
    let best: usize = choose::best(layers).iter().map(|choice| choice.bytes).sum();
    let bytes = f16_bytes + best - layers.iter().map(first).sum::<usize>();
    let fewest = choose::moves_to_fit(moves, bytes, limit);
    Ok(fewest.ok_or_else(|| {
        let least = bytes - moves.iter().map(|step| step.saved).sum::<usize>();
        let [limit, least] = [limit, least].map(|bytes| bytes as f64 / 1e6);
        UsageError(format!("--max-size: {limit} MB is too small; this model takes {least:.1} MB at least"))
    })?)
}

/// The same model in each of [`RECIPES`], and what to draw with it.
struct Versions {
    files: Vec<Reference>,
    requests: Vec<Request>,
}

impl Versions {
    /// All weights that have several types, with what each type does. Errors of single weights become mean squared
    /// errors of pictures, in units of 255, by what the whole component does to both.
    fn measure(&self, source: &PublishedModel) -> anyhow::Result<Vec<Layer>> {
        let weights = checkpoint::describe(source)?.weights();
        let total = weights.iter().map(|(_, specs)| specs.len()).sum::<usize>();
        let mut progress = Progress::new("weight", total as u64);
        let base = &self.files[0].pipeline;
        let probe = Probe::new(base, &self.requests[0], POINTS, &mut |_| interrupt::check())?;
        let (mut all, mut done) = (Vec::new(), 0);
        for (component, specs) in weights {
            let types = RECIPES.map(|recipe| recipe.types(component, &specs));
            let mut layers = Vec::new();
            for (index, spec) in specs.iter().enumerate() {
                let mut layer = Layer { name: format!("{component}.{}", spec.name), choices: Vec::new() };
                for (version, types) in types.iter().enumerate() {
                    let weight_type = types[index];
                    if layer.choices.iter().any(|choice| choice.weight_type == weight_type) {
                        continue;
                    }
                    let overlaid = self.overlaid([(version, layer.name.clone())])?;
                    let error = if version == 0 { 0.0 } else { probe.error(&overlaid, component)? };
                    let bytes = stored_bytes(spec, weight_type);
                    layer.choices.push(Choice { weight_type, version, bytes, error });
                }
                // What draws nothing, as the VAE's encoder, cannot be measured; q8 keeps it fit for other uses.
                if layer.choices.iter().all(|choice| choice.error == 0.0) {
                    layer.choices.retain(|choice| choice.weight_type != WeightType::Q4);
                }
                if layer.choices.len() > 1 {
                    layers.push(layer);
                }
                done += 1;
                progress.set(done, "measuring");
                if interrupt::check().is_break() {
                    let (step, steps) = (done as usize, total);
                    return Err(sdq_engine::Error::Cancelled { step, steps }.into());
                }
            }
            self.scale(&mut layers)?;
            all.extend(layers);
        }
        progress.finish();
        Ok(all)
    }

    /// Scales the errors of a component's `layers` so that those of the smallest choices add up to the mean squared
    /// error of pictures that they make together.
    fn scale(&self, layers: &mut [Layer]) -> anyhow::Result<()> {
        let smallest = |layer: &Layer| layer.choices[layer.choices.len() - 1];
        let sum: f64 = layers.iter().map(|layer| smallest(layer).error).sum();
        if sum == 0.0 {
            return Ok(());
        }
        let overlaid =
            self.overlaid(layers.iter().map(|layer| (smallest(layer).version, layer.name.clone())))?;
        let errors = self.psnr(&overlaid)?.into_iter().map(|psnr| 255.0 * 255.0 / 10_f64.powf(psnr / 10.0));
        let scale = errors.sum::<f64>() / self.requests.len() as f64 / sum;
        layers.iter_mut().flat_map(|layer| &mut layer.choices).for_each(|choice| choice.error *= scale);
        Ok(())
    }

    /// The most moves after which the median picture is still `target` decibels near, as far as that falls with every
    /// move.
    fn most_moves(&self, layers: &[Layer], moves: &[Move], target: f64) -> anyhow::Result<usize> {
        let (mut near, mut far) = (0, moves.len() + 1);
        while far - near > 1 {
            let middle = near.midpoint(far);
            let choices = choose::after(layers, moves, middle);
            let names =
                layers.iter().zip(&choices).map(|(layer, choice)| (choice.version, layer.name.clone()));
            let mut found = self.psnr(&self.overlaid(names)?)?;
            found.sort_by(f64::total_cmp);
            let median = found[(found.len() - 1) / 2];
            note!("{middle} of {} moves towards the smallest file: {median:.1} dB", moves.len());
            if median >= target { near = middle } else { far = middle }
        }
        Ok(near)
    }

    /// The reference with each of `weights` from the version beside its name.
    fn overlaid(&self, weights: impl IntoIterator<Item = (usize, String)>) -> anyhow::Result<Pipeline> {
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

    /// How near the pictures of `changed` come to the reference's, in decibels.
    fn psnr(&self, changed: &Pipeline) -> anyhow::Result<Vec<f64>> {
        let psnr = |request: &Request| {
            let found = compare(&self.files[0].pipeline, changed, request, &mut |_| interrupt::check())?;
            Ok(found.psnr)
        };
        self.requests.iter().map(psnr).collect()
    }
}

/// What a weight takes in a file.
fn stored_bytes(spec: &WeightSpec, weight_type: WeightType) -> usize {
    let parts = layout::stored_parts(spec, weight_type).unwrap_or_default();
    let overhead = if weight_type.is_quantized() { OVERHEAD } else { 0 };
    parts.iter().map(|part| part.bytes).sum::<usize>() + overhead
}
