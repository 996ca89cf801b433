//! What a file's weights are stored as, and what that cost.

use std::collections::BTreeMap;

use sdq_formats::sdq::{Component, SdqFile, Weight};
use serde_json::{Map, Value, json};

/// Layers with large errors that are listed.
const LISTED: usize = 10;

/// Sums over the weights of one type.
#[derive(Default)]
struct Sum {
    tensors: usize,
    parameters: usize,
    bytes: usize,
    /// Squared relative errors times parameters, over weights whose error is known.
    squared_errors: f64,
    measured: usize,
}

impl Sum {
    fn add(&mut self, weight: &Weight<'_>) {
        let parameters = parameters(weight);
        self.tensors += 1;
        self.parameters += parameters;
        self.bytes += weight.stored_bytes();
        if let Some(error) = weight.relative_error() {
            self.squared_errors += error * error * parameters as f64;
            self.measured += parameters;
        }
    }

    fn describe(&self) -> Value {
        let Sum { tensors, parameters, bytes, squared_errors, measured } = self;
        let bits = bits_per_weight(*bytes, *parameters);
        let mut sum = json!({
            "tensors": tensors, "parameters": parameters, "bytes": bytes, "bits_per_weight": bits,
        });
        if *measured > 0 {
            sum["relative_error"] = rounded((squared_errors / *measured as f64).sqrt());
        }
        sum
    }
}

/// A component's weights by their type. The relative error is the root mean square of the weights' own, each counted
/// as often as it has parameters. `whole`: with every weight on its own.
pub(super) fn by_type(component: &Component<'_>, whole: bool) -> Value {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for weight in component.weights() {
        sums.entry(weight.weight_type.name()).or_default().add(&weight);
    }
    let mut types: Map<String, Value> =
        sums.into_iter().map(|(name, sum)| (name.to_owned(), sum.describe())).collect();
    if whole {
        types.insert("weights".to_owned(), component.weights().map(|weight| describe(&weight)).collect());
    }
    types.into()
}

fn describe(weight: &Weight<'_>) -> Value {
    let mut described = json!({
        "name": weight.spec.name,
        "role": weight.spec.role.name(),
        "shape": weight.spec.shape,
        "type": weight.weight_type.name(),
        "bytes": weight.stored_bytes(),
        "bits_per_weight": bits_per_weight(weight.stored_bytes(), parameters(weight)),
    });
    if let Some(error) = weight.relative_error() {
        described["relative_error"] = rounded(error);
    }
    described
}

/// The weights that lost most, the worst first.
pub(super) fn largest_errors(file: &SdqFile) -> Vec<Value> {
    let mut errors: Vec<(f64, String, &str)> = Vec::new();
    for component in file.components() {
        for weight in component.weights() {
            if let Some(error) = weight.relative_error() {
                let name = format!("{}.{}", component.name(), weight.spec.name);
                errors.push((error, name, weight.weight_type.name()));
            }
        }
    }
    errors.sort_by(|(one, ..), (other, ..)| other.total_cmp(one));
    errors.truncate(LISTED);
    errors
        .into_iter()
        .map(|(error, name, weight_type)| {
            json!({ "relative_error": rounded(error), "type": weight_type, "name": name })
        })
        .collect()
}

fn parameters(weight: &Weight<'_>) -> usize {
    weight.spec.shape.iter().product()
}

/// To a hundredth of a bit.
fn bits_per_weight(bytes: usize, parameters: usize) -> Value {
    ((bytes as f64 * 800.0 / parameters as f64).round() / 100.0).into()
}

/// To four digits behind the point, which is more than one cares about.
fn rounded(error: f64) -> Value {
    ((error * 1e4).round() / 1e4).into()
}
