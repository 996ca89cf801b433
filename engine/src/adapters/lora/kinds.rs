//! Adapters that are no LoRA, told by the names of their tensors.

use super::names;

/// Parts of names between dots that identify another kind of adapter. peft may append the adapter's own name, and
/// `weight`.
const PARTS: [(&str, &str); 17] = [
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("lora_E", "AdaLoRA"),
    ("ranknum", "AdaLoRA"),
    ("lora_embedding_A", "LoRA of token embeddings"),
    ("lora_embedding_B", "LoRA of token embeddings"),
    ("lora_controlnet", "ControlNet-LoRA"),
    ("on_input", "IA3"),
    ("diff", "full difference of weights"),
    ("diff_b", "full difference of weights"),
    ("w_norm", "change of norms"),
    ("b_norm", "change of norms"),
    ("set_weight", "replacement of weights"),
    ("hra_u", "HRA"),
    ("fourierft_spectrum", "FourierFT"),
    ("randlora_lambda", "RandLoRA"),
    ("vblora_logits_A", "VB-LoRA"),
];

/// Beginnings of such parts.
const STARTS: [(&str, &str); 8] = [
    ("ia3_", "IA3"),
    ("boft_", "BOFT"),
    ("vera_lambda", "VeRA"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("oft_", "OFT"),
    ("bone_", "Bone"),
    ("shira_", "SHiRA"),
];

/// Ends of names with the same meaning.
const ENDINGS: [(&str, &str); 4] =
    [(".a1.weight", "GLoRA"), (".a2.weight", "GLoRA"), (".b1.weight", "GLoRA"), (".b2.weight", "GLoRA")];

/// The halves of a LoRA's product.
const HALVES: [&str; 4] = ["lora_A", "lora_B", "lora_down", "lora_up"];

/// The kind of adapter that the tensor `name` identifies, if it is not supported.
pub(super) fn other_kind(name: &str) -> Option<&'static str> {
    if names::split(name).is_some() {
        return None;
    }
    let is_numbered = |name: &str| name.ends_with(":up") || name.ends_with(":down");
    if is_numbered(name) {
        return Some("LoRA with numbered layers, as cloneofsimo's trainer writes them");
    }
    let parts: Vec<&str> = name.split('.').skip(1).collect();
    if let Some(half) = parts.iter().position(|part| HALVES.contains(part)) {
        // `.lora_A.0` is a row of a product, `.lora_A.default.bias` belongs to an adapter called `default`.
        match parts[half + 1..] {
            [.., "bias"] => return Some("LoRA with biases"),
            [row] if row.parse::<u32>().is_ok() => return Some("DyLoRA"),
            _ => {}
        }
    }
    let is_part = |(part, _): &&(&str, &str)| parts.contains(part);
    let starts = |(start, _): &&(&str, &str)| parts.iter().any(|part| part.starts_with(start));
    let ends = |(end, _): &&(&str, &str)| name.ends_with(end);
    let found = PARTS.iter().find(is_part).or_else(|| STARTS.iter().find(starts));
    found.or_else(|| ENDINGS.iter().find(ends)).map(|(_, kind)| *kind)
}

/// Whether the tensor `name` belongs to a hypernetwork of AUTOMATIC1111's web UI: `768.0.linear.0.weight`.
pub(super) fn is_of_a_hypernetwork(name: &str) -> bool {
    let mut parts = name.split('.');
    let width = parts.next().is_some_and(|width| width.parse::<u32>().is_ok());
    width && parts.nth(1).is_some_and(|part| part.starts_with("linear"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_adapters_are_told_by_any_of_their_tensors() {
        for (name, kind) in [
            ("a.dora_scale", Some("DoRA")),
            ("a.lora_magnitude_vector", Some("DoRA")),
            ("a.lora_magnitude_vector.weight", Some("DoRA")),
            ("a.lora_magnitude_vector.default.weight", Some("DoRA")),
            ("a.lora_B.bias", Some("LoRA with biases")),
            ("a.lora_B.default.bias", Some("LoRA with biases")),
            ("a.lora_E", Some("AdaLoRA")),
            ("a.lora_E.default", Some("AdaLoRA")),
            ("a.ranknum", Some("AdaLoRA")),
            ("a.ranknum.default", Some("AdaLoRA")),
            ("a.lora_A.0", Some("DyLoRA")),
            ("a.on_input", Some("IA3")),
            ("a.ia3_l", Some("IA3")),
            ("a.ia3_l.default", Some("IA3")),
            ("a.a1.weight", Some("GLoRA")),
            ("a.hada_w1_a", Some("LoHa")),
            ("a.hada_w1_a.my_style", Some("LoHa")),
            ("a.lokr_w1", Some("LoKr")),
            ("a.lokr_w2_a.default", Some("LoKr")),
            ("a.oft_blocks", Some("OFT")),
            ("a.oft_R.weight", Some("OFT")),
            ("a.oft_r.default", Some("OFT")),
            ("a.boft_R.default", Some("BOFT")),
            ("a.vera_lambda_b.default", Some("VeRA")),
            ("a.hra_u.default", Some("HRA")),
            ("a.diff", Some("full difference of weights")),
            ("a.diff_b", Some("full difference of weights")),
            ("a.lora_embedding_A", Some("LoRA of token embeddings")),
            ("a.lora_embedding_B.default", Some("LoRA of token embeddings")),
            ("unet:0:up", Some("LoRA with numbered layers, as cloneofsimo's trainer writes them")),
            ("a.lora_A.weight", None),
            ("a.lora_A.0.weight", None),
            ("a.diff.lora_A.weight", None),
            ("a.alpha", None),
            ("model.diffusion_model.out.2.weight", None),
        ] {
            assert_eq!(other_kind(name), kind, "{name}");
        }
    }

    #[test]
    fn hypernetworks_have_layers_by_width() {
        assert!(is_of_a_hypernetwork("768.0.linear.0.weight"));
        assert!(!is_of_a_hypernetwork("layers.0.linear.0.weight"));
        assert!(!is_of_a_hypernetwork("768"));
    }
}
