//! What the benches share. What they are held against, the machine's own limits, is measured by
//! `sdq_engine::backend::cpu::limits`.

pub mod synthetic;

use sdq_engine::backend::cpu::simd::Isa;

/// `len` values in `-1..1`, none of them special.
pub fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// The instruction sets to measure: all of the machine but the scalar one, which is there to be right.
pub fn measured() -> impl Iterator<Item = Isa> {
    Isa::available().iter().copied().filter(|isa| !matches!(isa, Isa::Scalar(_)))
}
