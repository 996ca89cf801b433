//! What can go wrong between a prompt and a picture.

use std::path::PathBuf;

use sdq_formats::{WeightRole, sdq::SdqError};
use sdq_schedulers::SchedulerError;

use crate::backend::DeviceError;

/// Any failure of the engine. Messages are one line and name what to change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model file is broken or does not hold what its configs promise.
    #[error(transparent)]
    File(#[from] SdqError),
    /// The scheduler refuses its config or the number of steps.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// A component is missing from the model file.
    #[error("the model has no component `{component}`")]
    MissingComponent {
        /// `text_encoder`, `text_encoder_2`, `unet` or `vae`.
        component: &'static str,
    },
    /// A key of a component's config has a value that sdq cannot run.
    #[error("{component} config: `{key}` is {found}, expected {expected}")]
    Config {
        /// `text_encoder`, `text_encoder_2`, `unet` or `vae`.
        component: &'static str,
        /// The key in the component's config.json.
        key: String,
        /// Its value, as JSON.
        found: String,
        /// What would work.
        expected: String,
    },
    /// A key of a component's config is unknown; ignoring it could change the picture.
    #[error("{component} config: unknown key `{key}` = {found}; sdq would not know what it changes")]
    UnknownConfigKey {
        /// `text_encoder`, `text_encoder_2`, `unet` or `vae`.
        component: &'static str,
        /// The key in the component's config.json.
        key: String,
        /// Its value, as JSON.
        found: String,
    },
    /// The tokenizer's files do not make a CLIP tokenizer.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A value of the request cannot be used.
    #[error("{field} is {found}, expected {expected}")]
    Request {
        /// Name of the request's field, as on the command line.
        field: &'static str,
        /// What was asked for.
        found: String,
        /// What would work.
        expected: String,
    },
    /// The request's picture, mask and strength do not make a job for the model.
    #[error(transparent)]
    Job(JobProblem),
    /// Two models that are no versions of one.
    #[error(
        "the two models are not versions of one model: {what}: {expected} in the first, {found} in the second"
    )]
    Mismatch {
        /// What differs.
        what: String,
        /// The reference's.
        expected: String,
        /// The other's.
        found: String,
    },
    /// The vectors of a word do not fit the model.
    #[error("the word `{word}` has {found}, expected {expected}")]
    Word {
        /// The word.
        word: String,
        /// What was given for it.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// There is not enough memory for the picture's intermediate values.
    #[error("no memory for {bytes} bytes of intermediate values; try a smaller picture")]
    OutOfMemory {
        /// Size of the allocation.
        bytes: usize,
    },
    /// However the run is cut, it takes more memory than there is or than the caller allows.
    #[error("{size} takes at least {} of memory, the limit is {}; {advice}", megabytes(*needed), megabytes(*limit))]
    DoesNotFit {
        /// What was asked for.
        size: String,
        /// Most bytes that the process may hold.
        limit: u64,
        /// The smallest limit that would do.
        needed: u64,
        /// What would fit.
        advice: String,
    },
    /// A device cannot be used, or cannot run a graph.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A graph reads a weight that its component does not hold in that role and shape.
    #[error("{component} has no weight `{name}` {shape:?} ({role:?})")]
    MissingWeight {
        /// `text_encoder`, `text_encoder_2`, `unet` or `vae`.
        component: String,
        /// Name inside the component.
        name: String,
        /// How it would be read.
        role: WeightRole,
        /// Its logical shape.
        shape: Vec<usize>,
    },
    /// A saved run cannot be read, continued or written.
    #[error("{}: {problem}", path.display())]
    SavedRun {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The model computed infinities or NaN.
    #[error("{stage} produced values that are not finite; the model's weights are damaged or overflow")]
    NotFinite {
        /// Where it was noticed.
        stage: String,
    },
    /// The caller's callback stopped the run.
    #[error("stopped at step {step} of {steps}")]
    Cancelled {
        /// Steps finished.
        step: usize,
        /// Steps asked for.
        steps: usize,
    },
}

/// Why a request's picture, mask and strength do not make a job. Names are those of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobProblem {
    /// A model that works on a picture got none.
    #[error("this model works on a picture; give it one as init-image")]
    NoPicture,
    /// An inpainting model got no mask.
    #[error("this model draws a part of a picture anew; give it that part as mask")]
    NoMask,
    /// There is no picture for the mask.
    #[error("a mask marks a part of a picture to start from; give that picture as init-image")]
    MaskWithoutPicture,
    /// There is no picture for the strength.
    #[error("strength says how much of a picture to start from changes; give that picture as init-image")]
    StrengthWithoutPicture,
    /// An editing model got a mask.
    #[error("this model edits the whole picture and cannot use a mask")]
    MaskForEditing,
    /// An editing model got a strength.
    #[error("this model starts from noise and cannot use strength")]
    StrengthForEditing,
}

impl JobProblem {
    /// Name of the request's field that is to be given or left out.
    pub fn field(self) -> &'static str {
        match self {
            JobProblem::NoPicture | JobProblem::MaskWithoutPicture | JobProblem::StrengthWithoutPicture => {
                "init-image"
            }
            JobProblem::NoMask | JobProblem::MaskForEditing => "mask",
            JobProblem::StrengthForEditing => "strength",
        }
    }
}

/// Bytes as people read them, rounded up.
fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
