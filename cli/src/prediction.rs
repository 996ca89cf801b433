//! Whether a model predicts noise or velocity, found out by evaluating it.

use std::num::NonZeroUsize;

use sdq_formats::{
    published::PublishedModel,
    single_file::{Certainty, Prediction},
};
use sdq_quantize::Recipe;

use crate::{describe, reference};

/// Where the files leave it open, evaluates the U-Net once, converted to q8 for the occasion, and tells what came out.
pub(crate) fn settle(model: &mut PublishedModel, threads: Option<NonZeroUsize>) -> anyhow::Result<()> {
    if model.training().is_none_or(|training| training.certainty != Certainty::Guess) {
        return Ok(());
    }
    let reference = reference::convert(model, Recipe::Q8, &crate::model::on_cpu(threads))?;
    let likeness = reference.pipeline.noise_likeness()?;
    // At the last step of the schedule the input is noise alone. Who predicts noise gives it back; who predicts velocity
    // predicts minus the picture there, which noise is not like.
    let prediction = if likeness > 0.5 { Prediction::Epsilon } else { Prediction::V };
    model.set_prediction(prediction, Certainty::Measured);
    if let Some(training) = model.training() {
        note!("predicts {} (likeness to noise {likeness:.2})", describe::prediction(&training));
    }
    Ok(())
}
