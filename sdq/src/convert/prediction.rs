//! Whether a model predicts noise or velocity, found out by evaluating it.

use std::num::NonZeroUsize;

use sdq_engine::{
    families::{Certainty, Prediction},
    published::PublishedModel,
};
use sdq_quantize::Precision;

use super::{describe, reference};
use crate::{Error, Note, Watch, model};

/// Where the files leave it open, evaluates the U-Net once, converted to q8 for the occasion, and tells what came out.
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
    // At the last step of the schedule the input is noise alone. Who predicts noise gives it back; who predicts velocity
    // predicts minus the picture there, which noise is not like.
    let prediction = if likeness > 0.5 { Prediction::Epsilon } else { Prediction::V };
    published.set_prediction(prediction, Certainty::Measured);
    if let Some(training) = published.training() {
        let prediction = describe::prediction(&training);
        watch.note(Note::Predicts(format!("{prediction} (likeness to noise {likeness:.2})")));
    }
    Ok(())
}
