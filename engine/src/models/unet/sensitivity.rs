//! The loss of quality when weights of the U-Net are stored in fewer bits; `docs/quantization.md` has the
//! measurements.

use sdq_formats::Sensitivity;

use super::UNetConfig;

/// The first and the last layer, which read and write latents.
const OUTERMOST: [&str; 2] = ["conv_in.weight", "conv_out.weight"];

/// Prefixes of the layers that turn the timestep and the added conditioning into biases.
const TIME: [&str; 2] = ["time_embedding.", "add_embedding."];

/// Parts of the names of layers that lose most in 4 bits: values and outputs of attention, projections around
/// it, shortcuts and resampling.
const LOSSY: [&str; 7] =
    [".to_v.", ".to_out.", ".proj_in.", ".proj_out.", ".conv_shortcut.", ".downsamplers.", ".upsamplers."];

/// The sensitivity of the weight called `name`.
pub(super) fn of(config: &UNetConfig, name: &str) -> Sensitivity {
    let last = format!("up_blocks.{}.", config.up_blocks.len() - 1);
    let is_edge = name.starts_with("down_blocks.0.") || name.starts_with(&last);
    if OUTERMOST.contains(&name) {
        Sensitivity::Extreme
    } else if TIME.iter().any(|start| name.starts_with(start)) || name.contains(".time_emb_proj.") {
        Sensitivity::VeryHigh
    } else if is_edge || LOSSY.iter().any(|part| name.contains(part)) {
        Sensitivity::Medium
    } else {
        Sensitivity::Low
    }
}
