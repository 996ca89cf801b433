//! The `config.json` of each component of a checkpoint, checked.
//!
//! Field names are those of the files. A key that would change the result and is not supported is an error.

mod fields;

pub(super) use fields::{Fields, MAX_DEPTH};

use crate::{Error, graph::Activation};

/// Keys of an EMA of the weights. diffusers adds them to the config of a network saved from an EMA; they only matter in
/// training.
pub(super) const EMA_KEYS: [&str; 7] =
    ["decay", "min_decay", "inv_gamma", "power", "optimization_step", "update_after_step", "use_ema_warmup"];

pub(super) const ACTIVATIONS: [(&str, Activation); 6] = [
    ("quick_gelu", Activation::QuickGelu),
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("silu", Activation::Silu),
    ("relu", Activation::Relu),
];

pub(super) const SILU: [(&str, ()); 2] = [("silu", ()), ("swish", ())];

/// Checks that the number under `key` divides every one of `widths`.
pub(super) fn check_divides(
    fields: &Fields,
    key: &str,
    widths: &[usize],
    divisor: usize,
) -> Result<(), Error> {
    match widths.iter().find(|width| **width % divisor != 0) {
        None => Ok(()),
        Some(width) => {
            Err(fields.error(key, format!("a divisor of {width}, which is in block_out_channels")))
        }
    }
}

#[cfg(test)]
mod tests;
