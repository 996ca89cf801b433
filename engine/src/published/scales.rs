//! Weights in 8-bit floats with scales: `X.weight` has to be multiplied by `X.scale_weight`, in newer files
//! `X.weight_scale`.

use std::collections::BTreeMap;

use sdq_formats::tensor::TensorView;
use serde_json::Value;

use crate::models::naming::LayoutProblem;

/// Names of the scale of `X.weight`, after `X`.
const SCALES: [&str; 2] = ["scale_weight", "weight_scale"];

/// Scales of activations, for products in 8 bits. They are not needed here.
const UNREAD: [&str; 2] = ["scale_input", "input_scale"];

/// Name of the marker in files with such weights.
const MARKER: &str = "scaled_fp8";

/// Name of the tensor that contains a layer's format as JSON.
const FORMAT: &str = "comfy_quant";

/// Endings of tensors of weights that were quantized in ways that are not read, with their names.
const FOREIGN: [(&str, &str); 9] = [
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".bitsandbytes__nf4", "bitsandbytes, NF4"),
    (".bitsandbytes__fp4", "bitsandbytes, FP4"),
    (".SCB", "bitsandbytes, 8 bits"),
    (".qweight", "GPTQ, AWQ or SVDQuant"),
    (".qzeros", "GPTQ or AWQ"),
    (".weight_scale_inv", "8-bit floats with a scale for each block"),
    (".weight_scale_2", "NVFP4"),
];

/// Removes the tensors that describe other tensors from `tensors`. Returns the scales by the names of their weights: one
/// number, or one for each row.
pub(super) fn take(
    tensors: &mut BTreeMap<String, TensorView<'_>>,
) -> Result<BTreeMap<String, Vec<f32>>, LayoutProblem> {
    let mut scales = BTreeMap::new();
    let names: Vec<String> = tensors.keys().cloned().collect();
    for name in names {
        if let Some((_, format)) = FOREIGN.iter().find(|(ending, _)| name.ends_with(ending)) {
            return Err(LayoutProblem::Format { tensor: name, format: (*format).to_owned() });
        }
        let (module, parameter) = name.rsplit_once('.').unwrap_or(("", &name));
        let weight = format!("{module}.weight");
        if parameter == MARKER {
            tensors.remove(&name);
        } else if parameter == FORMAT {
            if let Some(tensor) = tensors.remove(&name) {
                check_format(&tensor)?;
            }
        } else if UNREAD.contains(&parameter) && tensors.contains_key(&weight) {
            tensors.remove(&name);
        } else if SCALES.contains(&parameter) && tensors.contains_key(&weight) {
            let (Some(scale), Some(weight_view)) = (tensors.remove(&name), tensors.get(&weight)) else {
                continue;
            };
            scales.insert(weight.clone(), values(&scale, weight_view)?);
        }
    }
    Ok(scales)
}

/// The values of `scale`: one, or one for each row of `weight`.
fn values(scale: &TensorView<'_>, weight: &TensorView<'_>) -> Result<Vec<f32>, LayoutProblem> {
    let rows = weight.shape.first().copied().unwrap_or(1);
    let values = scale.to_f32().map_err(LayoutProblem::Values)?;
    let by_rows = scale.shape.first() == Some(&rows) && scale.shape[1..].iter().all(|&size| size == 1);
    match values.len() == 1 || by_rows {
        true => Ok(values),
        false => Err(LayoutProblem::Shape {
            tensor: scale.name.clone(),
            found: scale.shape.clone(),
            expected: format!("one number, or one for each of {rows} rows"),
        }),
    }
}

/// Refuses formats other than 8-bit floats with one scale for each tensor or row.
fn check_format(tensor: &TensorView<'_>) -> Result<(), LayoutProblem> {
    let text = String::from_utf8_lossy(tensor.bytes);
    let format = serde_json::from_str::<Value>(&text).ok();
    let format = format.as_ref().and_then(|value| value["format"].as_str()).unwrap_or(&text);
    let is_float8 = format.starts_with("float8_e4m3") || format.starts_with("float8_e5m2");
    match is_float8 && !format.contains("block") {
        true => Ok(()),
        false => {
            let format = sdq_formats::names::quote(format);
            Err(LayoutProblem::Format { tensor: tensor.name.clone(), format })
        }
    }
}

#[cfg(test)]
mod tests {
    use sdq_formats::dtype::DType;

    use super::*;

    /// Scales, and the names of the tensors that are left.
    type Taken = (BTreeMap<String, Vec<f32>>, Vec<String>);

    fn take_of(extra: &[(&str, DType, &[usize], &[u8])]) -> Result<Taken, String> {
        let weight: (&str, DType, &[usize], &[u8]) = ("a.weight", DType::F8E4M3, &[2, 2], &[0; 4]);
        let mut tensors: BTreeMap<String, TensorView<'_>> = std::iter::once(&weight)
            .chain(extra)
            .map(|&(name, dtype, shape, bytes)| {
                (name.to_owned(), TensorView { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes })
            })
            .collect();
        let scales = take(&mut tensors).map_err(|error| error.to_string())?;
        Ok((scales, tensors.into_keys().collect()))
    }

    #[test]
    fn scales_are_taken_out_under_both_names() {
        let (one, two) = (2f32.to_le_bytes(), [2f32, 3.0].map(f32::to_le_bytes).concat());
        for name in ["a.scale_weight", "a.weight_scale"] {
            for (shape, bytes) in [(&[][..], &one[..]), (&[1], &one), (&[2], &two), (&[2, 1], &two)] {
                let format = br#"{"format": "float8_e4m3fn"}"#;
                let extra = [
                    (name, DType::F32, shape, bytes),
                    ("a.input_scale", DType::F32, &[][..], &one[..]),
                    ("scaled_fp8", DType::F8E4M3, &[0], &[]),
                    ("a.comfy_quant", DType::U8, &[27], &format[..]),
                    ("b.bias", DType::F32, &[1], &one),
                ];
                let (scales, left) = take_of(&extra).unwrap();
                let values = if bytes.len() == 4 { vec![2.0] } else { vec![2.0, 3.0] };
                assert_eq!(scales, BTreeMap::from([("a.weight".to_owned(), values)]));
                assert_eq!(left, ["a.weight", "b.bias"]);
            }
        }
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        let three = [0; 12];
        let error = take_of(&[("a.weight_scale", DType::F32, &[3], &three)]).unwrap_err();
        assert!(error.contains("`a.weight_scale` has the shape [3]") && error.contains("2 rows"), "{error}");
        for format in [r#"{"format": "nvfp4"}"#, r#"{"format": "float8_e4m3fn_blockwise"}"#, "[]"] {
            let bytes = format.as_bytes();
            let error = take_of(&[("a.comfy_quant", DType::U8, &[bytes.len()], bytes)]).unwrap_err();
            assert!(error.contains("a.comfy_quant"), "{error}");
        }
        // A scale without a weight stays, and is refused as surplus.
        let (scales, left) = take_of(&[("c.scale_weight", DType::F32, &[1], &[0; 4])]).unwrap();
        assert_eq!((scales.len(), left.len()), (0, 2));
    }
}
