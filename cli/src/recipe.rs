//! Recipes of pictures: what is written into them, and what `--from` takes out of them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sdq::{
    add_ons::{AddOns, EmbeddingFile, LoraFile, find_file},
    recipe::{Found, Recipe, UsedEmbedding, UsedLora},
    text::printable,
};
use sdq_engine::{Pipeline, Request};
use sdq_formats::picture;

use crate::{UsageError, run::Files};

/// Most characters of a text of a recipe that a note shows.
const SHOWN_CHARS: usize = 200;

/// The recipe of what `pipeline` draws for `request` with `files`.
pub(crate) fn of(request: Request, pipeline: &Pipeline, files: &Files) -> Recipe {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let AddOns { loras, embeddings, vae } = &files.add_ons;
    let lora = |lora: &LoraFile| UsedLora { file: name(&lora.path), strength: lora.strength };
    let embedding = |word: &EmbeddingFile| UsedEmbedding { file: name(&word.path), word: word.word.clone() };
    Recipe {
        init_image: files.init_image.as_ref().map(name),
        mask: files.mask.as_ref().map(name),
        loras: loras.iter().map(lora).collect(),
        embeddings: embeddings.iter().map(embedding).collect(),
        vae: vae.iter().map(name).collect(),
        ..Recipe::new(request, pipeline)
    }
}

/// The picture that `--from` names, and the recipe in it.
pub(crate) struct Source {
    picture: PathBuf,
    pub(crate) found: Found,
}

impl Source {
    pub(crate) fn read(picture: &Path) -> anyhow::Result<Source> {
        let found = Found::from_texts(&picture::read_texts(picture)?);
        let found = found.with_context(|| picture.display().to_string())?;
        Ok(Source { picture: picture.to_owned(), found })
    }

    /// Says what the recipe holds that is not used, and who wrote it if not sdq.
    pub(crate) fn note_unused(&self) {
        let Found { program, unused, .. } = &self.found;
        if *program != "sdq" {
            note!(
                "note: {program} drew the picture, with noise of its own: this one will be similar at best"
            );
        }
        for unused in unused {
            note!("warning: not used of the recipe: {}", printable(unused, SHOWN_CHARS));
        }
    }

    /// Says what is not as it was when the picture was drawn.
    pub(crate) fn note_differences(&self, pipeline: &Pipeline) {
        for difference in self.found.recipe.differences(pipeline) {
            note!("warning: {}", printable(&difference, SHOWN_CHARS));
        }
    }

    /// The start picture and the mask, beside the picture.
    ///
    /// # Errors
    /// When the recipe starts from a picture that is not there.
    pub(crate) fn start(&self) -> anyhow::Result<(Option<PathBuf>, Option<PathBuf>)> {
        let recipe = &self.found.recipe;
        let find = |name: &Option<String>, flag: &str| -> anyhow::Result<Option<PathBuf>> {
            let Some(name) = name else { return Ok(None) };
            let path = find_file(name, &[self.folder()]);
            let shown = printable(name, SHOWN_CHARS);
            let message =
                || self.usage(format!("the recipe asks for `{shown}`, which is not beside it"), flag);
            path.ok_or_else(message).map(Some)
        };
        if recipe.init_image.is_none() && recipe.request.strength.is_some() {
            let message = "the recipe starts from a picture that it does not name".to_owned();
            return Err(self.usage(message, "--init-image"));
        }
        Ok((find(&recipe.init_image, "--init-image")?, find(&recipe.mask, "--mask")?))
    }

    /// Where the picture is.
    fn folder(&self) -> &Path {
        self.picture.parent().unwrap_or(Path::new(""))
    }

    fn usage(&self, problem: String, flag: &str) -> anyhow::Error {
        UsageError(format!("{}: {problem}; give it with {flag}", self.picture.display())).into()
    }

    /// What the recipe adds to the model, from files in `directory` and beside the picture. What is not there is said and
    /// left out.
    pub(crate) fn add_ons(&self, directory: Option<&Path>) -> AddOns {
        let folders: Vec<&Path> = directory.into_iter().chain([self.folder()]).collect();
        let find = |name: &str| {
            let file = find_file(name, &folders);
            if file.is_none() {
                let shown = printable(name, SHOWN_CHARS);
                note!(
                    "warning: the recipe has `{shown}`, which is neither in --lora-dir nor beside the picture"
                );
            }
            file
        };
        let recipe = &self.found.recipe;
        let lora = |lora: &UsedLora| Some(LoraFile { path: find(&lora.file)?, strength: lora.strength });
        let embedding =
            |word: &UsedEmbedding| Some(EmbeddingFile { path: find(&word.file)?, word: word.word.clone() });
        AddOns {
            loras: recipe.loras.iter().filter_map(lora).collect(),
            embeddings: recipe.embeddings.iter().filter_map(embedding).collect(),
            vae: recipe.vae.iter().filter_map(|name| find(name)).collect(),
        }
    }
}
