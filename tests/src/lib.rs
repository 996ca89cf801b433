//! What the tests that cross crates share: goldens saved from diffusers, measures of error with their tolerances,
//! models converted for the occasion, and checkpoints to damage.
#![forbid(unsafe_code)]

pub mod backend;
pub mod checkpoint;
pub mod command;
pub mod goldens;
pub mod measure;
pub mod models;
pub mod single_file;
pub mod vulkan;
