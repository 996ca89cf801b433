//! The server itself.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    body,
    draw::Format,
    guard::{COOKIE, unauthorized},
    problem::{ErrorBody, Problem},
};

/// The server, its queue and its limits.
#[derive(Serialize, ToSchema)]
pub(crate) struct Status {
    version: &'static str,
    /// The device that draws, in words.
    device: String,
    threads: usize,
    queue: QueueStatus,
    memory: MemoryStatus,
    /// Formats of picture files.
    formats: [&'static str; 3],
    limits: LimitsStatus,
}

#[derive(Serialize, ToSchema)]
struct QueueStatus {
    /// Ids of jobs.
    running: Vec<String>,
    /// Number of jobs that wait.
    waiting: usize,
    limit: usize,
}

#[derive(Serialize, ToSchema)]
struct MemoryStatus {
    /// In bytes; null for the memory that the system has available.
    limit: Option<u64>,
    /// In bytes, by runs and by graphs that are kept.
    taken: u64,
}

#[derive(Serialize, ToSchema)]
struct LimitsStatus {
    count: usize,
    steps: usize,
    width: usize,
    height: usize,
    upload_bytes: usize,
}

/// The server, its queue and its limits.
#[utoipa::path(get, path = "/api/v1/status", responses((status = 200, body = Status)))]
pub(super) async fn status(State(app): State<Arc<App>>) -> Json<Status> {
    let (running, waiting) = app.queue.counts();
    let (limits, budget) = (&app.limits, app.models.budget());
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        device: app.device.clone(),
        threads: app.threads,
        queue: QueueStatus { running, waiting, limit: limits.queue },
        memory: MemoryStatus { limit: budget.limit(), taken: budget.taken() },
        formats: Format::ALL.map(Format::ending),
        limits: LimitsStatus {
            count: limits.count,
            steps: limits.steps,
            width: limits.width,
            height: limits.height,
            upload_bytes: limits.upload_bytes,
        },
    })
}

/// The token of the server, once.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionRequest {
    token: String,
}

/// Sets the cookie that pictures and events can be read with.
#[utoipa::path(
    post, path = "/api/v1/session", request_body = SessionRequest,
    responses(
        (status = 204, description = "the cookie is set"),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 422, body = ErrorBody),
    )
)]
pub(super) async fn session(State(app): State<Arc<App>>, body: Body) -> Result<Response, Problem> {
    let SessionRequest { token } = body::json(&app, body).await?;
    if !app.guard.is_token(&token) {
        return Err(unauthorized());
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    if app.guard.has_token() {
        let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/");
        let cookie = HeaderValue::from_str(&cookie).map_err(|_| unauthorized())?;
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}
