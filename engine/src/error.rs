//! Errors of the engine.

use std::path::PathBuf;

use sdq_formats::{WeightRole, sdq::SdqError};
use sdq_schedulers::SchedulerError;

use crate::backend::DeviceError;

/// Any failure of the engine. Messages are one line and say what to change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model file is damaged or does not contain what its configs require.
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
    /// A key of a component's config has a value that is not supported.
    #[error("{component} config: `{key}` is {found}, expected {expected}")]
    Config {
        /// `text_encoder`, `text_encoder_2`, `unet` or `vae`.
        component: &'static str,
        /// The key in the component's config.json.
        key: String,
        /// Its value, as JSON.
        found: String,
        /// The supported values.
        expected: String,
    },
    /// A key of a component's config is unknown; ignoring it could change the picture.
    #[error(
        "{component} config: the key `{key}` = {found} is unknown, and ignoring it could change the picture"
    )]
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
        /// The value that was given.
        found: String,
        /// The valid values.
        expected: String,
    },
    /// The request's picture, mask and strength are not a valid job for the model.
    #[error(transparent)]
    Job(JobProblem),
    /// The two models are not versions of the same model.
    #[error(
        "the two models are not versions of one model: {what} is {expected} in the first model and {found} in the second"
    )]
    Mismatch {
        /// The property that differs.
        what: String,
        /// Its value in the reference.
        expected: String,
        /// Its value in the other model.
        found: String,
    },
    /// The vectors of a word do not fit the model.
    #[error("the word `{word}` has {found}, expected {expected}")]
    Word {
        /// The word.
        word: String,
        /// The vectors that were given.
        found: String,
        /// The vectors that would fit.
        expected: String,
    },
    /// There is not enough memory for the picture's intermediate values.
    #[error("the system has no memory for {bytes} bytes of intermediate values; draw a smaller picture")]
    OutOfMemory {
        /// Size of the allocation.
        bytes: usize,
    },
    /// The run needs more memory than there is or than the caller allows, however it is cut.
    #[error("a picture of {size} takes at least {} of memory, but the limit is {}; {advice}", megabytes(*needed), megabytes(*limit))]
    DoesNotFit {
        /// The requested size.
        size: String,
        /// Maximum bytes that the process may hold.
        limit: u64,
        /// The smallest limit with which the run fits.
        needed: u64,
        /// What would fit.
        advice: String,
    },
    /// A device cannot be used, or cannot run a graph.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A graph reads a weight that its component does not hold in that role and shape.
    #[error("{component} has no weight `{name}` of shape {shape:?} and role {role}", role = role.name())]
    MissingWeight {
        /// `text_encoder`, `text_encoder_2`, `unet` or `vae`.
        component: String,
        /// Name inside the component.
        name: String,
        /// The role in which the graph reads it.
        role: WeightRole,
        /// Its logical shape.
        shape: Vec<usize>,
    },
    /// A saved run cannot be read, continued or written.
    #[error("{}: {problem}", path.display())]
    SavedRun {
        /// The file.
        path: PathBuf,
        /// Description of the problem.
        problem: String,
    },
    /// The model computed infinities or NaN.
    #[error("{stage} produced values that are not finite; the model's weights are damaged or overflow")]
    NotFinite {
        /// The stage at which it was detected.
        stage: String,
    },
    /// The caller's observer stopped the run.
    #[error("stopped at step {step} of {steps}")]
    Cancelled {
        /// Steps finished.
        step: usize,
        /// Steps of the run.
        steps: usize,
    },
}

/// Why a request's picture, mask and strength are not a valid job. The names are those of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobProblem {
    /// A model that needs a picture got none.
    #[error("the model needs a start picture; give the picture as init-image")]
    NoPicture,
    /// An inpainting model got no mask.
    #[error("the model redraws a part of a picture; give the part as mask")]
    NoMask,
    /// A mask was given without a picture.
    #[error("a mask needs a start picture; give the picture as init-image")]
    MaskWithoutPicture,
    /// A strength was given without a picture.
    #[error("strength needs a start picture; give the picture as init-image")]
    StrengthWithoutPicture,
    /// An editing model got a mask.
    #[error("the model edits whole pictures and cannot use a mask")]
    MaskForEditing,
    /// An editing model got a strength.
    #[error("the model starts from noise and cannot use strength")]
    StrengthForEditing,
    /// The autoencoder cannot encode the picture.
    #[error("the VAE of the model has no encoder and cannot read a picture; give another VAE as vae")]
    NoEncoder,
}

impl JobProblem {
    /// Name of the request's field that has to be set or left out.
    pub fn field(self) -> &'static str {
        match self {
            JobProblem::NoPicture
            | JobProblem::MaskWithoutPicture
            | JobProblem::StrengthWithoutPicture
            | JobProblem::NoEncoder => "init-image",
            JobProblem::NoMask | JobProblem::MaskForEditing => "mask",
            JobProblem::StrengthForEditing => "strength",
        }
    }
}

/// A number of bytes in readable form, rounded up.
fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
