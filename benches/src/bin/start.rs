//! The time of a run before its first step:
//! `cargo run --release -p sdq-benches --bin start -- FILE.sdq [ROUNDS]`.
//!
//! Each round is a process of its own. Its time is measured from before its start: until the prompt has been
//! encoded, until the first step is done, and until the second is. The times of the text encoder and of a
//! step alone are measured in the same process afterwards.

use std::{
    io::{BufRead as _, BufReader},
    ops::ControlFlow,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use sdq_engine::{Event, Pipeline, PipelineOptions, Request, pipeline::Part};

const USAGE: &str = "usage: start FILE.sdq [ROUNDS]";
/// The time before the first step without the prompts, and the additional time of the first step.
const REST: &str = "beside prompts and step";
/// The first argument of the measured process.
const TIMED: &str = "--timed";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [flag, model] if flag == TIMED => draw(Path::new(model)),
        [model] => measure(model, 5),
        [model, rounds] => measure(model, rounds.parse().context(USAGE)?),
        _ => anyhow::bail!(USAGE),
    }
}

/// Milliseconds of each round: minimum, median and maximum.
fn measure(model: &str, rounds: usize) -> anyhow::Result<()> {
    let mut columns: Vec<(String, Vec<f64>)> = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .args([TIMED, model])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start myself")?;
        let output = child.stdout.take().context("the output was piped")?;
        for line in BufReader::new(output).lines() {
            let line = line?;
            let since = start.elapsed().as_secs_f64() * 1e3;
            let (name, own) = line.split_once('\t').unwrap_or((&line, ""));
            let value = own.parse().unwrap_or(since);
            match columns.iter_mut().find(|(column, _)| column == name) {
                Some((_, values)) => values.push(value),
                None => columns.push((name.to_owned(), vec![value])),
            }
        }
        ensure!(child.wait()?.success(), "the run failed");
        let last = |name: &str| {
            let column = columns.iter().find(|(column, _)| column == name);
            column.and_then(|(_, values)| values.last().copied()).context("the run said too little")
        };
        // Guidance encodes two prompts.
        let own = 2.0 * last("text encoder alone")? + last("step alone")?;
        let rest = last("first step done")? - own;
        match columns.iter_mut().find(|(column, _)| column == REST) {
            Some((_, values)) => values.push(rest),
            None => columns.push((REST.to_owned(), vec![rest])),
        }
    }
    for (name, mut values) in columns {
        values.sort_by(f64::total_cmp);
        let [least, median, most] = [0, values.len() / 2, values.len() - 1].map(|index| values[index]);
        println!("{name:<32}{least:>9.1}{median:>9.1}{most:>9.1} ms");
    }
    Ok(())
}

/// Two steps, reported as they happen; then the times of single parts.
fn draw(model: &Path) -> anyhow::Result<()> {
    let pipeline = Pipeline::open(model, &PipelineOptions::default())?;
    println!("open");
    let request = Request::new("a lighthouse at dusk").steps(2).scheduler("ddim");
    let stopped = pipeline.generate(&request, &mut |event| {
        match event {
            Event::Encoded => println!("prompt read"),
            Event::Step { step: 0, .. } => println!("first step done"),
            Event::Step { step: 1, .. } => println!("second step done"),
            Event::Denoised { .. } => return ControlFlow::Break(()),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    ensure!(stopped.is_err(), "the decoder is not waited for");
    for (name, part) in [("text encoder alone", Part::TextEncoder), ("step alone", Part::UNet)] {
        let mut run = pipeline.part(part, &request)?;
        run.run()?;
        let start = Instant::now();
        run.run()?;
        println!("{name}\t{}", start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}
