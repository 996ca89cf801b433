//! How a model was trained, as its files say it: by marker tensors, by metadata, and by a settings file beside
//! the checkpoint.

use super::{Family, Prediction};
use crate::models::naming::{LayoutProblem, Names, unknown};
use sdq_formats::names::quote;

/// How a model was trained, as far as its files tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Marks {
    /// What the U-Net predicts.
    pub(crate) prediction: Option<Prediction>,
    /// Whether the last step of its schedule is noise alone.
    pub(crate) zero_snr: bool,
    /// First and last β of its schedule.
    pub(crate) betas: [Option<f64>; 2],
    /// Number of timesteps of its schedule.
    pub(crate) timesteps: Option<u64>,
    /// The factor that latents are multiplied by.
    pub(crate) scaling_factor: Option<f64>,
}

impl Marks {
    /// Reads the tensors `v_pred` and `ztsnr`, and the metadata under the keys that `note` looks up.
    ///
    /// # Errors
    /// When the model was trained in a way that is not supported.
    pub(crate) fn of(
        names: &Names,
        family: Family,
        note: impl Fn(&str) -> Option<String>,
    ) -> Result<Marks, LayoutProblem> {
        if let Some(marker) = names.under("edm_").next() {
            return Err(unknown(marker, "the mark of an EDM model".to_owned()));
        }
        let is = |key: &str, text: &str| note(key).is_some_and(|value| value.eq_ignore_ascii_case(text));
        let is_true = |key: &str| is(key, "true");
        let prediction = if names.has("v_pred") {
            Some(Prediction::V)
        } else if let Some(prediction) = noted_prediction(&note)? {
            Some(prediction)
        } else if is_true("ss_v_parameterization") {
            Some(Prediction::V)
        } else if is("ss_v_parameterization", "false") {
            Some(Prediction::Epsilon)
        } else {
            // The number of training steps of the published 512-base-ema.ckpt.
            let base = family == Family::Sd2 && note("global_step").as_deref() == Some("875000");
            base.then_some(Prediction::Epsilon)
        };
        let zero_snr = names.has("ztsnr") || is_true("ss_zero_terminal_snr");
        Ok(Marks { prediction, zero_snr, ..Marks::default() })
    }

    /// These marks, completed with those of the settings file beside the checkpoint.
    ///
    /// # Errors
    /// When both say what the U-Net predicts, and not the same.
    pub(crate) fn or(self, settings: Marks) -> Result<Marks, LayoutProblem> {
        if let (Some(in_file), Some(beside)) = (self.prediction, settings.prediction)
            && in_file != beside
        {
            return Err(LayoutProblem::Predictions { in_file: in_file.name(), beside: beside.name() });
        }
        Ok(Marks {
            prediction: self.prediction.or(settings.prediction),
            zero_snr: self.zero_snr || settings.zero_snr,
            ..settings
        })
    }
}

/// The prediction in the metadata of Stability's model specification.
fn noted_prediction(note: impl Fn(&str) -> Option<String>) -> Result<Option<Prediction>, LayoutProblem> {
    for key in ["modelspec.predict_key", "modelspec.prediction_type"] {
        let Some(value) = note(key).filter(|value| !value.trim().is_empty()) else { continue };
        let prediction = Prediction::from_name(value.trim());
        let prediction = prediction.ok_or_else(|| unknown(key, format!("\"{}\"", quote(&value))))?;
        return Ok(Some(prediction));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_says_the_prediction_or_is_refused() {
        let marks = |key: &str, value: &str| {
            let note = |other: &str| (other == key).then(|| value.to_owned());
            Marks::of(&Names::default(), Family::Sdxl, note).map(|marks| marks.prediction)
        };
        for (key, value, expected) in [
            ("modelspec.predict_key", "v", Some(Prediction::V)),
            ("modelspec.prediction_type", "epsilon", Some(Prediction::Epsilon)),
            ("modelspec.prediction_type", " ", None),
            ("ss_v_parameterization", "True", Some(Prediction::V)),
            ("ss_v_parameterization", "False", Some(Prediction::Epsilon)),
            ("other", "v", None),
        ] {
            assert_eq!(marks(key, value), Ok(expected), "{key} {value}");
        }
        let refused = marks("modelspec.prediction_type", "edm").unwrap_err().to_string();
        assert_eq!(refused, "`modelspec.prediction_type` is \"edm\", which sdq does not support");
    }
}
