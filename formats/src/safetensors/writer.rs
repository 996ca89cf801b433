//! Writing safetensors.

use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::{SafetensorsError, SafetensorsProblem};
use super::header::Header;
use crate::atomic::AtomicFile;
use crate::dtype::DType;
use crate::names::{is_printable, quote};
use crate::tensor::TensorView;

/// Writes a safetensors file to a temporary file that is then renamed. Tensors keep their order.
///
/// The data starts at a multiple of 8 bytes, as in the reference implementation.
///
/// # Errors
/// When two tensors have the same name, a tensor's bytes do not match its shape, or the file cannot be
/// written.
pub fn write(
    path: impl AsRef<Path>,
    tensors: &[TensorView<'_>],
    metadata: &[(&str, &str)],
) -> Result<(), SafetensorsError> {
    let path = path.as_ref();
    try_write(path, tensors, metadata).map_err(|problem| SafetensorsError::new(path, problem))
}

fn try_write(
    path: &Path,
    tensors: &[TensorView<'_>],
    metadata: &[(&str, &str)],
) -> Result<(), SafetensorsProblem> {
    let header = header_bytes(tensors, metadata)?;
    let mut file = BufWriter::new(AtomicFile::create(path)?);
    file.write_all(&header)?;
    for tensor in tensors {
        file.write_all(tensor.bytes)?;
    }
    file.into_inner().map_err(|failed| failed.into_error())?.commit()?;
    Ok(())
}

/// The bytes of a safetensors file, as [`write()`] writes them.
///
/// # Errors
/// As [`write()`], except for the file.
pub fn to_bytes(
    tensors: &[TensorView<'_>],
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>, SafetensorsProblem> {
    let mut bytes = header_bytes(tensors, metadata)?;
    tensors.iter().for_each(|tensor| bytes.extend_from_slice(tensor.bytes));
    Ok(bytes)
}

/// The length and the JSON header, padded with spaces to a multiple of 8.
fn header_bytes(
    tensors: &[TensorView<'_>],
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>, SafetensorsProblem> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let mut strings = Map::new();
        for &(name, text) in metadata {
            if strings.insert(name.to_owned(), text.into()).is_some() {
                return Err(SafetensorsProblem::Duplicate(format!("__metadata__.{}", quote(name))));
            }
        }
        header.insert("__metadata__".into(), Value::Object(strings));
    }
    let mut end = 0u64;
    for tensor in tensors {
        if !is_printable(&tensor.name) || tensor.name == "__metadata__" {
            return Err(SafetensorsProblem::Name(quote(&tensor.name)));
        }
        let start = end;
        end += tensor.bytes.len() as u64;
        if let DType::Block(_) = tensor.dtype {
            let (tensor, found) = (tensor.name.clone(), tensor.dtype.to_string());
            return Err(SafetensorsProblem::UnknownDType { tensor, found });
        }
        let expected = tensor.elements().and_then(|count| tensor.dtype.bytes(count));
        let Some(expected) = expected else {
            return Err(SafetensorsProblem::ShapeOverflow { tensor: tensor.name.clone() });
        };
        if expected != tensor.bytes.len() {
            return Err(SafetensorsProblem::Length {
                tensor: tensor.name.clone(),
                shape: format!("{:?}", tensor.shape),
                dtype: tensor.dtype,
                expected: expected as u64,
                start,
                end,
            });
        }
        let entry =
            json!({ "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [start, end] });
        if header.insert(tensor.name.clone(), entry).is_some() {
            return Err(SafetensorsProblem::Duplicate(tensor.name.clone()));
        }
    }
    let mut json = Value::Object(header).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    if json.len() as u64 > Header::MAX_LEN {
        return Err(SafetensorsProblem::HeaderTooLong { limit: Header::MAX_LEN, found: json.len() as u64 });
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    Ok(bytes)
}
