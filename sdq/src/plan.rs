//! Memory and time of a run before it runs.

use serde_json::{Value, json};

pub use sdq_engine::pipeline::{Decoding, MemoryPlan, Phase, TimePlan};

use crate::{Error, Pipeline, PipelineOptions, Request, model};

/// Measures the device in `options`, by whose rates time is predicted: the first plan on it need not. Takes some tenths of
/// a second, and seconds on a busy machine.
///
/// # Errors
/// When the device fails.
pub fn measure(options: &PipelineOptions) -> Result<(), Error> {
    let options = PipelineOptions { max_memory: None, ..options.clone() };
    Plan::new(&model::open(None, &options)?, &Request::default()).map(drop)
}

/// The predicted demands of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its memory, and how it is cut to fit.
    pub memory: MemoryPlan,
    /// Its time.
    pub time: TimePlan,
}

impl Plan {
    /// The predicted demands of a run of `request`.
    ///
    /// # Errors
    /// As [`Pipeline::generate`] before it draws.
    pub fn new(pipeline: &Pipeline, request: &Request) -> Result<Plan, Error> {
        let memory = pipeline.plan(request)?;
        let time = pipeline.predict_time(&memory)?;
        Ok(Plan { memory, time })
    }

    /// All predictions as JSON, in bytes and seconds.
    pub fn json(&self) -> Value {
        let Plan { memory: plan, time } = self;
        let phase = |phase: &Phase| json!({ "name": phase.name, "bytes": phase.bytes });
        let strip = |(rows, strips): &(usize, usize)| json!({ "rows": rows, "strips": strips });
        let Decoding { strips, stages, work } = &plan.decoding;
        json!({
            "peak": plan.peak(),
            "limit": plan.limit,
            "phases": plan.phases.iter().map(phase).collect::<Vec<_>>(),
            "mapped": plan.mapped,
            "on_processor_instead": plan.on_fallback,
            "pictures_together": plan.batching.pictures,
            "split_guidance": plan.batching.split_guidance,
            "decoding": {
                "stages": stages,
                "cut": strips.iter().map(strip).collect::<Vec<_>>(),
                "work": work,
            },
            "seconds": {
                "text_encoder": time.text_encoder,
                "vae_encoder": time.vae_encoder,
                "unet_once": time.unet_once,
                "step": time.step,
                "steps": time.steps,
                "vae_decoder": time.vae_decoder,
                "total": time.total(),
            },
        })
    }
}
