//! The noise levels of a run: sigmas by the rules that samplers share, and their timesteps.

use crate::choices::TimestepSpacing;
use crate::config::{AlignedSteps, SchedulerConfig};
use crate::error::{SchedulerError, StepLimit};
use crate::noise_schedule::NoiseSchedule;
use crate::timesteps::{fractional_timesteps, timesteps_before_the_first};
use crate::values::invalid;

/// How the sigmas of a run are distributed between the noisiest and the least noisy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum SigmaSchedule {
    /// Those of training at the inference timesteps.
    Training,
    /// σ^(1/ρ) evenly spaced, ρ = 7 (Karras et al. 2022, arXiv:2206.00364, eq. 5).
    Karras,
    /// log σ evenly spaced.
    Exponential,
    /// Quantiles of the Beta(0.6, 0.6) distribution (Lee et al. 2024, "Beta Sampling is All You Need",
    /// arXiv:2407.12173).
    Beta,
    /// Quantiles of the same distribution over the timesteps, as in that paper and in ComfyUI.
    BetaTimesteps,
    /// log-SNR evenly spaced (Lu et al. 2022, DPM-Solver, arXiv:2206.00927): the exponential levels, each
    /// moved to a whole timestep.
    Lu,
    /// Levels optimized for a model, with log-linear interpolation (Sabour et al. 2024, "Align Your Steps",
    /// arXiv:2404.14507).
    AlignYourSteps(&'static [f64; 10]),
    /// The sigmas of training at timesteps spaced evenly from the last to the first, both included: the default of
    /// k-diffusion, `normal` in ComfyUI.
    Normal,
    /// The same with one more level, whose last one is replaced by the end of the run (Stability AI's
    /// generative-models).
    SgmUniform,
    /// Every n-th level of training, from the noisiest on; fractions are rounded towards the noisiest (ComfyUI).
    Simple,
    /// Every n-th level of training, from timestep 1 upwards (Song et al. 2020, arXiv:2010.02502, with the offset of
    /// the latent diffusion code).
    DdimUniform,
    /// arctan σ evenly spaced (Sabour et al. 2024, arXiv:2404.14507, the optimum for Gaussian data).
    KlOptimal,
}

/// Levels of ten steps, as published for each model. The eleventh is the least noisy level of training.
const ALIGN_YOUR_STEPS: [(&str, SigmaSchedule); 2] = [
    (
        "sd1",
        SigmaSchedule::AlignYourSteps(&[
            14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152,
        ]),
    ),
    (
        "sdxl",
        SigmaSchedule::AlignYourSteps(&[
            14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113,
        ]),
    ),
];

/// The values of `sigma_spacing`.
const SPACINGS: [(&str, SigmaSchedule); 9] = [
    ("normal", SigmaSchedule::Normal),
    ("karras", SigmaSchedule::Karras),
    ("exponential", SigmaSchedule::Exponential),
    ("beta", SigmaSchedule::Beta),
    ("beta_timesteps", SigmaSchedule::BetaTimesteps),
    ("sgm_uniform", SigmaSchedule::SgmUniform),
    ("simple", SigmaSchedule::Simple),
    ("ddim_uniform", SigmaSchedule::DdimUniform),
    ("kl_optimal", SigmaSchedule::KlOptimal),
];

const FLAGS: [(&str, SigmaSchedule); 4] = [
    ("use_karras_sigmas", SigmaSchedule::Karras),
    ("use_exponential_sigmas", SigmaSchedule::Exponential),
    ("use_beta_sigmas", SigmaSchedule::Beta),
    ("use_lu_lambdas", SigmaSchedule::Lu),
];

impl SigmaSchedule {
    /// The schedule that `config` selects among `keys`, or that of training.
    ///
    /// # Errors
    /// If it selects two, or a value is not valid for its key.
    fn from_config(config: &SchedulerConfig, keys: &[&str]) -> Result<Self, SchedulerError> {
        let mut chosen = None;
        let mut choose = |key: &'static str, schedule| match chosen.replace((key, schedule)) {
            Some((other, _)) => Err(invalid(key, format!("false because `{other}` is set"), true)),
            None => Ok(()),
        };
        for (key, schedule) in FLAGS {
            if keys.contains(&key) && config.flag(key)? == Some(true) {
                choose(key, schedule)?;
            }
        }
        if let Some(schedule) = align_your_steps(config)? {
            choose(ALIGN_YOUR_STEPS_KEY, schedule)?;
        }
        if let Some(schedule) = config.choice(SPACING_KEY, &SPACINGS)? {
            choose(SPACING_KEY, schedule)?;
        }
        Ok(chosen.map_or(SigmaSchedule::Training, |(_, schedule)| schedule))
    }

    /// `count` sigmas, descending from `max` to `min`; those of Lu and those at chosen timesteps cover all of
    /// training, those of Align Your Steps are published. The last sigma of some of these is above the smallest.
    /// `None` if the schedule is that of training itself.
    fn sigmas(self, max: f64, min: f64, training: &TrainingSigmas, count: usize) -> Option<Vec<f64>> {
        let evenly = |from: f64, to: f64| linspace(from, to, count);
        Some(match self {
            SigmaSchedule::Training => return None,
            SigmaSchedule::Karras => {
                const RHO: f64 = 7.0;
                let (from, to) = (max.powf(1.0 / RHO), min.powf(1.0 / RHO));
                let ramp = evenly(0.0, 1.0);
                ramp.into_iter().map(|share| (from + share * (to - from)).powf(RHO)).collect()
            }
            SigmaSchedule::Exponential => evenly(max.ln(), min.ln()).into_iter().map(f64::exp).collect(),
            SigmaSchedule::Lu => {
                let logarithms = &training.log_sigmas;
                let (from, to) = (logarithms[logarithms.len() - 1], logarithms[0]);
                evenly(from, to).into_iter().map(f64::exp).collect()
            }
            SigmaSchedule::Beta => {
                let shares = evenly(0.0, 1.0).into_iter();
                shares.map(|share| min + crate::beta::quantile(1.0 - share) * (max - min)).collect()
            }
            SigmaSchedule::AlignYourSteps(published) => {
                let logarithms: Vec<f64> =
                    published.iter().copied().chain([training.least()]).map(f64::ln).collect();
                let positions = linspace(0.0, published.len() as f64, count + 1).into_iter().take(count);
                positions.map(|position| interpolate(&logarithms, position).exp()).collect()
            }
            SigmaSchedule::KlOptimal => {
                let (from, to) = (max.atan(), min.atan());
                let shares = evenly(0.0, 1.0).into_iter();
                shares.map(|share| (share * to + (1.0 - share) * from).tan()).collect()
            }
            SigmaSchedule::Normal
            | SigmaSchedule::BetaTimesteps
            | SigmaSchedule::SgmUniform
            | SigmaSchedule::Simple
            | SigmaSchedule::DdimUniform => {
                let timesteps = self.timesteps(training.sigmas.len(), count).into_iter();
                timesteps.map(|timestep| interpolate(&training.log_sigmas, timestep).exp()).collect()
            }
        })
    }

    /// The timesteps of a schedule that is defined by timesteps: `count` of `train`. Empty for the others.
    fn timesteps(self, train: usize, count: usize) -> Vec<f64> {
        let last = (train - 1) as f64;
        match self {
            SigmaSchedule::Normal => linspace(last, 0.0, count),
            SigmaSchedule::SgmUniform => linspace(last, 0.0, count + 1).into_iter().take(count).collect(),
            SigmaSchedule::BetaTimesteps => {
                let shares = (0..count).map(|i| 1.0 - i as f64 / count as f64);
                shares.map(|share| last * crate::beta::quantile(share)).collect()
            }
            SigmaSchedule::Simple => {
                let stride = train as f64 / count as f64;
                (0..count).map(|i| last - (i as f64 * stride).floor()).collect()
            }
            SigmaSchedule::DdimUniform => {
                let stride = (train / count).max(1);
                (0..count).rev().map(|i| (i * stride + 1) as f64).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether the schedule covers the training's range of noise levels, regardless of `timestep_spacing`.
    fn spans_training(self) -> bool {
        use SigmaSchedule::{BetaTimesteps, DdimUniform, KlOptimal, Normal, SgmUniform, Simple};
        matches!(self, Normal | BetaTimesteps | SgmUniform | Simple | DdimUniform | KlOptimal)
    }
}

pub(crate) const ALIGN_YOUR_STEPS_KEY: &str = "use_align_your_steps";

/// A key of sdq's own: diffusers has a flag for each schedule, and not in all classes.
pub(crate) const SPACING_KEY: &str = "sigma_spacing";

/// All keys that select a sigma schedule.
pub(crate) const SCHEDULE_KEYS: [&str; 6] = [
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    ALIGN_YOUR_STEPS_KEY,
    SPACING_KEY,
];

/// Refuses the keys `refused`, which are sdq's own, for `scheduler`, which chooses its timesteps itself.
pub(crate) fn refuse_own_schedules(
    scheduler: &str,
    config: &SchedulerConfig,
    refused: &[&str],
) -> Result<(), SchedulerError> {
    refused.iter().try_for_each(|key| config.refuse_unless(scheduler, key, serde_json::Value::Null))
}

/// Whether `config` selects a schedule by [`SPACING_KEY`].
///
/// # Errors
/// If there is none of that name.
pub(crate) fn is_spaced(config: &SchedulerConfig) -> Result<bool, SchedulerError> {
    Ok(config.choice(SPACING_KEY, &SPACINGS)?.is_some())
}

fn align_your_steps(config: &SchedulerConfig) -> Result<Option<SigmaSchedule>, SchedulerError> {
    let [sd1, sdxl] = ALIGN_YOUR_STEPS;
    let of_model = match config.aligned_steps {
        AlignedSteps::Sd1 => sd1.1,
        AlignedSteps::Sdxl => sdxl.1,
    };
    config.choice(ALIGN_YOUR_STEPS_KEY, &[sd1, sdxl, ("auto", of_model)])
}

/// The training timesteps nearest to the levels of Align Your Steps, if `config` selects them.
///
/// # Errors
/// If there are more steps than distinct timesteps.
pub(crate) fn align_your_steps_timesteps(
    config: &SchedulerConfig,
    schedule: &NoiseSchedule,
    num_inference_steps: usize,
) -> Result<Option<Vec<usize>>, SchedulerError> {
    let Some(sigma_schedule) = align_your_steps(config)? else { return Ok(None) };
    check_count(config, num_inference_steps, config.num_train_timesteps)?;
    let training = TrainingSigmas::new(schedule)?;
    let sigmas = sigma_schedule.sigmas(training.most(), training.least(), &training, num_inference_steps);
    let timesteps: Vec<usize> = sigmas
        .unwrap_or_default()
        .into_iter()
        .map(|sigma| training.timestep_of(sigma).round_ties_even() as usize)
        .collect();
    if timesteps.is_sorted_by(|a, b| a > b) {
        Ok(Some(timesteps))
    } else {
        let found = format!("used with {num_inference_steps} steps");
        Err(invalid(ALIGN_YOUR_STEPS_KEY, "fewer steps, so that each has a timestep of its own", found))
    }
}

/// σ of each training timestep and its logarithm, rounded to `f32` where diffusers rounds them (its square
/// roots and logarithms may differ by one unit in the last place): the timestep of a sigma depends on the
/// last digits.
struct TrainingSigmas {
    sigmas: Vec<f64>,
    log_sigmas: Vec<f64>,
}

impl TrainingSigmas {
    fn new(schedule: &NoiseSchedule) -> Result<Self, SchedulerError> {
        let sigma = |alpha_prod: &f64| ((1.0 - *alpha_prod as f32) / *alpha_prod as f32).sqrt();
        let sigmas: Vec<f64> = schedule.alphas_cumprod().iter().map(|a| f64::from(sigma(a))).collect();
        if sigmas.len() < 2 {
            return Err(invalid("num_train_timesteps", "2 or more", sigmas.len()));
        }
        let log_sigmas = sigmas.iter().map(|sigma| f64::from(sigma.ln() as f32)).collect();
        Ok(TrainingSigmas { sigmas, log_sigmas })
    }

    fn least(&self) -> f64 {
        self.sigmas[0]
    }

    fn most(&self) -> f64 {
        self.sigmas[self.sigmas.len() - 1]
    }

    /// The noisiest timestep.
    fn last(&self) -> f64 {
        (self.sigmas.len() - 1) as f64
    }

    fn at(&self, timestep: f64) -> f64 {
        interpolate(&self.sigmas, timestep)
    }

    /// The training timestep of `sigma`, interpolated by its logarithm.
    fn timestep_of(&self, sigma: f64) -> f64 {
        let log_sigma = sigma.max(1e-10).ln();
        let above = self.log_sigmas.partition_point(|level| *level <= log_sigma);
        let low = above.saturating_sub(1).min(self.log_sigmas.len() - 2);
        let (from, to) = (self.log_sigmas[low], self.log_sigmas[low + 1]);
        let share = ((from - log_sigma) / (from - to)).clamp(0.0, 1.0);
        (1.0 - share) * low as f64 + share * (low + 1) as f64
    }
}

/// The levels of a run for a scheduler that uses sigmas.
pub(crate) struct SigmaLevels {
    /// Training timesteps, one for each of `sigmas`, exact in `f32`.
    pub(crate) timesteps: Vec<f64>,
    /// Descending, the last one above 0, rounded to `f32` as in diffusers.
    pub(crate) sigmas: Vec<f64>,
    /// The least noisy level of training.
    pub(crate) least: f64,
    /// For a schedule with sigmas of its own that ends above 0: its last sigma; for others, the smallest of
    /// training.
    pub(crate) own_end: f64,
    /// Standard deviation of the latents at the start where they are x_0 + σ · ε.
    pub(crate) init_noise_sigma: f64,
    training: TrainingSigmas,
}

/// The differences between diffusers' classes that use sigmas in the choice of levels.
#[derive(Clone, Copy)]
pub(crate) struct LevelRules {
    /// The config keys that select a schedule.
    pub(crate) schedules: &'static [&'static str],
    /// Whether Karras sigmas end at `sigma_max` and `sigma_min` of the config.
    pub(crate) karras_reads_ends: bool,
    /// Whether the timesteps of Karras sigmas, and of those of Align Your Steps, are rounded.
    pub(crate) karras_rounds: bool,
}

/// The keys that every class with sigma schedules reads.
pub(crate) const SCHEDULES: &[&str] = &["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"];

impl SigmaLevels {
    /// Levels at timesteps that may be fractional, as in the schedulers from k-diffusion.
    ///
    /// # Errors
    /// If the number of steps or a setting is not valid.
    pub(crate) fn fractional(
        config: &SchedulerConfig,
        num_inference_steps: usize,
        rules: LevelRules,
    ) -> Result<Self, SchedulerError> {
        let timesteps = fractional_timesteps(config, num_inference_steps, TimestepSpacing::Linspace)?;
        let training = TrainingSigmas::new(&NoiseSchedule::with_finite_sigmas(config)?)?;
        let at_timesteps: Vec<f64> = timesteps.iter().map(|&timestep| training.at(timestep)).collect();
        let ends = (at_timesteps[0], at_timesteps[at_timesteps.len() - 1]);
        let chosen = chosen_sigmas(config, rules, &training, ends, num_inference_steps)?;
        let (timesteps, sigmas, chosen) = match chosen {
            None => (timesteps, at_timesteps, None),
            Some((schedule, sigmas)) => {
                let rounds = rules.karras_rounds
                    && matches!(schedule, SigmaSchedule::Karras | SigmaSchedule::AlignYourSteps(_));
                let timestep = |&sigma| match (training.timestep_of(sigma), rounds) {
                    (timestep, true) => timestep.round_ties_even(),
                    (timestep, false) => f64::from(timestep as f32),
                };
                (sigmas.iter().map(timestep).collect(), sigmas, Some(schedule))
            }
        };
        let sigmas: Vec<f64> = sigmas.into_iter().map(|sigma| f64::from(sigma as f32)).collect();
        let sigma_max = sigmas.iter().copied().fold(0.0, f64::max);
        let starts_lower = match &chosen {
            Some(schedule) if schedule.spans_training() => *schedule == SigmaSchedule::DdimUniform,
            _ => config.timestep_spacing == Some(TimestepSpacing::Leading),
        };
        let init_noise_sigma = match starts_lower {
            // The first level is the noisiest of training: nearly pure noise.
            false => sigma_max,
            // Some signal would be left at the first level; the noise compensates for its variance.
            true => sigma_max.hypot(1.0),
        };
        let least = training.least();
        Ok(SigmaLevels { timesteps, sigmas, least, own_end: least, init_noise_sigma, training })
    }

    /// Levels at whole timesteps, where the first timestep of training is left to the end of the run, as in
    /// the schedulers from DPM-Solver. `lambda_min_clipped` is the smallest log-SNR / 2 of the run.
    ///
    /// # Errors
    /// If the number of steps or a setting is not valid.
    pub(crate) fn whole(
        config: &SchedulerConfig,
        num_inference_steps: usize,
        lambda_min_clipped: f64,
        rules: LevelRules,
    ) -> Result<Self, SchedulerError> {
        let schedule = NoiseSchedule::with_finite_sigmas(config)?;
        let training = TrainingSigmas::new(&schedule)?;
        // λ = log(√ᾱ / √(1 - ᾱ)) descends over the timesteps.
        let usable = training.log_sigmas.partition_point(|log_sigma| -log_sigma >= lambda_min_clipped);
        let timesteps = timesteps_before_the_first(config, num_inference_steps, usable)?;
        let ends = (training.most(), training.least());
        let chosen = chosen_sigmas(config, rules, &training, ends, num_inference_steps)?;
        let mut own_end = training.least();
        let (timesteps, sigmas) = match chosen {
            None => {
                let at_timesteps = timesteps.iter().map(|&timestep| training.at(timestep)).collect();
                (timesteps, at_timesteps)
            }
            Some((schedule, sigmas)) => {
                let truncates = matches!(schedule, SigmaSchedule::Exponential | SigmaSchedule::Beta)
                    || !rules.karras_rounds;
                if !matches!(schedule, SigmaSchedule::AlignYourSteps(_)) && !schedule.spans_training() {
                    own_end = f64::from(sigmas[sigmas.len() - 1] as f32);
                }
                let timestep = |&sigma| match (training.timestep_of(sigma), truncates) {
                    // diffusers rounds timesteps, but does not have these schedules.
                    (timestep, _) if schedule.spans_training() => f64::from(timestep as f32),
                    (timestep, true) => timestep.trunc(),
                    (timestep, false) => timestep.round_ties_even(),
                };
                (sigmas.iter().map(timestep).collect(), sigmas)
            }
        };
        let sigmas = sigmas.into_iter().map(|sigma| f64::from(sigma as f32)).collect();
        let least = training.least();
        Ok(SigmaLevels { timesteps, sigmas, least, own_end, init_noise_sigma: 1.0, training })
    }

    /// The timestep, exact in `f32`, of an intermediate level.
    pub(crate) fn timestep_of(&self, sigma: f64) -> f64 {
        f64::from(self.training.timestep_of(sigma) as f32)
    }
}

/// The sigmas of the schedule in `config`, unless it is that of training. `ends` are the noisiest and the
/// least noisy sigma if the config does not set them.
fn chosen_sigmas(
    config: &SchedulerConfig,
    rules: LevelRules,
    training: &TrainingSigmas,
    ends: (f64, f64),
    count: usize,
) -> Result<Option<(SigmaSchedule, Vec<f64>)>, SchedulerError> {
    let schedule = SigmaSchedule::from_config(config, rules.schedules)?;
    if schedule == SigmaSchedule::Training {
        return Ok(None);
    }
    let ends = if schedule.spans_training() { (training.most(), training.least()) } else { ends };
    if schedule.timesteps(config.num_train_timesteps, count).first() > Some(&training.last()) {
        let max = config.num_train_timesteps - 1;
        return Err(SchedulerError::StepCount { found: count, max, limit: StepLimit::BeforeTheFirst });
    }
    let reads_ends = rules.karras_reads_ends || schedule != SigmaSchedule::Karras;
    let end = |key, otherwise| match config.number(key)? {
        Some(sigma) if reads_ends && sigma <= 0.0 => Err(invalid(key, "a number above 0", sigma)),
        Some(sigma) if reads_ends => Ok(sigma),
        _ => Ok(otherwise),
    };
    let (max, min) = (end("sigma_max", ends.0)?, end("sigma_min", ends.1)?);
    if min > max {
        return Err(invalid("sigma_min", format!("at most the largest sigma, {max}"), min));
    }
    Ok(schedule.sigmas(max, min, training, count).map(|sigmas| (schedule, sigmas)))
}

fn check_count(config: &SchedulerConfig, found: usize, max: usize) -> Result<(), SchedulerError> {
    debug_assert!(max <= config.num_train_timesteps);
    if (1..=max).contains(&found) {
        Ok(())
    } else {
        Err(SchedulerError::StepCount { found, max, limit: StepLimit::Training })
    }
}

/// `numpy.linspace`: the last value is set, not computed.
fn linspace(from: f64, to: f64, count: usize) -> Vec<f64> {
    let step = (to - from) / count.saturating_sub(1).max(1) as f64;
    (0..count).map(|i| if i > 0 && i + 1 == count { to } else { from + i as f64 * step }).collect()
}

/// `values` at a position between two of them, constant beyond the ends.
fn interpolate(values: &[f64], position: f64) -> f64 {
    let last = values.len() - 1;
    let position = position.clamp(0.0, last as f64);
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    values[below] + (position - below as f64) * (values[above] - values[below])
}

#[cfg(test)]
mod tests;
