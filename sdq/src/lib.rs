//! The library under every front end of sdq: no flags, no terminal, no globals.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! let pipeline = sdq::model::open(None, &Default::default())?;
//! let request = sdq::Request::new("a red apple").steps(1);
//! let generated = pipeline.generate(&request, &mut |_event| ControlFlow::Continue(()))?;
//! assert_eq!(generated.pictures.len(), 1);
//! # Ok::<(), sdq::Error>(())
//! ```
//!
//! Work that takes long is given a [`Watch`]: it tells an observer of owned [`Event`]s and stops when a [`Cancel`] token says so.
//! Failures are [`Error`]s with stable codes.
#![forbid(unsafe_code)]

pub mod add_ons;
mod budget;
pub mod convert;
pub mod device;
#[cfg(feature = "vulkan")]
pub mod doctor;
mod error;
pub mod evaluate;
pub mod inspect;
pub mod measure;
pub mod model;
pub mod observer;
mod paths;
pub mod plan;
pub mod prompts;
pub mod recipe;
pub mod request;
pub mod run;
mod session;
mod tags;
pub mod text;

pub use budget::MemoryBudget;
pub use error::{Error, ErrorKind};
pub use observer::{Cancel, Event, Note, Task, Watch};
pub use sdq_engine::{Generated, Mask, Picture, Pipeline, PipelineOptions, Request};
pub use sdq_formats::picture;
pub use sdq_schedulers as schedulers;
pub use session::{DrawOptions, Session};
