//! AVX2 with FMA and F16C: two registers of eight lanes make a vector. Integer dot products take three
//! instructions, or one with AVX-VNNI.
#![expect(unsafe_code, reason = "intrinsics need an instruction set that only a token proves")]

use std::arch::x86_64::*;

use half::f16;

use super::{LANES, Lanes, Pairs, Quads, Simd, SimdOp};

/// Proof that this CPU has AVX2, FMA and F16C, and AVX-VNNI too if `VNNI`; `new` is the only way to get one.
#[derive(Clone, Copy)]
pub struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    /// The token, if the CPU has the instructions.
    pub fn new() -> Option<Self> {
        let present = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && (!VNNI || is_x86_feature_detected!("avxvnni"));
        present.then_some(Self(()))
    }
}

impl Avx2<false> {
    /// Runs `op` compiled for these instructions.
    #[inline]
    pub(super) fn run<Op: SimdOp>(self, op: Op) -> Op::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enter<Op: SimdOp>(isa: Avx2<false>, op: Op) -> Op::Output {
            op.eval(isa)
        }
        // SAFETY: `self` exists only where AVX2, FMA and F16C do.
        unsafe { enter(self, op) }
    }
}

impl Avx2<true> {
    /// Runs `op` compiled for these instructions.
    #[inline]
    pub(super) fn run<Op: SimdOp>(self, op: Op) -> Op::Output {
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        fn enter<Op: SimdOp>(isa: Avx2<true>, op: Op) -> Op::Output {
            op.eval(isa)
        }
        // SAFETY: `self` exists only where AVX2, FMA, F16C and AVX-VNNI do.
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

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type Vector = [__m256; 2];
    type Ints = [__m256i; 2];

    // 12 accumulators, 2 registers of weights and 1 of activations: 15 of the 16.
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 1;
    // 8 accumulators, 2 registers of weights, 2 of products, 1 of activations and 1 of ones.
    const DOT_ROWS: usize = 4;

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
    fn load_u8(self, from: &[u8; LANES]) -> Self::Vector {
        // SAFETY: `self` exists only where AVX2 does, and `from` holds the sixteen bytes read.
        unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            let (low, high) = (_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes)));
            [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
        }
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

    #[inline(always)]
    fn store_u8(self, value: Self::Vector, to: &mut [u8; LANES]) {
        // SAFETY: `self` exists only where AVX2 does, and `to` has room for the sixteen bytes written.
        unsafe {
            let [low, high] = [_mm256_cvtps_epi32(value[0]), _mm256_cvtps_epi32(value[1])];
            // Both packs work on each half separately: 0-3 8-11 | 4-7 12-15.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn mul_exp2(self, value: Self::Vector, n: Self::Vector) -> Self::Vector {
        let scale = |value, n| {
            // SAFETY: `self` exists only where AVX2 does.
            unsafe {
                let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), exponent))
            }
        };
        [scale(value[0], n[0]), scale(value[1], n[1])]
    }

    #[inline(always)]
    fn store_pairs(self, a: Self::Vector, b: Self::Vector, to: &mut Pairs) {
        let to: *mut __m256i = to.as_mut_ptr().cast();
        for half in 0..2 {
            // SAFETY: `self` exists only where AVX2 does, and `to` has room for both halves of the 64 bytes written.
            unsafe {
                let (a, b) = (_mm256_cvtps_epi32(a[half]), _mm256_cvtps_epi32(b[half]));
                let pairs = _mm256_blend_epi16::<0b1010_1010>(a, _mm256_slli_epi32::<16>(b));
                _mm256_storeu_si256(to.add(half), pairs);
            }
        }
    }

    #[inline(always)]
    fn load_ints(self, from: &[i32; LANES]) -> Self::Ints {
        let from: *const __m256i = from.as_ptr().cast();
        // SAFETY: `self` exists only where AVX2 does, and `from` holds both halves of the sixteen elements read.
        unsafe { [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))] }
    }

    #[inline(always)]
    fn dot_pairs(self, sums: Self::Ints, left: [i16; 2], right: &Pairs) -> Self::Ints {
        let right: *const __m256i = right.as_ptr().cast();
        // SAFETY: `self` exists only where AVX2 does, and AVX-VNNI if `VNNI`; `right` holds the 64 bytes read.
        unsafe {
            let left = _mm256_set1_epi32(i32::from(left[1]) << 16 | i32::from(left[0] as u16));
            let (low, high) = (_mm256_loadu_si256(right), _mm256_loadu_si256(right.add(1)));
            if VNNI {
                return [
                    _mm256_dpwssd_avx_epi32(sums[0], left, low),
                    _mm256_dpwssd_avx_epi32(sums[1], left, high),
                ];
            }
            [
                _mm256_add_epi32(sums[0], _mm256_madd_epi16(left, low)),
                _mm256_add_epi32(sums[1], _mm256_madd_epi16(left, high)),
            ]
        }
    }

    #[inline(always)]
    fn zero_ints(self) -> Self::Ints {
        // SAFETY: `self` exists only where AVX2 does.
        [unsafe { _mm256_setzero_si256() }; 2]
    }

    #[inline(always)]
    fn ints_to_f32(self, value: Self::Ints) -> Self::Vector {
        // SAFETY: `self` exists only where AVX2 does.
        unsafe { [_mm256_cvtepi32_ps(value[0]), _mm256_cvtepi32_ps(value[1])] }
    }

    #[inline(always)]
    fn dot(self, sums: Self::Ints, left: [u8; 4], right: &Quads) -> Self::Ints {
        let right: *const __m256i = right.as_ptr().cast();
        // SAFETY: `self` exists only where AVX2 does, and AVX-VNNI if `VNNI`; `right` holds the 64 bytes read.
        unsafe {
            let left = _mm256_set1_epi32(i32::from_le_bytes(left));
            let (low, high) = (_mm256_loadu_si256(right), _mm256_loadu_si256(right.add(1)));
            if VNNI {
                return [
                    _mm256_dpbusd_avx_epi32(sums[0], left, low),
                    _mm256_dpbusd_avx_epi32(sums[1], left, high),
                ];
            }
            // Neighbouring weights add up to at most 128, so sums of two products fit 16 bits.
            let ones = _mm256_set1_epi16(1);
            let low = _mm256_madd_epi16(_mm256_maddubs_epi16(left, low), ones);
            let high = _mm256_madd_epi16(_mm256_maddubs_epi16(left, high), ones);
            [_mm256_add_epi32(sums[0], low), _mm256_add_epi32(sums[1], high)]
        }
    }

    #[inline(always)]
    fn unpack_q4(self, packed: &[u8; 4 * LANES], multipliers: &[u32; LANES], to: &mut [Quads; 2]) {
        let [low, high] = to;
        for half in 0..2 {
            // SAFETY: `self` exists only where AVX2 does; both halves of each array lie in it.
            unsafe {
                let packed = _mm256_loadu_si256(packed.as_ptr().cast::<__m256i>().add(half));
                let multiplier = _mm256_loadu_si256(multipliers.as_ptr().cast::<__m256i>().add(half));
                let mask = _mm256_set1_epi8(15);
                // Both bytes of a 16-bit product at once: neither exceeds 15 * 15, so there is no carry.
                let offset = _mm256_mullo_epi16(multiplier, _mm256_set1_epi16(0x0808));
                let unpack = |halves: __m256i| {
                    let halves = _mm256_and_si256(halves, mask);
                    _mm256_sub_epi8(_mm256_mullo_epi16(halves, multiplier), offset)
                };
                let to_low = low.as_mut_ptr().cast::<__m256i>().add(half);
                let to_high = high.as_mut_ptr().cast::<__m256i>().add(half);
                _mm256_storeu_si256(to_low, unpack(packed));
                _mm256_storeu_si256(to_high, unpack(_mm256_srli_epi16::<4>(packed)));
            }
        }
    }
}
