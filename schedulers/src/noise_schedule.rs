//! The noise levels of training: from betas to alphas_cumprod to sigmas.

use crate::choices::BetaSchedule;
use crate::config::SchedulerConfig;
use crate::error::SchedulerError;
use crate::prediction::PredictionType;
use crate::values::invalid;

/// The noise levels of training: the shares of x_0 and of noise in x_t, for each timestep t.
///
/// Models are trained on tables that PyTorch computes in `f32`, so β and 1 − β are rounded to `f32` where
/// PyTorch rounds them, the cumulative product is computed in `f64` and rounded at its end, as in PyTorch:
/// the tables are bit-identical to PyTorch's (except for libm's cosine). Everything that is derived from them
/// is computed in `f64`: 1 − ᾱ, for example, loses three digits in `f32` near t = 0.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    alphas_cumprod: Vec<f64>,
}

impl NoiseSchedule {
    /// The tables for `config`.
    ///
    /// # Errors
    /// If there is no timestep, `trained_betas` is not one β for each, or one has no signal or no noise to
    /// divide by.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SchedulerError> {
        if config.num_train_timesteps == 0 {
            return Err(invalid("num_train_timesteps", "1 or more", 0));
        }
        let mut betas = betas(config)?;
        if config.rescale_betas_zero_snr {
            betas = rescale_zero_terminal_snr(&betas);
        }
        let alphas_cumprod = cumulative_product(&betas);
        // Rescaling ends at 0 on purpose, and only at the last level.
        let levels = &alphas_cumprod[..alphas_cumprod.len() - usize::from(config.rescale_betas_zero_snr)];
        let usable = |alpha_prod: &f64| 0.0 < *alpha_prod && *alpha_prod < 1.0;
        let unusable = levels.iter().position(|alpha_prod| !usable(alpha_prod));
        if let Some(timestep) = unusable.or(levels.is_empty().then_some(0)) {
            let key = if config.trained_betas.is_some() { "trained_betas" } else { "beta_end" };
            let found = format!("{} at timestep {timestep}", alphas_cumprod[timestep]);
            return Err(invalid(key, "betas whose alphas_cumprod stay between 0 and 1", found));
        }
        Ok(NoiseSchedule { alphas_cumprod })
    }

    /// For schedulers that use sigmas: as [`NoiseSchedule::new`], but if zero terminal SNR would make the
    /// last sigma infinite, ᾱ ends at the smallest positive `f16`, as in diffusers.
    ///
    /// # Errors
    /// As [`NoiseSchedule::new`].
    pub fn with_finite_sigmas(config: &SchedulerConfig) -> Result<Self, SchedulerError> {
        let mut schedule = Self::new(config)?;
        if config.rescale_betas_zero_snr
            && let Some(last) = schedule.alphas_cumprod.last_mut()
        {
            *last = f64::powi(2.0, -24);
        }
        Ok(schedule)
    }

    /// ᾱ_t for each training timestep: the share of the variance of x_t that is signal. Descending.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// (√ᾱ, √(1 − ᾱ)): x_t = √ᾱ · x_0 + √(1 − ᾱ) · ε.
    ///
    /// # Panics
    /// If `timestep` is not a training timestep.
    pub fn signal_and_noise(&self, timestep: usize) -> (f64, f64) {
        let alpha_prod = self.alphas_cumprod[timestep];
        (alpha_prod.sqrt(), (1.0 - alpha_prod).sqrt())
    }

    /// σ = √((1 − ᾱ) / ᾱ), the noise level relative to the signal, linear between training timesteps and constant
    /// beyond them.
    pub fn sigma(&self, timestep: f64) -> f64 {
        let sigma_at = |t: usize| ((1.0 - self.alphas_cumprod[t]) / self.alphas_cumprod[t]).sqrt();
        let last = self.alphas_cumprod.len() - 1;
        let timestep = timestep.clamp(0.0, last as f64);
        let below = timestep.floor() as usize;
        let above = (below + 1).min(last);
        let fraction = timestep - below as f64;
        sigma_at(below) + fraction * (sigma_at(above) - sigma_at(below))
    }

    /// The forward process q(x_t | x_0) = N(√ᾱ_t · x_0, (1 − ᾱ_t) · I) (Ho et al. 2020, eq. 4; algorithm 1,
    /// line 5): writes √ᾱ_t · `original` + √(1 − ᾱ_t) · `noise` to `out`. `timestep` is a training timestep.
    ///
    /// # Errors
    /// If there is no such timestep or the lengths differ.
    pub fn add_noise(
        &self,
        original: &[f32],
        noise: &[f32],
        timestep: usize,
        out: &mut [f32],
    ) -> Result<(), SchedulerError> {
        if timestep >= self.alphas_cumprod.len() {
            let steps = self.alphas_cumprod.len();
            return Err(SchedulerError::StepIndex { found: timestep, steps });
        }
        mix(self.signal_and_noise(timestep), original, noise, out)
    }
}

/// Multiplies `latents` in place, for [`Scheduler::scale_model_input`](crate::Scheduler::scale_model_input).
pub(crate) fn scale(latents: &mut [f32], factor: f64) {
    if factor != 1.0 {
        latents.iter_mut().for_each(|value| *value = (factor * f64::from(*value)) as f32);
    }
}

/// `out` = signal · `original` + noise level · `noise`.
pub(crate) fn mix(
    (signal, noise_level): (f64, f64),
    original: &[f32],
    noise: &[f32],
    out: &mut [f32],
) -> Result<(), SchedulerError> {
    check_length("noise", noise.len(), original.len())?;
    check_length("out", out.len(), original.len())?;
    for ((out, &original), &noise) in out.iter_mut().zip(original).zip(noise) {
        *out = (signal * f64::from(original) + noise_level * f64::from(noise)) as f32;
    }
    Ok(())
}

pub(crate) fn check_length(what: &'static str, found: usize, expected: usize) -> Result<(), SchedulerError> {
    if found == expected { Ok(()) } else { Err(SchedulerError::Length { what, found, expected }) }
}

/// Refuses to divide by a signal of 0: with zero terminal SNR, noise prediction cannot start at the last timestep.
pub(crate) fn refuse_pure_noise(
    scheduler: &str,
    config: &SchedulerConfig,
    schedule: &NoiseSchedule,
    timesteps: &[usize],
) -> Result<(), SchedulerError> {
    let no_signal = |&timestep: &usize| schedule.alphas_cumprod()[timestep] == 0.0;
    if config.prediction_type == PredictionType::Epsilon && timesteps.iter().any(no_signal) {
        return Err(SchedulerError::Unsupported {
            scheduler: scheduler.to_owned(),
            key: "rescale_betas_zero_snr".to_owned(),
            value: "true".to_owned(),
            advice: "set `timestep_spacing` to leading, which `prediction_type` = epsilon requires"
                .to_owned(),
        });
    }
    Ok(())
}

fn betas(config: &SchedulerConfig) -> Result<Vec<f32>, SchedulerError> {
    let count = config.num_train_timesteps;
    if let Some(trained) = &config.trained_betas {
        if trained.len() != count {
            let expected = format!("{count} values (`num_train_timesteps`)");
            return Err(invalid("trained_betas", expected, format!("{} values", trained.len())));
        }
        return Ok(trained.iter().map(|beta| *beta as f32).collect());
    }
    let (start, end) = (config.beta_start.unwrap_or(0.0001), config.beta_end.unwrap_or(0.02));
    Ok(match config.beta_schedule.unwrap_or(BetaSchedule::Linear) {
        BetaSchedule::Linear => torch_linspace(start, end, count),
        BetaSchedule::ScaledLinear => {
            let roots = torch_linspace(start.sqrt(), end.sqrt(), count);
            roots.into_iter().map(|root| root * root).collect()
        }
        BetaSchedule::SquaredCosCapV2 => {
            let alpha_bar = |i: usize| {
                let t = i as f64 / count as f64;
                ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
            };
            (0..count).map(|i| (1.0 - alpha_bar(i + 1) / alpha_bar(i)).min(0.999) as f32).collect()
        }
    })
}

/// `torch.linspace` in `f32`: from both ends towards the middle, each value rounded once (fused
/// multiply-add).
fn torch_linspace(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    if count == 1 {
        return vec![start];
    }
    let step = f64::from((end - start) / (count - 1) as f32);
    (0..count)
        .map(|i| {
            let value = if i < count / 2 {
                f64::from(start) + step * i as f64
            } else {
                f64::from(end) - step * (count - 1 - i) as f64
            };
            value as f32
        })
        .collect()
}

fn cumulative_product(betas: &[f32]) -> Vec<f64> {
    let mut product = 1.0;
    betas
        .iter()
        .map(|beta| {
            product *= f64::from(1.0 - beta);
            f64::from(product as f32)
        })
        .collect()
}

/// β rescaled so that √ᾱ ends at 0 and starts at its original value (Lin et al. 2023, arXiv:2305.08891,
/// algorithm 1), rounded to `f32` after each operation as diffusers does: near the end, differences of nearly
/// equal √ᾱ amplify rounding.
fn rescale_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let mut signal: Vec<f32> = cumulative_product(betas).iter().map(|alpha| (*alpha as f32).sqrt()).collect();
    let (Some(&first), Some(&last)) = (signal.first(), signal.last()) else { return Vec::new() };
    let stretch = first / (first - last);
    for value in &mut signal {
        *value = (*value - last) * stretch;
    }
    let alphas_cumprod: Vec<f32> = signal.iter().map(|value| value * value).collect();
    let mut previous = 1.0;
    alphas_cumprod
        .into_iter()
        .map(|alpha_prod| {
            let alpha = alpha_prod / previous;
            previous = alpha_prod;
            1.0 - alpha
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> SchedulerConfig {
        SchedulerConfig::from_json(json).unwrap()
    }

    const ALL: [&str; 3] = [
        r#"{"beta_schedule": "linear"}"#,
        r#"{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}"#,
        r#"{"beta_schedule": "squaredcos_cap_v2"}"#,
    ];

    /// q(x_t | x_0) in closed form, from the definitions alone, in `f64` throughout.
    #[test]
    fn add_noise_is_the_forward_process() {
        let beta = |t: usize| {
            let root = 0.00085_f64.sqrt() + (0.012_f64.sqrt() - 0.00085_f64.sqrt()) * t as f64 / 999.0;
            root * root
        };
        let schedule = NoiseSchedule::new(&config(ALL[1])).unwrap();
        let (original, noise) = ([0.5_f32, -2.0, 0.0], [1.0_f32, 0.25, -3.0]);
        for timestep in [0, 1, 17, 500, 999] {
            let alpha_prod: f64 = (0..=timestep).map(|t| 1.0 - beta(t)).product();
            let mut out = [0.0; 3];
            schedule.add_noise(&original, &noise, timestep, &mut out).unwrap();
            for ((out, original), noise) in out.into_iter().zip(original).zip(noise) {
                let exact =
                    alpha_prod.sqrt() * f64::from(original) + (1.0 - alpha_prod).sqrt() * f64::from(noise);
                // The tables are rounded to f32 like PyTorch's; 1 - alpha_prod is affected most at t = 0.
                assert!((f64::from(out) - exact).abs() < 3e-6, "timestep {timestep}: {out} {exact}");
            }
        }
    }

    #[test]
    fn add_noise_checks_its_arguments() {
        let schedule = NoiseSchedule::new(&SchedulerConfig::default()).unwrap();
        let mut out = [0.0; 2];
        let no_timestep = schedule.add_noise(&[0.0; 2], &[0.0; 2], 1000, &mut out);
        assert_eq!(no_timestep, Err(SchedulerError::StepIndex { found: 1000, steps: 1000 }));
        let short_noise = schedule.add_noise(&[0.0; 2], &[0.0; 1], 0, &mut out);
        assert_eq!(short_noise, Err(SchedulerError::Length { what: "noise", found: 1, expected: 2 }));
        let short_original = schedule.add_noise(&[0.0; 1], &[0.0; 1], 0, &mut out);
        assert_eq!(short_original, Err(SchedulerError::Length { what: "out", found: 2, expected: 1 }));
    }

    #[test]
    fn sigmas_interpolate_and_stop_at_the_ends() {
        let schedule = NoiseSchedule::new(&config(ALL[1])).unwrap();
        let (at_10, at_11) = (schedule.sigma(10.0), schedule.sigma(11.0));
        assert!((schedule.sigma(10.25) - (0.75 * at_10 + 0.25 * at_11)).abs() < 1e-15);
        assert_eq!(schedule.sigma(1001.0), schedule.sigma(999.0));
        // The known ends of Stable Diffusion's range.
        assert!((schedule.sigma(0.0) - 0.0292).abs() < 1e-4);
        assert!((schedule.sigma(999.0) - 14.6146).abs() < 1e-3);
    }

    #[test]
    fn rescaling_ends_in_pure_noise_and_keeps_the_start() {
        for json in ALL {
            let mut config = config(json);
            let plain = NoiseSchedule::new(&config).unwrap();
            config.rescale_betas_zero_snr = true;
            let rescaled = NoiseSchedule::new(&config).unwrap();
            assert_eq!(rescaled.alphas_cumprod()[999], 0.0);
            assert!((rescaled.alphas_cumprod()[0] / plain.alphas_cumprod()[0] - 1.0).abs() < 1e-6);
            let finite = NoiseSchedule::with_finite_sigmas(&config).unwrap();
            assert!((finite.sigma(999.0) - 4096.0).abs() < 1e-3);
        }
    }

    #[test]
    fn rejects_betas_that_leave_no_signal_or_no_noise() {
        for (json, key) in [
            (r#"{"beta_start": 0.9, "beta_end": 0.9}"#, "beta_end"),
            (r#"{"beta_start": 1e-30, "beta_end": 1e-30}"#, "beta_end"),
            (r#"{"num_train_timesteps": 1, "rescale_betas_zero_snr": true}"#, "beta_end"),
            (r#"{"beta_start": 1e-30, "beta_end": 1e-30, "rescale_betas_zero_snr": true}"#, "beta_end"),
            (r#"{"trained_betas": [0.1, 0.2]}"#, "trained_betas"),
            (r#"{"trained_betas": [], "num_train_timesteps": 1}"#, "trained_betas"),
            (r#"{"trained_betas": [1e-30], "num_train_timesteps": 1}"#, "trained_betas"),
        ] {
            match NoiseSchedule::new(&config(json)) {
                Err(SchedulerError::InvalidValue { key: named, .. }) => assert_eq!(named, key, "{json}"),
                other => panic!("{json}: {other:?}"),
            }
        }
    }
}
