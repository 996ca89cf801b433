//! Random models of the shape of Stable Diffusion 1.5, to measure with:
//! - `cargo run --release -p sdq-benches --bin synthetic -- sd15.sdq [f16|f32]` writes an `.sdq` file (2.1 or 4.3 GB),
//! - `cargo run --release -p sdq-benches --bin synthetic -- --checkpoint FOLDER` a diffusers directory (2.1 GB).

use std::path::Path;

use anyhow::{Context as _, ensure};
use sdq_benches::synthetic;
use sdq_formats::WeightType;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().context("usage: synthetic FILE.sdq [f16|f32] | --checkpoint FOLDER")?;
    if path == "--checkpoint" {
        let folder = args.next().context("usage: synthetic --checkpoint FOLDER")?;
        return synthetic::write_sd15_checkpoint(Path::new(&folder));
    }
    let name = args.next().unwrap_or_else(|| "f16".to_owned());
    let weight_type = WeightType::from_name(&name).filter(|weight_type| !weight_type.is_quantized());
    ensure!(weight_type.is_some(), "`{name}` is not f16 or f32");
    synthetic::write_sd15(Path::new(&path), weight_type.unwrap_or(WeightType::F16))
}
