//! The adapter settings that diffusers stores in a LoRA's metadata, for files whose alphas are not tensors.

use serde_json::Value;

use super::error::LoraError;
use sdq_formats::checkpoint::Checkpoint;

/// Key of the metadata.
const KEY: &str = "lora_adapter_metadata";

/// Longest note in bytes. JSON of empty lists takes twenty times as much in memory.
const MAX_LEN: usize = 1 << 20;

/// The settings of a LoRA's adapters, with the component's name as prefix: `unet.lora_alpha`.
#[derive(Clone, Debug, Default)]
pub(super) struct Adapters(Value);

impl Adapters {
    /// The settings in the metadata of `checkpoint`; empty if it has none.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Adapters, LoraError> {
        let Some(text) = checkpoint.note(KEY) else { return Ok(Adapters::default()) };
        if text.len() > MAX_LEN {
            return Err(LoraError::Adapter(format!(
                "the text has {} bytes, expected at most {MAX_LEN}",
                text.len()
            )));
        }
        let settings = serde_json::from_str(&text).map_err(|error| LoraError::Adapter(error.to_string()))?;
        Ok(Adapters(settings))
    }

    /// The factor of the branch of `module` of `component`, given its rank: `alpha / rank`, or with
    /// rank-stabilised scaling `alpha / sqrt(rank)` (Kalajdzievski 2023, arXiv:2312.03732). 1 if there are no
    /// settings.
    pub(super) fn scale(&self, component: &str, module: &str, rank: usize) -> Result<f32, LoraError> {
        let setting = |key: &str| &self.0[format!("{component}.{key}")];
        if setting("use_dora") == true {
            return Err(LoraError::Kind { tensor: KEY.to_owned(), kind: "DoRA" });
        }
        // A pattern is the end of a module's name.
        let patterns = setting("alpha_pattern").as_object();
        let own = patterns.into_iter().flatten().find(|(pattern, _)| {
            module
                .strip_suffix(pattern.as_str())
                .is_some_and(|start| start.is_empty() || start.ends_with('.'))
        });
        let alpha = own.map_or_else(|| setting("lora_alpha"), |(_, alpha)| alpha);
        let Some(alpha) = alpha.as_f64().map(|alpha| alpha as f32) else { return Ok(1.0) };
        if !alpha.is_finite() {
            return Err(LoraError::Alpha { tensor: format!("{KEY}: {component}.lora_alpha"), found: alpha });
        }
        Ok(match setting("use_rslora") == true {
            true => alpha / (rank as f32).sqrt(),
            false => alpha / rank as f32,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn alphas_are_found_by_component_and_pattern() {
        let adapters = Adapters(json!({
            "unet.lora_alpha": 8, "unet.alpha_pattern": { "attn1.to_q": 2 },
            "text_encoder.lora_alpha": 8, "text_encoder.use_rslora": true,
            "text_encoder_2.use_dora": true,
        }));
        let scale = |component: &str, module: &str| adapters.scale(component, module, 4).unwrap();
        assert_eq!(scale("unet", "mid_block.attn2.to_q"), 2.0);
        assert_eq!(scale("unet", "mid_block.attn1.to_q"), 0.5);
        assert_eq!(scale("unet", "mid_block.xattn1.to_q"), 2.0);
        assert_eq!(scale("text_encoder", "fc1"), 4.0);
        assert_eq!(scale("vae", "conv_in"), 1.0);
        assert!(matches!(adapters.scale("text_encoder_2", "fc1", 4), Err(LoraError::Kind { .. })));
    }
}
