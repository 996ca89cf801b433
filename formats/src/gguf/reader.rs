//! Reads the header of a GGUF file from start to end.

use byteorder::{ByteOrder, LittleEndian};

use super::error::GgufProblem;
use crate::names::quote;

/// Maximum depth of nested arrays.
const MAX_DEPTH: usize = 4;
/// Longest array whose members are kept: a shape. A member can take a byte in the file and 32 in memory, and longer arrays
/// are vocabularies.
const MAX_KEPT: u64 = 8;
/// Maximum length of texts that are kept completely.
const MAX_TEXT: usize = 4096;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataValue {
    /// An integer.
    Integer(i128),
    /// A floating-point number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text, truncated if it is long.
    Text(String),
    /// A short array of single values.
    Array(Vec<MetadataValue>),
    /// So many members of an array that is of no interest: it is long, or holds arrays.
    Long(u64),
}

impl MetadataValue {
    /// Converts to text, numbers in decimal form.
    pub fn to_text(&self) -> String {
        match self {
            MetadataValue::Integer(value) => value.to_string(),
            MetadataValue::Float(value) => value.to_string(),
            MetadataValue::Bool(value) => value.to_string(),
            MetadataValue::Text(text) => text.clone(),
            MetadataValue::Array(values) => {
                let texts: Vec<_> = values.iter().map(MetadataValue::to_text).collect();
                format!("[{}]", texts.join(", "))
            }
            MetadataValue::Long(len) => format!("an array of {len}"),
        }
    }

    /// The value as a non-negative integer.
    pub fn size(&self) -> Option<u64> {
        match self {
            MetadataValue::Integer(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }
}

/// The bytes that have not been read yet.
pub(super) struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a [u8]) -> Reader<'a> {
        Reader { file, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub(super) fn left(&self) -> u64 {
        (self.file.len() - self.at) as u64
    }

    pub(super) fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], GgufProblem> {
        let end = (self.at as u64).saturating_add(len);
        let bytes = usize::try_from(end).ok().and_then(|end| self.file.get(self.at..end));
        let bytes = bytes.ok_or(GgufProblem::Truncated { what, end, len: self.file.len() as u64 })?;
        self.at += bytes.len();
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufProblem> {
        self.take(4, what).map(LittleEndian::read_u32)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufProblem> {
        self.take(8, what).map(LittleEndian::read_u64)
    }

    /// Reads a text, preceded by its length.
    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, GgufProblem> {
        let len = self.u64(what)?;
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes)
            .map_err(|_| GgufProblem::Name(quote(&String::from_utf8_lossy(&bytes[..bytes.len().min(64)]))))
    }

    /// Reads the value of the metadata's `key`, preceded by the number of its type.
    pub(super) fn value(&mut self, key: &str) -> Result<MetadataValue, GgufProblem> {
        let kind = self.u32("metadata")?;
        self.value_of(key, kind, 0)
    }

    fn value_of(&mut self, key: &str, kind: u32, depth: usize) -> Result<MetadataValue, GgufProblem> {
        const WHAT: &str = "metadata";
        let wrong = |found: String, expected: &str| GgufProblem::Metadata {
            key: quote(key),
            found,
            expected: expected.to_owned(),
        };
        Ok(match kind {
            0 => MetadataValue::Integer(self.take(1, WHAT)?[0].into()),
            1 => MetadataValue::Integer((self.take(1, WHAT)?[0] as i8).into()),
            2 => MetadataValue::Integer(LittleEndian::read_u16(self.take(2, WHAT)?).into()),
            3 => MetadataValue::Integer(LittleEndian::read_i16(self.take(2, WHAT)?).into()),
            4 => MetadataValue::Integer(self.u32(WHAT)?.into()),
            5 => MetadataValue::Integer(LittleEndian::read_i32(self.take(4, WHAT)?).into()),
            6 => MetadataValue::Float(LittleEndian::read_f32(self.take(4, WHAT)?).into()),
            7 => MetadataValue::Bool(self.take(1, WHAT)?[0] != 0),
            8 => {
                let text = self.text(WHAT)?;
                MetadataValue::Text(text.chars().take(MAX_TEXT).collect())
            }
            9 if depth >= MAX_DEPTH => {
                return Err(wrong(
                    "nested too deeply".to_owned(),
                    &format!("at most {MAX_DEPTH} levels of arrays"),
                ));
            }
            9 => {
                let kind = self.u32(WHAT)?;
                let len = self.u64(WHAT)?;
                // Every element takes at least one byte.
                if len > self.left() {
                    return Err(GgufProblem::Count { what: "members of an array", found: len });
                }
                let is_kept = len <= MAX_KEPT && kind != 9;
                let mut members = Vec::new();
                for _ in 0..len {
                    let member = self.value_of(key, kind, depth + 1)?;
                    if is_kept {
                        members.push(member);
                    }
                }
                if is_kept { MetadataValue::Array(members) } else { MetadataValue::Long(len) }
            }
            10 => MetadataValue::Integer(self.u64(WHAT)?.into()),
            11 => MetadataValue::Integer(LittleEndian::read_i64(self.take(8, WHAT)?).into()),
            12 => MetadataValue::Float(LittleEndian::read_f64(self.take(8, WHAT)?)),
            other => return Err(wrong(format!("of the unknown type {other}"), "a type from 0 to 12")),
        })
    }
}
