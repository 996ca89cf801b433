//! Finds schedulers by name. A crate outside this workspace adds its own with one [`register`] call.

use std::sync::{PoisonError, RwLock};

use crate::names::{find, find_among};
use crate::registry::BUILT_IN;
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
}

static ADDED: RwLock<Vec<SchedulerEntry>> = RwLock::new(Vec::new());

/// Adds a scheduler for this process. Call it before starting the command line or the engine.
///
/// # Errors
/// If its name or an alias is already in use.
pub fn register(entry: SchedulerEntry) -> Result<(), SchedulerError> {
    // A panic in another thread cannot leave the list half changed: `push` is the only write.
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    let known: Vec<SchedulerEntry> = BUILT_IN.iter().chain(added.iter()).copied().collect();
    if let Some(name) = entry.names().find(|name| find_among(name, &known).is_ok()) {
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
    let named = find(name)?;
    (named.entry.build)(&named.with_settings(config)?, num_inference_steps)
}

/// Name of the scheduler for a model whose config was written for the diffusers class `class`: that class, or
/// the closest one that exists here. `None` for classes of another kind of model, such as flow matching.
pub fn default_for_class(class: &str) -> Option<&'static str> {
    // The latest first, so that a crate that adds the class itself takes precedence over a similar scheduler.
    schedulers().iter().rev().find(|entry| entry.classes.contains(&class)).map(|entry| entry.name)
}

impl SchedulerEntry {
    /// The config keys that it reads, its own ones first.
    pub fn all_options(&self) -> impl Iterator<Item = &'static SchedulerOption> + use<> {
        self.options.iter().flat_map(|group| group.iter())
    }

    /// All its names except those of its classes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let presets = self.presets.iter().map(|preset| preset.name);
        std::iter::once(self.name).chain(self.aliases.iter().copied()).chain(presets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ddim;

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
        };
        register(entry).unwrap();
        assert_eq!(find("test_alias").unwrap().name(), "test-copy");
        assert_eq!(default_for_class("TestScheduler"), Some("test-copy"));
        assert!(create("test-copy", &SchedulerConfig::default(), 3).is_ok());
        for (name, aliases) in
            [("test-copy", &[][..]), ("Euler_A", &[]), ("euler-karras", &[]), ("new", &["ddim"])]
        {
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

    /// Every option must be a key that files may contain; otherwise one of the two lists is incomplete.
    #[test]
    fn every_option_is_a_key_that_files_may_have() {
        for option in BUILT_IN.iter().flat_map(SchedulerEntry::all_options) {
            let error = SchedulerConfig::from_json(&format!("{{\"{}\": []}}", option.key)).err();
            assert!(!matches!(error, Some(SchedulerError::UnknownKey { .. })), "{}", option.key);
        }
    }
}
