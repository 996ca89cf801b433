//! Plain Rust on arrays: runs on any machine, and the compiler uses the instructions that the target always
//! has (SSE2 on x86-64).

use half::f16;

use super::{LANES, Lanes, Pairs, Quads, Simd};

/// The instruction set every machine has.
#[derive(Clone, Copy)]
pub struct Scalar;

#[inline(always)]
fn zip(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type Vector = Lanes;
    type Ints = [i32; LANES];

    const TILE_ROWS: usize = 2;
    const TILE_VECTORS: usize = 1;
    const DOT_ROWS: usize = 2;

    #[inline(always)]
    fn splat(self, value: f32) -> Lanes {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &Lanes) -> Lanes {
        *from
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> Lanes {
        from.map(f16::to_f32)
    }

    #[inline(always)]
    fn load_u8(self, from: &[u8; LANES]) -> Lanes {
        from.map(f32::from)
    }

    #[inline(always)]
    fn store(self, value: Lanes, to: &mut Lanes) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        // Rounded twice: where the instruction is missing, `mul_add` is a slow library call.
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn select_less(self, a: Lanes, b: Lanes, then: Lanes, otherwise: Lanes) -> Lanes {
        std::array::from_fn(|i| if a[i] < b[i] { then[i] } else { otherwise[i] })
    }

    #[inline(always)]
    fn exp2_whole(self, n: Lanes) -> Lanes {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn store_u8(self, value: Lanes, to: &mut [u8; LANES]) {
        *to = value.map(|value| value.round_ties_even() as u8);
    }

    #[inline(always)]
    fn mul_exp2(self, value: Lanes, n: Lanes) -> Lanes {
        self.mul(value, self.exp2_whole(n))
    }

    #[inline(always)]
    fn store_pairs(self, a: Lanes, b: Lanes, to: &mut Pairs) {
        for (pair, (a, b)) in to.as_chunks_mut().0.iter_mut().zip(a.into_iter().zip(b)) {
            *pair = [a.round_ties_even() as i16, b.round_ties_even() as i16];
        }
    }

    #[inline(always)]
    fn load_ints(self, from: &[i32; LANES]) -> [i32; LANES] {
        *from
    }

    #[inline(always)]
    fn dot_pairs(self, mut sums: [i32; LANES], left: [i16; 2], right: &Pairs) -> [i32; LANES] {
        for (sum, pair) in sums.iter_mut().zip(right.as_chunks::<2>().0) {
            for (&a, &b) in left.iter().zip(pair) {
                *sum += i32::from(a) * i32::from(b);
            }
        }
        sums
    }

    #[inline(always)]
    fn zero_ints(self) -> [i32; LANES] {
        [0; LANES]
    }

    #[inline(always)]
    fn ints_to_f32(self, value: [i32; LANES]) -> Lanes {
        value.map(|value| value as f32)
    }

    #[inline(always)]
    fn dot(self, mut sums: [i32; LANES], left: [u8; 4], right: &Quads) -> [i32; LANES] {
        for (sum, quad) in sums.iter_mut().zip(right.as_chunks::<4>().0) {
            for (&a, &b) in left.iter().zip(quad) {
                *sum += i32::from(a) * i32::from(b);
            }
        }
        sums
    }

    #[inline(always)]
    fn unpack_q4(self, packed: &[u8; 4 * LANES], multipliers: &[u32; LANES], to: &mut [Quads; 2]) {
        let [low, high] = to;
        for (i, &byte) in packed.iter().enumerate() {
            // At most 15 * 15 - 8 * 15, so it fits for any content of the file.
            let multiplier = multipliers[i / 4] as u8;
            low[i] = (multiplier * (byte & 15)).wrapping_sub(multiplier * 8) as i8;
            high[i] = (multiplier * (byte >> 4)).wrapping_sub(multiplier * 8) as i8;
        }
    }
}
