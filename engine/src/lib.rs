//! Runs Stable Diffusion models from an `.sdq` file.
//!
//! ```no_run
//! use std::{ops::ControlFlow, path::Path};
//! use sdq_engine::{Pipeline, PipelineOptions, Request};
//!
//! let pipeline = Pipeline::open(Path::new("model.sdq"), &PipelineOptions::default())?;
//! let request = Request { prompt: "a red apple".to_owned(), seed: 7, ..Request::default() };
//! let generated = pipeline.generate(&request, &mut |_event| ControlFlow::Continue(()))?;
//! assert_eq!(generated.pictures.len(), 1);
//! # Ok::<(), sdq_engine::Error>(())
//! ```
//!
//! The flow is in [`pipeline`], the networks, written as graphs, in [`models`], and the backends that run
//! them in [`backend`].

pub mod adapters;
pub mod backend;
mod error;
pub mod families;
pub mod graph;
pub mod memory;
pub mod metrics;
mod model;
pub mod models;
mod network;
mod pages;
mod picture;
pub mod pipeline;
mod prompt;
pub mod published;
pub mod rng;
pub mod roles;
mod tensor;
pub mod tokenizer;
mod words;

pub use error::{Error, JobProblem};
pub use families::{ExtraInput, ModelIndex};
pub use model::{JoinedTextStates, Model};
pub use network::Network;
pub use picture::{Mask, Picture};
pub use pipeline::{
    Checkpoint, Defaults, Event, Generated, Pipeline, PipelineOptions, Preview, Request, SavedRun, Variation,
};
pub use prompt::{PromptLength, PromptReading, PromptSyntax};
pub use roles::RatedWeight;
pub use tensor::Tensor;
pub use words::ExtraWords;
