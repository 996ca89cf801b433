//! Low-rank adaptations of a model: Hu et al. 2021, arXiv:2106.09685, and for convolutions LyCORIS' LoCon
//! (Yeh et al. 2023, arXiv:2309.14859, section 3).
//!
//! A LoRA adds `strength · alpha / rank · up(down(x))` to the output of a layer for `x`. The layer's own
//! weight is not changed: the product runs beside it, so a quantized model is adapted without being quantized
//! again.

mod adapter;
mod error;
mod kinds;
mod names;
mod summary;

pub use error::LoraError;
pub use summary::LoraSummary;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::json;

use super::textual_inversion::{TextualInversion, TextualInversions};
use adapter::Adapters;
use names::Part;
use sdq_formats::checkpoint::Checkpoint;
use sdq_formats::dtype::DType;
use sdq_formats::sdq::{Manifest, SdqError, SdqWriter, branch_names};
use sdq_formats::tensor::TensorView;
use sdq_formats::{WeightRole, WeightSpec, WeightType};

/// A LoRA, matched with the layers of a model.
#[derive(Debug)]
pub struct Lora<'c> {
    branches: Vec<Branch<'c>>,
    modules: usize,
    unmatched: Vec<String>,
    words: Vec<(String, TextualInversion)>,
    left_out: Vec<String>,
}

/// The low-rank branch of one layer.
#[derive(Debug)]
struct Branch<'c> {
    component: String,
    /// Name of the layer's weight.
    weight: String,
    down: Product<'c>,
    mid: Option<Product<'c>>,
    up: Product<'c>,
    /// Alpha over rank.
    scale: f32,
}

#[derive(Debug)]
struct Product<'c> {
    tensor: TensorView<'c>,
    role: WeightRole,
    shape: Vec<usize>,
}

/// The tensors of one module.
#[derive(Default)]
struct Module<'c> {
    down: Option<TensorView<'c>>,
    mid: Option<TensorView<'c>>,
    up: Option<TensorView<'c>>,
    alpha: Option<TensorView<'c>>,
}

impl<'c> Lora<'c> {
    /// Matches the tensors of `checkpoint` with the weights of a model, listed by component in `targets`.
    ///
    /// # Errors
    /// When it is another kind of adapter, when none of its modules is in the model, or when a module does
    /// not fit its layer.
    pub fn new(
        checkpoint: &'c Checkpoint,
        targets: &[(&str, Vec<WeightSpec>)],
    ) -> Result<Lora<'c>, LoraError> {
        let layers = names::layers(targets);
        let adapters = Adapters::of(checkpoint)?;
        let Content { modules, words, left_out } = content(checkpoint)?;
        let count = modules.len();
        if count == 0 {
            return Err(LoraError::Other(what_else(checkpoint)));
        }
        let first = modules.keys().next().cloned().unwrap_or_else(|| "none".to_owned());
        let (mut branches, mut unmatched) = (Vec::new(), Vec::new());
        for (name, module) in modules {
            match layers.get(&names::plain(&name)) {
                Some((component, spec)) => branches.push(branch(component, spec, &name, module, &adapters)?),
                None => unmatched.push(name),
            }
        }
        match branches.is_empty() {
            true => Err(LoraError::Nothing { modules: count, family: family(checkpoint), first }),
            false => Ok(Lora { branches, modules: count, unmatched, words, left_out }),
        }
    }

    /// Number of layers that it is applied to.
    pub fn applied(&self) -> usize {
        self.branches.len()
    }

    /// Number of layers that it was made for.
    pub fn modules(&self) -> usize {
        self.modules
    }

    /// Names of the modules that the model does not have.
    pub fn unmatched(&self) -> &[String] {
        &self.unmatched
    }

    /// Words that come with it, and the vectors that represent them.
    pub fn words(&self) -> &[(String, TextualInversion)] {
        &self.words
    }

    /// Names of tensors that are not part of a LoRA.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }
}

/// The strength of a LoRA; 1 applies it as it was trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strength {
    /// In the text encoders.
    pub text_encoders: f32,
    /// In the other networks.
    pub others: f32,
}

impl Strength {
    /// The same strength in all networks.
    pub fn everywhere(strength: f32) -> Strength {
        Strength { text_encoders: strength, others: strength }
    }

    fn in_component(self, component: &str) -> f32 {
        if component.starts_with("text_encoder") { self.text_encoders } else { self.others }
    }
}

/// Writes the branches of several LoRAs, each with its strength, to a file, under the names of
/// [`branch_names`].
///
/// # Errors
/// When the file cannot be written, or a value is not finite.
pub fn write(loras: &[(Lora<'_>, Strength)], output: &Path) -> Result<(), LoraWriteError> {
    let manifest = Manifest::of_no_model("LoRA", concat!("sdq ", env!("CARGO_PKG_VERSION")));
    let mut writer = SdqWriter::create(output, manifest)?;
    let mut components: BTreeMap<&str, Vec<(&Branch<'_>, f32, usize)>> = BTreeMap::new();
    for (index, (lora, strength)) in loras.iter().enumerate() {
        for branch in &lora.branches {
            components.entry(&branch.component).or_default().push((
                branch,
                strength.in_component(&branch.component),
                index,
            ));
        }
    }
    for (component, branches) in components {
        writer.begin_component(component, json!({}))?;
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for (branch, strength, lora) in branches {
            let of_lora = |error: LoraError| LoraWriteError::Lora { lora, error };
            let count = counts.entry(&branch.weight).or_default();
            let [down, mid, up] = branch_names(&branch.weight, *count);
            *count += 1;
            let products = [
                (down, Some(&branch.down), 1.0),
                (mid, branch.mid.as_ref(), 1.0),
                (up, Some(&branch.up), branch.scale * strength),
            ];
            for (name, product, scale) in products {
                let Some(product) = product else { continue };
                let values = product.values(scale).map_err(of_lora)?;
                let spec = WeightSpec::new(name, product.role, &product.shape);
                writer.append(&spec, WeightType::F32, &values)?;
            }
        }
    }
    writer.finish()?;
    Ok(())
}

/// Errors of writing branches.
#[derive(Debug, thiserror::Error)]
pub enum LoraWriteError {
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] SdqError),
    /// A tensor of a LoRA cannot be used.
    #[error("LoRA {lora}: {error}")]
    Lora {
        /// Its index in the list.
        lora: usize,
        /// The problem.
        error: LoraError,
    },
}

impl Product<'_> {
    /// Its values, each multiplied by `scale`.
    fn values(&self, scale: f32) -> Result<Vec<f32>, LoraError> {
        let mut values = self.tensor.to_f32()?;
        values.iter_mut().for_each(|value| *value *= scale);
        match values.iter().find(|value| !value.is_finite()) {
            Some(&value) => Err(LoraError::NotFinite { tensor: self.tensor.name.clone(), value }),
            None => Ok(values),
        }
    }
}

/// Whether the tensor `name` belongs to an adapter of layers, of any kind.
pub(super) fn is_adapter(name: &str) -> bool {
    names::split(name).is_some() || kinds::other_kind(name).is_some()
}

/// All tensors of a file, by category.
#[derive(Default)]
struct Content<'c> {
    modules: BTreeMap<String, Module<'c>>,
    words: Vec<(String, TextualInversion)>,
    left_out: Vec<String>,
}

fn content(checkpoint: &Checkpoint) -> Result<Content<'_>, LoraError> {
    let mut content = Content::default();
    let mut words: BTreeMap<String, Vec<TensorView<'_>>> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        if let Some((word, name)) = names::bundled(&tensor.name) {
            let vectors = TensorView { name: name.to_owned(), ..tensor.clone() };
            words.entry(word.to_owned()).or_default().push(vectors);
            continue;
        }
        if let Some(kind) = kinds::other_kind(&tensor.name) {
            return Err(LoraError::Kind { tensor: tensor.name, kind });
        }
        let Some((name, part)) = names::split(&tensor.name) else {
            content.left_out.push(tensor.name);
            continue;
        };
        let module = content.modules.entry(name.to_owned()).or_default();
        let (place, what) = match part {
            Part::Down => (&mut module.down, "lora_down"),
            Part::Mid => (&mut module.mid, "lora_mid"),
            Part::Up => (&mut module.up, "lora_up"),
            Part::Alpha => (&mut module.alpha, "alpha"),
        };
        if place.is_some() {
            return Err(LoraError::Twice { module: name.to_owned(), part: what, tensor: tensor.name });
        }
        *place = Some(tensor);
    }
    for (word, tensors) in words {
        let inversions = TextualInversions::of_tensors(&tensors);
        let inversions = inversions.map_err(|error| LoraError::Word { word: word.clone(), error })?;
        content.left_out.extend(inversions.left_out);
        content.words.extend(inversions.words.into_iter().map(|inversion| (word.clone(), inversion)));
    }
    Ok(content)
}

/// A description of a file without modules.
fn what_else(checkpoint: &Checkpoint) -> String {
    if TextualInversions::read(checkpoint).is_ok() {
        return "a textual inversion; give it with --embedding".to_owned();
    }
    let mut tensors = checkpoint.tensors();
    let Some(first) = tensors.next() else { return "a file without tensors".to_owned() };
    if kinds::is_of_a_hypernetwork(&first.name) {
        return "a hypernetwork, which sdq does not support".to_owned();
    }
    match names::is_of_a_model(&first.name) || tensors.any(|tensor| names::is_of_a_model(&tensor.name)) {
        true => "a model or a part of one; convert it with `sdq convert`".to_owned(),
        false => {
            format!("a file without tensors of a LoRA, the first tensor of which is `{}`", first.name)
        }
    }
}

/// The number in `tensor`, of any type.
fn number(tensor: &TensorView<'_>) -> Result<f32, LoraError> {
    if tensor.shape.iter().any(|&side| side != 1) {
        return Err(LoraError::NoNumber { tensor: tensor.name.clone(), found: tensor.shape.clone() });
    }
    let signed = matches!(tensor.dtype, DType::I64 | DType::I32 | DType::I16 | DType::I8);
    let unsigned = matches!(tensor.dtype, DType::U64 | DType::U32 | DType::U16 | DType::U8);
    if !signed && !unsigned {
        return Ok(tensor.to_f32()?.first().copied().unwrap_or(f32::NAN));
    }
    let (_, size) = tensor.dtype.block();
    let Some(bytes) = tensor.bytes.get(..size) else { return Ok(f32::NAN) };
    let negative = signed && bytes.last().is_some_and(|byte| byte >> 7 == 1);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..size].copy_from_slice(bytes);
    Ok(if signed { i64::from_le_bytes(wide) as f32 } else { u64::from_le_bytes(wide) as f32 })
}

/// The branch of `module`, called `name`, for the layer with the weight `spec`.
fn branch<'c>(
    component: &str,
    spec: &WeightSpec,
    name: &str,
    module: Module<'c>,
    adapters: &Adapters,
) -> Result<Branch<'c>, LoraError> {
    let half = |part| LoraError::Half { module: name.to_owned(), part };
    let down = module.down.ok_or_else(|| half("lora_down"))?;
    let up = module.up.ok_or_else(|| half("lora_up"))?;
    let rank = down.shape.first().copied().unwrap_or(0);
    let (outputs, inputs) = (spec.shape[0], spec.shape[1]);
    let window = &spec.shape[2..];
    let product = |tensor: TensorView<'c>, shape: Vec<usize>| fitted(tensor, shape, &spec.shape);
    let (down, mid) = match module.mid {
        // If there is a convolution in between, the window belongs to it.
        Some(mid) => {
            let mid = product(mid, [&[rank, rank], window].concat())?;
            (product(down, vec![rank, inputs])?, Some(mid))
        }
        None => (product(down, [&[rank, inputs], window].concat())?, None),
    };
    let up = product(up, vec![outputs, rank])?;
    let scale = match module.alpha {
        None => adapters.scale(component, spec.name.trim_end_matches(".weight"), rank),
        Some(tensor) => {
            let alpha = number(&tensor)?;
            match alpha.is_finite() {
                true => alpha / rank as f32,
                false => return Err(LoraError::Alpha { tensor: tensor.name, found: alpha }),
            }
        }
    };
    Ok(Branch { component: component.to_owned(), weight: spec.name.clone(), down, mid, up, scale })
}

/// `tensor` with `shape`, if its own shape differs only in dimensions of one at the end.
fn fitted<'c>(tensor: TensorView<'c>, shape: Vec<usize>, layer: &[usize]) -> Result<Product<'c>, LoraError> {
    let (own, rest) = tensor.shape.split_at(tensor.shape.len().min(shape.len()));
    if own == shape && rest.iter().all(|&side| side == 1) && !shape.contains(&0) {
        let role = if shape.len() > 2 { WeightRole::Conv } else { WeightRole::Matrix };
        return Ok(Product { tensor, role, shape });
    }
    let (found, layer) = (tensor.shape.clone(), layer.to_vec());
    let expected = if shape.contains(&0) { "a rank of at least 1".to_owned() } else { format!("{shape:?}") };
    Err(LoraError::Shape { tensor: tensor.name, found, expected, layer })
}

/// The family of models that the names and widths of a LoRA suggest.
fn family(checkpoint: &Checkpoint) -> &'static str {
    let width = |width: usize| {
        checkpoint.tensors().any(|tensor| {
            tensor.name.contains("attn2")
                && tensor.name.contains("to_k")
                && tensor.shape.get(1) == Some(&width)
        })
    };
    if width(2048) {
        "SDXL"
    } else if width(1024) {
        "SD2"
    } else if width(768) {
        "SD1"
    } else {
        "another kind of model"
    }
}
