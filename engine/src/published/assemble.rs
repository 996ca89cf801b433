//! Assembles a model from files: one file with all parts, or one for each part.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::clip_vocabulary;
use super::component::{PublishedComponent, WEIGHT_FILES, find_weights};
use super::error::PublishedError;
use super::files::read_json_object;
use super::{ModelFiles, PublishedModel};
use crate::families::{Found, FoundUNet, FoundVae, Parts, SCHEDULER, Training, tokenizer_of};
use crate::models::{
    clip::{TextEncoder, TextKind},
    naming::{Component, LayoutProblem, Names},
    vae::taesd_half,
};
use sdq_formats::checkpoint::Checkpoint;

/// A checkpoint and the parts in it.
struct Loaded {
    /// The file, or the folder.
    path: PathBuf,
    checkpoint: Arc<Checkpoint>,
    names: Names,
    found: Found,
    /// The `config.json` beside it.
    config: Option<PathBuf>,
}

impl Loaded {
    /// Opens a file, a folder with a component, or files that together are one checkpoint.
    fn open(paths: &[PathBuf]) -> Result<Loaded, PublishedError> {
        let path = paths[0].clone();
        if let Some(missing) = paths.iter().find(|path| !path.exists()) {
            return Err(PublishedError::NotFound { path: missing.clone() });
        }
        let files = paths.iter().map(|path| match path.is_dir() {
            true => find_weights(path),
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
        let checkpoint = Arc::new(Checkpoint::join(checkpoints.collect::<Result<_, PublishedError>>()?)?);
        let names = Names::of(&checkpoint);
        let layout = |problem| PublishedError::Layout { path: path.clone(), problem };
        let found = Found::of(&names).map_err(layout)?;
        // For a file of another name, the config next to it may belong to something else.
        let file = &files[0];
        let is_component =
            file.file_name().is_some_and(|name| WEIGHT_FILES.iter().any(|known| name == *known));
        let config = file.parent().map(|folder| folder.join("config.json"));
        let parts = found.text_encoders.len() + found.unet.iter().count() + found.vae.iter().count();
        let is_component = (path.is_dir() || is_component) && parts == 1;
        let config = config.filter(|config| is_component && config.exists());
        Ok(Loaded { path, checkpoint, names, found, config })
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
    fn text_encoder(&self, index: usize) -> Result<(&Names, &TextEncoder), PublishedError> {
        let encoders = &self.found.text_encoders;
        let encoder = encoders.get(index).or(encoders.first().filter(|_| encoders.len() == 1));
        Ok((&self.names, encoder.ok_or_else(|| self.lacks("a text encoder"))?))
    }

    fn lacks(&self, part: &'static str) -> PublishedError {
        let first = self.names.iter().next().unwrap_or("nothing");
        let found = format!("{} tensors, the first is `{first}`", self.names.iter().count());
        PublishedError::OtherPart { path: self.path.clone(), part, found }
    }

    fn layout(&self, problem: LayoutProblem) -> PublishedError {
        PublishedError::Layout { path: self.path.clone(), problem }
    }

    /// `component`, whose tensors are in this checkpoint, with the config next to it if there is one.
    fn component(&self, component: Component) -> Result<PublishedComponent, PublishedError> {
        let component = PublishedComponent::renamed(&self.path, component, Arc::clone(&self.checkpoint))?;
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
    let text_encoders = text_encoders(base.as_ref(), &own_text_encoders)?;
    if text_encoders.is_empty() {
        return Err(lacks("text encoder", "--text-encoder"));
    }
    let parts = Parts {
        unet: unet.unet()?,
        vae: vae.vae()?,
        text_encoders: text_encoders.iter().map(|(_, encoder)| *encoder).collect(),
    };
    let family = parts.family();
    let note = |key: &str| unet.checkpoint.note(key);
    let training = Training::of(parts.unet.1, parts.vae.1, family, files.prediction, &unet.names, note);
    let training = training.map_err(|problem| unet.layout(problem))?;
    let components = parts.components(family, &training).map_err(|problem| main.layout(problem))?;
    let class_name = parts.class_name(family).map_err(|problem| unet.layout(problem))?;

    let mut model = PublishedModel::new(&main.path, class_name);
    model.texts = parts.texts(family, &training, class_name, &components);
    let mut vocabulary = None;
    let origins = text_encoders.iter().map(|(loaded, _)| *loaded).chain([unet, vae]);
    for (component, origin) in components.into_iter().zip(origins) {
        let component = with_configs(origin.component(component)?, files.configs.as_deref())?;
        if let Some(tokenizer) = tokenizer_of(component.name()) {
            match &files.tokenizer {
                Some(folder) => model.read_vocabulary(folder, tokenizer)?,
                None => {
                    let texts = vocabulary.get_or_insert_with(clip_vocabulary::files).clone();
                    model.texts.extend(texts.map(|(file, text)| (format!("{tokenizer}/{file}"), text)));
                }
            }
        }
        model.add_component(component, None);
    }
    if let Some(scheduler) =
        files.configs.as_ref().map(|folder| folder.join(SCHEDULER)).filter(|path| path.exists())
    {
        model.read_text_file(SCHEDULER, &scheduler)?;
    }
    (model.family, model.training) = (Some(family), Some(training));
    let loaded = [base.as_ref(), own_unet.as_ref(), own_vae.as_ref()]
        .into_iter()
        .chain(own_text_encoders.each_ref().map(Option::as_ref));
    model.skipped = loaded.flatten().flat_map(|loaded| loaded.found.skipped.clone()).collect();
    Ok(model)
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

/// A text encoder with the checkpoint that it comes from.
type From<'a> = (&'a Loaded, (&'a Names, &'a TextEncoder));

/// The text encoders of `base`, replaced by those of `own` where there are any.
fn text_encoders<'a>(
    base: Option<&'a Loaded>,
    own: &'a [Option<Loaded>; 2],
) -> Result<Vec<From<'a>>, PublishedError> {
    let mut encoders: Vec<From<'a>> = base
        .iter()
        .flat_map(|base| base.found.text_encoders.iter().map(|encoder| (*base, (&base.names, encoder))))
        .collect();
    for (index, loaded) in own.iter().enumerate() {
        let Some(loaded) = loaded else { continue };
        let encoder = (loaded, loaded.text_encoder(index)?);
        match encoders.get_mut(index) {
            Some(place) => *place = encoder,
            None => encoders.push(encoder),
        }
    }
    Ok(encoders)
}

/// `component` with its config in the folder `configs`, if there is one.
fn with_configs(
    component: PublishedComponent,
    configs: Option<&Path>,
) -> Result<PublishedComponent, PublishedError> {
    let path = configs.map(|folder| folder.join(component.name()).join("config.json"));
    match path.filter(|path| path.exists()) {
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
    let component = loaded.component(component)?;
    Ok(Some(if same_class && !has_own { component.with_config(config_path)? } else { component }))
}
