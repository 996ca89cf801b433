//! Weights of the cases: noise in every type, encoded as in a file.

use std::path::Path;

use half::f16;
use sdq_formats::{
    WeightRole, WeightSpec, WeightType,
    layout::{
        self, PANEL,
        columns::{Columns, GROUP},
        quantized::{Q4_OFFSET, multiplier_position, q4_position, q8_position},
    },
    sdq::{Encoded, Manifest, SdqError, SdqWriter},
};
use serde_json::json;

use super::{
    Agreement, Case,
    cases::{noise, type_of},
};

/// Writes a file with a component for each case.
pub(super) fn write(path: &Path, cases: &[Case]) -> Result<(), SdqError> {
    let manifest = Manifest::of_no_model("conformance", "sdq");
    let mut writer = SdqWriter::create(path, manifest)?;
    for case in cases {
        writer.begin_component(&case.component, json!({}))?;
        for (index, spec) in case.graph.weights.iter().enumerate() {
            let weight_type = type_of(case, spec);
            let encoded = encode(spec, weight_type, case.agreement == Agreement::Exact, 7 + index as u64);
            writer.append_encoded(spec, weight_type, &encoded)?;
        }
    }
    writer.finish().map(|_| ())
}

/// Noise as `weight_type`. With `whole`, products with whole numbers are whole numbers.
fn encode(spec: &WeightSpec, weight_type: WeightType, whole: bool, seed: u64) -> Encoded {
    let elements: usize = spec.shape.iter().product();
    let fan_in: usize = spec.shape[1..].iter().product();
    let values = || {
        // Norms multiply by about one; products keep the magnitude of their input.
        let (scale, shift) = match spec.role {
            WeightRole::Vector if spec.name.ends_with("norm.weight") => (0.5, 1.0),
            WeightRole::Vector | WeightRole::Table => (1.0, 0.0),
            WeightRole::Matrix | WeightRole::Conv => (1.7 / (fan_in as f32).sqrt(), 0.0),
        };
        let round = |value: f32| if whole { (8.0 * value).round() } else { value };
        noise(seed, elements).into_iter().map(move |value| round(scale * value + shift)).collect::<Vec<f32>>()
    };
    let parts = match (weight_type, spec.role) {
        (WeightType::F32, role) => {
            vec![bytemuck::cast_slice(&layout::pack(role, &spec.shape, &values())).to_vec()]
        }
        (WeightType::F16, role) => {
            let halves: Vec<f16> =
                layout::pack(role, &spec.shape, &values()).into_iter().map(f16::from_f32).collect();
            vec![bytemuck::cast_slice(&halves).to_vec()]
        }
        (WeightType::Q8 | WeightType::Q4, WeightRole::Table) => {
            let bytes = noise(seed, elements).into_iter().map(|value| (127.0 * value) as i8 as u8).collect();
            let scales: Vec<f32> = noise(seed + 1, spec.shape[0]).iter().map(|value| value / 127.0).collect();
            vec![bytes, bytemuck::cast_slice(&scales).to_vec()]
        }
        (WeightType::Q8, _) => q8(spec, whole, seed),
        (WeightType::Q4, _) => q4(spec, whole, seed),
    };
    Encoded { parts, relative_error: None }
}

fn columns_of(spec: &WeightSpec) -> Columns {
    Columns::of(spec).expect("cases have matrices and convolutions")
}

/// The scales of every feature and input.
fn scales(spec: &WeightSpec, whole: bool, seed: u64, largest: f32) -> Vec<u8> {
    let columns = columns_of(spec);
    let lanes = spec.shape[0].div_ceil(PANEL) * PANEL * columns.inputs().len();
    let unit = 3.0 / (largest * (columns.channels() as f32 * columns.taps() as f32).sqrt());
    let scale = |value: f32| if whole { 1.0 } else { unit * (1.0 + 0.5 * value) };
    let scales: Vec<f32> = noise(seed + 1, lanes).into_iter().map(scale).collect();
    bytemuck::cast_slice(&scales).to_vec()
}

/// Calls `each` with the feature and column of every element except padding, and the group of 32 columns that
/// contains it.
fn for_each_element(spec: &WeightSpec, mut each: impl FnMut(usize, usize, usize)) {
    for run in columns_of(spec).runs() {
        for feature in 0..spec.shape[0] {
            for channel in 0..run.channels {
                each(feature, run.start + channel, run.first_group + channel / GROUP);
            }
        }
    }
}

fn q8(spec: &WeightSpec, whole: bool, seed: u64) -> Vec<Vec<u8>> {
    let panel_bytes = columns_of(spec).padded() * PANEL;
    let mut values = vec![0; spec.shape[0].div_ceil(PANEL) * panel_bytes];
    let noise = noise(seed, values.len());
    for_each_element(spec, |feature, column, _| {
        let at = feature / PANEL * panel_bytes + q8_position(column, feature % PANEL);
        // Neighbours add up to at most 128; some elements have the largest possible value.
        let is_peak = column % 2 == 0 && noise[at] > 0.95;
        let value = if is_peak { 127.0 } else { 64.0 * noise[at] };
        let beside = column % 2 == 1 && values[at - 1] == 127;
        values[at] = if beside { 1 } else { value as i8 as u8 };
    });
    vec![values, scales(spec, whole, seed, 64.0)]
}

fn q4(spec: &WeightSpec, whole: bool, seed: u64) -> Vec<Vec<u8>> {
    let columns = columns_of(spec);
    let (panels, panel_bytes) = (spec.shape[0].div_ceil(PANEL), columns.padded() * PANEL / 2);
    let group_bytes = columns.groups() * PANEL / 2;
    let zero = Q4_OFFSET as u8;
    let mut values = vec![zero | zero << 4; panels * panel_bytes];
    let mut multipliers = vec![0x11; panels * group_bytes];
    let of_element = noise(seed, 2 * values.len());
    let of_group = noise(seed + 2, 2 * multipliers.len());
    for_each_element(spec, |feature, column, group| {
        let (panel, lane) = (feature / PANEL, feature % PANEL);
        let put = |bytes: &mut [u8], at: usize, shift: u32, value: u8| {
            bytes[at] = bytes[at] & !(15 << shift) | value << shift;
        };
        let (byte, shift) = q4_position(column, lane);
        let at = panel * panel_bytes + byte;
        let quarter = (8.0 + 8.0 * of_element[2 * at + usize::from(shift > 0)]).clamp(0.0, 15.0) as u8;
        put(&mut values, at, shift, quarter);
        let (byte, shift) = multiplier_position(group, lane);
        let at = panel * group_bytes + byte;
        let multiplier = (4.5 + 4.0 * of_group[2 * at + usize::from(shift > 0)]).clamp(1.0, 8.0) as u8;
        put(&mut multipliers, at, shift, multiplier);
    });
    vec![values, multipliers, scales(spec, whole, seed, 32.0)]
}
