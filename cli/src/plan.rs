//! `sdq plan`: memory and time of a `generate`, without running it.

use sdq::{
    model,
    plan::{Decoding, Plan},
    run,
};

use crate::{
    UsageError, args::GenerateArgs, bench::duration, config, job, output, streams::Streamed, terminal,
};

pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    if args.prompts.is_some() || args.sheet.is_some() {
        return Err(UsageError("a plan is for one prompt; leave --prompts and --sheet out".to_owned()).into());
    }
    let model = config::model(args.model.as_deref())?;
    let pipeline = model::open(model.as_deref(), &args.run.options()?)?;
    let asked = job::read(args, Streamed::of(args)?.init_image())?;
    let mut request = asked.request.clone();
    let add_ons = job::add_ons(args, &asked, &mut request)?;
    let threads = args.run.device.threads;
    let pipeline = terminal::watched(|watch| add_ons.apply(pipeline, threads, watch))?;
    if let Some(source) = &asked.source {
        terminal::watched(|watch| source.note_differences(&pipeline, watch));
    }
    let settings = pipeline.settings(&request)?;
    terminal::watched(|watch| run::note_without_effect(&pipeline, &settings, watch));
    let plan = Plan::new(&pipeline, &request)?;
    match args.run.json {
        true => output::say_json(&plan.json()),
        false => print(&plan),
    }
    Ok(())
}

fn print(Plan { memory: plan, time }: &Plan) {
    for phase in &plan.phases {
        line(phase.name, &megabytes(phase.bytes));
    }
    if plan.on_fallback {
        line("device", "the run does not fit and is drawn on the processor");
    }
    line("peak", &megabytes(plan.peak()));
    line("limit", &plan.limit.map_or("none".to_owned(), megabytes));
    line("weights", &format!("{}, in a mapped file and not counted", megabytes(plan.mapped)));
    let guidance = if plan.batching.split_guidance { ", one branch of guidance after the other" } else { "" };
    line("together", &format!("{} of the pictures{guidance}", plan.batching.pictures));
    line("decoding", &decoding(&plan.decoding));
    let [total, step, decoder] = [time.total(), time.step, time.vae_decoder].map(duration);
    line("time", &format!("about {total}; a step {step}, decoding {decoder}"));
}

fn line(name: &str, value: &str) {
    say!("{name:<14}{value}");
}

fn decoding(Decoding { strips, stages, work }: &Decoding) -> String {
    let rows = || strips.iter().map(|(rows, _)| rows);
    match (rows().min(), rows().max()) {
        (Some(least), Some(most)) => format!(
            "in {stages} stages, {} of them in strips of {least} to {most} rows; {work:.2} times the work",
            strips.len()
        ),
        _ if *stages > 1 => format!("in {stages} stages"),
        _ => "at once".to_owned(),
    }
}

/// Bytes in units of 2^20, as in `--max-memory`.
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
