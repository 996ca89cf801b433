//! Names of a running mean (EMA) of a U-Net's weights. CompVis' training code stores it under the weights' names without
//! dots: `model_ema.diffusion_modelinput_blocks10in_layers0weight`.

/// The prefix of all names.
const PREFIX: &str = "model_ema.";

/// Names of modules and parameters in single files. A word comes after longer words that start with it.
const WORDS: [&str; 32] = [
    "diffusion_model",
    "transformer_blocks",
    "skip_connection",
    "output_blocks",
    "middle_block",
    "input_blocks",
    "time_embed",
    "label_emb",
    "out_layers",
    "emb_layers",
    "in_layers",
    "cond_proj",
    "proj_out",
    "proj_in",
    "weight",
    "to_out",
    "attn1",
    "attn2",
    "norm1",
    "norm2",
    "norm3",
    "conv",
    "norm",
    "proj",
    "to_q",
    "to_k",
    "to_v",
    "bias",
    "net",
    "out",
    "ff",
    "op",
];

/// The name of the weight whose running mean is called `name`; `None` if it is not a U-Net's.
pub(crate) fn weight_name(name: &str) -> Option<String> {
    let mut rest = name.strip_prefix(PREFIX)?;
    // Some training programs keep the dots.
    if rest.contains('.') {
        return rest.starts_with("diffusion_model.").then(|| format!("model.{rest}"));
    }
    let mut dotted = "model".to_owned();
    while !rest.is_empty() {
        let length = match WORDS.iter().find(|word| rest.starts_with(**word)) {
            Some(word) => word.len(),
            None => {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                let pairs = dotted.ends_with("put_blocks") || dotted.ends_with("label_emb");
                // These lists contain lists of at most ten modules.
                if pairs && digits > 1 { digits - 1 } else { digits }
            }
        };
        if length == 0 {
            return None;
        }
        dotted.push('.');
        dotted.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    dotted.starts_with("model.diffusion_model.").then_some(dotted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_put_back() {
        for name in [
            "input_blocks.0.0.weight",
            "input_blocks.1.0.in_layers.0.weight",
            "input_blocks.10.0.op.bias",
            "input_blocks.11.1.transformer_blocks.0.attn1.to_out.0.bias",
            "input_blocks.8.1.transformer_blocks.9.ff.net.0.proj.weight",
            "output_blocks.5.2.conv.weight",
            "output_blocks.11.1.norm.weight",
            "middle_block.1.transformer_blocks.0.norm1.weight",
            "middle_block.2.out_layers.3.bias",
            "output_blocks.0.0.skip_connection.weight",
            "time_embed.0.weight",
            "time_embed.cond_proj.weight",
            "label_emb.0.2.bias",
            "out.2.bias",
            "input_blocks.1.1.proj_in.weight",
        ] {
            let full = format!("diffusion_model.{name}");
            let weight = Some(format!("model.{full}"));
            assert_eq!(weight_name(&format!("{PREFIX}{}", full.replace('.', ""))), weight);
            assert_eq!(weight_name(&format!("{PREFIX}{full}")), weight);
        }
        for name in [
            "model_ema.decay",
            "model_ema.num_updates",
            "diffusion_modelout0bias",
            "model_ema.diffusion_modelx",
        ] {
            assert_eq!(weight_name(name), None, "{name}");
        }
    }
}
