//! The common part of the DPM-Solvers: one step of an exponential integrator from one level to another.
//!
//! Lu et al. 2022, "DPM-Solver", arXiv:2206.00927 (noise prediction) and "DPM-Solver++", arXiv:2211.01095
//! (data prediction, and the SDE solvers of its appendix).

use crate::config::SchedulerConfig;
use crate::error::SchedulerError;
use crate::history::{Combination, alpha_sigma};
use crate::prediction::PredictionType;
use crate::values::invalid;

/// The equation that is solved, and the prediction in which it is formulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Algorithm {
    /// The ODE in noise prediction.
    Noise,
    /// The ODE in data prediction (++).
    Data,
    /// The SDE in noise prediction.
    NoiseSde,
    /// The SDE in data prediction (++).
    DataSde,
}

const DEIS: &str = "deis";

const ALGORITHMS: [(&str, Algorithm); 5] = [
    ("dpmsolver++", Algorithm::Data),
    ("dpmsolver", Algorithm::Noise),
    ("sde-dpmsolver++", Algorithm::DataSde),
    ("sde-dpmsolver", Algorithm::NoiseSde),
    // diffusers interprets the configs of another class in this way, if they define the end of the run.
    (DEIS, Algorithm::Data),
];

/// How the second derivative is included: as the difference alone, or as its integral.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum SolverType {
    Midpoint,
    Heun,
}

const SOLVER_TYPES: [(&str, SolverType); 5] = [
    ("midpoint", SolverType::Midpoint),
    ("heun", SolverType::Heun),
    // diffusers interprets the configs of other classes in this way.
    ("logrho", SolverType::Midpoint),
    ("bh1", SolverType::Midpoint),
    ("bh2", SolverType::Midpoint),
];

/// The common settings of the two DPM-Solvers.
#[derive(Clone, Copy)]
pub(crate) struct Solver {
    pub(crate) algorithm: Algorithm,
    pub(crate) solver_type: SolverType,
    pub(crate) order: usize,
    pub(crate) ends_at_zero: bool,
}

impl Solver {
    pub(crate) fn from_config(scheduler: &str, config: &SchedulerConfig) -> Result<Self, SchedulerError> {
        refuse_flow(scheduler, config)?;
        for variance_type in ["learned", "learned_range"] {
            if config.choice("variance_type", &VARIANCE_TYPES)? == Some(variance_type) {
                let expected = "a variance that the model does not predict";
                return Err(invalid("variance_type", expected, variance_type));
            }
        }
        let solver = Solver {
            algorithm: config.choice("algorithm_type", &ALGORITHMS)?.unwrap_or(Algorithm::Data),
            solver_type: config.choice("solver_type", &SOLVER_TYPES)?.unwrap_or(SolverType::Midpoint),
            order: config.whole("solver_order", 1, 3)?.unwrap_or(2),
            ends_at_zero: ends_at_zero(config)?,
        };
        // Noise prediction divides by the noise of the last level.
        let is_deis = config.choice("algorithm_type", &ALGORITHMS.map(|(name, _)| (name, name == DEIS)))?;
        let predicts_noise = matches!(solver.algorithm, Algorithm::Noise | Algorithm::NoiseSde);
        if (predicts_noise || is_deis == Some(true)) && solver.ends_at_zero {
            return Err(invalid("final_sigmas_type", "sigma_min with this `algorithm_type`", "zero"));
        }
        Ok(solver)
    }

    pub(crate) fn draws_noise(self) -> bool {
        matches!(self.algorithm, Algorithm::DataSde | Algorithm::NoiseSde)
    }

    /// The quantity to which the model's output is converted: x_0, or ε.
    pub(crate) fn converted(self, sigma: f64) -> Combination {
        match self.algorithm {
            Algorithm::Data | Algorithm::DataSde => Combination { original: 1.0, ..Combination::default() },
            Algorithm::Noise | Algorithm::NoiseSde => epsilon(sigma),
        }
    }
}

const VARIANCE_TYPES: [(&str, &str); 5] = [
    ("learned", "learned"),
    ("learned_range", "learned_range"),
    ("fixed_small", "fixed_small"),
    ("fixed_small_log", "fixed_small_log"),
    ("fixed_large", "fixed_large"),
];

/// ε = (x - α x_0) / σ_t at `sigma` = σ_t / α.
pub(crate) fn epsilon(sigma: f64) -> Combination {
    let (alpha, noise_level) = alpha_sigma(sigma);
    Combination { latents: 1.0 / noise_level, original: -alpha / noise_level, ..Combination::default() }
}

/// Whether the run ends without noise (`final_sigmas_type`).
pub(crate) fn ends_at_zero(config: &SchedulerConfig) -> Result<bool, SchedulerError> {
    let ends = config.choice("final_sigmas_type", &[("zero", true), ("sigma_min", false)])?;
    Ok(ends.unwrap_or(true))
}

/// Refuses options of flow-matching models.
pub(crate) fn refuse_flow(scheduler: &str, config: &SchedulerConfig) -> Result<(), SchedulerError> {
    config.refuse_unless(scheduler, "use_flow_sigmas", false)?;
    config.refuse_unless(scheduler, "use_dynamic_shifting", false)
}

/// Refuses models that predict x_0 if diffusers' class does.
pub(crate) fn refuse_sample(scheduler: &str, config: &SchedulerConfig) -> Result<(), SchedulerError> {
    match config.prediction_type {
        PredictionType::Sample => Err(SchedulerError::Unsupported {
            scheduler: scheduler.to_owned(),
            key: "prediction_type".to_owned(),
            value: "sample".to_owned(),
            advice: "use another scheduler, such as heun".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// λ = log(α / σ_t), half the log-SNR.
pub(crate) fn lambda(sigma: f64) -> f64 {
    -sigma.ln()
}

/// The weights of one step with h = λ_to - λ_from, for derivatives D0 (the prediction itself), D1 and D2 with
/// respect to λ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights {
    pub(crate) latents: f64,
    pub(crate) d0: f64,
    /// Weight of D1 with the midpoint rule.
    pub(crate) d1_midpoint: f64,
    /// Weight of D1, integrated.
    pub(crate) d1: f64,
    pub(crate) d2: f64,
    pub(crate) noise: f64,
}

impl Weights {
    /// The step from the level `from` to the level `to`, sigmas relative to the signal.
    pub(crate) fn new(algorithm: Algorithm, from: f64, to: f64) -> Self {
        if from == to {
            // h = 0: nothing changes, and the quotients below would be undefined.
            return Weights { latents: 1.0, d0: 0.0, d1_midpoint: 0.0, d1: 0.0, d2: 0.0, noise: 0.0 };
        }
        let (alpha_to, sigma_to) = alpha_sigma(to);
        let (alpha_from, sigma_from) = alpha_sigma(from);
        let h = lambda(to) - lambda(from);
        match algorithm {
            Algorithm::Data => {
                let decay = (-h).exp_m1();
                Weights {
                    latents: sigma_to / sigma_from,
                    d0: -alpha_to * decay,
                    d1_midpoint: -0.5 * alpha_to * decay,
                    d1: alpha_to * (decay / h + 1.0),
                    d2: -alpha_to * ((decay + h) / (h * h) - 0.5),
                    noise: 0.0,
                }
            }
            Algorithm::Noise => {
                let growth = h.exp_m1();
                Weights {
                    latents: alpha_to / alpha_from,
                    d0: -sigma_to * growth,
                    d1_midpoint: -0.5 * sigma_to * growth,
                    d1: -sigma_to * (growth / h - 1.0),
                    d2: -sigma_to * ((growth - h) / (h * h) - 0.5),
                    noise: 0.0,
                }
            }
            Algorithm::DataSde => {
                let growth = -(-2.0 * h).exp_m1();
                Weights {
                    latents: sigma_to / sigma_from * (-h).exp(),
                    d0: alpha_to * growth,
                    d1_midpoint: 0.5 * alpha_to * growth,
                    d1: alpha_to * (growth / (-2.0 * h) + 1.0),
                    d2: alpha_to * ((growth - 2.0 * h) / (4.0 * h * h) - 0.5),
                    noise: sigma_to * growth.sqrt(),
                }
            }
            Algorithm::NoiseSde => {
                let growth = h.exp_m1();
                Weights {
                    latents: alpha_to / alpha_from,
                    d0: -2.0 * sigma_to * growth,
                    d1_midpoint: -sigma_to * growth,
                    d1: -2.0 * sigma_to * (growth / h - 1.0),
                    // diffusers has no third order for this algorithm.
                    d2: f64::NAN,
                    noise: sigma_to * (2.0 * h).exp_m1().sqrt(),
                }
            }
        }
    }

    /// The weight of D1 for `solver_type`.
    pub(crate) fn first_derivative(self, solver_type: SolverType) -> f64 {
        match solver_type {
            SolverType::Midpoint => self.d1_midpoint,
            SolverType::Heun => self.d1,
        }
    }
}
