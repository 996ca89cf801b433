//! Vectors of sixteen `f32` and the instruction sets that carry them.
//!
//! A kernel is written once over [`Simd`] and run through [`Isa::dispatch`], which enters it in a function compiled
//! for the instruction set. An instruction set is a token that only its `new` hands out, after asking the CPU, so
//! holding one proves that its instructions may be executed and every method of the trait is safe.
//!
//! The vector is always [`LANES`] wide, the width of a weight panel: one register with AVX-512, two with AVX2. So tails,
//! reductions and layouts are the same on every machine. NEON (four registers) has its place in [`Isa`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod math;
mod scalar;
pub(crate) mod tile;

use std::fmt;
use std::sync::OnceLock;

use half::f16;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use scalar::Scalar;

/// Elements in a vector, whatever the instruction set.
pub const LANES: usize = 16;

/// One vector's worth of elements in memory.
pub type Lanes = [f32; LANES];

/// What kernels ask of an instruction set. All operations are per lane unless they say otherwise.
pub trait Simd: Copy + Send + Sync {
    /// Sixteen `f32`.
    type Vector: Copy;

    /// Rows of a matrix product's register tile: as many as keep the accumulators in registers.
    const TILE_ROWS: usize;
    /// Vectors in a row of that tile, 1 or 2.
    const TILE_VECTORS: usize;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::Vector;
    /// Sixteen elements from memory.
    fn load(self, from: &Lanes) -> Self::Vector;
    /// Sixteen half-precision elements from memory, widened exactly.
    fn load_f16(self, from: &[f16; LANES]) -> Self::Vector;
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
        let mut lanes = self.lanes(value);
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }
}

/// A piece of work written over any instruction set. `eval` must be `#[inline(always)]`, and so must whatever it calls
/// with vectors, or it is compiled without the instructions it wants; nor may vectors be handled in a closure that
/// is called from anywhere else, `map` and `from_fn` of arrays included.
pub trait SimdOp {
    /// What the work returns.
    type Output;
    /// Does the work with the instructions that `isa` stands for.
    fn eval<S: Simd>(self, isa: S) -> Self::Output;
}

/// An instruction set this machine has.
#[derive(Clone, Copy)]
pub enum Isa {
    /// No vector instructions beyond what the target always has.
    Scalar(Scalar),
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
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
                available.extend(Avx512::new().map(Isa::Avx512));
            }
            available
        })
    }

    /// The fastest instruction set of this machine, or the one that the environment variable `SDQ_ISA` names
    /// (`scalar`, `avx2`, `avx512`) if the machine has it. Any other value changes nothing.
    pub fn best() -> Isa {
        let available = Isa::available();
        let wanted = std::env::var("SDQ_ISA").unwrap_or_default();
        let named = available.iter().find(|isa| isa.name() == wanted);
        *named.or(available.last()).expect("scalar is always available")
    }

    /// The name that `SDQ_ISA` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
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
            Isa::Avx512(isa) => isa.run(op),
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

    /// Everything the trait promises, on one vector of values.
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
                isa.lanes(isa.load_f16(&halves)),
                isa.lanes(isa.load_partial(&ascending[..11])),
                isa.lanes(isa.load_partial(&[])),
                partial,
                [isa.sum(a); LANES],
            ]
        }
    }

    #[test]
    fn instruction_sets_agree_exactly_where_nothing_is_rounded() {
        let expected = Isa::Scalar(Scalar).dispatch(Operations);
        assert_eq!(expected[8][0], 2_f32.powi(-126));
        assert_eq!(expected[13][0], 64.0);
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
