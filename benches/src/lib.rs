//! Code that the benches share. The limits of the machine are measured by `sdq_engine::backend::cpu::limits`.

pub mod synthetic;

use sdq_engine::backend::cpu::simd::Isa;

/// `len` arbitrary values in `-1..1`.
pub fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// The instruction sets to measure: all of the machine except the scalar one, which is the reference for
/// correctness.
pub fn measured() -> impl Iterator<Item = Isa> {
    Isa::available().iter().copied().filter(|isa| !matches!(isa, Isa::Scalar(_)))
}
