//! A model directory → one `.sdq` file.

use std::{collections::BTreeMap, ops::ControlFlow, path::Path};

use sdq_formats::{
    WeightRole, WeightSpec, WeightType,
    diffusers::{ModelComponent, ModelDirectory},
    layout,
    sdq::{Encoded, SdqWriter},
    tensor::TensorView,
};

use crate::ConvertError;

/// Written into every file.
const CONVERTER: &str = concat!("sdq ", env!("CARGO_PKG_VERSION"));

/// What becomes of one component.
#[derive(Clone, Debug)]
pub struct Part {
    /// `text_encoder`, `unet` or `vae`.
    pub component: String,
    /// The weights it reads, in reading order.
    pub weights: Vec<WeightSpec>,
    /// What matrices, convolutions and tables are stored as. Vectors are always f32.
    pub weight_type: WeightType,
}

/// How far a conversion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Weights written so far, all components counted.
    pub done: usize,
    /// Weights to write.
    pub total: usize,
    /// Component of the last one.
    pub component: &'a str,
}

/// What a conversion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Weight tensors written.
    pub weights: usize,
    /// Numbers in them.
    pub parameters: usize,
    /// Size of the file.
    pub bytes: u64,
}

/// Converts `model` to a file at `output`, which appears only when it is whole.
///
/// # Errors
/// When components, tensors or shapes are missing, surplus or wrong, all checked before anything is written; when a
/// value is not finite or too large for its type; when `output` cannot be written; when `on_progress` breaks off.
pub fn convert(
    model: &ModelDirectory,
    parts: &[Part],
    output: &Path,
    on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Report, ConvertError> {
    let sources = parts.iter().map(|part| match_tensors(model, part)).collect::<Result<Vec<_>, _>>()?;
    for component in model.components() {
        if !parts.iter().any(|part| part.component == component.name()) {
            return Err(ConvertError::SurplusComponent {
                path: model.path().to_owned(),
                component: component.name().to_owned(),
                class_name: component.class_name().to_owned(),
            });
        }
    }

    let mut writer = SdqWriter::create(output, model.manifest(CONVERTER))?;
    writer.set_sources(model.sources(|| true)?.unwrap_or_default())?;
    let total = sources.iter().map(|source| source.tensors.len()).sum();
    let (mut done, mut parameters) = (0, 0);
    for (part, Source { component, tensors }) in parts.iter().zip(&sources) {
        writer.begin_component(&part.component, component.config().clone())?;
        for (spec, tensor) in part.weights.iter().zip(tensors) {
            let path = || component.path().to_owned();
            let values = tensor.to_f32().map_err(|problem| ConvertError::Tensor { path: path(), problem })?;
            let weight_type = stored_type(spec, part.weight_type);
            let bytes = layout::encode(spec, weight_type, &values)
                .map_err(|problem| ConvertError::Values { path: path(), problem })?;
            writer.append_encoded(
                spec,
                weight_type,
                &Encoded { parts: vec![bytes], relative_error: None },
            )?;
            parameters += values.len();
            done += 1;
            if on_progress(Progress { done, total, component: &part.component }).is_break() {
                return Err(ConvertError::Cancelled { done, total });
            }
        }
    }
    for (name, text) in model.texts() {
        writer.add_text(name, text)?;
    }
    Ok(Report { weights: done, parameters, bytes: writer.finish()? })
}

/// Biases, norm scales and shifts are few and sensitive: they stay in f32.
fn stored_type(spec: &WeightSpec, wanted: WeightType) -> WeightType {
    match spec.role {
        WeightRole::Vector => WeightType::F32,
        WeightRole::Table | WeightRole::Matrix | WeightRole::Conv => wanted,
    }
}

/// A component with its tensors in the order of the part's weights.
struct Source<'m> {
    component: &'m ModelComponent,
    tensors: Vec<TensorView<'m>>,
}

fn match_tensors<'m>(model: &'m ModelDirectory, part: &Part) -> Result<Source<'m>, ConvertError> {
    let component = model.component(&part.component).ok_or_else(|| ConvertError::MissingComponent {
        path: model.path().to_owned(),
        component: part.component.clone(),
    })?;
    let path = || component.path().to_owned();
    let mut found: BTreeMap<String, TensorView<'m>> = component.tensors()?;
    let (mut tensors, mut missing) = (Vec::with_capacity(part.weights.len()), Vec::new());
    for spec in &part.weights {
        match found.remove(&spec.name) {
            None => missing.push(spec.name.clone()),
            Some(tensor) if same_shape(spec, &tensor.shape) => tensors.push(tensor),
            Some(tensor) => {
                return Err(ConvertError::Shape {
                    path: path(),
                    tensor: spec.name.clone(),
                    found: tensor.shape,
                    expected: spec.shape.clone(),
                });
            }
        }
    }
    if !missing.is_empty() {
        return Err(ConvertError::MissingTensors { path: path(), tensors: missing });
    }
    if !found.is_empty() {
        return Err(ConvertError::SurplusTensors { path: path(), tensors: found.into_keys().collect() });
    }
    Ok(Source { component, tensors })
}

/// A matrix may come as a 1x1 convolution: the same numbers in the same order.
fn same_shape(spec: &WeightSpec, found: &[usize]) -> bool {
    match spec.role {
        WeightRole::Matrix => {
            let rank = spec.shape.len();
            found.len() >= rank && found[..rank] == spec.shape && found[rank..].iter().all(|&axis| axis == 1)
        }
        WeightRole::Vector | WeightRole::Table | WeightRole::Conv => spec.shape == found,
    }
}
