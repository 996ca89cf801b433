//! Errors of reading and writing `.sdq` files.

use std::io;
use std::path::{Path, PathBuf};

use crate::layout::LayoutError;
use crate::sniff::FileKind;
use crate::weight::{WeightRole, WeightType};

/// An error of reading or writing an `.sdq` file, with its path.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct SdqError {
    /// The file, or a label for bytes in the program itself.
    pub path: PathBuf,
    /// The problem.
    pub problem: Box<SdqProblem>,
}

impl SdqError {
    pub(super) fn new(path: &Path, problem: impl Into<SdqProblem>) -> SdqError {
        SdqError { path: path.to_path_buf(), problem: Box::new(problem.into()) }
    }
}

/// Problems of an `.sdq` file. Offsets and lengths are in bytes, offsets from the start of the file.
#[derive(Debug, thiserror::Error)]
pub enum SdqProblem {
    /// The operating system could not read or write the file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file does not start with the magic bytes.
    #[error("expected an .sdq file, found {0}")]
    NotSdq(FileKind),
    /// The file was written by a newer program.
    #[error("the file has format version {found}, expected {expected}; a newer sdq may read it")]
    Version {
        /// The version this program reads.
        expected: u32,
        /// The version in the file.
        found: u32,
    },
    /// The 64 bytes at the start are damaged.
    #[error("the header is damaged: {0}")]
    Header(&'static str),
    /// The file was truncated or extended.
    #[error("the file has {found} bytes, expected {expected}; it is truncated or damaged")]
    FileLength {
        /// Length according to the header.
        expected: u64,
        /// Actual length.
        found: u64,
    },
    /// The table of contents is not at the position in the header, or too long.
    #[error("the table of contents at offset {offset} has {length} bytes, which does not fit the file")]
    TableBounds {
        /// Its start according to the header.
        offset: u64,
        /// Its length according to the header.
        length: u64,
    },
    /// The checksum of the table of contents, an embedded text or a weight is wrong.
    #[error("{what} is damaged: the checksum is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// The part of the file.
        what: String,
        /// The checksum in the file.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
    /// The table of contents is not valid JSON, or not of the expected structure.
    #[error("the table of contents is not valid: {0}")]
    Json(String),
    /// A field of the manifest is not valid.
    #[error("the manifest is not valid: {0}")]
    Manifest(String),
    /// A name is empty, too long, contains control characters, or (for texts) leads out of its folder.
    #[error("the {what} name \"{name}\" is not allowed: {rule}")]
    Name {
        /// Kind of the named item.
        what: &'static str,
        /// The name, shortened and escaped.
        name: String,
        /// The rule for such names.
        rule: &'static str,
    },
    /// Two items of one kind have the same name.
    #[error("{what} `{name}` appears twice")]
    Duplicate {
        /// Kind of the named item.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A range of bytes is outside its section, overlaps another one or is out of order.
    #[error("{what} has {length} bytes at offset {offset}, expected a place within {first}..{end}")]
    Bounds {
        /// The item with this range.
        what: String,
        /// Its start.
        offset: u64,
        /// Its length.
        length: u64,
        /// The first allowed byte.
        first: u64,
        /// The end of the allowed bytes.
        end: u64,
    },
    /// A range does not start at a multiple of its alignment.
    #[error("{what} at offset {offset} is not aligned to {alignment} bytes")]
    Alignment {
        /// The item with this range.
        what: String,
        /// Its start.
        offset: u64,
        /// The required alignment.
        alignment: u64,
    },
    /// A role that is not supported.
    #[error("weight `{weight}` has the unknown role \"{found}\", expected one of {known}")]
    UnknownRole {
        /// The weight, with its component.
        weight: String,
        /// The role in the file, shortened and escaped.
        found: String,
        /// The supported roles.
        known: String,
    },
    /// A type that is not supported.
    #[error(
        "weight `{weight}` has the unknown type \"{found}\", expected one of {known}; a newer sdq may read it"
    )]
    UnknownType {
        /// The weight, with its component.
        weight: String,
        /// The type in the file, shortened and escaped.
        found: String,
        /// The supported types.
        known: String,
    },
    /// The role does not allow this shape or type, or a size overflows.
    #[error(
        "weight `{weight}` cannot combine the role {role}, the type {weight_type} and the shape {shape}",
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
    /// A weight does not have the parts of its type.
    #[error("weight `{weight}` has the parts {found}, expected {expected}")]
    Parts {
        /// The weight, with its component.
        weight: String,
        /// Names of the parts of its type.
        expected: String,
        /// Names in the file, shortened and escaped.
        found: String,
    },
    /// The number of bytes of a weight does not match its role, type and shape.
    #[error("weight `{weight}` has {found} bytes, expected {expected}")]
    WeightLength {
        /// The weight, with its component.
        weight: String,
        /// The required number.
        expected: u64,
        /// The actual number.
        found: u64,
    },
    /// The model reads a weight that is missing in the file.
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
