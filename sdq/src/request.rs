//! The parts of a [`Request`].

pub use sdq_engine::{
    PromptReading, PromptSyntax, Request, Variation,
    pipeline::{Caching, Settings},
};
