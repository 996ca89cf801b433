//! The tiny autoencoder (TAESD): pixels → latents and back, without norms or attention. Ollin Boer Bohan,
//! github.com/madebyollin/taesd; layers numbered as in diffusers' `AutoencoderTiny`.

use sdq_formats::WeightSpec;

use super::AutoencoderTinyConfig;
use crate::{
    graph::{Activation, Graph, GraphBuilder, TensorId, Window},
    models::layers::conv3x3,
    roles::{LATENTS, PIXELS},
};

/// The first layer of each half.
pub(super) const OUTERMOST: [&str; 2] = ["encoder.layers.0.weight", "decoder.layers.0.weight"];

/// Latents → pixels, for latents of `height x width`; input and output as in the KL autoencoder's decoder.
pub fn decoder(config: &AutoencoderTinyConfig, batch: usize, height: usize, width: usize) -> Graph {
    let mut graph = GraphBuilder::new();
    let latents = graph.input(LATENTS, &[batch, height, width, config.latent_channels]);
    let x = graph.activation(Activation::Tanh3, latents);
    let mut layers = Layers { config, graph, name: "decoder", next: 0 };
    let mut x = layers.conv(x, config.decoder_channels);
    x = layers.activation(x);
    let levels = config.num_decoder_blocks.len();
    for (level, &blocks) in config.num_decoder_blocks.iter().enumerate() {
        for _ in 0..blocks {
            x = layers.block(x);
        }
        if level + 1 < levels {
            x = layers.upsample(x);
            x = layers.conv_without_bias(x, Window::SAME_3X3);
        }
    }
    x = layers.conv(x, 3);
    // The network writes 0..=1.
    let pixels = layers.graph.affine(2.0, -1.0, x);
    layers.graph.output(PIXELS, pixels);
    layers.graph.finish()
}

/// Pixels → latents, for pictures of `height x width`. The output [`LATENTS`] is the latents themselves and
/// not moments of a distribution.
pub fn encoder(config: &AutoencoderTinyConfig, batch: usize, height: usize, width: usize) -> Graph {
    let mut graph = GraphBuilder::new();
    let pixels = graph.input(PIXELS, &[batch, height, width, 3]);
    // The network reads 0..=1.
    let x = graph.affine(0.5, 0.5, pixels);
    let mut layers = Layers { config, graph, name: "encoder", next: 0 };
    let mut x = layers.conv(x, config.encoder_channels);
    for (level, &blocks) in config.num_encoder_blocks.iter().enumerate() {
        if level > 0 {
            x = layers.conv_without_bias(x, Window { stride: 2, ..Window::SAME_3X3 });
        }
        for _ in 0..blocks {
            x = layers.block(x);
        }
    }
    let latents = layers.conv(x, config.latent_channels);
    layers.graph.output(LATENTS, latents);
    layers.graph.finish()
}

/// The weights of the decoder and of the encoder, if there is one, in reading order.
pub fn weights(config: &AutoencoderTinyConfig) -> Vec<WeightSpec> {
    // The weights do not depend on the size.
    let side = config.scale_factor();
    let encoder = config.has_encoder().then(|| encoder(config, 1, side, side).weights);
    [decoder(config, 1, 1, 1).weights, encoder.unwrap_or_default()].concat()
}

/// Consecutive layers, numbered by their position.
struct Layers<'a> {
    config: &'a AutoencoderTinyConfig,
    graph: GraphBuilder,
    name: &'static str,
    next: usize,
}

impl Layers<'_> {
    fn name(&mut self) -> String {
        self.next += 1;
        format!("{}.layers.{}", self.name, self.next - 1)
    }

    fn conv(&mut self, x: TensorId, out_channels: usize) -> TensorId {
        let name = self.name();
        conv3x3(&mut self.graph, &name, x, out_channels, None)
    }

    fn conv_without_bias(&mut self, x: TensorId, window: Window) -> TensorId {
        let name = self.name();
        let channels = self.graph.channels(x);
        self.graph.conv2d_without_bias(&name, x, channels, window)
    }

    fn activation(&mut self, x: TensorId) -> TensorId {
        self.next += 1;
        self.graph.activation(self.config.act_fn, x)
    }

    fn upsample(&mut self, x: TensorId) -> TensorId {
        self.next += 1;
        let (height, width) = self.graph.size(x);
        self.graph.upsample_nearest(x, (2 * height, 2 * width))
    }

    /// Three convolutions around a shortcut.
    fn block(&mut self, x: TensorId) -> TensorId {
        let name = self.name();
        let channels = self.graph.channels(x);
        let graph = &mut self.graph;
        let mut hidden = conv3x3(graph, &format!("{name}.conv.0"), x, channels, None);
        for layer in ["2", "4"] {
            hidden = graph.activation(self.config.act_fn, hidden);
            hidden = conv3x3(graph, &format!("{name}.conv.{layer}"), hidden, channels, None);
        }
        let sum = graph.add(hidden, x);
        graph.activation(Activation::Relu, sum)
    }
}
