//! The training timesteps that a run uses.

use crate::choices::TimestepSpacing;
use crate::config::SchedulerConfig;
use crate::error::{SchedulerError, StepLimit};

/// Whole timesteps, descending: indices into [`NoiseSchedule`](crate::NoiseSchedule)'s tables.
///
/// `default_spacing` is used if the config has none: diffusers has one default per scheduler class.
///
/// # Errors
/// If `num_inference_steps` is not in `1..=num_train_timesteps`, or `steps_offset` pushes a timestep past the
/// end.
pub fn whole_timesteps(
    config: &SchedulerConfig,
    num_inference_steps: usize,
    default_spacing: TimestepSpacing,
) -> Result<Vec<usize>, SchedulerError> {
    let last = config.num_train_timesteps.saturating_sub(1);
    let spaced = spaced_timesteps(config, num_inference_steps, default_spacing)?;
    // Ties are rounded to even, as in numpy.
    let timesteps: Vec<usize> = spaced.iter().map(|timestep| timestep.round_ties_even() as usize).collect();
    match timesteps.first() {
        Some(&timestep) if timestep > last => Err(SchedulerError::TimestepOutOfRange {
            timestep,
            last,
            num_inference_steps,
            steps_offset: config.steps_offset,
        }),
        _ => Ok(timesteps),
    }
}

/// Timesteps, descending, which may be fractional with linear spacing. Each is exact in `f32`, the precision
/// of a model's input.
///
/// `default_spacing` as for [`whole_timesteps`].
///
/// # Errors
/// If `num_inference_steps` is not in `1..=num_train_timesteps`.
pub fn fractional_timesteps(
    config: &SchedulerConfig,
    num_inference_steps: usize,
    default_spacing: TimestepSpacing,
) -> Result<Vec<f64>, SchedulerError> {
    let spaced = spaced_timesteps(config, num_inference_steps, default_spacing)?;
    Ok(spaced.into_iter().map(|timestep| f64::from(timestep as f32)).collect())
}

/// Whole timesteps of the schedulers from DPM-Solver, descending: with linear and leading spacing one more
/// than requested, of which the last, near timestep 0, is the end of the run. Only the first `usable`
/// training timesteps are used.
///
/// # Errors
/// If there are not enough training timesteps for `num_inference_steps` different ones.
pub(crate) fn timesteps_before_the_first(
    config: &SchedulerConfig,
    num_inference_steps: usize,
    usable: usize,
) -> Result<Vec<f64>, SchedulerError> {
    let (train, steps) = (config.num_train_timesteps, num_inference_steps);
    let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace);
    let max = match spacing {
        TimestepSpacing::Trailing => usable,
        TimestepSpacing::Linspace | TimestepSpacing::Leading => usable.saturating_sub(1),
    };
    if !(1..=max).contains(&steps) {
        let limit = if spacing == TimestepSpacing::Trailing {
            StepLimit::Training
        } else {
            StepLimit::BeforeTheFirst
        };
        return Err(SchedulerError::StepCount { found: steps, max, limit });
    }
    Ok(match spacing {
        TimestepSpacing::Leading => {
            let ratio = usable / (steps + 1);
            (1..=steps).rev().map(|i| (i * ratio).saturating_add(config.steps_offset) as f64).collect()
        }
        TimestepSpacing::Trailing => {
            let (start, ratio) = (usable as f64, train as f64 / steps as f64);
            let delta = (start - ratio) - start;
            let count = if usable == train { steps } else { (start / ratio).ceil() as usize };
            (0..count).map(|i| (start + i as f64 * delta).round_ties_even() - 1.0).collect()
        }
        TimestepSpacing::Linspace => {
            let last = (usable - 1) as f64;
            let delta = last / steps as f64;
            let timestep = |i| if i == steps { last } else { (i as f64 * delta).round_ties_even() };
            (1..=steps).rev().map(timestep).collect()
        }
    })
}

fn spaced_timesteps(
    config: &SchedulerConfig,
    num_inference_steps: usize,
    default_spacing: TimestepSpacing,
) -> Result<Vec<f64>, SchedulerError> {
    let (train, steps) = (config.num_train_timesteps, num_inference_steps);
    if !(1..=train).contains(&steps) {
        return Err(SchedulerError::StepCount { found: steps, max: train, limit: StepLimit::Training });
    }
    Ok(match config.timestep_spacing.unwrap_or(default_spacing) {
        TimestepSpacing::Leading => {
            let ratio = train / steps;
            (0..steps).rev().map(|i| (i * ratio).saturating_add(config.steps_offset) as f64).collect()
        }
        TimestepSpacing::Trailing => {
            // numpy.arange(train, 0, -train / steps): its step is the difference of its first two elements.
            // If rounding makes numpy append one element near 0 (for example with 61 of 1000 steps),
            // diffusers continues to "timestep -1"; here there are always as many timesteps as requested.
            let start = train as f64;
            let delta = (start - start / steps as f64) - start;
            (0..steps).map(|i| (start + i as f64 * delta).round_ties_even() - 1.0).collect()
        }
        TimestepSpacing::Linspace if steps == 1 => vec![0.0],
        TimestepSpacing::Linspace => {
            let last = (train - 1) as f64;
            let delta = last / (steps - 1) as f64;
            // The last one is set and not computed, so that it is exact.
            (0..steps).rev().map(|i| if i + 1 == steps { last } else { i as f64 * delta }).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [TimestepSpacing; 3] =
        [TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace];

    /// Even where numpy's `arange` has one element too many, as for 61 of 1000.
    #[test]
    fn are_as_many_as_asked_for_descending_and_in_range() {
        for num_train_timesteps in [1, 2, 7, 999, 1000] {
            let mut config = SchedulerConfig::default();
            config.num_train_timesteps = num_train_timesteps;
            for (steps, spacing) in (1..=num_train_timesteps).flat_map(|n| ALL.map(|spacing| (n, spacing))) {
                let whole = whole_timesteps(&config, steps, spacing).unwrap();
                assert_eq!(whole.len(), steps, "{spacing:?}");
                assert!(whole.iter().all(|timestep| *timestep < num_train_timesteps), "{spacing:?} {steps}");
                assert!(whole.is_sorted_by(|a, b| a > b), "{spacing:?} {steps}: {whole:?}");
                let fractional = fractional_timesteps(&config, steps, spacing).unwrap();
                assert!(fractional.is_sorted_by(|a, b| a > b), "{spacing:?} {steps}");
                assert!(fractional.iter().all(|timestep| f64::from(*timestep as f32) == *timestep));
            }
        }
    }

    #[test]
    fn the_config_has_precedence_over_the_default() {
        let mut config = SchedulerConfig::default();
        assert_eq!(whole_timesteps(&config, 2, TimestepSpacing::Leading), Ok(vec![500, 0]));
        config.timestep_spacing = Some(TimestepSpacing::Trailing);
        assert_eq!(whole_timesteps(&config, 2, TimestepSpacing::Leading), Ok(vec![999, 499]));
    }

    /// 1000 / 16 is 62.5: numpy rounds halves to even, so the strides alternate.
    #[test]
    fn halves_go_to_the_even_neighbour() {
        let config = SchedulerConfig::default();
        let trailing = whole_timesteps(&config, 16, TimestepSpacing::Trailing).unwrap();
        assert_eq!(trailing[..5], [999, 937, 874, 811, 749]);
    }

    #[test]
    fn rejects_step_counts_that_training_does_not_have() {
        let config = SchedulerConfig::default();
        for (found, spacing) in
            [0, 1001, 1_000_000_000].into_iter().flat_map(|n| ALL.map(|spacing| (n, spacing)))
        {
            let error = whole_timesteps(&config, found, spacing).unwrap_err();
            assert_eq!(error, SchedulerError::StepCount { found, max: 1000, limit: StepLimit::Training });
            assert_eq!(fractional_timesteps(&config, found, spacing).unwrap_err(), error);
        }
    }

    #[test]
    fn rejects_an_offset_past_the_end() {
        let mut config = SchedulerConfig::default();
        config.steps_offset = 1;
        assert!(whole_timesteps(&config, 999, TimestepSpacing::Leading).is_ok());
        let error = whole_timesteps(&config, 1000, TimestepSpacing::Leading).unwrap_err();
        assert!(
            matches!(error, SchedulerError::TimestepOutOfRange { timestep: 1000, last: 999, .. }),
            "{error}"
        );
        // Interpolated levels end with those of training, as in diffusers.
        assert_eq!(fractional_timesteps(&config, 1000, TimestepSpacing::Leading).unwrap()[0], 1000.0);
    }
}
