//! Names of schedulers and of sigma schedules, as AUTOMATIC1111's web UI, ComfyUI, diffusers and similar programs write
//! them.

use crate::config::SchedulerConfig;
use crate::entry::SchedulerEntry;
use crate::error::SchedulerError;
use crate::sigma_schedule::SCHEDULE_KEYS;
use crate::values::{MIN_SIMILARITY, similarity, value_from_text};

/// Config keys and their values as text.
type Settings = &'static [(&'static str, &'static str)];

/// The names of a sigma schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduleName {
    /// sdq's own name, which follows a scheduler's: `euler-karras`.
    pub name: &'static str,
    /// The name in AUTOMATIC1111's web UI.
    pub label: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// The settings that select it. A scheduler uses the first that it supports.
    settings: &'static [Settings],
}

const fn schedule(
    name: &'static str,
    label: &'static str,
    aliases: &'static [&'static str],
    settings: &'static [Settings],
) -> ScheduleName {
    ScheduleName { name, label, aliases, settings }
}

/// All sigma schedules. `beta` is that of AUTOMATIC1111 and diffusers, quantiles of the sigmas; ComfyUI's schedule with
/// that name uses quantiles of the timesteps.
const SCHEDULES: [ScheduleName; 10] = [
    schedule(
        "karras",
        "Karras",
        &["k", "ka"],
        &[&[("use_karras_sigmas", "true")], &[("sigma_spacing", "karras")]],
    ),
    // k-diffusion's polyexponential sigmas are equal to these with an exponent of 1, the default of other programs.
    schedule(
        "exponential",
        "Exponential",
        &["polyexponential"],
        &[&[("use_exponential_sigmas", "true")], &[("sigma_spacing", "exponential")]],
    ),
    schedule("beta", "Beta", &[], &[&[("use_beta_sigmas", "true")], &[("sigma_spacing", "beta")]]),
    schedule("beta-timesteps", "Beta timesteps", &[], &[&[("sigma_spacing", "beta_timesteps")]]),
    schedule(
        "sgm-uniform",
        "SGM Uniform",
        &[],
        &[&[("sigma_spacing", "sgm_uniform")], &[("timestep_spacing", "trailing")]],
    ),
    schedule("simple", "Simple", &[], &[&[("sigma_spacing", "simple")], &[("timestep_spacing", "trailing")]]),
    schedule(
        "ddim-uniform",
        "DDIM",
        &["ddim"],
        &[&[("sigma_spacing", "ddim_uniform")], &[("timestep_spacing", "leading"), ("steps_offset", "1")]],
    ),
    schedule("kl-optimal", "KL Optimal", &[], &[&[("sigma_spacing", "kl_optimal")]]),
    schedule("ays", "Align Your Steps", &[], &[&[("use_align_your_steps", "auto")]]),
    schedule(
        "normal",
        "Normal",
        &["uniform", "discrete", "native"],
        &[&[("sigma_spacing", "normal")], &[("timestep_spacing", "linspace")]],
    ),
];

/// Names of a sampler's default schedule in AUTOMATIC1111's web UI.
const AUTOMATIC: [&str; 2] = ["automatic", "default"];

/// Schedulers and presets, their names in the style of AUTOMATIC1111's web UI, and their default schedules there.
const LABELS: [(&str, &str, Option<&str>); 20] = [
    ("euler-ancestral", "Euler a", None),
    ("euler", "Euler", None),
    ("lms", "LMS", None),
    ("heun", "Heun", None),
    ("kdpm2", "DPM2", Some("karras")),
    ("kdpm2-ancestral", "DPM2 a", Some("karras")),
    ("dpmpp-2s-ancestral", "DPM++ 2S a", Some("karras")),
    ("dpmpp-2m", "DPM++ 2M", Some("karras")),
    ("dpm-sde", "DPM++ SDE", Some("karras")),
    ("dpmpp-2m-sde", "DPM++ 2M SDE", Some("exponential")),
    ("dpmpp-2m-sde-heun", "DPM++ 2M SDE Heun", Some("exponential")),
    ("dpmpp-3m-sde", "DPM++ 3M SDE", Some("exponential")),
    ("dpmpp-2s", "DPM++ 2S", None),
    ("dpmpp-3m", "DPM++ 3M", None),
    ("ddim", "DDIM", None),
    ("plms", "PLMS", None),
    ("uni-pc-bh1", "UniPC", None),
    ("deis", "DEIS", None),
    ("lcm", "LCM", None),
    ("tcd", "TCD", None),
];

/// The compact name of UniPC.
const UNIPC: &str = "unipc";

/// Maximum length of a name in bytes; longer ones are unknown.
const MAX_NAME_LEN: usize = 80;
/// Maximum number of names that an error suggests.
const MAX_SUGGESTIONS: usize = 3;
/// Minimum similarity of a suggested name with a schedule.
const MIN_SCHEDULED_SIMILARITY: f64 = 0.75;
/// Suggestions are at most so much less similar than the most similar name.
const SIMILARITY_MARGIN: f64 = 0.1;

/// A scheduler and the settings that one of its names implies.
#[derive(Clone, Copy, Debug)]
pub struct NamedScheduler {
    /// The scheduler.
    pub entry: SchedulerEntry,
    /// Its name, or that of a preset.
    base: &'static str,
    /// The settings of the preset.
    preset: Settings,
    schedule: Option<(ScheduleName, Settings)>,
}

/// All sigma schedules.
pub fn schedules() -> &'static [ScheduleName] {
    const { &SCHEDULES }
}

/// Finds a scheduler among `entries`, like [`find`](crate::find).
pub(crate) fn find_among(name: &str, entries: &[SchedulerEntry]) -> Result<NamedScheduler, SchedulerError> {
    let words = compact(name);
    if words.len() > MAX_NAME_LEN {
        return Err(unknown(name, &words, entries));
    }
    let words = of_variant(name, words);
    if let Some(found) = sampler(&words, entries) {
        return Ok(found);
    }
    if AUTOMATIC.contains(&words.as_str()) || schedule_called(&words).is_some() {
        return Err(SchedulerError::ScheduleAlone { name: shown(name.trim()) });
    }
    let endings = SCHEDULES.iter().flat_map(|schedule| schedule.words()).chain(AUTOMATIC.map(str::to_owned));
    let found = endings.into_iter().find_map(|ending| {
        let found = sampler(words.strip_suffix(&ending)?, entries)?;
        Some(found.with_schedule(&ending))
    });
    found.unwrap_or_else(|| Err(unknown(name, &words, entries)))
}

/// The name in lower case, without spaces and punctuation.
fn compact(name: &str) -> String {
    const BETWEEN: [char; 9] = ['_', '-', '+', '/', ',', ':', '(', ')', '.'];
    let name = name.to_lowercase().replace("++", "pp");
    name.chars().filter(|letter| !letter.is_whitespace() && !BETWEEN.contains(letter)).collect()
}

/// The compact name `words` of `name`, with the variant of the method if only the spelling tells it: `UniPC` is
/// AUTOMATIC1111's, `uni_pc` ComfyUI's, and `unipc` that of diffusers' class, in sdq and in InvokeAI.
fn of_variant(name: &str, words: String) -> String {
    let Some(after) = words.strip_prefix(UNIPC) else { return words };
    let name = name.trim_start();
    let is_split = !name.get(..UNIPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(UNIPC));
    let is_alone = after.is_empty() || AUTOMATIC.contains(&after) || schedule_called(after).is_some();
    match is_alone && (is_split || name.starts_with("UniPC")) {
        true => format!("{UNIPC}bh1{after}"),
        false => words,
    }
}

/// `text`, shortened for a message.
fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_NAME_LEN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Finds the scheduler or preset with the compact name `words`, without a schedule. ComfyUI's samplers whose noise is
/// drawn on the GPU are the same methods; names of k-diffusion's functions start with `k` or `sample`.
fn sampler(words: &str, entries: &[SchedulerEntry]) -> Option<NamedScheduler> {
    let plain = words.strip_suffix("gpu").unwrap_or(words);
    let names = [Some(words), Some(plain), plain.strip_prefix("sample"), plain.strip_prefix('k')];
    names
        .into_iter()
        .flatten()
        .find_map(|name| entries.iter().find_map(|entry| NamedScheduler::called(entry, name)))
}

fn schedule_called(words: &str) -> Option<&'static ScheduleName> {
    schedules().iter().find(|schedule| schedule.words().any(|word| word == words))
}

fn unknown(name: &str, words: &str, entries: &[SchedulerEntry]) -> SchedulerError {
    let known: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
    SchedulerError::UnknownScheduler {
        name: shown(name),
        suggestions: suggestions(words, entries),
        known: known.join(", "),
    }
}

/// The names most similar to `words`, best first.
fn suggestions(words: &str, entries: &[SchedulerEntry]) -> Vec<String> {
    if words.len() > MAX_NAME_LEN {
        return Vec::new();
    }
    let mut near: Vec<(f64, String)> = Vec::new();
    for name in entries.iter().flat_map(SchedulerEntry::names) {
        let Some(found) = sampler(&compact(name), entries) else { continue };
        let scheduled =
            SCHEDULES.iter().filter_map(|schedule| Some((found.taking(schedule)?, schedule.name)));
        for (found, ending) in std::iter::once((found, "")).chain(scheduled) {
            let similarity = similarity(words, &compact(&format!("{name}{ending}")));
            // Long names are similar to each other.
            if ending.is_empty() || similarity >= MIN_SCHEDULED_SIMILARITY {
                near.push((similarity, found.name()));
            }
        }
    }
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let least = near.first().map_or(MIN_SIMILARITY, |(most, _)| MIN_SIMILARITY.max(most - SIMILARITY_MARGIN));
    let mut suggestions: Vec<String> = Vec::new();
    for (_, name) in near.into_iter().take_while(|(similarity, _)| *similarity >= least) {
        if !suggestions.contains(&name) {
            suggestions.push(name);
        }
    }
    suggestions.truncate(MAX_SUGGESTIONS);
    suggestions
}

impl ScheduleName {
    /// All its names, compact.
    fn words(&self) -> impl Iterator<Item = String> + use<> {
        [self.name, self.label].into_iter().chain(self.aliases.iter().copied()).map(compact)
    }
}

impl NamedScheduler {
    /// `entry`, if it or one of its presets has the compact name `words`.
    fn called(entry: &SchedulerEntry, words: &str) -> Option<NamedScheduler> {
        let own = |base, preset| NamedScheduler { entry: *entry, base, preset, schedule: None };
        if let Some(preset) = entry.presets.iter().find(|preset| compact(preset.name) == words) {
            return Some(own(preset.name, preset.config));
        }
        let mut classes = entry.classes.iter().map(|class| compact(class));
        let is_class = classes.any(|class| class == words || class.strip_suffix("scheduler") == Some(words));
        let is_own = std::iter::once(&entry.name).chain(entry.aliases).any(|name| compact(name) == words);
        (is_own || is_class).then(|| own(entry.name, &[]))
    }

    /// sdq's own name, which [`find`](crate::find) accepts: that of the scheduler or preset, followed by that of the schedule.
    pub fn name(&self) -> String {
        match &self.schedule {
            Some((schedule, _)) => format!("{}-{}", self.base, schedule.name),
            None => self.base.to_owned(),
        }
    }

    /// The same scheduler with the sigma schedule called `schedule`. `Automatic` selects the sampler's default in
    /// AUTOMATIC1111's web UI if the name has no schedule.
    ///
    /// # Errors
    /// If no schedule has that name, or the scheduler does not support it.
    pub fn with_schedule(self, schedule: &str) -> Result<NamedScheduler, SchedulerError> {
        let words = compact(schedule);
        let words = match AUTOMATIC.contains(&words.as_str()) {
            false => Some(words.as_str()),
            true => {
                LABELS.iter().find(|(name, ..)| *name == self.base).and_then(|(.., automatic)| *automatic)
            }
        };
        let Some(words) = words else { return Ok(self) };
        let known = schedule_called(words);
        known.and_then(|known| self.taking(known)).ok_or_else(|| {
            let taken: Vec<&str> = SCHEDULES
                .iter()
                .filter(|other| self.taking(other).is_some())
                .map(|other| other.name)
                .collect();
            SchedulerError::UnusableSchedule {
                scheduler: self.base.to_owned(),
                schedule: known.map_or_else(|| shown(schedule.trim()), |known| known.name.to_owned()),
                advice: match taken.is_empty() {
                    true => "leave the schedule out, because this scheduler chooses its own noise levels"
                        .to_owned(),
                    false => format!("the supported schedules are {}", taken.join(", ")),
                },
            }
        })
    }

    /// The same scheduler with `schedule`, if it supports it.
    fn taking(self, schedule: &ScheduleName) -> Option<NamedScheduler> {
        let settings = self.settings_for(schedule)?;
        Some(NamedScheduler { schedule: Some((*schedule, settings)), ..self })
    }

    fn settings_for(&self, schedule: &ScheduleName) -> Option<Settings> {
        // A preset that sets the key itself has its schedule.
        let takes = |key: &str| {
            self.entry.all_options().any(|option| option.key == key)
                && self.preset.iter().all(|(own, _)| *own != key)
        };
        schedule.settings.iter().copied().find(|settings| settings.iter().all(|(key, _)| takes(key)))
    }

    /// The settings that the name implies.
    fn settings(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> + use<> {
        let schedule = self.schedule.map_or(&[][..], |(_, settings)| settings);
        self.preset.iter().chain(schedule)
    }

    /// The names in AUTOMATIC1111's web UI of the sampler and its sigma schedule with the `options` of a request. A sampler
    /// without a name there, or whose method an option changes, keeps sdq's name.
    pub fn labels(&self, options: &[(String, String)]) -> (String, Option<&'static str>) {
        let value = |wanted: &str| {
            let given = options.iter().rev().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
            let own = self.settings().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
            given.or(own)
        };
        let is_itself = self.preset.iter().all(|(key, setting)| value(key) == Some(setting));
        let label = LABELS.iter().find(|(name, ..)| *name == self.base && is_itself);
        let label = label.map_or_else(|| self.base.to_owned(), |(_, label, _)| (*label).to_owned());
        let is_set = |settings: Settings| settings.iter().all(|(key, setting)| value(key) == Some(setting));
        let schedule = SCHEDULES.iter().find(|schedule| self.settings_for(schedule).is_some_and(is_set));
        (label, schedule.map(|schedule| schedule.label))
    }

    /// `config` with `overrides`, pairs of an option's key and its value as text.
    ///
    /// # Errors
    /// If this scheduler has no such option, or the value has the wrong type or is out of range.
    pub fn configure(
        &self,
        config: &SchedulerConfig,
        overrides: &[(String, String)],
    ) -> Result<SchedulerConfig, SchedulerError> {
        let mut config = self.with_settings(config)?;
        for (key, value) in overrides {
            if !self.entry.all_options().any(|option| option.key == key) {
                let options: Vec<&str> = self.entry.all_options().map(|option| option.key).collect();
                return Err(SchedulerError::UnknownOption {
                    scheduler: self.base.to_owned(),
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

    /// `config` with the settings that the name implies. They are applied only once: options that were set later take
    /// precedence.
    pub(crate) fn with_settings(&self, config: &SchedulerConfig) -> Result<SchedulerConfig, SchedulerError> {
        let mut config = config.clone();
        let name = self.name();
        if config.preset_of.as_ref() == Some(&name) {
            return Ok(config);
        }
        if self.schedule.is_some() {
            // It replaces the file's schedule.
            SCHEDULE_KEYS.into_iter().try_for_each(|key| config.set(key, serde_json::Value::Null))?;
        }
        for (key, value) in self.settings() {
            config.set(key, value_from_text(value))?;
        }
        if self.settings().next().is_some() {
            config.preset_of = Some(name);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
