//! The choice of a type for each weight.

use std::{fmt, str::FromStr};

use regex::Regex;
use sdq_formats::{Sensitivity, WeightRole, WeightSpec, WeightType, layout, sdq::Quantization};

use crate::convert::{Part, PlannedWeight};

/// Minimum number of input features of a matrix that is quantized: one group of q4.
const FEWEST_INPUTS: usize = 32;

/// Minimum number of output features of a matrix that is quantized: one panel.
const FEWEST_OUTPUTS: usize = 16;

/// How the weights of a component are stored: in one type, or in types chosen by the sensitivity of each
/// weight.
///
/// Vectors are f32 with every precision. With those that quantize, weights of [`Sensitivity::Extreme`] and
/// matrices of fewer than 32 inputs or 16 outputs stay f16. A table is never stored in q4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32.
    F32,
    /// f16.
    F16,
    /// q8, but f16 from [`Sensitivity::VeryHigh`] on.
    Q8,
    /// q4, but q8 from [`Sensitivity::High`] on.
    Q4,
    /// q4, but q8 from [`Sensitivity::Medium`] and f16 from [`Sensitivity::VeryHigh`] on.
    Mixed,
}

impl Precision {
    /// Every precision, in the order in which documentation and errors list them.
    pub const ALL: [Precision; 5] =
        [Precision::F32, Precision::F16, Precision::Q8, Precision::Q4, Precision::Mixed];

    /// The name used on the command line and in the file's manifest.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Q8 => "q8",
            Precision::Q4 => "q4",
            Precision::Mixed => "mixed",
        }
    }

    /// The type of a weight.
    pub fn weight_type(self, spec: &WeightSpec, sensitivity: Sensitivity) -> WeightType {
        let eight_bits_from = match self {
            _ if spec.role == WeightRole::Vector => return WeightType::F32,
            Precision::F32 => return WeightType::F32,
            Precision::F16 => return WeightType::F16,
            _ if sensitivity == Sensitivity::Extreme || is_narrow(spec) => return WeightType::F16,
            Precision::Q8 | Precision::Mixed if sensitivity >= Sensitivity::VeryHigh => {
                return WeightType::F16;
            }
            Precision::Q8 => Sensitivity::Low,
            Precision::Mixed => Sensitivity::Medium,
            Precision::Q4 => Sensitivity::High,
        };
        let four_bits = sensitivity < eight_bits_from && WeightType::Q4.stores(spec.role);
        if four_bits { WeightType::Q4 } else { WeightType::Q8 }
    }
}

/// Whether a matrix is so small that quantizing it would not save enough.
fn is_narrow(spec: &WeightSpec) -> bool {
    let dimensions = layout::matrix_dimensions(spec.role, &spec.shape);
    dimensions.is_some_and(|(n, k)| n < FEWEST_OUTPUTS || k < FEWEST_INPUTS)
}

/// An exception to the precisions: weights whose `component.weight` name matches get this type.
#[derive(Clone, Debug)]
pub struct Rule {
    pattern: Regex,
    weight_type: WeightType,
}

impl FromStr for Rule {
    type Err = RuleError;

    /// Parses `REGEX=TYPE`, such as `unet\..*\.attn2\.=q8`. The pattern may match anywhere in the name.
    fn from_str(text: &str) -> Result<Rule, RuleError> {
        let Some((pattern, name)) = text.rsplit_once('=') else {
            return Err(RuleError::Form { rule: text.to_owned() });
        };
        let Some(weight_type) = WeightType::from_name(name) else {
            let known = WeightType::ALL.map(WeightType::name).join(", ");
            return Err(RuleError::Type { rule: text.to_owned(), found: name.to_owned(), known });
        };
        let pattern = Regex::new(pattern).map_err(|error| {
            // The last line of several is the reason; the others show the position.
            let reason =
                error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            RuleError::Pattern { rule: text.to_owned(), reason }
        })?;
        Ok(Rule { pattern, weight_type })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pattern, self.weight_type.name())
    }
}

/// Errors of a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// There is no `=`.
    #[error("rule `{rule}` does not have the form REGEX=TYPE, such as `attn2=q8`")]
    Form {
        /// The rule.
        rule: String,
    },
    /// The type is not a weight type.
    #[error("rule `{rule}` has type `{found}`, expected one of {known}")]
    Type {
        /// The rule.
        rule: String,
        /// The type in the rule.
        found: String,
        /// The valid types.
        known: String,
    },
    /// The pattern is not a valid regular expression.
    #[error("rule `{rule}` has no valid regular expression before `=`: {reason}")]
    Pattern {
        /// The rule.
        rule: String,
        /// The reason.
        reason: String,
    },
    /// The rule matches no weight, or only biases, norm scales and shifts, which are always f32.
    #[error("rule `{rule}` matches no matrix, convolution or table of the model")]
    NoMatch {
        /// The rule.
        rule: String,
    },
    /// The weight's role is never stored in that type.
    #[error(
        "rule `{rule}` matches `{weight}`, a {role}, which is never stored as {found}",
        role = role.name(), found = found.name()
    )]
    NotStored {
        /// The rule.
        rule: String,
        /// The first such weight, with its component.
        weight: String,
        /// Its role.
        role: WeightRole,
        /// The type of the rule.
        found: WeightType,
    },
}

/// The plan of a conversion.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Its components, in file order.
    pub parts: Vec<Part>,
    /// How types were chosen; `None` if nothing is quantized.
    pub quantization: Option<Quantization>,
}

/// Gives every weight of every component (name, weights in reading order with their sensitivities, precision)
/// its type: that of the first of `rules` that matches, otherwise that of the precision. Vectors are always
/// f32.
///
/// # Errors
/// When a rule matches no weight other than vectors, or one that cannot be stored in its type.
pub fn plan(
    components: impl IntoIterator<Item = (&'static str, Vec<(WeightSpec, Sensitivity)>, Precision)>,
    rules: &[Rule],
) -> Result<Plan, RuleError> {
    let mut used = vec![false; rules.len()];
    let (mut parts, mut recipes) = (Vec::new(), Vec::new());
    for (component, specs, precision) in components {
        let mut weights = Vec::with_capacity(specs.len());
        for (spec, sensitivity) in specs {
            let by_precision = precision.weight_type(&spec, sensitivity);
            let by_rule = by_rules(component, &spec, rules, &mut used)?;
            weights.push(PlannedWeight {
                spec,
                weight_type: by_rule.unwrap_or(by_precision),
                importance: None,
            });
        }
        recipes.push(format!("{component}: {}", precision.name()));
        parts.push(Part { component: component.to_owned(), weights });
    }
    if let Some(index) = used.iter().position(|used| !used) {
        return Err(RuleError::NoMatch { rule: rules[index].to_string() });
    }
    let quantized =
        parts.iter().flat_map(|part| &part.weights).any(|weight| weight.weight_type.is_quantized());
    let quantization = quantized.then(|| Quantization {
        recipes,
        rules: rules.iter().map(Rule::to_string).collect(),
        calibration_prompts: 0,
    });
    Ok(Plan { parts, quantization })
}

/// The type according to the first rule that matches. Marks in `used` every rule that matches.
fn by_rules(
    component: &str,
    spec: &WeightSpec,
    rules: &[Rule],
    used: &mut [bool],
) -> Result<Option<WeightType>, RuleError> {
    if spec.role == WeightRole::Vector {
        return Ok(None);
    }
    let name = format!("{component}.{}", spec.name);
    let mut first = None;
    for (rule, used) in rules.iter().zip(used) {
        if rule.pattern.is_match(&name) {
            *used = true;
            first = first.or(Some(rule));
        }
    }
    match first {
        Some(rule) if !rule.weight_type.stores(spec.role) => Err(RuleError::NotStored {
            rule: rule.to_string(),
            weight: name,
            role: spec.role,
            found: rule.weight_type,
        }),
        _ => Ok(first.map(|rule| rule.weight_type)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(name: &str) -> WeightSpec {
        WeightSpec::new(name, WeightRole::Matrix, &[64, 64])
    }

    /// Types of one weight with q8, q4 and mixed.
    fn types(spec: &WeightSpec, sensitivity: Sensitivity) -> [&'static str; 3] {
        [Precision::Q8, Precision::Q4, Precision::Mixed]
            .map(|precision| precision.weight_type(spec, sensitivity).name())
    }

    #[test]
    fn the_more_sensitive_a_weight_the_more_bits_it_keeps() {
        for (sensitivity, expected) in [
            (Sensitivity::Low, ["q8", "q4", "q4"]),
            (Sensitivity::Medium, ["q8", "q4", "q8"]),
            (Sensitivity::High, ["q8", "q8", "q8"]),
            (Sensitivity::VeryHigh, ["f16", "q8", "f16"]),
            (Sensitivity::Extreme, ["f16", "f16", "f16"]),
        ] {
            assert_eq!(types(&matrix("w"), sensitivity), expected, "{sensitivity:?}");
        }
    }

    #[test]
    fn vectors_tables_and_narrow_matrices_have_bounds_of_their_own() {
        let weight = |role, shape: &[usize]| types(&WeightSpec::new("w", role, shape), Sensitivity::Low);
        assert_eq!(weight(WeightRole::Vector, &[64]), ["f32"; 3]);
        assert_eq!(weight(WeightRole::Table, &[100, 64]), ["q8"; 3]);
        assert_eq!(weight(WeightRole::Matrix, &[64, 31]), ["f16"; 3]);
        assert_eq!(weight(WeightRole::Matrix, &[15, 64]), ["f16"; 3]);
        assert_eq!(weight(WeightRole::Matrix, &[16, 32]), ["q8", "q4", "q4"]);
    }

    fn plan_with(rules: &[&str], precision: Precision) -> Result<Plan, RuleError> {
        let rules = rules.iter().map(|rule| rule.parse()).collect::<Result<Vec<Rule>, _>>()?;
        let weights = vec![
            matrix("attn1.to_q.weight"),
            WeightSpec::new("attn1.to_q.bias", WeightRole::Vector, &[64]),
            matrix("attn2.to_q.weight"),
            WeightSpec::new("embedding.weight", WeightRole::Table, &[4, 64]),
        ];
        let weights = weights.into_iter().map(|spec| (spec, Sensitivity::Low)).collect();
        plan([("unet", weights, precision)], &rules)
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let plan = plan_with(&["attn1=q8", "^unet\\.attn.*to_q=f32"], Precision::Q4).unwrap();
        let types: Vec<&str> = plan.parts[0].weights.iter().map(|weight| weight.weight_type.name()).collect();
        assert_eq!(types, ["q8", "f32", "f32", "q8"]);
        let quantization = plan.quantization.unwrap();
        assert_eq!(quantization.recipes, ["unet: q4"]);
        assert_eq!(quantization.rules, ["attn1=q8", "^unet\\.attn.*to_q=f32"]);
        assert_eq!(plan_with(&["attn1=f32"], Precision::F16).unwrap().quantization, None);
        assert!(plan_with(&["attn1=q8"], Precision::F16).unwrap().quantization.is_some());
    }

    #[test]
    fn rules_that_cannot_be_followed_are_named() {
        for (rule, expected) in [
            ("attn1", "rule `attn1` does not have the form REGEX=TYPE, such as `attn2=q8`"),
            ("attn1=q5", "rule `attn1=q5` has type `q5`, expected one of f32, f16, q8, q4"),
            ("a(=q8", "rule `a(=q8` has no valid regular expression before `=`: unclosed group"),
            ("attn3=q8", "rule `attn3=q8` matches no matrix, convolution or table of the model"),
            ("bias=q8", "rule `bias=q8` matches no matrix, convolution or table of the model"),
            (
                "unet=q4",
                "rule `unet=q4` matches `unet.embedding.weight`, a table, which is never stored as q4",
            ),
        ] {
            assert_eq!(plan_with(&[rule], Precision::Q8).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_convolution_is_narrow_by_its_taps_times_channels() {
        let weight = |role, shape: &[usize]| types(&WeightSpec::new("w", role, shape), Sensitivity::Low);
        // 27 and 36 columns: three and four channels under nine taps.
        assert_eq!(weight(WeightRole::Conv, &[64, 3, 3, 3]), ["f16"; 3]);
        assert_eq!(weight(WeightRole::Conv, &[64, 4, 3, 3]), ["q8", "q4", "q4"]);
        assert_eq!(weight(WeightRole::Conv, &[15, 64, 1, 1]), ["f16"; 3]);
        assert_eq!(weight(WeightRole::Conv, &[16, 32, 1, 1]), ["q8", "q4", "q4"]);
        // A table has no panels, so any width is allowed.
        assert_eq!(weight(WeightRole::Table, &[1, 1]), ["q8"; 3]);
    }

    #[test]
    fn precisions_that_only_round_round_everything_but_vectors() {
        let sensitivities = [Sensitivity::Low, Sensitivity::VeryHigh, Sensitivity::Extreme];
        for sensitivity in sensitivities {
            for role in WeightRole::ALL {
                let shape: &[usize] = match role {
                    WeightRole::Vector => &[2],
                    WeightRole::Table | WeightRole::Matrix => &[2, 2],
                    WeightRole::Conv => &[2, 2, 1, 1],
                };
                let spec = WeightSpec::new("w", role, shape);
                let [f32, f16] =
                    [Precision::F32, Precision::F16].map(|it| it.weight_type(&spec, sensitivity));
                assert_eq!(f32, WeightType::F32);
                let halved = if role == WeightRole::Vector { WeightType::F32 } else { WeightType::F16 };
                assert_eq!(f16, halved, "{role:?}");
            }
        }
    }

    #[test]
    fn no_precision_gives_a_role_a_type_that_it_is_not_stored_in() {
        let sensitivities = [
            Sensitivity::Low,
            Sensitivity::Medium,
            Sensitivity::High,
            Sensitivity::VeryHigh,
            Sensitivity::Extreme,
        ];
        for role in WeightRole::ALL {
            for (precision, sensitivity) in
                Precision::ALL.into_iter().flat_map(|precision| sensitivities.map(|s| (precision, s)))
            {
                let spec =
                    WeightSpec::new("w", role, &[64; 4][..if role == WeightRole::Conv { 4 } else { 2 }]);
                let weight_type = precision.weight_type(&spec, sensitivity);
                assert!(weight_type.stores(role), "{role:?} {precision:?} {sensitivity:?}");
            }
        }
    }

    #[test]
    fn a_rule_is_cut_at_its_last_equals_sign_and_written_as_it_was_read() {
        let rule: Rule = "a=b=q8".parse().unwrap();
        assert_eq!((rule.pattern.as_str(), rule.weight_type), ("a=b", WeightType::Q8));
        for text in ["attn2=f16", "^unet\\.a|b$=q4", "=f32"] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_rule_that_counts_is_the_first_whatever_the_later_ones_are() {
        // The later rule would be invalid, but it never applies; in the other order it does.
        let plan = plan_with(&["embedding=q8", "embedding=q4"], Precision::F16).unwrap();
        assert_eq!(plan.parts[0].weights[3].weight_type, WeightType::Q8);
        let error = plan_with(&["embedding=q4", "embedding=q8"], Precision::F16).unwrap_err();
        assert!(matches!(error, RuleError::NotStored { found: WeightType::Q4, .. }), "{error}");
        // A rule that is never the first to match is still valid.
        assert!(plan_with(&["attn=q8", "attn1=q4"], Precision::F16).is_ok());
    }
}
