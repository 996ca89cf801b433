use super::*;
use crate::create;

fn config(json: &str) -> SchedulerConfig {
    let mut config = SchedulerConfig::from_json(json).unwrap();
    for (key, value) in [
        ("beta_schedule", "scaled_linear".into()),
        ("beta_start", 0.00085.into()),
        ("beta_end", 0.012.into()),
    ] {
        config.set(key, value).unwrap();
    }
    config
}

const RULES: LevelRules = LevelRules { schedules: SCHEDULES, karras_reads_ends: true, karras_rounds: false };

#[test]
fn one_schedule_at_a_time() {
    for (json, keys) in [
        (
            r#"{"use_karras_sigmas": true, "use_beta_sigmas": true}"#,
            ["`use_beta_sigmas`", "`use_karras_sigmas`"],
        ),
        (
            r#"{"use_exponential_sigmas": true, "use_align_your_steps": "sdxl"}"#,
            ["`use_align_your_steps`", "`use_exponential_sigmas`"],
        ),
    ] {
        let error = SigmaLevels::fractional(&config(json), 5, RULES).err().unwrap().to_string();
        assert!(keys.iter().all(|key| error.contains(key)), "{error}");
    }
}

/// The published timesteps belong to the published sigmas, so each must give the other, except for one
/// sigma that was rounded to three digits.
#[test]
fn aligned_steps_are_those_published() {
    for (json, timesteps) in [
        (r#"{"use_align_your_steps": "sd1"}"#, [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]),
        (r#"{"use_align_your_steps": "sdxl"}"#, [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]),
    ] {
        let ddim = create("ddim", &config(json), 10).unwrap();
        let others = ddim.timesteps().iter().zip(timesteps.map(f64::from)).map(|(a, b)| (a - b).abs());
        assert!(others.clone().all(|other| other <= 1.0) && others.sum::<f64>() <= 1.0);
        let levels = SigmaLevels::fractional(&config(json), 10, RULES).unwrap();
        assert!((levels.sigmas[0] - 14.615).abs() < 1e-6);
        // Twice as many steps include the same levels.
        let finer = SigmaLevels::fractional(&config(json), 20, RULES).unwrap();
        for (level, finer) in levels.sigmas.iter().zip(finer.sigmas.iter().step_by(2)) {
            assert!((level / finer - 1.0).abs() < 1e-6, "{level} {finer}");
        }
    }
    let error = create("ddim", &config(r#"{"use_align_your_steps": "sd1"}"#), 900).err().unwrap();
    assert!(error.to_string().contains("`use_align_your_steps`"), "{error}");
}

#[test]
fn schedules_run_from_end_to_end() {
    for key in SCHEDULES {
        let config = config(&format!(r#"{{"{key}": true, "sigma_min": 0.1, "sigma_max": 10}}"#));
        for count in [2, 3, 30] {
            let levels = SigmaLevels::fractional(&config, count, RULES).unwrap();
            assert!((levels.sigmas[0] - 10.0).abs() < 1e-5, "{key}");
            assert!((levels.sigmas[count - 1] - 0.1).abs() < 1e-6, "{key}");
            assert!(levels.sigmas.is_sorted_by(|a, b| a > b), "{key}: {:?}", levels.sigmas);
        }
    }
}

#[test]
fn refuses_ends_that_make_no_sense() {
    for json in [
        r#"{"use_karras_sigmas": true, "sigma_min": 0}"#,
        r#"{"use_karras_sigmas": true, "sigma_max": -1}"#,
        r#"{"use_karras_sigmas": true, "sigma_min": 20}"#,
        r#"{"use_karras_sigmas": "yes"}"#,
        r#"{"num_train_timesteps": 1}"#,
    ] {
        assert!(SigmaLevels::fractional(&config(json), 1, RULES).is_err(), "{json}");
    }
    // Without a schedule that uses them they have no effect, as in diffusers.
    assert!(SigmaLevels::fractional(&config(r#"{"sigma_min": 20}"#), 1, RULES).is_ok());
}

/// Cosine betas end with so much noise that the log-SNR is cut off.
#[test]
fn levels_below_the_smallest_lambda_are_left_out() {
    let mut config = config("{}");
    config.set("beta_schedule", "squaredcos_cap_v2".into()).unwrap();
    let whole = |lambda| SigmaLevels::whole(&config, 5, lambda, RULES).unwrap();
    assert_eq!(whole(f64::NEG_INFINITY).timesteps[0], 999.0);
    let cut = whole(-5.1);
    assert!(cut.timesteps[0] < 999.0 && cut.sigmas[0].ln() <= 5.1, "{:?}", cut.timesteps);
}
