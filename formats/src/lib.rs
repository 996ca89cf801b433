//! Bytes on disk and typed views of them. The leaf crate: it knows no model and no kernel.

pub mod weight;

pub use weight::{WeightRole, WeightSpec, WeightType};
