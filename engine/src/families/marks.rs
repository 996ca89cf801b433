//! How a model was trained, as its files say it: by marker tensors, by metadata, and by a settings file beside
//! the checkpoint.

use super::{Family, Prediction};
use crate::models::naming::{LayoutProblem, Names, unknown};

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
        let predicts = || note("modelspec.predict_key").or_else(|| note("modelspec.prediction_type"));
        let is_true = |key: &str| note(key).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let prediction = if names.has("v_pred") {
            Some(Prediction::V)
        } else if let Some(prediction) = predicts().as_deref().and_then(Prediction::from_name) {
            Some(prediction)
        } else if is_true("ss_v_parameterization") {
            Some(Prediction::V)
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
