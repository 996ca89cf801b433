//! `sdq eval`: how far one version of a model is from another.

mod report;
mod sheet;

use std::ops::ControlFlow;

use sdq_engine::{
    Event, Request,
    pipeline::{Comparison, compare},
};
use sdq_quantize::Recipe;

use crate::{
    UsageError,
    args::EvalArgs,
    interrupt, model,
    progress::Progress,
    prompts::{self, Prompt},
    reference,
    run::check_writable,
};
use report::Report;
use sheet::Sheet;

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let prompts = prompts(args)?;
    if let Some(path) = &args.sheet {
        if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
            let message =
                format!("--sheet: `{}` does not end in .png, the format that sdq writes", path.display());
            return Err(UsageError(message).into());
        }
        check_writable(path)?;
    }
    interrupt::listen();
    let options = args.device.options()?;
    let reference = reference::open(&args.reference, Recipe::F32, &options)?;
    let reference = &reference.pipeline;
    let other = model::open(Some(&args.other), &options)?;
    let settings = reference.settings(&request(args, &prompts[0]))?;

    // Two runs a prompt.
    let mut progress = Progress::new("step", (prompts.len() * 2 * settings.steps) as u64);
    let mut report = Report::new(&settings);
    let mut sheet = Sheet::default();
    for (index, prompt) in prompts.iter().enumerate() {
        let request = request(args, prompt);
        let found = compare(reference, &other, &request, &mut |event| observe(&mut progress, index, &event));
        if found.is_err() {
            progress.finish();
        }
        let found: Comparison = found?;
        if args.sheet.is_some() {
            sheet.add(&found.reference, &found.other);
        }
        report.add(prompt, &found);
    }
    progress.finish();
    if let Some(path) = &args.sheet {
        interrupt::while_writing(|| sheet.write(path))?;
    }
    match args.json {
        true => say!("{:#}", report.json()),
        false => say_part!("{}", report.table()),
    }
    Ok(())
}

fn observe(progress: &mut Progress, prompt: usize, event: &Event<'_>) -> ControlFlow<()> {
    if let Event::Step { image, step, steps, .. } = *event {
        progress.set(((2 * prompt + image) * steps + step + 1) as u64, "comparing");
    }
    interrupt::check()
}

/// The prompts to draw, at least one.
fn prompts(args: &EvalArgs) -> anyhow::Result<Vec<Prompt>> {
    let mut all = match &args.prompts {
        Some(path) => prompts::read(path, args.seed)?,
        None => Vec::new(),
    };
    all.extend(args.prompt.iter().map(|text| Prompt { text: text.clone(), seed: args.seed }));
    if all.is_empty() {
        all = prompts::everyday(prompts::EVERYDAY.len(), args.seed);
    }
    Ok(match args.limit {
        Some(limit) => prompts::spread(all, limit.get()),
        None => all,
    })
}

fn request(args: &EvalArgs, prompt: &Prompt) -> Request {
    Request {
        prompt: prompt.text.clone(),
        width: args.sampling.width,
        height: args.sampling.height,
        steps: args.sampling.steps,
        scheduler: args.sampling.scheduler.clone(),
        guidance_scale: args.sampling.guidance_scale,
        seed: prompt.seed,
        ..Request::default()
    }
}
