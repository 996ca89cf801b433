//! File formats: bytes on disk and typed views of them. This crate depends on no other crate of the workspace
//! and is independent of models and kernels.
//!
//! The readers trust no input: lengths, offsets, names, shapes and alignment are checked before use, and no
//! memory is allocated for an unchecked number. The writers write to a temporary file in the destination's
//! folder and rename it.

#![deny(unsafe_code)]

pub mod arenas;
pub mod atomic;
pub mod block;
pub mod checkpoint;
pub mod dtype;
pub mod gguf;
pub mod layout;
pub mod links;
pub mod lost_page;
pub mod mmap;
pub mod names;
pub mod pickle;
pub mod picture;
pub mod safetensors;
pub mod sdq;
pub mod sniff;
pub mod tensor;
pub mod text;
pub mod text_file;
pub mod weight;

pub use weight::{Sensitivity, WeightRole, WeightSpec, WeightType};
