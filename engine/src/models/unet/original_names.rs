//! The U-Net, named as in CompVis' and Stability's code: `input_blocks`, `middle_block`, `output_blocks`.
//!
//! The structure of a network is derived from the names and its sizes from the shapes. Nothing is looked up
//! by width.

use serde_json::{Value, json};

use crate::models::naming::{LayoutProblem, ModuleNames, Names, missing, norm_groups, unknown};

/// The structure of a U-Net.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UNetStructure {
    /// Levels on the way down, finest first.
    pub down: Vec<Level>,
    /// The middle.
    pub middle: Middle,
    /// Levels on the way up, coarsest first.
    pub up: Vec<Level>,
}

/// One level of a U-Net, on the way down or on the way up.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Level {
    /// Residual blocks, each with the number of blocks of the transformer that follows it, if any.
    pub layers: Vec<Option<usize>>,
    /// Whether the last layer halves or doubles the size.
    pub resamples: bool,
}

/// The part between the way down and the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Middle {
    /// Nothing.
    None,
    /// One residual block.
    Residual,
    /// Two residual blocks around a transformer of so many blocks.
    Transformer(usize),
}

/// Names of the modules of a residual block in single files and in diffusers.
const RESIDUAL: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// Modules outside of all blocks.
const ENDS: [(&str, &str); 8] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("time_embed.cond_proj", "time_embedding.cond_proj"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

impl UNetStructure {
    /// Reads the structure of the network whose tensors begin with `prefix`, in either convention.
    ///
    /// # Errors
    /// When the names are not those of a U-Net.
    pub fn of(names: &Names, prefix: &str) -> Result<UNetStructure, LayoutProblem> {
        let structure = match names.has(&format!("{prefix}input_blocks.0.0.weight")) {
            true => UNetStructure::of_single_file(names, prefix)?,
            false => UNetStructure::of_diffusers(names, prefix)?,
        };
        let (down, up) = (structure.down.len(), structure.up.len());
        match down == up && structure.down.iter().chain(&structure.up).all(|level| !level.layers.is_empty()) {
            true => Ok(structure),
            false => Err(unknown(
                prefix,
                format!("a U-Net with {down} levels on the way down and {up} on the way up"),
            )),
        }
    }

    fn of_single_file(names: &Names, prefix: &str) -> Result<UNetStructure, LayoutProblem> {
        let mut down = vec![Level::default()];
        for index in 1..names.count(&format!("{prefix}input_blocks")) {
            let block = format!("{prefix}input_blocks.{index}");
            let level = down.last_mut().expect("there is one from the start");
            if names.has(&format!("{block}.0.op.weight")) {
                level.resamples = true;
                down.push(Level::default());
            } else if names.has(&format!("{block}.0.in_layers.2.weight")) {
                level.layers.push(transformer_depth(names, &format!("{block}.1")));
            } else {
                return Err(missing(format!("{block}.0.in_layers.2.weight")));
            }
        }
        let mut up = vec![Level::default()];
        for index in 0..names.count(&format!("{prefix}output_blocks")) {
            let block = format!("{prefix}output_blocks.{index}");
            if !names.has(&format!("{block}.0.in_layers.2.weight")) {
                return Err(missing(format!("{block}.0.in_layers.2.weight")));
            }
            let depth = transformer_depth(names, &format!("{block}.1"));
            let level = up.last_mut().expect("there is one from the start");
            level.layers.push(depth);
            if names.has(&format!("{block}.{}.conv.weight", 1 + usize::from(depth.is_some()))) {
                level.resamples = true;
                up.push(Level::default());
            }
        }
        let middle = match names.has(&format!("{prefix}middle_block.0.in_layers.2.weight")) {
            false => Middle::None,
            true => transformer_depth(names, &format!("{prefix}middle_block.1"))
                .map_or(Middle::Residual, Middle::Transformer),
        };
        Ok(UNetStructure { down, middle, up })
    }

    fn of_diffusers(names: &Names, prefix: &str) -> Result<UNetStructure, LayoutProblem> {
        let levels = |way: &str, sampler: &str| -> Vec<Level> {
            let blocks = format!("{prefix}{way}");
            let level = |index: usize| Level {
                layers: (0..names.count(&format!("{blocks}.{index}.resnets")))
                    .map(|layer| transformer_depth(names, &format!("{blocks}.{index}.attentions.{layer}")))
                    .collect(),
                resamples: names.has(&format!("{blocks}.{index}.{sampler}.0.conv.weight")),
            };
            (0..names.count(&blocks)).map(level).collect()
        };
        let middle = match names.has(&format!("{prefix}mid_block.resnets.0.conv1.weight")) {
            false => Middle::None,
            true => transformer_depth(names, &format!("{prefix}mid_block.attentions.0"))
                .map_or(Middle::Residual, Middle::Transformer),
        };
        Ok(UNetStructure {
            down: levels("down_blocks", "downsamplers"),
            middle,
            up: levels("up_blocks", "upsamplers"),
        })
    }

    /// The names of its modules in single files and in diffusers, without a prefix.
    pub fn modules(&self) -> ModuleNames {
        let mut modules = ModuleNames::default();
        for (own, diffusers) in ENDS {
            modules.add(own, diffusers);
        }
        let mut index = 1;
        for (level, Level { layers, resamples }) in self.down.iter().enumerate() {
            let name = format!("down_blocks.{level}");
            for (layer, depth) in layers.iter().enumerate() {
                modules.add_all(
                    &format!("input_blocks.{index}.0"),
                    &format!("{name}.resnets.{layer}"),
                    &RESIDUAL,
                );
                if depth.is_some() {
                    modules.add(format!("input_blocks.{index}.1"), format!("{name}.attentions.{layer}"));
                }
                index += 1;
            }
            if *resamples {
                modules.add(format!("input_blocks.{index}.0.op"), format!("{name}.downsamplers.0.conv"));
                index += 1;
            }
        }
        modules.add_all("middle_block.0", "mid_block.resnets.0", &RESIDUAL);
        if let Middle::Transformer(_) = self.middle {
            modules.add("middle_block.1", "mid_block.attentions.0");
            modules.add_all("middle_block.2", "mid_block.resnets.1", &RESIDUAL);
        }
        let mut index = 0;
        for (block, Level { layers, resamples }) in self.up.iter().enumerate() {
            let name = format!("up_blocks.{block}");
            for (layer, depth) in layers.iter().enumerate() {
                modules.add_all(
                    &format!("output_blocks.{index}.0"),
                    &format!("{name}.resnets.{layer}"),
                    &RESIDUAL,
                );
                if depth.is_some() {
                    modules.add(format!("output_blocks.{index}.1"), format!("{name}.attentions.{layer}"));
                }
                if *resamples && layer + 1 == layers.len() {
                    let place = 1 + usize::from(depth.is_some());
                    let conv = format!("output_blocks.{index}.{place}.conv");
                    modules.add(conv, format!("{name}.upsamplers.0.conv"));
                }
                index += 1;
            }
        }
        modules
    }

    /// For each level, whether it has transformers.
    fn attends(levels: &[Level]) -> Vec<bool> {
        levels.iter().map(|level| level.layers.iter().any(Option::is_some)).collect()
    }
}

/// The number of blocks of the transformer `module`; `None` if there is no transformer.
fn transformer_depth(names: &Names, module: &str) -> Option<usize> {
    names
        .has(&format!("{module}.proj_in.weight"))
        .then(|| names.count(&format!("{module}.transformer_blocks")))
}

/// A U-Net, described by its names and shapes.
#[derive(Clone, Debug)]
pub(crate) struct UNet {
    pub(crate) structure: UNetStructure,
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) cross_attention_dim: usize,
    /// Whether the projections around transformers are matrices: from SD2 on.
    pub(crate) linear_projections: bool,
    /// Size of the additional conditioning.
    pub(crate) added_inputs: Option<usize>,
    time_cond_proj_dim: Option<usize>,
    widths: Vec<usize>,
}

impl UNet {
    pub(crate) fn of(names: &Names, prefix: &str) -> Result<UNet, LayoutProblem> {
        let structure = UNetStructure::of(names, prefix)?;
        let modules = structure.modules();
        let single_file = names.has(&format!("{prefix}input_blocks.0.0.weight"));
        let name = |diffusers: &str| match single_file {
            true => format!("{prefix}{}", modules.from_diffusers(diffusers)),
            false => format!("{prefix}{diffusers}"),
        };
        let size = |diffusers: &str, axis: usize| {
            let name = name(diffusers);
            let size = names.shape(&name).and_then(|shape| shape.get(axis)).copied();
            size.ok_or_else(|| missing(name))
        };
        let widths = (0..structure.down.len())
            .map(|level| size(&format!("down_blocks.{level}.resnets.0.conv1.weight"), 0))
            .collect::<Result<Vec<_>, _>>()?;
        let transformer = transformers(&structure).next();
        let transformer = transformer
            .ok_or_else(|| unknown(prefix, "a U-Net without a transformer that reads text".to_owned()))?;
        let projection = name(&format!("{transformer}.proj_in.weight"));
        let keys = transformers(&structure)
            .map(|transformer| format!("{transformer}.transformer_blocks.0.attn2.to_k.weight"))
            .find(|keys| names.has(&name(keys)));
        let keys = keys
            .ok_or_else(|| missing(name(&format!("{transformer}.transformer_blocks.0.attn2.to_k.weight"))))?;
        // Older scripts of diffusers' do not rename what only SDXL has.
        let optional = |diffusers: &str| {
            let unnamed =
                || names.shape(&format!("{prefix}{diffusers}")).and_then(|shape| shape.get(1)).copied();
            size(diffusers, 1).ok().or_else(unnamed)
        };
        Ok(UNet {
            in_channels: size("conv_in.weight", 1)?,
            out_channels: size("conv_out.weight", 0)?,
            cross_attention_dim: size(&keys, 1)?,
            linear_projections: names.shape(&projection).is_some_and(|shape| shape.len() == 2),
            added_inputs: optional("add_embedding.linear_1.weight"),
            time_cond_proj_dim: optional("time_embedding.cond_proj.weight"),
            widths,
            structure,
        })
    }

    /// Whether the U-Net has the guidance scale as an input, as in distilled models, which need no negative
    /// prompt.
    pub(crate) fn is_told_guidance(&self) -> bool {
        self.time_cond_proj_dim.is_some()
    }

    /// Attention heads of every level. The file does not say: SD1.x has eight everywhere, later families have
    /// 64 channels per head. Where there are too few channels for that, eight again, or a number that divides
    /// them.
    fn heads(&self) -> Vec<usize> {
        let by_width = self.linear_projections && self.widths.iter().all(|width| width.is_multiple_of(64));
        let heads = |&width: &usize| match by_width {
            true => width / 64,
            false => (1..=8).rev().find(|heads| width.is_multiple_of(*heads)).unwrap_or(1),
        };
        self.widths.iter().map(heads).collect()
    }

    /// The `unet/config.json` that diffusers would write. `pooled` is the size of the pooled prompt,
    /// `numbers` the number of other values of the additional conditioning, `latent_size` the height and
    /// width of the latents that the model was trained with.
    pub(crate) fn config(
        &self,
        pooled: usize,
        numbers: usize,
        latent_size: usize,
    ) -> Result<Value, LayoutProblem> {
        let UNetStructure { down, middle, up } = &self.structure;
        let kinds = |levels: &[Level], attending: &str, plain: &str| -> Vec<String> {
            let attends = UNetStructure::attends(levels);
            attends.iter().map(|&attends| if attends { attending } else { plain }.to_owned()).collect()
        };
        let mut config = json!({
            "_class_name": "UNet2DConditionModel",
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "sample_size": latent_size,
            "block_out_channels": self.widths,
            "down_block_types": kinds(down, "CrossAttnDownBlock2D", "DownBlock2D"),
            "mid_block_type": match middle {
                Middle::None => Value::Null,
                Middle::Residual => "UNetMidBlock2D".into(),
                Middle::Transformer(_) => "UNetMidBlock2DCrossAttn".into(),
            },
            "up_block_types": kinds(up, "CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": down.iter().map(|level| level.layers.len()).collect::<Vec<_>>(),
            "attention_head_dim": self.heads(),
            "cross_attention_dim": self.cross_attention_dim,
            "use_linear_projection": self.linear_projections,
            "norm_num_groups": norm_groups(&self.widths),
        });
        self.add_depths(&mut config)?;
        if let Some(width) = self.time_cond_proj_dim {
            config["time_cond_proj_dim"] = width.into();
        }
        if let Some(inputs) = self.added_inputs {
            config["addition_embed_type"] = "text_time".into();
            config["projection_class_embeddings_input_dim"] = inputs.into();
            config["addition_time_embed_dim"] = (inputs.saturating_sub(pooled) / numbers).into();
        }
        Ok(config)
    }

    /// Depths of the transformers: a number for each level where that is sufficient, otherwise a list for
    /// each layer.
    fn add_depths(&self, config: &mut Value) -> Result<(), LayoutProblem> {
        let UNetStructure { down, middle, up } = &self.structure;
        let middle = match middle {
            Middle::Transformer(depth) => Some(*depth),
            Middle::None | Middle::Residual => None,
        };
        let mut down = depths(down)?;
        let up = depths(up)?;
        // Where the coarsest level has none, its number is the middle's.
        let coarsest = down.last_mut().expect("a U-Net has levels");
        if coarsest.is_empty() {
            coarsest.push(middle.unwrap_or(1));
        }
        if middle.is_some_and(|middle| coarsest[0] != middle) {
            let found =
                format!("a transformer of another depth than those of the coarsest level, {coarsest:?}");
            return Err(unknown("middle_block", found));
        }
        let uniform = |depths: &[usize]| depths.iter().all(|depth| *depth == depths[0]);
        let mirrored = down.iter().zip(up.iter().rev()).all(|(down, up)| {
            up.is_empty() || (down.first() == up.first() || down.is_empty()) && uniform(up) && uniform(down)
        });
        let number = |depths: &Vec<usize>| depths.first().copied().unwrap_or(1);
        if mirrored {
            let numbers = down.iter().zip(up.iter().rev()).map(|(down, up)| match down.is_empty() {
                true => number(up),
                false => number(down),
            });
            config["transformer_layers_per_block"] = numbers.collect::<Vec<_>>().into();
        } else {
            config["transformer_layers_per_block"] = json!(down);
            config["reverse_transformer_layers_per_block"] = json!(up);
        }
        Ok(())
    }
}

/// Depths of each level's transformers; empty for levels without.
fn depths(levels: &[Level]) -> Result<Vec<Vec<usize>>, LayoutProblem> {
    let of_level = |(index, level): (usize, &Level)| {
        let depths: Vec<usize> = level.layers.iter().flatten().copied().collect();
        match depths.is_empty() || depths.len() == level.layers.len() {
            true => Ok(depths),
            false => Err(unknown(
                &format!("level {index}"),
                "a level with transformers after some layers only".to_owned(),
            )),
        }
    };
    levels.iter().enumerate().map(of_level).collect()
}

/// Names of all transformers in diffusers, the way down first.
fn transformers(structure: &UNetStructure) -> impl Iterator<Item = String> {
    let of = |way: &'static str, levels: &[Level]| -> Vec<String> {
        let of_level = |(level, Level { layers, .. }): (usize, &Level)| {
            let layers = layers.iter().enumerate().filter(|(_, depth)| depth.is_some());
            layers.map(|(layer, _)| format!("{way}.{level}.attentions.{layer}")).collect::<Vec<_>>()
        };
        levels.iter().enumerate().flat_map(of_level).collect()
    };
    let middle =
        matches!(structure.middle, Middle::Transformer(_)).then(|| "mid_block.attentions.0".to_owned());
    of("down_blocks", &structure.down).into_iter().chain(middle).chain(of("up_blocks", &structure.up))
}
