//! The job that runs, in the web UI's words.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    call::blocking,
    draw::to_base64,
    extract::Query,
    problem::Problem,
    queue::Snapshot,
    store::{Origin, State as JobState},
};

#[derive(Deserialize)]
pub(super) struct ProgressQuery {
    #[serde(default)]
    skip_current_image: Option<String>,
}

pub(super) async fn progress(
    State(app): State<Arc<App>>,
    Query(query): Query<ProgressQuery>,
) -> Result<Json<Value>, Problem> {
    let with_image = !query.skip_current_image.is_some_and(|skip| skip.eq_ignore_ascii_case("true"));
    blocking(move || {
        let running = running(&app).into_iter().next();
        Ok(Json(described(running.as_ref(), with_image)))
    })
    .await
}

/// The jobs that run, those of clients that wait first.
fn running(app: &App) -> Vec<Snapshot> {
    let mut running = app.queue.list(Some(JobState::Running), usize::MAX, None);
    running.sort_by_key(|job| job.entry.origin != Origin::Call);
    running
}

fn described(job: Option<&Snapshot>, with_image: bool) -> Value {
    let progress = job.and_then(|job| job.progress.as_ref());
    let share = progress.map_or(0.0, |progress| progress.done as f64 / progress.total.max(1) as f64);
    let image = job.and_then(|job| job.preview.as_ref()).filter(|_| with_image);
    let number = |of: fn(&crate::queue::Progress) -> usize| progress.map_or(0, of);
    json!({
        "progress": share,
        "eta_relative": progress.and_then(|progress| progress.seconds_left).unwrap_or(0.0),
        "state": {
            "skipped": false,
            "interrupted": false,
            "stopping_generation": false,
            "job": job.map_or("", |job| job.entry.id.as_str()),
            "job_count": usize::from(job.is_some()),
            "job_timestamp": job.and_then(|job| job.entry.started.clone()).unwrap_or_else(|| "0".to_owned()),
            "job_no": 0,
            "sampling_step": number(|progress| progress.step),
            "sampling_steps": number(|progress| progress.steps),
        },
        "current_image": image.map(|preview| to_base64(&preview.png())),
        "textinfo": null,
    })
}

/// Cancels the jobs of waiting clients that run. Jobs of the page are its own.
pub(super) async fn interrupt(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    blocking(move || {
        let jobs = running(&app).into_iter().filter(|job| job.entry.origin == Origin::Call);
        jobs.for_each(|job| {
            app.queue.cancel(&job.entry.id);
        });
        Ok(Json(json!({})))
    })
    .await
}
