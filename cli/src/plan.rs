//! `sdq plan`: the memory of a `generate`, without running it.

use sdq_engine::pipeline::{Decoding, MemoryPlan};
use serde_json::{Value, json};

use crate::{args::GenerateArgs, job, model};

pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let pipeline = model::open_with(args.model.as_deref(), &args.run.options())?;
    let plan = pipeline.plan(&job::request(args)?)?;
    match args.run.json {
        true => say!("{:#}", describe(&plan)),
        false => print(&plan),
    }
    Ok(())
}

fn describe(plan: &MemoryPlan) -> Value {
    let phase = |phase: &sdq_engine::pipeline::Phase| json!({ "name": phase.name, "bytes": phase.bytes });
    let strip = |(rows, strips): &(usize, usize)| json!({ "rows": rows, "strips": strips });
    let Decoding { strips, stages, work } = &plan.decoding;
    json!({
        "peak": plan.peak(),
        "limit": plan.limit,
        "phases": plan.phases.iter().map(phase).collect::<Vec<_>>(),
        "mapped": plan.mapped,
        "pictures_together": plan.batching.pictures,
        "split_guidance": plan.batching.split_guidance,
        "decoding": {
            "stages": stages,
            "cut": strips.iter().map(strip).collect::<Vec<_>>(),
            "work": work,
        },
    })
}

fn print(plan: &MemoryPlan) {
    for phase in &plan.phases {
        line(phase.name, &megabytes(phase.bytes));
    }
    line("peak", &megabytes(plan.peak()));
    line("limit", &plan.limit.map_or("none".to_owned(), megabytes));
    line("weights", &format!("{}, in a mapped file and not counted", megabytes(plan.mapped)));
    let guidance = if plan.batching.split_guidance { ", one branch of guidance after the other" } else { "" };
    line("together", &format!("{} of the pictures{guidance}", plan.batching.pictures));
    line("decoding", &decoding(&plan.decoding));
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

/// Bytes in units of 2^20, as `--max-memory` counts.
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
