//! The conditional U-Net: noisy latents, a timestep and text states → predicted noise. Rombach et al. 2022,
//! arXiv:2112.10752, section 3.3.
//!
//! One pass over the network writes its three [`StepGraphs`]: timesteps (and in some models an added
//! condition) become one bias for each residual block, text states become keys and values of the
//! cross-attentions, and everything else runs in each step.

mod config;
mod ema_names;
mod original_names;
mod sensitivity;

pub use config::{AdditionEmbedding, LevelKind, UNetConfig};
pub use original_names::{Level, Middle, UNetStructure};

pub(crate) use ema_names::weight_name as ema_weight_name;
pub(crate) use original_names::UNet;

use sdq_formats::{Sensitivity, WeightSpec};

use super::layers::{ResidualBlock, conv1x1, conv3x3};
use crate::{
    graph::{Activation, GraphBuilder, TensorId, Window},
    roles::{
        ADDED_CONDITION, DEEP_STATES, DenoiserNetwork, LATENTS, NOISE_PRED, StepGraphs, StepNetwork,
        StepShape, StoredNetwork, TEXT_STATES,
    },
};

/// Name of the time graph's input `[rows, block_out_channels[0]]`, see [`timestep_embedding`].
pub const TIMESTEP_EMBEDDING: &str = "timestep_embedding";
/// Name of the time graph's input `[rows, time_cond_proj_dim]`, see [`guidance_embedding`]; only in models
/// that read it.
pub const GUIDANCE_EMBEDDING: &str = "guidance_embedding";
/// Epsilon of the norms inside a transformer; fixed in diffusers.
const TRANSFORMER_GROUP_NORM_EPS: f32 = 1e-6;
const TRANSFORMER_LAYER_NORM_EPS: f32 = 1e-5;

/// Builds the graphs for one size. With `deep_skip`, the tensors that the deeper layers pass up are kept: the
/// outputs of the layers on the way down after the one that computes this skip (counted from 0, which is the
/// first convolution's), of the middle, and of the layers on the way up before the one that reads the skip.
/// Ma et al. 2023, arXiv:2312.00858, section 3.2, where skips are called branches.
pub fn graphs(config: &UNetConfig, shape: &StepShape, deep_skip: Option<usize>) -> StepGraphs {
    let mut time = GraphBuilder::new();
    let mut prompt = GraphBuilder::new();
    let mut denoise = GraphBuilder::new();

    let time_batch = config.schedule_rows(shape.batch);
    let time_states = time_states(config, &mut time, shape.timesteps * time_batch);
    let text_states = prompt.input(TEXT_STATES, &[shape.batch, shape.tokens, config.cross_attention_dim]);
    let latents = denoise.input(LATENTS, &[shape.batch, shape.height, shape.width, config.in_channels]);

    let mut builder =
        UNetBuilder { config, deep_skip, time, prompt, denoise, time_states, time_batch, text_states };
    let noise_pred = builder.network(latents);
    builder.denoise.output(NOISE_PRED, noise_pred);
    StepGraphs {
        schedule: builder.time.finish(),
        prompt: builder.prompt.finish(),
        step: builder.denoise.finish(),
    }
}

/// The number of skips below which there is at least one layer, see [`graphs`].
pub fn deep_skips(config: &UNetConfig) -> usize {
    let skips = config.block_out_channels.len() + config.layers_per_block.iter().sum::<usize>();
    // Below the last skip there is only the middle.
    skips - usize::from(config.mid_block.is_none())
}

/// Timestep and added conditioning → the input of every residual block, `[rows, time_embedding_dim]`.
fn time_states(config: &UNetConfig, time: &mut GraphBuilder, rows: usize) -> TensorId {
    let embed = |time: &mut GraphBuilder, name: &str, x: TensorId| {
        let x = time.linear(&format!("{name}.linear_1"), x, config.time_embedding_dim, true);
        let x = time.activation(Activation::Silu, x);
        time.linear(&format!("{name}.linear_2"), x, config.time_embedding_dim, true)
    };
    let width = config.block_out_channels[0];
    let mut timestep = time.input(TIMESTEP_EMBEDDING, &[rows, width]);
    if let Some(guidance_width) = config.time_cond_proj_dim {
        let guidance = time.input(GUIDANCE_EMBEDDING, &[rows, guidance_width]);
        let guidance = time.linear("time_embedding.cond_proj", guidance, width, false);
        timestep = time.add(guidance, timestep);
    }
    let mut embedding = embed(time, "time_embedding", timestep);
    if let Some(addition) = config.addition_embedding {
        let added = time.input(ADDED_CONDITION, &[rows, addition.input_dim]);
        let added = embed(time, "add_embedding", added);
        embedding = time.add(added, embedding);
    }
    // Every residual block starts with this SiLU; it is the same for all of them.
    time.activation(Activation::Silu, embedding)
}

/// The network's weights, in reading order.
pub fn weights(config: &UNetConfig) -> Vec<WeightSpec> {
    // The weights do not depend on the size, so the smallest latents that every level can halve are enough.
    let side = 1 << (config.block_out_channels.len() - 1);
    let shape = StepShape { batch: 1, height: side, width: side, tokens: 1, timesteps: 1 };
    let StepGraphs { schedule, prompt, step } = graphs(config, &shape, None);
    [schedule.weights, prompt.weights, step.weights].concat()
}

/// Sines and cosines of `timestep` (in training timesteps) in `block_out_channels[0]` values.
pub fn timestep_embedding(config: &UNetConfig, timestep: f32) -> Vec<f32> {
    sinusoids(config, timestep, config.block_out_channels[0])
}

/// Sines and cosines of one of the numbers of the added conditioning, in `time_embed_dim` values.
pub fn addition_time_embedding(config: &UNetConfig, addition: &AdditionEmbedding, number: f32) -> Vec<f32> {
    sinusoids(config, number, addition.time_embed_dim)
}

/// Ho et al. 2020, after Vaswani et al. 2017, section 3.5; computed in f32, as in training.
fn sinusoids(config: &UNetConfig, number: f32, width: usize) -> Vec<f32> {
    let half = width / 2;
    let exponent_scale = -(10_000_f32.ln()) / (half as f32 - config.freq_shift as f32);
    let angles = (0..half).map(|i| number * (i as f32 * exponent_scale).exp());
    let (sines, cosines): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).unzip();
    let mut embedding = if config.flip_sin_to_cos { [cosines, sines] } else { [sines, cosines] }.concat();
    embedding.resize(width, 0.0);
    embedding
}

/// Sines and cosines of `1000 * (guidance_scale - 1)` in `width` values, the input of latent consistency
/// models. Luo et al. 2023, arXiv:2310.04378, section 4.3; frequencies as in diffusers'
/// `get_guidance_scale_embedding`.
pub fn guidance_embedding(guidance_scale: f32, width: usize) -> Vec<f32> {
    let half = width / 2;
    let exponent_scale = -(10_000_f32.ln() / (half as f32 - 1.0));
    // Computed from the decimal number of the request, as in Python: a thousand times its rounding to f32
    // would make a difference.
    let decimal: f64 = guidance_scale.to_string().parse().unwrap_or(f64::from(guidance_scale));
    let weight = (decimal - 1.0) as f32 * 1000.0;
    let angles = (0..half).map(|i| weight * (i as f32 * exponent_scale).exp());
    let (sines, cosines): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).unzip();
    let mut embedding = [sines, cosines].concat();
    embedding.resize(width, 0.0);
    embedding
}

impl StoredNetwork for UNetConfig {
    fn component(&self) -> &'static str {
        "unet"
    }

    fn weights(&self) -> Vec<WeightSpec> {
        weights(self)
    }

    fn sensitivity(&self, weight: &WeightSpec) -> Sensitivity {
        sensitivity::of(self, &weight.name)
    }
}

impl StepNetwork for UNetConfig {
    fn label(&self) -> &'static str {
        "U-Net"
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn center_input_sample(&self) -> bool {
        self.center_input_sample
    }

    fn text_width(&self) -> usize {
        self.cross_attention_dim
    }

    fn added_width(&self) -> Option<usize> {
        self.addition_embedding.map(|addition| addition.input_dim)
    }

    fn reads_guidance_scale(&self) -> bool {
        self.time_cond_proj_dim.is_some()
    }

    fn graphs(&self, shape: &StepShape, deep_skip: Option<usize>) -> StepGraphs {
        graphs(self, shape, deep_skip)
    }

    fn schedule_inputs(
        &self,
        timesteps: &[f64],
        rows: usize,
        guidance_scale: Option<f32>,
    ) -> Vec<(&'static str, Vec<f32>)> {
        let embed = |&timestep: &f64| timestep_embedding(self, timestep as f32).repeat(rows);
        let mut inputs = vec![(TIMESTEP_EMBEDDING, timesteps.iter().flat_map(embed).collect())];
        if let (Some(scale), Some(width)) = (guidance_scale, self.time_cond_proj_dim) {
            let embedding = guidance_embedding(scale, width).repeat(timesteps.len() * rows);
            inputs.push((GUIDANCE_EMBEDDING, embedding));
        }
        inputs
    }
}

impl DenoiserNetwork for UNetConfig {
    fn out_channels(&self) -> usize {
        self.out_channels
    }

    fn sample_size(&self) -> Option<(usize, usize)> {
        self.sample_size
    }

    fn deep_skips(&self) -> usize {
        deep_skips(self)
    }

    fn embed_number(&self, number: f32) -> Vec<f32> {
        let embed = |addition| addition_time_embedding(self, &addition, number);
        self.addition_embedding.map(embed).unwrap_or_default()
    }
}

struct UNetBuilder<'a> {
    config: &'a UNetConfig,
    deep_skip: Option<usize>,
    time: GraphBuilder,
    prompt: GraphBuilder,
    denoise: GraphBuilder,
    /// In the time graph: `[steps * time_batch, time_embedding_dim]`.
    time_states: TensorId,
    time_batch: usize,
    /// In the prompt graph: `[batch, tokens, cross_attention_dim]`.
    text_states: TensorId,
}

impl UNetBuilder<'_> {
    fn network(&mut self, latents: TensorId) -> TensorId {
        let config = self.config;
        let levels = config.block_out_channels.len();
        let x = conv3x3(&mut self.denoise, "conv_in", latents, config.block_out_channels[0], None);
        let mut skips = vec![x];
        let mut x = x;
        for level in 0..levels {
            x = self.down_level(level, x, &mut skips);
        }
        x = self.middle(x);
        for block in 0..levels {
            x = self.up_level(block, x, &mut skips);
        }
        x = self.denoise.group_norm("conv_norm_out", x, config.norm_num_groups, config.norm_eps, true);
        conv3x3(&mut self.denoise, "conv_out", x, config.out_channels, None)
    }

    fn down_level(&mut self, level: usize, mut x: TensorId, skips: &mut Vec<TensorId>) -> TensorId {
        let config = self.config;
        let name = format!("down_blocks.{level}");
        let channels = config.block_out_channels[level];
        for layer in 0..config.layers_per_block[level] {
            x = self.residual_block(&format!("{name}.resnets.{layer}"), x, channels);
            if let Some(&depth) = config.down_transformer_layers[level].get(layer) {
                x = self.transformer(&format!("{name}.attentions.{layer}"), x, level, depth);
            }
            skips.push(x);
        }
        if level + 1 < config.block_out_channels.len() {
            let window = Window { stride: 2, ..Window::SAME_3X3 };
            x = self.denoise.conv2d(&format!("{name}.downsamplers.0.conv"), x, channels, window, None);
            skips.push(x);
        }
        x
    }

    fn middle(&mut self, x: TensorId) -> TensorId {
        let level = self.config.block_out_channels.len() - 1;
        let channels = self.config.block_out_channels[level];
        let Some(kind) = self.config.mid_block else { return x };
        let x = self.residual_block("mid_block.resnets.0", x, channels);
        if kind == LevelKind::Plain {
            return x;
        }
        let depth = self.config.mid_transformer_layers;
        let x = self.transformer("mid_block.attentions.0", x, level, depth);
        self.residual_block("mid_block.resnets.1", x, channels)
    }

    /// Up block `block` works at the level that it mirrors: block 0 at the coarsest.
    fn up_level(&mut self, block: usize, mut x: TensorId, skips: &mut Vec<TensorId>) -> TensorId {
        let config = self.config;
        let level = config.block_out_channels.len() - 1 - block;
        let name = format!("up_blocks.{block}");
        let channels = config.block_out_channels[level];
        for layer in 0..=config.layers_per_block[level] {
            let skip = skips.pop().expect("the way up has one layer for each skip of the way down");
            if self.deep_skip == Some(skips.len()) {
                self.denoise.keep(DEEP_STATES, x);
            }
            x = self.denoise.concat(x, skip);
            x = self.residual_block(&format!("{name}.resnets.{layer}"), x, channels);
            if let Some(&depth) = config.up_transformer_layers[block].get(layer) {
                x = self.transformer(&format!("{name}.attentions.{layer}"), x, level, depth);
            }
        }
        if level > 0 {
            // The size of the next skip, which may differ from twice this size: odd sizes are rounded up on
            // the way down.
            let next = skips.last().expect("finer levels still have their skips");
            let size = self.denoise.size(*next);
            x = self.denoise.upsample_nearest(x, size);
            x = conv3x3(&mut self.denoise, &format!("{name}.upsamplers.0.conv"), x, channels, None);
        }
        x
    }

    fn residual_block(&mut self, name: &str, x: TensorId, out_channels: usize) -> TensorId {
        let bias_name = format!("{name}.time_emb_proj");
        let time_bias = self.time.linear(&bias_name, self.time_states, out_channels, true);
        self.time.output(&bias_name, time_bias);
        let time_bias = self.denoise.input(&bias_name, &[self.time_batch, out_channels]);
        let groups = self.config.norm_num_groups;
        let block = ResidualBlock { name, out_channels, groups, eps: self.config.norm_eps };
        block.build(&mut self.denoise, x, Some(time_bias))
    }

    /// Attention between pixels, and from pixels to the text. The pixels of `x [b, h, w, c]` are the tokens,
    /// row by row.
    fn transformer(&mut self, name: &str, x: TensorId, level: usize, depth: usize) -> TensorId {
        let channels = self.denoise.channels(x);
        let groups = self.config.norm_num_groups;
        let graph = &mut self.denoise;
        let normed = graph.group_norm(&format!("{name}.norm"), x, groups, TRANSFORMER_GROUP_NORM_EPS, false);
        let mut states = conv1x1(graph, &format!("{name}.proj_in"), normed, channels);
        for layer in 0..depth {
            states = self.transformer_block(&format!("{name}.transformer_blocks.{layer}"), states, level);
        }
        let projected = conv1x1(&mut self.denoise, &format!("{name}.proj_out"), states, channels);
        self.denoise.add(projected, x)
    }

    fn transformer_block(&mut self, name: &str, states: TensorId, level: usize) -> TensorId {
        let width = self.denoise.channels(states);
        let heads = self.config.num_attention_heads[level];
        let graph = &mut self.denoise;

        let normed = graph.layer_norm(&format!("{name}.norm1"), states, TRANSFORMER_LAYER_NORM_EPS);
        let [q, k, v] = ["to_q", "to_k", "to_v"]
            .map(|p| graph.linear(&format!("{name}.attn1.{p}"), normed, width, false));
        let attended = graph.attention(q, k, v, heads, false);
        let attended = graph.linear(&format!("{name}.attn1.to_out.0"), attended, width, true);
        let states = graph.add(attended, states);

        let normed = graph.layer_norm(&format!("{name}.norm2"), states, TRANSFORMER_LAYER_NORM_EPS);
        let q = graph.linear(&format!("{name}.attn2.to_q"), normed, width, false);
        let k = self.text_projection(&format!("{name}.attn2.to_k"), width);
        let v = self.text_projection(&format!("{name}.attn2.to_v"), width);
        let graph = &mut self.denoise;
        let attended = graph.attention(q, k, v, heads, false);
        let attended = graph.linear(&format!("{name}.attn2.to_out.0"), attended, width, true);
        let states = graph.add(attended, states);

        let normed = graph.layer_norm(&format!("{name}.norm3"), states, TRANSFORMER_LAYER_NORM_EPS);
        let hidden = graph.linear(&format!("{name}.ff.net.0.proj"), normed, width * 8, true);
        let hidden = graph.geglu(hidden);
        let hidden = graph.linear(&format!("{name}.ff.net.2"), hidden, width, true);
        graph.add(hidden, states)
    }

    /// A projection of the text states, computed in the prompt graph and passed to the denoising graph.
    fn text_projection(&mut self, name: &str, width: usize) -> TensorId {
        let projected = self.prompt.linear(name, self.text_states, width, false);
        self.prompt.output(name, projected);
        let shape = self.prompt.shape(projected).to_vec();
        self.denoise.input(name, &shape)
    }
}
