//! Measures the limits of the machine: multiply-adds in registers, and copying.
//!
//! A time by itself depends on the machine and its other work as much as on a kernel. A share of a limit that
//! was measured at the same time describes the kernel.

use std::{hint::black_box, thread, time::Instant};

use super::{
    pool::Pool,
    simd::{LANES, Simd, SimdOp},
};
use crate::backend::Limits;

/// Measures all three limits with all threads of `pool`; takes some tenths of a second.
pub fn measure(pool: &Pool) -> Limits {
    const COPIED: usize = 16 << 20;
    let copy = copy_rate(pool, COPIED) * size_of::<f32>() as f64;
    Limits { integer: dot_rate(pool), float: fma_rate(pool), copy }
}

/// Single-precision multiply-adds per second of all threads of `pool`, with all operands in registers.
pub fn fma_rate(pool: &Pool) -> f64 {
    const ROUNDS: usize = 1 << 19;
    let per_round = on_all_threads(pool, || pool.isa().dispatch(FmaLoop { rounds: ROUNDS }));
    per_round * ROUNDS as f64
}

/// Multiply-adds of bytes per second of all threads of `pool`, with all operands in registers.
pub fn dot_rate(pool: &Pool) -> f64 {
    const ROUNDS: usize = 1 << 19;
    let per_round = on_all_threads(pool, || pool.isa().dispatch(DotLoop { rounds: ROUNDS }));
    per_round * ROUNDS as f64
}

/// Elements per second that all threads of `pool` together copy from one `[f32]` to another, `len` elements in all.
pub fn copy_rate(pool: &Pool, len: usize) -> f64 {
    const REPEATS: usize = 8;
    let part = len.div_ceil(pool.threads());
    let per_part = on_all_threads(pool, || {
        let from = vec![1.0_f32; part];
        let mut to = vec![0.0_f32; part];
        let start = Instant::now();
        for _ in 0..REPEATS {
            black_box(&mut to).copy_from_slice(black_box(&from));
        }
        start.elapsed().as_secs_f64() / REPEATS as f64
    });
    per_part * part as f64
}

/// Runs `work` on as many threads as the pool has, this one among them, and adds up `1 / seconds` of each. Threads that the
/// system refuses are as few as the machine has for this.
fn on_all_threads(pool: &Pool, work: impl Fn() -> f64 + Sync) -> f64 {
    thread::scope(|scope| {
        let start = |_| thread::Builder::new().spawn_scoped(scope, &work).ok();
        let threads: Vec<_> = (1..pool.threads()).map_while(start).collect();
        let own = 1.0 / work();
        let others = threads.into_iter().map(|thread| 1.0 / thread.join().expect("the work does not panic"));
        own + others.sum::<f64>()
    })
}

/// Multiply-adds on independent accumulators; returns the seconds they took, per lane.
struct FmaLoop {
    rounds: usize,
}

impl SimdOp for FmaLoop {
    type Output = f64;

    #[inline(always)]
    fn eval<S: Simd>(self, isa: S) -> f64 {
        // Enough to hide the latency of four cycles on two ports, few enough for the registers.
        match S::TILE_ROWS * S::TILE_VECTORS {
            24.. => self.run::<S, 12>(isa),
            6.. => self.run::<S, 6>(isa),
            _ => self.run::<S, 2>(isa),
        }
    }
}

impl FmaLoop {
    #[inline(always)]
    fn run<S: Simd, const CHAINS: usize>(self, isa: S) -> f64 {
        let start = Instant::now();
        let mut sums = [isa.splat(1.0); CHAINS];
        let (a, b) = (isa.splat(black_box(0.999)), isa.splat(black_box(0.001)));
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = isa.fma(*sum, a, b);
            }
        }
        for sum in sums {
            black_box(isa.sum(sum));
        }
        start.elapsed().as_secs_f64() / (CHAINS * LANES) as f64
    }
}

/// Integer dot products on independent accumulators; returns the seconds they took, per multiply-add of a
/// round.
struct DotLoop {
    rounds: usize,
}

impl SimdOp for DotLoop {
    type Output = f64;

    #[inline(always)]
    fn eval<S: Simd>(self, isa: S) -> f64 {
        match S::DOT_ROWS * S::TILE_VECTORS {
            12.. => self.run::<S, 12>(isa),
            4.. => self.run::<S, 4>(isa),
            _ => self.run::<S, 2>(isa),
        }
    }
}

impl DotLoop {
    #[inline(always)]
    fn run<S: Simd, const CHAINS: usize>(self, isa: S) -> f64 {
        let start = Instant::now();
        let weights = black_box([1_i8; 4 * LANES]);
        let mut sums = [isa.zero_ints(); CHAINS];
        // Each chain and round uses different bytes, read from the first-level cache as in a product: with
        // equal bytes the compiler would multiply once and add repeatedly.
        let left = black_box([[1_u8, 2, 3, 4]; 64]);
        for round in 0..self.rounds {
            for (chain, sum) in sums.iter_mut().enumerate() {
                *sum = isa.dot(*sum, left[(round + chain) % 64], &weights);
            }
        }
        for sum in sums {
            black_box(isa.sum(isa.ints_to_f32(sum)));
        }
        start.elapsed().as_secs_f64() / (CHAINS * 4 * LANES) as f64
    }
}
