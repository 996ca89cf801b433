use super::*;
use crate::Limit;

/// Stable Diffusion 1.5's own file.
const STABLE_DIFFUSION_1: &str = r#"{
    "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
    "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null,
    "clip_sample": false
}"#;

#[test]
fn reads_a_file_written_for_another_class() {
    let config = SchedulerConfig::from_json(STABLE_DIFFUSION_1).unwrap();
    assert_eq!(config.class_name.as_deref(), Some("PNDMScheduler"));
    assert_eq!((config.beta_start, config.beta_end), (Some(0.00085), Some(0.012)));
    assert_eq!(config.beta_schedule, Some(BetaSchedule::ScaledLinear));
    assert_eq!((config.steps_offset, config.timestep_spacing, config.trained_betas.clone()), (1, None, None));
    assert_eq!(config.flag("set_alpha_to_one"), Ok(Some(false)));
    assert_eq!(Limit::from_config(&config, Some(true)), Ok(Limit::None));
    assert_eq!(config, serde_json::from_str(STABLE_DIFFUSION_1).unwrap());
}

#[test]
fn keys_of_old_versions_are_read_as_diffusers_reads_them() {
    let read = |json: &str| SchedulerConfig::from_json(json);
    let plain = read("{}").unwrap();
    for same in [
        r#"{"tensor_format": "pt"}"#,
        r#"{"predict_epsilon": true}"#,
        r#"{"predict_epsilon": null}"#,
        r#"{"timestep_values": null, "brand_new_switch": false}"#,
    ] {
        assert_eq!(read(same).unwrap(), plain, "{same}");
    }
    let sample = r#"{"predict_epsilon": false}"#;
    assert_eq!(read(sample).unwrap().prediction_type, PredictionType::Sample);
    let v = r#"{"predict_epsilon": true, "prediction_type": "v_prediction"}"#;
    assert_eq!(read(v).unwrap().prediction_type, PredictionType::VPrediction);
    let twice = read(r#"{"predict_epsilon": false, "prediction_type": "epsilon"}"#).unwrap_err();
    assert!(twice.to_string().contains("`predict_epsilon` is false"), "{twice}");
}

#[test]
fn rejects_values_that_make_no_sense() {
    for (key, value) in [
        ("num_train_timesteps", "0"),
        ("num_train_timesteps", "1000000000"),
        ("num_train_timesteps", "-1"),
        ("num_train_timesteps", "10.5"),
        ("num_train_timesteps", "null"),
        ("beta_start", "-0.1"),
        ("beta_start", "0"),
        ("beta_start", "NaN"),
        ("beta_end", "1"),
        ("beta_end", "-Infinity"),
        ("beta_end", "1e999"),
        ("beta_end", "\"0.012\""),
        ("beta_schedule", "\"sigmoid\""),
        ("beta_schedule", "7"),
        ("trained_betas", "0.1"),
        ("trained_betas", "[0.1, 2]"),
        ("trained_betas", "[null]"),
        ("prediction_type", "\"flow_prediction\""),
        ("timestep_spacing", "\"even\""),
        ("steps_offset", "-1"),
        ("rescale_betas_zero_snr", "1"),
        ("_class_name", "[]"),
    ] {
        match SchedulerConfig::from_json(&format!("{{\"{key}\": {value}}}")) {
            Err(SchedulerError::InvalidValue { key: named, .. }) => assert_eq!(named, key),
            // 1e999 is not a valid JSON number here.
            Err(SchedulerError::NotJson { .. }) => assert_eq!(value, "1e999"),
            other => panic!("{key} = {value}: {other:?}"),
        }
    }
}

#[test]
fn says_what_it_expected_and_found() {
    let error = SchedulerConfig::from_json(r#"{"timestep_spacing": "even"}"#).unwrap_err();
    let expected =
        "scheduler config: `timestep_spacing` is \"even\", expected one of leading, trailing, linspace";
    assert_eq!(error.to_string(), expected);
    let long = format!("{{\"beta_start\": [{}0]}}", "1,".repeat(10_000));
    assert!(SchedulerConfig::from_json(&long).unwrap_err().to_string().len() < 200);
}

#[test]
fn rejects_unknown_keys_but_not_notes() {
    let error = SchedulerConfig::from_json(r#"{"beta_strat": 0.1}"#).unwrap_err();
    let expected = "scheduler config: the key `beta_strat` = 0.1 is unknown; did you mean `beta_start`?";
    assert_eq!(error.to_string(), expected);
    assert!(SchedulerConfig::from_json(r#"{"_my_note": {"any": "thing"}}"#).is_ok());
}

#[test]
fn rejects_what_is_no_object() {
    for json in ["", "[]", "{", "{\"beta_start\": 0.1} trailing", "{\"beta_start\": \u{e9}NaN"] {
        let error = SchedulerConfig::from_json(json).unwrap_err();
        assert!(matches!(error, SchedulerError::NotJson { .. }), "{json}: {error}");
    }
}

/// DPM-Solver's files contain it; strings that only look similar are not changed.
#[test]
fn takes_the_infinities_that_python_writes() {
    let json = r#"{"lambda_min_clipped": -Infinity, "_note": "a \"NaN\\", "_more": [NaN, Infinity]}"#;
    let quoted = r#"{"lambda_min_clipped": "-Infinity", "_note": "a \"NaN\\", "_more": ["NaN", "Infinity"]}"#;
    assert_eq!(quote_non_finite(json), quoted);
    assert!(SchedulerConfig::from_json(json).is_ok());
}

#[test]
fn keys_of_some_schedulers_are_checked_when_read() {
    let config = SchedulerConfig::from_json(
        r#"{"eta": "much", "thresholding": 0, "solver_order": 2.5, "disable_corrector": [0, -1]}"#,
    )
    .unwrap();
    assert!(config.whole("solver_order", 1, 3).is_err());
    assert!(config.whole_numbers("disable_corrector").is_err());
    assert!(config.number("eta").is_err());
    assert!(config.flag("thresholding").is_err());
    assert_eq!(config.number("absent"), Ok(None));
}

#[test]
fn null_removes_what_may_be_absent() {
    let mut config =
        SchedulerConfig::from_json(r#"{"timestep_spacing": "trailing", "clip_sample": false}"#).unwrap();
    config.set("timestep_spacing", Value::Null).unwrap();
    config.set("clip_sample", Value::Null).unwrap();
    assert_eq!(config, SchedulerConfig::default());
}

/// The content of `pipe.scheduler.config` after `StableDiffusionPipeline.from_pretrained`.
#[test]
fn stable_diffusion_shifts_steps_and_does_not_clip() {
    for (json, limit) in [
        (r#"{"_class_name": "DDIMScheduler"}"#, Limit::None),
        (r#"{"_class_name": "DDIMScheduler", "clip_sample": true, "steps_offset": 0}"#, Limit::None),
        (r#"{"_class_name": "PNDMScheduler", "clip_sample": true}"#, Limit::None),
        // There is nothing to turn off, so a scheduler that clips by default will clip.
        (r#"{"_class_name": "PNDMScheduler"}"#, Limit::Clip(1.0)),
    ] {
        let config = SchedulerConfig::from_json(json).unwrap().as_stable_diffusion_loads_it();
        assert_eq!(config.steps_offset, 1, "{json}");
        assert_eq!(Limit::from_config(&config, Some(true)), Ok(limit), "{json}");
    }
}
