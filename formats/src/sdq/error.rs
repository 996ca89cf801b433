//! Everything that can be wrong with an `.sdq` file.

use std::io;
use std::path::{Path, PathBuf};

use crate::layout::LayoutError;
use crate::sniff::FileKind;
use crate::weight::{WeightRole, WeightType};

/// An `.sdq` file that cannot be read or written: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct SdqError {
    /// The file, or a label where the bytes come from the program itself.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Box<SdqProblem>,
}

impl SdqError {
    pub(super) fn new(path: &Path, problem: impl Into<SdqProblem>) -> SdqError {
        SdqError { path: path.to_path_buf(), problem: Box::new(problem.into()) }
    }
}

/// What is wrong with an `.sdq` file. Offsets and lengths are in bytes, offsets from the start of the file.
#[derive(Debug, thiserror::Error)]
pub enum SdqProblem {
    /// The system refused to read or write.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It does not start with the magic bytes.
    #[error("not an .sdq file; it is {0}")]
    NotSdq(FileKind),
    /// Written by a newer program.
    #[error("format version {found}, this program reads version {expected}")]
    Version {
        /// The version this program reads.
        expected: u32,
        /// The version in the file.
        found: u32,
    },
    /// The 64 bytes at the start are damaged.
    #[error("the header is damaged: {0}")]
    Header(&'static str),
    /// Truncated or extended.
    #[error("{found} bytes long, expected {expected}: the file is incomplete or damaged")]
    FileLength {
        /// Length according to the header.
        expected: u64,
        /// Length in fact.
        found: u64,
    },
    /// The table of contents is not where the header says, or too long.
    #[error("the table of contents at {offset} with {length} bytes does not fit the file")]
    TableBounds {
        /// Its start according to the header.
        offset: u64,
        /// Its length according to the header.
        length: u64,
    },
    /// The checksum of the table of contents, an embedded text or a weight is wrong.
    #[error("{what} is damaged: checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Which part of the file.
        what: String,
        /// The checksum in the file.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
    /// The table of contents is not the JSON that it should be.
    #[error("the table of contents is not valid: {0}")]
    Json(String),
    /// A field of the manifest is out of place.
    #[error("manifest: {0}")]
    Manifest(String),
    /// A name that is empty, too long, holds control characters, or (for texts) leaves its folder.
    #[error("{what} name \"{name}\" is not allowed")]
    Name {
        /// Kind of thing named.
        what: &'static str,
        /// The name, shortened and escaped.
        name: String,
    },
    /// Two things of one kind with one name.
    #[error("{what} `{name}` appears twice")]
    Duplicate {
        /// Kind of thing named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A range of bytes outside of its section, overlapping or out of order.
    #[error("{what} at {offset} with {length} bytes is outside of {first}..{end}, where it must lie")]
    Bounds {
        /// What lies there.
        what: String,
        /// Its start.
        offset: u64,
        /// Its length.
        length: u64,
        /// The first byte it may take.
        first: u64,
        /// The end of what it may take.
        end: u64,
    },
    /// A start that is not a multiple of what it must be.
    #[error("{what} at {offset} is not aligned to {alignment} bytes")]
    Alignment {
        /// What lies there.
        what: String,
        /// Its start.
        offset: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// A role that this program does not know.
    #[error("weight `{weight}` has the unknown role \"{found}\", known are {known}")]
    UnknownRole {
        /// The weight, with its component.
        weight: String,
        /// The role in the file, shortened and escaped.
        found: String,
        /// The roles this program knows.
        known: String,
    },
    /// A type that this program does not know.
    #[error("weight `{weight}` has the unknown type \"{found}\", known are {known}: a newer sdq may read it")]
    UnknownType {
        /// The weight, with its component.
        weight: String,
        /// The type in the file, shortened and escaped.
        found: String,
        /// The types this program knows.
        known: String,
    },
    /// A shape or type that its role does not have, or a size that overflows.
    #[error(
        "weight `{weight}` of role {role}, type {weight_type} and shape {shape} cannot be",
        role = role.name(), weight_type = weight_type.name()
    )]
    Shape {
        /// The weight, with its component.
        weight: String,
        /// Its role.
        role: WeightRole,
        /// Its type.
        weight_type: WeightType,
        /// Its shape, shortened.
        shape: String,
    },
    /// A weight's parts are not those of its type.
    #[error("weight `{weight}` has the parts {found}, expected {expected}")]
    Parts {
        /// The weight, with its component.
        weight: String,
        /// Names of the parts its type has.
        expected: String,
        /// Names in the file, shortened and escaped.
        found: String,
    },
    /// A weight's byte count is not what its role, type and shape ask for.
    #[error("weight `{weight}` has {found} bytes, expected {expected}")]
    WeightLength {
        /// The weight, with its component.
        weight: String,
        /// What it should have.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// The model reads a weight that the file lacks.
    #[error("weight `{weight}` is missing")]
    MissingWeight {
        /// The weight, with its component.
        weight: String,
    },
    /// The file has a weight that the model does not read.
    #[error("weight `{weight}` is not part of the model")]
    SurplusWeight {
        /// The weight, with its component.
        weight: String,
    },
    /// The file and the model disagree about a weight.
    #[error("weight `{weight}` is a {found}, expected a {expected}")]
    DifferentWeight {
        /// The weight, with its component.
        weight: String,
        /// Role and shape that the model reads.
        expected: String,
        /// Role and shape in the file.
        found: String,
    },
    /// The values of a weight cannot be stored.
    #[error("{0}")]
    Layout(#[from] LayoutError),
    /// The writer was called out of order: a weight before any component.
    #[error("weight `{weight}` was written before any component")]
    NoComponent {
        /// The weight.
        weight: String,
    },
}
