//! Jobs: made, listed, cancelled, resumed.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::pictures::Picture;
use crate::{
    app::App,
    body::{self, Held},
    call::{self, blocking},
    draw::DrawRequest,
    extract::{Path, Query},
    problem::{ErrorBody, ErrorDetail, Problem},
    queue::{Progress, Snapshot, conversion, no_job},
    store::{ConvertWork, Origin, State as JobState, Work, is_id},
};

/// Most jobs of a list.
const MAX_LIST: usize = 200;

/// A job.
#[derive(Serialize, ToSchema)]
pub(crate) struct Job {
    id: String,
    /// `generate` or `convert`.
    kind: &'static str,
    /// The id of the model that draws; of a conversion, that of its result.
    model: String,
    state: JobState,
    /// Jobs that run before it; null if it does not wait.
    place: Option<usize>,
    created: String,
    started: Option<String>,
    ended: Option<String>,
    progress: Option<Progress>,
    pictures: Vec<Picture>,
    notes: Vec<String>,
    error: Option<ErrorDetail>,
    /// The request, with the seed that was chosen; pictures that came with it have ids.
    request: Option<DrawRequest>,
    resumable: bool,
}

impl Job {
    pub(super) fn new(app: &App, snapshot: Snapshot) -> Job {
        let Snapshot { entry, place, progress, is_resumable, .. } = snapshot;
        let (kind, request) = match entry.work {
            Work::Generate { request } => ("generate", Some(*request)),
            Work::Convert { .. } => ("convert", None),
        };
        let pictures = entry.pictures.iter().filter_map(|id| app.store.describe(id)).map(Picture::from);
        Job {
            id: entry.id,
            kind,
            model: entry.model,
            state: entry.state,
            place,
            created: entry.created,
            started: entry.started,
            ended: entry.ended,
            progress,
            pictures: pictures.collect(),
            notes: entry.notes,
            error: entry.error,
            request,
            resumable: is_resumable,
        }
    }
}

/// A new job.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum NewJob {
    /// Draws pictures.
    Generate {
        /// The id of a model; the server's first one if it is left out.
        model: Option<String>,
        request: Box<DrawRequest>,
    },
    /// Converts a published model of the server's folder.
    Convert {
        /// Its name in the list of convertible models.
        source: String,
        /// Number format of the weights: f32, f16, q8, q4 or mixed.
        #[serde(rename = "type")]
        precision: String,
        /// Name of the new model; that of the source if it is left out.
        name: Option<String>,
    },
}

/// Puts a job into the queue.
#[utoipa::path(
    post, path = "/api/v1/jobs", request_body = NewJob,
    responses(
        (status = 201, body = Job), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 422, body = ErrorBody),
        (status = 503, body = ErrorBody, description = "the queue is full; the header Retry-After has seconds"),
    )
)]
pub(super) async fn create(State(app): State<Arc<App>>, body: Body) -> Result<Response, Problem> {
    let held = body::large_json::<NewJob>(&app, body).await?;
    blocking(move || {
        let Held { value, .. } = &held;
        let id = match value {
            NewJob::Generate { model, request } => {
                call::submit(&app, model.as_deref(), (**request).clone(), Origin::Own)?
            }
            NewJob::Convert { source, precision, name } => convert(&app, source, precision, name.as_deref())?,
        };
        let snapshot = app.queue.get(&id).ok_or_else(no_job)?;
        let location = format!("/api/v1/jobs/{id}");
        Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(Job::new(&app, snapshot)))
            .into_response())
    })
    .await
}

fn convert(app: &App, source: &str, precision: &str, name: Option<&str>) -> Result<String, Problem> {
    if name.is_some_and(|name| !is_id(name)) {
        return Err(Problem::invalid(
            "name",
            "the name is not valid, expected 1 to 64 letters, digits, hyphens and underscores",
        ));
    }
    let stem = source.rsplit_once('.').map_or(source, |(stem, _)| stem);
    let name = name.unwrap_or(stem).to_owned();
    let work = ConvertWork { source: source.to_owned(), precision: precision.to_owned(), name: name.clone() };
    conversion(app, &work)?;
    app.queue.submit(Work::Convert { convert: work }, name, Origin::Own, Vec::new())
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Jobs {
    jobs: Vec<Job>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only jobs in this state.
    state: Option<JobState>,
    /// Most jobs; 50 if it is left out, at most 200.
    limit: Option<usize>,
    /// Only jobs that are older than this one.
    before: Option<String>,
}

/// The jobs, the newest first.
#[utoipa::path(
    get, path = "/api/v1/jobs", params(ListQuery),
    responses((status = 200, body = Jobs), (status = 400, body = ErrorBody))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Jobs>, Problem> {
    blocking(move || {
        let limit = query.limit.unwrap_or(50).min(MAX_LIST);
        let jobs = app.queue.list(query.state, limit, query.before.as_deref());
        Ok(Json(Jobs { jobs: jobs.into_iter().map(|snapshot| Job::new(&app, snapshot)).collect() }))
    })
    .await
}

/// One job.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Job), (status = 404, body = ErrorBody))
)]
pub(super) async fn get(State(app): State<Arc<App>>, Path(id): Path) -> Result<Json<Job>, Problem> {
    blocking(move || Ok(Json(Job::new(&app, app.queue.get(&id).ok_or_else(no_job)?)))).await
}

/// Cancels a job: at once if it waits, at its next step if it runs.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/cancel", params(("id" = String, Path)),
    responses((status = 200, body = Job), (status = 404, body = ErrorBody))
)]
pub(super) async fn cancel(State(app): State<Arc<App>>, Path(id): Path) -> Result<Json<Job>, Problem> {
    blocking(move || Ok(Json(Job::new(&app, app.queue.cancel(&id).ok_or_else(no_job)?)))).await
}

/// Puts a job that was cancelled or interrupted into the queue again; it goes on where it stopped.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/resume", params(("id" = String, Path)),
    responses(
        (status = 200, body = Job), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
pub(super) async fn resume(State(app): State<Arc<App>>, Path(id): Path) -> Result<Json<Job>, Problem> {
    blocking(move || Ok(Json(Job::new(&app, app.queue.resume(&id)?)))).await
}

/// Forgets a job that has ended. Its pictures stay.
#[utoipa::path(
    delete, path = "/api/v1/jobs/{id}", params(("id" = String, Path)),
    responses(
        (status = 204, description = "it is forgotten"), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody),
    )
)]
pub(super) async fn forget(State(app): State<Arc<App>>, Path(id): Path) -> Result<StatusCode, Problem> {
    blocking(move || {
        app.queue.forget(&id)?;
        app.queue.remove_unused_uploads();
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
