//! Errors of this crate; each message is one line.

use std::fmt;

use thiserror::Error;

/// The reason for a maximum number of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepLimit {
    /// The number of noise levels of training.
    Training,
    /// The number of noise levels of training, less the one at which the run ends.
    BeforeTheFirst,
    /// The number of steps from which a model was distilled.
    Distilled,
}

impl fmt::Display for StepLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StepLimit::Training => "the limit is the number of noise levels of training (`num_train_timesteps`)",
            StepLimit::BeforeTheFirst => {
                "the limit is one less than the number of noise levels of training (`num_train_timesteps`)"
            }
            StepLimit::Distilled => {
                "the limit is the number of steps from which the model was distilled (`original_inference_steps`); use \
                 2 to 8 steps or another scheduler"
            }
        })
    }
}

/// Errors of a scheduler's config, its name, or a call.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SchedulerError {
    /// The config is not a JSON object.
    #[error("the scheduler config is not a JSON object: {reason}")]
    NotJson {
        /// The message of the JSON parser, with line and column.
        reason: String,
    },
    /// The value has the wrong type or is out of range.
    #[error("scheduler config: `{key}` is {found}, expected {expected}")]
    InvalidValue {
        /// The config key.
        key: String,
        /// The accepted values.
        expected: String,
        /// The value as JSON.
        found: String,
    },
    /// The value is valid but not implemented by this scheduler, and would change the picture.
    #[error("scheduler `{scheduler}` does not support `{key}` = {value}; {advice}")]
    Unsupported {
        /// Name of the scheduler.
        scheduler: String,
        /// The config key.
        key: String,
        /// The value as JSON.
        value: String,
        /// What to do instead.
        advice: String,
    },
    /// No scheduler knows the key, so its effect is unknown.
    #[error("scheduler config: the key `{key}` = {value} is unknown{}", did_you_mean(.suggestion))]
    UnknownKey {
        /// The config key.
        key: String,
        /// The value as JSON.
        value: String,
        /// The most similar known key.
        suggestion: Option<String>,
    },
    /// A model's config was written for a diffusers class that is not supported.
    #[error("scheduler class `{class}` is not supported: {reason}")]
    UnknownClass {
        /// The class.
        class: String,
        /// Why not, or what to do about it.
        reason: &'static str,
    },
    /// The chosen scheduler does not have the option.
    #[error("scheduler `{scheduler}` has no option `{option}`; its options are: {options}")]
    UnknownOption {
        /// Name of the scheduler.
        scheduler: String,
        /// The option.
        option: String,
        /// The options of the scheduler.
        options: String,
    },
    /// No scheduler has that name.
    #[error("the scheduler `{name}` is unknown, expected one of {known}{}", one_of(.suggestions))]
    UnknownScheduler {
        /// The name.
        name: String,
        /// The most similar names, best first.
        suggestions: Vec<String>,
        /// All registered names.
        known: String,
    },
    /// The name is that of a sigma schedule, not of a scheduler.
    #[error(
        "`{name}` is a sigma schedule, not a scheduler; write it after a scheduler's name, such as `euler-{name}`"
    )]
    ScheduleAlone {
        /// The name of the schedule.
        name: String,
    },
    /// The scheduler does not support the sigma schedule.
    #[error("scheduler `{scheduler}` does not support the sigma schedule `{schedule}`; {advice}")]
    UnusableSchedule {
        /// Name of the scheduler.
        scheduler: String,
        /// The schedule asked for.
        schedule: String,
        /// What to do instead.
        advice: String,
    },
    /// A scheduler of that name or alias is already registered.
    #[error("a scheduler called `{name}` is registered already")]
    DuplicateName {
        /// The name or alias.
        name: String,
    },
    /// The step count is outside the range that the scheduler allows.
    #[error("the run has {found} steps, expected 1 to {max}: {limit}")]
    StepCount {
        /// The step count.
        found: usize,
        /// The largest step count allowed.
        max: usize,
        /// Where the maximum comes from.
        limit: StepLimit,
    },
    /// A timestep is past the end of training.
    #[error(
        "{num_inference_steps} steps with `steps_offset` {steps_offset} reach timestep {timestep}, past the last \
         training timestep {last}; use fewer steps"
    )]
    TimestepOutOfRange {
        /// The timestep.
        timestep: usize,
        /// The last timestep of training.
        last: usize,
        /// The step count.
        num_inference_steps: usize,
        /// The config's offset.
        steps_offset: usize,
    },
    /// The schedule does not have the step of a call.
    #[error("the step index is {found}, expected less than {steps}")]
    StepIndex {
        /// The index given.
        found: usize,
        /// The number of steps.
        steps: usize,
    },
    /// The slices of a call have different lengths.
    #[error("{what} has {found} values, expected {expected}")]
    Length {
        /// The argument.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length of the others.
        expected: usize,
    },
    /// A run cannot be resumed from its saved state.
    #[error(
        "the scheduler has a history of {found} before step {step_index}, expected {expected}; resume a run with the \
         history that it was saved with, and start a new run from a picture with another scheduler"
    )]
    History {
        /// The step at which it resumes.
        step_index: usize,
        /// Description of the saved state.
        found: String,
        /// Description of the states that this scheduler can have.
        expected: String,
    },
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

fn one_of(suggestions: &[String]) -> String {
    match suggestions {
        [] => String::new(),
        names => format!("; did you mean `{}`?", names.join("` or `")),
    }
}
