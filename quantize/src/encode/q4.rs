//! f32 → q4: searches a feature's scale, tries all multipliers of each group, and rounds to integers.

use sdq_formats::layout::{
    columns::{COLUMN_STEP, Columns, GROUP, Run},
    quantized::{MULTIPLIER_MAX, Q4_OFFSET, Q4_RANGE, multiplier_position, q4_position},
};

use super::feature::{Feature, Fit, Importance, LANES, byte, round};

const LOWEST: f32 = Q4_RANGE.0 as f32;
const HIGHEST: f32 = Q4_RANGE.1 as f32;

/// Candidate scales, as multiples of the one at which the largest multiplier maps the largest weight halfway
/// between the ends of the range. Some are negative, because the range is larger on one side. The list
/// includes those at which 7 and -8 represent the largest weight exactly.
const FACTORS: [f32; 10] = [1.0, -1.0, 7.5 / 7.0, -7.5 / 8.0, 0.93, 0.86, -0.86, 0.78, -0.78, -7.5 / 7.0];

/// Maximum number of evenly spaced groups of a feature by which its scale is chosen. The best scale depends
/// little on the choice of groups; finally each group gets its best multiplier.
const SAMPLE: usize = 48;

/// Sets the values of a panel to zero and its multipliers to one.
pub(super) fn clear(values: &mut [u8], multipliers: &mut [u8]) {
    let zero = Q4_OFFSET as u8;
    values.fill(zero << 4 | zero);
    multipliers.fill(0x11);
}

/// Encodes `feature`: the weights of output feature `lane` of a panel for one input. `importance` is that of
/// each column of the input. `values` and `multipliers` are a panel's, [cleared](clear).
pub(super) fn encode_feature(
    columns: &Columns,
    input: usize,
    lane: usize,
    feature: &Feature,
    importance: &Importance,
    values: &mut [u8],
    multipliers: &mut [u8],
) -> Fit {
    if feature.largest == 0.0 {
        return feature.fit(0.0, 0.0, 0.0);
    }
    let width = columns.inputs()[input].next_multiple_of(COLUMN_STEP);
    let scale = search(feature, &importance.columns, width);
    let (mut squared_error, mut most) = (0.0, 0.0_f32);
    for run in columns.runs().filter(|run| run.input == input) {
        let [values_of_run, importance] =
            [&feature.values, &importance.columns].map(|all| run_of(all, run, width));
        for (index, (group, importance)) in groups(values_of_run, importance).enumerate() {
            let (multiplier, _) = best_multiplier(group, importance, scale);
            let step = scale * f32::from(multiplier);
            put(multipliers, multiplier_position(run.first_group + index, lane), multiplier);
            for (offset, &value) in group.iter().enumerate() {
                let integer = quantize(value, step.recip());
                let position = q4_position(run.start + index * GROUP + offset, lane);
                put(values, position, byte(integer + f32::from(Q4_OFFSET)));
                squared_error += (value - integer * step) * (value - integer * step);
                let product = (integer * f32::from(multiplier)).abs();
                most = if product > most { product } else { most };
            }
        }
    }
    feature.fit(scale, squared_error, most)
}

/// Sets one half of a byte.
fn put(bytes: &mut [u8], (byte, shift): (usize, u32), half: u8) {
    bytes[byte] = bytes[byte] & !(15 << shift) | half << shift;
}

/// The part of a feature's values, or of their importance, that belongs to a run.
fn run_of(all: &[f32], run: Run, width: usize) -> &[f32] {
    &all[run.tap * width..][..width]
}

/// The groups of a run with their importance; the last one may be smaller, but at least one step.
fn groups<'a>(values: &'a [f32], importance: &'a [f32]) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
    values.chunks(GROUP).zip(importance.chunks(GROUP))
}

/// The candidate scale with the least weighted squared error.
fn search(feature: &Feature, importance: &[f32], width: usize) -> f32 {
    let stride = (feature.values.len() / GROUP).div_ceil(SAMPLE).max(1);
    let middle = (HIGHEST - LOWEST) / 2.0 * f32::from(MULTIPLIER_MAX);
    let mut best = (0.0, f32::INFINITY);
    for factor in FACTORS {
        let scale = feature.largest / middle * factor;
        let runs = feature.values.chunks(width).zip(importance.chunks(width));
        let all = runs.flat_map(|(values, importance)| groups(values, importance));
        let mut error = 0.0;
        for (group, importance) in all.step_by(stride) {
            error += best_multiplier(group, importance, scale).1;
            // Errors only grow.
            if error >= best.1 {
                break;
            }
        }
        if error < best.1 {
            best = (scale, error);
        }
    }
    best.0
}

/// The multiplier of a group with the least weighted squared error at a scale, and that error.
fn best_multiplier(group: &[f32], importance: &[f32], scale: f32) -> (u8, f32) {
    let total = importance.iter().sum::<f32>();
    let mut largest = [0.0_f32; LANES];
    for values in group.chunks_exact(LANES) {
        for (largest, value) in largest.iter_mut().zip(values) {
            *largest = if value.abs() > *largest { value.abs() } else { *largest };
        }
    }
    let largest = largest.into_iter().fold(0.0, f32::max);
    // One more than the multiplier at which the range contains every weight: with larger ones, steps only
    // become coarser.
    let enough = (largest / (HIGHEST * scale.abs())).min(f32::from(MULTIPLIER_MAX)) as u8 + 2;
    let mut best = (1, f32::INFINITY);
    for multiplier in (1..=enough.min(MULTIPLIER_MAX)).rev() {
        let step = scale * f32::from(multiplier);
        let error = error_at(group, importance, step);
        if error < best.1 {
            best = (multiplier, error);
        }
        // An error that exceeds that of rounding comes from weights outside the range, and grows as the range
        // shrinks.
        if error - total * step * step / 4.0 > best.1 {
            break;
        }
    }
    best
}

/// Weighted squared error of a group at a step.
fn error_at(group: &[f32], importance: &[f32], step: f32) -> f32 {
    let inverse = step.recip();
    let mut errors = [0.0_f32; LANES];
    for (values, importance) in group.chunks_exact(LANES).zip(importance.chunks_exact(LANES)) {
        for lane in 0..LANES {
            let off = values[lane] - quantize(values[lane], inverse) * step;
            errors[lane] += importance[lane] * off * off;
        }
    }
    errors.into_iter().sum()
}

/// The integer for `value`, given the inverse of a step.
#[inline(always)]
fn quantize(value: f32, inverse: f32) -> f32 {
    round((value * inverse).clamp(LOWEST, HIGHEST))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Weighted squared error of a group with a multiplier, using the best of all sixteen integers for each
    /// value.
    fn least_error(group: &[f32], importance: &[f32], step: f32) -> f64 {
        // Rust 1.95 compiles the same code over a range of i8 incorrectly at opt-level 2: it never tries 6.
        let integers: Vec<f64> = (Q4_RANGE.0..=Q4_RANGE.1).map(f64::from).collect();
        let best = |(&value, &importance): (&f32, &f32)| {
            let off = |integer: &f64| f64::from(value) - integer * f64::from(step);
            let errors = integers.iter().map(|q| f64::from(importance) * off(q) * off(q));
            errors.fold(f64::INFINITY, f64::min)
        };
        group.iter().zip(importance).map(best).sum()
    }

    fn least_of_all_multipliers(group: &[f32], importance: &[f32], scale: f32) -> f64 {
        let errors = (1..=MULTIPLIER_MAX).map(|m| least_error(group, importance, scale * f32::from(m)));
        errors.fold(f64::INFINITY, f64::min)
    }

    proptest! {
        #[test]
        fn no_multiplier_and_no_integers_are_better(
            group in prop::collection::vec((-4.0f32..4.0, 0.01f32..10.0), 1..5),
            scale in prop::sample::select(vec![0.01f32, 0.0667, -0.0667, 0.3, -1.0]),
            small in any::<bool>(),
        ) {
            // Eight of each, with other magnitudes: groups are whole steps.
            let size = |i: usize| if small { 0.02 + i as f32 * 0.01 } else { 1.0 - i as f32 * 0.1 };
            let eights = |of: fn(&(f32, f32)) -> f32| group.iter().flat_map(|pair| [of(pair); LANES]).collect();
            let (values, importance): (Vec<f32>, Vec<f32>) = (eights(|pair| pair.0), eights(|pair| pair.1));
            let values: Vec<f32> = values.iter().enumerate().map(|(i, value)| value * size(i % 8)).collect();
            let (multiplier, error) = best_multiplier(&values, &importance, scale);
            prop_assert!((1..=MULTIPLIER_MAX).contains(&multiplier));
            let own = least_error(&values, &importance, scale * f32::from(multiplier));
            prop_assert!((f64::from(error) - own).abs() <= 1e-4 * own + 1e-5, "told {}, is {}", error, own);
            let least = least_of_all_multipliers(&values, &importance, scale);
            prop_assert!(own <= least * 1.0001 + 1e-6, "{} with {}, least is {}", own, multiplier, least);
        }
    }

    #[test]
    fn integers_are_the_nearest_of_the_sixteen() {
        for (value, expected) in [
            (0.0, 0.0),
            (6.6, 7.0),
            (7.4, 7.0),
            (100.0, 7.0),
            (-7.6, -8.0),
            (-8.4, -8.0),
            (-100.0, -8.0),
            (0.5, 0.0),
            (1.5, 2.0),
        ] {
            assert_eq!(quantize(value, 1.0), expected, "{value}");
            // A negative step reverses the range.
            assert_eq!(quantize(-value, -1.0), expected, "{value}");
        }
    }

    #[test]
    fn halves_are_set_without_touching_the_other() {
        let mut bytes = [0xAB, 0xCD];
        put(&mut bytes, (0, 0), 0x1);
        put(&mut bytes, (1, 4), 0x2);
        assert_eq!(bytes, [0xA1, 0x2D]);
        let (mut values, mut multipliers) = ([7; 3], [7; 2]);
        clear(&mut values, &mut multipliers);
        // Zero is stored as the offset, and a multiplier of one as 1.
        assert_eq!((values, multipliers), ([0x88; 3], [0x11; 2]));
    }

    #[test]
    fn the_scale_is_nearly_the_best_there_is() {
        // Groups of very different magnitudes, as in trained weights.
        let mut state = 7_u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        for spread in [1, 3] {
            let values: Vec<f32> = (0..320)
                .map(|i| (uniform() + uniform() + uniform()) * (i / 32 % spread + 1) as f32)
                .collect();
            let mut feature = Feature::default();
            feature.take(&values);
            let importance = vec![1.0; values.len()];
            let error = |scale: f32| -> f64 {
                let groups = groups(&feature.values, &importance);
                groups.map(|(group, importance)| least_of_all_multipliers(group, importance, scale)).sum()
            };
            let found = error(search(&feature, &importance, values.len()));
            // Both signs, from half as coarse as the largest weight requires to a third coarser.
            let plain = feature.largest / 60.0;
            let scales = (50..=130).flat_map(|percent| [percent as f32 / 100.0, percent as f32 / -100.0]);
            let least = scales.map(|factor| error(plain * factor)).fold(f64::INFINITY, f64::min);
            assert!(found <= 1.08 * least, "{spread}: {found}, the least of all scales is {least}");
        }
    }
}
