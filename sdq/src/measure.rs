//! Measures the parts of a run on this machine, and compares them with the machine's limits.

use std::{num::NonZeroUsize, time::Instant};

use sdq_engine::{
    backend::Limits,
    pipeline::{OpTime, PartRun},
};
use serde_json::{Value, json};

pub use sdq_engine::pipeline::Part;

use crate::{Error, Pipeline, Request};

/// Options of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct MeasureOptions {
    /// One part; `None` for all of them, and for an estimate for a whole picture.
    pub part: Option<Part>,
    /// The number of times that each part runs, after one run that is not counted.
    pub rounds: NonZeroUsize,
    /// Whether each kind of op is measured separately too.
    pub profile: bool,
}

/// The measured times of the parts of a run.
#[derive(Debug)]
pub struct Measurement {
    /// Name of the model.
    pub model: String,
    /// Device, instruction set and threads.
    pub backend: String,
    /// Width of the picture in pixels.
    pub width: usize,
    /// Height of the picture in pixels.
    pub height: usize,
    /// The limits of the device.
    pub limits: Limits,
    /// The parts, in the order in which they run.
    pub parts: Vec<MeasuredPart>,
    /// Steps of a whole picture and its approximate time in seconds, if all parts were measured.
    pub picture: Option<(usize, f64)>,
}

/// The measurement of one part.
#[derive(Debug)]
pub struct MeasuredPart {
    /// The part.
    pub part: Part,
    /// Seconds of each round, the shortest first; at least one.
    pub seconds: Vec<f64>,
    /// Multiply-adds of integers.
    pub integer: u64,
    /// Multiply-adds of floats.
    pub float: u64,
    /// Predicted seconds.
    pub predicted: f64,
    /// Seconds at the device's limits.
    pub limit: f64,
    /// The time of each kind of op, the longest first; empty unless requested.
    pub profile: Vec<OpTime>,
}

impl MeasuredPart {
    /// Its name for display.
    pub fn name(&self) -> &'static str {
        match self.part {
            Part::TextEncoder => "text encoder",
            Part::UNet => "U-Net step",
            Part::VaeDecoder => "VAE decoder",
        }
    }

    /// The median of the rounds in seconds.
    pub fn median(&self) -> f64 {
        self.seconds[self.seconds.len() / 2]
    }

    /// Multiply-adds per second.
    pub fn rate(&self) -> f64 {
        (self.integer + self.float) as f64 / self.median()
    }
}

/// Measures the parts of a run of `request`.
///
/// # Errors
/// When the request is not valid, or the device fails.
pub fn measure(
    pipeline: &Pipeline,
    request: &Request,
    options: &MeasureOptions,
) -> Result<Measurement, Error> {
    let settings = pipeline.settings(request)?;
    let run = pipeline.run_plan(request)?;
    let limits = pipeline.limits()?;
    let wanted = |part: &Part| options.part.is_none_or(|wanted| wanted == *part);
    let parts = Part::ALL.into_iter().filter(wanted);
    let parts = parts
        .map(|part| measure_part(pipeline.part(part, request)?, part, &limits, options))
        .collect::<Result<Vec<_>, Error>>()?;
    // A picture consists of encoding its prompts, all steps, and its decoding.
    let picture = match &parts[..] {
        [text, step, decoder] => {
            let steps = run.evaluations as f64 * step.median();
            Some((run.evaluations, run.prompts as f64 * text.median() + steps + decoder.median()))
        }
        _ => None,
    };
    let (model, backend) = (pipeline.manifest().name.clone(), pipeline.backend_description());
    Ok(Measurement { model, backend, width: settings.width, height: settings.height, limits, parts, picture })
}

fn measure_part(
    mut run: PartRun<'_>,
    part: Part,
    limits: &Limits,
    options: &MeasureOptions,
) -> Result<MeasuredPart, Error> {
    // Reads the weights and writes the memory for the first time.
    run.run()?;
    let mut seconds = (0..options.rounds.get())
        .map(|_| {
            let start = Instant::now();
            run.run()?;
            Ok(start.elapsed().as_secs_f64())
        })
        .collect::<Result<Vec<f64>, Error>>()?;
    seconds.sort_by(f64::total_cmp);
    let cost = run.cost();
    Ok(MeasuredPart {
        part,
        seconds,
        integer: cost.integer,
        float: cost.float,
        predicted: cost.seconds,
        limit: limits.seconds(cost.integer, cost.float),
        profile: if options.profile { run.profile()? } else { Vec::new() },
    })
}

impl Measurement {
    /// The shares of an op's time that it would need at the device's limits: for its multiply-adds, and for
    /// the bytes that it moves.
    pub fn shares(&self, op: &OpTime) -> [f64; 2] {
        let seconds = op.time.as_secs_f64().max(f64::MIN_POSITIVE);
        // The limit of copying counts each byte once, although it is read and written.
        let moved = op.bytes as f64 / 2.0 / self.limits.copy;
        [self.limits.seconds(op.integer, op.float) / seconds, moved / seconds]
    }

    /// All results as JSON.
    pub fn json(&self) -> Value {
        let op = |op: &OpTime| {
            let [arithmetic, memory] = self.shares(op);
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
        let part = |part: &MeasuredPart| {
            json!({
                "name": part.name(),
                "seconds": part.seconds,
                "median": part.median(),
                "predicted": part.predicted,
                "multiply_adds": { "integer": part.integer, "float": part.float },
                "per_second": part.rate(),
                "share_of_limit": part.limit / part.median(),
                "ops": part.profile.iter().map(op).collect::<Vec<_>>(),
            })
        };
        let Limits { integer, float, copy } = self.limits;
        json!({
            "model": self.model,
            "backend": self.backend,
            "width": self.width,
            "height": self.height,
            "limits": { "integer": integer, "float": float, "copy": copy },
            "parts": self.parts.iter().map(part).collect::<Vec<_>>(),
            "picture": self.picture.map(|(steps, seconds)| json!({ "steps": steps, "seconds": seconds })),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn part(part: Part, seconds: &[f64]) -> MeasuredPart {
        MeasuredPart {
            part,
            seconds: seconds.to_vec(),
            integer: 600,
            float: 200,
            predicted: 3.0,
            limit: 1.0,
            profile: Vec::new(),
        }
    }

    #[test]
    fn the_median_is_a_round_and_of_two_the_slower_one() {
        for (seconds, median) in [(&[4.0][..], 4.0), (&[1.0, 4.0], 4.0), (&[1.0, 2.0, 9.0], 2.0)] {
            let part = part(Part::UNet, seconds);
            assert_eq!((part.median(), part.rate()), (median, 800.0 / median));
        }
        let names = Part::ALL.map(|kind| part(kind, &[1.0]).name());
        assert_eq!(names, ["text encoder", "U-Net step", "VAE decoder"]);
    }

    #[test]
    fn shares_are_of_the_devices_limits() {
        let limits = Limits { integer: 100.0, float: 10.0, copy: 50.0 };
        let op = OpTime {
            op: "linear",
            count: 2,
            integer: 100,
            float: 10,
            bytes: 400,
            time: Duration::from_secs(8),
        };
        let profiled = MeasuredPart { profile: vec![op], ..part(Part::VaeDecoder, &[2.0, 4.0]) };
        let measurement = Measurement {
            model: "tiny".to_owned(),
            backend: "none".to_owned(),
            width: 8,
            height: 16,
            limits,
            parts: vec![profiled],
            picture: Some((20, 7.5)),
        };
        // 1 + 1 seconds of arithmetic and 200 bytes at 50 a second, of 8 seconds.
        assert_eq!(measurement.shares(&op), [0.25, 0.5]);
        // The shares of an op that took no time must still be numbers.
        let instant = OpTime { time: Duration::ZERO, integer: 0, float: 0, bytes: 0, ..op };
        assert_eq!(measurement.shares(&instant), [0.0, 0.0]);
        let json = measurement.json();
        let part = json!({
            "name": "VAE decoder", "seconds": [2.0, 4.0], "median": 4.0, "predicted": 3.0,
            "multiply_adds": { "integer": 600, "float": 200 }, "per_second": 200.0, "share_of_limit": 0.25,
            "ops": [{
                "op": "linear", "count": 2, "multiply_adds": { "integer": 100, "float": 10 }, "bytes": 400,
                "seconds": 8.0, "share_of_limit": 0.25, "share_of_copying": 0.5,
            }],
        });
        assert_eq!(json["parts"], json!([part]));
        assert_eq!(json["picture"], json!({ "steps": 20, "seconds": 7.5 }));
        assert_eq!(json["limits"], json!({ "integer": 100.0, "float": 10.0, "copy": 50.0 }));
    }
}
