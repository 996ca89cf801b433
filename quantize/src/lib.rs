//! Conversion of published weights into one `.sdq` file.
//!
//! The converter knows no model: it is given the list of weights that each component reads and holds the checkpoint
//! to it. [`plan`] gives each weight its type; [`convert`] reads, encodes and writes one tensor after the other, so
//! memory is bounded by the two largest as they are stored.
#![forbid(unsafe_code)]

mod convert;
mod encode;
mod error;
mod precision;
mod source;

pub use convert::{Part, PlannedWeight, Progress, Report, check, convert};
pub use encode::{EncodeError, encode};
pub use error::ConvertError;
pub use precision::{Plan, Precision, Rule, RuleError, plan};
pub use source::{ComponentSource, ModelSource};
