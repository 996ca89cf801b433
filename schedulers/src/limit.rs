//! Limits for the predicted clean latents.

use crate::config::SchedulerConfig;
use crate::error::SchedulerError;
use crate::noise_schedule::check_length;
use crate::values::invalid;

/// The treatment of predicted clean latents (x_0) outside the range of the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// No limit, as in latent diffusion.
    None,
    /// Clipped to ± this.
    Clip(f64),
    /// Dynamic thresholding (Saharia et al. 2022, Imagen, arXiv:2205.11487, section 2.3): clipped to ± the
    /// quantile of all absolute values in one picture, itself clipped to 1 to `max`, and then divided by it.
    Threshold {
        /// Share of the absolute values below the quantile, 0 to 1.
        ratio: f64,
        /// Largest threshold.
        max: f64,
    },
}

impl Limit {
    /// The limit in `config`: `thresholding` (`dynamic_thresholding_ratio`, default 0.995, and
    /// `sample_max_value`, default 1), or else `clip_sample` and `clip_sample_range` (default 1). `clips` is
    /// the default of `clip_sample`; `None` for schedulers that do not have this option.
    ///
    /// # Errors
    /// If a value has the wrong type or is out of range.
    pub fn from_config(config: &SchedulerConfig, clips: Option<bool>) -> Result<Self, SchedulerError> {
        if config.flag("thresholding")?.unwrap_or(false) {
            let ratio = config.number("dynamic_thresholding_ratio")?.unwrap_or(0.995);
            if !(0.0..=1.0).contains(&ratio) {
                return Err(invalid("dynamic_thresholding_ratio", "a number from 0 to 1", ratio));
            }
            let max = positive(config, "sample_max_value")?;
            return Ok(Limit::Threshold { ratio, max });
        }
        clips.map_or(Ok(Limit::None), |default| Self::clip(config, default))
    }

    /// The limit in `config` for a scheduler that clips, by `default` or not, and does not support
    /// thresholding.
    pub(crate) fn clip(config: &SchedulerConfig, default: bool) -> Result<Self, SchedulerError> {
        match config.flag("clip_sample")?.unwrap_or(default) {
            true => Ok(Limit::Clip(positive(config, "clip_sample_range")?)),
            false => Ok(Limit::None),
        }
    }

    /// Limits `original`, all predicted clean latents of one picture, in place. `sizes` is a buffer for
    /// sorting them.
    fn apply(self, original: &mut [f64], sizes: &mut Vec<f64>) {
        match self {
            Limit::None => {}
            Limit::Clip(range) => original.iter_mut().for_each(|value| *value = value.clamp(-range, range)),
            Limit::Threshold { ratio, max } => {
                sizes.clear();
                sizes.extend(original.iter().map(|value| value.abs()));
                sizes.sort_unstable_by(f64::total_cmp);
                let Some(last) = sizes.len().checked_sub(1) else { return };
                let rank = ratio * last as f64;
                let (below, above) = (sizes[rank.floor() as usize], sizes[rank.ceil() as usize]);
                let threshold = (below + rank.fract() * (above - below)).max(1.0).min(max);
                original.iter_mut().for_each(|value| *value = value.clamp(-threshold, threshold) / threshold);
            }
        }
    }
}

/// Predicts clean latents and limits them, with buffers that are kept between calls.
#[derive(Clone, Debug)]
pub(crate) struct Originals {
    limit: Limit,
    values: Vec<f64>,
    sizes: Vec<f64>,
}

impl Originals {
    pub(crate) fn new(limit: Limit) -> Self {
        Originals { limit, values: Vec::new(), sizes: Vec::new() }
    }

    /// The predicted clean latents of one picture, limited: `from_latents` · `latents` + `from_output` · `noise_pred`.
    pub(crate) fn predict(
        &mut self,
        (from_latents, from_output): (f64, f64),
        noise_pred: &[f32],
        latents: &[f32],
    ) -> &[f64] {
        let original = |(&latents, &output): (&f32, &f32)| {
            from_latents * f64::from(latents) + from_output * f64::from(output)
        };
        self.values.clear();
        self.values.extend(latents.iter().zip(noise_pred).map(original));
        self.limit.apply(&mut self.values, &mut self.sizes);
        &self.values
    }

    /// The same into `out`, for [`Scheduler::predict_original`](crate::Scheduler::predict_original).
    pub(crate) fn write(
        &mut self,
        shares: (f64, f64),
        noise_pred: &[f32],
        latents: &[f32],
        out: &mut [f32],
    ) -> Result<(), SchedulerError> {
        check_length("noise_pred", noise_pred.len(), latents.len())?;
        check_length("out", out.len(), latents.len())?;
        let originals = self.predict(shares, noise_pred, latents);
        out.iter_mut().zip(originals).for_each(|(out, original)| *out = *original as f32);
        Ok(())
    }
}

fn positive(config: &SchedulerConfig, key: &str) -> Result<f64, SchedulerError> {
    let value = config.number(key)?.unwrap_or(1.0);
    if value > 0.0 { Ok(value) } else { Err(invalid(key, "a number above 0", value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(limit: Limit, mut original: Vec<f64>) -> Vec<f64> {
        limit.apply(&mut original, &mut Vec::new());
        original
    }

    #[test]
    fn clips_or_scales_by_a_quantile() {
        let values = vec![-3.0, 0.5, 2.0, -0.25, 1.0];
        assert_eq!(limited(Limit::None, values.clone()), values);
        assert_eq!(limited(Limit::Clip(1.5), values.clone()), [-1.5, 0.5, 1.5, -0.25, 1.0]);
        // Half way between the fourth and the fifth of 0.25, 0.5, 1, 2, 3.
        let threshold = Limit::Threshold { ratio: 0.875, max: 9.0 };
        assert_eq!(limited(threshold, values.clone()), [-1.0, 0.2, 0.8, -0.1, 0.4]);
        let held = Limit::Threshold { ratio: 0.875, max: 2.0 };
        assert_eq!(limited(held, values), [-1.0, 0.25, 1.0, -0.125, 0.5]);
        // Never below 1: values within the range are not changed.
        assert_eq!(limited(Limit::Threshold { ratio: 0.5, max: 9.0 }, vec![0.5, -0.75]), [0.5, -0.75]);
        assert_eq!(limited(threshold, Vec::new()), Vec::<f64>::new());
    }

    #[test]
    fn refuses_limits_that_make_no_sense() {
        for json in [
            r#"{"clip_sample_range": 0}"#,
            r#"{"clip_sample": 1}"#,
            r#"{"thresholding": true, "dynamic_thresholding_ratio": 1.5}"#,
            r#"{"thresholding": true, "sample_max_value": -1}"#,
            r#"{"thresholding": "yes"}"#,
        ] {
            let config = SchedulerConfig::from_json(json).unwrap();
            assert!(Limit::from_config(&config, Some(true)).is_err(), "{json}");
        }
    }
}
