//! Schedulers by name. A crate outside this workspace adds its own with one [`register`] call.

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
    /// Values it takes, and the default.
    pub values: &'static str,
}

/// Builds a scheduler for a number of inference steps.
pub type BuildScheduler = fn(&SchedulerConfig, usize) -> Result<Box<dyn Scheduler>, SchedulerError>;

/// A name under which a scheduler is known with certain settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Written like a scheduler's.
    pub name: &'static str,
    /// Config keys and their values as text. Options that a user gives have precedence.
    pub config: &'static [(&'static str, &'static str)],
}

/// A scheduler: what it is called and how it is built.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerEntry {
    /// Lowercase, words joined by `-`.
    pub name: &'static str,
    /// Other names, written like `name`.
    pub aliases: &'static [&'static str],
    /// Names for it with certain settings.
    pub presets: &'static [Preset],
    /// One line that says what it is and when to use it.
    pub summary: &'static str,
    /// The config keys it reads.
    pub options: &'static [&'static [SchedulerOption]],
    /// diffusers classes whose configs it is the best choice for.
    pub classes: &'static [&'static str],
    /// Builds it for a number of inference steps.
    pub build: BuildScheduler,
    /// The settings of the preset by whose name it was found.
    pub preset: &'static [(&'static str, &'static str)],
}

static ADDED: RwLock<Vec<SchedulerEntry>> = RwLock::new(Vec::new());

/// Adds a scheduler, for this process. Call it before handing control to the command line or the engine.
///
/// # Errors
/// If its name or an alias is taken.
pub fn register(entry: SchedulerEntry) -> Result<(), SchedulerError> {
    // A panic elsewhere cannot leave the list half changed: `push` is the only write.
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) =
        entry.names().find(|name| BUILT_IN.iter().chain(added.iter()).any(|other| other.is_called(name)))
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

/// The scheduler called `name`, with the settings that belong to the name if it is that of a preset. Case does not
/// matter, `_` and a space are as good as `-`, and `++` as `pp`.
///
/// # Errors
/// If there is none; the error suggests the nearest.
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

/// The scheduler called `name`, ready for `num_inference_steps` steps of a model trained as `config` says.
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

    /// `config` with the settings of the preset that it was found by. Once: options given since have precedence.
    fn with_preset(&self, config: &SchedulerConfig) -> Result<SchedulerConfig, SchedulerError> {
        let mut config = config.clone();
        if !self.preset.is_empty() && config.preset_of.as_deref() != Some(self.name) {
            for (key, value) in self.preset {
                config.set(key, value_from_text(value))?;
            }
            // A preset with a schedule of its own is meant instead of the file's.
            if self.preset.iter().any(|(key, _)| SCHEDULES.contains(key)) {
                let others = SCHEDULES.iter().filter(|key| self.preset.iter().all(|(own, _)| own != *key));
                others.into_iter().try_for_each(|key| config.set(key, false.into()))?;
            }
            config.preset_of = Some(self.name.to_owned());
        }
        Ok(config)
    }

    /// Every name that it goes by.
    fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let presets = self.presets.iter().map(|preset| preset.name);
        std::iter::once(self.name).chain(self.aliases.iter().copied()).chain(presets)
    }

    fn is_called(&self, name: &str) -> bool {
        self.names().any(|own| normalized(own) == normalized(name))
    }

    /// Itself, or itself with the preset of that name, under that name.
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
