//! Sums, means and variances of a group of channels, stored in tensors.
//!
//! They are f64 and tensors are f32, so each is stored as three f32, which hold it exactly: 3 x 24 bits for
//! 53.

use bytemuck::{Pod, Zeroable};

/// The number of f32 values that store a pair of f64.
pub const PAIR_VALUES: usize = 6;

/// The values that [`Op::GroupSums`](super::Op::GroupSums) reads and writes for each group: sums that
/// continue from one strip of a picture to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct GroupSums {
    /// Sum of all values.
    pub sum: f64,
    /// Sum of their squares.
    pub square_sum: f64,
}

/// The mean and variance that a group norm uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Statistics {
    /// Mean of all values.
    pub mean: f64,
    /// Mean of the squared differences from the mean.
    pub variance: f64,
}

impl GroupSums {
    /// Converts to values of a tensor.
    pub fn to_values(self) -> [f32; PAIR_VALUES] {
        pair_to_values(self.sum, self.square_sum)
    }

    /// Converts from values of a tensor.
    pub fn from_values(values: [f32; PAIR_VALUES]) -> GroupSums {
        let (sum, square_sum) = pair_from_values(values);
        GroupSums { sum, square_sum }
    }

    /// The statistics of `count` values with these sums.
    pub fn statistics(self, count: usize) -> Statistics {
        let mean = self.sum / count as f64;
        Statistics { mean, variance: (self.square_sum / count as f64 - mean * mean).max(0.0) }
    }
}

impl Statistics {
    /// Converts to values of a tensor.
    pub fn to_values(self) -> [f32; PAIR_VALUES] {
        pair_to_values(self.mean, self.variance)
    }

    /// Converts from values of a tensor.
    pub fn from_values(values: [f32; PAIR_VALUES]) -> Statistics {
        let (mean, variance) = pair_from_values(values);
        Statistics { mean, variance }
    }
}

fn pair_to_values(a: f64, b: f64) -> [f32; PAIR_VALUES] {
    let [[a0, a1, a2], [b0, b1, b2]] = [a, b].map(|value| {
        let first = value as f32;
        let rest = value - f64::from(first);
        let second = rest as f32;
        [first, second, (rest - f64::from(second)) as f32]
    });
    [a0, a1, a2, b0, b1, b2]
}

fn pair_from_values([a0, a1, a2, b0, b1, b2]: [f32; PAIR_VALUES]) -> (f64, f64) {
    let [a, b] = [[a0, a1, a2], [b0, b1, b2]].map(|[first, second, third]| {
        // The first two fill 48 bits at most, so that no bit is lost before the last sum.
        f64::from(first) + f64::from(second) + f64::from(third)
    });
    (a, b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn not_a_bit_is_lost(sum in -1e20..1e20_f64, square_sum in 1e-20..1e30_f64) {
            let sums = GroupSums { sum, square_sum };
            prop_assert_eq!(GroupSums::from_values(sums.to_values()), sums);
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for value in [f64::NAN, f64::INFINITY, 1e300] {
            let values = Statistics { mean: value, variance: 1.0 }.to_values();
            assert!(!Statistics::from_values(values).mean.is_finite());
        }
    }

    #[test]
    fn mean_and_variance_of_sums() {
        let values = [1.0_f64, 2.0, 6.0];
        let sums = GroupSums { sum: values.iter().sum(), square_sum: values.iter().map(|v| v * v).sum() };
        let Statistics { mean, variance } = sums.statistics(3);
        assert_eq!(mean, 3.0);
        assert!((variance - 14.0 / 3.0).abs() < 1e-12);
    }
}
