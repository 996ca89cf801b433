//! Describes a file, or this machine, as JSON.

mod adapter;
mod checkpoint;
mod saved_run;
mod weights;

use std::path::Path;

use sdq_engine::SavedRun;
use sdq_formats::{picture as picture_file, sdq::SdqFile, sniff::FileKind};
use serde_json::{Value, json};

use crate::{Error, Pipeline, PipelineOptions, model, recipe::Found};

/// Options for describing a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct InspectOptions {
    /// Compare every weight of an `.sdq` file with its checksum.
    pub verify: bool,
    /// Describe every weight or tensor separately.
    pub whole: bool,
}

/// Describes the file at `path`: a model, a checkpoint, a model directory, a LoRA, a textual inversion, a picture or a
/// saved run.
///
/// # Errors
/// When it cannot be read, is damaged, or is none of these.
pub fn file(path: &Path, options: InspectOptions) -> Result<Value, Error> {
    if path.is_dir() {
        return checkpoint::directory(path);
    }
    let kind = FileKind::of_file(path).map_err(|error| Error::Read { path: path.to_path_buf(), error })?;
    match kind {
        FileKind::Png | FileKind::Jpeg | FileKind::WebP => picture(path),
        FileKind::Sdq => model_file(path, options),
        FileKind::Safetensors if SavedRun::is_at(path) => saved_run::describe(path),
        FileKind::Empty
        | FileKind::GitLfsPointer
        | FileKind::Html
        | FileKind::Json
        | FileKind::Xml
        | FileKind::Text
        | FileKind::Archive
        | FileKind::Program
        | FileKind::Zeros => Err(Error::UnknownFile { path: path.to_path_buf(), found: kind.to_string() }),
        _ => checkpoint::file(path, options.whole),
    }
}

/// Describes this machine; `used` are the options of a run.
///
/// # Errors
/// When the processor's backend cannot be opened.
pub fn machine(used: &PipelineOptions) -> Result<Value, Error> {
    let pipeline: Pipeline = model::open(None, &PipelineOptions::default())?;
    let mut description = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "processor": pipeline.backend_description(),
    });
    let used = used.backend.as_ref().map_or(String::new(), |backend| backend.description());
    description["used"] = used.into();
    description["gpus"] = gpus();
    description["built_in_model"] = pipeline.manifest().name.as_str().into();
    Ok(description)
}

/// The GPUs of this machine, or why there are none.
#[cfg(feature = "vulkan")]
fn gpus() -> Value {
    use sdq_engine::backend::vulkan::{self, Tier};
    let devices = match vulkan::devices() {
        Ok(devices) => devices,
        Err(error) => return error.to_string().into(),
    };
    let describe = |device: &vulkan::DeviceInfo| {
        let tiers: Vec<&str> = device.tiers.iter().map(|tier| tier.name()).collect();
        let wrong =
            device.verdicts.iter().filter(|verdict| !verdict.right).map(|verdict| verdict.tier.name());
        let wrong: Vec<&str> = wrong.collect();
        let description = json!({
            "driver": device.driver,
            "vulkan": device.api,
            "kind": device.kind.name(),
            "tiers": tiers.join(", "),
            "tier": device.tier.map_or("none", Tier::name),
            "wrong": wrong.join(", "),
            "used_only_if_asked": device.avoided_because.clone().unwrap_or_default(),
        });
        (format!("{}: {}", device.index, device.name), description)
    };
    let described: serde_json::Map<String, Value> = devices.iter().map(describe).collect();
    match described.is_empty() {
        true => "Vulkan finds no device".into(),
        false => described.into(),
    }
}

#[cfg(not(feature = "vulkan"))]
fn gpus() -> Value {
    "this build was made without the feature `vulkan`".into()
}

fn picture(path: &Path) -> Result<Value, Error> {
    let texts = picture_file::read_texts(path)?;
    let Found { recipe, has_seed, program, unused } =
        Found::from_texts(&texts).map_err(|error| Error::from(error).in_file(path))?;
    if let Some((_, own)) = texts.iter().find(|(keyword, _)| keyword == picture_file::RECIPE) {
        return Ok(serde_json::from_str(own).unwrap_or_else(|_| recipe.json()));
    }
    let mut description = recipe.json();
    if !has_seed && let Some(fields) = description.as_object_mut() {
        fields.shift_remove("seed");
    }
    description["written_by"] = program.into();
    description["not_used"] = unused.into();
    Ok(description)
}

fn model_file(path: &Path, InspectOptions { verify, whole }: InspectOptions) -> Result<Value, Error> {
    let file = SdqFile::open(path)?;
    if verify {
        for weight in file.components().flat_map(|component| component.weights().collect::<Vec<_>>()) {
            weight.verify()?;
        }
    }
    let manifest = file.manifest();
    let components: serde_json::Map<String, Value> = file
        .components()
        .map(|component| (component.name().to_owned(), weights::by_type(&component, whole)))
        .collect();
    let mut description = json!({
        "name": manifest.name,
        "description": manifest.description,
        "license": manifest.license,
        "pipeline_class": manifest.pipeline_class,
        "converter": manifest.converter,
        "bytes": file.file_len(),
        "defaults": manifest.defaults,
        "components": components,
    });
    if let Some(how) = &manifest.quantization {
        description["quantization"] = json!({
            "recipes": how.recipes,
            "rules": how.rules,
            "calibration_prompts": how.calibration_prompts,
        });
        description["largest_errors"] = weights::largest_errors(&file).into();
    }
    description["texts"] = file.texts().map(|(name, _)| name).collect();
    description["sources"] = manifest
        .sources
        .iter()
        .map(|source| json!({ "file": source.file, "bytes": source.bytes, "sha256": source.sha256 }))
        .collect();
    if verify {
        description["checksums"] = "all weights match their checksums".into();
    }
    Ok(description)
}
