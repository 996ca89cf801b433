//! The many names of a layer's LoRA.
//!
//! kohya's trainers write `lora_unet_down_blocks_0_attentions_0_…_to_q.lora_down.weight`, where an underscore may be a dot;
//! for SDXL under the names of Stability's code, `lora_unet_input_blocks_4_1_…`. diffusers and peft write
//! `unet.down_blocks.0.….to_q.lora_A.weight`, and before them `….attn1.processor.to_q_lora.down.weight`. So names are not
//! parsed: every layer of the model is asked what it could be called.

use std::collections::HashMap;

use crate::models::{
    naming::{ModuleNames, Names},
    unet::UNetStructure,
};
use sdq_formats::{WeightRole, WeightSpec};

/// A half of a product, or what goes with it.
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

const ENDINGS: [(&str, Part); 14] = [
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora_mid.weight", Part::Mid),
    (".alpha", Part::Alpha),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_A.default.weight", Part::Down),
    (".lora_B.default.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    ("_lora.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
];

/// Parts of names that make an adapter something else.
const OTHER_KINDS: [(&str, &str); 8] = [
    (".dora_scale", "DoRA"),
    (".hada_", "LoHa"),
    (".lokr_", "LoKr"),
    (".oft_", "OFT"),
    (".diff", "full difference of weights"),
    (".w_norm", "change of norms"),
    (".b_norm", "change of norms"),
    (".set_weight", "replacement of weights"),
];

/// The module that the tensor `name` belongs to, and what it is there.
pub(super) fn split(name: &str) -> Option<(&str, Part)> {
    ENDINGS.iter().find_map(|(ending, part)| Some((name.strip_suffix(ending)?, *part)))
}

/// What kind of adapter the tensor `name` makes it, if not one that is applied.
pub(super) fn other_kind(name: &str) -> Option<&'static str> {
    let kinds = OTHER_KINDS.iter();
    kinds
        .filter(|(part, _)| name.find(part).is_some_and(|at| !name[at + 1..].contains('.')))
        .map(|(_, kind)| *kind)
        .next()
}

/// A name with everything taken out in which spellings differ.
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
    // A U-Net of a structure that single files cannot have has no names there.
    UNetStructure::of(&names, "").map(|structure| structure.modules()).unwrap_or_default()
}

/// The plain names of a module.
fn names(component: &str, module: &str, modules: &ModuleNames) -> Vec<String> {
    let own = plain(module);
    // The projection is the first of two modules, of which the other drops values in training; some count it, some do not.
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
            // transformers 5 left this part of the names out.
            let short = own.strip_prefix("text_model_").map(str::to_owned);
            let spellings: Vec<String> = std::iter::once(own).chain(short).collect();
            match component {
                "text_encoder" => with(&["te_", "te1_", "text_encoder_"], &spellings),
                _ => with(&["te2_", "text_encoder_2_"], &spellings),
            }
        }
    }
}
