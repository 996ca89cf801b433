//! GGUF, the container of llama.cpp. stable-diffusion.cpp writes whole models in this format, and
//! ComfyUI-GGUF writes U-Nets.
//!
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. No memory is allocated for a number before it
//! has been compared with the file's length.

mod error;
mod reader;

pub use error::{GgufError, GgufProblem};
pub use reader::MetadataValue;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::block::BlockType;
use crate::dtype::DType;
use crate::mmap::Bytes;
use crate::names::{is_printable, quote};
use crate::tensor::TensorView;
use reader::Reader;

/// Maximum number of dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 8;
/// Most keys and tensors. A key can take 13 bytes in the file and ten times that in memory; models have a few thousand of
/// either.
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 18;
/// Minimum size of a key in the header, in bytes.
const MIN_KEY: u64 = 8 + 4 + 1;
const MIN_TENSOR: u64 = 8 + 4 + 4 + 8;
/// Default alignment of tensors.
const ALIGNMENT: u64 = 32;
/// Prefix of the keys under which ComfyUI-GGUF stores the shape of convolutions that it has flattened.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// An open GGUF file with its header checked.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    bytes: Bytes,
    metadata: BTreeMap<String, MetadataValue>,
    tensors: Vec<Info>,
}

/// Range and format of a tensor.
#[derive(Debug)]
struct Info {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl GgufFile {
    /// Maps the file at `path` and checks its header.
    ///
    /// # Errors
    /// When the file cannot be read, is not a well-formed GGUF file, or has unknown number formats.
    pub fn open(path: impl AsRef<Path>) -> Result<GgufFile, GgufError> {
        let path = path.as_ref();
        let bytes = Bytes::map(path).map_err(|error| GgufError::new(path, error))?;
        GgufFile::from_bytes(bytes, path)
    }

    /// Reads a file from `bytes`; `label` is used instead of its path in errors.
    ///
    /// # Errors
    /// As for [`GgufFile::open`].
    pub fn from_bytes(bytes: Bytes, label: &Path) -> Result<GgufFile, GgufError> {
        let (metadata, tensors) = read(&bytes).map_err(|problem| GgufError::new(label, problem))?;
        Ok(GgufFile { path: label.to_path_buf(), bytes, metadata, tensors })
    }

    /// The path it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's metadata, by key.
    pub fn metadata(&self) -> &BTreeMap<String, MetadataValue> {
        &self.metadata
    }

    /// All tensors, in the order of the header. Shapes have the slowest dimension first, as everywhere in
    /// this crate; a convolution that ComfyUI-GGUF has flattened has its original shape.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|info| TensorView {
            name: info.name.clone(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: &self.bytes[info.range.clone()],
        })
    }
}

type Read = (BTreeMap<String, MetadataValue>, Vec<Info>);

fn read(file: &[u8]) -> Result<Read, GgufProblem> {
    let mut reader = Reader::new(file);
    if reader.take(4, "the header")? != b"GGUF" {
        return Err(GgufProblem::Magic);
    }
    match reader.u32("the header")? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => return Err(GgufProblem::BigEndian),
        version => return Err(GgufProblem::Version(version)),
    }
    let (tensors, keys) = (reader.u64("the header")?, reader.u64("the header")?);
    for (what, found, least, limit) in
        [("keys", keys, MIN_KEY, MAX_KEYS), ("tensors", tensors, MIN_TENSOR, MAX_TENSORS)]
    {
        if found > reader.left() / least {
            return Err(GgufProblem::Count { what, found });
        }
        if found > limit {
            return Err(GgufProblem::TooMany { what, found, limit });
        }
    }
    let metadata = read_metadata(&mut reader, keys)?;
    if let Some(parts) = metadata.get("split.count").and_then(MetadataValue::size).filter(|&parts| parts > 1)
    {
        return Err(GgufProblem::Split(parts));
    }
    let mut infos = Vec::new();
    for _ in 0..tensors {
        infos.push(RawInfo::read(&mut reader)?);
    }
    let start = align(reader.at() as u64, alignment(&metadata)?);
    let data = match usize::try_from(start).ok().and_then(|start| file.get(start..)) {
        Some(data) => data,
        None if infos.is_empty() => &[],
        None => {
            let len = file.len() as u64;
            return Err(GgufProblem::Truncated { what: "the data", end: start, len });
        }
    };
    let mut placed = Vec::with_capacity(infos.len());
    for info in infos {
        placed.push(info.place(&metadata, start as usize, data.len() as u64)?);
    }
    check(&placed, start as usize, data.len() as u64)?;
    Ok((metadata, placed))
}

fn read_metadata(reader: &mut Reader<'_>, keys: u64) -> Result<BTreeMap<String, MetadataValue>, GgufProblem> {
    let mut metadata = BTreeMap::new();
    for _ in 0..keys {
        let key = reader.text("a key")?;
        if !is_printable(key) {
            return Err(GgufProblem::Name(quote(key)));
        }
        let value = reader.value(key)?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(GgufProblem::Duplicate(key.to_owned()));
        }
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<String, MetadataValue>) -> Result<u64, GgufProblem> {
    let key = "general.alignment";
    let Some(value) = metadata.get(key) else { return Ok(ALIGNMENT) };
    let alignment = value.size().filter(|size| size.is_power_of_two() && *size <= 1 << 20);
    alignment.ok_or_else(|| GgufProblem::Metadata {
        key: key.to_owned(),
        found: quote(&value.to_text()),
        expected: "a power of two".to_owned(),
    })
}

fn align(at: u64, alignment: u64) -> u64 {
    at.next_multiple_of(alignment)
}

/// A tensor in the header.
struct RawInfo {
    name: String,
    /// Sizes, fastest dimension first.
    sizes: Vec<u64>,
    format: u32,
    offset: u64,
}

impl RawInfo {
    fn read(reader: &mut Reader<'_>) -> Result<RawInfo, GgufProblem> {
        const WHAT: &str = "the list of tensors";
        let name = reader.text(WHAT)?;
        if !is_printable(name) {
            return Err(GgufProblem::Name(quote(name)));
        }
        let dimensions = reader.u32(WHAT)?;
        if dimensions > MAX_DIMENSIONS {
            let (tensor, shape) = (name.to_owned(), format!("{dimensions} dimensions"));
            return Err(GgufProblem::Shape {
                tensor,
                shape,
                reason: format!("at most {MAX_DIMENSIONS} are allowed"),
            });
        }
        let sizes = (0..dimensions).map(|_| reader.u64(WHAT)).collect::<Result<_, _>>()?;
        Ok(RawInfo { name: name.to_owned(), sizes, format: reader.u32(WHAT)?, offset: reader.u64(WHAT)? })
    }

    /// Computes the tensor's range in the data, which begins at `start` of the file and has `len` bytes.
    fn place(
        self,
        metadata: &BTreeMap<String, MetadataValue>,
        start: usize,
        len: u64,
    ) -> Result<Info, GgufProblem> {
        let RawInfo { name, sizes, format, offset } = self;
        let dtype = dtype(format).ok_or_else(|| GgufProblem::Format {
            tensor: name.clone(),
            found: unread_name(format),
            known: BlockType::ALL.map(BlockType::name).join(", "),
        })?;
        let shape: Vec<u64> = sizes.iter().rev().copied().collect();
        let wrong = |shape: &[u64], reason: &str| GgufProblem::Shape {
            tensor: name.clone(),
            shape: format!("{shape:?}"),
            reason: reason.to_owned(),
        };
        let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
        let elements = elements.and_then(|elements| usize::try_from(elements).ok());
        let elements = elements.ok_or_else(|| wrong(&shape, "the number of elements is too large"))?;
        let row = usize::try_from(sizes.first().copied().unwrap_or(1)).unwrap_or(usize::MAX);
        let bytes = dtype.bytes(row).and(dtype.bytes(elements));
        let bytes = bytes
            .ok_or_else(|| wrong(&shape, "the length of a row is not a multiple of the block length"))?;
        let end = offset.saturating_add(bytes as u64);
        if end > len {
            return Err(GgufProblem::Place { tensor: name, start: offset, end, len, beside: None });
        }
        let shape = match metadata.get(&format!("{ORIGINAL_SHAPE}{name}")) {
            None => shape,
            Some(original) => original_shape(original)
                .filter(|shape| {
                    shape.iter().try_fold(1u64, |n, &size| n.checked_mul(size)) == Some(elements as u64)
                })
                .ok_or_else(|| {
                    wrong(
                        &shape,
                        &format!("the original shape in the metadata is {}", quote(&original.to_text())),
                    )
                })?,
        };
        // The product of the sizes is the number of elements, so each fits unless it is zero.
        let shape = shape.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>();
        let shape =
            shape.map_err(|_| GgufProblem::Count { what: "entries of a dimension", found: u64::MAX })?;
        let first = start + offset as usize;
        Ok(Info { name, dtype, shape, range: first..first + bytes })
    }
}

/// The sizes under [`ORIGINAL_SHAPE`], slowest first as in PyTorch.
fn original_shape(value: &MetadataValue) -> Option<Vec<u64>> {
    match value {
        MetadataValue::Array(sizes) => sizes.iter().map(MetadataValue::size).collect(),
        _ => None,
    }
}

/// Checks that no two tensors share a name or a byte.
fn check(infos: &[Info], start: usize, len: u64) -> Result<(), GgufProblem> {
    let mut names = HashSet::new();
    if let Some(twice) = infos.iter().find(|info| !names.insert(&info.name)) {
        return Err(GgufProblem::Duplicate(twice.name.clone()));
    }
    let mut sorted: Vec<&Info> = infos.iter().filter(|info| !info.range.is_empty()).collect();
    sorted.sort_by_key(|info| info.range.start);
    match sorted.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        None => Ok(()),
        Some(pair) => {
            let range = &pair[1].range;
            let [first, end] = [range.start, range.end].map(|at| (at - start) as u64);
            let (tensor, beside) = (pair[1].name.clone(), Some(pair[0].name.clone()));
            Err(GgufProblem::Place { tensor, start: first, end, len, beside })
        }
    }
}

/// The number format with number `format` in ggml.
fn dtype(format: u32) -> Option<DType> {
    Some(match format {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Block(BlockType::Q4_0),
        3 => DType::Block(BlockType::Q4_1),
        6 => DType::Block(BlockType::Q5_0),
        7 => DType::Block(BlockType::Q5_1),
        8 => DType::Block(BlockType::Q8_0),
        10 => DType::Block(BlockType::Q2_K),
        11 => DType::Block(BlockType::Q3_K),
        12 => DType::Block(BlockType::Q4_K),
        13 => DType::Block(BlockType::Q5_K),
        14 => DType::Block(BlockType::Q6_K),
        20 => DType::Block(BlockType::IQ4_NL),
        23 => DType::Block(BlockType::IQ4_XS),
        24 => DType::I8,
        25 => DType::I16,
        26 => DType::I32,
        27 => DType::I64,
        28 => DType::F64,
        30 => DType::BF16,
        _ => return None,
    })
}

/// The name of a format that is not supported.
fn unread_name(format: u32) -> String {
    match format {
        9 => "Q8_1".to_owned(),
        15 => "Q8_K".to_owned(),
        16..=19 | 21 | 22 | 29 => format!("IQ (number {format})"),
        34 | 35 => format!("TQ (number {format})"),
        39 => "MXFP4".to_owned(),
        other => format!("number {other}"),
    }
}

#[cfg(test)]
mod tests;
