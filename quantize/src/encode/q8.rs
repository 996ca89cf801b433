//! f32 → q8: searches the scale of a feature, and rounds to integers while limiting the sums of neighbours.

use sdq_formats::layout::{
    columns::{COLUMN_STEP, Columns},
    quantized::{PAIR_MAX, Q8_MAX, q8_position},
};

use super::feature::{Feature, Fit, Importance, LANES, byte, round};

const MAX: f32 = Q8_MAX as f32;
const PAIR: f32 = PAIR_MAX as f32;

/// Candidate scales below the one that reaches the largest weight, as multiples of it: clipping the largest
/// weights reduces the error of all others.
const SMALLER: [f32; 4] = [0.92, 0.84, 0.76, 0.7];

/// Candidate scales around the one at which no sum of neighbours exceeds its bound, as multiples of it. The
/// best scale is nearly always among them: reducing the largest sums reduces the error of all other weights.
const PAIRED: [f32; 6] = [1.0, 0.97, 0.94, 0.9, 0.85, 0.8];

/// Encodes `feature`: the weights of output feature `lane` of a panel for one input. `importance` is that of
/// each column of the input. The integers are written to `panel`, the values of a panel.
pub(super) fn encode_feature(
    columns: &Columns,
    input: usize,
    lane: usize,
    feature: &Feature,
    importance: &Importance,
    panel: &mut [u8],
) -> Fit {
    let (scale, _) = search::<true>(&feature.values, feature.largest, importance);
    if scale == 0.0 {
        return feature.fit(0.0, 0.0, MAX);
    }
    let width = columns.inputs()[input].next_multiple_of(COLUMN_STEP);
    let (mut squared_error, mut most) = (0.0, 0.0_f32);
    for run in columns.runs().filter(|run| run.input == input) {
        let first = run.tap * width;
        let (values, shares) = (&feature.values[first..], &importance.shares[first / 2..]);
        for column in (0..width).step_by(2) {
            let pair = [values[column], values[column + 1]];
            let integers = quantize_pair::<true>(pair, shares[column / 2], scale.recip());
            for (offset, (value, integer)) in pair.into_iter().zip(integers).enumerate() {
                panel[q8_position(run.start + column + offset, lane)] = byte(integer);
                squared_error += (value - integer * scale) * (value - integer * scale);
                most = if integer.abs() > most { integer.abs() } else { most };
            }
        }
    }
    feature.fit(scale, squared_error, most)
}

/// Encodes a row of a table. Rows are looked up and never multiplied with bytes, so sums of neighbours are
/// not bounded.
pub(super) fn encode_row(row: &[f32], feature: &mut Feature, integers: &mut [u8]) -> Fit {
    feature.take(row);
    let even = Importance::even(feature.values.len());
    let (scale, squared_error) = search::<false>(&feature.values, feature.largest, &even);
    if scale == 0.0 {
        return feature.fit(0.0, 0.0, MAX);
    }
    for (integer, value) in integers.iter_mut().zip(&feature.values) {
        *integer = byte(round(value * scale.recip()).clamp(-MAX, MAX));
    }
    feature.fit(scale, squared_error, MAX)
}

/// The candidate scale with the least weighted squared error, and that error. Zero if all values are.
/// `PAIRS`: whether the sums of neighbours are bounded.
fn search<const PAIRS: bool>(values: &[f32], largest: f32, importance: &Importance) -> (f32, f32) {
    if largest == 0.0 {
        return (0.0, 0.0);
    }
    let plain = largest / MAX;
    let mut best = (plain, f32::INFINITY);
    let mut consider = |scale: f32| {
        let error = error_at::<PAIRS>(values, importance, scale, best.1);
        if error < best.1 {
            best = (scale, error);
        }
    };
    // The most promising ones first, so that the others can be rejected early.
    if PAIRS {
        // Up to twice the plain scale.
        let paired = largest_sum(values) / PAIR;
        PAIRED.iter().map(|factor| paired * factor).filter(|&scale| scale > plain).for_each(&mut consider);
    }
    consider(plain);
    SMALLER.iter().for_each(|factor| consider(plain * factor));
    best
}

/// The largest magnitude of the sum of two neighbouring columns.
fn largest_sum(values: &[f32]) -> f32 {
    let mut largest = [0.0_f32; LANES / 2];
    for values in values.chunks_exact(LANES) {
        for (pair, largest) in largest.iter_mut().enumerate() {
            let sum = (values[2 * pair] + values[2 * pair + 1]).abs();
            *largest = if sum > *largest { sum } else { *largest };
        }
    }
    largest.into_iter().fold(0.0, f32::max)
}

/// Weighted squared error at a scale; if it is at least `limit`, any number from `limit` on.
fn error_at<const PAIRS: bool>(values: &[f32], importance: &Importance, scale: f32, limit: f32) -> f32 {
    /// Number of values between checks of the limit.
    const STRETCH: usize = 16 * LANES;
    let inverse = scale.recip();
    let mut errors = [0.0_f32; LANES];
    let Importance { columns, shares } = importance;
    for ((values, columns), shares) in
        values.chunks(STRETCH).zip(columns.chunks(STRETCH)).zip(shares.chunks(STRETCH / 2))
    {
        let eights = values.chunks_exact(LANES).zip(columns.chunks_exact(LANES));
        for ((values, importance), shares) in eights.zip(shares.chunks_exact(LANES / 2)) {
            // First and second values of four pairs at a time, which the compiler vectorises.
            for pair in 0..LANES / 2 {
                let [first, second] = [values[2 * pair], values[2 * pair + 1]];
                let integers = quantize_pair::<PAIRS>([first, second], shares[pair], inverse);
                let off = [first - integers[0] * scale, second - integers[1] * scale];
                errors[pair] += importance[2 * pair] * off[0] * off[0];
                errors[LANES / 2 + pair] += importance[2 * pair + 1] * off[1] * off[1];
            }
        }
        let so_far = errors.iter().sum::<f32>();
        if so_far >= limit {
            return so_far;
        }
    }
    errors.into_iter().sum()
}

/// The integers for two neighbouring columns: rounded, and if their sum exceeds its bound, reduced with the
/// least weighted squared error: `share` of the excess is subtracted from the first.
#[inline(always)]
fn quantize_pair<const PAIRS: bool>(pair: [f32; 2], share: f32, inverse: f32) -> [f32; 2] {
    let exact = [pair[0] * inverse, pair[1] * inverse];
    let rounded = exact.map(|value| round(value.clamp(-MAX, MAX)));
    if !PAIRS {
        return rounded;
    }
    let sum = rounded[0] + rounded[1];
    let bound = PAIR.copysign(sum);
    // The point on the line of the largest allowed sum.
    let first = round(exact[0] - (exact[0] + exact[1] - bound) * share);
    // At both ends the partner stays within its own range.
    let (low, high) = if sum > 0.0 { (PAIR - MAX, MAX) } else { (-MAX, MAX - PAIR) };
    let first = if first < low { low } else { first };
    let first = if first > high { high } else { first };
    if sum.abs() > PAIR { [first, bound - first] } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of a few sines: values of many magnitudes.
    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.7).sin() * 1.3 + (i as f32 * 2.9).sin().powi(5)).collect()
    }

    #[test]
    fn pairs_keep_their_bound_at_the_least_cost() {
        let brute = |pair: [f32; 2], importance: [f32; 2]| {
            let mut least = f32::INFINITY;
            for first in -127..=127_i16 {
                for second in -127..=127_i16 {
                    if (first + second).abs() <= PAIR_MAX {
                        let off = [pair[0] - f32::from(first), pair[1] - f32::from(second)];
                        least = least.min(importance[0] * off[0] * off[0] + importance[1] * off[1] * off[1]);
                    }
                }
            }
            least
        };
        let exact = [-190.0, -127.0, -100.4, -64.0, -1.6, 0.0, 3.3, 63.5, 65.2, 90.9, 126.7, 181.0];
        for first in exact {
            for second in exact {
                for importance in [[1.0, 1.0], [1.0, 7.0], [5.0, 0.25]] {
                    let pair = [first, second];
                    let share = importance[1] / (importance[0] + importance[1]);
                    let integers = quantize_pair::<true>(pair, share, 1.0);
                    assert!((integers[0] + integers[1]).abs() <= PAIR, "{pair:?}: {integers:?}");
                    assert!(integers.iter().all(|integer| integer.abs() <= MAX), "{pair:?}: {integers:?}");
                    let off = [first - integers[0], second - integers[1]];
                    let cost = importance[0] * off[0] * off[0] + importance[1] * off[1] * off[1];
                    let least = brute(pair, importance);
                    assert!(cost <= least * 1.0001 + 1e-3, "{pair:?}: {cost} instead of {least}");
                }
            }
        }
    }

    #[test]
    fn without_importance_excess_is_shared() {
        assert_eq!(quantize_pair::<true>([100.0, 90.0], 0.5, 1.0), [69.0, 59.0]);
        assert_eq!(quantize_pair::<false>([100.0, 90.0], 0.5, 1.0), [100.0, 90.0]);
    }

    #[test]
    fn search_never_loses_to_the_plain_scale() {
        for count in [8, 64, 800] {
            let values = values(count);
            let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let even = Importance::even(count);
            let (_, found) = search::<true>(&values, largest, &even);
            assert!(found <= error_at::<true>(&values, &even, largest / MAX, f32::INFINITY), "{count}");
        }
        // Equal weights: at the plain scale every pair would have to be reduced by a third.
        let (scale, error) = search::<true>(&[1.0; 16], 1.0, &Importance::even(16));
        assert!(error < 1e-6 && (scale - 1.0 / 64.0).abs() < 1e-6, "{scale}: {error}");
    }
}
