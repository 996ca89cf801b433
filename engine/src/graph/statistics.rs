//! Mean and variance of a group of channels as they travel through graphs.

/// What [`Op::GroupStatistics`](super::Op::GroupStatistics) writes for each group and a group norm may read.
///
/// In a graph it is three f32: the mean, what rounding the mean to f32 lost, the variance. The second is there for
/// groups whose mean is many times their deviation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Mean of all values.
    pub mean: f64,
    /// Mean of the squared distances from the mean.
    pub variance: f64,
}

impl Statistics {
    /// f32 values of one group.
    pub const VALUES: usize = 3;

    /// The three values of a graph's tensor.
    pub fn to_values(self) -> [f32; Statistics::VALUES] {
        let mean = self.mean as f32;
        [mean, (self.mean - f64::from(mean)) as f32, self.variance as f32]
    }

    /// Back from a graph's tensor.
    pub fn from_values([mean, rest, variance]: [f32; Statistics::VALUES]) -> Statistics {
        Statistics { mean: f64::from(mean) + f64::from(rest), variance: f64::from(variance) }
    }

    /// Of two sets of `count` and `other_count` values together. Chan, Golub & LeVeque 1979, STAN-CS-79-773, eq. 2.1.
    pub fn joined(self, count: usize, other: Statistics, other_count: usize) -> Statistics {
        if count == 0 {
            return other;
        }
        let share = other_count as f64 / (count + other_count) as f64;
        let distance = other.mean - self.mean;
        let variance = self.variance + share * (other.variance - self.variance);
        Statistics {
            mean: self.mean + share * distance,
            variance: variance + share * (1.0 - share) * distance * distance,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Statistics {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        Statistics { mean, variance: values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count }
    }

    #[test]
    fn parts_joined_are_the_whole() {
        let values: Vec<f64> = (0..37).map(|i| 500.0 + f64::from(i * i % 41)).collect();
        let whole = of(&values);
        for cut in [1, 5, 20, 36] {
            let (a, b) = values.split_at(cut);
            let joined = of(a).joined(a.len(), of(b), b.len());
            assert!((joined.mean - whole.mean).abs() < 1e-10, "{joined:?} {whole:?}");
            assert!((joined.variance - whole.variance).abs() < 1e-9, "{joined:?} {whole:?}");
        }
        assert_eq!(Statistics::default().joined(0, whole, 37), whole);
    }

    #[test]
    fn a_mean_keeps_more_digits_than_one_f32_has() {
        let statistics = Statistics { mean: 1000.000_012_345, variance: 0.5 };
        let back = Statistics::from_values(statistics.to_values());
        assert!((back.mean - statistics.mean).abs() < 1e-10, "{back:?}");
    }
}
