//! A model in a published form: a diffusers directory, one file with all parts, or files for each part.
//!
//! All forms are read as if diffusers had saved them: components with configs and weights under canonical
//! names, and a few texts. Code outside this module is independent of the form.

mod assemble;
mod card;
mod clip_vocabulary;
mod component;
mod directory;
mod encoders;
mod error;
mod files;
mod keys;
mod place;
mod remark;
mod scales;
mod settings_file;
mod vocabulary;
mod weights;

pub use card::ModelCard;
pub use component::PublishedComponent;
pub use error::PublishedError;
pub use keys::canonical_name;
pub use remark::Remark;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::families::{
    Certainty, Family, Marks, Prediction, SCHEDULER, Skipped, Training, scheduler_config, with_prediction,
};
use sdq_formats::sdq::Manifest;

/// The files of the parts of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFiles {
    /// A diffusers directory, or a file with several parts. The other fields replace some of its parts.
    pub model: Option<PathBuf>,
    /// A file with a U-Net, or a folder with one and its `config.json`.
    pub unet: Option<PathBuf>,
    /// The same for the autoencoder; TAESD consists of two files.
    pub vae: Vec<PathBuf>,
    /// The same for the text encoder.
    pub text_encoder: Option<PathBuf>,
    /// The same for SDXL's second text encoder.
    pub text_encoder_2: Option<PathBuf>,
    /// A folder with a tokenizer's vocabulary. The padding token depends on the family.
    pub tokenizer: Option<PathBuf>,
    /// A folder with configs as in a diffusers directory, `unet/config.json` and so on. They take precedence
    /// over configs derived from the weights.
    pub configs: Option<PathBuf>,
    /// The prediction of the U-Net, where the files do not contain it or contain a wrong one.
    pub prediction: Option<Prediction>,
}

/// An open model: configs and texts have been read, weights are mapped and their headers checked.
#[derive(Debug)]
pub struct PublishedModel {
    path: PathBuf,
    class_name: String,
    components: Vec<PublishedComponent>,
    texts: Vec<(String, String)>,
    card: ModelCard,
    /// All files that were used, by their recorded names: paths within a directory, otherwise file names.
    files: BTreeMap<String, PathBuf>,
    family: Option<Family>,
    training: Option<Training>,
    /// Marks of training; `None` if a scheduler config was given.
    marks: Option<Marks>,
    skipped: Vec<(Skipped, String)>,
    remarks: Vec<Remark>,
}

impl PublishedModel {
    /// Opens the model in `files`.
    ///
    /// # Errors
    /// When a part, config, tokenizer or weight file is missing or malformed, or when the parts do not form a
    /// model.
    pub fn open(files: &ModelFiles) -> Result<PublishedModel, PublishedError> {
        let mut model = match &files.model {
            Some(path) if path.is_dir() => directory::open(path, files)?,
            Some(path) if path.ends_with(place::INDEX) => {
                let instead =
                    Some("the file lists the parts of a model; give the folder that contains it".to_owned());
                return Err(PublishedError::NotAModel { path: path.clone(), instead });
            }
            Some(path) => {
                files::check_exists(path)?;
                assemble::open(files)?
            }
            _ => assemble::open(files)?,
        };
        if let Some(prediction) = files.prediction {
            model.set_prediction(prediction, Certainty::Given);
        }
        Ok(model)
    }

    /// Opens only an autoencoder, to replace another model's: a file or folder with a KL autoencoder or
    /// TAESD, or TAESD's two files. `scaling_factor` is the other model's.
    ///
    /// # Errors
    /// When there is no autoencoder in `paths`, or it cannot be read.
    ///
    /// # Panics
    /// When there are no paths.
    pub fn open_vae(paths: &[PathBuf], scaling_factor: f64) -> Result<PublishedModel, PublishedError> {
        assert!(!paths.is_empty(), "an autoencoder is somewhere");
        assemble::open_vae(paths, scaling_factor)
    }

    fn new(path: &Path, class_name: &str) -> PublishedModel {
        PublishedModel {
            path: path.to_path_buf(),
            class_name: class_name.to_owned(),
            components: Vec::new(),
            texts: Vec::new(),
            card: ModelCard::default(),
            files: BTreeMap::new(),
            family: None,
            training: None,
            marks: None,
            skipped: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// Adds a component and records its files, by their paths within `root` if they are there.
    fn add_component(&mut self, mut component: PublishedComponent, root: Option<&Path>) {
        for remark in component.remarks.drain(..) {
            // Several components may come from one file.
            if !self.remarks.contains(&remark) {
                self.remarks.push(remark);
            }
        }
        let checkpoint = component.checkpoint();
        let weights = checkpoint.files().iter().map(|file| file.path()).chain(checkpoint.index());
        for file in weights.chain(component.config_file()) {
            self.note_file(file, root);
        }
        self.components.push(component);
    }

    /// Records that `file` was used, by its path relative to `root` if it lies inside.
    fn note_file(&mut self, file: &Path, root: Option<&Path>) {
        let inside = root.and_then(|root| file.strip_prefix(root).ok());
        let all: Vec<_> = file.iter().map(|part| part.to_string_lossy()).collect();
        let mut count = inside.map_or(1, |inside| inside.iter().count());
        // Files with the same name in different folders are recorded with their folders.
        loop {
            let name = all[all.len() - count.min(all.len())..].join("/");
            match self.files.get(&name) {
                Some(other) if other != file && count < all.len() => count += 1,
                _ => return drop(self.files.insert(name, file.to_path_buf())),
            }
        }
    }

    /// Sets the U-Net's prediction, overriding the scheduler's config, and the latent size with which such
    /// models of its family were trained.
    pub fn set_prediction(&mut self, prediction: Prediction, certainty: Certainty) {
        if let Some(training) = &mut self.training {
            (training.prediction, training.certainty) = (prediction, certainty);
        }
        let own = self.family.zip(self.training).zip(self.marks);
        let own = own.map(|((family, training), marks)| {
            scheduler_config(family, &training, &marks, &self.class_name).to_string()
        });
        for (_, text) in self.texts.iter_mut().filter(|(name, _)| name == SCHEDULER) {
            if let Some(changed) = own.clone().or_else(|| with_prediction(text, prediction)) {
                *text = changed;
            }
        }
        if let Some(family) = self.family {
            let unet = self.components.iter_mut().find(|component| component.name() == "unet");
            unet.into_iter().for_each(|unet| unet.set_latent_size(family.latent_size(prediction)));
        }
    }

    /// The directory, or the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pipeline's class, such as `StableDiffusionPipeline`.
    pub fn class_name(&self) -> &str {
        &self.class_name
    }

    /// Components with weights, in the order of `model_index.json`.
    pub fn components(&self) -> &[PublishedComponent] {
        &self.components
    }

    /// The component called `name`: `text_encoder`, `unet` or `vae`.
    pub fn component(&self, name: &str) -> Option<&PublishedComponent> {
        self.components.iter().find(|component| component.name() == name)
    }

    /// Text files to embed, with their names: `model_index.json`, the tokenizers', `scheduler/scheduler_config.json`,
    /// `LICENSE`.
    pub fn texts(&self) -> &[(String, String)] {
        &self.texts
    }

    /// The detected family; `None` for directories, whose files contain all properties.
    pub fn family(&self) -> Option<Family> {
        self.family
    }

    /// The model's prediction and how it is known; `None` for directories.
    pub fn training(&self) -> Option<Training> {
        self.training
    }

    /// Tensors in its files that are not part of the model, and why.
    pub fn skipped(&self) -> &[(Skipped, String)] {
        &self.skipped
    }

    /// Decisions made while it was read.
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    /// The contents of `sdq.json`; empty if there is none.
    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// All files that were used, by their recorded names: paths within a directory, otherwise file names.
    pub fn files(&self) -> &BTreeMap<String, PathBuf> {
        &self.files
    }

    /// The manifest of an `.sdq` file made from this model by `converter` (program and version). The name
    /// defaults to the directory's or the file's. `sources` is empty, because hashing the files takes long.
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
        // `.` and `..` have no file name.
        let absolute = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let name = if absolute.is_dir() { absolute.file_name() } else { absolute.file_stem() };
        name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests;
