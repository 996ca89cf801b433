//! OpenAI's interface for pictures: models, generations, edits, and both as streams of partial pictures.

mod edits;
mod extra_args;
mod request;
mod stream;

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{
    api::pictures::url,
    app::App,
    body,
    call::{Call, blocking, files},
    draw::{DrawRequest, to_base64},
    extract::Path,
    problem::Problem,
    store::Work,
};
use request::{Answer, ImageRequest};

pub(crate) fn routes() -> Router<Arc<App>> {
    let options =
        async || (StatusCode::NO_CONTENT, [(header::ALLOW, HeaderValue::from_static("POST, OPTIONS"))]);
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{id}", get(model))
        .route("/v1/images/generations", axum::routing::post(generations).options(options))
        .route("/v1/images/edits", axum::routing::post(edits::edits).options(options))
}

fn described(id: &str, created: u64) -> Value {
    json!({ "id": id, "object": "model", "created": created, "owned_by": "sdq" })
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn created(listed: &crate::models::Listed) -> u64 {
    let modified = listed.path.as_deref().and_then(|path| path.metadata().ok()?.modified().ok());
    modified.map_or(0, seconds)
}

async fn models(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    blocking(move || {
        let data: Vec<Value> =
            app.models.list().iter().map(|listed| described(&listed.id, created(listed))).collect();
        Ok(Json(json!({ "object": "list", "data": data })))
    })
    .await
}

async fn model(State(app): State<Arc<App>>, Path(id): Path) -> Result<Json<Value>, Problem> {
    blocking(move || {
        let listed = app.models.get(Some(&id))?;
        Ok(Json(described(&listed.id, created(&listed))))
    })
    .await
}

async fn generations(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let asked: ImageRequest = body::json(&app, body).await?;
    let (request, answer) = asked.to_draw()?;
    let model = asked.model(&app)?;
    draw(app, model, request, answer, &headers, "image_generation").await
}

/// Draws, and answers at once when all pictures are there, or with a stream of partial ones.
async fn draw(
    app: Arc<App>,
    model: Option<String>,
    request: DrawRequest,
    answer: Answer,
    headers: &HeaderMap,
    events: &'static str,
) -> Result<Response, Problem> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.map_or_else(|| app.address.to_string(), str::to_owned);
    let streams = answer.partial_images.is_some();
    let call = Call::start(&app, model, request).await?;
    if streams {
        return stream::stream(app, call, answer, events);
    }
    let job = call.end().await?;
    blocking(move || {
        let ids = &job.entry.pictures;
        let data = match answer.is_url {
            true => ids.iter().map(|id| json!({ "url": format!("http://{host}{}", url(id)) })).collect(),
            false => files(&app, ids)
                .iter()
                .map(|path| Ok(json!({ "b64_json": to_base64(&std::fs::read(path).map_err(|_| Problem::internal())?) })))
                .collect::<Result<Vec<_>, Problem>>()?,
        };
        let size = ids.first().and_then(|id| app.store.describe(id));
        let Work::Generate { request } = &job.entry.work else { return Err(Problem::internal()) };
        let body = json!({
            "created": seconds(SystemTime::now()),
            "data": data,
            "background": "opaque",
            "output_format": output_format(request),
            "quality": "auto",
            "size": size.map(|picture| format!("{}x{}", picture.width, picture.height)),
            "usage": usage(),
        });
        Ok(Json(body).into_response())
    })
    .await
}

/// OpenAI's name of the pictures' format.
fn output_format(request: &DrawRequest) -> &'static str {
    match request.format.unwrap_or_default().ending() {
        "jpg" => "jpeg",
        other => other,
    }
}

/// Nothing is paid for here.
fn usage() -> Value {
    json!({
        "total_tokens": 0, "input_tokens": 0, "output_tokens": 0,
        "input_tokens_details": { "text_tokens": 0, "image_tokens": 0 },
    })
}
