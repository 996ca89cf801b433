//! A picture whose recipe is used again, and the files of the recipe.

use std::path::{Path, PathBuf};

use sdq_formats::picture;

use super::{Found, UsedEmbedding, UsedLora};
use crate::{
    Error, Note, Pipeline, Watch,
    add_ons::{AddOns, EmbeddingFile, LoraFile, find_below, find_file},
    text::printable,
};

/// Maximum number of characters of a name that an error shows.
const SHOWN_CHARS: usize = 200;

/// A picture, and the recipe in it.
#[derive(Clone, Debug)]
pub struct Source {
    picture: PathBuf,
    /// The recipe.
    pub found: Found,
}

impl Source {
    /// Reads the recipe of `picture`.
    ///
    /// # Errors
    /// When it is not a picture, or contains no readable recipe.
    pub fn read(picture: &Path) -> Result<Source, Error> {
        let found = Found::from_texts(&picture::read_texts(picture)?);
        let found = found.map_err(|error| Error::from(error).in_file(picture))?;
        Ok(Source { picture: picture.to_owned(), found })
    }

    /// Reports to `watch` the unused parts of the recipe, and the program that wrote it if not sdq.
    pub fn note_unused(&self, watch: &mut Watch<'_>) {
        let Found { program, unused, .. } = &self.found;
        if *program != "sdq" {
            watch.note(Note::ForeignRecipe { program });
        }
        unused.iter().for_each(|unused| watch.note(Note::RecipeUnused(unused.clone())));
    }

    /// Reports to `watch` the differences from the recipe's model.
    pub fn note_differences(&self, pipeline: &Pipeline, watch: &mut Watch<'_>) {
        let differences = self.found.recipe.differences(pipeline);
        differences.into_iter().for_each(|difference| watch.note(Note::RecipeDiffers(difference)));
    }

    /// The start picture and the mask, in the folder of the picture.
    ///
    /// # Errors
    /// When the recipe's start picture is missing.
    pub fn start(&self) -> Result<(Option<PathBuf>, Option<PathBuf>), Error> {
        let recipe = &self.found.recipe;
        let find = |name: &Option<String>, option: &'static str| -> Result<Option<PathBuf>, Error> {
            let Some(name) = name else { return Ok(None) };
            let path = find_file(name, &[self.folder()]);
            let shown = printable(name, SHOWN_CHARS);
            let missing = || self.lacks(option, &format!("needs `{shown}`, which is not in the same folder"));
            path.ok_or_else(missing).map(Some)
        };
        if recipe.init_image.is_none() && recipe.request.strength.is_some() {
            return Err(self.lacks("init-image", "starts from a picture without a name"));
        }
        Ok((find(&recipe.init_image, "init-image")?, find(&recipe.mask, "mask")?))
    }

    /// The folder of the picture.
    fn folder(&self) -> &Path {
        self.picture.parent().unwrap_or(Path::new(""))
    }

    fn lacks(&self, option: &'static str, problem: &str) -> Error {
        let problem = format!("the recipe in `{}` {problem}; give the file", self.picture.display());
        Error::Option { option, problem }
    }

    /// The recipe's add-ons, from files in `lora_dir` with its sub-folders and in the picture's folder. Missing ones are
    /// left out, which `watch` reports.
    ///
    /// # Errors
    /// [`Error::LoraTag`] when a name is ambiguous in `lora_dir`.
    pub fn add_ons(&self, lora_dir: Option<&Path>, watch: &mut Watch<'_>) -> Result<AddOns, Error> {
        let mut find = |name: &str| -> Result<Option<PathBuf>, Error> {
            let below = lora_dir.map(|folder| find_below(name, folder)).transpose()?.flatten();
            let file = below.or_else(|| find_file(name, &[self.folder()]));
            if file.is_none() {
                watch.note(Note::RecipeFileMissing { name: name.to_owned() });
            }
            Ok(file)
        };
        let recipe = &self.found.recipe;
        let mut add_ons = AddOns::default();
        for &UsedLora { ref file, strength, text_strength } in &recipe.loras {
            let lora = find(file)?.map(|path| LoraFile { path, strength, text_strength });
            add_ons.loras.extend(lora);
        }
        for UsedEmbedding { file, word } in &recipe.embeddings {
            let embedding = find(file)?.map(|path| EmbeddingFile { path, word: word.clone() });
            add_ons.embeddings.extend(embedding);
        }
        for name in &recipe.vae {
            add_ons.vae.extend(find(name)?);
        }
        Ok(add_ons)
    }
}

#[cfg(test)]
mod tests;
