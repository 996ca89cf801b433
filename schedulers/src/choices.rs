//! Settings of a config that are one of several words.

use crate::error::SchedulerError;
use crate::values::one_of;

/// How β_t changes over the training timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BetaSchedule {
    /// Evenly from `beta_start` to `beta_end` (Ho et al. 2020).
    Linear,
    /// √β evenly from √`beta_start` to √`beta_end` (latent diffusion).
    ScaledLinear,
    /// From ᾱ(t) = cos²((t + 0.008) / 1.008 · π/2), β at most 0.999 (Nichol & Dhariwal 2021, eq. 17).
    SquaredCosCapV2,
}

impl BetaSchedule {
    const NAMES: [(&'static str, BetaSchedule); 3] = [
        ("linear", BetaSchedule::Linear),
        ("scaled_linear", BetaSchedule::ScaledLinear),
        ("squaredcos_cap_v2", BetaSchedule::SquaredCosCapV2),
    ];

    pub(crate) fn from_value(key: &str, value: &serde_json::Value) -> Result<Self, SchedulerError> {
        one_of(key, value, &Self::NAMES)
    }
}

/// How inference timesteps are distributed over the training timesteps (Lin et al. 2023, arXiv:2305.08891,
/// table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestepSpacing {
    /// Multiples of `num_train_timesteps / steps` rounded down, shifted by `steps_offset`: never the noisiest.
    Leading,
    /// From the noisiest timestep downwards, never the first.
    Trailing,
    /// Evenly from the last timestep to the first, both included.
    Linspace,
}

impl TimestepSpacing {
    const NAMES: [(&'static str, TimestepSpacing); 3] = [
        ("leading", TimestepSpacing::Leading),
        ("trailing", TimestepSpacing::Trailing),
        ("linspace", TimestepSpacing::Linspace),
    ];

    pub(crate) fn from_value(key: &str, value: &serde_json::Value) -> Result<Self, SchedulerError> {
        one_of(key, value, &Self::NAMES)
    }
}
