//! The many names of a layer's LoRA.
//!
//! kohya's trainers write `lora_unet_down_blocks_0_attentions_0_…_to_q.lora_down.weight`, where an underscore
//! may represent a dot; for SDXL with the names of Stability's code, `lora_unet_input_blocks_4_1_…`.
//! diffusers and peft write `unet.down_blocks.0.….to_q.lora_A.weight`, and before them
//! `….attn1.processor.to_q_lora.down.weight`. So names are not parsed: for every layer of the model, all its
//! possible names are looked up.

use std::collections::HashMap;

use crate::models::{
    naming::{ModuleNames, Names},
    unet::UNetStructure,
};
use sdq_formats::{WeightRole, WeightSpec};

/// A half of a product, or a tensor that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// From the layer's input to the rank.
    Down,
    /// A convolution in between.
    Mid,
    /// From the rank to the layer's output.
    Up,
    /// Strength, as a multiple of the rank.
    Alpha,
}

const ENDINGS: [(&str, Part); 12] = [
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora_mid.weight", Part::Mid),
    (".alpha", Part::Alpha),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    ("_lora.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
];

/// Prefix of the names of embeddings that come with a LoRA.
const BUNDLED: &str = "bundle_emb.";
/// Possible parts of such a name after the word.
const BUNDLED_PARTS: [&str; 4] = ["emb_params", "clip_l", "clip_g", "string_to_param."];

/// The module of the tensor `name`, and its part of the module.
pub(super) fn split(name: &str) -> Option<(&str, Part)> {
    let known = ENDINGS.iter().find_map(|(ending, part)| Some((name.strip_suffix(ending)?, *part)));
    known.or_else(|| {
        // peft inserts the adapter's name here, such as `default`.
        let (module, _adapter) = name.strip_suffix(".weight")?.rsplit_once('.')?;
        let half = |ending, part| Some((module.strip_suffix(ending)?, part));
        half(".lora_A", Part::Down).or_else(|| half(".lora_B", Part::Up))
    })
}

/// The word of the bundled embedding with the tensor `name`, and the rest of the name.
pub(super) fn bundled(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix(BUNDLED)?;
    let part = BUNDLED_PARTS.iter().find_map(|part| {
        let at = rest.rfind(part)?;
        rest[..at].ends_with('.').then_some(at)
    })?;
    Some((&rest[..part - 1], &rest[part..]))
}

/// Whether the tensor `name` is the weight of a model.
pub(super) fn is_of_a_model(name: &str) -> bool {
    const STARTS: [&str; 12] = [
        "model.diffusion_model.",
        "first_stage_model.",
        "cond_stage_model.",
        "conditioner.",
        "down_blocks.",
        "up_blocks.",
        "mid_block.",
        "conv_in.",
        "encoder.",
        "decoder.",
        "text_model.",
        "diffusion_model.",
    ];
    STARTS.iter().any(|start| name.starts_with(start))
}

/// The network of a module, according to the beginning of the module's name.
pub(super) fn network(module: &str) -> &'static str {
    let plain = plain(module);
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| plain.starts_with(prefix));
    if starts(&["te2_", "text_encoder_2_"]) {
        "second text encoder"
    } else if starts(&["te_", "te1_", "text_encoder_", "text_model_"]) {
        "text encoder"
    } else {
        "U-Net"
    }
}

/// A name without the characters in which spellings differ.
pub(super) fn plain(module: &str) -> String {
    let module = module.strip_prefix("base_model.model.").unwrap_or(module);
    let module = module.strip_prefix("lora_").unwrap_or(module);
    module.replace(".processor.", ".").replace('.', "_")
}

/// A layer of the model: the component and the weight.
pub(super) type Layer<'t> = (&'t str, &'t WeightSpec);

/// Every product of the model by each of its plain names.
pub(super) fn layers<'t>(targets: &'t [(&'t str, Vec<WeightSpec>)]) -> HashMap<String, Layer<'t>> {
    let mut layers = HashMap::new();
    for (component, specs) in targets {
        let modules = match *component {
            "unet" => unet_modules(specs),
            _ => ModuleNames::default(),
        };
        for spec in specs {
            let is_product = matches!(spec.role, WeightRole::Matrix | WeightRole::Conv);
            let Some(module) = spec.name.strip_suffix(".weight").filter(|_| is_product) else { continue };
            for name in names(component, module, &modules) {
                layers.entry(name).or_insert((*component, spec));
            }
        }
    }
    layers
}

fn unet_modules(specs: &[WeightSpec]) -> ModuleNames {
    let names: Names = specs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
    // A U-Net with a structure that single files cannot have has no names there.
    UNetStructure::of(&names, "").map(|structure| structure.modules()).unwrap_or_default()
}

/// The plain names of a module.
fn names(component: &str, module: &str, modules: &ModuleNames) -> Vec<String> {
    let own = plain(module);
    // The projection is the first of two modules, of which the other is the dropout of training; some tools
    // count it, some do not.
    let spellings = [Some(own.clone()), own.strip_suffix("_to_out_0").map(|start| format!("{start}_to_out"))];
    let spellings: Vec<String> = spellings.into_iter().flatten().collect();
    let with = |prefixes: &[&str], names: &[String]| -> Vec<String> {
        names.iter().flat_map(|name| prefixes.iter().map(move |prefix| format!("{prefix}{name}"))).collect()
    };
    match component {
        "unet" => {
            let original = plain(&modules.from_diffusers(module));
            [with(&["unet_", ""], &spellings), with(&["unet_", "diffusion_model_"], &[original])].concat()
        }
        _ => {
            // transformers 5 omits this part of the names.
            let short = own.strip_prefix("text_model_").map(str::to_owned);
            let spellings: Vec<String> = std::iter::once(own).chain(short).collect();
            match component {
                "text_encoder" => with(&["te_", "te1_", "text_encoder_"], &spellings),
                _ => with(&["te2_", "text_encoder_2_"], &spellings),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_module_and_the_part() {
        for (name, expected) in [
            ("lora_unet_a.lora_down.weight", Some(("lora_unet_a", Part::Down))),
            ("lora_unet_a.alpha", Some(("lora_unet_a", Part::Alpha))),
            ("unet.a.to_k.lora_B.weight", Some(("unet.a.to_k", Part::Up))),
            ("unet.a.to_k.lora_A.default.weight", Some(("unet.a.to_k", Part::Down))),
            ("unet.a.to_k.lora_B.my_style.weight", Some(("unet.a.to_k", Part::Up))),
            ("unet.a.processor.to_q_lora.up.weight", Some(("unet.a.processor.to_q", Part::Up))),
            ("unet.a.to_k.weight", None),
            ("unet.a.to_k.lora_C.weight", None),
            ("lora_A", None),
        ] {
            assert_eq!(split(name), expected, "{name}");
        }
    }

    #[test]
    fn names_say_the_network() {
        for (module, expected) in [
            ("lora_unet_mid_block_attentions_0_proj_in", "U-Net"),
            ("mid_block.attentions.0.proj_in", "U-Net"),
            ("base_model.model.text_encoder.text_model.encoder.layers.0.mlp.fc1", "text encoder"),
            ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "text encoder"),
            ("lora_te2_text_model_encoder_layers_0_mlp_fc1", "second text encoder"),
            ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", "second text encoder"),
        ] {
            assert_eq!(network(module), expected, "{module}");
        }
    }

    #[test]
    fn bundled_words_may_have_dots_and_blanks() {
        for (name, expected) in [
            ("bundle_emb.my toy.clip_l", Some(("my toy", "clip_l"))),
            ("bundle_emb.v1.5 cat.emb_params", Some(("v1.5 cat", "emb_params"))),
            ("bundle_emb.cat.string_to_param.*", Some(("cat", "string_to_param.*"))),
            ("bundle_emb.clip_l", None),
            ("bundle_emb.cat.other", None),
            ("emb.cat.clip_l", None),
        ] {
            assert_eq!(bundled(name), expected, "{name}");
        }
    }
}
