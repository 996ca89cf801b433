//! The description of a scheduler: its names, its options and how it is built.

use crate::config::SchedulerConfig;
use crate::error::SchedulerError;
use crate::scheduler::Scheduler;

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
