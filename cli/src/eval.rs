//! `sdq eval`: the difference between two versions of a model.

use sdq::{
    Request,
    convert::{Precision, reference},
    evaluate::{EvaluateOptions, evaluate},
    model,
    prompts::{self, Prompt},
    run::check_writable,
};

use crate::{UsageError, args::EvalArgs, interrupt, output, terminal};

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let options =
        EvaluateOptions { request: request(args), prompts: prompts(args)?, sheet: args.sheet.is_some() };
    if let Some(path) = &args.sheet {
        if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
            let message =
                format!("--sheet: `{}` does not end in .png, the format that sdq writes", path.display());
            return Err(UsageError(message).into());
        }
        check_writable(path)?;
    }
    interrupt::listen();
    let device = args.device.options()?;
    let evaluation = terminal::watched(|watch| {
        let reference = reference::open(&args.reference, Precision::F32, &device, watch)?;
        let other = model::open(Some(&args.other), &device)?;
        evaluate(&reference.pipeline, &other, &options, watch)
    })?;
    if let Some(path) = &args.sheet {
        interrupt::while_writing(|| evaluation.write_sheet(path))?;
    }
    match args.json {
        true => output::say_json(&evaluation.report.json()),
        false => say_part!("{}", evaluation.report.table()),
    }
    Ok(())
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

fn request(args: &EvalArgs) -> Request {
    Request {
        width: args.sampling.width,
        height: args.sampling.height,
        steps: args.sampling.steps,
        scheduler: args.sampling.scheduler.clone(),
        guidance_scale: args.sampling.guidance_scale,
        ..Request::default()
    }
}
