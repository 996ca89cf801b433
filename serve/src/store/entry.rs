//! A job as its file has it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{draw::DrawRequest, problem::ErrorDetail};

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    /// Who waits for it.
    pub(crate) origin: Origin,
    #[serde(flatten)]
    pub(crate) work: Work,
    /// The id of the model.
    pub(crate) model: String,
    pub(crate) state: State,
    /// Times are texts as in RFC 3339.
    pub(crate) created: String,
    pub(crate) started: Option<String>,
    pub(crate) ended: Option<String>,
    /// Whether it goes on with an unfinished run.
    #[serde(default)]
    pub(crate) resumes: bool,
    pub(crate) pictures: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) error: Option<ErrorDetail>,
}

/// What a job does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Work {
    /// Draws pictures.
    Generate { request: Box<DrawRequest> },
    /// Converts a model.
    Convert { convert: ConvertWork },
}

/// The conversion of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ConvertWork {
    /// Name of the published model in its folder.
    pub(crate) source: String,
    /// Number format.
    pub(crate) precision: String,
    /// Stem of the result.
    pub(crate) name: String,
}

/// The interface that a job came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// Clients watch it if they want to.
    Own,
    /// A client waits for the answer on its connection.
    Call,
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Waiting,
    Running,
    Done,
    Failed,
    Cancelled,
    /// The server ended while the job was running.
    Interrupted,
}
