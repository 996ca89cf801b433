//! Conversion of published weights into one `.sdq` file.
//!
//! The converter knows no model: it is given the list of weights that each component reads and holds the checkpoint
//! to it. Every tensor is read, checked, packed and written before the next, so memory is bounded by the largest.
#![forbid(unsafe_code)]

mod convert;
mod encode;
mod error;

pub use convert::{Part, Progress, Report, convert};
pub use encode::{EncodeError, encode};
pub use error::ConvertError;
