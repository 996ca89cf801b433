//! The autoencoder, named as in CompVis' code (`encoder.down`, `decoder.up`), and TAESD, named as in its
//! author's.

use serde_json::{Value, json};

use crate::models::naming::{LayoutProblem, ModuleNames, Names, missing, norm_groups};

/// Names of the modules of a residual block and of the attention in single files, and in diffusers.
const RESIDUAL: [(&str, &str); 1] = [("nin_shortcut", "conv_shortcut")];
const ATTENTION: [(&str, &str); 5] =
    [("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];

/// The KL autoencoder, described by its names and shapes.
pub(crate) struct KlAutoencoder {
    widths: Vec<usize>,
    layers: usize,
    pub(crate) latent_channels: usize,
    attends: bool,
    quant_conv: bool,
    post_quant_conv: bool,
}

impl KlAutoencoder {
    /// Whether the tensors under `prefix` are those of a KL autoencoder, in either convention.
    pub(crate) fn is_at(names: &Names, prefix: &str) -> bool {
        let decoder = |norm: &str| names.has(&format!("{prefix}decoder.{norm}.weight"));
        names.has(&format!("{prefix}decoder.conv_in.weight"))
            && (decoder("norm_out") || decoder("conv_norm_out"))
    }

    pub(crate) fn of(names: &Names, prefix: &str) -> Result<KlAutoencoder, LayoutProblem> {
        let single_file = names.has(&format!("{prefix}decoder.norm_out.weight"));
        let [levels, blocks, attention] = match single_file {
            true => ["encoder.down", "block", "encoder.mid.attn_1"],
            false => ["encoder.down_blocks", "resnets", "encoder.mid_block.attentions.0"],
        };
        let levels = format!("{prefix}{levels}");
        let size = |name: String, axis: usize| {
            let size = names.shape(&name).and_then(|shape| shape.get(axis)).copied();
            size.ok_or_else(|| missing(name))
        };
        let count = names.count(&levels);
        if count == 0 {
            return Err(missing(format!("{levels}.0.{blocks}.0.conv1.weight")));
        }
        let width = |level: usize| size(format!("{levels}.{level}.{blocks}.0.conv1.weight"), 0);
        Ok(KlAutoencoder {
            widths: (0..count).map(width).collect::<Result<_, _>>()?,
            layers: names.count(&format!("{levels}.0.{blocks}")),
            latent_channels: size(format!("{prefix}decoder.conv_in.weight"), 1)?,
            attends: names.under(&format!("{prefix}{attention}.")).next().is_some(),
            quant_conv: names.has(&format!("{prefix}quant_conv.weight")),
            post_quant_conv: names.has(&format!("{prefix}post_quant_conv.weight")),
        })
    }

    /// The names of its modules in single files and in diffusers.
    pub(crate) fn modules(&self) -> ModuleNames {
        let mut modules = ModuleNames::default();
        let levels = self.widths.len();
        for half in ["encoder", "decoder"] {
            modules.add(format!("{half}.norm_out"), format!("{half}.conv_norm_out"));
            modules.add_all(
                &format!("{half}.mid.block_1"),
                &format!("{half}.mid_block.resnets.0"),
                &RESIDUAL,
            );
            modules.add_all(
                &format!("{half}.mid.attn_1"),
                &format!("{half}.mid_block.attentions.0"),
                &ATTENTION,
            );
            modules.add_all(
                &format!("{half}.mid.block_2"),
                &format!("{half}.mid_block.resnets.1"),
                &RESIDUAL,
            );
        }
        for level in 0..levels {
            // Single files number the levels of the decoder by size, diffusers in the order of execution.
            let block = levels - 1 - level;
            for layer in 0..=self.layers {
                let (down, up) = (format!("encoder.down.{level}.block"), format!("decoder.up.{level}.block"));
                let encoder = format!("encoder.down_blocks.{level}.resnets.{layer}");
                modules.add_all(&format!("{down}.{layer}"), &encoder, &RESIDUAL);
                let decoder = format!("decoder.up_blocks.{block}.resnets.{layer}");
                modules.add_all(&format!("{up}.{layer}"), &decoder, &RESIDUAL);
            }
            let downsampler = format!("encoder.down_blocks.{level}.downsamplers.0.conv");
            modules.add(format!("encoder.down.{level}.downsample.conv"), downsampler);
            let upsampler = format!("decoder.up_blocks.{block}.upsamplers.0.conv");
            modules.add(format!("decoder.up.{level}.upsample.conv"), upsampler);
        }
        modules
    }

    /// The `vae/config.json` that diffusers would write.
    pub(crate) fn config(&self, scaling_factor: f64) -> Value {
        let levels = self.widths.len();
        json!({
            "_class_name": "AutoencoderKL",
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": self.latent_channels,
            "block_out_channels": self.widths,
            "layers_per_block": self.layers,
            "down_block_types": vec!["DownEncoderBlock2D"; levels],
            "up_block_types": vec!["UpDecoderBlock2D"; levels],
            "norm_num_groups": norm_groups(&self.widths),
            "scaling_factor": scaling_factor,
            "use_quant_conv": self.quant_conv,
            "use_post_quant_conv": self.post_quant_conv,
            "mid_block_add_attention": self.attends,
        })
    }
}

/// TAESD, named as in diffusers' `AutoencoderTiny` (`encoder.layers.0`), or as in its author's two files,
/// where the decoder's first layer clamps and is counted. Ollin Boer Bohan, github.com/madebyollin/taesd.
pub(crate) struct TinyAutoencoder {
    /// Names of the halves, without the autoencoder's own prefix.
    encoder: &'static str,
    decoder: &'static str,
    /// 1 where the numbering of the decoder's layers starts at the clamp.
    shift: usize,
    widths: [usize; 2],
    /// Residual blocks of each level of encoder and decoder. There are no levels where there is no encoder.
    blocks: [Vec<usize>; 2],
    pub(crate) latent_channels: usize,
}

impl TinyAutoencoder {
    pub(crate) fn of(names: &Names, prefix: &str) -> Result<TinyAutoencoder, LayoutProblem> {
        let shift = usize::from(!names.has(&format!("{prefix}decoder.layers.0.weight")));
        let halves = match shift {
            0 => ("encoder.layers", "decoder.layers"),
            _ => ("encoder", "decoder"),
        };
        let (encoder, decoder) = (format!("{prefix}{}", halves.0), format!("{prefix}{}", halves.1));
        let size = |name: String, axis: usize| {
            let size = names.shape(&name).and_then(|shape| shape.get(axis)).copied();
            size.ok_or_else(|| missing(name))
        };
        let width = size(format!("{decoder}.{shift}.weight"), 0)?;
        let (encoder_width, encoder_blocks) = match names.has(&format!("{encoder}.0.weight")) {
            true => (size(format!("{encoder}.0.weight"), 0)?, levels(names, &encoder)),
            false => (width, Vec::new()),
        };
        Ok(TinyAutoencoder {
            widths: [encoder_width, width],
            latent_channels: size(format!("{decoder}.{shift}.weight"), 1)?,
            blocks: [encoder_blocks, levels(names, &decoder)],
            encoder: halves.0,
            decoder: halves.1,
            shift,
        })
    }

    /// The diffusers name of the tensor called `name`.
    pub(crate) fn to_diffusers(&self, name: &str) -> String {
        for (half, from, shift) in [("encoder", self.encoder, 0), ("decoder", self.decoder, self.shift)] {
            let inner = name.strip_prefix(from).and_then(|rest| rest.strip_prefix('.'));
            let Some((layer, rest)) = inner.and_then(|inner| inner.split_once('.')) else { continue };
            if let Some(layer) = layer.parse::<usize>().ok().and_then(|layer| layer.checked_sub(shift)) {
                return format!("{half}.layers.{layer}.{rest}");
            }
        }
        name.to_owned()
    }

    /// Whether pictures can be encoded, and not only latents decoded.
    pub(crate) fn has_encoder(&self) -> bool {
        !self.blocks[0].is_empty()
    }

    /// The `vae/config.json` that diffusers would write, where there is an encoder.
    pub(crate) fn config(&self) -> Value {
        let [encoder, decoder] = &self.blocks;
        json!({
            "_class_name": "AutoencoderTiny",
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": self.latent_channels,
            "encoder_block_out_channels": vec![self.widths[0]; encoder.len()],
            "decoder_block_out_channels": vec![self.widths[1]; decoder.len()],
            "num_encoder_blocks": encoder,
            "num_decoder_blocks": decoder,
            "act_fn": "relu",
            "scaling_factor": 1.0,
        })
    }
}

/// Residual blocks between the convolutions of one half, one number per level. Layers without weights leave
/// gaps in the numbering; a convolution ends a level, unless it is the first or the last layer.
fn levels(names: &Names, half: &str) -> Vec<usize> {
    let prefix = format!("{half}.");
    let layers = names.under(&prefix).filter_map(|name| name[prefix.len()..].split('.').next()?.parse().ok());
    let mut layers: Vec<usize> = layers.collect();
    layers.sort_unstable();
    layers.dedup();
    let mut levels = vec![0];
    let last = layers.len().saturating_sub(1);
    for (place, layer) in layers.iter().enumerate() {
        let convolution = names.has(&format!("{half}.{layer}.weight"));
        match convolution {
            false => *levels.last_mut().expect("there is one from the start") += 1,
            true if place > 0 && place < last => levels.push(0),
            true => {}
        }
    }
    levels
}

/// The prefix that diffusers puts before the names of one of the author's files of TAESD: each half is a file
/// whose layers are numbered from 0, the decoder's first without weights. `None` for other files.
pub(crate) fn taesd_half(names: &Names) -> Option<&'static str> {
    let channels = |name: &str| names.shape(name).filter(|shape| shape.len() == 4).map(|shape| shape[1]);
    match (channels("0.weight"), channels("1.weight")) {
        (Some(3), _) => Some("encoder."),
        (None, Some(_)) => Some("decoder."),
        _ => None,
    }
}
