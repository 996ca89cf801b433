//! Compares one version of a model with another, over several prompts.

mod report;
mod sheet;

use std::path::Path;

use sdq_engine::{
    Event as EngineEvent, Pipeline, Request,
    pipeline::{Settings, compare},
};

pub use report::{Report, Summary};

use crate::{Error, Event, Task, Watch, prompts::Prompt};
use sheet::Sheet;

/// How versions are compared.
#[derive(Clone, Debug, Default)]
pub struct EvaluateOptions {
    /// The request, without prompts and seeds.
    pub request: Request,
    /// The prompts, at least one.
    pub prompts: Vec<Prompt>,
    /// Whether the pictures are kept for a contact sheet.
    pub sheet: bool,
}

/// The result of a comparison.
#[derive(Debug)]
pub struct Evaluation {
    /// The figures.
    pub report: Report,
    sheet: Sheet,
}

impl Evaluation {
    /// Writes the pictures as one, a row for each prompt: the reference's, the other's, and their difference
    /// amplified eight times.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_sheet(&self, path: &Path) -> Result<(), Error> {
        Ok(self.sheet.write(path)?)
    }
}

/// Draws every prompt with both models and measures each stage of `other` on the inputs of the reference's
/// stage.
///
/// # Errors
/// When the models are not versions of one model, the request is not valid, or the watch was cancelled.
pub fn evaluate(
    reference: &Pipeline,
    other: &Pipeline,
    options: &EvaluateOptions,
    watch: &mut Watch<'_>,
) -> Result<Evaluation, Error> {
    let settings = reference.settings(&options.request)?;
    let mut evaluation = Evaluation { report: Report::new(&settings), sheet: Sheet::default() };
    let result = options.prompts.iter().enumerate().try_for_each(|(index, prompt)| {
        let request = Request { prompt: prompt.text.clone(), seed: prompt.seed, ..options.request.clone() };
        let found = compare(reference, other, &request, &mut |event| {
            observe(watch, &settings, (index, options.prompts.len()), &event);
            watch.cancel().check()
        })?;
        if options.sheet {
            evaluation.sheet.add(&found.reference, &found.other);
        }
        evaluation.report.add(prompt, &found);
        Ok(())
    });
    watch.tell(Event::TaskEnded);
    result.map(|()| evaluation)
}

/// Two runs for each prompt.
fn observe(
    watch: &mut Watch<'_>,
    settings: &Settings,
    (prompt, prompts): (usize, usize),
    event: &EngineEvent<'_>,
) {
    if let EngineEvent::Step { image, step, steps, .. } = *event {
        let done = ((2 * prompt + image) * steps + step + 1) as u64;
        watch.progress(Task::Comparing, done, (prompts * 2 * settings.steps) as u64);
    }
}
