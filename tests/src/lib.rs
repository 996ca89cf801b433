//! Code that tests of several crates share: goldens saved from diffusers, measures of error with their
//! tolerances, converted models, checkpoints to damage, and the documentation.
#![deny(unsafe_code)]

pub mod allocator;
pub mod backend;
pub mod checkpoint;
pub mod command;
pub mod documents;
pub mod goldens;
pub mod measure;
pub mod models;
pub mod single_file;
pub mod vulkan;
