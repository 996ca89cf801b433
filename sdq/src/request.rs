//! The parts of a [`Request`].

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

pub use sdq_engine::{
    PromptLength, PromptReading, PromptSyntax, Request, Variation,
    pipeline::{Accepts, Caching, Defaults, MaskedContent, SIZE_STEP, Settings},
};

/// A random seed with 32 bits, as in other programs.
pub fn random_seed() -> u64 {
    // The standard library seeds its hash maps from the system's random numbers.
    RandomState::new().build_hasher().finish() & u64::from(u32::MAX)
}
