//! Diffusers directories for tests to change: copies of the golden ones, and their safetensors files as
//! editable tables.
//!
//! Reads and writes safetensors without the reader under test, which would refuse to write malformed files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::goldens;

/// A copy of a golden pipeline's directory, removed when dropped.
#[derive(Debug)]
pub struct ModelCopy {
    folder: TempDir,
}

impl ModelCopy {
    /// A copy of the golden pipeline `name`.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn of(name: &str) -> ModelCopy {
        let copy = ModelCopy { folder: TempDir::new().expect("the temporary folder is writable") };
        copy_folder(&goldens::folder(name).join("model"), copy.folder.path());
        copy
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Applies `edit` to the JSON object in the file `name`.
    ///
    /// # Panics
    /// When the file is not a JSON object.
    pub fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Map<String, Value>)) {
        let path = self.file(name);
        let text = fs::read_to_string(&path).expect("the config is readable");
        let mut config: Map<String, Value> =
            serde_json::from_str(&text).expect("the config is a JSON object");
        edit(&mut config);
        fs::write(path, Value::Object(config).to_string()).expect("the copy is writable");
    }

    /// Applies `edit` to the tensors of the safetensors file `name`.
    ///
    /// # Panics
    /// When the file is not safetensors.
    pub fn edit_tensors(&self, name: &str, edit: impl FnOnce(&mut Vec<RawTensor>)) {
        let path = self.file(name);
        let mut tensors = read(&fs::read(&path).expect("the checkpoint is readable"));
        edit(&mut tensors);
        fs::write(path, write(&tensors)).expect("the copy is writable");
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the temporary folder is writable");
    for entry in fs::read_dir(from).expect("goldens are readable") {
        let path = entry.expect("goldens are readable").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).expect("the temporary folder is writable");
        }
    }
}

/// One tensor of a file; its parts may contradict each other.
#[derive(Clone, Debug)]
pub struct RawTensor {
    /// Name in the file.
    pub name: String,
    /// Number format in safetensors' notation: `F32`, `F16`, `I64`…
    pub dtype: String,
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
    /// Little-endian elements.
    pub bytes: Vec<u8>,
}

/// The tensor called `name`.
///
/// # Panics
/// When there is none.
pub fn tensor<'a>(tensors: &'a mut [RawTensor], name: &str) -> &'a mut RawTensor {
    tensors.iter_mut().find(|tensor| tensor.name == name).expect("the checkpoint has this tensor")
}

/// Writes a safetensors file of f32 tensors, each a name, a shape and values.
///
/// # Panics
/// When it cannot be written.
pub fn write_f32<N: Into<String> + Clone>(path: &Path, tensors: &[(N, &[usize], &[f32])]) {
    let raw = |(name, shape, values): &(N, &[usize], &[f32])| RawTensor {
        name: name.clone().into(),
        dtype: "F32".to_owned(),
        shape: shape.to_vec(),
        bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    write_raw(path, &tensors.iter().map(raw).collect::<Vec<_>>());
}

/// Writes a safetensors file of these tensors.
///
/// # Panics
/// When it cannot be written.
pub fn write_raw(path: &Path, tensors: &[RawTensor]) {
    fs::write(path, write(tensors)).expect("the temporary folder is writable");
}

/// The tensors of the safetensors file at `path`.
///
/// # Panics
/// When it cannot be read.
pub fn tensors_of(path: &Path) -> Vec<RawTensor> {
    read(&fs::read(path).expect("the checkpoint is readable"))
}

fn read(file: &[u8]) -> Vec<RawTensor> {
    let (length, rest) = file.split_first_chunk::<8>().expect("a header length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Map<String, Value> = serde_json::from_slice(header).expect("a JSON header");
    let numbers = |value: &Value| -> Vec<usize> {
        value.as_array().expect("numbers").iter().map(|v| v.as_u64().expect("a number") as usize).collect()
    };
    let tensors = header.iter().filter(|(name, _)| *name != "__metadata__");
    let read = tensors.map(|(name, info)| {
        let offsets = numbers(&info["data_offsets"]);
        RawTensor {
            name: name.clone(),
            dtype: info["dtype"].as_str().expect("a type").to_owned(),
            shape: numbers(&info["shape"]),
            bytes: data[offsets[0]..offsets[1]].to_vec(),
        }
    });
    read.collect()
}

fn write(tensors: &[RawTensor]) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.bytes);
        let info = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(tensor.name.clone(), info);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes(), text.as_slice(), &data].concat()
}
