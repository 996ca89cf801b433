//! Schedulers by name. A crate outside this workspace adds its own with one [`register`] call.

use std::sync::{PoisonError, RwLock};

use crate::config::{nearest, value_from_text};
use crate::{Scheduler, SchedulerConfig, SchedulerError, ddim, ddpm, euler, euler_ancestral};

/// A config key that a scheduler reads and a user may override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerOption {
    /// Key in the scheduler config.
    pub key: &'static str,
    /// Values it takes, and the default.
    pub values: &'static str,
}

/// Builds a scheduler for a number of inference steps.
pub type BuildScheduler = fn(&SchedulerConfig, usize) -> Result<Box<dyn Scheduler>, SchedulerError>;

/// A scheduler: what it is called and how it is built.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerEntry {
    /// Lowercase, words joined by `-`.
    pub name: &'static str,
    /// Other names, written like `name`.
    pub aliases: &'static [&'static str],
    /// One line for a list.
    pub summary: &'static str,
    /// The config keys it reads.
    pub options: &'static [&'static [SchedulerOption]],
    /// diffusers classes whose configs it is the best choice for.
    pub classes: &'static [&'static str],
    /// Builds it for a number of inference steps.
    pub build: BuildScheduler,
}

/// Options of everything that is built on [`NoiseSchedule`](crate::NoiseSchedule).
const COMMON: &[SchedulerOption] = &[
    SchedulerOption { key: "prediction_type", values: "epsilon, v_prediction, sample; default: the model's" },
    SchedulerOption {
        key: "beta_schedule",
        values: "linear, scaled_linear, squaredcos_cap_v2; default: the model's",
    },
    SchedulerOption { key: "beta_start", values: "0 to 1; default: the model's" },
    SchedulerOption { key: "beta_end", values: "0 to 1; default: the model's" },
    SchedulerOption { key: "rescale_betas_zero_snr", values: "true, false; default: the model's" },
    SchedulerOption { key: "timestep_spacing", values: "leading, trailing, linspace; default: the model's" },
    SchedulerOption { key: "steps_offset", values: "whole number; default: the model's" },
];

const CLIPPING: &[SchedulerOption] = &[
    SchedulerOption { key: "clip_sample", values: "true, false; default: the model's" },
    SchedulerOption { key: "clip_sample_range", values: "above 0; default 1" },
];

const BUILT_IN: [SchedulerEntry; 4] = [
    SchedulerEntry {
        name: "ddim",
        aliases: &[],
        summary: "deterministic, or as noisy as DDPM with eta = 1 (Song et al. 2020)",
        options: &[
            &[
                SchedulerOption { key: "eta", values: "0 to 1; default 0" },
                SchedulerOption { key: "set_alpha_to_one", values: "true, false; default: the model's" },
            ],
            CLIPPING,
            COMMON,
        ],
        classes: &[
            "DDIMScheduler",
            "DDIMParallelScheduler",
            "PNDMScheduler",
            "DEISMultistepScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "UniPCMultistepScheduler",
        ],
        build: ddim::build,
    },
    SchedulerEntry {
        name: "ddpm",
        aliases: &[],
        summary: "the original sampler, fresh noise at each step; wants many steps (Ho et al. 2020)",
        options: &[
            &[SchedulerOption {
                key: "variance_type",
                values: "fixed_small, fixed_large; default: the model's",
            }],
            CLIPPING,
            COMMON,
        ],
        classes: &["DDPMScheduler", "DDPMParallelScheduler"],
        build: ddpm::build,
    },
    SchedulerEntry {
        name: "euler",
        aliases: &["k-euler", "euler-discrete"],
        summary: "Euler steps down the noise levels, deterministic (Karras et al. 2022)",
        options: &[
            &[SchedulerOption { key: "final_sigmas_type", values: "zero, sigma_min; default zero" }],
            COMMON,
        ],
        classes: &[
            "EulerDiscreteScheduler",
            "LMSDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2DiscreteScheduler",
        ],
        build: euler::build,
    },
    SchedulerEntry {
        name: "euler-ancestral",
        aliases: &["euler-a", "k-euler-a", "k-euler-ancestral", "euler-ancestral-discrete"],
        summary: "Euler steps with fresh noise at each (Karras et al. 2022; Crowson's k-diffusion)",
        options: &[COMMON],
        classes: &[
            "EulerAncestralDiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "DPMSolverSDEScheduler",
        ],
        build: euler_ancestral::build,
    },
];

static ADDED: RwLock<Vec<SchedulerEntry>> = RwLock::new(Vec::new());

/// Adds a scheduler, for this process. Call it before handing control to the command line or the engine.
///
/// # Errors
/// If its name or an alias is taken.
pub fn register(entry: SchedulerEntry) -> Result<(), SchedulerError> {
    // A panic elsewhere cannot leave the list half changed: `push` is the only write.
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    let names = || std::iter::once(entry.name).chain(entry.aliases.iter().copied());
    if let Some(name) =
        names().find(|name| BUILT_IN.iter().chain(added.iter()).any(|other| other.is_called(name)))
    {
        return Err(SchedulerError::DuplicateName { name: name.to_owned() });
    }
    added.push(entry);
    Ok(())
}

/// Every scheduler there is: the built-in ones, then the registered ones in their order.
pub fn schedulers() -> Vec<SchedulerEntry> {
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
    BUILT_IN.iter().chain(added.iter()).copied().collect()
}

/// The scheduler called `name`. Case does not matter, and `_` is as good as `-`.
///
/// # Errors
/// If there is none; the error suggests the nearest.
pub fn find(name: &str) -> Result<SchedulerEntry, SchedulerError> {
    let schedulers = schedulers();
    schedulers.iter().find(|entry| entry.is_called(name)).copied().ok_or_else(|| {
        let names = schedulers
            .iter()
            .flat_map(|entry| std::iter::once(entry.name).chain(entry.aliases.iter().copied()));
        let known: Vec<&str> = schedulers.iter().map(|entry| entry.name).collect();
        SchedulerError::UnknownScheduler {
            name: name.to_owned(),
            suggestion: nearest(&normalized(name), names).map(str::to_owned),
            known: known.join(", "),
        }
    })
}

/// The scheduler called `name`, ready for `num_inference_steps` steps of a model trained as `config` says.
///
/// # Errors
/// If there is none, or it refuses the config or the number of steps.
pub fn create(
    name: &str,
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    (find(name)?.build)(config, num_inference_steps)
}

/// Name of the scheduler that suits a model whose config was written for the diffusers class `class`: that class, or
/// the nearest to it that exists here. `None` for classes of another kind of model, such as flow matching.
pub fn default_for_class(class: &str) -> Option<&'static str> {
    // The latest first, so that a crate that adds the class itself takes over from a mere neighbour.
    schedulers().iter().rev().find(|entry| entry.classes.contains(&class)).map(|entry| entry.name)
}

impl SchedulerEntry {
    /// `config` with `overrides` applied, pairs of an option's key and its value as text.
    ///
    /// # Errors
    /// If this scheduler has no such option, or the value has the wrong type or is out of range.
    pub fn configure(
        &self,
        config: &SchedulerConfig,
        overrides: &[(String, String)],
    ) -> Result<SchedulerConfig, SchedulerError> {
        let mut config = config.clone();
        for (key, value) in overrides {
            if !self.all_options().any(|option| option.key == key) {
                let options: Vec<&str> = self.all_options().map(|option| option.key).collect();
                return Err(SchedulerError::UnknownOption {
                    scheduler: self.name.to_owned(),
                    option: key.clone(),
                    options: options.join(", "),
                });
            }
            if key.starts_with("beta_") {
                // The model's own table would hide any schedule asked for.
                config.trained_betas = None;
            }
            config.set(key, value_from_text(value))?;
        }
        Ok(config)
    }

    /// The config keys it reads, those of its own first.
    pub fn all_options(&self) -> impl Iterator<Item = &'static SchedulerOption> + use<> {
        self.options.iter().flat_map(|group| group.iter())
    }

    fn is_called(&self, name: &str) -> bool {
        let name = normalized(name);
        normalized(self.name) == name || self.aliases.iter().any(|alias| normalized(alias) == name)
    }
}

fn normalized(name: &str) -> String {
    name.trim().to_lowercase().replace(['_', ' '], "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoiseSource;

    struct Wave(f32);

    impl NoiseSource for Wave {
        fn fill_standard_normal(&mut self, out: &mut [f32]) {
            self.0 += 1.0;
            out.iter_mut().zip(1..).for_each(|(value, i)| *value = (self.0 * i as f32).sin());
        }
    }

    /// A model that knows x_0 leads every scheduler there, from any step on, whatever it is asked to predict.
    #[test]
    fn a_perfect_model_ends_at_the_original() {
        const ORIGINAL: [f32; 3] = [0.5, -0.9, 0.0];
        let choices = |name| {
            let spacings = ["leading", "trailing", "linspace"].into_iter();
            spacings.flat_map(move |spacing| {
                ["epsilon", "v_prediction", "sample"].map(|kind| (name, spacing, kind))
            })
        };
        for (name, spacing, prediction_type) in BUILT_IN.iter().flat_map(|entry| choices(entry.name)) {
            let mut config = SchedulerConfig::default();
            config.set("timestep_spacing", spacing.into()).unwrap();
            config.set("prediction_type", prediction_type.into()).unwrap();
            for (steps, start) in [(1, 0), (2, 0), (20, 0), (20, 13)] {
                let mut scheduler = create(name, &config, steps).unwrap();
                let mut noise = Wave(0.0);
                let mut first_noise = [0.0; 3];
                noise.fill_standard_normal(&mut first_noise);
                let mut latents = [0.0; 3];
                scheduler.add_noise(&ORIGINAL, &first_noise, start, &mut latents).unwrap();
                for step_index in start..steps {
                    let (mut signal, mut noise_level) = ([0.0], [0.0]);
                    scheduler.add_noise(&[1.0], &[0.0], step_index, &mut signal).unwrap();
                    scheduler.add_noise(&[0.0], &[1.0], step_index, &mut noise_level).unwrap();
                    let (signal, noise_level) = (f64::from(signal[0]), f64::from(noise_level[0]));
                    let mut answer = [0.0; 3];
                    for ((answer, latents), original) in answer.iter_mut().zip(latents).zip(ORIGINAL) {
                        let original = f64::from(original);
                        let epsilon = (f64::from(latents) - signal * original) / noise_level;
                        *answer = match prediction_type {
                            "epsilon" => epsilon,
                            "sample" => original,
                            _ => (signal * epsilon - noise_level * original) / signal.hypot(noise_level),
                        } as f32;
                    }
                    scheduler.step(&answer, step_index, &mut latents, &mut noise).unwrap();
                }
                for (found, original) in latents.iter().zip(ORIGINAL) {
                    let label = format!("{name}, {spacing}, {prediction_type}, {steps} steps from {start}");
                    assert!((found - original).abs() < 1e-4, "{label}: {latents:?}");
                }
            }
        }
    }

    #[test]
    fn finds_names_and_aliases_however_written() {
        for (name, found) in [
            ("ddim", "ddim"),
            ("DDIM", "ddim"),
            ("euler_a", "euler-ancestral"),
            ("Euler a", "euler-ancestral"),
            ("k_euler", "euler"),
            (" ddpm ", "ddpm"),
        ] {
            assert_eq!(find(name).unwrap().name, found);
        }
    }

    #[test]
    fn suggests_the_nearest_name() {
        for (name, suggestion) in [("eular", Some("euler")), ("dddim", Some("ddim")), ("quux", None)] {
            match find(name) {
                Err(SchedulerError::UnknownScheduler { suggestion: found, .. }) => {
                    assert_eq!(found.as_deref(), suggestion, "{name}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        let message = find("eular").unwrap_err().to_string();
        assert!(
            message.starts_with("unknown scheduler `eular`, did you mean `euler`?; known: ddim, "),
            "{message}"
        );
    }

    #[test]
    fn a_registered_scheduler_is_found_once() {
        let entry = SchedulerEntry {
            name: "test-copy",
            aliases: &["test-alias"],
            summary: "a copy",
            options: &[],
            classes: &["TestScheduler"],
            build: ddim::build,
        };
        register(entry).unwrap();
        assert_eq!(find("test_alias").unwrap().name, "test-copy");
        assert_eq!(default_for_class("TestScheduler"), Some("test-copy"));
        assert!(create("test-copy", &SchedulerConfig::default(), 3).is_ok());
        for (name, aliases) in [("test-copy", &[][..]), ("Euler_A", &[]), ("new", &["ddim"])] {
            let error = register(SchedulerEntry { name, aliases, ..entry }).unwrap_err();
            assert!(matches!(error, SchedulerError::DuplicateName { .. }), "{error}");
        }
    }

    #[test]
    fn classes_have_a_default_or_none() {
        for (class, name) in [
            ("DDIMScheduler", Some("ddim")),
            ("PNDMScheduler", Some("ddim")),
            ("EulerAncestralDiscreteScheduler", Some("euler-ancestral")),
            ("FlowMatchEulerDiscreteScheduler", None),
        ] {
            assert_eq!(default_for_class(class), name);
        }
    }

    #[test]
    fn overrides_edit_the_config() {
        let overrides = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let ddim = find("ddim").unwrap();
        let mut config = SchedulerConfig::default();
        let edited =
            ddim.configure(&config, &overrides(&[("eta", "0.5"), ("timestep_spacing", "trailing")])).unwrap();
        assert_eq!(edited.number("eta"), Ok(Some(0.5)));
        assert_eq!(edited.timestep_spacing, Some(crate::TimestepSpacing::Trailing));
        config.trained_betas = Some(vec![0.1]);
        let edited = ddim.configure(&config, &overrides(&[("beta_schedule", "scaled_linear")])).unwrap();
        assert_eq!(edited.trained_betas, None);
        let bad_value = ddim.configure(&config, &overrides(&[("prediction_type", "noise")])).unwrap_err();
        assert!(matches!(bad_value, SchedulerError::InvalidValue { .. }), "{bad_value}");
        let not_its_own =
            find("euler").unwrap().configure(&config, &overrides(&[("eta", "0.5")])).unwrap_err();
        assert!(matches!(not_its_own, SchedulerError::UnknownOption { .. }), "{not_its_own}");
    }

    /// An option that no file may have would be an oversight in one of the two lists.
    #[test]
    fn every_option_is_a_key_that_files_may_have() {
        for option in BUILT_IN.iter().flat_map(SchedulerEntry::all_options) {
            let error = SchedulerConfig::from_json(&format!("{{\"{}\": []}}", option.key)).err();
            assert!(!matches!(error, Some(SchedulerError::UnknownKey { .. })), "{}", option.key);
        }
    }
}
