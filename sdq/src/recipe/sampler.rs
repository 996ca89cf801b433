//! Maps the samplers of other programs to schedulers.

/// The scheduler for a sampler, and its options.
#[derive(Debug, PartialEq)]
pub(super) struct Chosen {
    /// A name that [`sdq_schedulers::find`] knows.
    pub(super) name: String,
    pub(super) options: Vec<(String, String)>,
    /// The schedule, if the scheduler does not support it.
    pub(super) unused_schedule: Option<String>,
}

/// The scheduler for `sampler` with `schedule`: `DPM++ 2M` and `Karras`, `dpmpp_2m` and `karras`,
/// `dpmpp_2m_k`, `DPM++ 2M Karras`. `None` if there is no such scheduler.
pub(super) fn scheduler(sampler: &str, schedule: Option<&str>) -> Option<Chosen> {
    let mut sampler = sampler.trim().to_lowercase().replace('_', " ");
    // The same samplers with noise from the GPU, and an older numbering.
    for ending in [" gpu", " v3"] {
        sampler.truncate(sampler.strip_suffix(ending).unwrap_or(&sampler).len());
    }
    if let Some(name) = known(&sampler) {
        return Some(with_schedule(&sampler, name, schedule));
    }
    // The schedule may be the last word, which InvokeAI shortens to its first letter.
    let (first, last) = sampler.rsplit_once(' ')?;
    let last = if last == "k" { "karras" } else { last };
    is_schedule(last).then(|| known(first)).flatten().map(|name| with_schedule(first, name, Some(last)))
}

/// `name`, or the name without k-diffusion's prefix, if there is a scheduler of that name.
fn known(name: &str) -> Option<String> {
    let candidates = [Some(name), name.strip_prefix("k ")];
    let found = candidates.into_iter().flatten().find(|name| sdq_schedulers::find(name).is_ok())?;
    Some(found.replace("++", "pp").replace(' ', "-"))
}

fn is_schedule(word: &str) -> bool {
    matches!(word, "karras" | "exponential" | "beta" | "simple" | "discrete")
}

fn with_schedule(sampler: &str, name: String, schedule: Option<&str>) -> Chosen {
    let asked = schedule.unwrap_or_default().trim();
    let schedule = asked.to_lowercase().replace('_', " ");
    let option = match schedule.as_str() {
        // The default of the sampler.
        "" | "automatic" | "normal" | "uniform" | "discrete" | "default" | "native" | "ddim uniform" => {
            return Chosen { name, options: Vec::new(), unused_schedule: None };
        }
        // A scheduler of that name takes precedence over an option.
        _ if known(&format!("{sampler} {schedule}")).is_some() => {
            let name = format!("{name}-{schedule}").replace(' ', "-");
            return Chosen { name, options: Vec::new(), unused_schedule: None };
        }
        "karras" => Some(("use_karras_sigmas", "true")),
        "exponential" => Some(("use_exponential_sigmas", "true")),
        "beta" => Some(("use_beta_sigmas", "true")),
        // As in diffusers' table of names.
        "sgm uniform" | "simple" => Some(("timestep_spacing", "trailing")),
        _ => None,
    };
    let takes = |key: &str| {
        sdq_schedulers::find(&name).is_ok_and(|entry| entry.all_options().any(|option| option.key == key))
    };
    match option.filter(|(key, _)| takes(key)) {
        Some((key, value)) => {
            Chosen { name, options: vec![(key.to_owned(), value.to_owned())], unused_schedule: None }
        }
        None => Chosen { name, options: Vec::new(), unused_schedule: Some(asked.to_owned()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplers_of_other_programs_are_schedulers_here() {
        for (sampler, schedule, name, option) in [
            ("DPM++ 2M Karras", None, "dpmpp-2m-karras", None),
            ("DPM++ 2M", Some("Karras"), "dpmpp-2m-karras", None),
            ("DPM++ 2M SDE", Some("Exponential"), "dpmpp-2m-sde-exponential", None),
            ("Euler a", Some("Automatic"), "euler-a", None),
            ("Euler", Some("Exponential"), "euler", Some(("use_exponential_sigmas", "true"))),
            ("Euler", Some("SGM Uniform"), "euler", Some(("timestep_spacing", "trailing"))),
            ("dpmpp_2m_sde_gpu", Some("karras"), "dpmpp-2m-sde-karras", None),
            ("dpm_2_ancestral", Some("normal"), "dpm-2-ancestral", None),
            ("uni_pc", Some("beta"), "uni-pc", Some(("use_beta_sigmas", "true"))),
            ("k_euler_ancestral", Some("native"), "k-euler-ancestral", None),
            ("k_dpmpp_2m", Some("karras"), "dpmpp-2m-karras", None),
            ("dpmpp_2m_k", None, "dpmpp-2m-karras", None),
            ("euler_k", None, "euler-karras", None),
            ("ddim_v3", None, "ddim", None),
            ("UniPC", None, "unipc", None),
            ("heun discrete", None, "heun-discrete", None),
        ] {
            let options = option.map(|(key, value): (&str, &str)| (key.to_owned(), value.to_owned()));
            let expected = Chosen {
                name: name.to_owned(),
                options: options.into_iter().collect(),
                unused_schedule: None,
            };
            assert!(sdq_schedulers::find(name).is_ok(), "{name}");
            assert_eq!(scheduler(sampler, schedule), Some(expected), "{sampler} {schedule:?}");
        }
        let kept = scheduler("Euler a", Some("Karras")).unwrap();
        assert_eq!((kept.name.as_str(), kept.unused_schedule.as_deref()), ("euler-a", Some("Karras")));
        for unknown in ["DPM adaptive", "Restart", "", "karras", "k"] {
            assert_eq!(scheduler(unknown, None), None, "{unknown}");
        }
    }
}
