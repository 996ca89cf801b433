//! `sdq convert`: published weights → one `.sdq` file.

use std::{path::Path, time::Instant};

use anyhow::Context as _;
use sdq_formats::published::PublishedModel;
use sdq_quantize::{Plan, Recipe, Report};

use crate::{UsageError, args::ConvertArgs, calibrate, checkpoint, describe, fit, interrupt, prediction};

pub(crate) fn run(args: &ConvertArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    interrupt::listen();
    let mut model = PublishedModel::open(&args.files.files())?;
    // Before anything that takes long: a model that cannot be run is refused at once.
    checkpoint::describe(&model)?;
    describe::note_choices(&model);
    if args.dry_run {
        let plan = plan(&model, args)?;
        sdq_quantize::check(&model, &plan)?;
        say_part!("{}", describe::plan(&plan));
        return Ok(());
    }
    prediction::settle(&mut model, args.threads)?;
    let mut plan = plan(&model, args)?;
    if let Some(goal) = fit::goal(args)? {
        let prompts = args.calibration_prompts.as_deref();
        fit::fit(&mut plan, &model, goal, prompts, args.threads)?;
    }
    if let Some(count) = args.calibrate {
        if plan.quantization.is_none() {
            let message = "--calibrate: with these types no weight is quantized; try --type q8, q4 or mixed";
            return Err(UsageError(message.to_owned()).into());
        }
        let prompts = args.calibration_prompts.as_deref();
        let (moments, drawn) = calibrate::moments(&model, count, prompts, args.threads)?;
        calibrate::weigh(&mut plan, &moments, drawn);
    }
    let output: &Path = args.output.as_deref().context("no --output")?;
    let Report { weights, parameters, bytes } = checkpoint::write(&model, &plan, args.threads, output)?;
    let megabytes = bytes as f64 / 1e6;
    let millions = parameters as f64 / 1e6;
    let bits = bytes as f64 * 8.0 / parameters as f64;
    let seconds = started.elapsed().as_secs_f64();
    note!(
        "{weights} tensors, {millions:.1} M parameters, {megabytes:.1} MB, {bits:.2} bits per weight, {seconds:.1} s"
    );
    say!("{}", output.display());
    Ok(())
}

/// The type of every weight that the model's configs call for.
fn plan(model: &PublishedModel, args: &ConvertArgs) -> anyhow::Result<Plan> {
    let recipe = |component: &str| -> Recipe {
        let own = match component {
            "unet" => args.unet_type,
            "vae" => args.vae_type,
            _ => args.text_type,
        };
        own.unwrap_or(args.recipe).0
    };
    let components = checkpoint::describe(model)?
        .weights()
        .into_iter()
        .map(|(component, weights)| (component, weights, recipe(component)));
    sdq_quantize::plan(components, &args.rules).map_err(|error| UsageError(error.to_string()).into())
}
