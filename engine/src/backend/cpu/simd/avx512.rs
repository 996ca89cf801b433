//! AVX-512F: one register of sixteen lanes is a vector.

use std::arch::x86_64::*;

use half::f16;

use super::{LANES, Lanes, Simd, SimdOp};

/// Proof that this CPU has AVX-512F; `new` is the only way to get one.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// The token, if the CPU has the instructions.
    pub fn new() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }

    /// Runs `op` compiled for these instructions.
    #[inline]
    pub(super) fn run<Op: SimdOp>(self, op: Op) -> Op::Output {
        #[target_feature(enable = "avx512f")]
        fn enter<Op: SimdOp>(isa: Avx512, op: Op) -> Op::Output {
            op.eval(isa)
        }
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { enter(self, op) }
    }
}

/// The mask of the first `lanes` lanes.
#[inline(always)]
fn first(lanes: usize) -> __mmask16 {
    assert!(lanes <= LANES, "a vector has {LANES} lanes, not {lanes}");
    ((1_u32 << lanes) - 1) as __mmask16
}

impl Simd for Avx512 {
    type Vector = __m512;

    // 24 accumulators and 2 registers of weights; activations are broadcast from memory by the FMA itself.
    const TILE_ROWS: usize = 12;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &Lanes) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does, and `from` holds the sixteen elements read.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does, `f16` is 16 bits wide, and `from` holds the sixteen read.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(self, value: __m512, to: &mut Lanes) {
        // SAFETY: `self` exists only where AVX-512F does, and `to` has room for the sixteen elements written.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn select_less(self, a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), otherwise, then) }
    }

    #[inline(always)]
    fn exp2_whole(self, n: __m512) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does, and the mask admits only elements of `from`.
        unsafe { _mm512_maskz_loadu_ps(first(from.len()), from.as_ptr()) }
    }

    #[inline(always)]
    fn store_partial(self, value: __m512, to: &mut [f32]) {
        // SAFETY: `self` exists only where AVX-512F does, and the mask admits only elements of `to`.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first(to.len()), value) }
    }
}
