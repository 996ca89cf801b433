//! Single files in their published form: complete lists of names and shapes, as sparse files without weights.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use sdq_engine::{
    Model,
    published::{ModelFiles, PublishedModel},
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::goldens;

/// A tensor of a published file: its name, shape, and the weights that it contains, such as
/// `unet.conv_in.weight`.
pub type Row = (String, Vec<usize>, Vec<String>);

/// The tensors of the published file of `family`: `sd15`, `sd21` or `sdxl`, see `goldens/layouts.py`.
///
/// # Panics
/// When the list cannot be read.
pub fn rows(family: &str) -> Vec<Row> {
    let path = goldens::folder("layouts").join(format!("{family}.json"));
    let text = fs::read_to_string(path).expect("the list is readable");
    serde_json::from_str(&text).expect("the list has rows")
}

/// Writes a safetensors file with these tensors in f16, all zero, which takes no space on the disk.
fn write_sparse(path: &Path, rows: &[Row]) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape, _) in rows {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let info = json!({ "dtype": "F16", "shape": shape, "data_offsets": [start, end] });
        header.insert(name.clone(), info);
    }
    let text = Value::Object(header).to_string();
    let mut file = File::create(path).expect("the folder is writable");
    let head = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    file.write_all(&head).expect("the file is writable");
    file.set_len((head.len() + end) as u64).expect("the file system has sparse files");
}

/// A sparse file, removed when dropped.
#[derive(Debug)]
pub struct Published {
    folder: TempDir,
}

impl Published {
    /// A file with these tensors.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn new(rows: &[Row]) -> Published {
        let published = Published { folder: TempDir::new().expect("the temporary folder is writable") };
        write_sparse(&published.file(), rows);
        published
    }

    /// The folder that contains only this file.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its path.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("model.safetensors")
    }

    /// Opens the file as a model.
    ///
    /// # Panics
    /// When it is not a model.
    pub fn open(&self) -> PublishedModel {
        let files = ModelFiles { model: Some(self.file()), ..ModelFiles::default() };
        PublishedModel::open(&files).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// The structure of the model, from its configs and texts.
///
/// # Panics
/// When they are inconsistent.
pub fn described(model: &PublishedModel) -> Model {
    let config = |name: &str| model.component(name).map(|component| component.config());
    let text =
        |name: &str| model.texts().iter().find(|(other, _)| other == name).map(|(_, text)| text.as_str());
    Model::new(config, text).unwrap_or_else(|error| panic!("{error}"))
}
