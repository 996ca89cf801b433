//! The `.yaml` file beside a single file: the settings of the training code. AUTOMATIC1111's web UI reads it, too.
//!
//! Only values that cannot be derived from the weights are used. The parser supports the subset of YAML in such files:
//! one key on a line, with a value or with indented entries below it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sdq_formats::{links, names::quote};

use super::error::PublishedError;
use super::files::read_text;
use super::remark::Remark;
use crate::families::{Family, Marks, Prediction};
use crate::models::naming::unknown;

/// Extensions of settings files.
const ENDINGS: [&str; 2] = ["yaml", "yml"];

/// Deepest nesting that is followed.
const MAX_DEPTH: usize = 64;

/// Keys that enable zero terminal SNR.
const ZERO_SNR: [&str; 5] = ["rescale_betas_zero_snr", "zero_terminal_snr", "zero_snr", "zsnr", "ztsnr"];

/// Settings that change what a network computes, and that no supported model has switched on.
const SWITCHES: [&str; 4] =
    ["use_scale_shift_norm", "resblock_updown", "use_new_attention_order", "disable_self_attentions"];

/// Most unused settings that are listed.
const LISTED: usize = 8;

/// The settings file beside the single file at `path`, if there is one.
pub(super) fn beside(path: &Path) -> Option<PathBuf> {
    ENDINGS.iter().map(|ending| path.with_extension(ending)).find(|file| links::is_there(file))
}

/// Reads the settings file at `path` of a model of `family`. The values that were used, and those that describe another
/// network, are added to `remarks`.
///
/// # Errors
/// When it cannot be read, or requires something that is not supported.
pub(super) fn read(path: &Path, family: Family, remarks: &mut Vec<Remark>) -> Result<Marks, PublishedError> {
    let text = read_text(path)?;
    let mut marks = Marks::default();
    let (mut used, mut unused) = (BTreeMap::new(), BTreeMap::new());
    each_entry(&text, |around, key, value| {
        let known = mark(&mut marks, around, key, value).map_err(|found| {
            let problem = unknown(&quote(&[around, &[key]].concat().join(".")), found);
            PublishedError::Layout { path: path.to_path_buf(), problem }
        })?;
        if known {
            used.insert(key.to_owned(), quote(value));
        } else if unused.len() < LISTED && differs(family, key, value) {
            unused.insert(key.to_owned(), quote(value));
        }
        Ok::<(), PublishedError>(())
    })?;
    let [used, unused] = [used, unused]
        .map(|settings| settings.into_iter().map(|(key, value)| format!("{key} = {value}")).collect());
    remarks.push(Remark::Settings { path: path.to_path_buf(), used, unused });
    Ok(marks)
}

/// Whether a setting describes the network otherwise than the family does. Sizes of tensors follow from the weights, and
/// other settings are those of training.
fn differs(family: Family, key: &str, value: &str) -> bool {
    let is_sd1 = family == Family::Sd1;
    match key {
        "num_heads" => value != "-1" && (!is_sd1 || value != "8"),
        "num_head_channels" => value != "-1" && (is_sd1 || value != "64"),
        "layer" => match family {
            Family::Sd1 => value != "last",
            Family::Sd2 => value != "penultimate",
            Family::Sdxl | Family::SdxlRefiner => value != "penultimate" && value != "hidden",
        },
        "layer_idx" => is_sd1 || value != "11",
        "dims" => value != "2",
        _ => SWITCHES.contains(&key) && value.eq_ignore_ascii_case("true"),
    }
}

/// Stores the value of `key`, which is nested in the keys `around`. Returns whether it is known; the error is the unsupported value.
fn mark(marks: &mut Marks, around: &[&str], key: &str, value: &str) -> Result<bool, String> {
    let number = || value.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    let other = || format!("\"{}\"", quote(value));
    match key {
        "parameterization" | "prediction_type" => {
            marks.prediction = Some(Prediction::from_name(value).ok_or_else(other)?);
        }
        "target" if around.iter().any(|outer| outer.contains("denoiser")) => match value.rsplit('.').next() {
            Some("VScaling") => marks.prediction = Some(Prediction::V),
            Some("EpsScaling") => marks.prediction = Some(Prediction::Epsilon),
            Some("EDMScaling" | "VScalingWithEDMcNoise") => return Err(format!("{} (EDM)", other())),
            _ => return Ok(false),
        },
        name if ZERO_SNR.contains(&name) => marks.zero_snr = value.eq_ignore_ascii_case("true"),
        "linear_start" => marks.betas[0] = Some(number().ok_or_else(other)?),
        "linear_end" => marks.betas[1] = Some(number().ok_or_else(other)?),
        "scale_factor" => marks.scaling_factor = Some(number().ok_or_else(other)?),
        "beta_schedule" if value != "linear" => return Err(other()),
        "timesteps" => marks.timesteps = Some(value.parse().map_err(|_| other())?),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Calls `visit` with the keys around each key that has a value, the key, and the value. Takes no memory for them: a file
/// can nest a few long keys around a million short ones.
fn each_entry<'t, E>(
    text: &'t str,
    mut visit: impl FnMut(&[&'t str], &'t str, &'t str) -> Result<(), E>,
) -> Result<(), E> {
    // The keys around a line, and their indentation.
    let (mut around, mut indents): (Vec<&str>, Vec<usize>) = (Vec::new(), Vec::new());
    for line in text.lines() {
        // The dash of a list entry counts as indentation.
        let indent = line.find(|letter: char| letter != ' ' && letter != '-').unwrap_or(line.len());
        let Some((key, value)) = line[indent..].split_once(':') else { continue };
        if key.starts_with('#') || !(value.is_empty() || value.starts_with([' ', '\t'])) {
            continue;
        }
        let outside = indents.iter().take_while(|outer| **outer < indent).count().min(MAX_DEPTH);
        around.truncate(outside);
        indents.truncate(outside);
        let value = value.split(" #").next().unwrap_or_default().trim();
        let value = value.trim_matches(['"', '\'']);
        let key = key.trim().trim_matches(['"', '\'']);
        if value.is_empty() || value.starts_with('#') {
            around.push(key);
            indents.push(indent);
        } else {
            visit(&around, key, value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(text: &str) -> Result<(Marks, String), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.yaml");
        std::fs::write(&path, text).unwrap();
        let mut remarks = Vec::new();
        let marks = read(&path, Family::Sd1, &mut remarks).map_err(|error| error.to_string())?;
        Ok((marks, remarks[0].to_string()))
    }

    #[test]
    fn keys_stand_behind_those_around_them() {
        let text = "model:\n  # note: x\n  params:\n    a: \"v\"   # as trained\n    list:\n    - b: 1\n      c: d\n\
                    \n  last: 'x'\nurl:http\n";
        let expected = [
            ("model.params.a", "v"),
            ("model.params.list.b", "1"),
            ("model.params.list.c", "d"),
            ("model.last", "x"),
        ];
        let mut found = Vec::new();
        let visit = |around: &[&str], key, value| {
            found.push(([around, &[key]].concat().join("."), value));
            Ok::<(), ()>(())
        };
        each_entry(text, visit).unwrap();
        let found: Vec<(&str, &str)> = found.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        assert_eq!(found, expected);
    }

    /// A copy of the keys around each of them would take 12 GB.
    #[test]
    fn long_keys_around_many_short_ones_take_no_memory() {
        let around: String =
            (0..60).map(|depth| format!("{}{}:\n", " ".repeat(depth), "k".repeat(10_000))).collect();
        let text = around + &format!("{}zsnr: 1\n", " ".repeat(60)).repeat(20_000);
        let (marks, said) = marks(&text).unwrap();
        assert_eq!(marks, Marks::default());
        assert!(said.contains(": the settings zsnr = 1 are used"), "{said}");
    }

    #[test]
    fn training_is_read_and_the_rest_is_said_to_be_left_out() {
        let text = "model:\n  params:\n    parameterization: \"v\"\n    linear_start: 1.0e-3\n    linear_end: 0.02\n\
                    \x20   timesteps: 500\n    scale_factor: 0.13\n    zsnr: True\n    num_heads: 8\n";
        let (marks, said) = marks(text).unwrap();
        let expected = Marks {
            prediction: Some(Prediction::V),
            zero_snr: true,
            betas: [Some(1e-3), Some(0.02)],
            timesteps: Some(500),
            scaling_factor: Some(0.13),
        };
        assert_eq!(marks, expected);
        assert!(said.contains("parameterization = v") && said.contains("timesteps = 500"), "{said}");
        let sgm = "model:\n  params:\n    denoiser_config:\n      params:\n        scaling_config:\n\
                   \x20         target: sgm.modules.diffusionmodules.denoiser_scaling.VScaling\n";
        assert_eq!(self::marks(sgm).unwrap().0.prediction, Some(Prediction::V));
        let (nothing, said) = self::marks("a: 1\n").unwrap();
        assert_eq!(nothing, Marks::default());
        assert!(
            said.ends_with("none of the settings is used; the rest is derived from the weights"),
            "{said}"
        );
        let (_, said) =
            self::marks("num_heads: 4\nnum_head_channels: -1\nlayer: penultimate\nch: 128\n").unwrap();
        assert!(said.ends_with("is used; not used are layer = penultimate, num_heads = 4"), "{said}");
        for (family, key, value, expected) in [
            (Family::Sd1, "num_heads", "8", false),
            (Family::Sd1, "num_head_channels", "64", true),
            (Family::Sd2, "num_head_channels", "64", false),
            (Family::Sd2, "layer", "penultimate", false),
            (Family::Sd2, "layer", "last", true),
            (Family::Sdxl, "layer", "hidden", false),
            (Family::Sdxl, "layer_idx", "11", false),
            (Family::Sdxl, "layer_idx", "10", true),
            (Family::Sd1, "use_scale_shift_norm", "True", true),
            (Family::Sd1, "use_scale_shift_norm", "False", false),
        ] {
            assert_eq!(differs(family, key, value), expected, "{family:?} {key} {value}");
        }
    }

    #[test]
    fn settings_of_other_models_are_refused() {
        let edm = "denoiser_config:\n  target: sgm.modules.diffusionmodules.denoiser_scaling.EDMScaling\n";
        for (text, word) in [
            ("parameterization: mu\n", "mu"),
            ("linear_start: much\n", "much"),
            ("beta_schedule: cosine\n", "cosine"),
            (edm, "EDM"),
        ] {
            let error = marks(text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
