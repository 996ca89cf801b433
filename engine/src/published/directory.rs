//! A model in the format of diffusers: a directory with `model_index.json` and one folder per component.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::assemble;
use super::component::PublishedComponent;
use super::error::PublishedError;
use super::files::{read_json_object, read_text};
use super::vocabulary::Vocabulary;
use super::{ModelFiles, PublishedModel, place};
use crate::families::{REQUIRED, SCHEDULER, classes_of, is_of_sdxl, tokenizer_of};
use sdq_formats::links;
use sdq_formats::names::{is_relative_path, json_reason, quote};

/// Components that do not affect the picture: a filter for finished pictures, and its preprocessing.
const IGNORED: [&str; 2] = ["safety_checker", "feature_extractor"];

/// The tokenizer's files that are kept if they exist: its vocabulary and its settings.
const VOCABULARY_FILES: [&str; 4] = ["vocab.json", "merges.txt", "tokenizer.json", "added_tokens.json"];
const TOKENIZER_CONFIGS: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// Opens the directory at `path`. Components for which `files` has replacements are replaced.
///
/// # Errors
/// When it is not a diffusers directory, when a component, config, tokenizer or weight file is missing or
/// malformed, or when the weights exist only in an unsupported format.
pub(super) fn open(path: &Path, files: &ModelFiles) -> Result<PublishedModel, PublishedError> {
    let index_path = find_index(path)?;
    let index = read_json_object(&index_path)?;
    let invalid = |reason: &str| PublishedError::Json { path: index_path.clone(), reason: reason.into() };
    let class_name = index["_class_name"].as_str().ok_or_else(|| invalid("`_class_name` is not a string"))?;

    let listed = listed_components(&index);
    for required in REQUIRED {
        if !listed.iter().any(|(name, _)| required.contains(&name.as_str())) {
            let (path, component) = (index_path.clone(), required[0].to_owned());
            return Err(PublishedError::MissingComponent { path, component });
        }
    }
    for (name, class) in &listed {
        if let Some(known) = classes_of(name).filter(|known| !known.contains(&class.as_str())) {
            let (class, known) = (quote(class), known.join(" or "));
            return Err(invalid(&format!("`{name}` has the class {class}, expected {known}")));
        }
    }
    let mut model = PublishedModel::new(path, class_name);
    let text = read_text(&index_path)?;
    model.keep_text(place::INDEX, &index_path, text);
    for (name, class_name) in &listed {
        if !is_relative_path(name) || name.contains('/') {
            return Err(invalid(&format!(
                "the component name \"{}\" is not allowed: a component is a folder beside the file",
                quote(name)
            )));
        } else if IGNORED.contains(&name.as_str()) {
            continue;
        } else if name.starts_with("tokenizer") {
            model.read_tokenizer(files.tokenizer.as_deref().unwrap_or(&path.join(name)), name)?;
        } else if name == "scheduler" {
            // Kept as text: Python writes a bare `-Infinity` into some of these, which is not JSON, and the
            // scheduler's reader accepts it.
            model.read_text_file(SCHEDULER, &path.join(SCHEDULER))?;
        } else {
            let folder = path.join(name);
            let component = match assemble::replacement(name, &folder, files)? {
                Some(component) => component,
                None => PublishedComponent::open_folder(&folder, name, class_name)?,
            };
            model.add_component(component, Some(path));
        }
    }
    for component in model.components() {
        let Some(tokenizer) = tokenizer_of(component.name()) else { continue };
        component.check_vocabulary(&Vocabulary::of(tokenizer, &model.texts))?;
    }
    let unet = model.component("unet");
    let has_sizes = unet.is_some_and(|unet| unet.config()["addition_embed_type"] == "text_time");
    if is_of_sdxl(class_name) && !has_sizes {
        return Err(invalid(&format!(
            "`_class_name` is {}, but the U-Net is not that of SDXL; write the class of the model's own pipeline, such as \
             StableDiffusionPipeline",
            quote(class_name)
        )));
    }
    model.read_card()?;
    model.read_licences()?;
    Ok(model)
}

impl PublishedModel {
    /// Reads the files of the tokenizer called `name` in `folder`.
    fn read_tokenizer(&mut self, folder: &Path, name: &str) -> Result<(), PublishedError> {
        self.read_vocabulary(folder, name)?;
        for file in TOKENIZER_CONFIGS.iter().filter(|file| links::is_there(&folder.join(file))) {
            self.read_text_file(&format!("{name}/{file}"), &folder.join(file))?;
        }
        Ok(())
    }

    /// Reads the files of the vocabulary.
    pub(super) fn read_vocabulary(&mut self, folder: &Path, name: &str) -> Result<(), PublishedError> {
        let has = |file: &str| links::is_there(&folder.join(file));
        if !(has("tokenizer.json") || has("vocab.json") && has("merges.txt")) {
            let expected = "vocab.json and merges.txt, or tokenizer.json".to_owned();
            return Err(PublishedError::MissingFile { path: folder.to_path_buf(), expected });
        }
        for file in VOCABULARY_FILES {
            if has(file) {
                self.read_text_file(&format!("{name}/{file}"), &folder.join(file))?;
            }
        }
        Ok(())
    }

    fn read_card(&mut self) -> Result<(), PublishedError> {
        let path = self.path.join("sdq.json");
        if links::is_there(&path) {
            let card = read_json_object(&path)?;
            self.card = serde_json::from_value(card)
                .map_err(|error| PublishedError::Json { path: path.clone(), reason: json_reason(&error) })?;
            self.files.insert("sdq.json".to_owned(), path);
        }
        Ok(())
    }

    /// Keeps licence files under their own names, the first of them as `LICENSE`.
    fn read_licences(&mut self) -> Result<(), PublishedError> {
        let io_error = |source| PublishedError::Io { path: self.path.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(io_error)? {
            let Ok(name) = entry.map_err(io_error)?.file_name().into_string() else { continue };
            let upper = name.to_uppercase();
            if ["LICENSE", "LICENCE", "COPYING"].iter().any(|word| upper.starts_with(word))
                && self.path.join(&name).is_file()
            {
                names.push(name);
            }
        }
        names.sort();
        for (index, name) in names.into_iter().enumerate() {
            let path = self.path.join(&name);
            let text = read_text(&path)?;
            self.files.insert(name.clone(), path);
            let kept_name = if index == 0 { "LICENSE".to_owned() } else { name };
            self.texts.push((kept_name, text));
        }
        Ok(())
    }

    /// Keeps the text of the file at `path` under `name`, replacing any other text of that name.
    pub(super) fn read_text_file(&mut self, name: &str, path: &Path) -> Result<(), PublishedError> {
        let text = read_text(path)?;
        self.keep_text(name, path, text);
        Ok(())
    }

    fn keep_text(&mut self, name: &str, path: &Path, text: String) {
        self.files.insert(name.to_owned(), path.to_path_buf());
        self.texts.retain(|(other, _)| other != name);
        self.texts.push((name.to_owned(), text));
    }
}

/// The path of the directory's `model_index.json`.
fn find_index(path: &Path) -> Result<PathBuf, PublishedError> {
    let index = path.join(place::INDEX);
    match links::is_there(&index) {
        true => Ok(index),
        false => {
            let instead = place::instead_of(path);
            Err(PublishedError::NotAModel { path: path.to_path_buf(), instead })
        }
    }
}

/// Names and classes of the components that are present: entries such as
/// `"unet": ["diffusers", "UNet2DConditionModel"]`. Absent ones are `[null, null]`; other keys are settings
/// of the pipeline.
fn listed_components(index: &Value) -> Vec<(String, String)> {
    let entries = index.as_object().into_iter().flatten();
    entries
        .filter_map(|(name, entry)| {
            let class_name = entry.as_array().filter(|pair| pair.len() == 2)?[1].as_str()?;
            Some((name.clone(), class_name.to_owned()))
        })
        .collect()
}
