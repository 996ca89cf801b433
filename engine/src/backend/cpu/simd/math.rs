//! Functions of a vector that activations and the softmax use.

use super::Simd;

/// `e^x`, at most 2 units in the last place from the true value for `x` in `-87.3..=88.3`.
///
/// Below that range the result is zero: subnormal values, which are slow, are flushed. Above it the result is
/// infinite, slightly early. Range reduction to `r = x - n ln 2`, |r| <= ln 2 / 2, and the polynomial are
/// those of Cephes' `expf` (Moshier, netlib.org/cephes, single/expf.c).
#[inline(always)]
pub fn exp<S: Simd>(isa: S, x: S::Vector) -> S::Vector {
    // 1.5 * 2^23: adding it leaves no bits for a fraction, so that subtracting it again rounds to a whole number.
    let rounder = isa.splat(12_582_912.0);
    let lowest = isa.splat(-87.3);
    let highest = isa.splat(88.3);
    let clamped = isa.min(isa.max(x, lowest), highest);
    let n = isa.sub(isa.fma(clamped, isa.splat(std::f32::consts::LOG2_E), rounder), rounder);
    // ln 2 in two parts, the first with so few bits that its product with n is exact.
    let r = isa.fma(n, isa.splat(-0.693_359_4), clamped);
    let r = isa.fma(n, isa.splat(2.121_944_4e-4), r);
    let mut p = isa.splat(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = isa.fma(p, r, isa.splat(coefficient));
    }
    let power = isa.add(isa.fma(isa.mul(r, r), p, r), isa.splat(1.0));
    let power = isa.mul(power, isa.exp2_whole(n));
    let power = isa.select_less(highest, x, isa.splat(f32::INFINITY), power);
    isa.select_less(x, lowest, isa.splat(0.0), power)
}

/// `2^x` with a relative error of at most 7.5e-5, for `x` in `-125..=127`; below that range, the value at
/// -125.
///
/// A whole power of two times a cubic polynomial of the rest, |rest| <= 1/2, which has the smallest possible
/// maximum relative error.
#[inline(always)]
pub fn exp2_coarse<S: Simd>(isa: S, x: S::Vector) -> S::Vector {
    let rounder = isa.splat(12_582_912.0);
    let x = isa.max(x, isa.splat(-125.0));
    let n = isa.sub(isa.add(x, rounder), rounder);
    let r = isa.sub(x, n);
    let mut power = isa.splat(0.055_171_67);
    for coefficient in [0.242_611_14, 0.693_260_97, 0.999_928_06] {
        power = isa.fma(power, r, isa.splat(coefficient));
    }
    isa.mul_exp2(power, n)
}

/// `x / (1 + e^(-slope x))`: SiLU with slope 1.
#[inline(always)]
pub fn swish<S: Simd>(isa: S, x: S::Vector, slope: f32) -> S::Vector {
    let e = exp(isa, isa.mul(x, isa.splat(-slope)));
    isa.div(x, isa.add(isa.splat(1.0), e))
}

/// `x Φ(x)` with the normal distribution's Φ, the exact GELU; the error is at most 1e-6.
///
/// The upper tail `Q(|x|) = 1 - Φ(|x|)` is `erfc(|x| / √2) / 2` by Abramowitz and Stegun 7.1.26, which is
/// within 1.5e-7; then `x Φ(x) = max(x, 0) - |x| Q(|x|)` on both sides of zero.
#[inline(always)]
pub fn gelu<S: Simd>(isa: S, x: S::Vector) -> S::Vector {
    let zero = isa.splat(0.0);
    let one = isa.splat(1.0);
    let magnitude = isa.max(x, isa.sub(zero, x));
    // 0.3275911 / √2
    let t = isa.div(one, isa.fma(magnitude, isa.splat(0.231_641_89), one));
    let mut p = isa.splat(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = isa.fma(p, t, isa.splat(coefficient));
    }
    let density = exp(isa, isa.mul(isa.mul(x, x), isa.splat(-0.5)));
    let tail = isa.mul(isa.mul(p, t), isa.mul(density, isa.splat(0.5)));
    isa.sub(isa.max(x, zero), isa.mul(magnitude, tail))
}

/// The tanh form of GELU, `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))` (Hendrycks and Gimpel, arXiv:1606.08415).
#[inline(always)]
pub fn gelu_tanh<S: Simd>(isa: S, x: S::Vector) -> S::Vector {
    // (1 + tanh u) / 2 = 1 / (1 + e^(-2u)), with 2 √(2/π) folded into the constants.
    let cubic = isa.fma(isa.mul(x, x), isa.splat(0.071_354_814), isa.splat(1.595_769));
    let e = exp(isa, isa.mul(isa.sub(isa.splat(0.0), x), cubic));
    isa.div(x, isa.add(isa.splat(1.0), e))
}

/// `3 tanh(x / 3)` with an error of at most 1e-6: `tanh u = 1 - 2 / (1 + e^(2u))`.
#[inline(always)]
pub fn tanh3<S: Simd>(isa: S, x: S::Vector) -> S::Vector {
    let e = exp(isa, isa.mul(x, isa.splat(2.0 / 3.0)));
    isa.sub(isa.splat(3.0), isa.div(isa.splat(6.0), isa.add(isa.splat(1.0), e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::{Isa, LANES, Lanes, SimdOp};

    struct Exp(Lanes);

    impl SimdOp for Exp {
        type Output = Lanes;

        #[inline(always)]
        fn eval<S: Simd>(self, isa: S) -> Lanes {
            isa.lanes(exp(isa, isa.load(&self.0)))
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for &isa in Isa::available() {
            for step in -87_300_i32..88_300 {
                // Sixteen points in each interval of 1/1000.
                let x: Lanes =
                    std::array::from_fn(|lane| (step as f32 + lane as f32 / LANES as f32) / 1000.0);
                for (x, y) in x.into_iter().zip(isa.dispatch(Exp(x))) {
                    let exact = f64::from(x).exp();
                    let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
                    let error = (f64::from(y) - exact).abs() / unit;
                    assert!(error <= 2.0, "{isa:?}: exp({x}) is {y}, {error:.2} units off");
                }
            }
        }
    }

    struct Exp2(Lanes);

    impl SimdOp for Exp2 {
        type Output = Lanes;

        #[inline(always)]
        fn eval<S: Simd>(self, isa: S) -> Lanes {
            isa.lanes(exp2_coarse(isa, isa.load(&self.0)))
        }
    }

    #[test]
    fn coarse_exp2_is_as_near_as_it_says() {
        for &isa in Isa::available() {
            for step in -12_500_i32..12_700 {
                let x: Lanes = std::array::from_fn(|lane| (step as f32 + lane as f32 / LANES as f32) / 100.0);
                for (x, y) in x.into_iter().zip(isa.dispatch(Exp2(x))) {
                    let exact = f64::from(x).exp2();
                    let error = (f64::from(y) - exact).abs() / exact;
                    assert!(error <= 7.6e-5, "{isa:?}: 2^{x} is {y}, off by {error:.2e}");
                }
            }
            assert_eq!(isa.dispatch(Exp2([-1e30; LANES])), isa.dispatch(Exp2([-125.0; LANES])), "{isa:?}");
        }
    }

    #[test]
    fn exp_ends_in_zero_and_infinity() {
        let mut x = [f32::NEG_INFINITY; LANES];
        x[..8].copy_from_slice(&[f32::MIN, -1000.0, -87.4, f32::INFINITY, f32::MAX, 1000.0, 88.8, 0.0]);
        let mut expected = [0.0; LANES];
        expected[3..8].copy_from_slice(&[f32::INFINITY, f32::INFINITY, f32::INFINITY, f32::INFINITY, 1.0]);
        for &isa in Isa::available() {
            assert_eq!(isa.dispatch(Exp(x)), expected, "{isa:?}");
        }
    }
}
