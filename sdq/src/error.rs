//! Errors of the library, and the stable code of each kind.

use std::{
    io,
    path::{Path, PathBuf},
};

use sdq_engine::{
    Error as EngineError,
    adapters::{lora::LoraError, textual_inversion::EmbeddingError},
    published::PublishedError,
};
use sdq_formats::{
    checkpoint::CheckpointError,
    picture::PictureError,
    safetensors::SafetensorsError,
    sdq::{SdqError, SdqProblem},
};
use sdq_quantize::{ConvertError, RuleError};
use sdq_schedulers::SchedulerError;

use crate::recipe::RecipeError;

/// Any failure of the library. Messages are one line and say what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine cannot open, plan or run a model.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A model cannot be converted.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A published model cannot be read.
    #[error(transparent)]
    Published(#[from] PublishedError),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An `.sdq` file cannot be read or written.
    #[error(transparent)]
    Sdq(#[from] SdqError),
    /// A picture cannot be read or written.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// Latents cannot be written.
    #[error(transparent)]
    Latents(#[from] SafetensorsError),
    /// A rule that sets the type of weights is not valid.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A LoRA cannot be applied to the model.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// A file holds no textual inversion.
    #[error(transparent)]
    Embedding(#[from] EmbeddingError),
    /// An option has a value that is not valid.
    #[error("{option}: {problem}")]
    Option {
        /// Name of the field in the option struct, such as `max_size`.
        option: &'static str,
        /// The problem with the value, and the valid values.
        problem: String,
    },
    /// A `<lora:name:strength>` tag in a prompt is not valid.
    #[error("{0}")]
    LoraTag(String),
    /// A file of prompts cannot be used.
    #[error("cannot read prompts from `{}`: {problem}", path.display())]
    Prompts {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// A file or folder cannot be read.
    #[error("cannot read `{}`: {error}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A folder for temporary files cannot be created.
    #[error("cannot create a temporary folder: {0}")]
    TemporaryFolder(io::Error),
    /// The system refused to start a thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A session's thread has ended because of a panic.
    #[error("the session has ended after an internal error; open the model again")]
    SessionEnded,
    /// A file is of a kind that sdq does not read.
    #[error(
        "{}: expected a model, a checkpoint, a LoRA, an embedding, a saved run or a picture, found {found}",
        path.display()
    )]
    UnknownFile {
        /// The file.
        path: PathBuf,
        /// The kind of the file.
        found: String,
    },
    /// A published model was given where an `.sdq` file is read.
    #[error("{}: expected an .sdq file, found {found}; convert it first with `{command}`", path.display())]
    NotConverted {
        /// The file or folder.
        path: PathBuf,
        /// What it is.
        found: String,
        /// The command that converts it.
        command: String,
    },
    /// A LoRA or an embedding was given where a model is read.
    #[error("{}: expected a model, found {found}; give it with {flag}, beside a model", path.display())]
    AddOnAsModel {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// The option that takes it.
        flag: &'static str,
    },
    /// There is no GPU, or none of this name.
    #[error("{}", no_device(wanted.as_deref()))]
    NoDevice {
        /// Its name or number, if one was given.
        wanted: Option<String>,
    },
    /// The verdicts on a device cannot be stored.
    #[error("cannot store the verdicts on the kernels: {0}")]
    Verdicts(io::Error),
    /// A picture contains no readable recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// An error with the file that it concerns.
    #[error("{}: {error}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// The error without the file.
        error: Box<Error>,
    },
}

/// The kinds of failure that callers can distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller cancelled the job.
    Cancelled,
    /// The request is not valid on any machine.
    RequestInvalid,
    /// An option of a job has a value that is not valid.
    OptionInvalid,
    /// There is no model at the given path.
    ModelNotFound,
    /// The model is damaged, incomplete or not supported.
    ModelInvalid,
    /// Two models are not versions of one model.
    ModelMismatch,
    /// A LoRA, a textual inversion or their file does not fit the model.
    AddOnInvalid,
    /// A file of prompts cannot be used.
    PromptsInvalid,
    /// A picture cannot be read or written.
    PictureInvalid,
    /// A saved run is damaged or belongs to another model.
    SavedRunInvalid,
    /// The run needs more memory than allowed, however it is cut.
    MemoryDoesNotFit,
    /// The system refused memory during a run.
    MemoryExhausted,
    /// A device or the worker threads failed.
    DeviceFailed,
    /// The model computed infinities or NaN.
    NotFinite,
    /// A file or folder cannot be read.
    FileRead,
    /// A file cannot be written.
    FileWrite,
}

impl ErrorKind {
    /// All kinds.
    pub const ALL: [ErrorKind; 16] = [
        ErrorKind::Cancelled,
        ErrorKind::RequestInvalid,
        ErrorKind::OptionInvalid,
        ErrorKind::ModelNotFound,
        ErrorKind::ModelInvalid,
        ErrorKind::ModelMismatch,
        ErrorKind::AddOnInvalid,
        ErrorKind::PromptsInvalid,
        ErrorKind::PictureInvalid,
        ErrorKind::SavedRunInvalid,
        ErrorKind::MemoryDoesNotFit,
        ErrorKind::MemoryExhausted,
        ErrorKind::DeviceFailed,
        ErrorKind::NotFinite,
        ErrorKind::FileRead,
        ErrorKind::FileWrite,
    ];

    /// The code of the kind. Codes never change their meaning; `docs/errors.md` lists them.
    pub const fn code(self) -> &'static str {
        match self {
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::RequestInvalid => "request.invalid",
            ErrorKind::OptionInvalid => "option.invalid",
            ErrorKind::ModelNotFound => "model.not_found",
            ErrorKind::ModelInvalid => "model.invalid",
            ErrorKind::ModelMismatch => "model.mismatch",
            ErrorKind::AddOnInvalid => "add_on.invalid",
            ErrorKind::PromptsInvalid => "prompts.invalid",
            ErrorKind::PictureInvalid => "picture.invalid",
            ErrorKind::SavedRunInvalid => "saved_run.invalid",
            ErrorKind::MemoryDoesNotFit => "memory.does_not_fit",
            ErrorKind::MemoryExhausted => "memory.exhausted",
            ErrorKind::DeviceFailed => "device.failed",
            ErrorKind::NotFinite => "model.not_finite",
            ErrorKind::FileRead => "file.read",
            ErrorKind::FileWrite => "file.write",
        }
    }

    /// The kind of an error of this library or of the engine below it; `None` for others.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
        let own = error.downcast_ref::<Error>().map(Error::kind);
        own.or_else(|| error.downcast_ref::<EngineError>().map(ErrorKind::of_engine))
    }

    /// The kind of a failure of the engine.
    pub fn of_engine(error: &EngineError) -> ErrorKind {
        match error {
            EngineError::File(error) => sdq_kind(error),
            EngineError::Scheduler(
                SchedulerError::UnknownScheduler { .. }
                | SchedulerError::ScheduleAlone { .. }
                | SchedulerError::UnusableSchedule { .. }
                | SchedulerError::UnknownOption { .. }
                | SchedulerError::StepCount { .. },
            )
            | EngineError::Request { .. }
            | EngineError::Job(_) => ErrorKind::RequestInvalid,
            EngineError::Word { .. } => ErrorKind::AddOnInvalid,
            EngineError::Mismatch { .. } => ErrorKind::ModelMismatch,
            EngineError::OutOfMemory { .. } => ErrorKind::MemoryExhausted,
            EngineError::DoesNotFit { .. } => ErrorKind::MemoryDoesNotFit,
            EngineError::Device(_) => ErrorKind::DeviceFailed,
            EngineError::SavedRun { .. } => ErrorKind::SavedRunInvalid,
            EngineError::NotFinite { .. } => ErrorKind::NotFinite,
            EngineError::Cancelled { .. } => ErrorKind::Cancelled,
            EngineError::Scheduler(_)
            | EngineError::MissingComponent { .. }
            | EngineError::Config { .. }
            | EngineError::UnknownConfigKey { .. }
            | EngineError::Tokenizer(_)
            | EngineError::MissingWeight { .. } => ErrorKind::ModelInvalid,
        }
    }
}

impl Error {
    /// The kind of this failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Engine(error) => ErrorKind::of_engine(error),
            Error::Convert(error) => convert_kind(error),
            Error::Published(error) => published_kind(error),
            Error::Checkpoint(CheckpointError::Io { .. }) | Error::Read { .. } => ErrorKind::FileRead,
            Error::Checkpoint(_) => ErrorKind::ModelInvalid,
            Error::Sdq(error) => sdq_kind(error),
            Error::Picture(_) | Error::Recipe(_) => ErrorKind::PictureInvalid,
            Error::UnknownFile { .. } | Error::NotConverted { .. } | Error::AddOnAsModel { .. } => {
                ErrorKind::ModelInvalid
            }
            Error::Rule(_) | Error::Option { .. } => ErrorKind::OptionInvalid,
            Error::Lora(_) | Error::Embedding(_) => ErrorKind::AddOnInvalid,
            Error::LoraTag(_) => ErrorKind::RequestInvalid,
            Error::Prompts { .. } => ErrorKind::PromptsInvalid,
            Error::Write { .. } | Error::TemporaryFolder(_) | Error::Verdicts(_) | Error::Latents(_) => {
                ErrorKind::FileWrite
            }
            Error::Thread(_) | Error::SessionEnded | Error::NoDevice { .. } => ErrorKind::DeviceFailed,
            Error::InFile { error, .. } => error.kind(),
        }
    }

    /// The code of its kind, such as `model.not_found`. Codes are stable; messages are not.
    ///
    /// ```
    /// let missing = sdq::model::open(Some("no-such.sdq".as_ref()), &Default::default());
    /// assert_eq!(missing.unwrap_err().code(), "model.not_found");
    /// ```
    pub fn code(&self) -> &'static str {
        self.kind().code()
    }

    /// The field of a request, or the option, that has a value that is not valid.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Error::Engine(EngineError::Request { field, .. }) => Some(field),
            Error::Engine(EngineError::Scheduler(
                SchedulerError::UnknownScheduler { .. }
                | SchedulerError::ScheduleAlone { .. }
                | SchedulerError::UnusableSchedule { .. },
            )) => Some("scheduler"),
            Error::Engine(EngineError::Scheduler(SchedulerError::UnknownOption { .. })) => {
                Some("scheduler-options")
            }
            Error::Engine(EngineError::Scheduler(SchedulerError::StepCount { .. })) => Some("steps"),
            Error::Option { option, .. } => Some(option),
            Error::LoraTag(_) => Some("prompt"),
            Error::InFile { error, .. } => error.field(),
            _ => None,
        }
    }

    /// This error with the file that it concerns, for errors that do not name it.
    #[must_use]
    pub fn in_file(self, path: &Path) -> Error {
        Error::InFile { path: path.to_path_buf(), error: Box::new(self) }
    }
}

fn no_device(wanted: Option<&str>) -> String {
    match wanted {
        Some(wanted) => format!("there is no device `{wanted}`; `sdq info` lists the devices"),
        None => "Vulkan finds no device; install the graphics driver".to_owned(),
    }
}

fn convert_kind(error: &ConvertError) -> ErrorKind {
    match error {
        ConvertError::Read { .. } => ErrorKind::FileRead,
        ConvertError::Output(_) => ErrorKind::FileWrite,
        ConvertError::Threads(_) => ErrorKind::DeviceFailed,
        ConvertError::Cancelled { .. } => ErrorKind::Cancelled,
        ConvertError::MissingComponent { .. }
        | ConvertError::SurplusComponent { .. }
        | ConvertError::MissingTensors { .. }
        | ConvertError::SurplusTensors { .. }
        | ConvertError::Shape { .. }
        | ConvertError::Tensor { .. }
        | ConvertError::Empty { .. } => ErrorKind::ModelInvalid,
    }
}

fn published_kind(error: &PublishedError) -> ErrorKind {
    match error {
        PublishedError::NotFound { .. } => ErrorKind::ModelNotFound,
        PublishedError::Io { .. } | PublishedError::Checkpoint(CheckpointError::Io { .. }) => {
            ErrorKind::FileRead
        }
        PublishedError::NoModel => ErrorKind::OptionInvalid,
        _ => ErrorKind::ModelInvalid,
    }
}

fn sdq_kind(error: &SdqError) -> ErrorKind {
    match &*error.problem {
        SdqProblem::Io(error) if error.kind() == io::ErrorKind::NotFound => ErrorKind::ModelNotFound,
        SdqProblem::Io(_) => ErrorKind::FileRead,
        _ => ErrorKind::ModelInvalid,
    }
}

#[cfg(test)]
mod tests;
