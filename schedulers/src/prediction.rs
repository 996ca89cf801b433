//! Interpretation of a model's output: from its prediction to x_0 and to ε.

use crate::error::SchedulerError;
use crate::values::one_of;

/// The quantity that the model was trained to predict from noisy latents x = signal · x_0 + noise_level · ε.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredictionType {
    /// The noise ε.
    Epsilon,
    /// The velocity v = √ᾱ · ε − √(1 − ᾱ) · x_0 (Salimans & Ho 2022, arXiv:2202.00512, section 4).
    VPrediction,
    /// The clean latents x_0.
    Sample,
}

impl PredictionType {
    const NAMES: [(&'static str, PredictionType); 3] = [
        ("epsilon", PredictionType::Epsilon),
        ("v_prediction", PredictionType::VPrediction),
        ("sample", PredictionType::Sample),
    ];

    pub(crate) fn from_value(key: &str, value: &serde_json::Value) -> Result<Self, SchedulerError> {
        one_of(key, value, &Self::NAMES)
    }

    /// Coefficients (a, b) of x_0 = a · latents + b · output, for latents x = `signal` · x_0 + `noise_level`
    /// · ε.
    ///
    /// `signal`² + `noise_level`² is 1 for variance-preserving schedulers (DDPM, DDIM); `signal` is 1 for
    /// those that use sigmas. The velocity is always that of the variance-preserving scaling, which was used
    /// in training.
    ///
    /// Infinite for [`PredictionType::Epsilon`] if `signal` is 0: pure noise contains no information about
    /// x_0.
    pub fn original_sample(self, signal: f64, noise_level: f64) -> (f64, f64) {
        match self {
            PredictionType::Epsilon => (1.0 / signal, -noise_level / signal),
            PredictionType::VPrediction => {
                let scale = signal.hypot(noise_level);
                (signal / (scale * scale), -noise_level / scale)
            }
            PredictionType::Sample => (0.0, 1.0),
        }
    }

    /// Coefficients (a, b) of ε = a · latents + b · output, with the same conventions.
    pub fn noise(self, signal: f64, noise_level: f64) -> (f64, f64) {
        match self {
            PredictionType::Epsilon => (0.0, 1.0),
            PredictionType::VPrediction => {
                let scale = signal.hypot(noise_level);
                (noise_level / (scale * scale), signal / scale)
            }
            PredictionType::Sample => (1.0 / noise_level, -signal / noise_level),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For any prediction type and in both scalings, a perfect prediction gives x_0 and ε.
    #[test]
    fn perfect_predictions_give_back_original_and_noise() {
        let (original, noise) = (0.7, -1.3);
        for (signal, noise_level) in [(0.6, 0.8), (1.0, 5.0), (1.0, 0.03)] {
            let latents = signal * original + noise_level * noise;
            let scale = f64::hypot(signal, noise_level);
            let velocity = signal / scale * noise - noise_level / scale * original;
            for (prediction_type, output) in [
                (PredictionType::Epsilon, noise),
                (PredictionType::VPrediction, velocity),
                (PredictionType::Sample, original),
            ] {
                let (a, b) = prediction_type.original_sample(signal, noise_level);
                assert!((a * latents + b * output - original).abs() < 1e-12, "{prediction_type:?}");
                let (a, b) = prediction_type.noise(signal, noise_level);
                assert!((a * latents + b * output - noise).abs() < 1e-12, "{prediction_type:?}");
            }
        }
    }
}
