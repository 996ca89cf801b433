//! Finds schedulers by name. A crate outside this workspace adds its own with one [`register`] call.

use std::sync::{PoisonError, RwLock};

use crate::config::{nearest, value_from_text};
use crate::registry::BUILT_IN;
use crate::sigma_schedule::SCHEDULES;
use crate::{Scheduler, SchedulerConfig, SchedulerError};

/// A config key that a scheduler reads and a user may override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerOption {
    /// Key in the scheduler config.
    pub key: &'static str,
    /// Accepted values, and the default.
    pub values: &'static str,
}

/// Builds a scheduler for a number of inference steps.
pub type BuildScheduler = fn(&SchedulerConfig, usize) -> Result<Box<dyn Scheduler>, SchedulerError>;

/// A name for a scheduler with certain settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// In the same form as a scheduler's.
    pub name: &'static str,
    /// Config keys and their values as text. Options of the user take precedence.
    pub config: &'static [(&'static str, &'static str)],
}

/// A scheduler: its names and how it is built.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerEntry {
    /// Lowercase, words joined by `-`.
    pub name: &'static str,
    /// Other names, in the form of `name`.
    pub aliases: &'static [&'static str],
    /// Names for it with certain settings.
    pub presets: &'static [Preset],
    /// One line that describes it and when to use it.
    pub summary: &'static str,
    /// The config keys it reads.
    pub options: &'static [&'static [SchedulerOption]],
    /// diffusers classes for whose configs it is the best choice.
    pub classes: &'static [&'static str],
    /// Builds it for a number of inference steps.
    pub build: BuildScheduler,
    /// The settings of the preset by whose name it was found.
    pub preset: &'static [(&'static str, &'static str)],
}

static ADDED: RwLock<Vec<SchedulerEntry>> = RwLock::new(Vec::new());

/// Adds a scheduler for this process. Call it before starting the command line or the engine.
///
/// # Errors
/// If its name or an alias is already in use.
pub fn register(entry: SchedulerEntry) -> Result<(), SchedulerError> {
    // A panic in another thread cannot leave the list half changed: `push` is the only write.
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) =
        entry.names().find(|name| BUILT_IN.iter().chain(added.iter()).any(|other| other.is_called(name)))
    {
        return Err(SchedulerError::DuplicateName { name: name.to_owned() });
    }
    added.push(entry);
    Ok(())
}

/// All schedulers: the built-in ones, then the registered ones in their order.
pub fn schedulers() -> Vec<SchedulerEntry> {
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
    BUILT_IN.iter().chain(added.iter()).copied().collect()
}

/// The scheduler called `name`, with the settings of the preset if it is the name of one. Case does not
/// matter; `_` and a space are equivalent to `-`, and `++` to `pp`.
///
/// # Errors
/// If there is none; the error suggests the most similar name.
pub fn find(name: &str) -> Result<SchedulerEntry, SchedulerError> {
    let schedulers = schedulers();
    schedulers.iter().find_map(|entry| entry.called(name)).ok_or_else(|| {
        let names = schedulers.iter().flat_map(SchedulerEntry::names);
        let known: Vec<&str> = schedulers.iter().map(|entry| entry.name).collect();
        SchedulerError::UnknownScheduler {
            name: name.to_owned(),
            suggestion: nearest(&normalized(name), names).map(str::to_owned),
            known: known.join(", "),
        }
    })
}

/// The scheduler called `name`, ready for `num_inference_steps` steps of a model that was trained according
/// to `config`.
///
/// # Errors
/// If there is none, or it refuses the config or the number of steps.
pub fn create(
    name: &str,
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    let entry = find(name)?;
    (entry.build)(&entry.with_preset(config)?, num_inference_steps)
}

/// Name of the scheduler for a model whose config was written for the diffusers class `class`: that class, or
/// the closest one that exists here. `None` for classes of another kind of model, such as flow matching.
pub fn default_for_class(class: &str) -> Option<&'static str> {
    // The latest first, so that a crate that adds the class itself takes precedence over a similar scheduler.
    schedulers().iter().rev().find(|entry| entry.classes.contains(&class)).map(|entry| entry.name)
}

impl SchedulerEntry {
    /// `config` with `overrides`, pairs of an option's key and its value as text.
    ///
    /// # Errors
    /// If this scheduler has no such option, or the value has the wrong type or is out of range.
    pub fn configure(
        &self,
        config: &SchedulerConfig,
        overrides: &[(String, String)],
    ) -> Result<SchedulerConfig, SchedulerError> {
        let mut config = self.with_preset(config)?;
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
                // The model's own table would take precedence over the requested schedule.
                config.trained_betas = None;
            }
            config.set(key, value_from_text(value))?;
        }
        Ok(config)
    }

    /// The config keys that it reads, its own ones first.
    pub fn all_options(&self) -> impl Iterator<Item = &'static SchedulerOption> + use<> {
        self.options.iter().flat_map(|group| group.iter())
    }

    /// `config` with the settings of the preset by which it was found. They are applied only once: options
    /// that were set later take precedence.
    fn with_preset(&self, config: &SchedulerConfig) -> Result<SchedulerConfig, SchedulerError> {
        let mut config = config.clone();
        if !self.preset.is_empty() && config.preset_of.as_deref() != Some(self.name) {
            for (key, value) in self.preset {
                config.set(key, value_from_text(value))?;
            }
            // A preset with a schedule replaces the one of the file.
            if self.preset.iter().any(|(key, _)| SCHEDULES.contains(key)) {
                let others = SCHEDULES.iter().filter(|key| self.preset.iter().all(|(own, _)| own != *key));
                others.into_iter().try_for_each(|key| config.set(key, false.into()))?;
            }
            config.preset_of = Some(self.name.to_owned());
        }
        Ok(config)
    }

    /// All its names.
    fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let presets = self.presets.iter().map(|preset| preset.name);
        std::iter::once(self.name).chain(self.aliases.iter().copied()).chain(presets)
    }

    fn is_called(&self, name: &str) -> bool {
        self.names().any(|own| normalized(own) == normalized(name))
    }

    /// The entry itself, or with the preset of that name, if it has that name.
    fn called(&self, name: &str) -> Option<SchedulerEntry> {
        let preset = self.presets.iter().find(|preset| normalized(preset.name) == normalized(name));
        match preset {
            Some(preset) => Some(SchedulerEntry { name: preset.name, preset: preset.config, ..*self }),
            None => self.is_called(name).then_some(*self),
        }
    }
}

fn normalized(name: &str) -> String {
    name.trim().to_lowercase().replace("++", "pp").replace(['_', ' '], "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ddim;
    #[test]
    fn finds_names_and_aliases_however_written() {
        for (name, found) in [
            ("ddim", "ddim"),
            ("DDIM", "ddim"),
            ("euler_a", "euler-ancestral"),
            ("Euler a", "euler-ancestral"),
            ("k_euler", "euler"),
            (" ddpm ", "ddpm"),
            ("DPM++ 2M Karras", "dpmpp-2m-karras"),
            ("dpmpp_2m_sde", "dpmpp-2m-sde"),
            ("DPM2 a", "kdpm2-ancestral"),
            ("PLMS", "plms"),
            ("UniPC", "unipc"),
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

    /// No two schedulers share a name, and every preset can be built.
    #[test]
    fn names_are_unique_and_presets_build() {
        let mut names: Vec<String> =
            BUILT_IN.iter().flat_map(SchedulerEntry::names).map(normalized).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for entry in BUILT_IN {
            for preset in entry.presets {
                assert!(create(preset.name, &SchedulerConfig::default(), 4).is_ok(), "{}", preset.name);
                for (key, _) in preset.config {
                    assert!(entry.all_options().any(|option| option.key == *key), "{}: {key}", preset.name);
                }
            }
        }
    }

    /// A preset's settings take precedence over the file's, and the user's over both, however often they are
    /// applied.
    #[test]
    fn a_preset_gives_way_to_options() {
        let file =
            SchedulerConfig::from_json(r#"{"use_exponential_sigmas": true, "solver_order": 3}"#).unwrap();
        let entry = find("DPM++ 2M Karras").unwrap();
        let plain = entry.configure(&file, &[]).unwrap();
        let known = |config: &SchedulerConfig| {
            let flags = ["use_karras_sigmas", "use_exponential_sigmas"].map(|key| config.flag(key).unwrap());
            (flags, config.whole("solver_order", 1, 3).unwrap())
        };
        assert_eq!(known(&plain), ([Some(true), Some(false)], Some(2)));
        let overrides = [("use_karras_sigmas".to_owned(), "false".to_owned())];
        let edited = entry.configure(&file, &overrides).unwrap();
        assert_eq!(known(&edited), ([Some(false), Some(false)], Some(2)));
        let timesteps = |config| create(entry.name, config, 5).unwrap().timesteps().to_vec();
        assert_eq!(
            timesteps(&edited),
            create("dpmpp-2m", &SchedulerConfig::default(), 5).unwrap().timesteps()
        );
        assert_eq!(timesteps(&plain), timesteps(&file));
        assert_ne!(timesteps(&plain), timesteps(&edited));
    }

    #[test]
    fn a_registered_scheduler_is_found_once() {
        let entry = SchedulerEntry {
            name: "test-copy",
            aliases: &["test-alias"],
            presets: &[],
            summary: "a copy",
            options: &[],
            classes: &["TestScheduler"],
            build: ddim::build,
            preset: &[],
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
            ("PNDMScheduler", Some("pndm")),
            ("DPMSolverMultistepScheduler", Some("dpm-multistep")),
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

    /// Every option must be a key that files may contain; otherwise one of the two lists is incomplete.
    #[test]
    fn every_option_is_a_key_that_files_may_have() {
        for option in BUILT_IN.iter().flat_map(SchedulerEntry::all_options) {
            let error = SchedulerConfig::from_json(&format!("{{\"{}\": []}}", option.key)).err();
            assert!(!matches!(error, Some(SchedulerError::UnknownKey { .. })), "{}", option.key);
        }
    }
}
