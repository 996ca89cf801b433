//! What can go wrong, in one line each.

use thiserror::Error;

/// What can be wrong with a scheduler's config, its name, or a call.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SchedulerError {
    /// The config is not a JSON object.
    #[error("scheduler config is not a JSON object: {reason}")]
    NotJson {
        /// What the JSON parser says, with line and column.
        reason: String,
    },
    /// A value of the wrong type or out of range.
    #[error("scheduler config: `{key}` is {found}, expected {expected}")]
    InvalidValue {
        /// The config key.
        key: String,
        /// What would be accepted.
        expected: String,
        /// The value as JSON.
        found: String,
    },
    /// A valid value that this scheduler does not implement and that would change the picture.
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
    /// A key that no scheduler knows, so its effect is unknown.
    #[error("scheduler config: unknown key `{key}` = {value}{}", did_you_mean(.suggestion))]
    UnknownKey {
        /// The config key.
        key: String,
        /// The value as JSON.
        value: String,
        /// The nearest key that is known.
        suggestion: Option<String>,
    },
    /// An option that the chosen scheduler does not read.
    #[error("scheduler `{scheduler}` has no option `{option}`; its options are: {options}")]
    UnknownOption {
        /// Name of the scheduler.
        scheduler: String,
        /// The option asked for.
        option: String,
        /// The options it has.
        options: String,
    },
    /// No scheduler of that name is registered.
    #[error("unknown scheduler `{name}`{}; known: {known}", did_you_mean(.suggestion))]
    UnknownScheduler {
        /// The name asked for.
        name: String,
        /// The nearest registered name.
        suggestion: Option<String>,
        /// All registered names.
        known: String,
    },
    /// A scheduler of that name or alias is registered already.
    #[error("a scheduler called `{name}` is registered already")]
    DuplicateName {
        /// The name or alias.
        name: String,
    },
    /// A step count outside what the model was trained for.
    #[error("{found} inference steps, expected 1 to {max} (`num_train_timesteps`)")]
    StepCount {
        /// The step count asked for.
        found: usize,
        /// Number of training timesteps.
        max: usize,
    },
    /// A timestep past the end of the training clock.
    #[error(
        "{num_inference_steps} steps with `steps_offset` {steps_offset} reach timestep {timestep}, past the last \
         training timestep {last}; use fewer steps"
    )]
    TimestepOutOfRange {
        /// The offending timestep.
        timestep: usize,
        /// The last timestep there is.
        last: usize,
        /// The step count asked for.
        num_inference_steps: usize,
        /// The config's offset.
        steps_offset: usize,
    },
    /// A call with a step that the schedule does not have.
    #[error("step index {found}, expected less than {steps}")]
    StepIndex {
        /// The index given.
        found: usize,
        /// The number of steps.
        steps: usize,
    },
    /// A call with slices of different lengths.
    #[error("{what} has {found} values, expected {expected}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length of the others.
        expected: usize,
    },
    /// A run cannot be continued from what was kept of it.
    #[error(
        "before step {step_index} the scheduler remembers {found}, expected {expected}; a run of this scheduler cannot \
         start there, and one that is continued needs its own history (a start from a picture: try another scheduler)"
    )]
    History {
        /// The step to continue with.
        step_index: usize,
        /// What was kept.
        found: String,
        /// What this scheduler could have kept.
        expected: String,
    },
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|name| format!(", did you mean `{name}`?")).unwrap_or_default()
}
