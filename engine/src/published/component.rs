//! One component of a published model: its config and its weights.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::error::PublishedError;
use super::files::read_json_object;
use super::keys::canonical_tensor;
use super::remark::Remark;
use super::scales;
use super::vocabulary::Vocabulary;
use super::weights::find_weights;
use crate::families::tokenizer_of;
use crate::models::{
    clip,
    naming::{LayoutProblem, Piece, Rename},
};
use sdq_formats::checkpoint::Checkpoint;
use sdq_formats::dtype::DType;
use sdq_formats::names::quote;
use sdq_formats::tensor::TensorView;

/// A component with weights: `text_encoder`, `unet`, `vae` and any others that the pipeline lists.
#[derive(Debug)]
pub struct PublishedComponent {
    path: PathBuf,
    name: String,
    class_name: String,
    config: Value,
    config_file: Option<PathBuf>,
    checkpoint: Arc<Checkpoint>,
    place: Place,
    pub(super) remarks: Vec<Remark>,
}

/// The scales of weights, by name.
type Scales = BTreeMap<String, Vec<f32>>;

/// The location of the weights in the checkpoint.
#[derive(Debug)]
enum Place {
    /// With diffusers' names, current or older; the checkpoint contains nothing else.
    Diffusers,
    /// With other names, or among tensors of other components.
    Renamed(Vec<Renamed>),
}

/// A weight with another name, or a part of a tensor.
#[derive(Debug)]
struct Renamed {
    source: String,
    canonical: String,
    piece: Cut,
}

/// As [`Piece`], with the data of parts that need a copy.
#[derive(Debug)]
enum Cut {
    Whole,
    Rows {
        first: usize,
        count: usize,
    },
    /// Elements in f32, which is exact for all formats except F64.
    Copied {
        shape: Vec<usize>,
        bytes: Vec<u8>,
    },
}

impl PublishedComponent {
    /// Opens the component in a folder of its own: `config.json` and weights with diffusers' names.
    pub(super) fn open_folder(
        path: &Path,
        name: &str,
        class_name: &str,
    ) -> Result<PublishedComponent, PublishedError> {
        let config_file = path.join("config.json");
        let config = read_json_object(&config_file)?;
        if let Some(other) = config["_class_name"].as_str().filter(|own| *own != class_name) {
            let reason = format!(
                "`_class_name` is {}, but model_index.json names {}",
                quote(other),
                quote(class_name)
            );
            return Err(PublishedError::Json { path: config_file, reason });
        }
        let mut remarks = Vec::new();
        if tokenizer_of(name).is_some() {
            let keys = clip::unknown_keys(&config);
            if !keys.is_empty() {
                remarks.push(Remark::UnknownKeys { path: config_file.clone(), keys });
            }
        }
        let checkpoint = Arc::new(Checkpoint::open(find_weights(path, &mut remarks)?)?);
        Ok(PublishedComponent {
            path: path.to_path_buf(),
            name: name.to_owned(),
            class_name: class_name.to_owned(),
            config,
            config_file: Some(config_file),
            checkpoint,
            place: Place::Diffusers,
            remarks,
        })
    }

    /// A component with its weights in `checkpoint`, at the locations in `renames`.
    pub(super) fn renamed(
        path: &Path,
        component: crate::models::naming::Component,
        checkpoint: Arc<Checkpoint>,
    ) -> Result<PublishedComponent, PublishedError> {
        let views: HashMap<String, TensorView<'_>> =
            checkpoint.tensors().map(|tensor| (tensor.name.clone(), tensor)).collect();
        let renamed = |Rename { source, canonical, piece }: Rename| {
            let canonical = canonical?;
            let cut = cut(&views[&source], piece);
            Some(cut.map(|piece| Renamed { source, canonical, piece }))
        };
        let renames = component.renames.into_iter().filter_map(renamed).collect::<Result<Vec<_>, _>>();
        let renames =
            renames.map_err(|problem| PublishedError::Layout { path: path.to_path_buf(), problem })?;
        drop(views);
        Ok(PublishedComponent {
            path: path.to_path_buf(),
            name: component.name.to_owned(),
            class_name: component.class_name.to_owned(),
            config: component.config,
            config_file: None,
            checkpoint,
            place: Place::Renamed(renames),
            remarks: Vec::new(),
        })
    }

    /// The same weights, with the JSON object in the file at `path` as their config.
    pub(super) fn with_config(self, path: PathBuf) -> Result<PublishedComponent, PublishedError> {
        let config = read_json_object(&path)?;
        Ok(PublishedComponent { config, config_file: Some(path), ..self })
    }

    /// Declares that the autoencoder has no encoder, whatever its config describes.
    pub(super) fn set_decoder_only(&mut self) {
        self.config["num_encoder_blocks"] = Value::Array(Vec::new());
        self.remarks.push(Remark::NoEncoder { path: self.path.clone() });
    }

    /// Sets the default size of the latents, unless a config file sets it.
    pub(super) fn set_latent_size(&mut self, size: usize) {
        if self.config_file.is_none() {
            self.config["sample_size"] = size.into();
        }
    }

    /// Checks that the encoder's token table has a row for every token of `vocabulary`.
    pub(super) fn check_vocabulary(&self, vocabulary: &Vocabulary) -> Result<(), PublishedError> {
        match self.config["vocab_size"].as_u64() {
            Some(rows) if rows < vocabulary.size => Err(PublishedError::TokenRows {
                path: self.path.clone(),
                component: self.name.clone(),
                tokens: vocabulary.size,
                rows,
            }),
            _ => Ok(()),
        }
    }

    /// The name in its file of the tensor with the name `canonical`, if it has another one there.
    pub fn own_name(&self, canonical: &str) -> Option<&str> {
        let Place::Renamed(renames) = &self.place else { return None };
        renames.iter().find(|renamed| renamed.canonical == canonical).map(|renamed| renamed.source.as_str())
    }

    /// Sets the end token of the encoder to that of `vocabulary`, unless its config came from a file. The token table may have
    /// more rows than the vocabulary.
    pub(super) fn set_vocabulary(&mut self, vocabulary: &Vocabulary) {
        let rows = self.config["vocab_size"].as_u64().unwrap_or(0);
        if vocabulary.size > 0 && rows > vocabulary.size {
            let rows = usize::try_from(rows - vocabulary.size).unwrap_or(usize::MAX);
            let (path, component) = (self.path.clone(), self.name.clone());
            self.remarks.push(Remark::SurplusTokens { path, component, rows });
        }
        if let (None, Some(end)) = (&self.config_file, vocabulary.end)
            && !self.config["eos_token_id"].is_null()
        {
            self.config["eos_token_id"] = end.into();
        }
    }

    /// The file from which its config was read, if any.
    pub(super) fn config_file(&self) -> Option<&Path> {
        self.config_file.as_deref()
    }

    /// Its name in `model_index.json`, which is also that of its directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its class in `model_index.json`, such as `UNet2DConditionModel`.
    pub fn class_name(&self) -> &str {
        &self.class_name
    }

    /// Its directory, or its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its `config.json`, an object.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The checkpoint with its weights, with the names in its files.
    pub fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.checkpoint
    }

    /// Its weights by canonical name, see [`super::canonical_name`], not yet multiplied by their
    /// [`scales`](PublishedComponent::scales). They include tensors that no model reads.
    ///
    /// # Errors
    /// When two tensors have the same canonical name, or a weight is stored in a way that is not read.
    pub fn tensors(&self) -> Result<BTreeMap<String, TensorView<'_>>, PublishedError> {
        Ok(self.tensors_and_scales()?.0)
    }

    /// The scales that weights have to be multiplied by, by canonical name: one number, or one for each row. Most files have
    /// none.
    ///
    /// # Errors
    /// As for [`PublishedComponent::tensors`].
    pub fn scales(&self) -> Result<BTreeMap<String, Vec<f32>>, PublishedError> {
        Ok(self.tensors_and_scales()?.1)
    }

    fn tensors_and_scales(&self) -> Result<(BTreeMap<String, TensorView<'_>>, Scales), PublishedError> {
        let mut tensors = BTreeMap::new();
        let mut own_names: BTreeMap<String, String> = BTreeMap::new();
        for (own_name, tensor) in self.named_tensors() {
            let Some(tensor) = canonical_tensor(&self.name, tensor) else { continue };
            let canonical = tensor.name.clone();
            if let Some(first) = own_names.insert(canonical.clone(), own_name.clone()) {
                let (path, second) = (self.path.clone(), own_name);
                return Err(PublishedError::SameTensor { path, first, second, canonical });
            }
            tensors.insert(canonical, tensor);
        }
        let layout = |problem| PublishedError::Layout { path: self.path.clone(), problem };
        let scales = scales::take(&mut tensors).map_err(layout)?;
        Ok((tensors, scales))
    }

    /// Its tensors with diffusers' names, each with its own name.
    fn named_tensors(&self) -> Vec<(String, TensorView<'_>)> {
        let views = self.checkpoint.tensors();
        let renames = match &self.place {
            Place::Diffusers => return views.map(|tensor| (tensor.name.clone(), tensor)).collect(),
            Place::Renamed(renames) => renames,
        };
        let views: HashMap<String, TensorView<'_>> =
            views.map(|tensor| (tensor.name.clone(), tensor)).collect();
        let mut placed = Vec::with_capacity(renames.len());
        for Renamed { source, canonical, piece } in renames {
            let TensorView { dtype, shape, bytes, .. } = views[source].clone();
            let (dtype, shape, bytes) = match piece {
                Cut::Whole => (dtype, shape, bytes),
                Cut::Rows { first, count } => {
                    let row = bytes.len() / shape[0];
                    let shape = [&[*count], &shape[1..]].concat();
                    (dtype, shape, &bytes[first * row..(first + count) * row])
                }
                Cut::Copied { shape, bytes } => (DType::F32, shape.clone(), bytes.as_slice()),
            };
            placed.push((source.clone(), TensorView { name: canonical.clone(), dtype, shape, bytes }));
        }
        placed
    }
}

/// Checks that `piece` can be taken from `tensor`, and copies it if necessary.
fn cut(tensor: &TensorView<'_>, piece: Piece) -> Result<Cut, LayoutProblem> {
    let error = |expected: &str| LayoutProblem::Shape {
        tensor: tensor.name.clone(),
        found: tensor.shape.clone(),
        expected: expected.to_owned(),
    };
    match piece {
        Piece::Whole => Ok(Cut::Whole),
        Piece::Third(part) => {
            let rows = tensor.shape.first().copied().unwrap_or(0);
            let row =
                tensor.shape.iter().skip(1).try_fold(1usize, |product, &size| product.checked_mul(size));
            // A row begins at the start of a block.
            let whole = row.and_then(|row| tensor.dtype.bytes(row)).is_some();
            match rows > 0 && rows.is_multiple_of(3) && whole {
                true => Ok(Cut::Rows { first: part * (rows / 3), count: rows / 3 }),
                false => Err(error("three times as many rows as columns")),
            }
        }
        Piece::Transposed => {
            let values = tensor.to_f32().map_err(LayoutProblem::Values)?;
            // If there are no elements, a dimension may have any length.
            let [rows, columns] = tensor.shape[..] else { return Err(error("a matrix")) };
            if values.is_empty() {
                return Err(error("a matrix with elements"));
            }
            let transposed = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
            let bytes = transposed.flat_map(|place| values[place].to_le_bytes()).collect();
            Ok(Cut::Copied { shape: vec![columns, rows], bytes })
        }
    }
}
