//! The KL autoencoder: pixels → latents and back. Rombach et al. 2022, arXiv:2112.10752, section 3.1.

use sdq_formats::WeightSpec;

use super::AutoencoderConfig;
use crate::{
    graph::{Graph, GraphBuilder, Padding, TensorId, Window},
    models::layers::{ResidualBlock, conv1x1, conv3x3},
    roles::{LATENTS, MOMENTS, PIXELS},
};

/// Added to every variance; fixed in diffusers.
const EPS: f32 = 1e-6;

/// The layers that read or write pixels, latents or their distribution.
pub(super) const OUTERMOST: [&str; 6] = [
    "encoder.conv_in.weight",
    "encoder.conv_out.weight",
    "quant_conv.weight",
    "post_quant_conv.weight",
    "decoder.conv_in.weight",
    "decoder.conv_out.weight",
];

/// Latents → pixels, for latents of `height x width`.
pub fn decoder(config: &AutoencoderConfig, batch: usize, height: usize, width: usize) -> Graph {
    let mut graph = GraphBuilder::new();
    let channels = config.latent_channels;
    let mut x = graph.input(LATENTS, &[batch, height, width, channels]);
    if config.use_post_quant_conv {
        x = conv1x1(&mut graph, "post_quant_conv", x, channels);
    }
    let mut widths = config.block_out_channels.iter().rev().copied().enumerate();
    let coarsest = config.block_out_channels[config.block_out_channels.len() - 1];
    x = conv3x3(&mut graph, "decoder.conv_in", x, coarsest, None);
    x = middle(config, &mut graph, "decoder.mid_block", x);
    let levels = widths.len();
    for (block, channels) in widths.by_ref() {
        let name = format!("decoder.up_blocks.{block}");
        x = residual_blocks(config, &mut graph, &name, x, channels, config.layers_per_block + 1);
        if block + 1 < levels {
            let (height, width) = graph.size(x);
            x = graph.upsample_nearest(x, (2 * height, 2 * width));
            x = conv3x3(&mut graph, &format!("{name}.upsamplers.0.conv"), x, channels, None);
        }
    }
    x = graph.group_norm("decoder.conv_norm_out", x, config.norm_num_groups, EPS, true);
    x = conv3x3(&mut graph, "decoder.conv_out", x, config.out_channels, None);
    graph.output(PIXELS, x);
    graph.finish()
}

/// Pixels → moments of the latents' distribution, for pictures of `height x width`.
pub fn encoder(config: &AutoencoderConfig, batch: usize, height: usize, width: usize) -> Graph {
    let mut graph = GraphBuilder::new();
    let mut x = graph.input(PIXELS, &[batch, height, width, config.in_channels]);
    let levels = config.block_out_channels.len();
    x = conv3x3(&mut graph, "encoder.conv_in", x, config.block_out_channels[0], None);
    for (block, &channels) in config.block_out_channels.iter().enumerate() {
        let name = format!("encoder.down_blocks.{block}");
        x = residual_blocks(config, &mut graph, &name, x, channels, config.layers_per_block);
        if block + 1 < levels {
            // Only below and to the right, as the original code pads before its unpadded convolution.
            let padding = Padding { top: 0, left: 0, bottom: 1, right: 1 };
            let window = Window { stride: 2, padding, ..Window::SAME_3X3 };
            x = graph.conv2d(&format!("{name}.downsamplers.0.conv"), x, channels, window, None);
        }
    }
    x = middle(config, &mut graph, "encoder.mid_block", x);
    x = graph.group_norm("encoder.conv_norm_out", x, config.norm_num_groups, EPS, true);
    let moments = 2 * config.latent_channels;
    x = conv3x3(&mut graph, "encoder.conv_out", x, moments, None);
    if config.use_quant_conv {
        x = conv1x1(&mut graph, "quant_conv", x, moments);
    }
    graph.output(MOMENTS, x);
    graph.finish()
}

/// The weights of encoder and decoder, in reading order.
pub fn weights(config: &AutoencoderConfig) -> Vec<WeightSpec> {
    // The weights do not depend on the size.
    let side = config.scale_factor();
    [decoder(config, 1, 1, 1).weights, encoder(config, 1, side, side).weights].concat()
}

fn residual_blocks(
    config: &AutoencoderConfig,
    graph: &mut GraphBuilder,
    name: &str,
    mut x: TensorId,
    out_channels: usize,
    count: usize,
) -> TensorId {
    for layer in 0..count {
        let name = format!("{name}.resnets.{layer}");
        let block = ResidualBlock { name: &name, out_channels, groups: config.norm_num_groups, eps: EPS };
        x = block.build(graph, x, None);
    }
    x
}

fn middle(config: &AutoencoderConfig, graph: &mut GraphBuilder, name: &str, x: TensorId) -> TensorId {
    let channels = graph.channels(x);
    let mut x = residual_blocks(config, graph, name, x, channels, 1);
    if config.mid_block_add_attention {
        x = attention(config, graph, &format!("{name}.attentions.0"), x);
    }
    let name = format!("{name}.resnets.1");
    let block =
        ResidualBlock { name: &name, out_channels: channels, groups: config.norm_num_groups, eps: EPS };
    block.build(graph, x, None)
}

/// Attention with one head over all pixels.
fn attention(config: &AutoencoderConfig, graph: &mut GraphBuilder, name: &str, x: TensorId) -> TensorId {
    let channels = graph.channels(x);
    let normed = graph.group_norm(&format!("{name}.group_norm"), x, config.norm_num_groups, EPS, false);
    let [q, k, v] =
        ["to_q", "to_k", "to_v"].map(|p| graph.linear(&format!("{name}.{p}"), normed, channels, true));
    let attended = graph.attention(q, k, v, 1, false);
    let attended = graph.linear(&format!("{name}.to_out.0"), attended, channels, true);
    graph.add(attended, x)
}
