use proptest::prelude::*;
use sdq_formats::{
    dtype::DType,
    layout::{
        WeightData,
        quantized::{PAIR_MAX, Q8_MAX},
    },
};

use super::*;

fn encode_values(spec: &WeightSpec, weight_type: WeightType, values: &[f32]) -> Result<Encoded, EncodeError> {
    encode_weighted(spec, weight_type, values, None)
}

fn encode_weighted(
    spec: &WeightSpec,
    weight_type: WeightType,
    values: &[f32],
    importance: Option<&[f32]>,
) -> Result<Encoded, EncodeError> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (name, shape) = (spec.name.clone(), spec.shape.clone());
    let tensor = TensorView { name, dtype: DType::F32, shape, bytes: &bytes };
    encode(spec, weight_type, &tensor, importance)
}

/// The values that the kernels compute with.
fn decode(spec: &WeightSpec, weight_type: WeightType, encoded: &Encoded) -> Vec<f32> {
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    match (weight_type, encoded.parts.as_slice()) {
        (WeightType::Q8, [values, scales]) => {
            let (values, scales): (Vec<i8>, _) = (integers(values), floats(scales));
            layout::decode(spec, &WeightData::Q8 { values: &values, scales: &scales })
        }
        (WeightType::Q4, [values, multipliers, scales]) => {
            assert!(multipliers.iter().all(|m| (1..=8).contains(&(m & 15)) && (1..=8).contains(&(m >> 4))));
            layout::decode(spec, &WeightData::Q4 { values, multipliers, scales: &floats(scales) })
        }
        (WeightType::F32, [values]) => layout::unpack(spec.role, &spec.shape, &floats(values)),
        _ => panic!("parts of another type"),
    }
}

fn integers(bytes: &[u8]) -> Vec<i8> {
    bytes.iter().map(|&byte| byte as i8).collect()
}

/// Sum of squared differences, and of squares, of each of `columns` or of all.
fn squares(source: &[f32], decoded: &[f32]) -> (f64, f64) {
    source.iter().zip(decoded).fold((0.0, 0.0), |(error, squared), (&a, &b)| {
        let off = f64::from(a) - f64::from(b);
        (error + off * off, squared + f64::from(a) * f64::from(a))
    })
}

/// Encodes, and checks properties that hold for any values. Returns the decoded values.
fn check(spec: &WeightSpec, weight_type: WeightType, values: &[f32]) -> Vec<f32> {
    let encoded = encode_values(spec, weight_type, values).unwrap();
    let parts = layout::stored_parts(spec, weight_type).unwrap();
    assert!(encoded.parts.iter().map(Vec::len).eq(parts.iter().map(|part| part.bytes)));
    let decoded = decode(spec, weight_type, &encoded);
    assert!(decoded.iter().all(|value| value.is_finite()), "{decoded:?}");
    let (error, squared) = squares(values, &decoded);
    let relative = if squared > 0.0 { (error / squared).sqrt() } else { 0.0 };
    let told = encoded.relative_error.unwrap();
    assert!((told - relative).abs() <= 1e-3 * relative + 1e-5, "told {told}, is {relative}");
    if weight_type == WeightType::Q8 {
        assert!(integers(&encoded.parts[0]).iter().all(|q| (-Q8_MAX..=Q8_MAX).contains(q)));
        if spec.role != WeightRole::Table {
            for pair in integers(&encoded.parts[0]).chunks_exact(2) {
                let sum = i16::from(pair[0]) + i16::from(pair[1]);
                assert!(sum.abs() <= PAIR_MAX, "{pair:?}");
            }
        }
    }
    decoded
}

/// An odd shape: output features that need two panels, taps, two inputs, padding in both.
fn joined() -> WeightSpec {
    WeightSpec { inputs: vec![35, 6], ..WeightSpec::new("w", WeightRole::Conv, &[18, 41, 3, 1]) }
}

const KINDS: [WeightType; 2] = [WeightType::Q8, WeightType::Q4];

/// The largest error that plain rounding at the scale of the largest weight makes, relative to that weight.
fn step(weight_type: WeightType) -> f32 {
    match weight_type {
        // The scale at which no pair is too large is at most twice the plain one.
        WeightType::Q8 => 1.0 / 127.0,
        _ => 1.0 / 7.5,
    }
}

#[test]
fn constants_zeros_and_single_outliers() {
    let spec = joined();
    let count = spec.shape.iter().product();
    for weight_type in KINDS {
        assert!(check(&spec, weight_type, &vec![0.0; count]).iter().all(|&value| value == 0.0));
        let mut alone = vec![0.0; count];
        alone[77] = -3.0;
        let decoded = check(&spec, weight_type, &alone);
        assert!((decoded[77] + 3.0).abs() < 1e-5, "{}", decoded[77]);
        for sign in [1.0, -1.0] {
            let constant = vec![sign * 0.37; count];
            let alternating: Vec<f32> = (0..count).map(|i| if i % 2 == 0 { sign } else { -sign }).collect();
            for values in [constant, alternating] {
                let (error, squared) = squares(&values, &check(&spec, weight_type, &values));
                assert!(error < 1e-4 * squared, "{weight_type:?}: {error} of {squared}");
            }
        }
    }
}

#[test]
fn a_feature_of_zeros_has_a_scale_of_zero() {
    let spec = WeightSpec::new("w", WeightRole::Matrix, &[3, 40]);
    let values: Vec<f32> = (0..120).map(|i| if (40..80).contains(&i) { 0.0 } else { i as f32 }).collect();
    for weight_type in KINDS {
        let encoded = encode_values(&spec, weight_type, &values).unwrap();
        let scales = encoded.parts.last().unwrap();
        assert_eq!(scales[4..8], [0; 4]);
        assert_eq!(scales[12..64], [0; 52], "features past the last");
        assert_ne!(scales[..4], [0; 4]);
    }
}

#[test]
fn magnitudes_from_subnormal_to_the_largest() {
    let spec = WeightSpec::new("w", WeightRole::Matrix, &[2, 64]);
    let wave: Vec<f32> = (0..128).map(|i| (i as f32 * 0.7).sin()).collect();
    for weight_type in KINDS {
        for exponent in [-140, -126, -101, -99, -40, 0, 60, 126, 127] {
            let values: Vec<f32> =
                wave.iter().map(|value| (f64::from(*value) * 2_f64.powi(exponent)) as f32).collect();
            let (error, squared) = squares(&values, &check(&spec, weight_type, &values));
            if exponent > -100 {
                assert!(error < 0.02 * squared, "{weight_type:?} 2^{exponent}: {error} of {squared}");
            }
        }
        let encoded = encode_values(&spec, weight_type, &[f32::MAX; 128]).unwrap();
        let decoded = decode(&spec, weight_type, &encoded);
        assert!(decoded.iter().all(|&value| value.is_finite() && value > 0.99 * f32::MAX), "{decoded:?}");
    }
}

#[test]
fn refuses_what_is_not_finite_and_says_where() {
    let spec = joined();
    let mut values = vec![0.5; spec.shape.iter().product()];
    let index = 17 * 123 + 5;
    values[index] = f32::NAN;
    for weight_type in WeightType::ALL {
        let error = encode_values(&spec, weight_type, &values).unwrap_err();
        let EncodeError::Values(LayoutError::NotFinite { index: found, .. }) = error else {
            panic!("{error}")
        };
        assert_eq!(found, index);
    }
}

#[test]
fn refuses_types_that_a_role_does_not_have() {
    let vector = WeightSpec::new("w", WeightRole::Vector, &[4]);
    let table = WeightSpec::new("w", WeightRole::Table, &[2, 2]);
    for (spec, weight_type) in [(vector, WeightType::F16), (table, WeightType::Q4)] {
        let error = encode_values(&spec, weight_type, &[0.0; 4]).unwrap_err();
        assert!(matches!(error, EncodeError::Values(LayoutError::RoleType { .. })), "{error}");
    }
    let short = WeightSpec::new("w", WeightRole::Matrix, &[2, 2]);
    let tensor = TensorView { name: "w".into(), dtype: DType::F32, shape: vec![3], bytes: &[0; 12] };
    let error = encode(&short, WeightType::F32, &tensor, None).unwrap_err();
    assert!(matches!(error, EncodeError::Values(LayoutError::Length { .. })), "{error}");
}

#[test]
fn importance_lowers_the_error_where_it_matters() {
    let spec = joined();
    let values = noise(spec.shape.iter().product(), 7);
    let importance: Vec<f32> = (0..41).map(|channel| if channel % 5 == 0 { 100.0 } else { 0.01 }).collect();
    let weighted_error = |decoded: &[f32]| -> f64 {
        let columns = values.iter().zip(decoded).enumerate();
        columns.map(|(i, (a, b))| f64::from(importance[i / 3 % 41]) * f64::from(a - b).powi(2)).sum()
    };
    for weight_type in KINDS {
        let [plain, weighted] = [None, Some(importance.as_slice())].map(|importance| {
            let encoded = encode_weighted(&spec, weight_type, &values, importance).unwrap();
            weighted_error(&decode(&spec, weight_type, &encoded))
        });
        assert!(weighted < 0.9 * plain, "{weight_type:?}: {weighted} against {plain}");
    }
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let spec = WeightSpec::new("w", WeightRole::Conv, &[100, 24, 3, 3]);
    let values = noise(spec.shape.iter().product(), 3);
    for weight_type in WeightType::ALL {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| encode_values(&spec, weight_type, &values).unwrap())
        };
        assert_eq!(with(1), with(5), "{weight_type:?}");
    }
}

/// Noise distributed like trained weights: nearly normal.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..6).map(|_| uniform()).sum()).collect()
}

#[test]
fn noise_loses_what_it_must_and_no_more() {
    let spec = WeightSpec::new("w", WeightRole::Matrix, &[32, 640]);
    let values = noise(32 * 640, 1);
    let error = |weight_type| encode_values(&spec, weight_type, &values).unwrap().relative_error.unwrap();
    let (q8, q4) = (error(WeightType::Q8), error(WeightType::Q4));
    assert!(q8 < 0.01, "{q8}");
    assert!(q4 < 0.09, "{q4}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_shape_decodes_to_what_it_was(
        n in 1usize..36, first in 1usize..70, second in 1usize..20, taps in 1usize..4, seed in any::<u32>(),
        magnitude in -30i32..30, sharp in any::<bool>(),
    ) {
        let power = if sharp { 5 } else { 1 };
        let noise = |count: usize| -> Vec<f32> {
            noise(count, seed).into_iter().map(|value| value.powi(power) * 2f32.powi(magnitude)).collect()
        };
        let inputs = WeightSpec {
            inputs: vec![first, second],
            ..WeightSpec::new("w", WeightRole::Conv, &[n, first + second, 1, taps])
        };
        for spec in [inputs, WeightSpec::new("w", WeightRole::Matrix, &[n, first])] {
            let values = noise(spec.shape.iter().product());
            for weight_type in KINDS {
                let decoded = check(&spec, weight_type, &values);
                // The error is at most half a step at the largest weight; pairs may double the step, and the
                // search may accept a larger error of the largest weight to reduce the others.
                let row = spec.shape[1..].iter().product();
                for (values, decoded) in values.chunks(row).zip(decoded.chunks(row)) {
                    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                    let (error, _) = squares(values, decoded);
                    let bound = f64::from(step(weight_type) * largest).powi(2) * row as f64;
                    prop_assert!(error <= bound, "{:?}: {} above {}", weight_type, error, bound);
                }
            }
            let encoded = encode_values(&spec, WeightType::F32, &values).unwrap();
            prop_assert_eq!(decode(&spec, WeightType::F32, &encoded), values);
        }
        let table = WeightSpec::new("w", WeightRole::Table, &[n, first]);
        check(&table, WeightType::Q8, &noise(n * first));
    }

    #[test]
    fn blocks_are_the_layout_of_the_whole(n in 1usize..40, channels in 1usize..12, taps in 1usize..4) {
        for spec in [
            WeightSpec::new("w", WeightRole::Vector, &[n]),
            WeightSpec::new("w", WeightRole::Table, &[n, channels]),
            WeightSpec::new("w", WeightRole::Matrix, &[n, channels]),
            WeightSpec::new("w", WeightRole::Conv, &[n, channels, taps, 1]),
        ] {
            let values = noise(spec.shape.iter().product(), 5);
            for weight_type in [WeightType::F32, WeightType::F16] {
                if weight_type.stores(spec.role) {
                    let encoded = encode_values(&spec, weight_type, &values).unwrap();
                    prop_assert_eq!(encoded.relative_error, None);
                    prop_assert_eq!(&encoded.parts, &[layout::encode(&spec, weight_type, &values).unwrap()]);
                }
            }
        }
    }
}
