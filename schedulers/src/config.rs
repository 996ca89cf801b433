//! A model's `scheduler_config.json`: the noise levels of its training, and settings of schedulers.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::choices::{BetaSchedule, TimestepSpacing};
use crate::error::SchedulerError;
use crate::prediction::PredictionType;
use crate::values::{beta, betas, flag, invalid, nearest, number, one_of, optional, text, whole};

/// The maximum of `num_train_timesteps`: it bounds the memory that a file can make this crate allocate.
const MAX_TRAIN_TIMESTEPS: u64 = 100_000;

/// Keys of diffusers schedulers' `scheduler_config.json` that have no field of their own here. Each is used
/// or refused by the schedulers that know it, and has no effect on the others.
const OTHER_KEYS: [&str; 44] = [
    "algorithm_type",
    "clip_sample",
    "clip_sample_range",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "eta",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "lambda_min_clipped",
    "lower_order_final",
    "noise_sampler_seed",
    "original_inference_steps",
    "predict_x0",
    "rho",
    "sample_max_value",
    "set_alpha_to_one",
    "shift_terminal",
    "sigma_data",
    "sigma_max",
    "sigma_min",
    "sigma_schedule",
    "sigma_spacing",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "thresholding",
    "time_shift_type",
    "timestep_scaling",
    "timestep_type",
    "use_align_your_steps",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
    "variance_type",
    "base_image_seq_len",
    "max_image_seq_len",
    "base_shift",
    "max_shift",
];

/// Keys of old diffusers versions without an effect.
const WITHOUT_EFFECT: [&str; 1] = ["tensor_format"];

/// The key before `prediction_type`, in diffusers up to 0.9: false if the model predicts the picture.
const PREDICT_EPSILON: &str = "predict_epsilon";

/// The models for which the levels of Align Your Steps were published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlignedSteps {
    /// Stable Diffusion 1.
    Sd1,
    /// SDXL.
    Sdxl,
}

/// How a model was trained and how its authors recommend to sample it: a diffusers `scheduler_config.json`.
///
/// Any scheduler can be built from any class's file, as with diffusers' `from_config`: missing keys have the
/// default of the scheduler being built. Command-line options edit the config before a scheduler is built
/// ([`NamedScheduler::configure`](crate::NamedScheduler::configure)).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct SchedulerConfig {
    /// The diffusers class that the file was written for.
    pub class_name: Option<String>,
    /// Number of noise levels in training. Default 1000.
    pub num_train_timesteps: usize,
    /// First β, in (0, 1). The default depends on the scheduler, 0.0001 for most.
    pub beta_start: Option<f64>,
    /// Last β, in (0, 1). The default depends on the scheduler, 0.02 for most.
    pub beta_end: Option<f64>,
    /// How β changes from start to end. The default depends on the scheduler, linear for most.
    pub beta_schedule: Option<BetaSchedule>,
    /// Every β, instead of the schedule.
    pub trained_betas: Option<Vec<f64>>,
    /// The quantity that the model predicts. Default ε.
    pub prediction_type: PredictionType,
    /// How inference timesteps are distributed. The default depends on the scheduler.
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Added to each timestep with leading spacing. Default 0.
    pub steps_offset: usize,
    /// Whether the β are rescaled so that the last timestep is pure noise. Default false.
    pub rescale_betas_zero_snr: bool,
    /// The published levels that `use_align_your_steps` = auto selects.
    pub aligned_steps: AlignedSteps,
    /// The keys that only some schedulers read.
    other: BTreeMap<String, Value>,
    /// The scheduler whose preset has been applied: options that are set later take precedence over it.
    pub(crate) preset_of: Option<String>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            class_name: None,
            num_train_timesteps: 1000,
            beta_start: None,
            beta_end: None,
            beta_schedule: None,
            trained_betas: None,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            rescale_betas_zero_snr: false,
            aligned_steps: AlignedSteps::Sd1,
            other: BTreeMap::new(),
            preset_of: None,
        }
    }
}

impl TryFrom<Map<String, Value>> for SchedulerConfig {
    type Error = SchedulerError;

    /// Reads every key. Those starting with `_` are internal notes of diffusers and are ignored, except
    /// `_class_name`.
    fn try_from(map: Map<String, Value>) -> Result<Self, SchedulerError> {
        let mut config = SchedulerConfig::default();
        let (mut predicts_epsilon, mut says_prediction) = (None, false);
        for (key, value) in map {
            if key == "_class_name" {
                config.class_name = Some(text(&key, &value)?.to_owned());
            } else if key.starts_with('_') || WITHOUT_EFFECT.contains(&key.as_str()) {
                continue;
            } else if key == PREDICT_EPSILON && !value.is_null() {
                predicts_epsilon = Some(flag(&key, &value)?);
            } else if config.has_field(&key) || OTHER_KEYS.contains(&key.as_str()) {
                says_prediction |= key == "prediction_type";
                config.set(&key, value)?;
            } else if matches!(value, Value::Null | Value::Bool(false)) {
                // An unknown feature that is off.
                continue;
            } else {
                let suggestion = nearest(&key, FIELDS.into_iter().chain(OTHER_KEYS)).map(str::to_owned);
                return Err(SchedulerError::UnknownKey { key, value: value.to_string(), suggestion });
            }
        }
        if predicts_epsilon == Some(false) {
            if says_prediction && config.prediction_type != PredictionType::Sample {
                let expected = "true unless `prediction_type` is \"sample\"";
                return Err(invalid(PREDICT_EPSILON, expected, "false"));
            }
            config.prediction_type = PredictionType::Sample;
        }
        Ok(config)
    }
}

const FIELDS: [&str; 9] = [
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "rescale_betas_zero_snr",
];

/// Longest text of a config in bytes. JSON of empty lists takes twenty times as much in memory.
const MAX_LEN: usize = 1 << 20;

impl SchedulerConfig {
    /// Parses the text of a `scheduler_config.json`.
    ///
    /// Accepts a bare `NaN` and `Infinity` as written by Python (diffusers has
    /// `"lambda_min_clipped": -Infinity` in the files of DPM-Solver); it is an error only if the scheduler
    /// reads that key.
    ///
    /// # Errors
    /// If the text is not a JSON object, a key is unknown, or a value has the wrong type or is out of range.
    pub fn from_json(json: &str) -> Result<Self, SchedulerError> {
        if json.len() > MAX_LEN {
            return Err(SchedulerError::NotJson {
                reason: format!("the text has more than {MAX_LEN} bytes"),
            });
        }
        let map: Map<String, Value> = serde_json::from_str(&quote_non_finite(json))
            .map_err(|error| SchedulerError::NotJson { reason: error.to_string() })?;
        Self::try_from(map)
    }

    /// Sets `key`, with its name in `scheduler_config.json`, to `value`. Null removes a key that may be
    /// absent.
    ///
    /// # Errors
    /// If the value has the wrong type or is out of range. Keys without a field are stored without a check,
    /// for the scheduler that reads them.
    pub fn set(&mut self, key: &str, value: Value) -> Result<(), SchedulerError> {
        match key {
            "num_train_timesteps" => {
                self.num_train_timesteps = whole(key, &value, 1, MAX_TRAIN_TIMESTEPS)?;
            }
            "beta_start" => self.beta_start = Some(beta(key, &value)?),
            "beta_end" => self.beta_end = Some(beta(key, &value)?),
            "beta_schedule" => self.beta_schedule = Some(BetaSchedule::from_value(key, &value)?),
            "trained_betas" => self.trained_betas = optional(key, &value, betas)?,
            "prediction_type" => self.prediction_type = PredictionType::from_value(key, &value)?,
            "timestep_spacing" => self.timestep_spacing = optional(key, &value, TimestepSpacing::from_value)?,
            "steps_offset" => self.steps_offset = whole(key, &value, 0, MAX_TRAIN_TIMESTEPS)?,
            "rescale_betas_zero_snr" => self.rescale_betas_zero_snr = flag(key, &value)?,
            _ if value.is_null() => drop(self.other.remove(key)),
            _ => drop(self.other.insert(key.to_owned(), value)),
        }
        Ok(())
    }

    /// The config after the changes of diffusers' `StableDiffusionPipeline` at loading: it always sets
    /// `steps_offset` to 1 and turns `clip_sample` off.
    ///
    /// If the file's class does not clip and the file has no `clip_sample`, the key stays absent: as with
    /// diffusers' `DDIMScheduler.from_config(pipe.scheduler.config)`, a scheduler built from it uses its own
    /// default.
    #[must_use]
    pub fn as_stable_diffusion_loads_it(mut self) -> Self {
        self.steps_offset = 1;
        let class_clips = matches!(self.class_name.as_deref(), Some("DDIMScheduler" | "DDPMScheduler"));
        if class_clips || self.other.get("clip_sample") == Some(&Value::Bool(true)) {
            self.other.insert("clip_sample".to_owned(), Value::Bool(false));
        }
        self
    }

    /// This config with the betas of `start`, `end` and `schedule` where it has none: some diffusers classes
    /// have other defaults than most.
    pub(crate) fn or_betas(&self, start: f64, end: f64, schedule: BetaSchedule) -> Self {
        let mut config = self.clone();
        config.beta_start.get_or_insert(start);
        config.beta_end.get_or_insert(end);
        config.beta_schedule.get_or_insert(schedule);
        config
    }

    /// A key without a field of its own, as true or false.
    ///
    /// # Errors
    /// If it is neither.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, SchedulerError> {
        self.other.get(key).map(|value| flag(key, value)).transpose()
    }

    /// A key without a field of its own, as a number.
    ///
    /// # Errors
    /// If it is not a number.
    pub fn number(&self, key: &str) -> Result<Option<f64>, SchedulerError> {
        self.other.get(key).map(|value| number(key, value)).transpose()
    }

    /// A key without a field of its own, as one of the values in `names`.
    ///
    /// # Errors
    /// If it is not one of them.
    pub fn choice<T: Copy>(&self, key: &str, names: &[(&str, T)]) -> Result<Option<T>, SchedulerError> {
        self.other.get(key).map(|value| one_of(key, value, names)).transpose()
    }

    /// A key without a field of its own, as an integer from `min` to `max`.
    ///
    /// # Errors
    /// If it is not.
    pub fn whole(&self, key: &str, min: u64, max: u64) -> Result<Option<usize>, SchedulerError> {
        self.other.get(key).map(|value| whole(key, value, min, max)).transpose()
    }

    /// A key without a field of its own, as a list of integers.
    ///
    /// # Errors
    /// If it is not.
    pub fn whole_numbers(&self, key: &str) -> Result<Option<Vec<usize>>, SchedulerError> {
        let Some(value) = self.other.get(key) else { return Ok(None) };
        let values = value.as_array().ok_or_else(|| invalid(key, "a list of whole numbers", value))?;
        values
            .iter()
            .map(|value| whole(key, value, 0, u64::from(u32::MAX)))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// `lambda_min_clipped`: a number, or the -Infinity that Python writes, which is the default.
    pub(crate) fn lambda_min_clipped(&self) -> Result<f64, SchedulerError> {
        let key = "lambda_min_clipped";
        match self.other.get(key) {
            None => Ok(f64::NEG_INFINITY),
            Some(Value::String(word)) if word == "-Infinity" => Ok(f64::NEG_INFINITY),
            Some(value) => number(key, value),
        }
    }

    /// Refuses `rescale_betas_zero_snr` for a scheduler whose diffusers class does not have this option.
    pub(crate) fn refuse_zero_snr(&self, scheduler: &str) -> Result<(), SchedulerError> {
        match self.rescale_betas_zero_snr {
            false => Ok(()),
            true => Err(SchedulerError::Unsupported {
                scheduler: scheduler.to_owned(),
                key: "rescale_betas_zero_snr".to_owned(),
                value: "true".to_owned(),
                advice: "use another scheduler, such as ddim, euler, dpm-multistep or unipc".to_owned(),
            }),
        }
    }

    /// Checks that a key that `scheduler` does not implement is absent or has its neutral value.
    ///
    /// # Errors
    /// [`SchedulerError::Unsupported`] if not.
    pub fn refuse_unless(
        &self,
        scheduler: &str,
        key: &str,
        neutral: impl Into<Value>,
    ) -> Result<(), SchedulerError> {
        let neutral = neutral.into();
        match self.other.get(key) {
            Some(value) if *value != neutral => Err(SchedulerError::Unsupported {
                scheduler: scheduler.to_owned(),
                key: key.to_owned(),
                value: value.to_string(),
                advice: format!("set the option to {neutral} or use another scheduler"),
            }),
            _ => Ok(()),
        }
    }

    fn has_field(&self, key: &str) -> bool {
        FIELDS.contains(&key)
    }
}

/// Puts quotes around `NaN`, `Infinity` and `-Infinity` outside strings, so that JSON parsers accept them.
fn quote_non_finite(json: &str) -> String {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    let mut quoted = String::with_capacity(json.len());
    let mut rest = json;
    let mut in_string = false;
    while let Some(next) = rest.chars().next() {
        let mut taken = next.len_utf8();
        if in_string {
            match next {
                '"' => in_string = false,
                // The escaped character cannot end the string.
                '\\' => taken += rest[taken..].chars().next().map_or(0, char::len_utf8),
                _ => {}
            }
        } else if next == '"' {
            in_string = true;
        } else if let Some(word) = WORDS.into_iter().find(|word| rest.starts_with(word)) {
            quoted.extend(["\"", word, "\""]);
            rest = &rest[word.len()..];
            continue;
        }
        quoted.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    quoted
}

#[cfg(test)]
mod tests;
