//! Conversion of published weights to one `.sdq` file.
//!
//! The converter is independent of models: it gets the list of weights that each component reads and compares
//! the checkpoint with it. [`plan`] gives each weight its type; [`convert`] reads, encodes and writes one
//! tensor after the other, so memory is bounded by the two largest stored tensors.
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
