//! The types of a file's weights, and the errors of storing them.

use std::collections::BTreeMap;

use sdq_formats::sdq::{Component, SdqFile, Weight};
use serde_json::{Map, Value, json};

/// Maximum number of layers with large errors that are listed.
const LISTED: usize = 10;

/// Sums over the weights of one type.
#[derive(Default)]
struct Sum {
    tensors: usize,
    parameters: usize,
    bytes: usize,
    /// Sum of squared relative errors times parameters, over weights with a known error.
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

/// A component's weights by type. The relative error is the root mean square of the weights' own errors,
/// weighted by their numbers of parameters. `whole`: with every weight separately.
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

/// The weights with the largest errors, the largest first.
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

/// Rounded to a hundredth of a bit.
fn bits_per_weight(bytes: usize, parameters: usize) -> Value {
    ((bytes as f64 * 800.0 / parameters as f64).round() / 100.0).into()
}

/// Rounded to four decimal places, which is more than sufficient.
fn rounded(error: f64) -> Value {
    ((error * 1e4).round() / 1e4).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_rounded_to_what_one_cares_about() {
        for (bytes, parameters, bits) in
            [(1, 1, 8.0), (1, 3, 2.67), (9, 16, 4.5), (0, 7, 0.0), (1001, 2000, 4.0)]
        {
            assert_eq!(bits_per_weight(bytes, parameters), json!(bits), "{bytes} bytes of {parameters}");
        }
        for (error, shown) in [(0.0, 0.0), (0.123_449, 0.1234), (0.123_45, 0.1235), (4e-5, 0.0), (1.0, 1.0)] {
            assert_eq!(rounded(error), json!(shown));
        }
    }

    #[test]
    fn errors_of_weights_count_as_often_as_they_have_parameters() {
        // 300 parameters at 0.1 and 100 at 0.5: √((300 · 0.01 + 100 · 0.25) / 400) = √0.07.
        let sum = Sum {
            tensors: 3,
            parameters: 500,
            bytes: 250,
            squared_errors: 300.0 * 0.01 + 100.0 * 0.25,
            measured: 400,
        };
        let expected = json!({
            "tensors": 3, "parameters": 500, "bytes": 250, "bits_per_weight": 4.0, "relative_error": 0.2646,
        });
        assert_eq!(sum.describe(), expected);
        let unmeasured = Sum { measured: 0, squared_errors: 0.0, ..sum };
        assert_eq!(unmeasured.describe().get("relative_error"), None);
    }
}
