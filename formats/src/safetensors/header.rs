//! The header: the range of each tensor. All checks of safetensors files are here.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use byteorder::{ByteOrder, LittleEndian};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::error::SafetensorsProblem;
use crate::dtype::DType;
use crate::names::{is_printable, json_reason, quote};
use crate::sniff::FileKind;

/// The header of a safetensors file, checked against the file's length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// All tensors, in the order of their bytes in the file.
    pub tensors: Vec<TensorInfo>,
    /// The strings under `__metadata__`, in file order.
    pub metadata: Vec<(String, String)>,
    by_name: HashMap<String, usize>,
}

/// Format and range of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Number format.
    pub dtype: DType,
    /// Sizes from the slowest to the fastest dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<usize>,
}

/// Most tensors, texts of the metadata and dimensions of a tensor. Each takes more in memory than in the file, where models
/// have a few thousand tensors and trainers write a hundred texts.
pub(crate) const MAX_TENSORS: usize = 1 << 18;
const MAX_METADATA: usize = 1 << 16;
const MAX_DIMENSIONS: usize = 32;

/// Bytes of the length at the start of the file.
const PREFIX: usize = 8;

impl Header {
    /// Maximum length of a header, as in the reference implementation.
    pub const MAX_LEN: u64 = 100_000_000;

    /// Parses and checks the header of a file with the given bytes.
    ///
    /// # Errors
    /// When the bytes are not a well-formed safetensors file.
    pub fn parse(file: &[u8]) -> Result<Header, SafetensorsProblem> {
        let (json, data_start) = header_text(file)?;
        let raw: RawHeader =
            serde_json::from_str(json).map_err(|error| SafetensorsProblem::Json(json_reason(&error)))?;
        if let Some(name) = first_duplicate(&raw.metadata) {
            return Err(SafetensorsProblem::Duplicate(format!("__metadata__.{}", quote(name))));
        }
        let mut tensors = Vec::new();
        for (name, raw) in raw.tensors {
            tensors.push(check_tensor(name, raw, data_start, file.len())?);
        }
        // Empty tensors have the same start as the next one; they come first.
        tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
        check_cover(&tensors, data_start, file.len())?;
        let mut by_name = HashMap::new();
        for (index, tensor) in tensors.iter().enumerate() {
            if by_name.insert(tensor.name.clone(), index).is_some() {
                return Err(SafetensorsProblem::Duplicate(tensor.name.clone()));
            }
        }
        Ok(Header { tensors, metadata: raw.metadata, by_name })
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }
}

/// The JSON text and the position after it.
fn header_text(file: &[u8]) -> Result<(&str, usize), SafetensorsProblem> {
    // Known kinds of files are checked first: their first eight bytes would be an absurd length.
    match FileKind::of(file) {
        FileKind::Safetensors | FileKind::Other => {}
        kind => return Err(SafetensorsProblem::Kind(kind)),
    }
    let Some((prefix, rest)) = file.split_at_checked(PREFIX) else {
        return Err(SafetensorsProblem::TooShort(file.len()));
    };
    let len = LittleEndian::read_u64(prefix);
    if len > Header::MAX_LEN {
        return Err(SafetensorsProblem::HeaderTooLong { limit: Header::MAX_LEN, found: len });
    }
    let Some(text) = rest.get(..len as usize) else {
        let expected = PREFIX as u64 + len;
        return Err(SafetensorsProblem::HeaderPastEnd { expected, found: file.len() as u64 });
    };
    let text = std::str::from_utf8(text).map_err(|error| SafetensorsProblem::Utf8(error.valid_up_to()))?;
    Ok((text, PREFIX + text.len()))
}

/// Converts a tensor's entry to a range of the file, if format, shape, offsets and file length are
/// consistent.
fn check_tensor(
    name: String,
    raw: RawTensor,
    data_start: usize,
    file_len: usize,
) -> Result<TensorInfo, SafetensorsProblem> {
    if !is_printable(&name) {
        return Err(SafetensorsProblem::Name(quote(&name)));
    }
    let tensor = name;
    let Some(dtype) = DType::from_name(&raw.dtype) else {
        return Err(SafetensorsProblem::UnknownDType { tensor, found: quote(&raw.dtype) });
    };
    let elements = raw.shape.iter().try_fold(1, |product: u64, &size| product.checked_mul(size));
    let elements = elements.and_then(|elements| usize::try_from(elements).ok());
    let Some(expected) = elements.and_then(|elements| dtype.bytes(elements)).map(|bytes| bytes as u64) else {
        return Err(SafetensorsProblem::ShapeOverflow { tensor });
    };
    let (start, end) = raw.data_offsets;
    if end.checked_sub(start) != Some(expected) {
        let shape = quote(&format!("{:?}", &raw.shape[..raw.shape.len().min(8)]));
        return Err(SafetensorsProblem::Length { tensor, shape, dtype, expected, start, end });
    }
    let found = (file_len - data_start) as u64;
    if end > found {
        return Err(SafetensorsProblem::PastEnd { tensor, end, found });
    }
    // A tensor with a dimension of zero may have another one beyond usize on 32-bit machines.
    let Ok(shape) = raw.shape.iter().map(|&size| usize::try_from(size)).collect() else {
        return Err(SafetensorsProblem::ShapeOverflow { tensor });
    };
    let range = data_start + start as usize..data_start + end as usize;
    Ok(TensorInfo { name: tensor, dtype, shape, range })
}

/// Checks that the tensors, sorted by position, cover each byte of the data exactly once.
fn check_cover(tensors: &[TensorInfo], data_start: usize, file_len: usize) -> Result<(), SafetensorsProblem> {
    let offset = |position: usize| (position - data_start) as u64;
    let mut end = data_start;
    for (index, tensor) in tensors.iter().enumerate() {
        let (expected, found) = (offset(end), offset(tensor.range.start));
        if found < expected {
            // The first tensor cannot start before the data, so there is a previous one.
            let previous = tensors[index - 1].name.clone();
            return Err(SafetensorsProblem::Overlap {
                tensor: tensor.name.clone(),
                previous,
                expected,
                found,
            });
        }
        if found > expected {
            return Err(SafetensorsProblem::Hole { tensor: tensor.name.clone(), expected, found });
        }
        end = tensor.range.end;
    }
    if end != file_len {
        return Err(SafetensorsProblem::Trailing { expected: offset(end), found: offset(file_len) });
    }
    Ok(())
}

fn first_duplicate(pairs: &[(String, String)]) -> Option<&str> {
    let mut seen = std::collections::HashSet::new();
    pairs.iter().map(|(name, _)| name.as_str()).find(|name| !seen.insert(*name))
}

/// The unparsed header. Pairs instead of maps, because a map would hide duplicate names.
struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
    metadata: Vec<(String, String)>,
}

#[derive(serde::Deserialize)]
struct RawTensor {
    dtype: String,
    #[serde(deserialize_with = "shape")]
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// A list of at most [`MAX_DIMENSIONS`] numbers.
fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct ShapeVisitor;

    impl<'de> Visitor<'de> for ShapeVisitor {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a shape of at most {MAX_DIMENSIONS} dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sizes: A) -> Result<Vec<u64>, A::Error> {
            let mut shape = Vec::new();
            while let Some(size) = sizes.next_element()? {
                check_count(shape.len(), MAX_DIMENSIONS, "dimensions")?;
                shape.push(size);
            }
            Ok(shape)
        }
    }

    deserializer.deserialize_seq(ShapeVisitor)
}

/// Fails where one more would be too many.
fn check_count<E: serde::de::Error>(found: usize, limit: usize, what: &str) -> Result<(), E> {
    match found < limit {
        true => Ok(()),
        false => Err(E::custom(format_args!("there are more than {limit} {what}"))),
    }
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawHeader, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader { tensors: Vec::new(), metadata: Vec::new() };
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                let Pairs(pairs) = map.next_value::<Pairs<String, MAX_METADATA>>()?;
                header.metadata.extend(pairs);
            } else {
                check_count(header.tensors.len(), MAX_TENSORS, "tensors")?;
                header.tensors.push((name, map.next_value()?));
            }
        }
        Ok(header)
    }
}

/// A JSON object as the pairs that are written in it, at most `LIMIT`.
pub(crate) struct Pairs<V, const LIMIT: usize>(pub(crate) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>, const LIMIT: usize> Deserialize<'de> for Pairs<V, LIMIT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs<V, LIMIT>, D::Error> {
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct PairsVisitor<V, const LIMIT: usize>(PhantomData<V>);

impl<'de, V: Deserialize<'de>, const LIMIT: usize> Visitor<'de> for PairsVisitor<V, LIMIT> {
    type Value = Pairs<V, LIMIT>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V, LIMIT>, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            check_count(pairs.len(), LIMIT, "entries")?;
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}
