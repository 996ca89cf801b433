//! Vectors of sixteen `f32` and the instruction sets that implement them.
//!
//! A kernel is written once over [`Simd`] and run through [`Isa::dispatch`], which calls it in a function
//! compiled for the instruction set. An instruction set is a token that only its `new` returns, after it has
//! checked the CPU. So a token proves that its instructions may be executed, and every method of the trait is
//! safe.
//!
//! The vector is always [`LANES`] wide, the width of a weight panel: one register with AVX-512, two with
//! AVX2, four with NEON. So tails, reductions and layouts are the same on every machine.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
pub(crate) mod tile;

use std::fmt;
use std::sync::OnceLock;

use half::f16;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use scalar::Scalar;

/// Elements in a vector, on every instruction set.
pub const LANES: usize = 16;

/// The elements of one vector in memory.
pub type Lanes = [f32; LANES];

/// Four bytes for each lane: the part of a weight panel that one step of an integer dot product reads.
pub type Quads = [i8; 4 * LANES];

/// Two 16-bit integers for each lane: the part of the right operand that one step of a dot product of pairs
/// reads.
pub type Pairs = [i16; 2 * LANES];

/// The operations that kernels need of an instruction set. All are per lane unless their documentation says
/// otherwise.
pub trait Simd: Copy + Send + Sync {
    /// Sixteen `f32`.
    type Vector: Copy;
    /// Sixteen `i32`.
    type Ints: Copy;

    /// Rows of a matrix product's register tile: as many as keep the accumulators in registers.
    const TILE_ROWS: usize;
    /// Vectors in a row of that tile, 1 or 2.
    const TILE_VECTORS: usize;
    /// Rows of the register tile of an integer product, whose sums in single precision may be in memory.
    const DOT_ROWS: usize;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::Vector;
    /// Sixteen elements from memory.
    fn load(self, from: &Lanes) -> Self::Vector;
    /// Sixteen half-precision elements from memory, widened exactly.
    fn load_f16(self, from: &[f16; LANES]) -> Self::Vector;
    /// Sixteen bytes from memory, as `0.0..=255.0`.
    fn load_u8(self, from: &[u8; LANES]) -> Self::Vector;
    /// Sixteen elements to memory.
    fn store(self, value: Self::Vector, to: &mut Lanes);
    /// `a + b`
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b`
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a / b`
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, rounded once where the instruction set can.
    fn fma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger of `a` and `b`.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The smaller of `a` and `b`.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `then` where `a < b`, `otherwise` elsewhere.
    fn select_less(
        self,
        a: Self::Vector,
        b: Self::Vector,
        then: Self::Vector,
        otherwise: Self::Vector,
    ) -> Self::Vector;
    /// `2^n` for whole `n` in `-126..=127`.
    fn exp2_whole(self, n: Self::Vector) -> Self::Vector;
    /// `value * 2^n` for whole `n` in `-126..=127` and normal values and results.
    fn mul_exp2(self, value: Self::Vector, n: Self::Vector) -> Self::Vector;
    /// The lanes rounded to nearest, ties to even, to memory. Lanes must be in `-0.5..=255.5`.
    fn store_u8(self, value: Self::Vector, to: &mut [u8; LANES]);
    /// The lanes of `a` and `b`, rounded likewise, interleaved: `to[2 * lane]` and `to[2 * lane + 1]`. Lanes
    /// must be in `-32768.5..=32767.5`.
    fn store_pairs(self, a: Self::Vector, b: Self::Vector, to: &mut Pairs);

    /// Zero in every lane.
    fn zero_ints(self) -> Self::Ints;
    /// Sixteen integers from memory.
    fn load_ints(self, from: &[i32; LANES]) -> Self::Ints;
    /// The lanes in single precision; exact below 2^24.
    fn ints_to_f32(self, value: Self::Ints) -> Self::Vector;
    /// `sums[lane] + Σ_j left[j] * right[4 * lane + j]`, exactly, as long as neighbouring products `2j` and
    /// `2j + 1` add up to a 16-bit integer. This holds for weights, whose neighbours add up to at most 128
    /// (see [`sdq_formats::layout::quantized`]), and for any bytes above -128 if those on the left are at
    /// most 127.
    fn dot(self, sums: Self::Ints, left: [u8; 4], right: &Quads) -> Self::Ints;
    /// The value from which a run of [`Simd::dot_onward`] over all of `right` must start, so that it ends at
    /// `start` plus the products.
    #[inline(always)]
    fn dots_start(self, start: Self::Ints, _right: &[Quads]) -> Self::Ints {
        start
    }
    /// As [`Simd::dot`], but without the part that [`Simd::dots_start`] has added already.
    #[inline(always)]
    fn dot_onward(self, sums: Self::Ints, left: [u8; 4], right: &Quads) -> Self::Ints {
        self.dot(sums, left, right)
    }
    /// `sums[lane] + left[0] * right[2 * lane] + left[1] * right[2 * lane + 1]`, exactly.
    fn dot_pairs(self, sums: Self::Ints, left: [i16; 2], right: &Pairs) -> Self::Ints;
    /// The two steps of q4 weights in `packed`: low halves first, `multiplier * (half - 8)`. `multipliers`
    /// holds each lane's multiplier twice, in both of its 16-bit halves.
    fn unpack_q4(self, packed: &[u8; 4 * LANES], multipliers: &[u32; LANES], to: &mut [Quads; 2]);

    /// Up to sixteen elements from memory; lanes past the end of `from` hold zero.
    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> Self::Vector {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    /// The first `to.len()` lanes, at most sixteen, to memory.
    #[inline(always)]
    fn store_partial(self, value: Self::Vector, to: &mut [f32]) {
        let lanes = self.lanes(value);
        to.copy_from_slice(&lanes[..to.len()]);
    }

    /// The lanes one by one.
    #[inline(always)]
    fn lanes(self, value: Self::Vector) -> Lanes {
        let mut lanes = [0.0; LANES];
        self.store(value, &mut lanes);
        lanes
    }

    /// The sum of the lanes, pair by pair, in one order on every instruction set.
    #[inline(always)]
    fn sum(self, value: Self::Vector) -> f32 {
        fold(self.lanes(value), |a, b| a + b)
    }

    /// The smallest lane.
    #[inline(always)]
    fn min_lane(self, value: Self::Vector) -> f32 {
        fold(self.lanes(value), |a, b| if a < b { a } else { b })
    }

    /// The largest lane.
    #[inline(always)]
    fn max_lane(self, value: Self::Vector) -> f32 {
        fold(self.lanes(value), |a, b| if a > b { a } else { b })
    }
}

/// Halves the lanes until one is left.
#[inline(always)]
fn fold(mut lanes: Lanes, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = combine(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// A piece of work written over any instruction set. `eval` must be `#[inline(always)]`, and so must every
/// function that it calls with vectors; otherwise they are compiled without the instructions that they need.
/// Vectors must not be used in a closure that is called from elsewhere, `map` and `from_fn` of arrays
/// included.
pub trait SimdOp {
    /// What the work returns.
    type Output;
    /// Does the work with the instructions of `isa`.
    fn eval<S: Simd>(self, isa: S) -> Self::Output;
}

/// An instruction set this machine has.
#[derive(Clone, Copy)]
pub enum Isa {
    /// No vector instructions beyond those that the target always has.
    Scalar(Scalar),
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2<false>),
    /// The same with the integer dot products of AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Avx2<true>),
    /// AVX-512F and BW.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512<false>),
    /// The same with the integer dot products of AVX-512 VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512<true>),
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon<{ neon::WIDENING }>),
    /// The same with the integer dot products of FEAT_DotProd.
    #[cfg(target_arch = "aarch64")]
    NeonDot(Neon<{ neon::DOTPROD }>),
    /// The same with the integer dot products of FEAT_I8MM.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm(Neon<{ neon::I8MM }>),
}

impl Isa {
    /// The instruction sets of this machine, slowest first. Never empty.
    pub fn available() -> &'static [Isa] {
        static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            let mut available = vec![Isa::Scalar(Scalar)];
            #[cfg(target_arch = "x86_64")]
            {
                available.extend(Avx2::new().map(Isa::Avx2));
                available.extend(Avx2::new().map(Isa::AvxVnni));
                available.extend(Avx512::new().map(Isa::Avx512));
                available.extend(Avx512::new().map(Isa::Avx512Vnni));
            }
            #[cfg(target_arch = "aarch64")]
            {
                available.extend(Neon::new().map(Isa::Neon));
                available.extend(Neon::new().map(Isa::NeonDot));
                available.extend(Neon::new().map(Isa::NeonI8mm));
            }
            available
        })
    }

    /// The fastest instruction set of this machine, or the one that the environment variable `SDQ_ISA` names
    /// (`scalar`, `avx2`, `avxvnni`, `avx512`, `avx512vnni`, `neon`, `neondot`, `neoni8mm`) if the machine has it. Any
    /// other value changes nothing; [`Isa::unusable`] says so.
    pub fn best() -> Isa {
        let available = Isa::available();
        let wanted = std::env::var("SDQ_ISA").unwrap_or_default();
        let named = available.iter().find(|isa| isa.name() == wanted);
        *named.or(available.last()).expect("scalar is always available")
    }

    /// Describes the problem if `wanted`, a value of `SDQ_ISA`, has no effect.
    pub fn unusable(wanted: &str) -> Option<String> {
        let names: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
        let has_it = wanted.is_empty() || names.contains(&wanted);
        (!has_it).then(|| {
            let (names, best) =
                (names.join(", "), Isa::available().last().map_or("scalar", |isa| isa.name()));
            format!("SDQ_ISA is {wanted:?} and has no effect, expected one of {names}; {best} is used")
        })
    }

    /// The name by which `SDQ_ISA` selects it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni(_) => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni(_) => "avx512vnni",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot(_) => "neondot",
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm(_) => "neoni8mm",
        }
    }

    /// Runs `op` with this instruction set.
    #[inline]
    pub fn dispatch<Op: SimdOp>(self, op: Op) -> Op::Output {
        match self {
            Isa::Scalar(isa) => op.eval(isa),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni(isa) => isa.run(op),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(isa) => isa.run(op),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot(isa) => isa.run(op),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm(isa) => isa.run(op),
        }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation of the trait, on one vector of values.
    struct Operations;

    impl SimdOp for Operations {
        type Output = Vec<Lanes>;

        #[inline(always)]
        fn eval<S: Simd>(self, isa: S) -> Vec<Lanes> {
            let ascending: Lanes = std::array::from_fn(|i| i as f32 - 3.5);
            let a = isa.load(&ascending);
            let b = isa.splat(2.0);
            let halves: [f16; LANES] = std::array::from_fn(|i| f16::from_bits(i as u16 * 0x1001));
            let mut partial = [9.0; LANES];
            isa.store_partial(a, &mut partial[..5]);
            let mut nothing: [f32; 0] = [];
            isa.store_partial(a, &mut nothing);
            vec![
                isa.lanes(isa.add(a, b)),
                isa.lanes(isa.sub(a, b)),
                isa.lanes(isa.mul(a, b)),
                isa.lanes(isa.div(a, b)),
                isa.lanes(isa.fma(a, b, a)),
                isa.lanes(isa.max(a, b)),
                isa.lanes(isa.min(a, b)),
                isa.lanes(isa.select_less(a, b, isa.splat(-1.0), a)),
                isa.lanes(isa.exp2_whole(isa.sub(isa.mul(a, b), isa.splat(119.0)))),
                isa.lanes(isa.mul_exp2(isa.splat(-1.5), isa.sub(isa.mul(a, b), isa.splat(60.0)))),
                isa.lanes(isa.load_f16(&halves)),
                isa.lanes(isa.load_partial(&ascending[..11])),
                isa.lanes(isa.load_partial(&[])),
                partial,
                [isa.sum(a); LANES],
                [isa.min_lane(a); LANES],
                [isa.max_lane(a); LANES],
            ]
        }
    }

    /// The integer operations at the ends of their ranges: bytes of 255 against pairs of weights that add up to 128.
    struct Integers;

    impl SimdOp for Integers {
        type Output = (Vec<Lanes>, [u8; LANES], [Quads; 2], Pairs);

        #[inline(always)]
        fn eval<S: Simd>(self, isa: S) -> Self::Output {
            let pairs = [[127, 1], [-127, -1], [64, 64], [-64, -64], [127, -127], [1, 127], [0, 0], [-3, 5]];
            let weights: Quads = std::array::from_fn(|i| pairs[i / 2 % 8][i % 2]);
            let mut sums = isa.zero_ints();
            let mut seen = Vec::new();
            for left in [[255, 255, 255, 255], [0, 1, 255, 0], [255, 0, 128, 7]] {
                sums = isa.dot(sums, left, &weights);
                seen.push(isa.lanes(isa.ints_to_f32(sums)));
            }
            let ascending: Lanes = std::array::from_fn(|i| i as f32 * 17.0 + [0.0, 0.5, 0.49][i % 3]);
            let mut bytes = [0; LANES];
            isa.store_u8(isa.load(&ascending), &mut bytes);
            let packed = std::array::from_fn(|i| (i * 37) as u8);
            let multipliers = std::array::from_fn(|lane| (lane as u32 % 16) * 0x0001_0001);
            let mut unpacked = [[0; 4 * LANES]; 2];
            isa.unpack_q4(&packed, &multipliers, &mut unpacked);

            let mut pairs = [0; 2 * LANES];
            let centred = isa.sub(isa.load(&ascending), isa.splat(100.0));
            isa.store_pairs(isa.mul(centred, isa.splat(200.0)), centred, &mut pairs);
            let mut sums = isa.load_ints(&std::array::from_fn(|lane| lane as i32 - 7));
            for left in [[i16::MAX, i16::MIN], [-3, 5]] {
                sums = isa.dot_pairs(sums, left, &pairs);
                seen.push(isa.lanes(isa.ints_to_f32(sums)));
            }
            (seen, bytes, unpacked, pairs)
        }
    }

    #[test]
    fn instruction_sets_agree_on_integers() {
        let expected = Isa::Scalar(Scalar).dispatch(Integers);
        let (sums, bytes, unpacked, pairs) = &expected;
        assert_eq!(sums[0][..4], [0.0, 0.0, 255.0 * 128.0, 255.0 * 2.0]);
        // 17.5 and 68.5 are ties, rounded to the even neighbour.
        assert_eq!(bytes[..5], [0, 18, 34, 51, 68]);
        // Byte 7 of lane 1 is 37 * 7 mod 256 = 3: halves 3 and 0, multiplier 1.
        assert_eq!([unpacked[0][7], unpacked[1][7]], [-5, -8]);
        // 17.5 - 100 is a tie.
        assert_eq!(pairs[..4], [-20_000, -100, -16_500, -82]);
        assert_eq!(sums[3][0], (-7 - 20_000 * 32_767 + 100 * 32_768) as f32);
        for &isa in Isa::available() {
            assert_eq!(isa.dispatch(Integers), expected, "{isa:?}");
        }
    }

    #[test]
    fn instruction_sets_agree_exactly_where_nothing_is_rounded() {
        let expected = Isa::Scalar(Scalar).dispatch(Operations);
        assert_eq!(expected[8][0], 2_f32.powi(-126));
        assert_eq!(expected[9][0], -1.5 * 2_f32.powi(-67));
        assert_eq!(expected[14][0], 64.0);
        for &isa in Isa::available() {
            assert_eq!(isa.dispatch(Operations), expected, "{isa:?}");
        }
    }

    #[test]
    fn best_is_one_of_the_available() {
        let best = Isa::best().name();
        assert!(Isa::available().iter().any(|isa| isa.name() == best));
        assert_eq!(Isa::available()[0].name(), "scalar");
    }
}
