//! What a request takes before it runs: tokens, memory, seconds.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State};
use sdq::{
    Cancel, Error, Event, Watch,
    model::note_beyond_built_in,
    request::{PromptLength, PromptSyntax},
    run::note_without_effect,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    body,
    call::blocking,
    draw::{self, DrawRequest},
    problem::{ErrorBody, Problem},
};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokensRequest {
    model: Option<String>,
    prompt: String,
}

/// The length of a prompt.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tokens {
    tokens: usize,
    /// A prompt that is longer than one chunk is read in several.
    chunks: usize,
    per_chunk: usize,
}

/// The length of a prompt in the tokens of a model.
#[utoipa::path(
    post, path = "/api/v1/tokens", request_body = TokensRequest,
    responses(
        (status = 200, body = Tokens), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 422, body = ErrorBody),
    )
)]
pub(super) async fn tokens(State(app): State<Arc<App>>, body: Body) -> Result<Json<Tokens>, Problem> {
    let TokensRequest { model, prompt } = body::json(&app, body).await?;
    blocking(move || {
        let listed = app.models.get(model.as_deref())?;
        let pipeline = app.models.pipeline(&listed).map_err(|error| app.problem(&error))?;
        let length = pipeline.prompt_length(&prompt, PromptSyntax::Weighted);
        let PromptLength { tokens, chunks, per_chunk } =
            length.map_err(|error| app.problem(&error.into()))?;
        Ok(Json(Tokens { tokens, chunks, per_chunk }))
    })
    .await
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanRequest {
    model: Option<String>,
    request: DrawRequest,
}

/// What a request takes.
#[derive(Serialize, ToSchema)]
pub(crate) struct PlanAnswer {
    /// Most memory that the server holds meanwhile.
    memory_bytes: Option<u64>,
    available_bytes: Option<u64>,
    fits: bool,
    /// Null where it does not fit, and until the server has measured the machine, which it does once, as soon as no job
    /// waits or runs.
    seconds: Option<f64>,
    /// Denoising steps of all pictures.
    steps: usize,
    width: usize,
    height: usize,
    notes: Vec<String>,
}

/// The memory and the time of a request, without running it.
#[utoipa::path(
    post, path = "/api/v1/plan", request_body = PlanRequest,
    responses(
        (status = 200, body = PlanAnswer), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 422, body = ErrorBody),
    )
)]
pub(super) async fn plan(State(app): State<Arc<App>>, body: Body) -> Result<Json<PlanAnswer>, Problem> {
    let held = body::large_json::<PlanRequest>(&app, body).await?;
    blocking(move || {
        let PlanRequest { model, request } = &held.value;
        Ok(Json(planned(&app, model.as_deref(), request)?))
    })
    .await
}

fn planned(app: &App, model: Option<&str>, request: &DrawRequest) -> Result<PlanAnswer, Problem> {
    request.check_limits(app)?;
    let listed = app.models.get(model)?;
    let prepared = request.prepare(app)?;
    let pipeline = app.models.pipeline(&listed).map_err(|error| app.problem(&error))?;
    let settings = draw::check(app, &pipeline, &prepared, request.enlarge.as_ref())?;
    let mut notes = prepared.notes;
    let mut observer = |event: Event| {
        if let Event::Note(note) = event {
            notes.push(app.shown(&note.to_string()));
        }
    };
    let watch = &mut Watch::new(&mut observer, &Cancel::new());
    note_without_effect(&pipeline, &settings, watch);
    if listed.path.is_none() {
        note_beyond_built_in(&pipeline, &settings, watch).map_err(|error| app.problem(&error))?;
    }
    let memory = match pipeline.plan(&prepared.request).map_err(Error::from) {
        Ok(memory) => Some(memory),
        Err(error) if error.kind() == sdq::ErrorKind::MemoryDoesNotFit => {
            notes.push(app.shown(&error.to_string()));
            None
        }
        Err(error) => return Err(app.problem(&error)),
    };
    let measured = memory.as_ref().filter(|_| app.models.is_measured());
    let time = measured.map(|memory| pipeline.predict_time(memory)).transpose();
    let time = time.map_err(|error| app.problem(&error.into()))?;
    Ok(PlanAnswer {
        memory_bytes: memory.as_ref().map(|memory| memory.peak()),
        available_bytes: memory.as_ref().map_or_else(|| app.models.budget().left(), |memory| memory.limit),
        fits: memory.is_some(),
        seconds: time.map(|time| time.total()),
        steps: settings.evaluations * settings.request.count,
        width: settings.width,
        height: settings.height,
        notes,
    })
}
