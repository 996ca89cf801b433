use super::*;
use crate::registry::BUILT_IN;
use crate::{TimestepSpacing, create, find};

fn name_of(name: &str) -> String {
    find(name).unwrap_or_else(|error| panic!("{name}: {error}")).name()
}

#[test]
fn finds_names_and_aliases_however_written() {
    for (name, found) in [
        ("ddim", "ddim"),
        ("DDIM", "ddim"),
        ("ddim_v3", "ddim"),
        ("euler_a", "euler-ancestral"),
        ("Euler a", "euler-ancestral"),
        ("k_euler", "euler"),
        ("k_euler_a", "euler-ancestral"),
        ("sample_euler_ancestral", "euler-ancestral"),
        (" ddpm ", "ddpm"),
        ("dpmpp_2m_sde", "dpmpp-2m-sde"),
        ("dpmpp_2m_sde_gpu", "dpmpp-2m-sde"),
        ("dpmpp_2m_sde_heun_gpu", "dpmpp-2m-sde-heun"),
        ("dpmpp_3m_sde_gpu", "dpmpp-3m-sde"),
        ("DPM++ 3M SDE", "dpmpp-3m-sde"),
        ("dpmpp_3m", "dpmpp-3m"),
        ("dpmpp_sde_gpu", "dpm-sde"),
        ("DPM++ 2S a", "dpmpp-2s-ancestral"),
        ("dpmpp_2s_ancestral", "dpmpp-2s-ancestral"),
        ("dpm++2s_a", "dpmpp-2s-ancestral"),
        ("DPM2 a", "kdpm2-ancestral"),
        ("dpm_2_ancestral", "kdpm2-ancestral"),
        ("kdpm_2", "kdpm2"),
        ("PLMS", "plms"),
        ("unipc", "unipc"),
        ("UNIPC", "unipc"),
        ("UniPC", "uni-pc-bh1"),
        ("uni_pc", "uni-pc-bh1"),
        ("Uni PC", "uni-pc-bh1"),
        ("uni_pc_bh2", "uni-pc-bh2"),
        ("ddim_trailing", "ddim-trailing"),
        ("EulerDiscreteScheduler", "euler"),
        ("eulerdiscrete", "euler"),
        ("DPMSolverMultistepScheduler", "dpm-multistep"),
        ("DPMSolverSDE", "dpm-sde"),
        ("UniPCMultistepScheduler", "unipc"),
        ("KDPM2AncestralDiscreteScheduler", "kdpm2-ancestral"),
    ] {
        assert_eq!(name_of(name), found, "{name}");
        assert_eq!(name_of(found), found);
    }
}

#[test]
fn finds_a_schedule_after_the_name() {
    for (name, found) in [
        ("DPM++ 2M Karras", "dpmpp-2m-karras"),
        ("DPM++ 2M (Karras)", "dpmpp-2m-karras"),
        ("dpmpp_2m_sde_gpu karras", "dpmpp-2m-sde-karras"),
        ("dpmpp_2m_sde_gpu/karras", "dpmpp-2m-sde-karras"),
        ("dpmpp_2m_sde_gpu_karras", "dpmpp-2m-sde-karras"),
        ("DPM++ 2M SDE Exponential", "dpmpp-2m-sde-exponential"),
        ("DPM++ 3M SDE Polyexponential", "dpmpp-3m-sde-exponential"),
        ("dpmpp_2m_k", "dpmpp-2m-karras"),
        ("k_dpm_2_a_ka", "kdpm2-ancestral-karras"),
        ("dpm2-a-karras", "kdpm2-ancestral-karras"),
        ("EulerDiscreteScheduler Karras", "euler-karras"),
        ("Euler a Karras", "euler-ancestral-karras"),
        ("euler sgm_uniform", "euler-sgm-uniform"),
        ("euler simple", "euler-simple"),
        ("euler, beta", "euler-beta"),
        ("Euler KL Optimal", "euler-kl-optimal"),
        ("euler ddim_uniform", "euler-ddim-uniform"),
        ("unipc normal", "unipc-normal"),
        ("unipc_k", "unipc-karras"),
        ("uni_pc normal", "uni-pc-bh1-normal"),
        ("UniPC Karras", "uni-pc-bh1-karras"),
        ("UniPC Automatic", "uni-pc-bh1"),
        ("uni_pc_bh2 beta", "uni-pc-bh2-beta"),
        ("dpmpp_2m ays", "dpmpp-2m-ays"),
        ("DPM++ 2M Align Your Steps", "dpmpp-2m-ays"),
        ("ddim ddim_uniform", "ddim-ddim-uniform"),
        ("LCM Karras", "lcm-karras"),
        ("lcm sgm_uniform", "lcm-sgm-uniform"),
        ("LCM Automatic", "lcm"),
        ("DPM++ 2M Automatic", "dpmpp-2m-karras"),
        ("DPM++ 3M SDE Automatic", "dpmpp-3m-sde-exponential"),
        ("Euler a Automatic", "euler-ancestral"),
        ("lms default", "lms"),
    ] {
        assert_eq!(name_of(name), found, "{name}");
        assert_eq!(name_of(found), found);
    }
}

/// A name that other programs give to a variant of a method draws that variant.
#[test]
fn unipc_is_that_of_the_program_whose_spelling_it_is() {
    for (name, scaling, order) in [
        ("UniPC", Some("bh1"), Some("3")),
        ("uni_pc", Some("bh1"), Some("3")),
        ("uni_pc_bh2", Some("bh2"), Some("3")),
        ("unipc", None, None),
        ("UniPCMultistepScheduler", None, None),
    ] {
        let set =
            |key: &str| find(name).unwrap().settings().find(|(own, _)| *own == key).map(|(_, value)| *value);
        assert_eq!((set("solver_type"), set("solver_order")), (scaling, order), "{name}");
        assert!(create(name, &SchedulerConfig::default(), 4).is_ok());
    }
}

/// Names of methods that sdq does not have are errors, not aliases of similar ones.
#[test]
fn other_methods_are_unknown() {
    for name in [
        "DPM adaptive",
        "dpm_fast",
        "Restart",
        "heunpp2",
        "ipndm",
        "ipndm_v",
        "euler_cfg_pp",
        "dpmpp_2m_cfg_pp",
        "DDIM CFG++",
        "dpm++2mv2",
        "res_multistep",
        "er_sde",
        "seeds_2",
        "dpmpp_2m_alt",
        "euler karras beta",
        "Euler a Turbo",
        "FlowMatchEulerDiscreteScheduler",
        "EDMEulerScheduler",
        "IPNDMScheduler",
        "",
        "++",
        "k",
    ] {
        let error = find(name).unwrap_err();
        let is_named = matches!(&error, SchedulerError::UnknownScheduler { name: named, .. } if named == name)
            || name == "k" && matches!(error, SchedulerError::ScheduleAlone { .. });
        assert!(is_named, "{name}: {error}");
    }
}

#[test]
fn suggests_the_nearest_names() {
    for (name, suggested) in [
        ("eular", &["euler"][..]),
        ("dddim", &["ddim"]),
        ("dpm++ 2m kerras", &["dpmpp-2m-karras"]),
        ("dpmpp_2n", &["dpmpp-2m", "dpmpp-2s"]),
        ("quux", &[]),
        ("DPM adaptive", &[]),
    ] {
        match find(name) {
            Err(SchedulerError::UnknownScheduler { suggestions, .. }) => {
                assert!(
                    suggestions.starts_with(&suggested.iter().map(|&name| name.into()).collect::<Vec<_>>()),
                    "{name}: {suggestions:?}"
                );
                assert!(
                    suggestions.len() <= MAX_SUGGESTIONS && suggestions.is_empty() == suggested.is_empty()
                );
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let message = find("dddim").unwrap_err().to_string();
    assert!(
        message.starts_with("the scheduler `dddim` is unknown, expected one of ddim, ")
            && message.ends_with("; did you mean `ddim`?"),
        "{message}"
    );
    let long = find(&"euler ".repeat(100_000)).unwrap_err().to_string();
    assert!(long.len() < 1000, "{long}");
}

#[test]
fn a_schedule_alone_is_no_scheduler() {
    for name in ["karras", "SGM Uniform", "ddim_uniform", "normal", "automatic"] {
        let error = find(name).unwrap_err();
        assert!(matches!(error, SchedulerError::ScheduleAlone { .. }), "{name}: {error}");
    }
    let message = find("karras").unwrap_err().to_string();
    assert!(message.contains("`euler-karras`"), "{message}");
}

#[test]
fn a_scheduler_refuses_schedules_that_it_does_not_support() {
    for (name, expected) in [
        (
            "TCD Karras",
            "scheduler `tcd` does not support the sigma schedule `karras`; leave the schedule out",
        ),
        (
            "ddim kl_optimal",
            "`ddim` does not support the sigma schedule `kl-optimal`; the supported schedules are sgm-uniform, simple,",
        ),
        ("tcd sgm_uniform", "`tcd`"),
    ] {
        let error = find(name).unwrap_err();
        assert!(matches!(error, SchedulerError::UnusableSchedule { .. }), "{name}: {error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let error = find("euler").unwrap().with_schedule("Turbo").unwrap_err().to_string();
    assert!(error.contains("`Turbo`; the supported schedules are karras, exponential, beta"), "{error}");
}

/// Names are unique, also with a schedule after them, and each can be built with every schedule that it supports.
#[test]
fn names_are_unique_and_can_be_built() {
    let mut names: Vec<String> = BUILT_IN.iter().flat_map(SchedulerEntry::names).map(compact).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    let mut built = 0;
    for name in BUILT_IN.iter().flat_map(SchedulerEntry::names) {
        let found = find(name).unwrap();
        assert!(found.schedule.is_none(), "{name}");
        let scheduled = SCHEDULES.iter().filter_map(|schedule| found.taking(schedule));
        for found in std::iter::once(found).chain(scheduled) {
            let name = found.name();
            assert_eq!(name_of(&name), name);
            assert!(create(&name, &SchedulerConfig::default(), 4).is_ok(), "{name}");
            for (key, _) in found.settings() {
                assert!(found.entry.all_options().any(|option| option.key == *key), "{name}: {key}");
            }
            built += 1;
        }
    }
    assert!(built > 300, "{built}");
}

/// The names that are written for other programs are read back as the same scheduler.
#[test]
fn labels_are_names() {
    let mut read = 0;
    for (base, label, automatic) in LABELS {
        let found = find(base).unwrap();
        assert_eq!((name_of(label), found.labels(&[])), (base.to_owned(), (label.to_owned(), None)));
        for schedule in SCHEDULES {
            let Some(scheduled) = found.taking(&schedule) else { continue };
            let (sampler, kind) = scheduled.labels(&[]);
            let again = find(&sampler).unwrap().with_schedule(kind.unwrap()).unwrap();
            // Some schedules are equal for schedulers that select timesteps only.
            let settings = |named: NamedScheduler| named.settings().copied().collect::<Vec<_>>();
            assert_eq!(settings(again), settings(scheduled), "{label} {}", schedule.label);
            assert_eq!(name_of(&format!("{label} {}", schedule.label)), scheduled.name());
            read += 1;
        }
        let expected = match automatic {
            Some(schedule) => format!("{base}-{schedule}"),
            None => base.to_owned(),
        };
        assert_eq!(found.with_schedule("Automatic").unwrap().name(), expected);
    }
    assert!(read > 120, "{read}");
}

#[test]
fn options_change_what_a_scheduler_is_called() {
    let labels = |name: &str, options: &[(&str, &str)]| {
        let options: Vec<(String, String)> =
            options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        find(name).unwrap().labels(&options)
    };
    for (name, options, sampler, schedule) in [
        ("euler", &[("use_karras_sigmas", "true")][..], "Euler", Some("Karras")),
        ("euler-a", &[("sigma_spacing", "karras")], "Euler a", Some("Karras")),
        ("euler-karras", &[("use_karras_sigmas", "false")], "Euler", None),
        ("dpmpp-2m", &[("solver_order", "3")], "dpmpp-2m", None),
        ("dpmpp-2m-karras", &[("solver_order", "2")], "DPM++ 2M", Some("Karras")),
        ("dpm-multistep", &[], "dpm-multistep", None),
        ("ddim", &[("eta", "0.5")], "DDIM", None),
    ] {
        assert_eq!(labels(name, options), (sampler.to_owned(), schedule), "{name} {options:?}");
    }
}

/// A name's settings take precedence over the file's, and the user's over both, however often they are applied.
#[test]
fn a_name_gives_way_to_options() {
    let file = SchedulerConfig::from_json(
        r#"{"use_exponential_sigmas": true, "solver_order": 3, "use_lu_lambdas": true}"#,
    )
    .unwrap();
    let named = find("DPM++ 2M Karras").unwrap();
    let plain = named.configure(&file, &[]).unwrap();
    let known = |config: &SchedulerConfig| {
        let flags = ["use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas"];
        (flags.map(|key| config.flag(key).unwrap()), config.whole("solver_order", 1, 3).unwrap())
    };
    assert_eq!(known(&plain), ([Some(true), None, None], Some(2)));
    let overrides = [("use_karras_sigmas".to_owned(), "false".to_owned())];
    let edited = named.configure(&file, &overrides).unwrap();
    assert_eq!(known(&edited), ([Some(false), None, None], Some(2)));
    let timesteps = |config| create(&named.name(), config, 5).unwrap().timesteps().to_vec();
    assert_eq!(timesteps(&edited), create("dpmpp-2m", &SchedulerConfig::default(), 5).unwrap().timesteps());
    assert_eq!(timesteps(&plain), timesteps(&file));
    assert_ne!(timesteps(&plain), timesteps(&edited));
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
    assert_eq!(edited.timestep_spacing, Some(TimestepSpacing::Trailing));
    config.trained_betas = Some(vec![0.1]);
    let edited = ddim.configure(&config, &overrides(&[("beta_schedule", "scaled_linear")])).unwrap();
    assert_eq!(edited.trained_betas, None);
    let bad_value = ddim.configure(&config, &overrides(&[("prediction_type", "noise")])).unwrap_err();
    assert!(matches!(bad_value, SchedulerError::InvalidValue { .. }), "{bad_value}");
    let not_its_own = find("euler").unwrap().configure(&config, &overrides(&[("eta", "0.5")])).unwrap_err();
    assert!(matches!(not_its_own, SchedulerError::UnknownOption { .. }), "{not_its_own}");
}

/// The cells of the table of docs/schedulers.md that begins with `heading`, row by row.
fn documented(heading: &str) -> Vec<Vec<&'static str>> {
    let text = include_str!("../../../docs/schedulers.md");
    let rows = text.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// `names` as code, separated by commas.
fn as_code<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[test]
fn schedulers_are_documented_with_their_advice() {
    let rows = documented("| name (presets) |");
    assert_eq!(rows.len(), BUILT_IN.len());
    assert!(include_str!("../../../README.md").contains(&format!("sdq has {} schedulers.", BUILT_IN.len())));
    for (row, entry) in rows.iter().zip(BUILT_IN) {
        let (advice, source) = entry.summary.trim_end_matches(')').rsplit_once(" (").unwrap();
        let names = match entry.presets {
            [] => format!("`{}`", entry.name),
            presets => format!("`{}` ({})", entry.name, as_code(presets.iter().map(|preset| preset.name))),
        };
        let class = entry.classes.first().copied().unwrap_or("–");
        assert_eq!([row[0], row[1], row[3]], [&names, class, advice]);
        assert!(row[2].starts_with(&format!("{source}, ")), "{}: {}, expected {source}", entry.name, row[2]);
    }
}

#[test]
fn sigma_schedules_are_documented_with_their_names() {
    let rows = documented("| name after a scheduler's |");
    assert_eq!(rows.len(), schedules().len());
    for (row, schedule) in rows.iter().zip(schedules()) {
        let mut known = vec![compact(schedule.name)];
        let mut others = Vec::new();
        for name in std::iter::once(schedule.label).chain(schedule.aliases.iter().copied()) {
            if !known.contains(&compact(name)) {
                known.push(compact(name));
                others.push(name);
            }
        }
        let spacing = schedule.settings.iter().copied().flatten().find(|(key, _)| *key == "sigma_spacing");
        let spacing = spacing.map_or("–".to_owned(), |(_, value)| format!("`{value}`"));
        assert_eq!(row[..3], [format!("`{}`", schedule.name), others.join(", "), spacing]);
    }
}
