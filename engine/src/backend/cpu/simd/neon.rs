//! NEON: four registers of four lanes make a vector. Per register, integer dot products take four
//! instructions with the multiplications that every AArch64 has, and one with FEAT_DotProd or FEAT_I8MM.
//!
//! Instructions for which the oldest supported compiler has no intrinsics are written as assembly.
#![expect(unsafe_code, reason = "intrinsics need an instruction set that only a token proves")]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use half::f16;

use super::{LANES, Lanes, Pairs, Quads, Simd, SimdOp};

/// [`Neon`] with dot products made of widening multiplications.
pub const WIDENING: u8 = 0;
/// [`Neon`] with the dot products of FEAT_DotProd, both sides signed.
pub const DOTPROD: u8 = 1;
/// [`Neon`] with the dot products of FEAT_I8MM, one side unsigned.
pub const I8MM: u8 = 2;

/// Proof that this CPU has NEON and the dot products that `DOT` selects; `new` is the only way to get one.
#[derive(Clone, Copy)]
pub struct Neon<const DOT: u8>(());

impl<const DOT: u8> Neon<DOT> {
    /// The token, if the CPU has the instructions.
    pub fn new() -> Option<Self> {
        let present = is_aarch64_feature_detected!("neon")
            && match DOT {
                WIDENING => true,
                DOTPROD => is_aarch64_feature_detected!("dotprod"),
                I8MM => is_aarch64_feature_detected!("i8mm"),
                _ => false,
            };
        present.then_some(Self(()))
    }

    /// Runs `op`. Compiled code uses only instructions that the target always has.
    #[inline]
    pub(super) fn run<Op: SimdOp>(self, op: Op) -> Op::Output {
        op.eval(self)
    }
}

/// Applies the same instruction to all four registers.
macro_rules! quarters {
    (|$($operand:ident),+| $one:expr) => {{
        // SAFETY: the token at hand exists only where NEON does, and the instructions touch no memory.
        let quarter = |$($operand),+| unsafe { $one };
        [
            quarter($($operand[0]),+),
            quarter($($operand[1]),+),
            quarter($($operand[2]),+),
            quarter($($operand[3]),+),
        ]
    }};
}

/// Four half-precision numbers in the low half of a register, widened.
#[inline(always)]
fn widen_low(halves: uint16x8_t) -> float32x4_t {
    let wide;
    // SAFETY: an instruction every AArch64 has, which touches no memory.
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h", wide = lateout(vreg) wide, halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    wide
}

/// Four half-precision numbers in the high half of a register, widened.
#[inline(always)]
fn widen_high(halves: uint16x8_t) -> float32x4_t {
    let wide;
    // SAFETY: an instruction every AArch64 has, which touches no memory.
    unsafe {
        asm!(
            "fcvtl2 {wide:v}.4s, {halves:v}.8h", wide = lateout(vreg) wide, halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    wide
}

/// `sums[lane] + Σ_j left[j] * right[4 * lane + j]`, both sides signed.
///
/// # Safety
/// The CPU must have FEAT_DotProd.
#[inline(always)]
unsafe fn sdot(mut sums: int32x4_t, left: i32, right: int8x16_t) -> int32x4_t {
    // SAFETY: the caller answers for the instruction, which touches no memory.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {right:v}.16b, {left:v}.4b[0]",
            sums = inlateout(vreg) sums, right = in(vreg) right, left = in(vreg) left,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// `sums[lane] + Σ_j left[j] * right[4 * lane + j]`, the left side unsigned.
///
/// # Safety
/// The CPU must have FEAT_I8MM.
#[inline(always)]
unsafe fn sudot(mut sums: int32x4_t, left: u32, right: int8x16_t) -> int32x4_t {
    // SAFETY: the caller answers for the instruction, which touches no memory.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "sudot {sums:v}.4s, {right:v}.16b, {left:v}.4b[0]",
            sums = inlateout(vreg) sums, right = in(vreg) right, left = in(vreg) left,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// `sums[lane] + Σ_j left[j] * right[4 * lane + j]`, both sides signed, if pairs of products fit 16 bits.
#[inline(always)]
fn dot_widening(sums: int32x4_t, left: int8x16_t, right: int8x16_t) -> int32x4_t {
    // SAFETY: called with the token of NEON at hand; the instructions touch no memory.
    unsafe {
        let low = vmull_s8(vget_low_s8(left), vget_low_s8(right));
        let high = vmull_high_s8(left, right);
        vpadalq_s16(sums, vpaddq_s16(low, high))
    }
}

/// A quarter of the bytes at `from`.
#[inline(always)]
fn load_bytes(from: &Quads, quarter: usize) -> int8x16_t {
    let (quarters, _) = from.as_chunks::<16>();
    // SAFETY: the array holds the sixteen bytes read.
    unsafe { vld1q_s8(quarters[quarter].as_ptr()) }
}

impl<const DOT: u8> Simd for Neon<DOT> {
    type Vector = [float32x4_t; 4];
    type Ints = [int32x4_t; 4];

    // 24 accumulators, 4 registers of weights and up to 4 of activations: all 32 registers.
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 1;
    // As many registers as for `TILE_ROWS`.
    const DOT_ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        // SAFETY: `self` exists only where NEON does.
        [unsafe { vdupq_n_f32(value) }; 4]
    }

    #[inline(always)]
    fn load(self, from: &Lanes) -> Self::Vector {
        let from = from.as_ptr();
        // SAFETY: `from` holds the sixteen elements read.
        unsafe { [vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))] }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> Self::Vector {
        let from: *const u16 = from.as_ptr().cast();
        // SAFETY: `f16` is 16 bits wide, and `from` holds the sixteen read.
        let (low, high) = unsafe { (vld1q_u16(from), vld1q_u16(from.add(8))) };
        [widen_low(low), widen_high(low), widen_low(high), widen_high(high)]
    }

    #[inline(always)]
    fn load_u8(self, from: &[u8; LANES]) -> Self::Vector {
        // SAFETY: `self` exists only where NEON does, and `from` holds the sixteen bytes read.
        unsafe {
            let bytes = vld1q_u8(from.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
            [
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
                vcvtq_f32_u32(vmovl_high_u16(low)),
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
                vcvtq_f32_u32(vmovl_high_u16(high)),
            ]
        }
    }

    #[inline(always)]
    fn store(self, value: Self::Vector, to: &mut Lanes) {
        let to = to.as_mut_ptr();
        // SAFETY: `to` has room for the sixteen elements written.
        unsafe {
            vst1q_f32(to, value[0]);
            vst1q_f32(to.add(4), value[1]);
            vst1q_f32(to.add(8), value[2]);
            vst1q_f32(to.add(12), value[3]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        quarters!(|a, b| vaddq_f32(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        quarters!(|a, b| vsubq_f32(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        quarters!(|a, b| vmulq_f32(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        quarters!(|a, b| vdivq_f32(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        quarters!(|a, b, c| vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        quarters!(|a, b| vmaxq_f32(a, b))
    }

    #[inline(always)]
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        quarters!(|a, b| vminq_f32(a, b))
    }

    #[inline(always)]
    fn select_less(
        self,
        a: Self::Vector,
        b: Self::Vector,
        then: Self::Vector,
        otherwise: Self::Vector,
    ) -> Self::Vector {
        quarters!(|a, b, then, otherwise| vbslq_f32(vcltq_f32(a, b), then, otherwise))
    }

    #[inline(always)]
    fn exp2_whole(self, n: Self::Vector) -> Self::Vector {
        quarters!(|n| {
            let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        })
    }

    #[inline(always)]
    fn mul_exp2(self, value: Self::Vector, n: Self::Vector) -> Self::Vector {
        quarters!(|value, n| {
            let exponent = vshlq_n_s32::<23>(vcvtq_s32_f32(n));
            vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(value), exponent))
        })
    }

    #[inline(always)]
    fn store_u8(self, value: Self::Vector, to: &mut [u8; LANES]) {
        let [a, b, c, d] = quarters!(|value| vqmovn_u32(vcvtnq_u32_f32(value)));
        // SAFETY: `self` exists only where NEON does, and `to` has room for the sixteen bytes written.
        unsafe {
            let low = vqmovn_u16(vcombine_u16(a, b));
            vst1q_u8(to.as_mut_ptr(), vqmovn_high_u16(low, vcombine_u16(c, d)));
        }
    }

    #[inline(always)]
    fn store_pairs(self, a: Self::Vector, b: Self::Vector, to: &mut Pairs) {
        // `a` fills the low half of each lane, and `b` is inserted into the high half.
        let pairs = quarters!(|a, b| vsliq_n_s32::<16>(vcvtnq_s32_f32(a), vcvtnq_s32_f32(b)));
        for (to, pairs) in to.as_chunks_mut::<8>().0.iter_mut().zip(pairs) {
            // SAFETY: `to` has room for the eight integers written.
            unsafe { vst1q_s16(to.as_mut_ptr(), vreinterpretq_s16_s32(pairs)) }
        }
    }

    #[inline(always)]
    fn zero_ints(self) -> Self::Ints {
        // SAFETY: `self` exists only where NEON does.
        [unsafe { vdupq_n_s32(0) }; 4]
    }

    #[inline(always)]
    fn load_ints(self, from: &[i32; LANES]) -> Self::Ints {
        let from = from.as_ptr();
        // SAFETY: `from` holds the sixteen elements read.
        unsafe { [vld1q_s32(from), vld1q_s32(from.add(4)), vld1q_s32(from.add(8)), vld1q_s32(from.add(12))] }
    }

    #[inline(always)]
    fn ints_to_f32(self, value: Self::Ints) -> Self::Vector {
        quarters!(|value| vcvtq_f32_s32(value))
    }

    #[inline(always)]
    fn dot(self, sums: Self::Ints, left: [u8; 4], right: &Quads) -> Self::Ints {
        let start = self.dots_start(sums, std::slice::from_ref(right));
        self.dot_onward(start, left, right)
    }

    #[inline(always)]
    fn dots_start(self, mut start: Self::Ints, right: &[Quads]) -> Self::Ints {
        if DOT == I8MM {
            return start;
        }
        for right in right {
            for (quarter, start) in start.iter_mut().enumerate() {
                let right = load_bytes(right, quarter);
                *start = if DOT == DOTPROD {
                    // -128 * -128, in bytes that hold no 128.
                    // SAFETY: `self` exists only where FEAT_DotProd does.
                    unsafe { sdot(sdot(*start, 0x4040_4040, right), 0x4040_4040, right) }
                } else {
                    // SAFETY: `self` exists only where NEON does.
                    unsafe { vpadalq_s16(*start, vshlq_n_s16::<7>(vpaddlq_s8(right))) }
                };
            }
        }
        start
    }

    #[inline(always)]
    fn dot_onward(self, sums: Self::Ints, left: [u8; 4], right: &Quads) -> Self::Ints {
        let left = u32::from_le_bytes(left);
        // Subtracts 128: the bytes of the left side are signed.
        let signed = (left ^ 0x8080_8080).cast_signed();
        let mut next = sums;
        for (quarter, next) in next.iter_mut().enumerate() {
            let right = load_bytes(right, quarter);
            *next = match DOT {
                // SAFETY: `self` exists only where FEAT_I8MM does.
                I8MM => unsafe { sudot(*next, left, right) },
                // SAFETY: `self` exists only where FEAT_DotProd does.
                DOTPROD => unsafe { sdot(*next, signed, right) },
                // SAFETY: `self` exists only where NEON does.
                _ => dot_widening(*next, unsafe { vreinterpretq_s8_s32(vdupq_n_s32(signed)) }, right),
            };
        }
        next
    }

    #[inline(always)]
    fn dot_pairs(self, sums: Self::Ints, left: [i16; 2], right: &Pairs) -> Self::Ints {
        let right = right.as_ptr();
        let [mut a, mut b, mut c, mut d] = sums;
        // SAFETY: `self` exists only where NEON does, and `right` holds both halves of the 32 integers read.
        unsafe {
            let (low, high) = (vld2q_s16(right), vld2q_s16(right.add(16)));
            a = vmlal_n_s16(a, vget_low_s16(low.0), left[0]);
            b = vmlal_high_n_s16(b, low.0, left[0]);
            c = vmlal_n_s16(c, vget_low_s16(high.0), left[0]);
            d = vmlal_high_n_s16(d, high.0, left[0]);
            a = vmlal_n_s16(a, vget_low_s16(low.1), left[1]);
            b = vmlal_high_n_s16(b, low.1, left[1]);
            c = vmlal_n_s16(c, vget_low_s16(high.1), left[1]);
            d = vmlal_high_n_s16(d, high.1, left[1]);
        }
        [a, b, c, d]
    }

    #[inline(always)]
    fn unpack_q4(self, packed: &[u8; 4 * LANES], multipliers: &[u32; LANES], to: &mut [Quads; 2]) {
        let [low, high] = to;
        for quarter in 0..4 {
            // SAFETY: the quarters of each array lie in it.
            unsafe {
                let packed = vld1q_u8(packed.as_ptr().add(16 * quarter));
                let multiplier = vreinterpretq_u16_u32(vld1q_u32(multipliers.as_ptr().add(4 * quarter)));
                // The multiplier in every byte.
                let multiplier = vreinterpretq_s8_u16(vsliq_n_u16::<8>(multiplier, multiplier));
                let unpack = |halves: uint8x16_t| {
                    vmulq_s8(vsubq_s8(vreinterpretq_s8_u8(halves), vdupq_n_s8(8)), multiplier)
                };
                vst1q_s8(low.as_mut_ptr().add(16 * quarter), unpack(vandq_u8(packed, vdupq_n_u8(15))));
                vst1q_s8(high.as_mut_ptr().add(16 * quarter), unpack(vshrq_n_u8::<4>(packed)));
            }
        }
    }
}
