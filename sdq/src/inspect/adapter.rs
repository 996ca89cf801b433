//! Describes LoRAs and textual inversions.

use sdq_engine::adapters::{
    lora::{LoraError, LoraSummary},
    textual_inversion::{TextualInversion, TextualInversions, WordVectors},
};
use sdq_formats::checkpoint::Checkpoint;
use serde_json::{Map, Value, json};

/// The notes of trainers that tell how to use a LoRA: their keys, and their names in the description.
const NOTES: [(&str, &str); 8] = [
    ("modelspec.title", "title"),
    ("modelspec.author", "author"),
    ("modelspec.license", "license"),
    ("modelspec.trigger_phrase", "trigger_phrase"),
    ("modelspec.usage_hint", "usage_hint"),
    ("ss_output_name", "output_name"),
    ("ss_sd_model_name", "trained_on"),
    ("ss_base_model_version", "base_model"),
];

/// Longest note that is shown, in bytes. A longer one is left out.
const MAX_NOTE_LEN: usize = 2000;

/// Adds the LoRA or the textual inversion in `checkpoint` to `description`. Returns whether there is one.
pub(super) fn describe(checkpoint: &Checkpoint, description: &mut Value) -> bool {
    match LoraSummary::of(checkpoint) {
        Ok(summary) => {
            description["lora"] = lora(&summary);
            let notes = notes(checkpoint);
            if !notes.is_empty() {
                description["notes"] = notes.into();
            }
        }
        Err(error @ (LoraError::Kind { .. } | LoraError::Twice { .. } | LoraError::Word { .. })) => {
            description["looks_like"] = format!("a LoRA that sdq does not apply: {error}").into();
        }
        Err(_) => match TextualInversions::read(checkpoint) {
            Ok(TextualInversions { words, left_out }) => {
                description["textual_inversion"] = words.iter().map(word).collect();
                description["left_out"] = left_out.into();
            }
            Err(_) => return false,
        },
    }
    true
}

fn lora(summary: &LoraSummary) -> Value {
    let LoraSummary { layers, ranks, family, words, left_out } = summary;
    let mut described = json!({
        "made_for": family,
        "layers": layers,
        "ranks": ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    });
    if !words.is_empty() {
        described["words"] = words.as_slice().into();
    }
    if !left_out.is_empty() {
        described["left_out"] = left_out.as_slice().into();
    }
    described
}

fn notes(checkpoint: &Checkpoint) -> Map<String, Value> {
    let note = |(key, name): (&str, &str)| {
        let text = checkpoint.note(key).filter(|text| !text.is_empty() && text.len() <= MAX_NOTE_LEN)?;
        Some((name.to_owned(), text.into()))
    };
    NOTES.into_iter().filter_map(note).collect()
}

/// A word, and the number and the width of its vectors for each text encoder.
fn word(inversion: &TextualInversion) -> Value {
    let vectors = |vectors: &WordVectors| {
        format!("{} x {}", vectors.values.len() / vectors.width.max(1), vectors.width)
    };
    json!({
        "word": inversion.word.as_deref().unwrap_or("the file's name"),
        "vectors": inversion.vectors.iter().map(vectors).collect::<Vec<_>>().join(", "),
    })
}
