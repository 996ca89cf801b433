//! Opens a file and gives access to its parts.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::{SdqError, SdqProblem};
use super::header::Header;
use super::manifest::Manifest;
use super::table::{ComponentEntry, PartEntry, Table, TextEntry, WeightEntry};
use super::{SECTION_ALIGNMENT, WEIGHT_ALIGNMENT};
use crate::layout::{self, WeightData};
use crate::mmap::{ALIGNMENT, Bytes};
use crate::names::{NAME_RULE, PATH_RULE, is_printable, is_relative_path, json_reason, quote};
use crate::weight::{WeightRole, WeightSpec, WeightType};

/// An open `.sdq` file. Everything except the contents of weights has been checked.
#[derive(Debug)]
pub struct SdqFile {
    path: PathBuf,
    bytes: Bytes,
    fingerprint: u32,
    manifest: Manifest,
    components: Vec<StoredComponent>,
    texts: Vec<(String, String)>,
}

#[derive(Debug)]
struct StoredComponent {
    name: String,
    config: Value,
    weights: Vec<StoredWeight>,
    by_name: HashMap<String, usize>,
}

/// A weight whose ranges, lengths and alignments have been checked.
#[derive(Debug)]
struct StoredWeight {
    spec: WeightSpec,
    weight_type: WeightType,
    relative_error: Option<f64>,
    parts: Vec<StoredPart>,
}

#[derive(Debug)]
struct StoredPart {
    name: &'static str,
    range: Range<usize>,
    crc32: u32,
}

impl SdqFile {
    /// Maps the file at `path` and checks its header, table of contents and embedded texts. Takes
    /// milliseconds for any size of file: weights are not read.
    ///
    /// # Errors
    /// When the file cannot be read or violates the format.
    pub fn open(path: impl AsRef<Path>) -> Result<SdqFile, SdqError> {
        let path = path.as_ref();
        let bytes = Bytes::map(path).map_err(|error| SdqError::new(path, error))?;
        SdqFile::from_bytes(bytes, path)
    }

    /// Reads a file that is compiled into the program. `bytes` must start at a multiple of 64.
    ///
    /// # Errors
    /// As for [`SdqFile::open`], and when `bytes` are not aligned.
    pub fn from_static(bytes: &'static [u8]) -> Result<SdqFile, SdqError> {
        SdqFile::from_bytes(Bytes::from_static(bytes), Path::new("built-in model"))
    }

    /// Whether it is compiled into the program, and so cannot be damaged.
    pub fn is_built_in(&self) -> bool {
        self.bytes.is_static()
    }

    /// Reads a file from `bytes`; `label` is used instead of its path in errors.
    ///
    /// # Errors
    /// As for [`SdqFile::open`].
    pub fn from_bytes(bytes: Bytes, label: &Path) -> Result<SdqFile, SdqError> {
        SdqFile::parse(bytes, label).map_err(|problem| SdqError::new(label, problem))
    }

    fn parse(bytes: Bytes, label: &Path) -> Result<SdqFile, SdqProblem> {
        let header = Header::parse(&bytes)?;
        if !bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            let alignment = ALIGNMENT as u64;
            return Err(SdqProblem::Alignment { what: "the file in memory".into(), offset: 0, alignment });
        }
        // The header check has made sure that table_offset..file_len is a range of `bytes`. The copy is
        // checked and parsed.
        let table_bytes = bytes[header.table_offset as usize..].to_vec();
        check_crc("the table of contents", header.table_crc32, &table_bytes)?;
        let table: Table =
            serde_json::from_slice(&table_bytes).map_err(|error| SdqProblem::Json(json_reason(&error)))?;
        table.manifest.check()?;

        // Everything is in table order, so a single cursor rules out overlaps.
        let mut cursor = super::header::HEADER_LEN as u64;
        let mut components: Vec<StoredComponent> = Vec::new();
        let mut names = HashSet::new();
        for entry in table.components {
            let component = read_component(entry, &mut cursor, header.table_offset)?;
            if !names.insert(component.name.clone()) {
                return Err(SdqProblem::Duplicate { what: "component", name: component.name });
            }
            components.push(component);
        }
        let mut texts: Vec<(String, String)> = Vec::new();
        names.clear();
        for entry in table.texts {
            let text = read_text(&entry, &mut cursor, header.table_offset, &bytes)?;
            if !names.insert(entry.name.clone()) {
                return Err(SdqProblem::Duplicate { what: "text", name: entry.name });
            }
            texts.push((entry.name, text));
        }
        Ok(SdqFile {
            path: label.to_path_buf(),
            bytes,
            fingerprint: header.table_crc32,
            manifest: table.manifest,
            components,
            texts,
        })
    }

    /// The path it was opened from, or the label of a built-in file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checksum of the table of contents, which contains those of all weights and texts: two different
    /// files have the same checksum with a probability of one in four billion.
    pub fn fingerprint(&self) -> u32 {
        self.fingerprint
    }

    /// Length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Name, licence, origin and defaults.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The component called `name`: `text_encoder`, `unet` or `vae`.
    pub fn component(&self, name: &str) -> Option<Component<'_>> {
        self.components().find(|component| component.name() == name)
    }

    /// All components, in file order.
    pub fn components(&self) -> impl Iterator<Item = Component<'_>> {
        self.components.iter().map(|stored| Component { file: self, stored })
    }

    /// The embedded text file called `name`: `tokenizer/vocab.json`, `scheduler/scheduler_config.json`, `LICENSE`.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts().find(|(found, _)| *found == name).map(|(_, text)| text)
    }

    /// Names and contents of all embedded text files, in file order.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

/// One model of the pipeline: its config and its weights.
#[derive(Clone, Copy, Debug)]
pub struct Component<'a> {
    file: &'a SdqFile,
    stored: &'a StoredComponent,
}

impl<'a> Component<'a> {
    /// `text_encoder`, `unet` or `vae`.
    pub fn name(&self) -> &'a str {
        &self.stored.name
    }

    /// The checkpoint's own `config.json`, an object.
    pub fn config(&self) -> &'a Value {
        &self.stored.config
    }

    /// All weights, in the order in which the model reads them.
    pub fn weights(&self) -> impl Iterator<Item = Weight<'a>> + use<'a> {
        let Component { file, stored } = *self;
        stored.weights.iter().map(move |weight| Weight::new(file, stored, weight))
    }

    /// The weight called `name`.
    pub fn weight(&self, name: &str) -> Option<Weight<'a>> {
        let index = *self.stored.by_name.get(name)?;
        Some(Weight::new(self.file, self.stored, &self.stored.weights[index]))
    }

    /// Checks that the component contains exactly the weights in `specs`, in any order.
    ///
    /// # Errors
    /// Names the first weight that is missing or has another role or shape, otherwise the first that the
    /// model does not read.
    pub fn check(&self, specs: &[WeightSpec]) -> Result<(), SdqError> {
        self.compare(specs).map_err(|problem| SdqError::new(&self.file.path, problem))
    }

    fn compare(&self, specs: &[WeightSpec]) -> Result<(), SdqProblem> {
        let mut read = vec![false; self.stored.weights.len()];
        for spec in specs {
            let weight = format!("{}.{}", self.stored.name, spec.name);
            let Some(&index) = self.stored.by_name.get(&spec.name) else {
                return Err(SdqProblem::MissingWeight { weight });
            };
            let StoredWeight { spec: found, weight_type, .. } = &self.stored.weights[index];
            if !spec.is_met_by(found, *weight_type) {
                let describe = |spec: &WeightSpec| match spec.inputs.as_slice() {
                    [] => format!("{} {:?}", spec.role.name(), spec.shape),
                    inputs => format!("{} {:?} of inputs {inputs:?}", spec.role.name(), spec.shape),
                };
                let (expected, found) = (describe(spec), describe(found));
                return Err(SdqProblem::DifferentWeight { weight, expected, found });
            }
            read[index] = true;
        }
        match read.iter().position(|&read| !read) {
            Some(index) => {
                let name = &self.stored.weights[index].spec.name;
                Err(SdqProblem::SurplusWeight { weight: format!("{}.{name}", self.stored.name) })
            }
            None => Ok(()),
        }
    }
}

/// A weight in the file, packed according to [`crate::layout`].
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    /// Name, role and logical shape.
    pub spec: &'a WeightSpec,
    /// Number format of the elements.
    pub weight_type: WeightType,
    /// The packed elements. Each part starts at a multiple of 64 and has the length in
    /// [`layout::stored_parts`].
    pub data: WeightData<'a>,
    file: &'a SdqFile,
    component: &'a str,
    stored: &'a StoredWeight,
}

impl<'a> Weight<'a> {
    fn new(file: &'a SdqFile, component: &'a StoredComponent, stored: &'a StoredWeight) -> Weight<'a> {
        let parts: Vec<&[u8]> = stored.parts.iter().map(|part| &file.bytes[part.range.clone()]).collect();
        Weight {
            spec: &stored.spec,
            weight_type: stored.weight_type,
            data: WeightData::new(stored.weight_type, &parts),
            file,
            component: &component.name,
            stored,
        }
    }

    /// Bytes of all parts.
    pub fn stored_bytes(&self) -> usize {
        self.stored.parts.iter().map(|part| part.range.len()).sum()
    }

    /// Root of the squared error divided by the squared values of the source, if the converter measured it.
    pub fn relative_error(&self) -> Option<f64> {
        self.stored.relative_error
    }

    /// Reads the whole weight and compares its checksums.
    ///
    /// # Errors
    /// When the bytes are not those that were written.
    pub fn verify(&self) -> Result<(), SdqError> {
        for StoredPart { name, range, crc32 } in &self.stored.parts {
            let what = format!("weight `{}.{}` ({name})", self.component, self.spec.name);
            check_crc(&what, *crc32, &self.file.bytes[range.clone()])
                .map_err(|problem| SdqError::new(&self.file.path, problem))?;
        }
        Ok(())
    }
}

fn check_crc(what: &str, expected: u32, bytes: &[u8]) -> Result<(), SdqProblem> {
    let found = crc32fast::hash(bytes);
    if found != expected {
        return Err(SdqProblem::Checksum { what: what.to_owned(), expected, found });
    }
    Ok(())
}

/// Takes `offset..offset + length` out of `cursor..end` and moves the cursor to its end. The range fits
/// `usize`, because it is in the file and the file is in memory.
fn take(
    what: impl Fn() -> String,
    (offset, length): (u64, u64),
    cursor: &mut u64,
    end: u64,
    alignment: u64,
) -> Result<Range<usize>, SdqProblem> {
    if !offset.is_multiple_of(alignment) {
        return Err(SdqProblem::Alignment { what: what(), offset, alignment });
    }
    match offset.checked_add(length) {
        Some(stop) if offset >= *cursor && stop <= end => {
            *cursor = stop;
            Ok(offset as usize..stop as usize)
        }
        _ => Err(SdqProblem::Bounds { what: what(), offset, length, first: *cursor, end }),
    }
}

fn read_component(entry: ComponentEntry, cursor: &mut u64, end: u64) -> Result<StoredComponent, SdqProblem> {
    let ComponentEntry { name, offset, length, config, weights: entries } = entry;
    if !is_printable(&name) {
        return Err(SdqProblem::Name { what: "component", name: quote(&name), rule: NAME_RULE });
    }
    if !config.is_object() {
        return Err(SdqProblem::Manifest(format!("the config of component `{name}` is not an object")));
    }
    let what = || format!("component `{name}`");
    let section = take(what, (offset, length), cursor, end, SECTION_ALIGNMENT)?;
    let (mut inner, inner_end) = (section.start as u64, section.end as u64);
    let mut weights = Vec::new();
    let mut by_name = HashMap::new();
    for entry in entries {
        let weight = read_weight(&name, entry, &mut inner, inner_end)?;
        if by_name.insert(weight.spec.name.clone(), weights.len()).is_some() {
            return Err(SdqProblem::Duplicate {
                what: "weight",
                name: format!("{name}.{}", weight.spec.name),
            });
        }
        weights.push(weight);
    }
    Ok(StoredComponent { name, config, weights, by_name })
}

fn read_weight(
    component: &str,
    entry: WeightEntry,
    cursor: &mut u64,
    end: u64,
) -> Result<StoredWeight, SdqProblem> {
    let WeightEntry { name, role, shape, inputs, weight_type, relative_error, parts: entries } = entry;
    if !is_printable(&name) {
        return Err(SdqProblem::Name { what: "weight", name: quote(&name), rule: NAME_RULE });
    }
    let weight = format!("{component}.{name}");
    let Some(role) = WeightRole::from_name(&role) else {
        let known = WeightRole::ALL.map(WeightRole::name).join(", ");
        return Err(SdqProblem::UnknownRole { weight, found: quote(&role), known });
    };
    let Some(weight_type) = WeightType::from_name(&weight_type) else {
        let known = WeightType::ALL.map(WeightType::name).join(", ");
        return Err(SdqProblem::UnknownType { weight, found: quote(&weight_type), known });
    };
    let spec = WeightSpec { name, role, shape, inputs };
    let Some(expected) = layout::stored_parts(&spec, weight_type) else {
        let shape = quote(&format!("{:?}", &spec.shape[..spec.shape.len().min(8)]));
        return Err(SdqProblem::Shape { weight, role, weight_type, shape });
    };
    check_part_names(&weight, &entries, &expected)?;
    let mut parts = Vec::with_capacity(expected.len());
    for (PartEntry { offset, length, crc32, .. }, layout::Part { name, bytes }) in
        entries.iter().zip(expected)
    {
        if *length != bytes as u64 {
            return Err(SdqProblem::WeightLength { weight, expected: bytes as u64, found: *length });
        }
        let what = || format!("weight `{weight}`");
        let range = take(what, (*offset, *length), cursor, end, WEIGHT_ALIGNMENT)?;
        parts.push(StoredPart { name, range, crc32: *crc32 });
    }
    Ok(StoredWeight { spec, weight_type, relative_error, parts })
}

/// Checks that the parts of a weight are those of its type, in their order.
fn check_part_names(weight: &str, found: &[PartEntry], expected: &[layout::Part]) -> Result<(), SdqProblem> {
    if found.iter().map(|entry| entry.part.as_str()).eq(expected.iter().map(|part| part.name)) {
        return Ok(());
    }
    let found: Vec<&str> = found.iter().take(8).map(|entry| entry.part.as_str()).collect();
    let expected: Vec<&str> = expected.iter().map(|part| part.name).collect();
    let (expected, found) = (expected.join(", "), quote(&format!("\"{}\"", found.join(", "))));
    Err(SdqProblem::Parts { weight: weight.to_owned(), expected, found })
}

fn read_text(entry: &TextEntry, cursor: &mut u64, end: u64, file: &[u8]) -> Result<String, SdqProblem> {
    let TextEntry { name, offset, length, crc32 } = entry;
    if !is_relative_path(name) {
        return Err(SdqProblem::Name { what: "text", name: quote(name), rule: PATH_RULE });
    }
    let what = || format!("text `{name}`");
    let range = take(what, (*offset, *length), cursor, end, WEIGHT_ALIGNMENT)?;
    let bytes = file[range].to_vec();
    check_crc(&what(), *crc32, &bytes)?;
    String::from_utf8(bytes).map_err(|_| SdqProblem::Manifest(format!("text `{name}` is not UTF-8")))
}
