//! The parts of a [`Request`].

pub use sdq_engine::{
    PromptLength, PromptReading, PromptSyntax, Request, Variation,
    pipeline::{Accepts, Caching, Defaults, Settings},
};
