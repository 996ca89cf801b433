//! Bytes on disk and typed views of them. The leaf crate: it knows no model and no kernel.
//!
//! Every reader here trusts nothing: lengths, offsets, names, shapes and alignment are checked before use, and
//! nothing is allocated from an unchecked number. Every writer writes beside its destination and renames.

#![deny(unsafe_code)]

pub mod atomic;
pub mod block;
pub mod checkpoint;
pub mod dtype;
pub mod gguf;
pub mod layout;
pub mod mmap;
pub mod names;
pub mod pickle;
pub mod picture;
pub mod safetensors;
pub mod sdq;
pub mod sniff;
pub mod tensor;
pub mod text_file;
pub mod weight;

pub use weight::{Sensitivity, WeightRole, WeightSpec, WeightType};
