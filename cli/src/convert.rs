//! `sdq convert`: published weights → one `.sdq` file.

use std::path::Path;

use anyhow::Context as _;
use sdq_engine::Model;
use sdq_formats::diffusers::ModelDirectory;
use sdq_quantize::{Part, Report};

use crate::{args::ConvertArgs, interrupt, progress::Progress};

pub(crate) fn run(args: &ConvertArgs) -> anyhow::Result<()> {
    let model = ModelDirectory::open(&args.model)?;
    let type_of = |component: &str| {
        let own = match component {
            "text_encoder" => args.text_type,
            "unet" => args.unet_type,
            _ => args.vae_type,
        };
        own.unwrap_or(args.weight_type).0
    };
    let config = |name: &str| model.component(name).map(|component| component.config());
    let text =
        |name: &str| model.texts().iter().find(|(other, _)| other == name).map(|(_, text)| text.as_str());
    let described = Model::new(config, text).with_context(|| args.model.display().to_string())?;
    let parts = described.weights().map(|(component, weights)| Part {
        component: component.to_owned(),
        weights,
        weight_type: type_of(component),
    });
    let report = convert(&model, &parts, &args.output)?;
    let Report { weights, parameters, bytes } = report;
    let megabytes = bytes as f64 / 1e6;
    let millions = parameters as f64 / 1e6;
    eprintln!("{weights} tensors, {millions:.1} M parameters, {megabytes:.1} MB");
    println!("{}", args.output.display());
    Ok(())
}

fn convert(model: &ModelDirectory, parts: &[Part], output: &Path) -> anyhow::Result<Report> {
    let total = parts.iter().map(|part| part.weights.len()).sum::<usize>();
    let mut progress = Progress::new("tensor", total as u64);
    interrupt::listen();
    let report = interrupt::while_writing(|| {
        sdq_quantize::convert(model, parts, output, &mut |now| {
            progress.set(now.done as u64, now.component);
            interrupt::check()
        })
    });
    progress.finish();
    Ok(report?)
}
