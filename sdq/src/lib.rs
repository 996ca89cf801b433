//! The library on which all front ends of sdq are based: without flags, terminal or globals.
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
//! Long operations take a [`Watch`]: they send owned [`Event`]s to its observer and stop when its [`Cancel`]
//! token is used. Failures are [`Error`]s with stable codes.
#![forbid(unsafe_code)]

pub mod add_ons;
pub mod batch;
mod budget;
mod cancel;
mod contact_sheet;
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
mod temporary;
pub use sdq_formats::text;

pub use budget::MemoryBudget;
pub use contact_sheet::contact_sheet;
pub use error::{Error, ErrorKind};
pub use observer::{Cancel, Event, Note, Task, Watch};
pub use sdq_engine::{Generated, Mask, Picture, Pipeline, PipelineOptions, Request};
pub use sdq_formats::{arenas, lost_page, picture};
pub use sdq_schedulers as schedulers;
pub use session::{DrawOptions, Session};
pub use temporary::TemporaryFolder;
