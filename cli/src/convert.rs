//! `sdq convert`: published weights → one `.sdq` file.

use std::{path::Path, time::Instant};

use anyhow::Context as _;
use sdq::convert::{self, ConvertOptions, Goal, Report, describe};

use crate::{args::ConvertArgs, interrupt, terminal};

pub(crate) fn run(args: &ConvertArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    interrupt::listen();
    let options = options(args)?;
    let model = terminal::watched(|watch| convert::open(&args.files.files(), watch))?;
    if args.dry_run {
        say_part!("{}", describe::plan(&convert::dry_run(&model, &options)?));
        return Ok(());
    }
    let output: &Path = args.output.as_deref().context("--output is missing")?;
    convert::check_output(&model, output, &options)?;
    if !args.force {
        convert::check_replaced(output)?;
    }
    let report = terminal::watched(|watch| convert::convert(model, output, &options, watch))?;
    let Report { weights, parameters, bytes } = report;
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

fn options(args: &ConvertArgs) -> anyhow::Result<ConvertOptions> {
    let goal = match (args.max_size, args.target_psnr) {
        (Some(megabytes), _) => Some(Goal::max_size(megabytes)?),
        (None, Some(decibels)) => Some(Goal::target_psnr(decibels)?),
        (None, None) => None,
    };
    Ok(ConvertOptions {
        precision: args.precision.0,
        unet: args.unet_type.map(|precision| precision.0),
        vae: args.vae_type.map(|precision| precision.0),
        text: args.text_type.map(|precision| precision.0),
        rules: args.rules.clone(),
        goal,
        calibrate: args.calibrate,
        calibration_prompts: args.calibration_prompts.clone(),
        threads: args.threads,
    })
}
