//! CLIP's text encoder, named as in transformers (`text_model.encoder.layers`) or as in OpenCLIP
//! (`transformer.resblocks`).

use serde_json::{Value, json};

use crate::models::naming::{Component, LayoutProblem, ModuleNames, Names, Piece, Rename, missing};

/// OpenCLIP's names of the modules of a block, and those of transformers. In OpenCLIP, the three projections
/// of the attention are one matrix.
const BLOCK: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
];
/// The rows of that matrix, in order.
const JOINED: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// Names of the projection of the pooled prompt, that of transformers first. The others are transposed.
const PROJECTION: [&str; 3] = ["text_projection.weight", "text_projection", "text_model.text_projection"];

/// Blocks of the OpenCLIP encoder that SD2.x reads.
const OPEN_CLIP_BLOCKS: usize = 24;

/// Buffers and parameters that do not affect the output: positions, the causal mask, the temperature of
/// training.
const IGNORED: [&str; 3] = ["text_model.embeddings.position_ids", "attn_mask", "logit_scale"];

/// The states of the encoder that the U-Net reads, and the activation of the perceptrons: the families differ
/// and the file does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextKind {
    /// OpenAI's CLIP: SD1.x, and the first encoder of SDXL.
    Clip,
    /// OpenCLIP of SD2.x, which reads the last block but one; the last never runs.
    OpenClipPenultimate,
    /// The whole of OpenCLIP, with its projection: the second encoder of SDXL.
    OpenClip,
}

/// A text encoder, described by its names and shapes.
#[derive(Clone, Debug)]
pub(crate) struct TextEncoder {
    /// Prefix of its tensors' names.
    pub(crate) prefix: String,
    /// Whether the names are OpenCLIP's.
    open_clip: bool,
    pub(crate) width: usize,
    layers: usize,
    intermediate: usize,
    /// Rows of the token table.
    pub(crate) vocabulary: usize,
    positions: usize,
    /// Size of the pooled prompt.
    pub(crate) projection: Option<usize>,
    /// Whether the file contains the temperature of training.
    logit_scale: bool,
}

impl TextEncoder {
    /// All text encoders among `names`, in the order in which a model reads them.
    ///
    /// # Errors
    /// When one of them lacks a tensor.
    pub(crate) fn all(names: &Names) -> Result<Vec<TextEncoder>, LayoutProblem> {
        let embeddings = names.iter().filter_map(|name| name.strip_suffix("token_embedding.weight"));
        let mut found =
            embeddings.map(|start| TextEncoder::of(names, start)).collect::<Result<Vec<_>, _>>()?;
        // `conditioner.embedders.1.` and `cond_stage_model.1.` are always second.
        found.sort_by_key(|encoder| (encoder.prefix.contains(".1."), encoder.prefix.clone()));
        Ok(found)
    }

    /// The encoder whose token embedding's name begins with `start`.
    fn of(names: &Names, start: &str) -> Result<TextEncoder, LayoutProblem> {
        let embeddings = start.strip_suffix("embeddings.");
        let open_clip = embeddings.is_none();
        let prefix = embeddings.unwrap_or(start);
        let inner = |name: &str| format!("{prefix}{name}");
        let [blocks, perceptron, positions] = match open_clip {
            true => ["transformer.resblocks", "mlp.c_fc.weight", "positional_embedding"],
            false => ["encoder.layers", "mlp.fc1.weight", "embeddings.position_embedding.weight"],
        };
        let size = |name: String, axis: usize| {
            let size = names.shape(&name).and_then(|shape| shape.get(axis)).copied();
            size.ok_or_else(|| missing(name))
        };
        let tokens = format!("{start}token_embedding.weight");
        // The projection is next to `text_model.`, not in it.
        let prefix_of_all = prefix.strip_suffix("text_model.").unwrap_or(prefix);
        let projection = match open_clip {
            // diffusers' script leaves it as transformers has it.
            true => {
                size(inner("text_projection"), 1).or_else(|_| size(inner("text_projection.weight"), 0)).ok()
            }
            false => size(format!("{prefix_of_all}text_projection.weight"), 0)
                .or_else(|_| size(format!("{prefix_of_all}text_projection"), 1))
                .or_else(|_| size(inner("text_projection"), 1))
                .ok(),
        };
        Ok(TextEncoder {
            width: size(tokens.clone(), 1)?,
            layers: names.count(&inner(blocks)),
            intermediate: size(inner(&format!("{blocks}.0.{perceptron}")), 0)?,
            vocabulary: size(tokens, 0)?,
            positions: size(inner(positions), 0)?,
            projection,
            logit_scale: names.has(&inner("logit_scale"))
                || names.has(&format!("{prefix_of_all}logit_scale")),
            open_clip,
            prefix: prefix_of_all.to_owned(),
        })
    }

    /// Whether it can be the second encoder of SDXL. The U-Net's `added_inputs` consist of its pooled prompt and of sines
    /// and cosines of five or six numbers.
    pub(crate) fn is_second(&self, added_inputs: usize) -> bool {
        let fits = |numbers: usize| {
            let rest = self.projection.and_then(|pooled| added_inputs.checked_sub(pooled));
            rest.is_some_and(|rest| rest > 0 && rest.is_multiple_of(2 * numbers))
        };
        fits(6) || fits(5) || self.open_clip
    }

    /// The kind of the encoder, given a config with so many layers: with one block more, it is that of SD2,
    /// which never runs the last.
    pub(crate) fn kind_with(&self, layers: &Value) -> TextKind {
        match layers.as_u64().is_some_and(|layers| layers + 1 == self.layers as u64) {
            true => TextKind::OpenClipPenultimate,
            false => TextKind::Clip,
        }
    }

    /// The `config.json` that diffusers would write.
    fn config(&self, kind: TextKind) -> Value {
        let layers = match kind {
            TextKind::OpenClipPenultimate if self.has_all_blocks() => self.layers - 1,
            _ => self.layers,
        };
        let mut config = json!({
            "model_type": "clip_text_model",
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "hidden_size": self.width,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": self.heads(),
            "hidden_act": if kind == TextKind::Clip { "quick_gelu" } else { "gelu" },
            "layer_norm_eps": 1e-5,
        });
        if let (TextKind::OpenClip, Some(projection)) = (kind, self.projection) {
            config["projection_dim"] = projection.into();
            // The end token has the last id, unless the table has rows for words of its own.
            config["eos_token_id"] = self.vocabulary.saturating_sub(1).into();
        }
        config
    }

    /// Whether the block that SD2 never runs is in the file. Files in the original format also contain the
    /// tensors after it, or the same number of blocks; diffusers leaves all of them out, and so do files made
    /// from its directories.
    fn has_all_blocks(&self) -> bool {
        self.layers > 1 && (self.projection.is_some() || self.logit_scale || self.layers == OPEN_CLIP_BLOCKS)
    }

    /// Number of attention heads: the published encoders have 64 channels per head; where there are too few
    /// channels for that, eight.
    fn heads(&self) -> usize {
        match self.width.is_multiple_of(64) {
            true => self.width / 64,
            false => (1..=8).rev().find(|heads| self.width.is_multiple_of(*heads)).unwrap_or(1),
        }
    }

    /// Describes the encoder as the component `name`.
    pub(crate) fn component(&self, names: &Names, name: &'static str, kind: TextKind) -> Component {
        let class_name = match kind {
            TextKind::OpenClip => "CLIPTextModelWithProjection",
            TextKind::Clip | TextKind::OpenClipPenultimate => "CLIPTextModel",
        };
        Component { name, class_name, config: self.config(kind), renames: self.renames(names, kind) }
    }

    /// The source of every weight of the encoder.
    fn renames(&self, names: &Names, kind: TextKind) -> Vec<Rename> {
        let modules = self.modules();
        let unread = match kind {
            TextKind::OpenClipPenultimate if self.has_all_blocks() => {
                Some(format!("text_model.encoder.layers.{}.", self.layers - 1))
            }
            _ => None,
        };
        let is_unread = |name: &str| unread.as_ref().is_some_and(|block| name.starts_with(block));
        let renames = names.under(&self.prefix).flat_map(|source| {
            let own = &source[self.prefix.len()..];
            let name = match self.open_clip {
                true => modules.to_diffusers(own),
                // Files from 2022 lack this part of the name.
                false
                    if own.starts_with("encoder.")
                        || own.starts_with("embeddings.")
                        || own.starts_with("final_") =>
                {
                    format!("text_model.{own}")
                }
                false => own.to_owned(),
            };
            let projection = PROJECTION.contains(&name.as_str());
            if IGNORED.contains(&name.as_str())
                || is_unread(&name)
                || projection && kind != TextKind::OpenClip
            {
                vec![Rename::ignored(source)]
            } else if projection {
                let piece = if name.ends_with(".weight") { Piece::Whole } else { Piece::Transposed };
                vec![Rename::new(source, PROJECTION[0], piece)]
            } else if let Some((block, parameter)) = in_projection(&name) {
                let part = |(part, projection): (usize, &&str)| {
                    let canonical = format!("{block}.self_attn.{projection}.{parameter}");
                    Rename::new(source, &canonical, Piece::Third(part))
                };
                JOINED.iter().enumerate().map(part).collect()
            } else {
                vec![Rename::new(source, &name, Piece::Whole)]
            }
        });
        renames.collect()
    }

    /// The names of OpenCLIP's modules, and those of transformers.
    fn modules(&self) -> ModuleNames {
        let mut modules = ModuleNames::default();
        modules.add("token_embedding", "text_model.embeddings.token_embedding");
        modules.add("positional_embedding", "text_model.embeddings.position_embedding.weight");
        modules.add("ln_final", "text_model.final_layer_norm");
        for block in 0..self.layers {
            let name = format!("text_model.encoder.layers.{block}");
            modules.add_all(&format!("transformer.resblocks.{block}"), &name, &BLOCK);
        }
        modules
    }
}

/// The block and the parameter of a matrix that joins three projections, by OpenCLIP's name or by that of
/// stable-diffusion.cpp.
fn in_projection(name: &str) -> Option<(&str, &str)> {
    name.split_once(".attn.in_proj_").or_else(|| name.split_once(".self_attn.in_proj."))
}
