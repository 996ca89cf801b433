//! Noise from a seed compared with `torch.randn` (`goldens/rng.py`).

use std::path::Path;

use sdq_engine::rng::TorchCpuGenerator;
use sdq_schedulers::NoiseSource;
use serde::Deserialize;

#[derive(Deserialize)]
struct Seeded {
    seed: String,
    draws: Vec<Draw>,
}

#[derive(Deserialize)]
struct Draw {
    count: usize,
    first: Vec<f64>,
    last: Vec<f64>,
    fnv1a: String,
}

/// 64-bit FNV-1a over the little-endian bytes.
fn fnv1a(values: &[f32]) -> String {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Draws of 16 and more values are bit-identical on every machine. Shorter ones use the C library's `f64`
/// functions, as PyTorch's do: another library may round differently.
#[test]
fn draws_are_those_of_torch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/rng/draws.json");
    let seeds: Vec<Seeded> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for Seeded { seed, draws } in seeds {
        let mut generator = TorchCpuGenerator::new(seed.parse().unwrap());
        for (index, draw) in draws.iter().enumerate() {
            let label = format!("seed {seed}, draw {index} of {} values", draw.count);
            let mut values = vec![0.0; draw.count];
            generator.fill_standard_normal(&mut values);
            let first = values.iter().zip(&draw.first);
            let last = values.iter().rev().zip(draw.last.iter().rev());
            for (found, expected) in first.chain(last) {
                let expected = *expected as f32;
                assert!(
                    (found - expected).abs() <= f32::EPSILON * expected.abs(),
                    "{label}: {found} {expected}"
                );
            }
            if draw.count >= 16 {
                assert_eq!(fnv1a(&values), draw.fnv1a, "{label}");
            }
        }
    }
}
