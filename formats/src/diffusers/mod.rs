//! A model as diffusers saves it: a directory with `model_index.json` and one folder per component.

mod card;
mod component;
mod error;
mod files;
mod keys;

pub use card::ModelCard;
pub use component::ModelComponent;
pub use error::DiffusersError;
pub use keys::canonical_name;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::mmap::Bytes;
use crate::names::{is_relative_path, json_reason, quote};
use crate::sdq::{Manifest, Source};
use crate::sniff::FileKind;
use files::{read_json_object, read_text};

/// Components that every model must have, each under one of these names: SDXL's refiner has the second text encoder
/// alone.
const REQUIRED: [&[&str]; 5] =
    [&["text_encoder", "text_encoder_2"], &["unet"], &["vae"], &["tokenizer", "tokenizer_2"], &["scheduler"]];

/// Components that do not take part in making a picture: a filter for finished pictures, and its preprocessing.
const IGNORED: [&str; 2] = ["safety_checker", "feature_extractor"];

/// The tokenizer's files that are kept where present.
const TOKENIZER_FILES: [&str; 6] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// An open model directory: configs and texts read, weights mapped and their headers checked.
#[derive(Debug)]
pub struct ModelDirectory {
    path: PathBuf,
    class_name: String,
    components: Vec<ModelComponent>,
    texts: Vec<(String, String)>,
    card: ModelCard,
    /// Paths inside the directory of all files that were used, sorted.
    files: BTreeSet<String>,
}

impl ModelDirectory {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// When it is no diffusers directory, when a component, config, tokenizer or weight file is missing or malformed,
    /// or when the weights are there only in a form that is not read.
    pub fn open(path: impl AsRef<Path>) -> Result<ModelDirectory, DiffusersError> {
        let path = path.as_ref();
        let index_path = find_index(path)?;
        let index = read_json_object(&index_path)?;
        let invalid = |reason: &str| DiffusersError::Json { path: index_path.clone(), reason: reason.into() };
        let class_name = index["_class_name"].as_str().ok_or_else(|| invalid("no string `_class_name`"))?;

        let listed = listed_components(&index);
        for required in REQUIRED {
            if !listed.iter().any(|(name, _)| required.contains(&name.as_str())) {
                let (path, component) = (index_path.clone(), required[0].to_owned());
                return Err(DiffusersError::MissingComponent { path, component });
            }
        }
        let mut model = ModelDirectory {
            path: path.to_path_buf(),
            class_name: class_name.to_owned(),
            components: Vec::new(),
            texts: Vec::new(),
            card: ModelCard::default(),
            files: BTreeSet::new(),
        };
        model.keep_text("model_index.json".to_owned())?;
        for (name, class_name) in &listed {
            if !is_relative_path(name) || name.contains('/') {
                return Err(invalid(&format!("component name \"{}\" is not allowed", quote(name))));
            } else if IGNORED.contains(&name.as_str()) {
                continue;
            } else if name.starts_with("tokenizer") {
                model.read_tokenizer(name)?;
            } else if name == "scheduler" {
                model.read_scheduler()?;
            } else {
                model.open_component(name, class_name)?;
            }
        }
        model.read_card()?;
        model.read_licences()?;
        Ok(model)
    }

    fn open_component(&mut self, name: &str, class_name: &str) -> Result<(), DiffusersError> {
        let component = ModelComponent::open(&self.path, name, class_name)?;
        self.files.insert(format!("{name}/config.json"));
        let checkpoint = component.checkpoint();
        for file in checkpoint.files().iter().map(|file| file.path()).chain(checkpoint.index()) {
            let file_name = file.file_name().expect("weights are opened by file name").to_string_lossy();
            self.files.insert(format!("{name}/{file_name}"));
        }
        self.components.push(component);
        Ok(())
    }

    fn read_tokenizer(&mut self, name: &str) -> Result<(), DiffusersError> {
        let folder = self.path.join(name);
        let has = |file: &str| folder.join(file).exists();
        if !(has("tokenizer.json") || has("vocab.json") && has("merges.txt")) {
            let expected = "vocab.json and merges.txt, or tokenizer.json".to_owned();
            return Err(DiffusersError::MissingFile { path: folder, expected });
        }
        for file in TOKENIZER_FILES {
            if has(file) {
                self.keep_text(format!("{name}/{file}"))?;
            }
        }
        Ok(())
    }

    /// Kept as it is: Python writes a bare `-Infinity` into some of these, which is no JSON, and whoever builds the
    /// scheduler reads it.
    fn read_scheduler(&mut self) -> Result<(), DiffusersError> {
        self.keep_text("scheduler/scheduler_config.json".to_owned())
    }

    fn read_card(&mut self) -> Result<(), DiffusersError> {
        let path = self.path.join("sdq.json");
        if path.exists() {
            let card = read_json_object(&path)?;
            self.card = serde_json::from_value(card)
                .map_err(|error| DiffusersError::Json { path, reason: json_reason(&error) })?;
            self.files.insert("sdq.json".to_owned());
        }
        Ok(())
    }

    /// Keeps licence files under their own names, the first of them as `LICENSE`.
    fn read_licences(&mut self) -> Result<(), DiffusersError> {
        let io_error = |source| DiffusersError::Io { path: self.path.clone(), source };
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
            let text = read_text(&self.path.join(&name))?;
            self.files.insert(name.clone());
            let kept_name = if index == 0 { "LICENSE".to_owned() } else { name };
            self.texts.push((kept_name, text));
        }
        Ok(())
    }

    fn keep_text(&mut self, name: String) -> Result<(), DiffusersError> {
        let text = read_text(&self.path.join(&name))?;
        self.files.insert(name.clone());
        self.texts.push((name, text));
        Ok(())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pipeline's class: `StableDiffusionPipeline`.
    pub fn class_name(&self) -> &str {
        &self.class_name
    }

    /// Components with weights, in the order of `model_index.json`.
    pub fn components(&self) -> &[ModelComponent] {
        &self.components
    }

    /// The component called `name`: `text_encoder`, `unet` or `vae`.
    pub fn component(&self, name: &str) -> Option<&ModelComponent> {
        self.components.iter().find(|component| component.name() == name)
    }

    /// Text files to embed, with their names: `model_index.json`, the tokenizers', `scheduler/scheduler_config.json`,
    /// `LICENSE`.
    pub fn texts(&self) -> &[(String, String)] {
        &self.texts
    }

    /// The contents of `sdq.json`; empty where there is none.
    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// All files that were used, hashed. Reads every weight once. `go_on` is asked every few megabytes; `None` when it
    /// said no.
    ///
    /// # Errors
    /// When a file cannot be read any more.
    pub fn sources(&self, go_on: impl Fn() -> bool) -> Result<Option<Vec<Source>>, DiffusersError> {
        self.files.iter().map(|name| hash(&self.path.join(name), name, &go_on)).collect()
    }

    /// The manifest of an `.sdq` file made from this directory by `converter` (program and version). The name
    /// defaults to the directory's. `sources` is empty: that takes [`ModelDirectory::sources`], which takes its time.
    pub fn manifest(&self, converter: &str) -> Manifest {
        Manifest {
            name: self.card.name.clone().unwrap_or_else(|| self.folder_name()),
            description: self.card.description.clone().unwrap_or_default(),
            license: self.card.license.clone().unwrap_or_default(),
            pipeline_class: self.class_name.clone(),
            converter: converter.to_owned(),
            defaults: self.card.defaults(),
            sources: Vec::new(),
            quantization: None,
        }
    }

    fn folder_name(&self) -> String {
        // `.` and `..` have no name of their own.
        let absolute = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        absolute.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}

/// The path of `model_index.json`, when `path` is a directory that has one.
fn find_index(path: &Path) -> Result<PathBuf, DiffusersError> {
    let path_buf = || path.to_path_buf();
    let metadata = fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => DiffusersError::NotFound { path: path_buf() },
        _ => DiffusersError::Io { path: path_buf(), source },
    })?;
    if !metadata.is_dir() {
        let kind = Bytes::map(path).map_or(FileKind::Other, |bytes| FileKind::of(&bytes));
        return Err(DiffusersError::SingleFile { path: path_buf(), kind });
    }
    let index = path.join("model_index.json");
    if index.exists() { Ok(index) } else { Err(DiffusersError::NotAModel { path: path_buf() }) }
}

/// Names and classes of the components that are present: entries `"unet": ["diffusers", "UNet2DConditionModel"]`.
/// Absent ones are `[null, null]`; other keys are settings of the pipeline.
fn listed_components(index: &Value) -> Vec<(String, String)> {
    let entries = index.as_object().into_iter().flatten();
    entries
        .filter_map(|(name, entry)| {
            let class_name = entry.as_array().filter(|pair| pair.len() == 2)?[1].as_str()?;
            Some((name.clone(), class_name.to_owned()))
        })
        .collect()
}

fn hash(path: &Path, name: &str, go_on: impl Fn() -> bool) -> Result<Option<Source>, DiffusersError> {
    /// Some milliseconds' worth.
    const STRETCH: usize = 4 << 20;
    let bytes = Bytes::map(path).map_err(|source| DiffusersError::Io { path: path.to_path_buf(), source })?;
    let mut hasher = Sha256::new();
    for stretch in bytes.chunks(STRETCH) {
        if !go_on() {
            return Ok(None);
        }
        hasher.update(stretch);
    }
    let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(Source { file: name.to_owned(), bytes: bytes.len() as u64, sha256 }))
}

#[cfg(test)]
mod tests;
