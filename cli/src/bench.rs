//! `sdq bench`: what a model takes on this machine, beside what the machine could do.

use std::time::Instant;

use sdq_engine::{
    Error, Pipeline, Request,
    backend::Limits,
    pipeline::{OpTime, Part, PartRun},
};
use serde_json::{Value, json};

use sdq::model;

use crate::args::{BenchArgs, PartArg};

/// One part, measured.
struct Measured {
    part: Part,
    /// Of each round, least first.
    seconds: Vec<f64>,
    integer: u64,
    float: u64,
    predicted: f64,
    /// Seconds at the machine's limits.
    limit: f64,
    profile: Vec<OpTime>,
}

impl Measured {
    fn median(&self) -> f64 {
        self.seconds[self.seconds.len() / 2]
    }

    fn rate(&self) -> f64 {
        (self.integer + self.float) as f64 / self.median()
    }
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let pipeline = model::open(args.model.as_deref(), &args.device.options()?)?;
    let (width, height) = args.size.unzip();
    // Guidance is only of use where the prompt says something.
    let request = Request { prompt: "a red apple".to_owned(), width, height, ..Request::default() };
    let settings = pipeline.settings(&request)?;
    let run = pipeline.run_plan(&request)?;
    let limits = pipeline.limits()?;
    let wanted = |part: &Part| args.part == PartArg::All || args.part == PartArg::of(*part);
    let parts = Part::ALL.into_iter().filter(wanted);
    let measured = parts
        .map(|part| measure(pipeline.part(part, &request)?, part, &limits, args))
        .collect::<anyhow::Result<Vec<_>>>()?;
    // A picture takes the states of its prompts, every step, and its decoding.
    let picture = (args.part == PartArg::All).then(|| {
        let [text, step, decoder] = [0, 1, 2].map(|part| measured[part].median());
        (run.evaluations, run.prompts as f64 * text + run.evaluations as f64 * step + decoder)
    });
    let size = (settings.width, settings.height);
    match args.json {
        true => say!("{:#}", describe(&pipeline, size, &limits, &measured, picture)),
        false => print(&pipeline, size, &limits, &measured, picture),
    }
    Ok(())
}

fn measure(mut run: PartRun<'_>, part: Part, limits: &Limits, args: &BenchArgs) -> anyhow::Result<Measured> {
    // Reads the weights and touches the memory.
    run.run()?;
    let mut seconds: Vec<f64> = (0..args.rounds.get())
        .map(|_| {
            let start = Instant::now();
            run.run()?;
            Ok(start.elapsed().as_secs_f64())
        })
        .collect::<Result<_, Error>>()?;
    seconds.sort_by(f64::total_cmp);
    let cost = run.cost();
    Ok(Measured {
        part,
        seconds,
        integer: cost.integer,
        float: cost.float,
        predicted: cost.seconds,
        limit: limits.seconds(cost.integer, cost.float),
        profile: if args.profile { run.profile()? } else { Vec::new() },
    })
}

/// What part of its time an op would take at the device's limits, by its multiply-adds and by what it moves.
fn shares(op: &OpTime, limits: &Limits) -> [f64; 2] {
    let seconds = op.time.as_secs_f64().max(f64::MIN_POSITIVE);
    // Copying reads and writes what it counts once.
    let moved = op.bytes as f64 / 2.0 / limits.copy;
    [limits.seconds(op.integer, op.float) / seconds, moved / seconds]
}

fn name(part: Part) -> &'static str {
    match part {
        Part::TextEncoder => "text encoder",
        Part::UNet => "U-Net step",
        Part::VaeDecoder => "VAE decoder",
    }
}

fn describe(
    pipeline: &Pipeline,
    (width, height): (usize, usize),
    limits: &Limits,
    measured: &[Measured],
    picture: Option<(usize, f64)>,
) -> Value {
    let op = |op: &OpTime| {
        let [arithmetic, memory] = shares(op, limits);
        json!({
            "op": op.op,
            "count": op.count,
            "multiply_adds": { "integer": op.integer, "float": op.float },
            "bytes": op.bytes,
            "seconds": op.time.as_secs_f64(),
            "share_of_limit": arithmetic,
            "share_of_copying": memory,
        })
    };
    let part = |part: &Measured| {
        json!({
            "name": name(part.part),
            "seconds": part.seconds,
            "median": part.median(),
            "predicted": part.predicted,
            "multiply_adds": { "integer": part.integer, "float": part.float },
            "per_second": part.rate(),
            "share_of_limit": part.limit / part.median(),
            "ops": part.profile.iter().map(op).collect::<Vec<_>>(),
        })
    };
    json!({
        "model": pipeline.manifest().name,
        "backend": pipeline.backend_description(),
        "width": width,
        "height": height,
        "limits": { "integer": limits.integer, "float": limits.float, "copy": limits.copy },
        "parts": measured.iter().map(part).collect::<Vec<_>>(),
        "picture": picture.map(|(steps, seconds)| json!({ "steps": steps, "seconds": seconds })),
    })
}

fn print(
    pipeline: &Pipeline,
    (width, height): (usize, usize),
    limits: &Limits,
    measured: &[Measured],
    picture: Option<(usize, f64)>,
) {
    say!("{}, {width}x{height}, {}", pipeline.manifest().name, pipeline.backend_description());
    let [integer, float, copy] = [limits.integer, limits.float, limits.copy].map(|rate| rate / 1e9);
    say!(
        "the device: {integer:.0} G multiply-adds/s of integers, {float:.0} of floats, {copy:.1} GB/s copied"
    );
    say!("{:<14}{:>10}{:>10}{:>10}{:>9}{:>10}", "", "least", "median", "most", "GMAC/s", "of limit");
    for part in measured {
        let [least, .., most] = part.seconds[..] else {
            row(part, part.median(), part.median());
            continue;
        };
        row(part, least, most);
    }
    for part in measured.iter().filter(|part| !part.profile.is_empty()) {
        say!("");
        say!("{}: what ops take", name(part.part));
        let all: f64 = part.profile.iter().map(|op| op.time.as_secs_f64()).sum();
        for op in &part.profile {
            let seconds = op.time.as_secs_f64();
            let [arithmetic, memory] = shares(op, limits).map(|share| 100.0 * share);
            let rate = match op.integer + op.float {
                0 => format!("{memory:.0} % of copying"),
                work => format!("{arithmetic:.0} % of the limit, {:.0} GMAC/s", work as f64 / seconds / 1e9),
            };
            say!(
                "  {:<24}{:>5}{:>12}{:>7.1} %   {rate}",
                op.op,
                op.count,
                duration(seconds),
                100.0 * seconds / all
            );
        }
    }
    if let Some((steps, seconds)) = picture {
        say!("a picture of {steps} steps takes about {}", duration(seconds));
    }
}

fn row(part: &Measured, least: f64, most: f64) {
    let [least, median, most] = [least, part.median(), most].map(duration);
    let (rate, share) = (part.rate() / 1e9, 100.0 * part.limit / part.median());
    say!("{:<14}{least:>10}{median:>10}{most:>10}{rate:>9.0}{share:>8.0} %", name(part.part));
}

/// Seconds in the unit that suits them.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        ..0.1 => format!("{:.2} ms", seconds * 1e3),
        ..1.0 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}
