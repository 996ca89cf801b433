//! Finds schedulers by name. A crate outside this workspace adds its own with one [`register`] call.

use std::sync::{PoisonError, RwLock};

use crate::config::SchedulerConfig;
use crate::entry::SchedulerEntry;
use crate::error::SchedulerError;
use crate::names::{NamedScheduler, find_among};
use crate::registry::BUILT_IN;
use crate::scheduler::Scheduler;

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

/// Finds the scheduler called `name`: its own name, an alias, a preset, or a diffusers class, with or without a sigma
/// schedule after it (`DPM++ 2M Karras`, `dpmpp_2m_sde_gpu karras`, `EulerDiscreteScheduler`). Case, spaces and
/// punctuation do not matter; `++` is equivalent to `pp`.
///
/// # Errors
/// If there is none (the error suggests similar names), or the scheduler does not support the schedule.
pub fn find(name: &str) -> Result<NamedScheduler, SchedulerError> {
    find_among(name, &schedulers())
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
