//! Changes to a model while it runs: LoRAs, words, another VAE.

mod embedding;
mod lora;
mod vae;

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use sdq_engine::Pipeline;
use serde::{Deserialize, Serialize};

pub use embedding::EmbeddingFile;
pub use lora::{LoraFile, files_below, find_below, find_file};
pub use vae::previewer;

use crate::{
    Error, Note, Watch, paths,
    request::PromptSyntax,
    tags::{self, Tag},
};

/// Most names that a note lists.
const LISTED: usize = 3;

/// Tells of tensors in the file at `path` that are not used.
fn tell_left_out(path: &Path, tensors: &[String], watch: &mut Watch<'_>) {
    if !tensors.is_empty() {
        let more = tensors.len().saturating_sub(LISTED);
        let tensors = tensors.iter().take(LISTED).cloned().collect();
        watch.note(Note::AddOnLeftOut { path: path.to_path_buf(), tensors, more });
    }
}

/// The files of all add-ons of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddOns {
    /// In the order in which they are added.
    pub loras: Vec<LoraFile>,
    /// Words beside the vocabulary.
    pub embeddings: Vec<EmbeddingFile>,
    /// One file, or the two of TAESD.
    #[serde(with = "paths::list")]
    pub vae: Vec<PathBuf>,
}

impl AddOns {
    /// Removes the tags from both prompts and adds the LoRAs of `<lora:NAME:STRENGTH>` tags in `prompt`, from the
    /// folder `lora_dir` and its sub-folders. Other tags, and all tags in the negative prompt, are reported to `watch`.
    ///
    /// # Errors
    /// [`Error::LoraTag`] when a LoRA is not found, ambiguous or not named, or its strength is not a number.
    pub fn take_tags(
        &mut self,
        prompt: &mut String,
        negative_prompt: &mut String,
        lora_dir: Option<&Path>,
        watch: &mut Watch<'_>,
    ) -> Result<(), Error> {
        for tag in tags::take(prompt) {
            match tag {
                Tag::Lora { name, strength, text_strength, says_more } => {
                    let path = lora::find(&name, lora_dir)?;
                    self.loras.push(LoraFile { path, strength, text_strength });
                    says_more.into_iter().for_each(|tag| watch.note(Note::TagSaysMore(tag)));
                }
                Tag::WrongStrength(tag) => {
                    return Err(Error::LoraTag(format!("the strength in {tag} is not a number such as 0.8")));
                }
                Tag::Nameless(tag) => {
                    return Err(Error::LoraTag(format!("{tag} has no name; write it as in <lora:NAME:0.8>")));
                }
                Tag::Open(text) => watch.note(Note::TagNotClosed(text)),
                Tag::Other(tag) => watch.note(Note::TagUnused(tag)),
            }
        }
        for (whole, tag) in tags::take_parsed(negative_prompt) {
            match tag {
                Tag::Open(text) => watch.note(Note::TagNotClosed(text)),
                _ => watch.note(Note::NegativeTag(whole)),
            }
        }
        Ok(())
    }

    /// Fails if a word occurs in none of `prompts`, because it would have no effect. `pipeline` must have all
    /// words.
    ///
    /// # Errors
    /// [`Error::Option`], or when an embedding or a prompt cannot be read.
    pub fn check_used(
        &self,
        pipeline: &Pipeline,
        prompts: &[&str],
        syntax: PromptSyntax,
    ) -> Result<(), Error> {
        embedding::check_used(&self.embeddings, &pipeline.unused_words(prompts, syntax)?)
    }

    /// The same files with absolute paths.
    ///
    /// # Errors
    /// [`Error::Read`] when the current folder does not exist any more.
    pub fn absolute(&self) -> Result<AddOns, Error> {
        let absolute = |path: &mut PathBuf| {
            let failed = |error| Error::Read { path: path.clone(), error };
            *path = std::path::absolute(&*path).map_err(failed)?;
            Ok::<(), Error>(())
        };
        let mut add_ons = self.clone();
        let loras = add_ons.loras.iter_mut().map(|lora| &mut lora.path);
        let embeddings = add_ons.embeddings.iter_mut().map(|embedding| &mut embedding.path);
        loras.chain(embeddings).chain(&mut add_ons.vae).try_for_each(absolute)?;
        Ok(add_ons)
    }

    /// `pipeline` with all of these changes; `watch` receives notes about them. A VAE is converted on
    /// `threads` threads, by default one per core.
    ///
    /// # Errors
    /// When a file cannot be read, is not an add-on of its kind, or is for another model.
    pub fn apply(
        &self,
        pipeline: Pipeline,
        threads: Option<NonZeroUsize>,
        watch: &mut Watch<'_>,
    ) -> Result<Pipeline, Error> {
        let pipeline = vae::apply(pipeline, &self.vae, threads, watch)?;
        let pipeline = lora::apply(pipeline, &self.loras, watch)?;
        embedding::apply(pipeline, &self.embeddings, watch)
    }
}
