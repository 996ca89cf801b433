//! Describes a published model in words.

use std::{collections::BTreeMap, fmt::Write as _};

use sdq_engine::{
    families::{Certainty, Prediction, Skipped, Training},
    published::PublishedModel,
};
use sdq_formats::layout;
use sdq_quantize::Plan;

use crate::{Note, Watch};

/// Maximum number of names of a kind that are listed.
const LISTED: usize = 5;

/// Reports properties that were derived from a file that does not contain them.
pub(super) fn note_choices(model: &PublishedModel, watch: &mut Watch<'_>) {
    if let (Some(family), Some(training)) = (model.family(), model.training()) {
        watch.note(Note::Recognised {
            path: model.path().to_owned(),
            family: family.name(),
            class_name: model.class_name().to_owned(),
        });
        watch.note(Note::Predicts(prediction(&training)));
    }
    for remark in model.remarks() {
        watch.note(Note::Remark(remark.to_string()));
    }
    for (why, names) in skipped(model) {
        let listed = match why {
            Skipped::Unknown => names.iter().take(LISTED).map(|name| (*name).to_owned()).collect(),
            Skipped::Ema | Skipped::Training | Skipped::Mark => Vec::new(),
        };
        watch.note(Note::LeftOut {
            count: names.len(),
            why: why.name(),
            names: listed,
            more: names.len().saturating_sub(LISTED),
        });
    }
}

/// Names of tensors that are not converted, by the reason.
pub fn skipped(model: &PublishedModel) -> BTreeMap<Skipped, Vec<&str>> {
    let mut skipped: BTreeMap<Skipped, Vec<&str>> = BTreeMap::new();
    for (why, name) in model.skipped() {
        skipped.entry(*why).or_default().push(name);
    }
    skipped
}

/// Describes the prediction of a model, and how it is known.
pub fn prediction(training: &Training) -> String {
    let what = match training.prediction {
        Prediction::Epsilon => "noise (epsilon)",
        Prediction::V => "velocity (v)",
        Prediction::Sample => "the picture",
    };
    let how = match training.certainty {
        Certainty::Given => "as asked",
        Certainty::Marked => "as the file says",
        Certainty::Family => "as its family does",
        Certainty::Measured => "as one evaluation shows",
        Certainty::Guess if training.prediction == Prediction::Epsilon => {
            "or velocity, because the file does not say"
        }
        Certainty::Guess => "or noise, because the file does not say",
    };
    let schedule = if training.zero_snr { ", with zero terminal SNR" } else { "" };
    format!("{what}, {how}{schedule}")
}

/// Every component of `plan` with its weights by type, and the size of the file.
pub fn plan(plan: &Plan) -> String {
    let mut text = String::new();
    let mut total = 0;
    for part in &plan.parts {
        let mut types: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
        for weight in &part.weights {
            let stored = layout::stored_parts(&weight.spec, weight.weight_type).unwrap_or_default();
            let sum = types.entry(weight.weight_type.name()).or_default();
            sum.0 += 1;
            sum.1 += weight.spec.shape.iter().product::<usize>();
            sum.2 += stored.iter().map(|part| part.bytes).sum::<usize>();
        }
        let parameters: usize = types.values().map(|(_, parameters, _)| parameters).sum();
        let _ = writeln!(text, "{}: {:.1} M parameters", part.component, parameters as f64 / 1e6);
        for (name, (tensors, parameters, bytes)) in types {
            total += bytes;
            let (millions, megabytes) = (parameters as f64 / 1e6, bytes as f64 / 1e6);
            let _ =
                writeln!(text, "  {name}: {tensors} tensors, {millions:.2} M parameters, {megabytes:.2} MB");
        }
    }
    let _ = writeln!(text, "in all: {:.1} MB of weights", total as f64 / 1e6);
    text
}

#[cfg(test)]
mod tests {
    use sdq_formats::{Sensitivity, WeightRole, WeightSpec};
    use sdq_quantize::Precision;

    use super::*;

    #[test]
    fn a_prediction_says_what_and_how_that_is_known() {
        let training = |prediction, certainty, zero_snr| Training { prediction, certainty, zero_snr };
        for (training, words) in [
            (training(Prediction::Epsilon, Certainty::Given, false), "noise (epsilon), as asked"),
            (training(Prediction::V, Certainty::Family, false), "velocity (v), as its family does"),
            (
                training(Prediction::Sample, Certainty::Measured, false),
                "the picture, as one evaluation shows",
            ),
            (
                training(Prediction::V, Certainty::Guess, false),
                "velocity (v), or noise, because the file does not say",
            ),
            (
                training(Prediction::Epsilon, Certainty::Guess, false),
                "noise (epsilon), or velocity, because the file does not say",
            ),
            (
                training(Prediction::V, Certainty::Marked, true),
                "velocity (v), as the file says, with zero terminal SNR",
            ),
        ] {
            assert_eq!(prediction(&training), words);
        }
    }

    #[test]
    fn a_plan_is_told_by_component_and_type() {
        let spec = |name: &str, role, shape: &[usize]| (WeightSpec::new(name, role, shape), Sensitivity::Low);
        let matrix = |rows: usize| spec("matrix", WeightRole::Matrix, &[rows, 1000]);
        let bias = || spec("bias", WeightRole::Vector, &[50_000]);
        let components = [
            ("unet", vec![matrix(512), matrix(1024), bias()], Precision::F16),
            ("vae", vec![matrix(64)], Precision::F32),
        ];
        let text = plan(&sdq_quantize::plan(components, &[]).unwrap());
        // f16 takes two bytes, f32, the type of all vectors, takes four. The numbers of rows are multiples of
        // a panel, so there is no padding.
        let expected = "unet: 1.6 M parameters\n  f16: 2 tensors, 1.54 M parameters, 3.07 MB\n  \
            f32: 1 tensors, 0.05 M parameters, 0.20 MB\nvae: 0.1 M parameters\n  \
            f32: 1 tensors, 0.06 M parameters, 0.26 MB\nin all: 3.5 MB of weights\n";
        assert_eq!(text, expected);
    }
}
