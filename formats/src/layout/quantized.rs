//! The one definition of [`WeightType::Q8`](crate::WeightType::Q8) and
//! [`WeightType::Q4`](crate::WeightType::Q4): the position of each integer, and the value that it represents.
//!
//! A weight is an integer times a scale. With `n` an output feature, `i` one of the joined inputs (nearly
//! always the only one) and `g` a group of 32 columns of that input under one tap:
//!
//! ```text
//! q8:  w = scale[i][n] * q                  q in -127..=127
//! q4:  w = scale[i][n] * m[n][g] * q        q in -8..=7, m in 1..=8, so that m * q is in -64..=56
//! ```
//!
//! After the integer multiplication, q4 has the form of q8, so one kernel serves both. Columns are in the
//! order of [`Columns`], padding included, sixteen features (a panel) side by side:
//!
//! ```text
//! q8 values       [panel][column / 4][lane][column % 4]                               i8
//! q4 values       [panel][column / 8][lane][column % 4]      low half: column % 8 < 4; q + 8 in each half
//!    multipliers  [panel][group][lane % 8]                   low half: lane < 8
//! both scales     [input][panel][lane]                                                f32
//! ```
//!
//! So 32 bits hold four consecutive columns of one feature, the operand format of the integer dot products of
//! AVX2, AVX-VNNI, AVX-512, NEON and GPUs. Padding is zero (in q4: 8 in each half), and so are scales of
//! features past the last.
//!
//! Two neighbouring columns `2j` and `2j + 1` of a feature never add up to more than 128 in magnitude:
//! `|q[2j] + q[2j + 1]| <= 128`, after multiplication in q4, where it follows from the ranges. AVX2's
//! `maddubs` adds the products of two such columns with unsigned bytes in 16 bits; with this bound its sum is
//! at most `128 * 255 = 32640`, so that it never saturates and every instruction set finds the same integers.
//! Like finite values, the bound must be ensured by the writer; a file that violates it gives other numbers
//! but does no other harm.

use super::columns::{COLUMN_STEP, Columns, GROUP};
use super::{PANEL, WeightData};
use crate::weight::WeightSpec;

/// Largest magnitude in q8.
pub const Q8_MAX: i8 = 127;
/// Maximum magnitude of the sum of two neighbouring columns.
pub const PAIR_MAX: i16 = 128;
/// Smallest and largest integer in q4.
pub const Q4_RANGE: (i8, i8) = (-8, 7);
/// The number that is added to an integer in q4, so that it is stored without a sign.
pub const Q4_OFFSET: i8 = 8;
/// Largest multiplier in q4; the smallest is 1.
pub const MULTIPLIER_MAX: u8 = 8;

/// Bytes of a panel's values in q8; `None` if the number overflows.
pub fn q8_panel_bytes(columns: &Columns) -> Option<usize> {
    columns.padded().checked_mul(PANEL)
}

/// Bytes of a panel's values in q4; `None` if the number overflows.
pub fn q4_panel_bytes(columns: &Columns) -> Option<usize> {
    q8_panel_bytes(columns).map(|bytes| bytes / 2)
}

/// Bytes of a panel's multipliers in q4; `None` if the number overflows.
pub fn multiplier_panel_bytes(columns: &Columns) -> Option<usize> {
    columns.groups().checked_mul(PANEL / 2)
}

/// The index within a panel of the byte for `column` (padding included) of a feature in q8.
pub fn q8_position(column: usize, lane: usize) -> usize {
    (column / 4 * PANEL + lane) * 4 + column % 4
}

/// The index within a panel of the byte for `column` (padding included) of a feature in q4, and its half as a
/// shift.
pub fn q4_position(column: usize, lane: usize) -> (usize, u32) {
    let byte = (column / COLUMN_STEP * PANEL + lane) * 4 + column % 4;
    (byte, if column % COLUMN_STEP < 4 { 0 } else { 4 })
}

/// The index within a panel of the byte for the multiplier of a group, and its half as a shift.
pub fn multiplier_position(group: usize, lane: usize) -> (usize, u32) {
    (group * (PANEL / 2) + lane % 8, if lane < 8 { 0 } else { 4 })
}

/// The index of a feature's scale for an input, among the scales of `panels` panels.
pub fn scale_position(input: usize, panels: usize, n: usize) -> usize {
    input * panels * PANEL + n
}

/// Row-major values of a quantized matrix or convolution.
pub(super) fn decode(spec: &WeightSpec, data: &WeightData) -> Vec<f32> {
    let columns = Columns::of(spec).expect("the weight's spec was checked against its parts");
    let features = spec.shape[0];
    let panels = features.div_ceil(PANEL);
    let integer = |n: usize, column: usize, group: usize| -> i32 {
        let (panel, lane) = (n / PANEL, n % PANEL);
        match *data {
            WeightData::Q8 { values, .. } => {
                values[panel * columns.padded() * PANEL + q8_position(column, lane)].into()
            }
            WeightData::Q4 { values, multipliers, .. } => {
                let half = |bytes: &[u8], (byte, shift): (usize, u32)| i32::from(bytes[byte] >> shift & 15);
                let values = &values[panel * columns.padded() * PANEL / 2..];
                let multipliers = &multipliers[panel * columns.groups() * PANEL / 2..];
                let q = half(values, q4_position(column, lane)) - i32::from(Q4_OFFSET);
                half(multipliers, multiplier_position(group, lane)) * q
            }
            WeightData::F32(_) | WeightData::F16(_) => unreachable!("not a quantized weight"),
        }
    };
    let (WeightData::Q8 { scales, .. } | WeightData::Q4 { scales, .. }) = *data else {
        unreachable!("not a quantized weight")
    };
    let mut decoded = vec![0.0; features * columns.taps() * columns.channels()];
    for run in columns.runs() {
        for n in 0..features {
            let scale = scales[scale_position(run.input, panels, n)];
            for channel in 0..run.channels {
                let q = integer(n, run.start + channel, run.first_group + channel / GROUP);
                decoded[columns.row_major(n, run.tap, run.first_channel + channel)] = scale * q as f32;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;
    use crate::weight::{WeightRole, WeightType};

    /// 17 features, two taps, inputs of 33 and 3 channels: the second panel, the second group, padding in both runs.
    fn spec() -> WeightSpec {
        let spec = WeightSpec::new("w", WeightRole::Conv, &[17, 36, 1, 2]);
        WeightSpec { inputs: vec![33, 3], ..spec }
    }

    fn parts(weight_type: WeightType) -> Vec<usize> {
        layout::stored_parts(&spec(), weight_type).unwrap().iter().map(|part| part.bytes).collect()
    }

    #[test]
    fn q8_is_an_integer_times_the_scale_of_feature_and_input() {
        let [values, scales] = parts(WeightType::Q8)[..] else { panic!("two parts") };
        let (mut values, mut scales) = (vec![0_i8; values], vec![0_f32; scales / 4]);
        // Feature 16 (panel 1, lane 0), tap 1, channel 34 (the second one of input 1): 40 columns of tap 0's first
        // run, 8 of its second, 40 of tap 1's first, then column 1.
        values[96 * 16 + (88 / 4 * 16) * 4 + 1] = -100;
        scales[32 + 16] = 0.5;
        let decoded = layout::decode(&spec(), &WeightData::Q8 { values: &values, scales: &scales });
        let at = (16 * 36 + 34) * 2 + 1;
        assert_eq!(decoded.len(), 17 * 72);
        assert_eq!(decoded[at], -50.0);
        assert!(decoded.iter().enumerate().all(|(i, &value)| i == at || value == 0.0));
    }

    #[test]
    fn q4_multiplies_by_the_group() {
        let [values, multipliers, scales] = parts(WeightType::Q4)[..] else { panic!("three parts") };
        let mut values = vec![0x88_u8; values];
        let mut multipliers = vec![0x11_u8; multipliers];
        let mut scales = vec![0_f32; scales / 4];
        // Feature 9 (panel 0, lane 9), tap 0, channel 32: the second group of input 0; column 32 % 8 is 0, so the low
        // half. Its multiplier is the high half of byte 1.
        values[(32 / 8 * 16 + 9) * 4] = 0x80;
        multipliers[8 + 1] = 0x31;
        scales[9] = 2.0;
        let data = WeightData::Q4 { values: &values, multipliers: &multipliers, scales: &scales };
        let decoded = layout::decode(&spec(), &data);
        let at = (9 * 36 + 32) * 2;
        assert_eq!(decoded[at], 2.0 * 3.0 * -8.0);
        assert!(decoded.iter().enumerate().all(|(i, &value)| i == at || value == 0.0));
    }

    #[test]
    fn every_element_has_a_place_of_its_own() {
        let columns = Columns::of(&spec()).unwrap();
        let mut q8 = vec![0; q8_panel_bytes(&columns).unwrap()];
        let mut q4 = vec![0_u8; q4_panel_bytes(&columns).unwrap()];
        let mut multipliers = vec![0_u8; multiplier_panel_bytes(&columns).unwrap()];
        for lane in 0..PANEL {
            for column in 0..columns.padded() {
                q8[q8_position(column, lane)] += 1;
                let (byte, shift) = q4_position(column, lane);
                q4[byte] += 1 << shift;
            }
            for group in 0..columns.groups() {
                let (byte, shift) = multiplier_position(group, lane);
                multipliers[byte] += 1 << shift;
            }
        }
        assert!(q8.iter().all(|&count| count == 1));
        assert!(q4.iter().chain(&multipliers).all(|&count| count == 0x11));
    }
}
