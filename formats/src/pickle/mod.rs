//! PyTorch's pickled checkpoints: `.ckpt`, `.pt`, `.pth` and `.bin`, in the format of `torch.save` since 1.6
//! (a zip archive) and in the older one.
//!
//! A pickle is a program. This reader only extracts the values that it describes: nothing that it names is
//! imported or called. A file that would call anything other than what tensors and trainers' data need is
//! refused, and the error names the function.

mod error;
mod globals;
mod legacy;
mod limits;
mod machine;
mod tensors;
mod values;
mod zip;

pub use error::{PickleError, PickleProblem};

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::dtype::DType;
use crate::mmap::Bytes;
use crate::names::quote;
use crate::tensor::TensorView;
use tensors::{Contents, Tensor};

/// An open pickled checkpoint, with its pickle read and the range of every tensor known.
#[derive(Debug)]
pub struct PickleFile {
    path: PathBuf,
    bytes: Bytes,
    tensors: Vec<Placed>,
    notes: BTreeMap<String, String>,
}

/// A tensor and the place of its elements.
#[derive(Debug)]
struct Placed {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// In the file, in row-major order.
    File(Range<usize>),
    /// A row-major copy: the tensor was transposed or sliced when it was saved.
    Copied(Vec<u8>),
}

impl PickleFile {
    /// Maps the file at `path` and reads its pickle.
    ///
    /// # Errors
    /// When the file cannot be read, is not in a format of `torch.save`, or would call a function when
    /// loaded.
    pub fn open(path: impl AsRef<Path>) -> Result<PickleFile, PickleError> {
        let path = path.as_ref();
        let bytes = Bytes::map(path).map_err(|error| PickleError::new(path, error))?;
        PickleFile::from_bytes(bytes, path)
    }

    /// Reads a file from `bytes`; `label` is used instead of its path in errors.
    ///
    /// # Errors
    /// As for [`PickleFile::open`].
    pub fn from_bytes(bytes: Bytes, label: &Path) -> Result<PickleFile, PickleError> {
        let (tensors, notes) = read(&bytes).map_err(|problem| PickleError::new(label, problem))?;
        Ok(PickleFile { path: label.to_path_buf(), bytes, tensors, notes })
    }

    /// The path it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors, in the order of the pickle. A name consists of the keys of the enclosing dictionaries,
    /// joined by dots, without a wrapper such as `state_dict`.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|Placed { name, dtype, shape, place }| TensorView {
            name: name.clone(),
            dtype: *dtype,
            shape: shape.clone(),
            bytes: match place {
                Place::File(range) => &self.bytes[range.clone()],
                Place::Copied(bytes) => bytes,
            },
        })
    }

    /// A text or integer beside the tensors: `global_step`, and `name` of a textual inversion. Long texts are
    /// truncated.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.notes.get(key).map(String::as_str)
    }
}

type Read = (Vec<Placed>, BTreeMap<String, String>);

fn read(file: &[u8]) -> Result<Read, PickleProblem> {
    if file.starts_with(b"PK\x03\x04") {
        return read_archive(file);
    }
    if file.get(257..262) == Some(b"ustar") {
        return Err(PickleProblem::Tar);
    }
    let (contents, storages) = legacy::read(file)?;
    place_all(file, contents, |key| storages.get(key).cloned())
}

fn read_archive(file: &[u8]) -> Result<Read, PickleProblem> {
    let archive = zip::Archive::parse(file)?;
    let pickle = archive.names().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let pickle = pickle.ok_or(PickleProblem::NotTorch("data.pkl"))?.to_owned();
    let root = pickle.trim_end_matches("data.pkl").to_owned();
    if archive
        .checked(file, &format!("{root}byteorder"))?
        .is_some_and(|order| order.trim_ascii() != b"little")
    {
        return Err(PickleProblem::BigEndian);
    }
    let bytes = archive.checked(file, &pickle)?.unwrap_or_default();
    let (values, root_value, _) = machine::run(bytes)?;
    let contents = tensors::contents(&values, root_value, values.all())?;
    place_all(file, contents, |key| archive.range(&format!("{root}data/{key}")))
}

/// Finds the elements of every tensor. `storage` returns the range of a storage's bytes.
fn place_all(
    file: &[u8],
    contents: Contents,
    storage: impl Fn(&str) -> Option<Range<usize>>,
) -> Result<Read, PickleProblem> {
    let mut placed = Vec::with_capacity(contents.tensors.len());
    // Many tensors may be views of one storage.
    let mut room = file.len();
    for tensor in contents.tensors {
        let range = storage(&tensor.storage.key);
        placed.push(place(file, tensor, range, &mut room)?);
    }
    Ok((placed, contents.notes))
}

/// `room` is the number of bytes that may still be copied.
fn place(
    file: &[u8],
    tensor: Tensor,
    storage: Option<Range<usize>>,
    room: &mut usize,
) -> Result<Placed, PickleProblem> {
    let Tensor { name, dtype, shape, strides, offset, storage: source } = tensor;
    let wrong = |reason: String| PickleProblem::Tensor { tensor: quote(&name), reason };
    let range =
        storage.ok_or_else(|| wrong(format!("the storage `{}` is not in the file", quote(&source.key))))?;
    let size = dtype.block().1 as u64;
    let elements = shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side as u64));
    let elements = elements.ok_or_else(|| wrong("the number of elements is too large".to_owned()))?;
    // The end of the last element that any index reaches.
    let last = shape.iter().zip(&strides).try_fold(offset, |at, (&side, &stride)| {
        at.checked_add((side as u64).saturating_sub(1).checked_mul(stride)?)
    });
    let end = if elements == 0 { Some(offset) } else { last.and_then(|last| last.checked_add(1)) };
    let end = end.and_then(|end| end.checked_mul(size)).filter(|&end| end <= range.len() as u64);
    let end = end.ok_or_else(|| {
        wrong(format!("the last element is past the end of the storage, which has {} bytes", range.len()))
    })?;
    let place = if is_contiguous(&shape, &strides) {
        let start = range.start + (offset * size) as usize;
        // `end` is the end of the tensor's last element here.
        Place::File(start..(range.start + end as usize).max(start))
    } else if elements * size > range.len() as u64 {
        return Err(wrong(format!(
            "the {elements} elements repeat parts of a storage of {} bytes",
            range.len()
        )));
    } else {
        let len = (elements * size) as usize;
        let left = room.checked_sub(len);
        *room = left.ok_or_else(|| wrong("too many tensors are views that are not contiguous".to_owned()))?;
        Place::Copied(gather(&file[range], &shape, &strides, offset, size as usize))
    };
    Ok(Placed { name, dtype, shape, place })
}

/// Whether the elements are contiguous in row-major order.
fn is_contiguous(shape: &[usize], strides: &[u64]) -> bool {
    let mut expected = 1u64;
    for (&side, &stride) in shape.iter().zip(strides).rev() {
        if side != 1 && stride != expected {
            return shape.contains(&0);
        }
        expected = expected.saturating_mul(side as u64);
    }
    true
}

/// The elements in row-major order. The caller has checked that all of them are in `storage`.
fn gather(storage: &[u8], shape: &[usize], strides: &[u64], offset: u64, size: usize) -> Vec<u8> {
    let elements: usize = shape.iter().product();
    let mut bytes = Vec::with_capacity(elements * size);
    let mut index = vec![0usize; shape.len()];
    for _ in 0..elements {
        let steps: u64 = index.iter().zip(strides).map(|(&at, &stride)| at as u64 * stride).sum();
        let at = (offset + steps) as usize * size;
        bytes.extend_from_slice(&storage[at..at + size]);
        for (at, &side) in index.iter_mut().zip(shape).rev() {
            *at += 1;
            if *at < side {
                break;
            }
            *at = 0;
        }
    }
    bytes
}

#[cfg(test)]
mod tests;
