//! The threads that run jobs.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use sdq::{
    Error, Event, Watch,
    convert::{self, ConvertOptions, ModelFiles, Precision},
    model::note_beyond_built_in,
    run::{RunFiles, RunOptions, SideFile, Unfinished, note_without_effect},
};

use super::{Task, second_pass};
use crate::{
    app::App,
    draw::DrawRequest,
    problem::Problem,
    store::{ConvertWork, Work},
};

/// Jobs after which uploaded pictures that no job uses are removed.
const TIDY_EVERY: usize = 50;
/// Time between savings of a run.
const SAVE_EVERY: Duration = Duration::from_secs(20);

/// Runs jobs until the server ends.
pub(crate) fn work(app: &Arc<App>) {
    for number in 1_usize.. {
        // Not beside a run: both would be slower, and the measured rates too low.
        if app.queue.is_idle() {
            app.models.measure();
        }
        let Some(task) = app.queue.next() else { return };
        let run = || match &task.entry.work {
            Work::Generate { request } => generate(app, &task, request),
            Work::Convert { convert } => convert_model(app, &task, convert),
        };
        let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(Problem::internal()));
        app.queue.finish(&task.entry.id, outcome);
        if number.is_multiple_of(TIDY_EVERY) {
            app.queue.remove_unused_uploads();
        }
    }
}

/// Runs `work` with a watch that reports to the job of `task`.
fn watched<T>(app: &App, task: &Task, work: impl FnOnce(&mut Watch<'_>) -> T) -> T {
    let mut observer = |event: Event| app.queue.observe(&task.entry.id, event, |text| app.shown(text));
    work(&mut Watch::new(&mut observer, &task.cancel))
}

fn generate(app: &Arc<App>, task: &Task, request: &DrawRequest) -> Result<(), Problem> {
    let shown = |error: Error| app.problem(&error);
    let options = RunOptions { save_every: SAVE_EVERY, preview_every: 1, previewer: None };
    let Some(outputs) = app.store.outputs(&task.entry) else { return Err(Problem::internal()) };
    if task.entry.resumes && SideFile::SavedRun.is_at(&outputs.saved_run()) {
        return resume(app, task, &outputs, &options);
    }
    let listed = app.models.get(Some(&task.entry.model))?;
    let prepared = request.prepare(app)?;
    let enlarge = request.enlarge.clone();
    watched(app, task, |watch| {
        let (request, add_ons) = (&prepared.request, &prepared.add_ons);
        let mut borrowed = app.models.borrow(&listed, add_ons, request, watch).map_err(shown)?;
        let session = borrowed.session().map_err(shown)?;
        let settings = session.pipeline().settings(request).map_err(|error| shown(error.into()))?;
        note_without_effect(session.pipeline(), &settings, watch);
        if listed.path.is_none() {
            note_beyond_built_in(session.pipeline(), &settings, watch).map_err(shown)?;
        }
        let files = RunFiles {
            model: listed.path.clone(),
            init_image: prepared.start.clone(),
            mask: prepared.mask.clone(),
            add_ons: add_ons.clone(),
            ..outputs
        };
        let drawn = match &enlarge {
            None => session.generate(request, &files, &options, watch).map(drop),
            Some(enlarge) => second_pass::draw(app, session, request, &files, enlarge, &options, watch),
        };
        if matches!(drawn, Err(Error::SessionEnded)) {
            borrowed.discard();
        }
        drawn.map_err(shown)
    })
}

/// Finishes the unfinished run of a job.
fn resume(app: &Arc<App>, task: &Task, outputs: &RunFiles, options: &RunOptions) -> Result<(), Problem> {
    let shown = |error: Error| app.problem(&error);
    let listed = app.models.get(Some(&task.entry.model))?;
    watched(app, task, |watch| {
        let unfinished = Unfinished::open(&outputs.saved_run()).map_err(shown)?;
        let (request, add_ons) = (unfinished.saved.request().clone(), unfinished.files.add_ons.clone());
        let mut borrowed = app.models.borrow(&listed, &add_ons, &request, watch).map_err(shown)?;
        let resumed = borrowed.session().and_then(|session| session.resume(unfinished, options, watch));
        if matches!(resumed, Err(Error::SessionEnded)) {
            borrowed.discard();
        }
        resumed.map(drop).map_err(shown)
    })
}

fn convert_model(app: &Arc<App>, task: &Task, work: &ConvertWork) -> Result<(), Problem> {
    let (source, output, precision) = conversion(app, work)?;
    let options =
        ConvertOptions { precision, threads: app.models.options().threads, ..ConvertOptions::default() };
    watched(app, task, |watch| {
        let files = ModelFiles { model: Some(source), ..ModelFiles::default() };
        let model = convert::open(&files, watch);
        let converted = model.and_then(|model| convert::convert(model, &output, &options, watch));
        converted.map(drop).map_err(|error| app.problem(&error))
    })
}

/// The files of a conversion, which are in the folder of models, and its number format.
///
/// # Errors
/// When there is no such model, or the name of the result is taken.
pub(crate) fn conversion(
    app: &App,
    work: &ConvertWork,
) -> Result<(std::path::PathBuf, std::path::PathBuf, Precision), Problem> {
    let source = app.models.convertible().into_iter().find(|found| found.name == work.source);
    let source = source.ok_or_else(|| Problem::invalid("source", "there is no such model to convert"))?;
    let precision = Precision::ALL.into_iter().find(|precision| precision.name() == work.precision);
    let names = Precision::ALL.map(Precision::name).join(", ");
    let precision = precision
        .ok_or_else(|| Problem::invalid("type", format!("the type is unknown, expected one of {names}")))?;
    let Some(folder) = app.models.folder() else { return Err(Problem::internal()) };
    let output = folder.join(format!("{}.sdq", work.name));
    if fs::symlink_metadata(&output).is_ok() {
        return Err(Problem::invalid("name", "there is a model of this name already"));
    }
    Ok((source.path, output, precision))
}
