//! The library under every front end of sdq: no flags, no terminal, no globals.
#![forbid(unsafe_code)]

pub mod recipe;
pub mod text;
