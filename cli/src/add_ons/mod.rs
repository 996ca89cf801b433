//! What a model is changed by while it runs: LoRAs, words, another VAE.

pub(crate) mod embedding;
pub(crate) mod lora;
pub(crate) mod vae;

use std::path::PathBuf;

use anyhow::Context as _;
use sdq_engine::Pipeline;
use serde::{Deserialize, Serialize};

use crate::args::AddOnArgs;
use embedding::EmbeddingFile;
use lora::LoraFile;

/// The files of all add-ons of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AddOns {
    /// In the order in which they are added.
    pub(crate) loras: Vec<LoraFile>,
    pub(crate) embeddings: Vec<EmbeddingFile>,
    /// One file, or TAESD's two.
    pub(crate) vae: Vec<PathBuf>,
}

impl AddOns {
    /// What the flags name, and the LoRAs that `prompt` asks for, which is left without these.
    ///
    /// # Errors
    /// When one of them is not where it should be, or has no strength.
    pub(crate) fn new(args: &AddOnArgs, prompt: Option<&mut String>) -> anyhow::Result<AddOns> {
        let mut loras = args.loras.clone();
        let tags = prompt.map_or(Ok(Vec::new()), lora::take_tags)?;
        loras.extend(lora::find(&tags, args.lora_dir.as_deref())?);
        Ok(AddOns { loras, embeddings: args.embeddings.clone(), vae: args.vae.clone() })
    }

    /// The same from any folder.
    pub(crate) fn absolute(&self) -> anyhow::Result<AddOns> {
        let absolute = |path: &PathBuf| std::path::absolute(path).context("the current folder is gone");
        let lora = |lora: &LoraFile| Ok(LoraFile { path: absolute(&lora.path)?, ..lora.clone() });
        let embedding =
            |word: &EmbeddingFile| Ok(EmbeddingFile { path: absolute(&word.path)?, ..word.clone() });
        Ok(AddOns {
            loras: self.loras.iter().map(lora).collect::<anyhow::Result<_>>()?,
            embeddings: self.embeddings.iter().map(embedding).collect::<anyhow::Result<_>>()?,
            vae: self.vae.iter().map(absolute).collect::<anyhow::Result<_>>()?,
        })
    }

    /// `pipeline` changed by all of them; says what each is applied to.
    ///
    /// # Errors
    /// When a file cannot be read, is no add-on of its kind, or is for another model.
    pub(crate) fn apply(&self, pipeline: Pipeline) -> anyhow::Result<Pipeline> {
        let pipeline = vae::apply(pipeline, &self.vae)?;
        let pipeline = lora::apply(pipeline, &self.loras)?;
        embedding::apply(pipeline, &self.embeddings)
    }
}
