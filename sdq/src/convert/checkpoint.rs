//! Conversion of a published model to a file, for the user or for the measurements of a command.

use std::{num::NonZeroUsize, path::Path};

use sdq_engine::{Model, published::PublishedModel};
use sdq_quantize::{ComponentSource, ConvertError, ModelSource, Plan, Report};

use crate::{Error, Task, Watch, observer::Event};

/// The structure of the model, from its configs and texts.
///
/// # Errors
/// When a part is missing, requires something that is not supported, or does not fit the others; when the model's default
/// scheduler cannot sample as its config asks.
pub fn describe(model: &PublishedModel) -> Result<Model, Error> {
    let config = |name: &str| model.component(name).map(|component| component.config());
    let text =
        |name: &str| model.texts().iter().find(|(other, _)| other == name).map(|(_, text)| text.as_str());
    let (card, in_file) = (model.card(), |error| Error::from(error).in_file(model.path()));
    let described = Model::new(config, text).map_err(in_file)?;
    let steps = card.steps.and_then(|steps| usize::try_from(steps).ok());
    described.check_defaults(card.scheduler.as_deref(), steps).map_err(in_file)?;
    Ok(described)
}

/// `model` as the input of a conversion.
///
/// # Errors
/// When two tensors of a component have the same canonical name.
pub(crate) fn source(model: &PublishedModel) -> Result<ModelSource<'_>, Error> {
    /// Stored in every file.
    const CONVERTER: &str = concat!("sdq ", env!("CARGO_PKG_VERSION"));
    let mut components = Vec::with_capacity(model.components().len());
    for component in model.components() {
        components.push(ComponentSource {
            path: component.path(),
            name: component.name(),
            class_name: component.class_name(),
            config: component.config(),
            tensors: component.tensors()?,
            scales: component.scales()?,
        });
    }
    Ok(ModelSource {
        path: model.path(),
        manifest: model.manifest(CONVERTER),
        components,
        texts: model.texts(),
        files: model.files(),
    })
}

/// Converts according to the plan, and reports the progress.
pub(crate) fn write(
    model: &PublishedModel,
    plan: &Plan,
    threads: Option<NonZeroUsize>,
    output: &Path,
    watch: &mut Watch<'_>,
) -> Result<Report, Error> {
    let total = plan.parts.iter().map(|part| part.weights.len()).sum::<usize>();
    let cancel = watch.cancel().clone();
    let source = source(model)?;
    let report = cancel.while_writing(|| {
        sdq_quantize::convert(&source, plan, threads, output, &mut |now| {
            let task = Task::Converting { component: now.component.to_owned() };
            watch.progress(task, now.done as u64, total as u64);
            cancel.check()
        })
    });
    watch.tell(Event::TaskEnded);
    Ok(report.map_err(|error| with_own_names(model, error))?)
}

/// `error` with the names that tensors have in their file.
pub(super) fn with_own_names(model: &PublishedModel, mut error: ConvertError) -> ConvertError {
    let own = |path: &Path, name: &mut String| {
        let components = model.components().iter().filter(|component| component.path() == path);
        if let Some(own) = components.filter_map(|component| component.own_name(name)).next() {
            *name = own.to_owned();
        }
    };
    match &mut error {
        ConvertError::SurplusTensors { path, tensors } => {
            tensors.iter_mut().for_each(|tensor| own(path, tensor));
        }
        ConvertError::Shape { path, tensor, .. } => own(path, tensor),
        _ => {}
    }
    error
}
