//! `cargo run --release -p sdq-benches --bin synthetic -- sd15.sdq [f16|f32]` writes a random model of the shape of
//! Stable Diffusion 1.5 (2.1 or 4.3 GB), to measure with.

use std::path::Path;

use anyhow::Context as _;
use sdq_formats::WeightType;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().context("usage: synthetic FILE.sdq [f16|f32]")?;
    let name = args.next().unwrap_or_else(|| "f16".to_owned());
    let weight_type = WeightType::from_name(&name).with_context(|| format!("`{name}` is not f16 or f32"))?;
    sdq_benches::synthetic::write_sd15(Path::new(&path), weight_type)
}
