//! Assembles a model from files: one file with all parts, or one for each part.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::clip_vocabulary;
use super::component::PublishedComponent;
use super::error::PublishedError;
use super::files::{check_exists, read_json_object, read_text};
use super::remark::Remark;
use super::vocabulary::Vocabulary;
use super::weights::{find_weights, is_weight_file};
use super::{ModelFiles, PublishedModel, encoders, settings_file};
use crate::families::{
    Family, Found, FoundUNet, FoundVae, Marks, Parts, Prediction, SCHEDULER, Training, scheduler_config,
    tokenizer_of, unet_prefix,
};
use crate::models::{
    clip::{TextEncoder, TextKind},
    naming::{Component, LayoutProblem, Names},
    unet::ema_weight_name,
    vae::taesd_half,
};
use sdq_formats::checkpoint::Checkpoint;
use sdq_formats::links;

/// A checkpoint and the parts in it.
pub(super) struct Loaded {
    /// The file, or the folder.
    pub(super) path: PathBuf,
    checkpoint: Arc<Checkpoint>,
    pub(super) names: Names,
    pub(super) found: Found,
    /// The `config.json` beside it.
    config: Option<PathBuf>,
    /// Decisions made while it was opened.
    remarks: Vec<Remark>,
}

impl Loaded {
    /// Opens a file, a folder with a component, or files that together are one checkpoint.
    fn open(paths: &[PathBuf]) -> Result<Loaded, PublishedError> {
        let path = paths[0].clone();
        paths.iter().try_for_each(|path| check_exists(path))?;
        let mut remarks = Vec::new();
        let files = paths.iter().map(|path| match path.is_dir() {
            true => find_weights(path, &mut remarks),
            false => Ok(path.clone()),
        });
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let checkpoints = files.iter().map(|file| {
            let checkpoint = Checkpoint::open(file)?;
            Ok(match taesd_half(&Names::of(&checkpoint)) {
                Some(half) => checkpoint.prefixed(half),
                None => checkpoint,
            })
        });
        let mut checkpoint = Checkpoint::join(checkpoints.collect::<Result<_, PublishedError>>()?)?;
        let mut names = Names::of(&checkpoint);
        if unet_prefix(&names).is_none() && names.iter().any(|name| ema_weight_name(name).is_some()) {
            checkpoint = checkpoint.renamed(ema_weight_name);
            names = Names::of(&checkpoint);
            remarks.push(Remark::Ema { path: path.clone() });
        }
        let checkpoint = Arc::new(checkpoint);
        let layout = |problem| PublishedError::Layout { path: path.clone(), problem };
        let found = Found::of(&names).map_err(layout)?;
        // For a file of another name, the config next to it may belong to something else.
        let file = &files[0];
        let is_component = file.file_name().and_then(|name| name.to_str()).is_some_and(is_weight_file);
        let config = file.parent().map(|folder| folder.join("config.json"));
        let parts = found.text_encoders.len() + found.unet.iter().count() + found.vae.iter().count();
        let is_component = (path.is_dir() || is_component) && parts == 1;
        let config = config.filter(|config| is_component && links::is_there(config));
        Ok(Loaded { path, checkpoint, names, found, config, remarks })
    }

    fn unet(&self) -> Result<(&Names, &FoundUNet), PublishedError> {
        let unet = self.found.unet.as_ref().ok_or_else(|| self.lacks("a U-Net"))?;
        Ok((&self.names, unet))
    }

    fn vae(&self) -> Result<(&Names, &FoundVae), PublishedError> {
        let vae = self.found.vae.as_ref().ok_or_else(|| self.lacks("an autoencoder (VAE)"))?;
        Ok((&self.names, vae))
    }

    /// The text encoder at `index`, or the only one.
    pub(super) fn text_encoder(&self, index: usize) -> Result<(&Names, &TextEncoder), PublishedError> {
        let encoders = &self.found.text_encoders;
        let encoder = encoders.get(index).or(encoders.first().filter(|_| encoders.len() == 1));
        Ok((&self.names, encoder.ok_or_else(|| self.lacks("a text encoder"))?))
    }

    fn lacks(&self, part: &'static str) -> PublishedError {
        let first = self.names.iter().next().unwrap_or("nothing");
        let found = format!("{} tensors, the first of which is `{first}`", self.names.iter().count());
        PublishedError::OtherPart { path: self.path.clone(), part, found }
    }

    pub(super) fn layout(&self, problem: LayoutProblem) -> PublishedError {
        PublishedError::Layout { path: self.path.clone(), problem }
    }

    /// `component`, whose tensors are in this checkpoint, with the config next to it if there is one.
    fn component(&self, component: Component) -> Result<PublishedComponent, PublishedError> {
        let mut component = PublishedComponent::renamed(&self.path, component, Arc::clone(&self.checkpoint))?;
        let is_unet = component.name() == "unet";
        let concern = |remark: &&Remark| is_unet || !matches!(remark, Remark::Ema { .. });
        component.remarks.extend(self.remarks.iter().filter(concern).cloned());
        match &self.config {
            Some(path) => component.with_config(path.clone()),
            None => Ok(component),
        }
    }
}

/// Opens the model in `files`, none of which is a diffusers directory.
pub(super) fn open(files: &ModelFiles) -> Result<PublishedModel, PublishedError> {
    let load = |path: &Option<PathBuf>| path.clone().map(|path| Loaded::open(&[path])).transpose();
    let base = load(&files.model)?;
    let own_unet = load(&files.unet)?;
    let own_vae = (!files.vae.is_empty()).then(|| Loaded::open(&files.vae)).transpose()?;
    let own_text_encoders = [load(&files.text_encoder)?, load(&files.text_encoder_2)?];
    let Some(main) = base.as_ref().or(own_unet.as_ref()) else { return Err(PublishedError::NoModel) };
    let unet = own_unet.as_ref().unwrap_or(main);
    let lacks = |part, flag| PublishedError::MissingPart { path: main.path.clone(), part, flag };
    if unet.found.unet.is_none() && own_unet.is_none() {
        return Err(lacks("U-Net", "--unet"));
    }
    let with_vae = own_vae.as_ref().or(base.as_ref().filter(|base| base.found.vae.is_some()));
    let vae = with_vae.ok_or_else(|| lacks("autoencoder (VAE)", "--vae"))?;
    let text_encoders = encoders::of_model(main, base.as_ref(), &own_text_encoders, &unet.unet()?.1.unet)?;
    let parts = Parts {
        unet: unet.unet()?,
        vae: vae.vae()?,
        text_encoders: text_encoders.iter().map(|(_, encoder)| *encoder).collect(),
    };
    let origins: Vec<&Loaded> = text_encoders.iter().map(|(loaded, _)| *loaded).chain([unet, vae]).collect();
    let mut model = assembled(&parts, &origins, main, files)?;
    let loaded = [base.as_ref(), own_unet.as_ref(), own_vae.as_ref()]
        .into_iter()
        .chain(own_text_encoders.each_ref().map(Option::as_ref));
    for loaded in loaded.flatten() {
        model.skipped.extend(loaded.found.skipped.iter().cloned());
        loaded.checkpoint.files().iter().for_each(|file| model.note_file(file.path(), None));
    }
    Ok(model)
}

/// The model made of `parts`. `origins` are their checkpoints in order: text encoders, U-Net, autoencoder.
fn assembled(
    parts: &Parts<'_>,
    origins: &[&Loaded],
    main: &Loaded,
    files: &ModelFiles,
) -> Result<PublishedModel, PublishedError> {
    let unet = origins[origins.len() - 2];
    let family = parts.family();
    let class_name = parts.class_name(family).map_err(|problem| unet.layout(problem))?;
    let mut model = PublishedModel::new(&main.path, class_name);
    let marks = marks(&mut model, unet, main, family, files.prediction)?;
    let training = Training::of(parts.unet.1, parts.vae.1, family, files.prediction, marks);
    let components = parts.components(family, &training, &marks).map_err(|problem| main.layout(problem))?;
    let scheduler = scheduler_config(family, &training, &marks, class_name);
    model.texts = parts.texts(family, &scheduler, class_name, &components);
    let mut vocabulary = None;
    for (component, origin) in components.into_iter().zip(origins) {
        let mut component = with_configs(origin.component(component)?, files.configs.as_deref())?;
        if component.name() == "vae" && !parts.vae.1.has_encoder() {
            component.set_decoder_only();
        }
        if let Some(tokenizer) = tokenizer_of(component.name()) {
            match &files.tokenizer {
                Some(folder) => model.read_vocabulary(folder, tokenizer)?,
                None => {
                    let texts = vocabulary.get_or_insert_with(clip_vocabulary::files).clone();
                    model.texts.extend(texts.map(|(file, text)| (format!("{tokenizer}/{file}"), text)));
                }
            }
            let known = Vocabulary::of(tokenizer, &model.texts);
            component.set_vocabulary(&known);
        }
        model.add_component(component, None);
    }
    (model.family, model.training, model.marks) = (Some(family), Some(training), Some(marks));
    let configs = files.configs.as_ref().map(|folder| folder.join(SCHEDULER));
    if let Some(scheduler) = configs.filter(|path| links::is_there(path)) {
        model.read_text_file(SCHEDULER, &scheduler)?;
        model.marks = None;
        model.training = Some(training.with_config(&read_text(&scheduler)?));
    }
    Ok(model)
}

/// The marks of training in the U-Net's file, and in the settings file beside it or beside the main file.
fn marks(
    model: &mut PublishedModel,
    unet: &Loaded,
    main: &Loaded,
    family: Family,
    given: Option<Prediction>,
) -> Result<Marks, PublishedError> {
    let note = |key: &str| unet.checkpoint.note(key);
    let layout = |problem| unet.layout(problem);
    let mut marks = Marks::of(&unet.names, family, note).map_err(layout)?;
    let files = [unet, main].into_iter().filter(|loaded| loaded.path.is_file());
    if let Some(settings) = files.filter_map(|loaded| settings_file::beside(&loaded.path)).next() {
        let settings_marks = settings_file::read(&settings, family, &mut model.remarks)?;
        if given.is_some() {
            marks.prediction = None;
        }
        marks = marks.or(settings_marks).map_err(layout)?;
        model.note_file(&settings, None);
    }
    Ok(marks)
}

/// Opens the autoencoder in `paths` as a model with only this component. `scaling_factor` is the factor of
/// latents, unless the autoencoder has its own.
pub(super) fn open_vae(paths: &[PathBuf], scaling_factor: f64) -> Result<PublishedModel, PublishedError> {
    let loaded = Loaded::open(paths)?;
    let component = loaded.vae()?.1.component(&loaded.names, scaling_factor);
    let mut model = PublishedModel::new(&loaded.path, "AutoencoderKL");
    model.add_component(loaded.component(component)?, None);
    Ok(model)
}

/// `component` with its config in the folder `configs`, if there is one.
fn with_configs(
    component: PublishedComponent,
    configs: Option<&Path>,
) -> Result<PublishedComponent, PublishedError> {
    let path = configs.map(|folder| folder.join(component.name()).join("config.json"));
    match path.filter(|path| links::is_there(path)) {
        Some(path) => component.with_config(path),
        None => Ok(component),
    }
}

/// The replacement in `files` for the component `name` of a diffusers directory, which is in `folder`; `None`
/// if there is none. The directory's config describes it, unless the replacement has its own or is of another
/// class.
pub(super) fn replacement(
    name: &str,
    folder: &Path,
    files: &ModelFiles,
) -> Result<Option<PublishedComponent>, PublishedError> {
    let paths = match name {
        "unet" => files.unet.as_slice(),
        "vae" => files.vae.as_slice(),
        "text_encoder" => files.text_encoder.as_slice(),
        "text_encoder_2" => files.text_encoder_2.as_slice(),
        _ => &[],
    };
    if paths.is_empty() {
        return Ok(None);
    }
    let loaded = Loaded::open(paths)?;
    let config_path = folder.join("config.json");
    let config = read_json_object(&config_path)?;
    let component = match name {
        "unet" => loaded.unet()?.1.renamed(&loaded.names),
        "vae" => {
            loaded.vae()?.1.component(&loaded.names, config["scaling_factor"].as_f64().unwrap_or(0.18215))
        }
        "text_encoder" => {
            let encoder = loaded.text_encoder(0)?.1;
            encoder.component(&loaded.names, "text_encoder", encoder.kind_with(&config["num_hidden_layers"]))
        }
        _ => loaded.text_encoder(1)?.1.component(&loaded.names, "text_encoder_2", TextKind::OpenClip),
    };
    let same_class = config["_class_name"].is_null()
        || config["_class_name"] == component.class_name
        || name.starts_with("text");
    let has_own = loaded.config.is_some();
    let only_decodes = name == "vae" && !loaded.vae()?.1.has_encoder();
    let mut component = loaded.component(component)?;
    if same_class && !has_own {
        component = component.with_config(config_path)?;
    }
    if only_decodes {
        component.set_decoder_only();
    }
    Ok(Some(component))
}
