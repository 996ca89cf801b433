//! `sdq convert`: published weights → one `.sdq` file.

use std::path::Path;

use sdq_engine::models;
use sdq_formats::diffusers::ModelDirectory;
use sdq_quantize::{Part, Report};

use crate::{args::ConvertArgs, interrupt, progress::Progress};

/// The parts of every model, in the order in which a run reads them.
const COMPONENTS: [&str; 3] = ["text_encoder", "unet", "vae"];

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
    let mut parts = Vec::new();
    for name in COMPONENTS {
        // A component that is missing is reported by the conversion, with everything else it checks.
        let weights = match model.component(name) {
            Some(component) => models::weight_specs(name, component.config())?,
            None => Vec::new(),
        };
        parts.push(Part { component: name.to_owned(), weights, weight_type: type_of(name) });
    }
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
