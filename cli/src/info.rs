//! `sdq info`: what is inside a file, or what this machine offers.

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path};

use anyhow::{Context as _, bail};
use sdq_formats::{
    png,
    sdq::{Component, SdqFile},
    sniff::FileKind,
};
use serde_json::{Value, json};

use crate::{args::InfoArgs, model, recipe::Recipe};

pub(crate) fn run(args: &InfoArgs) -> anyhow::Result<()> {
    let description = match &args.file {
        None => machine()?,
        Some(path) => match kind(path).with_context(|| format!("cannot read `{}`", path.display()))? {
            FileKind::Png => picture(path)?,
            FileKind::Sdq => model_file(path, args.verify)?,
            other => {
                bail!("{}: expected an .sdq file or a picture drawn by sdq; it is {other}", path.display())
            }
        },
    };
    match args.json {
        true => println!("{description:#}"),
        false => print_plainly(&description, 0),
    }
    Ok(())
}

fn kind(path: &Path) -> std::io::Result<FileKind> {
    let mut head = Vec::new();
    File::open(path)?.take(FileKind::LOOK as u64).read_to_end(&mut head)?;
    Ok(FileKind::of(&head))
}

fn machine() -> anyhow::Result<Value> {
    let pipeline = model::open(None, None)?;
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "backend": pipeline.backend_description(),
        "built_in_model": pipeline.manifest().name,
    }))
}

fn picture(path: &Path) -> anyhow::Result<Value> {
    let recipe = Recipe::from_texts(&png::read_texts(path)?);
    Ok(recipe.with_context(|| path.display().to_string())?.json().clone())
}

fn model_file(path: &Path, verify: bool) -> anyhow::Result<Value> {
    let file = SdqFile::open(path)?;
    if verify {
        for weight in file.components().flat_map(|component| component.weights().collect::<Vec<_>>()) {
            weight.verify()?;
        }
    }
    let manifest = file.manifest();
    let components: serde_json::Map<String, Value> =
        file.components().map(|component| (component.name().to_owned(), describe(&component))).collect();
    let mut description = json!({
        "name": manifest.name,
        "description": manifest.description,
        "license": manifest.license,
        "pipeline_class": manifest.pipeline_class,
        "converter": manifest.converter,
        "bytes": file.file_len(),
        "defaults": manifest.defaults,
        "components": components,
        "texts": file.texts().map(|(name, _)| name).collect::<Vec<_>>(),
        "sources": manifest.sources.iter().map(|source| json!({
            "file": source.file, "bytes": source.bytes, "sha256": source.sha256,
        })).collect::<Vec<_>>(),
    });
    if verify {
        description["checksums"] = "all weights are as written".into();
    }
    Ok(description)
}

fn describe(component: &Component<'_>) -> Value {
    let mut by_type: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
    for weight in component.weights() {
        let (tensors, parameters, bytes) = by_type.entry(weight.weight_type.name()).or_default();
        *tensors += 1;
        *parameters += weight.spec.shape.iter().product::<usize>();
        *bytes += weight.stored_bytes();
    }
    by_type
        .into_iter()
        .map(|(name, (tensors, parameters, bytes))| {
            (name.to_owned(), json!({ "tensors": tensors, "parameters": parameters, "bytes": bytes }))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
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
                        println!("{indent}{name}:");
                        print_plainly(field, depth + 1);
                    }
                    Value::String(text) if text.is_empty() => {}
                    Value::String(text) => println!("{indent}{name}: {text}"),
                    other => println!("{indent}{name}: {other}"),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::Object(fields) => {
                        let fields = fields.values().map(plain).collect::<Vec<_>>();
                        println!("{indent}{}", fields.join("  "));
                    }
                    other => println!("{indent}{}", plain(other)),
                }
            }
        }
        other => println!("{indent}{}", plain(other)),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
