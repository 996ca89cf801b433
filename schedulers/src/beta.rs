//! The Beta(0.6, 0.6) distribution, from which `use_beta_sigmas` takes its noise levels.

/// Both parameters of the distribution.
const SHAPE: f64 = 0.6;

/// The quantile of the distribution at 0 ≤ `probability` ≤ 1.
///
/// Bisection of the cumulative distribution until two neighbouring `f64` are left.
pub(crate) fn quantile(probability: f64) -> f64 {
    if probability <= 0.0 {
        return 0.0;
    }
    if probability > 0.5 {
        // The distribution is symmetric, and the precision is higher near 0.
        return 1.0 - quantile(1.0 - probability);
    }
    let (mut below, mut above) = (0.0, 0.5);
    loop {
        let middle = 0.5 * (below + above);
        if middle <= below || middle >= above {
            return middle;
        }
        if cumulative(middle) < probability {
            below = middle;
        } else {
            above = middle;
        }
    }
}

/// The regularized incomplete beta function I_x(a, a) for 0 ≤ x ≤ 1/2 by its power series (NIST Digital Library of
/// Mathematical Functions, 8.17.7 and 15.2.1): x^a / B(a, a) · Σ (1 - a)_n / n! · x^n / (a + n).
fn cumulative(x: f64) -> f64 {
    let mut coefficient = 1.0;
    let mut sum = 0.0;
    for n in 0..200 {
        let n = f64::from(n);
        let term = coefficient / (SHAPE + n);
        sum += term;
        if term < 1e-17 * sum {
            break;
        }
        coefficient *= (n + 1.0 - SHAPE) / (n + 1.0) * x;
    }
    sum * x.powf(SHAPE) / COMPLETE
}

/// B(0.6, 0.6) = Γ(0.6)² / Γ(1.2).
const COMPLETE: f64 = 2.4153442080024723;

#[cfg(test)]
mod tests {
    use super::*;

    /// From `scipy.stats.beta.ppf(p, 0.6, 0.6)`.
    #[test]
    fn quantiles_are_those_of_scipy() {
        for (probability, expected) in SCIPY {
            let found = quantile(probability);
            assert!((found - expected).abs() <= 1e-12 * expected, "{probability}: {found}, {expected}");
        }
        assert_eq!((quantile(0.0), quantile(1.0)), (0.0, 1.0));
    }

    /// Checks the series with its normalization: half of the distribution is below 1/2.
    #[test]
    fn half_lies_below_the_middle() {
        assert!((cumulative(0.5) - 0.5).abs() < 1e-14);
    }

    const SCIPY: [(f64, f64); 6] = [
        (0.001, 1.855873851745199e-05),
        (0.05, 0.012554456873611399),
        (0.25, 0.17568037865269498),
        (0.6, 0.6372990092467856),
        (0.93, 0.978056165310785),
        (0.999, 0.9999814412614826),
    ];
}
