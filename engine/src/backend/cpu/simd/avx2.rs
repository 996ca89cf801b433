//! AVX2 with FMA and F16C: two registers of eight lanes make a vector.

use std::arch::x86_64::*;

use half::f16;

use super::{LANES, Lanes, Simd, SimdOp};

/// Proof that this CPU has AVX2, FMA and F16C; `new` is the only way to get one.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// The token, if the CPU has the instructions.
    pub fn new() -> Option<Self> {
        let present = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        present.then_some(Self(()))
    }

    /// Runs `op` compiled for these instructions.
    #[inline]
    pub(super) fn run<Op: SimdOp>(self, op: Op) -> Op::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enter<Op: SimdOp>(isa: Avx2, op: Op) -> Op::Output {
            op.eval(isa)
        }
        // SAFETY: `self` exists only where AVX2, FMA and F16C do.
        unsafe { enter(self, op) }
    }
}

/// The same instruction on both halves.
macro_rules! halves {
    ($intrinsic:ident, $($operand:ident),+) => {
        // SAFETY: `self` exists only where AVX2 and FMA do, and the instruction touches no memory.
        unsafe { [$intrinsic($($operand[0]),+), $intrinsic($($operand[1]),+)] }
    };
}

impl Simd for Avx2 {
    type Vector = [__m256; 2];

    // 12 accumulators, 2 registers of weights and 1 of activations: 15 of the 16.
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 1;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        // SAFETY: `self` exists only where AVX2 does.
        [unsafe { _mm256_set1_ps(value) }; 2]
    }

    #[inline(always)]
    fn load(self, from: &Lanes) -> Self::Vector {
        // SAFETY: `self` exists only where AVX2 does, and `from` holds the sixteen elements read.
        unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> Self::Vector {
        let from: *const __m128i = from.as_ptr().cast();
        // SAFETY: `self` exists only where F16C does, `f16` is 16 bits wide, and `from` holds the sixteen read.
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from.add(1)))] }
    }

    #[inline(always)]
    fn store(self, value: Self::Vector, to: &mut Lanes) {
        // SAFETY: `self` exists only where AVX2 does, and `to` has room for the sixteen elements written.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), value[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), value[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        halves!(_mm256_add_ps, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        halves!(_mm256_sub_ps, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        halves!(_mm256_mul_ps, a, b)
    }

    #[inline(always)]
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        halves!(_mm256_div_ps, a, b)
    }

    #[inline(always)]
    fn fma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        halves!(_mm256_fmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        halves!(_mm256_max_ps, a, b)
    }

    #[inline(always)]
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        halves!(_mm256_min_ps, a, b)
    }

    #[inline(always)]
    fn select_less(
        self,
        a: Self::Vector,
        b: Self::Vector,
        then: Self::Vector,
        otherwise: Self::Vector,
    ) -> Self::Vector {
        let less = |a, b, then, otherwise| {
            // SAFETY: `self` exists only where AVX2 does.
            unsafe { _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
        };
        [less(a[0], b[0], then[0], otherwise[0]), less(a[1], b[1], then[1], otherwise[1])]
    }

    #[inline(always)]
    fn exp2_whole(self, n: Self::Vector) -> Self::Vector {
        let power = |n| {
            // SAFETY: `self` exists only where AVX2 does.
            unsafe {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            }
        };
        [power(n[0]), power(n[1])]
    }
}
