//! AVX-512F and BW: one register of sixteen lanes is a vector. Integer dot products take three instructions, or one
//! with VNNI.
#![expect(unsafe_code, reason = "intrinsics need an instruction set that only a token proves")]

use std::arch::x86_64::*;

use half::f16;

use super::{LANES, Lanes, Pairs, Quads, Simd, SimdOp};

/// Proof that this CPU has AVX-512F and BW, and VNNI too if `VNNI`; `new` is the only way to get one.
#[derive(Clone, Copy)]
pub struct Avx512<const VNNI: bool>(());

impl<const VNNI: bool> Avx512<VNNI> {
    /// The token, if the CPU has the instructions.
    pub fn new() -> Option<Self> {
        let present = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && (!VNNI || is_x86_feature_detected!("avx512vnni"));
        present.then_some(Self(()))
    }
}

impl Avx512<false> {
    /// Runs `op` compiled for these instructions.
    #[inline]
    pub(super) fn run<Op: SimdOp>(self, op: Op) -> Op::Output {
        #[target_feature(enable = "avx512f,avx512bw")]
        fn enter<Op: SimdOp>(isa: Avx512<false>, op: Op) -> Op::Output {
            op.eval(isa)
        }
        // SAFETY: `self` exists only where AVX-512F and BW do.
        unsafe { enter(self, op) }
    }
}

impl Avx512<true> {
    /// Runs `op` compiled for these instructions.
    #[inline]
    pub(super) fn run<Op: SimdOp>(self, op: Op) -> Op::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        fn enter<Op: SimdOp>(isa: Avx512<true>, op: Op) -> Op::Output {
            op.eval(isa)
        }
        // SAFETY: `self` exists only where AVX-512F, BW and VNNI do.
        unsafe { enter(self, op) }
    }
}

/// The mask of the first `lanes` lanes.
#[inline(always)]
fn first(lanes: usize) -> __mmask16 {
    assert!(lanes <= LANES, "a vector has {LANES} lanes, not {lanes}");
    ((1_u32 << lanes) - 1) as __mmask16
}

impl<const VNNI: bool> Simd for Avx512<VNNI> {
    type Vector = __m512;
    type Ints = __m512i;

    // 24 accumulators and 2 registers of weights; activations are broadcast from memory by the FMA itself.
    const TILE_ROWS: usize = 12;
    const TILE_VECTORS: usize = 2;
    // 12 accumulators, as many sums in single precision, and 2 registers of weights.
    const DOT_ROWS: usize = 6;

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
    fn load_u8(self, from: &[u8; LANES]) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does, and `from` holds the sixteen bytes read.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
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
    fn store_u8(self, value: __m512, to: &mut [u8; LANES]) {
        // SAFETY: `self` exists only where AVX-512F does, and `to` has room for the sixteen bytes written.
        unsafe {
            let bytes = _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(value));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn mul_exp2(self, value: __m512, n: __m512) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_scalef_ps(value, n) }
    }

    #[inline(always)]
    fn store_pairs(self, a: __m512, b: __m512, to: &mut Pairs) {
        // SAFETY: `self` exists only where AVX-512F and BW do, and `to` has room for the 64 bytes written.
        unsafe {
            let (a, b) = (_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
            let pairs = _mm512_mask_blend_epi16(0xAAAA_AAAA, a, _mm512_slli_epi32::<16>(b));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs);
        }
    }

    #[inline(always)]
    fn load_ints(self, from: &[i32; LANES]) -> __m512i {
        // SAFETY: `self` exists only where AVX-512F does, and `from` holds the sixteen elements read.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn dot_pairs(self, sums: __m512i, left: [i16; 2], right: &Pairs) -> __m512i {
        // SAFETY: `self` exists only where AVX-512F and BW do, and VNNI if `VNNI`; `right` holds the 64 bytes read.
        unsafe {
            let left = _mm512_set1_epi32(i32::from(left[1]) << 16 | i32::from(left[0] as u16));
            let right = _mm512_loadu_si512(right.as_ptr().cast());
            if VNNI {
                return _mm512_dpwssd_epi32(sums, left, right);
            }
            _mm512_add_epi32(sums, _mm512_madd_epi16(left, right))
        }
    }

    #[inline(always)]
    fn zero_ints(self) -> __m512i {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn ints_to_f32(self, value: __m512i) -> __m512 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_cvtepi32_ps(value) }
    }

    #[inline(always)]
    fn dot(self, sums: __m512i, left: [u8; 4], right: &Quads) -> __m512i {
        // SAFETY: `self` exists only where AVX-512F and BW do, and VNNI if `VNNI`; `right` holds the 64 bytes read.
        unsafe {
            let left = _mm512_set1_epi32(i32::from_le_bytes(left));
            let right = _mm512_loadu_si512(right.as_ptr().cast());
            if VNNI {
                return _mm512_dpbusd_epi32(sums, left, right);
            }
            // Neighbouring weights add up to at most 128, so sums of two products fit 16 bits.
            let products = _mm512_madd_epi16(_mm512_maddubs_epi16(left, right), _mm512_set1_epi16(1));
            _mm512_add_epi32(sums, products)
        }
    }

    #[inline(always)]
    fn unpack_q4(self, packed: &[u8; 4 * LANES], multipliers: &[u32; LANES], to: &mut [Quads; 2]) {
        let [low, high] = to;
        // SAFETY: `self` exists only where AVX-512F and BW do; every array holds the 64 bytes read or written.
        unsafe {
            let packed = _mm512_loadu_si512(packed.as_ptr().cast());
            let multiplier = _mm512_loadu_si512(multipliers.as_ptr().cast());
            let mask = _mm512_set1_epi8(15);
            // Both bytes of a 16-bit product at once: neither exceeds 15 * 15, so there is no carry.
            let offset = _mm512_mullo_epi16(multiplier, _mm512_set1_epi16(0x0808));
            let unpack = |halves: __m512i| {
                let halves = _mm512_and_si512(halves, mask);
                _mm512_sub_epi8(_mm512_mullo_epi16(halves, multiplier), offset)
            };
            _mm512_storeu_si512(low.as_mut_ptr().cast(), unpack(packed));
            _mm512_storeu_si512(high.as_mut_ptr().cast(), unpack(_mm512_srli_epi16::<4>(packed)));
        }
    }

    #[inline(always)]
    fn min_lane(self, value: __m512) -> f32 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_reduce_min_ps(value) }
    }

    #[inline(always)]
    fn max_lane(self, value: __m512) -> f32 {
        // SAFETY: `self` exists only where AVX-512F does.
        unsafe { _mm512_reduce_max_ps(value) }
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
