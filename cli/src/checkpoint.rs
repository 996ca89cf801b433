//! A published model on its way into a file: for the user to keep, or for a command to measure with.

use std::{num::NonZeroUsize, path::Path};

use anyhow::Context as _;
use sdq_engine::Model;
use sdq_formats::published::PublishedModel;
use sdq_quantize::{Plan, Report};

use crate::{interrupt, progress::Progress};

/// What the model's configs and texts say.
pub(crate) fn describe(model: &PublishedModel) -> anyhow::Result<Model> {
    let config = |name: &str| model.component(name).map(|component| component.config());
    let text =
        |name: &str| model.texts().iter().find(|(other, _)| other == name).map(|(_, text)| text.as_str());
    Model::new(config, text).with_context(|| model.path().display().to_string())
}

/// Converts as planned, telling how far it is.
pub(crate) fn write(
    model: &PublishedModel,
    plan: &Plan,
    threads: Option<NonZeroUsize>,
    output: &Path,
) -> anyhow::Result<Report> {
    let total = plan.parts.iter().map(|part| part.weights.len()).sum::<usize>();
    let mut progress = Progress::new("tensor", total as u64);
    let report = interrupt::while_writing(|| {
        sdq_quantize::convert(model, plan, threads, output, &mut |now| {
            progress.set(now.done as u64, now.component);
            interrupt::check()
        })
    });
    progress.finish();
    Ok(report?)
}
