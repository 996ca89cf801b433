//! Writes a file weight by weight: no more than one weight is in memory, and the file appears only when it is
//! complete.

use std::collections::HashSet;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::{SdqError, SdqProblem};
use super::header::{HEADER_LEN, Header};
use super::manifest::{Manifest, Source};
use super::table::{ComponentEntry, PartEntry, Table, TextEntry, WeightEntry};
use super::{SECTION_ALIGNMENT, WEIGHT_ALIGNMENT};
use crate::atomic::AtomicFile;
use crate::layout;
use crate::names::{NAME_RULE, PATH_RULE, is_printable, is_relative_path, quote};
use crate::weight::{WeightSpec, WeightType};

/// A weight in its stored form.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// The bytes of each part, in the order of [`layout::stored_parts`].
    pub parts: Vec<Vec<u8>>,
    /// Root of the squared error divided by the squared values, if a quantizer measured it.
    pub relative_error: Option<f64>,
}

/// An `.sdq` file under construction. It is a temporary file in the destination's folder until
/// [`SdqWriter::finish`]; dropping the writer removes it. The same calls write the same bytes.
#[derive(Debug)]
pub struct SdqWriter {
    path: PathBuf,
    file: BufWriter<AtomicFile>,
    /// Bytes written so far.
    position: u64,
    table: Table,
    /// Contents of `table.texts`, written after the last component.
    texts: Vec<String>,
    /// Names of the weights in the current component.
    weight_names: HashSet<String>,
}

impl SdqWriter {
    /// Starts a file that will become `path`.
    ///
    /// # Errors
    /// When the folder cannot be written or the reader would refuse the manifest.
    pub fn create(path: impl AsRef<Path>, manifest: Manifest) -> Result<SdqWriter, SdqError> {
        let path = path.as_ref();
        let start = || {
            manifest.check()?;
            let mut file = BufWriter::with_capacity(1 << 16, AtomicFile::create(path)?);
            // The header is written at the end, when the length is known.
            file.write_all(&[0; HEADER_LEN])?;
            Ok(file)
        };
        let file = start().map_err(|problem: SdqProblem| SdqError::new(path, problem))?;
        Ok(SdqWriter {
            path: path.to_path_buf(),
            file,
            position: HEADER_LEN as u64,
            table: Table { manifest, components: Vec::new(), texts: Vec::new() },
            texts: Vec::new(),
            weight_names: HashSet::new(),
        })
    }

    /// Sets the manifest's `sources`, whose hashes may take as long as writing the weights.
    ///
    /// # Errors
    /// When the reader would refuse them.
    pub fn set_sources(&mut self, sources: Vec<Source>) -> Result<(), SdqError> {
        self.table.manifest.sources = sources;
        self.table.manifest.check().map_err(|problem| SdqError::new(&self.path, problem))
    }

    /// Starts the section of a component. `config` is its `config.json`.
    ///
    /// # Errors
    /// When the name is already in use, `config` is not an object, or the disk is full.
    pub fn begin_component(&mut self, name: &str, config: Value) -> Result<(), SdqError> {
        self.try_begin_component(name, config).map_err(|problem| SdqError::new(&self.path, problem))
    }

    fn try_begin_component(&mut self, name: &str, config: Value) -> Result<(), SdqProblem> {
        if !is_printable(name) {
            return Err(SdqProblem::Name { what: "component", name: quote(name), rule: NAME_RULE });
        }
        if !config.is_object() {
            return Err(SdqProblem::Manifest(format!("the config of component `{name}` is not an object")));
        }
        if self.table.components.iter().any(|other| other.name == name) {
            return Err(SdqProblem::Duplicate { what: "component", name: name.to_owned() });
        }
        self.align(SECTION_ALIGNMENT)?;
        let (name, offset) = (name.to_owned(), self.position);
        self.table.components.push(ComponentEntry { name, offset, length: 0, config, weights: Vec::new() });
        self.weight_names.clear();
        Ok(())
    }

    /// Packs `values` (row-major, the shape in `spec`) and appends them to the current component as
    /// `weight_type`. Weights must be appended in the order in which the model reads them.
    ///
    /// # Errors
    /// When the values do not fit `spec`, a value is not finite or too large for `weight_type`, the name is
    /// already in use, no component was begun, or the disk is full.
    pub fn append(
        &mut self,
        spec: &WeightSpec,
        weight_type: WeightType,
        values: &[f32],
    ) -> Result<(), SdqError> {
        let encoded = layout::encode(spec, weight_type, values);
        let bytes = encoded.map_err(|problem| SdqError::new(&self.path, problem))?;
        self.append_encoded(spec, weight_type, &Encoded { parts: vec![bytes], relative_error: None })
    }

    /// Appends a weight that is already packed.
    ///
    /// # Errors
    /// When the lengths of the parts do not match `spec`, the name is already in use, no component was begun,
    /// or the disk is full.
    pub fn append_encoded(
        &mut self,
        spec: &WeightSpec,
        weight_type: WeightType,
        encoded: &Encoded,
    ) -> Result<(), SdqError> {
        self.try_append(spec, weight_type, encoded).map_err(|problem| SdqError::new(&self.path, problem))
    }

    fn try_append(
        &mut self,
        spec: &WeightSpec,
        weight_type: WeightType,
        encoded: &Encoded,
    ) -> Result<(), SdqProblem> {
        let Some(component) = self.table.components.last() else {
            return Err(SdqProblem::NoComponent { weight: quote(&spec.name) });
        };
        let WeightSpec { name, role, shape, inputs } = spec;
        if !is_printable(name) {
            return Err(SdqProblem::Name { what: "weight", name: quote(name), rule: NAME_RULE });
        }
        let weight = format!("{}.{name}", component.name);
        let Some(parts) = layout::stored_parts(spec, weight_type) else {
            return Err(SdqProblem::Shape { weight, role: *role, weight_type, shape: format!("{shape:?}") });
        };
        let [expected, found] = [
            parts.iter().map(|part| part.bytes as u64).collect::<Vec<_>>(),
            encoded.parts.iter().map(|part| part.len() as u64).collect(),
        ];
        if expected != found {
            let [expected, found] = [expected, found].map(|lengths| lengths.iter().sum());
            return Err(SdqProblem::WeightLength { weight, expected, found });
        }
        if !self.weight_names.insert(name.clone()) {
            return Err(SdqProblem::Duplicate { what: "weight", name: weight });
        }
        let mut entries = Vec::new();
        for (part, bytes) in parts.iter().zip(&encoded.parts) {
            self.align(WEIGHT_ALIGNMENT)?;
            let (offset, crc32) = (self.position, crc32fast::hash(bytes));
            self.write(bytes)?;
            entries.push(PartEntry { part: part.name.into(), offset, length: bytes.len() as u64, crc32 });
        }
        let end = self.position;
        let component = self.table.components.last_mut().expect("the component was found above");
        component.weights.push(WeightEntry {
            name: name.clone(),
            role: role.name().to_owned(),
            shape: shape.clone(),
            inputs: if weight_type.is_quantized() { inputs.clone() } else { Vec::new() },
            weight_type: weight_type.name().to_owned(),
            relative_error: encoded.relative_error,
            parts: entries,
        });
        component.length = end - component.offset;
        Ok(())
    }

    /// Embeds a text file. `name` is a relative path with `/` between its parts. Texts may be added at any
    /// time; they are kept in memory until [`SdqWriter::finish`].
    ///
    /// # Errors
    /// When the name is already in use or would lead out of its folder.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<(), SdqError> {
        let refuse = |problem| Err(SdqError::new(&self.path, problem));
        if !is_relative_path(name) {
            return refuse(SdqProblem::Name { what: "text", name: quote(name), rule: PATH_RULE });
        }
        if self.table.texts.iter().any(|other| other.name == name) {
            return refuse(SdqProblem::Duplicate { what: "text", name: name.to_owned() });
        }
        let (length, crc32) = (text.len() as u64, crc32fast::hash(text.as_bytes()));
        self.table.texts.push(TextEntry { name: name.to_owned(), offset: 0, length, crc32 });
        self.texts.push(text.to_owned());
        Ok(())
    }

    /// Writes texts, table and header and renames the file. Returns its length in bytes.
    ///
    /// # Errors
    /// When the disk is full, the table is longer than the reader accepts, or the destination cannot be
    /// replaced.
    pub fn finish(mut self) -> Result<u64, SdqError> {
        let path = std::mem::take(&mut self.path);
        self.try_finish().map_err(|problem| SdqError::new(&path, problem))
    }

    fn try_finish(mut self) -> Result<u64, SdqProblem> {
        for (index, text) in std::mem::take(&mut self.texts).iter().enumerate() {
            self.align(WEIGHT_ALIGNMENT)?;
            self.table.texts[index].offset = self.position;
            self.write(text.as_bytes())?;
        }
        self.align(WEIGHT_ALIGNMENT)?;
        let table = serde_json::to_vec(&self.table)
            .expect("a table has string keys and plain values, which JSON can hold");
        let table_offset = self.position;
        self.write(&table)?;
        let header = Header {
            file_len: self.position,
            table_offset,
            table_len: table.len() as u64,
            table_crc32: crc32fast::hash(&table),
        };
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header.to_bytes()?)?;
        self.file.into_inner().map_err(|failed| failed.into_error())?.commit()?;
        Ok(header.file_len)
    }

    /// Writes zeros up to the next multiple of `alignment`, which is at most a section's.
    fn align(&mut self, alignment: u64) -> Result<(), SdqProblem> {
        static ZEROS: [u8; SECTION_ALIGNMENT as usize] = [0; SECTION_ALIGNMENT as usize];
        let padding = self.position.next_multiple_of(alignment) - self.position;
        self.write(&ZEROS[..padding as usize])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SdqProblem> {
        self.file.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}
