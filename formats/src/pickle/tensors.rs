//! Values of a pickle → tensors by name.

use std::collections::{BTreeMap, HashSet};

use super::error::PickleProblem;
use super::globals::{self, REBUILD};
use super::limits::{MAX_LEN, MAX_TENSORS, at_most};
use super::values::{Id, Value, Values};
use crate::dtype::DType;
use crate::names::{NAME_RULE, is_printable, quote};

/// Wrappers around the tensors of a model, which are not part of their names.
const WRAPPERS: [&str; 4] = ["state_dict", "model", "module", "params"];
/// Maximum depth of nested dictionaries.
const MAX_DEPTH: usize = 16;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 32;

/// A tensor in the pickle: a view of a storage.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// Strides in elements, one per dimension.
    pub(super) strides: Vec<u64>,
    /// First element, relative to the start of the storage.
    pub(super) offset: u64,
    pub(super) storage: Storage,
}

/// A range of the file of which tensors are views.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) key: String,
    /// Number format of its elements according to the file.
    pub(super) dtype: DType,
    /// Number of elements.
    pub(super) len: u64,
}

/// The contents of a pickle.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) tensors: Vec<Tensor>,
    /// Texts and numbers that are stored beside the tensors, by name.
    pub(super) notes: BTreeMap<String, String>,
    /// All storages, including those that no tensor uses.
    pub(super) storages: BTreeMap<String, Storage>,
    /// Bytes of the names of all of them.
    name_bytes: usize,
}

impl Contents {
    fn add_tensor(&mut self, tensor: Tensor) -> Result<(), PickleProblem> {
        self.count_name(tensor.name.len() + tensor.storage.key.len())?;
        self.tensors.push(tensor);
        at_most(self.tensors.len(), MAX_TENSORS, "tensors")
    }

    fn add_note(&mut self, name: String, note: String) -> Result<(), PickleProblem> {
        self.count_name(name.len())?;
        self.notes.insert(name, note);
        at_most(self.notes.len(), MAX_TENSORS, "texts and numbers")
    }

    fn count_name(&mut self, bytes: usize) -> Result<(), PickleProblem> {
        self.name_bytes += bytes;
        at_most(self.name_bytes, MAX_LEN, "bytes of names")
    }
}

/// All tensors below `root`, named by the keys of the enclosing dictionaries.
pub(super) fn contents(
    values: &Values<'_>,
    root: Id,
    all: impl Iterator<Item = Id>,
) -> Result<Contents, PickleProblem> {
    let mut contents = Contents::default();
    for id in all {
        if let Value::Persistent(words) = values.get(id)
            && let Some(storage) = storage(values, *words)
        {
            contents.storages.insert(storage.key.clone(), storage);
            at_most(contents.storages.len(), MAX_TENSORS, "storages")?;
        }
    }
    let mut seen = HashSet::new();
    walk(values, root, &mut Vec::new(), &mut seen, &mut contents)?;
    unwrap(&mut contents);
    let mut names = HashSet::new();
    for tensor in &contents.tensors {
        if !is_printable(&tensor.name) {
            return Err(PickleProblem::Tensor {
                tensor: quote(&tensor.name),
                reason: format!("the name is not allowed: {NAME_RULE}"),
            });
        }
        if !names.insert(&tensor.name) {
            return Err(PickleProblem::Duplicate(tensor.name.clone()));
        }
    }
    match (contents.tensors.is_empty(), contents.storages.len()) {
        (true, 0) => Err(PickleProblem::Empty),
        (true, storages) => Err(PickleProblem::Unnamed(storages)),
        (false, _) => Ok(contents),
    }
}

/// Removes the wrapper from the names, if there is one. Data outside the wrapper belongs to training.
fn unwrap(contents: &mut Contents) {
    let under = |wrapper: &str| {
        let prefix = format!("{wrapper}.");
        contents.tensors.iter().any(|tensor| tensor.name.starts_with(&prefix)).then_some(prefix)
    };
    let state_dict = under(WRAPPERS[0]);
    let others = || {
        WRAPPERS[1..].iter().find_map(|wrapper| under(wrapper)).filter(|prefix| {
            // `model.diffusion_model.` is part of the names.
            contents.tensors.iter().all(|tensor| tensor.name.starts_with(prefix.as_str()))
                && !contents.tensors.iter().any(|tensor| tensor.name.starts_with("model.diffusion_model."))
        })
    };
    if let Some(prefix) = state_dict.or_else(others) {
        contents.tensors.retain_mut(|tensor| match tensor.name.strip_prefix(&prefix) {
            Some(name) => {
                tensor.name = name.to_owned();
                true
            }
            None => false,
        });
    }
}

fn walk(
    values: &Values<'_>,
    id: Id,
    path: &mut Vec<String>,
    seen: &mut HashSet<Id>,
    contents: &mut Contents,
) -> Result<(), PickleProblem> {
    let name = || path.join(".");
    match values.get(id) {
        Value::Dict(pairs) => {
            if path.len() >= MAX_DEPTH || !seen.insert(id) {
                return Ok(());
            }
            for &(key, value) in pairs {
                let key = match values.get(key) {
                    Value::Int(key) => key.to_string(),
                    _ => match values.start_of_text(key) {
                        Some(key) => key.to_owned(),
                        None => continue,
                    },
                };
                path.push(key);
                walk(values, value, path, seen, contents)?;
                path.pop();
            }
        }
        Value::Object { class, state, .. } => {
            if let Some(tensor) = tensor(values, id, &name)? {
                contents.add_tensor(tensor)?;
            } else if let Some(state) = state
                && class.is("torch.nn.modules.container", &["ParameterDict", "ParameterList", "ModuleDict"])
                && let Value::Dict(pairs) = values.get(*state)
                && seen.insert(*state)
            {
                let parameters = pairs.iter().find(|(key, _)| values.text(*key) == Some("_parameters"));
                if let Some(&(_, parameters)) = parameters {
                    walk(values, parameters, path, seen, contents)?;
                }
            }
        }
        Value::Int(value) => {
            contents.add_note(name(), value.to_string())?;
        }
        Value::Text(_) => {
            let text = values.start_of_text(id).unwrap_or_default();
            contents.add_note(name(), quote(text))?;
        }
        _ => {}
    }
    Ok(())
}

/// The tensor that the call at `id` would construct; `None` if it constructs something else.
fn tensor(values: &Values<'_>, id: Id, name: &dyn Fn() -> String) -> Result<Option<Tensor>, PickleProblem> {
    let wrong = |reason: &str| PickleProblem::Tensor { tensor: quote(&name()), reason: reason.to_owned() };
    let (mut id, mut wrapped) = (id, 0);
    loop {
        let Value::Object { class, args, .. } = values.get(id) else { return Ok(None) };
        let args = values.members(*args).unwrap_or_default();
        if class.is("torch._utils", &REBUILD[3..]) || class.is("torch.nn.parameter", &["Parameter"]) {
            // A parameter is a trainable tensor. There are never two such wrappers.
            let Some(&inner) = args.first().filter(|_| wrapped < 2) else { return Ok(None) };
            (id, wrapped) = (inner, wrapped + 1);
        } else if class.is("torch._tensor", &["_rebuild_from_type_v2"]) {
            // Function, type, arguments: a subclass of tensor.
            let [_, _, args, ..] = args else {
                return Err(wrong("the call that rebuilds the tensor has too few arguments"));
            };
            return rebuilt(values, values.members(*args).unwrap_or_default(), false, name).map(Some);
        } else if class.is("torch._utils", &REBUILD[..3]) {
            return rebuilt(values, args, class.is("torch._utils", &REBUILD[2..3]), name).map(Some);
        } else {
            return Ok(None);
        }
    }
}

/// A tensor from storage, offset, shape and strides; if `typed`, with its number format at the end.
fn rebuilt(
    values: &Values<'_>,
    args: &[Id],
    typed: bool,
    name: &dyn Fn() -> String,
) -> Result<Tensor, PickleProblem> {
    let wrong = |reason: &str| PickleProblem::Tensor { tensor: quote(&name()), reason: reason.to_owned() };
    let [source, offset, shape, strides, ..] = *args else {
        return Err(wrong("the call that rebuilds the tensor has too few arguments"));
    };
    let Value::Persistent(words) = values.get(source) else { return Err(wrong("the tensor has no storage")) };
    let storage = storage(values, *words).ok_or_else(|| wrong("the storage has an unknown type"))?;
    let dtype = match args.get(6).filter(|_| typed).map(|&id| values.get(id)) {
        None => storage.dtype,
        Some(Value::Global(global)) => globals::dtype(global)
            .ok_or_else(|| wrong(&format!("the tensor has the unknown type {global}")))?,
        Some(_) => return Err(wrong("the tensor has no type")),
    };
    let sizes = |id: Id| -> Option<Vec<u64>> {
        let members = values.members(id).filter(|members| members.len() <= MAX_DIMENSIONS)?;
        members.iter().map(|&size| values.size(size)).collect()
    };
    let shape =
        sizes(shape).and_then(|shape| shape.into_iter().map(|size| usize::try_from(size).ok()).collect());
    let shape: Vec<usize> = shape.ok_or_else(|| wrong("the tensor has no valid shape"))?;
    let strides = sizes(strides).filter(|strides| strides.len() == shape.len());
    let strides = strides.ok_or_else(|| wrong("the tensor does not have one stride for each dimension"))?;
    let offset = values.size(offset).ok_or_else(|| wrong("the tensor has no valid offset in the storage"))?;
    Ok(Tensor { name: name(), dtype, shape, strides, offset, storage })
}

/// `("storage", class, key, location, elements)`.
fn storage(values: &Values<'_>, words: Id) -> Option<Storage> {
    let [kind, class, key, _, len, ref view @ ..] = *values.members(words)? else { return None };
    // Before 2017 a storage could be a view of another.
    let is_view = view.first().is_some_and(|&view| !matches!(values.get(view), Value::None));
    if values.text(kind) != Some("storage") || is_view {
        return None;
    }
    let Value::Global(class) = values.get(class) else { return None };
    let dtype = globals::storage_dtype(class)?;
    Some(Storage { key: values.text(key)?.to_owned(), dtype, len: values.size(len)? })
}
