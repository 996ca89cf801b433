//! `sdq info`: what is inside a file, or what this machine offers.

mod checkpoint;
mod weights;

use std::path::Path;

use anyhow::{Context as _, bail};
use sdq::{
    model,
    recipe::Found,
    text::{printable, printable_json},
};
use sdq_engine::PipelineOptions;
use sdq_formats::{picture as picture_file, sdq::SdqFile, sniff::FileKind};
use serde_json::{Value, json};

use crate::args::{DeviceArgs, InfoArgs};

/// Most characters of one text that are shown; the JSON has all of them.
const SHOWN_CHARS: usize = 20_000;

pub(crate) fn run(args: &InfoArgs) -> anyhow::Result<()> {
    let description = match &args.file {
        None => machine()?,
        Some(path) if path.is_dir() => checkpoint::directory(path)?,
        Some(path) => {
            match FileKind::of_file(path).with_context(|| format!("cannot read `{}`", path.display()))? {
                FileKind::Png | FileKind::Jpeg | FileKind::WebP => picture(path)?,
                FileKind::Sdq => model_file(path, args.verify, args.json)?,
                kind @ (FileKind::Empty | FileKind::GitLfsPointer | FileKind::Html) => {
                    let expected = "expected an .sdq file, a checkpoint or a picture drawn by sdq";
                    bail!("{}: {expected}; it is {kind}", path.display())
                }
                _ => checkpoint::file(path, args.json)?,
            }
        }
    };
    match args.json {
        true => say!("{}", printable_json(&format!("{description:#}"))),
        false => print_plainly(&description, 0),
    }
    Ok(())
}

fn machine() -> anyhow::Result<Value> {
    let pipeline = model::open(None, &PipelineOptions::default())?;
    let mut description = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "processor": pipeline.backend_description(),
    });
    let used = DeviceArgs::default().options()?.backend;
    description["used"] = used.map_or(String::new(), |backend| backend.description()).into();
    description["gpus"] = gpus();
    description["built_in_model"] = pipeline.manifest().name.as_str().into();
    Ok(description)
}

/// The GPUs of this machine, or why there is none.
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

fn picture(path: &Path) -> anyhow::Result<Value> {
    let texts = picture_file::read_texts(path)?;
    let Found { recipe, program, unused } =
        Found::from_texts(&texts).with_context(|| path.display().to_string())?;
    if let Some((_, own)) = texts.iter().find(|(keyword, _)| keyword == picture_file::RECIPE) {
        return Ok(serde_json::from_str(own)?);
    }
    let mut description = recipe.json();
    description["written_by"] = program.into();
    description["not_used"] = unused.into();
    Ok(description)
}

fn model_file(path: &Path, verify: bool, whole: bool) -> anyhow::Result<Value> {
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
        description["checksums"] = "all weights are as written".into();
    }
    Ok(description)
}

/// An object as indented lines: names to the left, values to the right.
fn print_plainly(value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::Object(inner) if inner.is_empty() => {}
                    Value::Array(inner) if inner.is_empty() => {}
                    Value::Object(_) | Value::Array(_) => {
                        say!("{indent}{}:", printable(name, SHOWN_CHARS));
                        print_plainly(field, depth + 1);
                    }
                    Value::String(text) if text.is_empty() => {}
                    Value::String(text) => {
                        say!("{indent}{}: {}", printable(name, SHOWN_CHARS), printable(text, SHOWN_CHARS));
                    }
                    other => say!("{indent}{}: {other}", printable(name, SHOWN_CHARS)),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::Object(fields) => {
                        let fields = fields.values().map(plain).collect::<Vec<_>>();
                        say!("{indent}{}", fields.join("  "));
                    }
                    other => say!("{indent}{}", plain(other)),
                }
            }
        }
        other => say!("{indent}{}", plain(other)),
    }
}

fn plain(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    printable(&text, SHOWN_CHARS).into_owned()
}
