//! The files of a recipe by name, and their JSON form.

use std::path::Path;

use sdq_engine::pipeline::as_typed;
use serde::{Deserialize, Serialize};

/// A LoRA that was added to a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "LoraSpelling", into = "LoraSpelling")]
pub struct UsedLora {
    /// Name of its file without its folder; other programs omit the extension too.
    pub file: String,
    /// Its strength.
    pub strength: f32,
    /// Strength in the text encoders, if it was different there.
    pub text_strength: Option<f32>,
}

impl UsedLora {
    /// Its tag in a prompt of the web UI.
    pub fn tag(&self) -> String {
        let stem = Path::new(&self.file).file_stem().unwrap_or_default().to_string_lossy();
        match self.text_strength {
            Some(text_strength) => format!("<lora:{stem}:{text_strength}:{}>", self.strength),
            None => format!("<lora:{stem}:{}>", self.strength),
        }
    }
}

/// [`UsedLora`] as JSON; the tag is for display.
#[derive(Serialize, Deserialize)]
struct LoraSpelling {
    file: String,
    strength: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text_strength: Option<f64>,
    #[serde(default)]
    tag: String,
}

impl From<UsedLora> for LoraSpelling {
    fn from(lora: UsedLora) -> LoraSpelling {
        LoraSpelling {
            tag: lora.tag(),
            strength: as_typed(lora.strength),
            text_strength: lora.text_strength.map(as_typed),
            file: lora.file,
        }
    }
}

impl From<LoraSpelling> for UsedLora {
    fn from(spelling: LoraSpelling) -> UsedLora {
        UsedLora {
            file: spelling.file,
            strength: spelling.strength as f32,
            text_strength: spelling.text_strength.map(|strength| strength as f32),
        }
    }
}

/// A textual inversion that was added to a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsedEmbedding {
    /// Name of its file without its folder.
    pub file: String,
    /// Its word, if it is not named after the file.
    #[serde(default)]
    pub word: Option<String>,
}

/// The files of a VAE: one text with commas between the names, or a list if a name contains a comma.
pub(super) mod vae {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    const SEPARATOR: &str = ", ";

    pub(in super::super) fn serialize<S: Serializer>(
        files: &[String],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match files.iter().any(|file| file.contains(SEPARATOR)) {
            true => files.serialize(serializer),
            false => serializer.serialize_str(&files.join(SEPARATOR)),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<String>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Text(String),
            List(Vec<String>),
        }
        Ok(match Spelling::deserialize(deserializer)? {
            Spelling::Text(text) => text.split(SEPARATOR).map(str::to_owned).collect(),
            Spelling::List(files) => files,
        })
    }
}
