//! The adapter settings that diffusers stores in a LoRA's metadata, for files whose alphas are not tensors.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::error::LoraError;
use sdq_formats::checkpoint::Checkpoint;

/// Key of the metadata.
const KEY: &str = "lora_adapter_metadata";

/// Longest note in bytes. JSON of empty lists takes twenty times as much in memory.
const MAX_LEN: usize = 1 << 20;

/// Most patterns of an adapter: more than any model has layers.
const MAX_PATTERNS: usize = 4096;

/// Most bytes of a compiled pattern.
const MAX_PATTERN_SIZE: usize = 1 << 16;

/// The settings of a LoRA's adapters by component.
#[derive(Clone, Debug, Default)]
pub(super) struct Adapters(BTreeMap<String, Adapter>);

/// The settings of the adapter of one component that determine its branches.
#[derive(Clone, Debug, Default)]
struct Adapter {
    alpha: Option<f32>,
    /// Alphas of the modules whose names a pattern matches; the first match counts.
    patterns: Vec<(Regex, f32)>,
    uses_rslora: bool,
}

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
        let settings: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| LoraError::Adapter(error.to_string()))?;
        Adapters::read(&settings)
    }

    /// Reads settings whose keys have the component's name as prefix: `unet.lora_alpha`. Those that do not determine the
    /// branches, such as `target_modules`, say how the adapter was trained.
    fn read(settings: &Map<String, Value>) -> Result<Adapters, LoraError> {
        let mut adapters: BTreeMap<String, Adapter> = BTreeMap::new();
        for (key, value) in settings.iter().filter(|(_, value)| !value.is_null()) {
            let Some((component, setting)) = key.split_once('.') else { continue };
            let adapter = adapters.entry(component.to_owned()).or_default();
            match setting {
                "lora_alpha" => adapter.alpha = Some(number(key, value)?),
                "alpha_pattern" => adapter.patterns = patterns(key, value)?,
                "use_rslora" => adapter.uses_rslora = flag(key, value)?,
                "use_dora" if flag(key, value)? => {
                    return Err(LoraError::Kind { tensor: KEY.to_owned(), kind: "DoRA" });
                }
                "peft_type" if value != "LORA" => {
                    return Err(LoraError::Adapter(format!("`{key}` is {value}, expected \"LORA\"")));
                }
                _ => {}
            }
        }
        Ok(Adapters(adapters))
    }

    /// The factor of the branch of `module` of `component`, given its rank: `alpha / rank`, or with
    /// rank-stabilised scaling `alpha / sqrt(rank)` (Kalajdzievski 2023, arXiv:2312.03732). 1 if there are no
    /// settings.
    pub(super) fn scale(&self, component: &str, module: &str, rank: usize) -> f32 {
        let Some(adapter) = self.0.get(component) else { return 1.0 };
        let own = adapter.patterns.iter().find(|(pattern, _)| pattern.is_match(module));
        let Some(alpha) = own.map(|(_, alpha)| *alpha).or(adapter.alpha) else { return 1.0 };
        match adapter.uses_rslora {
            true => alpha / (rank as f32).sqrt(),
            false => alpha / rank as f32,
        }
    }
}

/// The patterns of peft (`peft.utils.get_pattern_key`): regular expressions for the end of a module's name.
fn patterns(key: &str, value: &Value) -> Result<Vec<(Regex, f32)>, LoraError> {
    let unexpected =
        || LoraError::Adapter(format!("`{key}` is not an object of at most {MAX_PATTERNS} alphas"));
    let patterns = value.as_object().filter(|all| all.len() <= MAX_PATTERNS).ok_or_else(unexpected)?;
    let compiled = |(pattern, alpha): (&String, &Value)| {
        let mut whole = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
        let regex = whole.size_limit(MAX_PATTERN_SIZE).build().map_err(|_| {
            let pattern = Value::from(pattern.as_str());
            LoraError::Adapter(format!("`{key}` has the pattern {pattern}, expected a regular expression"))
        })?;
        Ok((regex, number(key, alpha)?))
    };
    patterns.iter().map(compiled).collect()
}

fn number(key: &str, value: &Value) -> Result<f32, LoraError> {
    let number = value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
    number.ok_or_else(|| LoraError::Adapter(format!("`{key}` is {value}, expected a number")))
}

fn flag(key: &str, value: &Value) -> Result<bool, LoraError> {
    value.as_bool().ok_or_else(|| LoraError::Adapter(format!("`{key}` is {value}, expected true or false")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(settings: Value) -> Result<Adapters, LoraError> {
        Adapters::read(settings.as_object().unwrap())
    }

    #[test]
    fn alphas_are_found_by_component_and_pattern() {
        let adapters = read(json!({
            "unet.lora_alpha": 8, "unet.r": 4, "unet.peft_type": "LORA",
            "unet.alpha_pattern": { "attn1.to_q": 2, "attn1.to_(k|v)": 1, "attn1.*": 16 },
            "text_encoder.lora_alpha": 8, "text_encoder.use_rslora": true, "text_encoder.alpha_pattern": null,
        }))
        .unwrap();
        let scale = |component: &str, module: &str| adapters.scale(component, module, 4);
        assert_eq!(scale("unet", "mid_block.attn2.to_q"), 2.0);
        assert_eq!(scale("unet", "mid_block.attn1.to_q"), 0.5);
        assert_eq!(scale("unet", "mid_block.attn1.to_v"), 0.25);
        assert_eq!(scale("unet", "mid_block.attn1.to_out.0"), 4.0);
        assert_eq!(scale("unet", "mid_block.xattn1.to_q"), 2.0);
        assert_eq!(scale("text_encoder", "fc1"), 4.0);
        assert_eq!(scale("vae", "conv_in"), 1.0);
    }

    #[test]
    fn settings_that_cannot_be_followed_are_refused() {
        let refused = |settings: Value| read(settings).unwrap_err();
        assert!(matches!(refused(json!({ "unet.use_dora": true })), LoraError::Kind { kind: "DoRA", .. }));
        for (key, value, expected) in [
            ("unet.lora_alpha", json!("eight"), r#"`unet.lora_alpha` is "eight", expected a number"#),
            ("unet.lora_alpha", json!(1e300), "`unet.lora_alpha` is 1e+300, expected a number"),
            (
                "unet.alpha_pattern",
                json!({ "to_(q": 1 }),
                r#"`unet.alpha_pattern` has the pattern "to_(q", expected"#,
            ),
            ("unet.alpha_pattern", json!([1]), "`unet.alpha_pattern` is not an object"),
            ("unet.use_rslora", json!("no"), r#"`unet.use_rslora` is "no""#),
            ("unet.peft_type", json!("LOHA"), r#"`unet.peft_type` is "LOHA", expected "LORA""#),
        ] {
            let error = refused(json!({ key: value })).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
