//! Writes random models of published shapes, `sd15`, `sd21` or `sdxl`, for measurements:
//! - `cargo run --release -p sdq-benches --bin synthetic -- sd15 FILE.sdq [f16|f32]` writes an `.sdq` file,
//! - `cargo run --release -p sdq-benches --bin synthetic -- sd15 --checkpoint FOLDER` a diffusers directory
//!   in f16.

use std::path::Path;

use anyhow::{Context as _, ensure};
use sdq_benches::synthetic::{self, Shape};
use sdq_formats::WeightType;

const USAGE: &str =
    "usage: synthetic sd15|sd21|sdxl FILE.sdq [f16|f32] | synthetic sd15|sd21|sdxl --checkpoint FOLDER";

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().context(USAGE)?;
    let shape = Shape::ALL.into_iter().find(|shape| shape.name() == name).context(USAGE)?;
    let path = args.next().context(USAGE)?;
    if path == "--checkpoint" {
        let folder = args.next().context(USAGE)?;
        return synthetic::write_checkpoint(shape, Path::new(&folder));
    }
    let name = args.next().unwrap_or_else(|| "f16".to_owned());
    let weight_type = WeightType::from_name(&name).filter(|weight_type| !weight_type.is_quantized());
    ensure!(weight_type.is_some(), "`{name}` is not f16 or f32");
    synthetic::write(shape, Path::new(&path), weight_type.unwrap_or(WeightType::F16))
}
