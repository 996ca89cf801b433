//! Determines by an evaluation whether a model predicts noise or velocity.

use std::num::NonZeroUsize;

use sdq_engine::{
    families::{Certainty, Prediction},
    published::PublishedModel,
};
use sdq_quantize::Precision;

use super::{describe, reference};
use crate::{Error, Note, Watch, model};

/// If the files do not define the prediction, converts the U-Net to q8, evaluates it once, and reports the
/// result.
pub(super) fn settle(
    published: &mut PublishedModel,
    threads: Option<NonZeroUsize>,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    if published.training().is_none_or(|training| training.certainty != Certainty::Guess) {
        return Ok(());
    }
    let reference = reference::convert(published, Precision::Q8, &model::on_cpu(threads), watch)?;
    let likeness = reference.pipeline.noise_likeness()?;
    // At the last step of the schedule the input is pure noise. A model that predicts noise returns it; one
    // that predicts velocity returns minus its estimate of the picture, which is not similar to the noise.
    let prediction = if likeness > 0.5 { Prediction::Epsilon } else { Prediction::V };
    published.set_prediction(prediction, Certainty::Measured);
    if let Some(training) = published.training() {
        let prediction = describe::prediction(&training);
        watch.note(Note::Predicts(format!("{prediction} (similarity to noise {likeness:.2})")));
    }
    Ok(())
}
