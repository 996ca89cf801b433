//! Conversion of a model to one `.sdq` file.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    ops::ControlFlow,
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use rayon::ThreadPool;
use sdq_formats::{
    WeightRole, WeightSpec, WeightType,
    dtype::DType,
    sdq::{Encoded, SdqWriter},
    tensor::TensorView,
};

use crate::{ComponentSource, ConvertError, EncodeError, ModelSource, Plan, encode};

/// The plan for one component.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// `text_encoder`, `unet` or `vae`.
    pub component: String,
    /// The weights it reads, in reading order.
    pub weights: Vec<PlannedWeight>,
}

/// The plan for one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedWeight {
    /// Name, role and shape in which the model reads it.
    pub spec: WeightSpec,
    /// The type in which it is stored.
    pub weight_type: WeightType,
    /// The weight of errors in each input channel, see [`encode`].
    pub importance: Option<Vec<f32>>,
}

/// The progress of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Weights written so far, in all components.
    pub done: usize,
    /// Weights to write.
    pub total: usize,
    /// Component of the last one.
    pub component: &'a str,
}

/// The result of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Weight tensors written.
    pub weights: usize,
    /// Number of their elements.
    pub parameters: usize,
    /// Size of the file.
    pub bytes: u64,
}

/// More threads than this are taken for a mistake.
const MAX_THREADS: usize = 1024;

/// Converts `model` according to `plan` to a file at `output`, which appears only when it is complete.
/// `threads` is one per core if `None`; the file does not depend on it.
///
/// While one tensor is written, the next is encoded, and the sources are hashed at the same time.
///
/// # Errors
/// When components, tensors or shapes are missing, surplus or wrong, or there are no weights, all checked
/// before anything is written; when a value is not finite or too large for its type; when `output` cannot be
/// written; when `on_progress` cancels.
///
/// # Panics
/// When an importance in the plan has another length than its weight has input channels.
pub fn convert(
    model: &ModelSource<'_>,
    plan: &Plan,
    threads: Option<NonZeroUsize>,
    output: &Path,
    on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Report, ConvertError> {
    if threads.is_some_and(|threads| threads.get() > MAX_THREADS) {
        let message = format!("at most {MAX_THREADS} are allowed; use one for each core");
        return Err(ConvertError::Threads(message));
    }
    let components = matched(model, plan)?;
    let mut manifest = model.manifest.clone();
    manifest.quantization.clone_from(&plan.quantization);
    let mut writer = SdqWriter::create(output, manifest)?;

    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.map_or(0, NonZeroUsize::get))
        .build()
        .map_err(|error| ConvertError::Threads(error.to_string()))?;
    let stopped = AtomicBool::new(false);
    let (hashed, sources) = sync_channel(1);
    // The worker that does the hashing encodes nothing in this time, so there are never more busy threads
    // than requested.
    let report = pool.in_place_scope(|scope| {
        scope.spawn(|_| {
            let sources = model.hash_files(|| !stopped.load(Ordering::Relaxed));
            // After an error the receiver is gone.
            let _ = hashed.send(sources);
        });
        let report = encode_and_write(&components, &pool, &mut writer, on_progress);
        stopped.store(report.is_err(), Ordering::Relaxed);
        report
    })?;
    let sources = sources.recv().expect("the hashing ends before its scope does")?;
    writer.set_sources(sources.expect("nothing stopped the hashing"))?;
    for (name, text) in model.texts {
        writer.add_text(name, text)?;
    }
    Ok(Report { bytes: writer.finish()?, ..report })
}

/// Checks that `model` contains every tensor of `plan` in its shape, and no others. Reads no weights.
///
/// # Errors
/// When components, tensors or shapes are missing, surplus or wrong, or there are no weights.
pub fn check(model: &ModelSource<'_>, plan: &Plan) -> Result<(), ConvertError> {
    matched(model, plan).map(|_| ())
}

/// The components of `model` in the order of the plan's parts.
fn matched<'m>(model: &'m ModelSource<'_>, plan: &'m Plan) -> Result<Vec<Matched<'m>>, ConvertError> {
    let components =
        plan.parts.iter().map(|part| match_tensors(model, part)).collect::<Result<Vec<_>, _>>()?;
    for component in &model.components {
        if !plan.parts.iter().any(|part| part.component == component.name) {
            return Err(ConvertError::SurplusComponent {
                path: model.path.to_owned(),
                component: component.name.to_owned(),
                class_name: component.class_name.to_owned(),
            });
        }
    }
    match components.iter().all(|component| component.tensors.is_empty()) {
        true => Err(ConvertError::Empty { path: model.path.to_owned() }),
        false => Ok(components),
    }
}

/// Writes all weights, encoding one while another is written. The size of the file is not yet in the report.
fn encode_and_write(
    components: &[Matched<'_>],
    pool: &ThreadPool,
    writer: &mut SdqWriter,
    on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Report, ConvertError> {
    thread::scope(|scope| {
        // A channel without capacity, so that no more than two tensors are in memory.
        let (sender, encoded) = sync_channel(0);
        let encode = move || encode_all(components, pool, &sender);
        thread::Builder::new()
            .spawn_scoped(scope, encode)
            .map_err(|error| ConvertError::Threads(error.to_string()))?;
        // The receiver is passed by value: when it is dropped, the encoder stops at the next tensor.
        write_all(components, encoded, writer, on_progress)
    })
}

/// Encodes one tensor after the other and sends them, up to the first error.
fn encode_all(
    components: &[Matched<'_>],
    pool: &ThreadPool,
    sender: &SyncSender<Result<Encoded, ConvertError>>,
) {
    for Matched { component, part, tensors } in components {
        for (PlannedWeight { spec, weight_type, importance }, tensor) in part.weights.iter().zip(tensors) {
            let encoded = pool.install(|| -> Result<Encoded, EncodeError> {
                let scaled = component.scaled(&spec.name, tensor)?;
                let view =
                    scaled.as_ref().map(|bytes| TensorView { dtype: DType::F32, bytes, ..(*tensor).clone() });
                encode(spec, *weight_type, view.as_ref().unwrap_or(tensor), importance.as_deref())
            });
            let encoded =
                encoded.map_err(|problem| ConvertError::Tensor { path: component.path.to_owned(), problem });
            let failed = encoded.is_err();
            if sender.send(encoded).is_err() || failed {
                return;
            }
        }
    }
}

fn write_all(
    components: &[Matched<'_>],
    encoded: Receiver<Result<Encoded, ConvertError>>,
    writer: &mut SdqWriter,
    on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Report, ConvertError> {
    let total = components.iter().map(|component| component.tensors.len()).sum();
    let (mut done, mut parameters) = (0, 0);
    for Matched { component, part, .. } in components {
        writer.begin_component(&part.component, component.config.clone())?;
        for PlannedWeight { spec, weight_type, .. } in &part.weights {
            let encoded = encoded.recv().expect("the encoder sends every tensor or an error")?;
            writer.append_encoded(spec, *weight_type, &encoded)?;
            parameters += spec.shape.iter().product::<usize>();
            done += 1;
            if on_progress(Progress { done, total, component: &part.component }).is_break() {
                return Err(ConvertError::Cancelled { done, total });
            }
        }
    }
    Ok(Report { weights: done, parameters, bytes: 0 })
}

/// A component with its tensors in the order of the part's weights.
struct Matched<'m> {
    component: &'m ComponentSource<'m>,
    part: &'m Part,
    tensors: Vec<&'m TensorView<'m>>,
}

fn match_tensors<'m>(model: &'m ModelSource<'_>, part: &'m Part) -> Result<Matched<'m>, ConvertError> {
    let component = model.components.iter().find(|component| component.name == part.component);
    let component = component.ok_or_else(|| ConvertError::MissingComponent {
        path: model.path.to_owned(),
        component: part.component.clone(),
    })?;
    let path = || component.path.to_owned();
    let mut found: BTreeMap<&str, &TensorView<'_>> =
        component.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let (mut tensors, mut missing) = (Vec::with_capacity(part.weights.len()), Vec::new());
    for PlannedWeight { spec, .. } in &part.weights {
        match found.remove(spec.name.as_str()) {
            None => missing.push(spec.name.clone()),
            Some(tensor) if same_shape(spec, &tensor.shape) => tensors.push(tensor),
            Some(tensor) => {
                return Err(ConvertError::Shape {
                    path: path(),
                    tensor: spec.name.clone(),
                    found: tensor.shape.clone(),
                    expected: spec.shape.clone(),
                });
            }
        }
    }
    if !missing.is_empty() {
        return Err(ConvertError::MissingTensors { path: path(), tensors: missing });
    }
    if !found.is_empty() {
        return Err(ConvertError::SurplusTensors {
            path: path(),
            tensors: found.into_keys().map(str::to_owned).collect(),
        });
    }
    Ok(Matched { component, part, tensors })
}

/// Whether the shapes match. A matrix may be stored as a 1x1 convolution: the same numbers in the same order.
fn same_shape(spec: &WeightSpec, found: &[usize]) -> bool {
    match spec.role {
        WeightRole::Matrix => {
            let rank = spec.shape.len();
            found.len() >= rank && found[..rank] == spec.shape && found[rank..].iter().all(|&axis| axis == 1)
        }
        WeightRole::Vector | WeightRole::Table | WeightRole::Conv => spec.shape == found,
    }
}

#[cfg(test)]
mod tests;
